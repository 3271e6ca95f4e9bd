"""Operators whose lowering was entered from outside of treadle.

The digest of treadle's own sources does not cover that code, so a graph that holds one has no key: it is compiled anew
in each process (its kernels, which are known by their equations, are not). A module of its own, so that a process which
finds its graphs in the store need not import the lowerings.
"""

from __future__ import annotations

OWN = __name__.split(".")[0] + "."
FOREIGN: set[str] = set()


def note_origin(function: object, name: str) -> None:
    """Remember an operator whose lowering is not treadle's own."""
    module = getattr(getattr(function, "func", function), "__module__", OWN)
    if not f"{module}.".startswith(OWN):
        FOREIGN.add(name)
