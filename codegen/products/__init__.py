"""Kernels that are sums of products as register tiles.

find    which kernels they are, and what their axes are to the tiles
bits    values that follow from single bits of memory
groups  short groups of a sum
narrow  products that one instruction adds up in groups
blocks, packs, rest, body, tiles   tiles whose lanes run along the sum
panel, panel_rows, panel_results   tiles whose lanes are rows
matrix  panels whose products are those of tile registers
dynamic rows whose count is known at run time only
builders  which of these a kernel gets
linked, linked_build, linked_values, linked_report   sums weighted by what is computed of other sums of products
"""

from .bits import join_bits
from .builders import make_builders
from .find import Products, delay_scales, find_products, find_sums, has_products, sum_of
from .groups import join_groups
from .linked import find_linked, is_linked, may_link, runs_apart
from .linked_report import describe_linked
from .linked_values import make_linked
from .matrix import MatrixUnit
from .ragged import store_rest
from .tiles import ProductBuilder

__all__ = [
    "MatrixUnit", "ProductBuilder", "Products", "delay_scales", "describe_linked", "find_linked", "find_products",
    "find_sums", "has_products", "is_linked", "join_bits", "join_groups", "make_builders", "make_linked", "may_link",
    "runs_apart", "store_rest", "sum_of",
]  # fmt: skip
