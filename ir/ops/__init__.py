"""The graph op table: one row per op. `OPS[name]` holds an op's type rule, meaning and lowering."""

from __future__ import annotations

from . import calls, contractions, indexing, pointwise, ragged, reductions, views
from .row import OpRow

OPS: dict[str, OpRow] = {
    row.name: row
    for table in (calls, pointwise, views, reductions, contractions, ragged, indexing)
    for row in table.ROWS
}

__all__ = ["OPS", "OpRow"]
