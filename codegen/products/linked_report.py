"""What is said of a kernel of linked sums: which blocks a condition of positions leaves out, or why none."""

from __future__ import annotations

from ...ir.expr import Expr, Op, data_in, loads_in, walk
from ...ir.index import Index, axis_coefficient, substitute
from ...ir.loops import Kernel
from ...ir.spans import as_comparisons, conjuncts
from ..tiling_prepare import prepare
from .find import extent_of
from .linked import Linked, find_linked, may_link
from .linked_values import make_linked

LANES = 16


def describe_linked(kernel: Kernel, lanes: int = LANES) -> tuple[str, ...]:
    """Lines on a kernel, for packs of `lanes`; none where no sums of it are linked."""
    found = find_linked(prepare(kernel, 0)) if may_link(kernel) else None
    if found is None:
        return ()
    made = make_linked(found, lanes, False)
    size = f"{extent_of(found.rows)} x {extent_of(found.along)}"
    first = f"stream: {len(found.scores)} x {size} values stay in blocks of {made.height} x {made.block}"
    if made.skip is None:
        return (first, f"no skip: {_why_none(found)}")
    share = _share_left_out(found, lanes)
    if share is None:
        return (first, "no skip: no bounds follow from its condition")
    kinds = ", ".join(_kinds(made.skip.condition, found)) or "a condition of positions"
    where = " where the statistics of all rows are finite" if made.skip.guards else ""
    return (first, f"skip: {share:.0%} of the blocks are left out{where} ({kinds})")


def _why_none(found: Linked) -> str:
    conditions = [e.args[0] for e in walk(*found.values) if isinstance(e, Op) and e.name == "where"]
    conditions = [c for c in conditions if found.along in c.axes]
    if not conditions:
        return "no condition is in its values"
    if all(any(True for _ in loads_in(c)) for c in conditions):
        return "data decide where values are not 0"
    return "its values need not be 0 where a condition does not hold"


def _share_left_out(found: Linked, lanes: int) -> float | None:
    """The part of the blocks that is not computed; None where nothing bounds them."""
    made = make_linked(found, lanes, False)
    span, count, computed = made.span, extent_of(found.along), 0
    if span.first is None and span.end is None:
        return None
    blocks = range(extent_of(made.blocks))
    for k in blocks:
        first, end = (None if i is None else substitute(i, {made.blocks: Index((), k)}) for i in (span.first, span.end))
        if not all(i is None or (isinstance(i.const, int) and not i.terms) for i in (first, end)):
            return None
        low = 0 if first is None or not isinstance(first.const, int) else max(first.const, 0) // made.block
        high = count if end is None or not isinstance(end.const, int) else min(max(end.const, 0), count)
        computed += max(-(-high // made.block) - low, 0)
    return 1 - computed / (len(blocks) * -(-count // made.block))


def _kinds(condition: Expr, found: Linked) -> list[str]:
    """Names of what the parts of a condition are, for row i and point j of what the sums run along."""
    kinds: list[str] = []
    for part in conjuncts(condition):
        for name, difference in as_comparisons(part):
            row, point = (axis_coefficient(difference, a) for a in (found.rows, found.along))
            if any(True for _ in data_in(difference)) or not isinstance(difference.const, int):
                continue
            below = (name == "lt") == (point == 1)  # a bound from above
            if row == 0 and point in (1, -1):
                kinds.append("prefix" if below else "suffix")
            elif point in (1, -1) and row == -point:
                far = -difference.const - 1 if name == "lt" else difference.const  # from the diagonal
                kinds.append("causal" if not far else f"{far} ahead" if below else f"window of {far + 1}")
    return sorted(kinds)
