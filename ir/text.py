"""Text of the IR: printers and parsers of graphs and loops kernels. What is printed is read back as the same object.

The formats are shown in `ir.text_graph` and `ir.text_loops`. Tile programs have theirs in `ir.text_tiles` and
`ir.text_tiles_read`, which no compilation needs to import.
"""

from __future__ import annotations

from .text_expr import ExprReader
from .text_graph import parse_graph, print_graph
from .text_loops import print_kernel
from .text_loops_read import parse_kernel
from .text_tokens import Cursor
from .types import Dim

__all__ = ["parse_dim", "parse_graph", "parse_kernel", "print_graph", "print_kernel"]


def parse_dim(text: str) -> Dim:
    """What `str(dim)` printed: names, integers, + - * / **, floor, ceiling, Mod, Max, Min. Raises ParseError."""
    cursor = Cursor(text)
    dim = ExprReader(cursor).dim()
    if cursor.peek().kind != "end":
        cursor.fail("unexpected text after the size", "the end")
    return dim
