"""From a kernel and loop choices to a tile program: what runs where, neutral of target.

plan    = make_plan(prepare(kernel))            which axes are shared, which statements make one pass
program = build_program(plan, choices)       the loops, the running values, the scratch rows
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..ir.expr import Expr, Load, Rewriter, const, loads_in
from ..ir.index import Axis, Index, of_atom
from ..ir.loops import Equation, Kernel, Store, statement_expressions
from ..ir.scalar import op
from ..ir.tiles import Loop, Program, Put, Scratch, Statement
from ..ir.types import Dim, DType, plus, product
from .products import (
    MatrixUnit,
    ProductBuilder,
    Products,
    find_linked,
    find_products,
    join_bits,
    join_groups,
    make_builders,
    make_linked,
    may_link,
    store_rest,
)
from .tiling_jam import JamBuilder, find_jam
from .tiling_keep import KEPT_BYTES, WORTH_KEEPING, may_move, recompute
from .tiling_nest import NestBuilder, map_statement, quotient
from .tiling_plan import Block, Nest, Part, estimate, expression_cost, make_plan
from .tiling_prepare import prepare
from .tiling_stage import CACHE_LINE, StageLoops, Staging, choose_shape, find_staging, stage_scratch

STREAMED_BYTES = 1 << 16  # smaller outputs stay in the caches
POINTS_CHUNK = 16384  # points of one piece of a kernel that has a single axis


@dataclass(frozen=True, slots=True)
class Choices:
    """The loop choices of a schedule.

    lanes   points of one pack              unroll  packs of one tile
    rows    rows that a column reduction joins before it adds them to its accumulators
    chunk   columns whose accumulators are kept at once
    stream  outputs bypass the caches       prefetch  bytes ahead of the loads, 0: none
    cut     lanes loops are cut where conditions on their axis change
    blocks  long sums are added up in blocks, each in an accumulator of its own
    jam     points whose windows overlap are computed several at once
    tiles   sums of products run as register tiles
    pairs   the target adds two products of bf16 at once; quads: four of bytes
    matrix  the tile registers that sums of products run on; None: on vectors
    """

    lanes: int
    unroll: int = 4
    rows: int = 8
    chunk: int = 4096
    stream: bool = False
    prefetch: int = 0
    stage: bool = True
    cut: bool = True
    blocks: bool = True
    jam: bool = False
    tiles: bool = False
    pairs: bool = False
    quads: bool = False
    matrix: MatrixUnit | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """A prepared kernel, its loop structure, and the equations as they were written."""

    kernel: Kernel
    parts: tuple[Part, ...]
    maths: tuple[str, ...]


def plan_kernel(
    kernel: Kernel, keep: str = "auto", shares_lanes: bool = True, resident: int | None = None,
    apart: frozenset[str] = frozenset(), *, links: bool = False,
) -> Planned:  # fmt: skip
    """`keep` is "all", "none", or "auto": which pointwise values are kept for other passes, not computed again.

    `shares_lanes` and `apart` as for `make_plan`, `resident` as for `prepare`. `links`: sums that are linked run in
    one pass.
    """
    prepared = prepare(kernel, resident)
    if links and may_link(kernel):
        whole = prepare(kernel, 0)
        prepared = prepared if find_linked(whole) is None else whole
    parts = make_plan(prepared, shares_lanes, apart)
    if keep != "all" and any(isinstance(s, Equation) and s.is_pointwise for s in prepared.body):
        builder = Builder(prepared, parts, Choices(1))
        again = [e for e in prepared.body if isinstance(e, Equation) and builder.is_computed_again(e, keep)]
        if again:
            prepared = recompute(prepared, lambda e: any(e.names == a.names for a in again))
            parts = make_plan(prepared, shares_lanes, apart)
    return Planned(prepared, parts, tuple(describe(s) for s in kernel.body))


def build_program(planned: Planned, choices: Choices) -> Program:
    """The tile program of a planned kernel."""
    k = planned.kernel
    linked = find_linked(k) if choices.tiles and choices.lanes > 1 else None
    if linked is not None:
        maker = make_linked(linked, choices.lanes, choices.pairs)
        body = tuple(maker.build())
        return Program(
            k.name, k.inputs, k.outputs, tuple(maker.scratch.values()), body, planned.maths, choices.prefetch
        )
    made = _make_builders(find_products(k, choices.lanes) if choices.tiles else None, choices)
    if made:
        tiled = (*store_rest(made[0].found, choices.lanes), *(s for b in made for s in b.build()))
        arrays = tuple(a for b in made for a in b.scratch.values())
        ahead = 0 if all(b.fetches for b in made) else choices.prefetch
        return Program(k.name, k.inputs, k.outputs, arrays, tiled, planned.maths, ahead)
    builder = Builder(planned.kernel, planned.parts, choices)
    body = [s for p in planned.parts for s in builder.build(p, frozenset(), root=True)]
    return Program(
        k.name, k.inputs, k.outputs, tuple(builder.scratch.values()), tuple(body), planned.maths, choices.prefetch
    )


def _make_builders(found: Products | None, choices: Choices) -> list[ProductBuilder]:
    if found is None:
        return []
    found = join_groups(join_bits(found), choices.lanes)
    return make_builders(found, choices.lanes, choices.pairs, choices.quads, choices.matrix)


def describe(s: Equation | Store) -> str:
    """The statement as mathematics, on one line."""
    if isinstance(s, Store):
        place = f"{s.buffer}[{', '.join(map(str, s.index))}]"
        sign = {"set": "=", "add": "+=", "mul": "*="}.get(s.mode, f"{s.mode}=")
        return f"{place} {sign} {s.value}{'' if s.guard is None else f' if {s.guard}'}"
    names = ", ".join(f"{n}[{', '.join(map(str, s.axes))}]" for n in s.names if n != "_")
    over = f"({', '.join(map(str, s.reduce))}) " if s.state else ""
    scan = f"{'reverse ' if s.reverse else ''}{s.scan} " if s.scan else ""
    return f"{names} = {scan}{s.state}{over}{', '.join(map(str, s.args[:1]))}"


class Builder:
    """Places the local values of a kernel and builds the statements of a plan's parts."""

    def __init__(self, kernel: Kernel, parts: tuple[Part, ...], choices: Choices) -> None:
        self.kernel = kernel
        self.choices = choices
        self.scratch: dict[str, Scratch] = {}
        self.chunks: dict[int, tuple[Axis, int]] = {}  # block (its id) -> (the axis of the chunks, points of a chunk)
        self._paths: dict[int, tuple[Block, ...]] = {}
        self._nests: dict[int, Nest] = {}
        self._find_paths(parts, ())
        self._readers = self._find_readers()
        self._private: dict[int, tuple[Axis, ...]] = {}

    # --- where local values live ---------------------------------------------------------------------------------

    def _find_paths(self, parts: Iterable[Part], path: tuple[Block, ...]) -> None:
        for p in parts:
            if isinstance(p, Block):
                self._find_paths(p.body, (*path, p))
                continue
            for k in p.members:
                self._paths[k], self._nests[k] = path, p

    def _find_readers(self) -> dict[str, list[int]]:
        readers: dict[str, list[int]] = {}
        for k, s in enumerate(self.kernel.body):
            for name in dict.fromkeys(e.name for e in loads_in(*statement_expressions(s))):
                readers.setdefault(name, []).append(k)
        return readers

    def _position(self, e: Equation) -> int:
        return next(k for k, s in enumerate(self.kernel.body) if s is e)

    def private_axes(self, e: Equation) -> tuple[Axis, ...]:
        """The axes of `e` over which its values must be kept for readers in other nests."""
        k = self._position(e)
        if k not in self._private:
            passing = e.is_pointwise or bool(e.scan)
            outside = {
                r
                for n in e.names
                for r in self._readers.get(n, [])
                if not (passing and self._nests[r] is self._nests[k])
            }
            shared = set(self._paths[k])
            for r in outside:
                shared &= set(_common(self._paths[k], self._paths[r]))
            bound = {a for b in shared for a in b.axes}
            self._private[k] = tuple(a for a in e.axes if a not in bound) if outside else ()
        return self._private[k]

    def is_computed_again(self, e: Equation, keep: str) -> bool:
        """True for a pointwise value that other nests read, where keeping it costs more than computing it."""
        if not e.is_pointwise or not self.private_axes(e) or not may_move(self.kernel, e):
            return False
        size = e.dtypes[0].compute.itemsize
        lanes = {b.lanes for b in self._around(e)}
        for a in self.private_axes(e):
            size *= min(estimate(a.extent), self.choices.chunk) if a in lanes else estimate(a.extent)
        return keep == "none" or size > KEPT_BYTES or expression_cost(*e.args) < WORTH_KEEPING

    def is_stored(self, name: str) -> bool:
        """True when a value is kept in a scratch array of its own for readers in other nests."""
        e = self.kernel.equations.get(name)
        return e is not None and bool(self.private_axes(e)) and not self._is_column(e)

    def _is_column(self, e: Equation) -> bool:
        """True for reductions whose running values are kept per lane: they stay where they were built."""
        nest = self._nests[self._position(e)]
        return bool(e.state) and not e.scan and nest.lanes is not None and nest.lanes in e.axes

    def scratch_index(self, e: Equation, axes: tuple[Axis, ...]) -> tuple[Index, ...]:
        """Where the value at the current point stands in a scratch array over some axes of `e`."""
        return tuple(self._within_chunk(of_atom(a), a, e) for a in axes)

    def keep(self, e: Equation, name: str, dtype: DType) -> Put:
        """Writes a value of `e` where other nests find it."""
        axes = self.private_axes(e)
        self.add_scratch(f"{name}_all", dtype, e, axes)
        return Put(f"{name}_all", self.scratch_index(e, axes), Load(name, (), dtype))

    def _around(self, e: Equation) -> tuple[Block, ...]:
        """The blocks around an equation and all who read it."""
        around = self._paths[self._position(e)]
        for r in {r for n in e.names for r in self._readers.get(n, [])}:
            around = _common(around, self._paths[r])
        return around

    def _within_chunk(self, i: Index, axis: Axis, e: Equation) -> Index:
        chunk = self._chunk_of(axis, e)
        return i if chunk is None else i - of_atom(chunk[0]) * chunk[1]

    def _chunk_of(self, axis: Axis, e: Equation) -> tuple[Axis, int] | None:
        """The chunks of `axis`, where all readers of `e` are inside the same chunk."""
        return next((self.chunks[id(b)] for b in self._around(e) if b.lanes is axis and id(b) in self.chunks), None)

    def add_scratch(self, name: str, dtype: DType, e: Equation, axes: tuple[Axis, ...]) -> None:
        shape: list[Dim] = []
        for a in axes:
            chunk = self._chunk_of(a, e)
            shape.append(a.extent if chunk is None else chunk[1])
        self.scratch[name] = Scratch(name, dtype, tuple(shape))

    # --- expressions ---------------------------------------------------------------------------------------------

    def local(self, e: Expr, nest: Nest) -> Expr:
        """The expression with its local values read from where they live for statements of `nest`."""
        return self._rewriter(nest)(e)

    def local_index(self, i: Index, nest: Nest) -> Index:
        return self._rewriter(nest).index(i)

    def _rewriter(self, nest: Nest) -> Rewriter:
        def load(e: Load) -> Expr:
            equation = self.kernel.equations.get(e.name)
            return e if equation is None else self._read_local(e, equation, nest)

        return Rewriter(load=load)

    def _read_local(self, e: Load, equation: Equation, nest: Nest) -> Expr:
        passing = (equation.is_pointwise or equation.scan) and self._nests[self._position(equation)] is nest
        if passing or not (self._is_column(equation) or self.private_axes(equation)):
            value = Load(e.name, (), e.dtype)
            return value if e.guard is None else op("where", e.guard, value, const(0, e.dtype))
        kept, name = self.private_axes(equation), f"{e.name}_all"
        if self._is_column(equation):
            lanes = self._nests[self._position(equation)].lanes
            kept, name = tuple(a for a in equation.axes if a in kept or a is lanes), e.name
        at = dict(zip(equation.axes, e.index, strict=True))
        return Load(name, tuple(self._within_chunk(at[a], a, equation) for a in kept), e.dtype, e.guard)

    # --- parts ---------------------------------------------------------------------------------------------------

    def build(self, part: Part, bound: frozenset[Axis], root: bool) -> list[Statement]:
        if isinstance(part, Nest):
            return NestBuilder(self, part, self._limits(part)).build()
        jam = find_jam(self.kernel, part, self.choices.lanes) if root and self.choices.jam else None
        if jam is not None:
            return JamBuilder(self, part, jam).build()
        staging = find_staging(self.kernel, part, self.choices.lanes) if root and self.choices.stage else None
        if staging is not None:
            return self._build_staged(part, staging)
        chunk = self._make_chunks(part) if root else None
        body: list[Statement] = [s for p in part.body for s in self.build(p, bound | set(part.axes), root=False)]
        ragged = [a for a in part.axes if a.is_ragged]  # which a grid, that has all points of its axes, cannot be over
        whole = [a for a in (*part.axes, chunk) if a is not None and not a.is_ragged]
        for axis in (*whole, *ragged)[::-1]:
            kind = "grid" if root and not axis.is_ragged else "serial"
            body = [Loop(kind, axis, tuple(body))]
        return body

    def _build_staged(self, block: Block, staging: Staging) -> list[Statement]:
        lanes = self.choices.lanes
        shape = choose_shape(self.kernel, block, staging, lanes, self.choices.stream)
        arrays = stage_scratch(staging, shape, lanes)
        self.scratch.update({s.name: s for s in arrays.values()})
        loops = StageLoops(staging, shape, lanes)
        nest = block.body[0]
        assert isinstance(nest, Nest)
        rewrite = loops.read_staged(arrays)
        point = [map_statement(s, rewrite) for s in NestBuilder(self, nest, (None, None)).point()]
        return loops.build(block, arrays, tuple(point))

    def _limits(self, nest: Nest) -> tuple[Index | None, Index | None]:
        around = self._paths[nest.members[0]]
        chunk = next((self.chunks[id(b)] for b in around if b.lanes is nest.lanes and id(b) in self.chunks), None)
        if chunk is None:
            return None, None
        start = of_atom(chunk[0]) * chunk[1]
        return start, start + chunk[1]

    def _make_chunks(self, block: Block) -> Axis | None:
        """The axis of the chunks that the block's lanes are cut into: so that scratch rows stay in the nearest
        cache.
        """
        if block.lanes is None:
            return None
        columns = self._has_columns(block)
        if not columns and block.axes:
            return None
        points = self.choices.chunk if columns else POINTS_CHUNK
        extent = block.lanes.extent
        if isinstance(extent, int) and extent < 2 * points:
            return None
        axis = Axis(f"{block.lanes.name}_c", quotient(plus(extent, points - 1), points))
        self.chunks[id(block)] = (axis, points)
        return axis

    def _has_columns(self, block: Block) -> bool:
        """True when something is kept per lane from one nest or point to the next."""
        inside = [k for k, path in self._paths.items() if block in path]
        equations = [s for s in (self.kernel.body[k] for k in inside) if isinstance(s, Equation)]
        return any(e.state or block.lanes in self.private_axes(e) for e in equations)

    def tile_of(self, lanes: Axis, nest: Nest) -> int:
        """Points of a tile: as many packs as are wanted and fit, and whole cache lines where stores are streamed."""
        statements = [self.kernel.body[k] for k in nest.members]
        alone = any(isinstance(s, Equation) and s.state and lanes in s.axes for s in statements)
        unroll = 1 if alone else self.choices.unroll
        sizes = [
            self.kernel.buffers[s.buffer].dtype.itemsize for s in statements if isinstance(s, Store) and self.streams(s)
        ]
        if sizes:
            unroll = max(unroll, CACHE_LINE // (min(sizes) * self.choices.lanes))
        while unroll > 1 and isinstance(lanes.extent, int) and unroll * self.choices.lanes > lanes.extent:
            unroll //= 2
        return unroll * self.choices.lanes

    def streams(self, s: Store) -> bool:
        """True for stores of large outputs that are written once."""
        size = product([*(a.extent for a in s.axes), self.kernel.buffers[s.buffer].dtype.itemsize])
        small = isinstance(size, int) and size < STREAMED_BYTES
        return self.choices.stream and s.injective and s.mode == "set" and not small


def _common(a: tuple[Block, ...], b: tuple[Block, ...]) -> tuple[Block, ...]:
    """The blocks around both."""
    n = 0
    while n < min(len(a), len(b)) and a[n] is b[n]:
        n += 1
    return a[:n]
