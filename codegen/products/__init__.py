"""Kernels that are sums of products as register tiles.

find    which kernels they are, and what their axes are to the tiles
bits    values that follow from single bits of memory
groups  short groups of a sum
narrow  products that one instruction adds up in groups
blocks, packs, rest, body, tiles   tiles whose lanes run along the sum
panel, panel_rows, panel_results   tiles whose lanes are rows
dynamic rows whose count is known at run time only
"""

from .bits import join_bits
from .find import Products, delay_scales, find_products, find_sums, has_products, sum_of
from .groups import join_groups
from .panel import make_builders
from .ragged import store_rest

__all__ = [
    "Products", "delay_scales", "find_products", "find_sums", "has_products", "join_bits", "join_groups",
    "make_builders", "store_rest", "sum_of",
]  # fmt: skip
