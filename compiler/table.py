"""The decomposition table, remembered: which of torch's entries treadle leaves in.

Choosing them needs all lowerings; a process that finds its graphs in the store should not import these only to learn
what another process learned before. The names are stored under the digest of treadle's sources and torch's version.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import _decomp

from .collection import pause_collection
from .frontend.foreign import FOREIGN
from .graph_key import digest_sources
from .runtime.store import Store, make_key

TABLE = "table"  # kind of the store's entries

Table = dict[Any, Callable[..., Any]]


def find_decompositions(store: Store) -> Table:
    """The table for AOTAutograd. Lowerings entered from outside of treadle change it, so it is then made anew."""
    with pause_collection():
        return _choose_decompositions() if FOREIGN else _recall_decompositions(store)


@cache
def _recall_decompositions(store: Store) -> Table:
    key = make_key("decompositions", digest_sources(store), str(torch.__version__))
    known = store.get_json(TABLE, key)
    if known is None:
        table = _choose_decompositions()
        store.put_json(TABLE, key, sorted(map(str, table)))
        return table
    names = set(known)
    return {op: function for op, function in list_decompositions().items() if str(op) in names}


def list_decompositions() -> Table:
    """torch's own table, without the composite ops that AOTAutograd takes apart anyway: listing these costs 0.3 s."""
    build = getattr(_decomp, "_core_aten_decompositions_post_autograd", _decomp.core_aten_decompositions)
    return build()


def _choose_decompositions() -> Table:
    table: Table = import_module(".frontend.decompositions", __package__).build_decompositions()
    return table
