"""Which builders a kernel of sums of products gets."""

from __future__ import annotations

from .find import Products
from .matrix import MatrixUnit, make_matrix
from .panel import PanelBuilder, fits_panels
from .tiles import ProductBuilder, few_for


def make_builders(
    found: Products, lanes: int, pairs: bool = False, quads: bool = False, matrix: MatrixUnit | None = None
) -> list[ProductBuilder]:  # fmt: skip
    """Those that build the statements of a kernel, one after the other: panels leave the last few rows to tiles where
    their count is known at run time only. None: it is better computed as any other sum.

    matrix  tile registers, for what fits them
    """
    tiles = None if matrix is None else make_matrix(found, lanes, matrix)
    if tiles is not None:
        return [tiles]
    if not fits_panels(found, lanes):
        return [] if found.across else [ProductBuilder(found, lanes, pairs, quads)]
    if _are_few(found, lanes):
        return [ProductBuilder(found, lanes, pairs, quads, after_panels=True)]
    panels = PanelBuilder(found, lanes, pairs, quads)
    if not panels.rows.dynamic:
        return [panels]
    return [panels, ProductBuilder(found, lanes, pairs, quads, after_panels=True)]


def _are_few(found: Products, lanes: int) -> bool:
    """True for groups that have no rows for a panel, whatever their ends are."""
    most = None if found.ragged is None else found.ragged.rows.extent
    return isinstance(most, int) and most <= few_for(lanes)
