"""The rules of the loops level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from .errors import VerifyError
from .expr import Expr, Load, Op, data_in, indices, walk
from .index import Axis, Index, axes_of, bounds, is_affine
from .loops import Equation, Kernel, Statement, Store, statement_expressions
from .scalar import result_dtype
from .states import STATES
from .text_tokens import is_name
from .types import BOOL, I64, Dim, DType, is_nonnegative, multiply, plus, product
from .verify_rules import Problem, Rule

MODES = ("set", "add", "mul", "max", "min")


def _where(s: Statement) -> str:
    return f"store to {s.buffer}" if isinstance(s, Store) else f"equation {', '.join(s.names)}"


def _all_axes(kernel: Kernel) -> Iterator[Axis]:
    """Every axis that occurs anywhere, bounds of ragged ones included."""
    for s in kernel.body:
        yield from s.domain
        yield from _axes_read(s)
        for a in s.domain:
            yield from _bound_axes(a)


def _axes_read(s: Statement) -> frozenset[Axis]:
    found: frozenset[Axis] = frozenset().union(*(e.axes for e in statement_expressions(s)))
    return found if isinstance(s, Equation) else found.union(*(axes_of(i) for i in s.index))


def _bound_axes(a: Axis) -> frozenset[Axis]:
    return frozenset().union(*(e.axes for e in (a.begin, a.end) if e is not None))


def _read(s: Statement) -> Iterator[Expr]:
    """Every expression that a statement evaluates, with the bounds of its axes."""
    bounds_of = (e for a in s.domain for e in (a.begin, a.end) if e is not None)
    return walk(*statement_expressions(s), *bounds_of)


# --- names and axes ----------------------------------------------------------------------------------------------


def _names_are_names(kernel: Kernel) -> Iterator[Problem]:
    for name in (*kernel.buffers, *kernel.equations, *(a.name for a in kernel.axes)):
        if not is_name(name):
            yield Problem(name, "not a name of the IR's text", "letters, digits and _, no keyword", repr(name))
    for name in kernel.symbols:
        if any(a.name == name for a in kernel.axes):
            yield Problem(name, "a size and an axis share a name")


def _names_are_unique(kernel: Kernel) -> Iterator[Problem]:
    for side in (kernel.inputs, kernel.outputs):
        for name, count in Counter(b.name for b in side).items():
            if count > 1:
                yield Problem(name, "a buffer is listed twice", 1, count)
    outputs = {b.name: b for b in kernel.outputs}
    for b in kernel.inputs:
        if outputs.get(b.name, b) != b:
            yield Problem(b.name, "a buffer updated in place has one description", b, outputs[b.name])
    defined = Counter(n for s in kernel.body if isinstance(s, Equation) for n in s.names if n != "_")
    for name, count in defined.items():
        if count > 1 or name in kernel.buffers:
            yield Problem(name, "a name has one definition", 1, count + (name in kernel.buffers))


def _axes_have_one_extent(kernel: Kernel) -> Iterator[Problem]:
    seen: dict[str, Axis] = {}
    for a in _all_axes(kernel):
        if seen.setdefault(a.name, a) is not a:
            yield Problem(f"axis {a.name}", "one name, two axes", repr(seen[a.name]), repr(a))
        if isinstance(a.extent, int) and a.extent < 0:
            yield Problem(f"axis {a.name}", "a negative extent", got=a.extent)
    for b in kernel.buffers.values():
        if len(b.strides) != len(b.shape):
            yield Problem(b.name, "one stride per dimension", len(b.shape), len(b.strides))


def _axes_are_kept_or_reduced(kernel: Kernel) -> Iterator[Problem]:
    for s in kernel.body:
        if len(set(s.domain)) != len(s.domain):
            yield Problem(_where(s), "an axis is listed twice", got=_axes_text(s.domain))
        stray = (_axes_read(s) | frozenset().union(*(_bound_axes(a) for a in s.domain))) - set(s.domain)
        if stray:
            yield Problem(
                _where(s), "an axis that is neither kept nor reduced", _axes_text(s.domain), _axes_text(stray)
            )


def _axes_text(axes: Iterable[Axis]) -> str:
    return ", ".join(sorted(a.name for a in axes)) or "no axes"


# --- loads -------------------------------------------------------------------------------------------------------


def _loads_are_of_what_is_known(kernel: Kernel) -> Iterator[Problem]:
    known: dict[str, tuple[int, DType]] = {b.name: (len(b.shape), b.dtype) for b in kernel.inputs}
    for s in kernel.body:
        for e in _read(s):
            if isinstance(e, Load):
                yield from _load_fits(e, known, _where(s))
        if isinstance(s, Store):
            b = kernel.buffers.get(s.buffer)
            known.update({} if b is None else {b.name: (len(b.shape), b.dtype)})
        else:
            known.update({n: (len(s.axes), d) for n, d in zip(s.names, s.dtypes, strict=False)})


def _load_fits(e: Load, known: dict[str, tuple[int, DType]], where: str) -> Iterator[Problem]:
    if e.name not in known:
        yield Problem(where, "a load of what is not defined before", ", ".join(known), e.name)
        return
    rank, dtype = known[e.name]
    if len(e.index) != rank:
        yield Problem(where, f"one index per dimension of {e.name}", rank, len(e.index))
    if e.dtype is not dtype:
        yield Problem(where, f"a load of {e.name} in another type", dtype, e.dtype)
    if e.guard is not None and e.guard.dtype is not BOOL:
        yield Problem(where, f"the guard of a load of {e.name} is not bool", BOOL, e.guard.dtype)


def _indices_are_in_range(kernel: Kernel) -> Iterator[Problem]:
    """Unguarded indices that provably leave the shape; what data and ragged axes decide is left to the kernel."""
    shapes: dict[str, tuple[Dim, ...]] = {b.name: b.shape for b in kernel.buffers.values()}
    shapes |= {n: tuple(a.extent for a in s.axes) for n, s in kernel.equations.items()}
    for s in kernel.body:
        if any(a.extent == 0 for a in s.domain):
            continue
        for e in walk(*statement_expressions(s)):
            if isinstance(e, Load) and e.guard is None:
                yield from _leaves(e.name, e.index, shapes[e.name], _where(s))
        if isinstance(s, Store) and s.guard is None:
            yield from _leaves(s.buffer, s.index, shapes[s.buffer], _where(s))


def _leaves(name: str, index: tuple[Index, ...], shape: tuple[Dim, ...], where: str) -> Iterator[Problem]:
    for i, size in zip(index, shape, strict=True):
        reached = is_affine(i) and all(a.begin is None and a.end is None for a in axes_of(i))
        yield from index_leaves(name, i, size, reached, where)


def index_leaves(name: str, i: Index, size: Dim, reached: bool, where: str) -> Iterator[Problem]:
    """An index that is provably outside of 0 .. size-1: with a limit that is reached, or with all of its values."""
    low, high = bounds(i)
    below = is_nonnegative(plus(multiply(low if reached else high, -1), -1))
    above = is_nonnegative(plus(high if reached else low, multiply(size, -1)))
    if below or above:
        yield Problem(where, f"the index {i} of {name} leaves the shape", f"0..{plus(size, -1)}", f"{low}..{high}")


# --- types -------------------------------------------------------------------------------------------------------


def _operations_fit(kernel: Kernel) -> Iterator[Problem]:
    for s in kernel.body:
        for e in _read(s):
            if isinstance(e, Op) and e.name != "cast":
                yield from operation_fits(e, _where(s))
            for data in (d for i in indices(e) for d in data_in(i)):
                if data.value.dtype is not I64:
                    yield Problem(_where(s), "an index that is read from data is not i64", I64, data.value.dtype)
        for a in s.domain:
            if any(e is not None and e.dtype is not I64 for e in (a.begin, a.end)):
                yield Problem(f"axis {a.name}", "a bound of an axis is not i64", I64)


def operation_fits(e: Op, where: str) -> Iterator[Problem]:
    try:
        dtype = result_dtype(e.name, e.args)
    except VerifyError as error:
        yield Problem(where, f"{e.name}: {error.problem}", error.expected, error.got)
        return
    if dtype is not e.dtype:
        yield Problem(where, f"the type of {e.name} is not what it gives", dtype, e.dtype)


def _equations_fit(kernel: Kernel) -> Iterator[Problem]:
    for s in kernel.body:
        if isinstance(s, Equation):
            yield from _state_fits(s) if s.state else _pointwise_fits(s)


def _pointwise_fits(s: Equation) -> Iterator[Problem]:
    if s.reduce or s.scan or s.reverse:
        yield Problem(_where(s), "a reduction without a state", "a row of ir.states")
    if (len(s.names), len(s.args), len(s.dtypes)) != (1, 1, 1):
        yield Problem(_where(s), "a pointwise equation has one name, value and type", 1, f"{s.names}, {s.args}")
    elif s.args[0].dtype is not s.dtypes[0]:
        yield Problem(_where(s), "the value has another type", s.dtypes[0], s.args[0].dtype)


def _state_fits(s: Equation) -> Iterator[Problem]:
    row = STATES.get(s.state)
    if row is None:
        yield Problem(_where(s), "unknown state", ", ".join(STATES), s.state)
        return
    if len(s.args) != row.arity:
        yield Problem(_where(s), f"{s.state} takes another number of values", row.arity, len(s.args))
        return
    components = row.dtypes(tuple(a.dtype for a in s.args))
    left, right = (tuple(Load(f"{side}{k}", (), d) for k, d in enumerate(components)) for side in "ab")
    try:
        row.combine(left, right)
        row.combine(row.identity(components), row.lift(s.args))
        dtypes = tuple(e.dtype for e in row.project(left))
    except VerifyError as error:
        yield Problem(_where(s), f"{s.state} does not take these types: {error.problem}", error.expected, error.got)
        return
    if s.dtypes != dtypes or len(s.names) != len(dtypes):
        yield Problem(_where(s), "names and types of the components", dtypes, f"{s.names}: {s.dtypes}")
    yield from _reduction_fits(s)


def _reduction_fits(s: Equation) -> Iterator[Problem]:
    if s.scan:
        if s.scan not in ("inclusive", "exclusive"):
            yield Problem(_where(s), "unknown kind of scan", "inclusive, exclusive", s.scan)
        if len(s.reduce) != 1 or s.reduce[0] not in s.axes:
            yield Problem(
                _where(s), "a scan runs along one axis that is kept", _axes_text(s.axes), _axes_text(s.reduce)
            )
    elif set(s.reduce) & set(s.axes):
        yield Problem(_where(s), "an axis is kept and reduced", got=_axes_text(set(s.reduce) & set(s.axes)))
    if s.reverse and not s.scan:
        yield Problem(_where(s), "only scans run backwards", got=s.state)


# --- stores ------------------------------------------------------------------------------------------------------


def _stores_fit(kernel: Kernel) -> Iterator[Problem]:
    outputs = {b.name: b for b in kernel.outputs}
    for s in kernel.stores:
        b = outputs.get(s.buffer)
        if b is None:
            yield Problem(_where(s), "not an output", ", ".join(outputs), s.buffer)
            continue
        if len(s.index) != len(b.shape):
            yield Problem(_where(s), "one index per dimension", len(b.shape), len(s.index))
        if s.value.dtype is not b.dtype:
            yield Problem(_where(s), "the value has another type", b.dtype, s.value.dtype)
        if s.mode not in MODES:
            yield Problem(_where(s), "unknown mode", ", ".join(MODES), s.mode)
        if s.guard is not None and s.guard.dtype is not BOOL:
            yield Problem(_where(s), "the guard is not bool", BOOL, s.guard.dtype)


def _injective_stores_are(kernel: Kernel) -> Iterator[Problem]:
    for s in kernel.stores:
        told_apart = frozenset().union(*(axes_of(i) for i in s.index), () if s.guard is None else s.guard.axes)
        blind = [a for a in s.axes if a not in told_apart and isinstance(a.extent, int) and a.extent > 1]
        if s.injective and blind:
            yield Problem(
                _where(s), "points along an axis write one element; the store is colliding", got=_axes_text(blind)
            )


def _outputs_are_written(kernel: Kernel) -> Iterator[Problem]:
    given = {b.name for b in kernel.inputs}
    for b in kernel.outputs:
        stores = [s for s in kernel.stores if s.buffer == b.name]
        if b.name in given:
            continue
        if not stores:
            yield Problem(b.name, "an output that no store writes")
            continue
        if stores[0].mode != "set":
            yield Problem(b.name, "accumulates into what was not set before", "a set first", stores[0].mode)
        points, elements = (_total(product(a.extent for a in s.axes) for s in stores)), product(b.shape)
        if isinstance(points, int) and isinstance(elements, int) and points < elements:
            yield Problem(b.name, "the stores cannot cover the output", f"{elements} elements", f"{points} points")


def _total(dims: Iterable[Dim]) -> Dim:
    total: Dim = 0
    for d in dims:
        total = plus(total, d)
    return total


KERNEL_RULES: list[Rule[Kernel]] = [
    Rule("names are names", _names_are_names),
    Rule("names are unique", _names_are_unique),
    Rule("an axis has one extent", _axes_have_one_extent),
    Rule("axes are kept or reduced", _axes_are_kept_or_reduced),
    Rule("stores fit their buffers", _stores_fit),
    Rule("loads are of what is known", _loads_are_of_what_is_known),
    Rule("operations fit their operands", _operations_fit),
    Rule("equations fit their states", _equations_fit),
    Rule("indices are in range", _indices_are_in_range),
    Rule("injective stores are injective", _injective_stores_are),
    Rule("outputs are written", _outputs_are_written),
]
