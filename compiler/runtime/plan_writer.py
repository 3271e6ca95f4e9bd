"""Writes the plan of a fused graph: its Python text, its table of words, its segments.

    x, w = args                                     v1 = _empty((64, 4096), (4096, 1), torch.float32)
    v1 = k0(x)                                      if e := _s0(T, _threads(), x, v1): _fail(0, e)
    v2 = aten.mm.default(v1, w)              ->     torch.mm(v1, w, out=v2)
    v3 = k1(v2)                                     ...
    return v3                                       return [v3]

What differs from call to call is written out and read once; everything else stands in the table and in `views` already.
"""

from __future__ import annotations

import keyword
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ...ir.errors import LoweringError
from ...ir.graph import Node
from ...ir.loops import Buffer
from ...ir.types import Dim, contiguous_strides
from ...passes.fuse import Call, Launch
from ...passes.memory import MemoryPlan, plan_memory
from ...passes.regions import View
from ..frontend.calls import call_source, target_source
from .arena import MOST_IDLE
from .dim_text import dim_text, tuple_text
from .large import LARGE
from .plan import HEADER, Constant, KernelCode, LaunchCode, Plan
from .plan_sizes import solve_sizes
from .plan_values import OUT_CALLS, Values, buffer_bytes, writes_of

TORCH_NAMES = {
    "bool": "bool", "u8": "uint8", "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64",
    "f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64",
}  # fmt: skip
RESERVED = {"args", "arena", "at", "e", "T", "torch", "aten", "ops", "operator", "math", "objects"}
RESERVED |= {"max", "min", "float", "complex", "slice"}
ANY = object()  # a layout: whatever it is
DYNAMIC = ("input", "fresh", "call")  # homes whose address each call sets anew


@dataclass(frozen=True, slots=True)
class Choices:
    """What the plan does not decide itself.

    kernels     the distinct kernels; launches find theirs by digest
    workspaces  bytes that one thread of each kernel needs
    attributes  where the constants are found in the fx module
    threads     a fixed number of threads; 0 for as many as torch uses
    counts      see Plan
    device      where the kernels run
    uncapturable  see Plan
    """

    kernels: tuple[KernelCode, ...]
    workspaces: tuple[Dim, ...] = ()
    attributes: tuple[str, ...] = ()
    threads: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    device: str = "cpu"
    uncapturable: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """A plan, and what the report says about its memory."""

    plan: Plan
    memory: MemoryPlan


def write_plan(values: Values, choices: Choices) -> Written:
    return _Writer(values, choices).write()


class _Writer:
    def __init__(self, values: Values, choices: Choices) -> None:
        self.values = values
        self.graph = values.graph
        self.choices = choices
        self.sizes = solve_sizes(values.inputs, self.variable)
        self.numbers = {k.digest: n for n, k in enumerate(choices.kernels)}
        self.memory = plan_memory(values.lifetimes)
        self.arena = tuple(v.name for v in values.lifetimes)
        self.lines: list[str] = []
        self.words: dict[str, int] = {}  # stored values that kernels use
        self.patched: list[str] = []  # those whose word each call sets, in the order of the words
        self.segments: list[list[Launch]] = []
        self.tensors: dict[str, str] = {}  # names on the arena that calls use, and how `views` makes them
        self.viewed: dict[str, str] = {}  # variables that are views of the caller's or a callee's memory, and of which
        self.starts: list[int] = []
        self.calls_aten = False
        self.alive = {n.name for n in values.inputs}  # variables of the caller's, fresh and callees' memory

    def write(self) -> Written:
        self._steps()
        self._mutations()
        outputs = ", ".join(self._output(o) for o in self.graph.outputs)
        first_size = HEADER + len(self.patched)
        symbols = tuple(self.sizes)
        fixed, constants, words = self._number_fixed(first_size + len(symbols))
        size_words = {s: first_size + k for k, s in enumerate(symbols)}
        parts = [self._measure(), self._views(), *self._calls(outputs)]
        plan = Plan(
            name=self.graph.name,
            text="\n\n".join(parts) + "\n",
            kernels=self.choices.kernels,
            segments=tuple(tuple(self._launch(launch, size_words) for launch in s) for s in self.segments),
            starts=tuple(self.starts),
            words=words,
            symbols=symbols,
            sizes=first_size,
            fixed=fixed,
            constants=constants,
            counts=self.choices.counts,
            device=self.choices.device,
            written=self.values.written,
            uncapturable=self.choices.uncapturable,
        )
        return Written(plan, self.memory)

    # --- names ---------------------------------------------------------------------------------------------------

    def variable(self, name: str) -> str:
        taken = name in RESERVED or keyword.iskeyword(name) or name.startswith("_") or not name.isidentifier()
        clean = "".join(c if c.isalnum() else "_" for c in name)
        return f"t{clean}_" if taken or clean in self.graph.symbols else name

    # --- steps ---------------------------------------------------------------------------------------------------

    def _steps(self) -> None:
        pending: list[tuple[int, Launch]] = []
        for k, step in enumerate(self.values.fused.steps):
            if isinstance(step, Launch):
                pending.append((k, step))
                continue
            self._segment(pending)
            pending = []
            self._call_step(step)
            self._release(k, k)
        self._segment(pending)

    def _release(self, first: int, last: int) -> None:
        """Drop variables that were read for the last time in these steps, and views of them, unless the call ends."""
        if last + 1 == len(self.values.fused.steps):
            return
        uses = self.values.last_use
        ended = sorted(n for n in self.alive if first <= uses.get(n, -1) <= last)
        views = sorted(n for n, memory in self.viewed.items() if memory in ended)
        if ended:
            self.lines.append(f"del {', '.join(map(self.variable, (*views, *ended)))}")
        self.alive.difference_update(ended)
        for n in views:
            del self.viewed[n]

    def _segment(self, pending: list[tuple[int, Launch]]) -> None:
        if not pending:
            return
        launches = [launch for _, launch in pending]
        for launch in launches:
            reads = ", ".join(map(self.variable, launch.reads))
            writes = ", ".join(map(self.variable, writes_of(launch)))
            self.lines.append(f"# {writes} = k{self.numbers[launch.digest]}({reads})")
        for name in (n for launch in launches for n in writes_of(launch)):
            if self.values.homes.get(name) == "fresh":
                self.lines.append(f"{self.variable(name)} = {self._allocation(name)}")
                self.alive.add(name)
        number = len(self.segments)
        given = ", ".join(["T" if self._needs_fit else "0", *self._place(launches)])
        self.lines.append(f"if e := _s{number}({given}): _fail({number}, e)")
        self.segments.append(launches)
        self._release(pending[0][0], pending[-1][0])

    def _allocation(self, name: str) -> str:
        b = self.values.buffer(name)
        size = buffer_bytes(b)
        is_large = isinstance(size, int) and size >= LARGE and self.choices.device == "cpu"
        function = "_large" if is_large else "_empty"
        return f"{function}({tuple_text(b.shape)}, {tuple_text(b.strides)}, {dtype_text(b)})"

    def _place(self, launches: Sequence[Launch]) -> list[str]:
        """The tensors whose words this segment is the first to use; the first segment sets the threads too."""
        names = dict.fromkeys(self.values.memory_of(n) for launch in launches for n in launch.buffers)
        new = [n for n in names if n not in self.words and self.values.homes[n] in DYNAMIC]
        first = not self.segments
        self.starts.append(HEADER + len(self.patched) - first)
        self.words.update({n: HEADER + len(self.patched) + k for k, n in enumerate(new)})
        self.words.update({n: -1 for n in names if n not in self.words})  # numbered when all steps are written
        self.patched += new
        threads = [str(self.choices.threads) if self.choices.threads else "_threads()"] if first else []
        return [*threads, *map(self.variable, new)]

    def _call_step(self, step: Call) -> None:
        self.calls_aten = True
        node = self.graph.by_name[step.node]
        target = node.attr("target")
        layouts = node.attr("layouts") or (ANY,) * len(node.inputs)
        texts = [self._laid_out(n, layout) for n, layout in zip(node.inputs, layouts, strict=True)]
        source = call_source(target, node.attr("args"), texts, dim_text)
        if self.values.homes[node.name] == "arena":
            function = OUT_CALLS[target]
            tail = source.removeprefix(target_source(target)).removesuffix(")")
            self.lines.append(f"{function}{tail}, out={self._tensor(node.name)})")
            return
        results = [r for r in self._results_of(node.name) if self._is_needed(r)]
        if node.name not in self.values.used and not results:
            self.lines.append(source)
            return
        self.lines.append(f"{self.variable(node.name)} = {source}")
        for r in results:
            self.lines.append(f"{self.variable(r.name)} = {self.variable(r.inputs[0])}[{r.attr('number')}]")
        assigned = [node.name, *(r.name for r in results)]
        passing = [n for n in assigned if n not in self.values.used]
        if passing:
            self.lines.append(f"del {', '.join(map(self.variable, passing))}")
        self.alive.update(n for n in assigned if n in self.values.used)

    def _results_of(self, call: str) -> list[Node]:
        """The `result` nodes of a call, and those of its results."""
        found: list[Node] = []
        for reader in self.graph.readers[call]:
            if reader.op == "result":
                found += [reader, *self._results_of(reader.name)]
        return found

    def _is_needed(self, result: Node) -> bool:
        return result.name in self.values.used or any(self._is_needed(r) for r in self._results_of(result.name))

    def _mutations(self) -> None:
        for target, value in self.graph.mutations:
            self.calls_aten = True
            if self.values.fused.in_place.get(value) != target:
                self.lines.append(f"{self.variable(target)}.copy_({self._tensor(value)})")

    # --- tensors -------------------------------------------------------------------------------------------------

    def _tensor(self, name: str) -> str:
        """The variable that holds a value as a tensor, for calls."""
        memory = self.values.memory_of(name)
        if self.values.homes[memory] == "arena":
            self.tensors.setdefault(name, self._arena_tensor(name, memory))
            return self.variable(name)
        view = self.values.fused.views.get(name)
        if view is None:
            return self.variable(memory)
        if name not in self.viewed:
            self.viewed[name] = memory
            self.lines.append(f"{self.variable(name)} = {self._view(memory, view)}")
        return self.variable(name)

    def _laid_out(self, name: str, layout: Any) -> str:
        """The tensor with the strides that a callee was traced with: a copy where it is stored in other ones."""
        text = self._tensor(name)
        node = self.graph.by_name[name]
        if layout is ANY or node.dtype is None:
            return text
        wanted = contiguous_strides(node.shape) if layout is None else layout
        memory = self.values.memory_of(name)
        view = self.values.fused.views.get(name)
        strides = self.values.buffer(memory).strides if view is None else view.strides
        same = all(n == 1 or a == b for n, a, b in zip(node.shape, strides, wanted, strict=True))
        return text if same or 0 in node.shape else f"_copy({text}, {tuple_text(node.shape)}, {tuple_text(wanted)})"

    def _view(self, memory: str, view: View) -> str:
        place = f"{tuple_text(view.shape)}, {tuple_text(view.strides)}, {dim_text(view.offset)}"
        return f"_view({self.variable(memory)}, {place})"

    def _arena_tensor(self, name: str, memory: str) -> str:
        b, offset = self.values.buffer(memory), 0
        shape, strides = b.shape, b.strides
        view = self.values.fused.views.get(name)
        if view is not None:
            shape, strides, offset = view.shape, view.strides, view.offset
        number = self.arena.index(memory)
        return f"at({number}, {dtype_text(b)}, {tuple_text(shape)}, {tuple_text(strides)}, {dim_text(offset)})"

    def _output(self, output: str | Dim | None) -> str:
        if output is None:
            return "None"
        if not isinstance(output, str):
            return dim_text(output)
        memory = self.values.memory_of(output)
        view = self.values.fused.views.get(output)
        return self.variable(memory) if view is None else self._view(memory, view)

    # --- the text ------------------------------------------------------------------------------------------------

    @property
    def _parameters(self) -> str:
        return ", ".join(self.sizes)

    def _measure(self) -> str:
        """Static offsets are numbers; slots of dynamic sizes follow one another, each on a cache line of its own."""
        memory = self.memory
        lines = []
        at: str = str(memory.static)
        starts: list[str] = []
        for k, size in enumerate(memory.slots):
            starts.append(f"slot{k}")
            lines.append(f"slot{k} = {at}")
            at = f"slot{k} + ({dim_text(size)} + 63 & -64)"
        offsets = [starts[memory.slot_of[n]] if n in memory.slot_of else str(memory.offsets[n]) for n in self.arena]
        work = [dim_text(w) for w in dict.fromkeys(self.choices.workspaces) if w != 0]
        workspace = f"max({', '.join(work)})" if len(work) > 1 else work[0] if work else "0"
        lines.append(f"return {at}, {workspace}, ({''.join(f'{o}, ' for o in offsets)})")
        return _function(f"measure({self._parameters})", lines)

    def _views(self) -> str:
        """Makes the tensors on the arena: `at(number of the value, dtype, shape, strides, offset in elements)`."""
        lines = [f"return ({''.join(f'{text}, ' for text in self.tensors.values())})"]
        return _function(f"views({', '.join(['at', *self.sizes])})", lines)

    def _calls(self, outputs: str) -> list[str]:
        inputs = ", ".join(self.variable(n.name) for n in self.values.inputs)
        lines = [f"{symbol} = {text}" for symbol, text in self.sizes.items()]
        if self._needs_fit:
            lines += self._take_fit()
        lines += self.lines
        if self._needs_fit:
            lines.append(f"if len(_arenas) < {MOST_IDLE}: _arenas.append(arena)")
        lines.append(f"return [{outputs}]")
        if self.calls_aten or not inputs:
            taken = [f"{inputs}, = args"] if inputs else []
            return [_function("call(args)", [*taken, "args.clear()", *lines])]
        boxed = ["inputs = tuple(args)", "args.clear()", "return direct(*inputs)"]
        return [_function(f"direct({inputs})", lines), _function("call(args)", boxed)]

    @cached_property
    def _needs_fit(self) -> bool:
        """Whether anything lies on an arena, or is used on both sides of a call; else each segment has its table on the
        stack.
        """
        launches = any(isinstance(step, Launch) for step in self.values.fused.steps)
        has_work = any(w != 0 for w in self.choices.workspaces)
        return bool(self.arena or (launches and (self.sizes or has_work)) or self._outlasts_a_segment())

    def _outlasts_a_segment(self) -> bool:
        """Whether launches before and after a call use one tensor: the first segment alone is given its address."""
        first: dict[str, int] = {}
        segment = 0
        for step in self.values.fused.steps:
            if not isinstance(step, Launch):
                segment += 1
                continue
            for name in map(self.values.memory_of, step.buffers):
                if self.values.homes[name] in DYNAMIC and first.setdefault(name, segment) != segment:
                    return True
        return False

    def _take_fit(self) -> list[str]:
        """An arena belongs to one call at a time: a second thread, or a callee that calls again, makes its own."""
        names = ", ".join(["T", "_", *map(self.variable, self.tensors)])
        sizes = "".join(f", {s}" for s in self.sizes)
        key = f"(_me{sizes})" if sizes else "_me"
        return [
            "try: arena = _arenas.pop()",
            "except IndexError: arena = _new_arena()",
            f"{names}, = arena.get({key}) or _fit(arena{sizes})",
        ]

    # --- words ---------------------------------------------------------------------------------------------------

    def _number_fixed(self, first: int) -> tuple[tuple[int, ...], tuple[Constant, ...], int]:
        """Give words to values of the arena and to constants that kernels use, from word `first` on."""
        open_words = [n for n, word in self.words.items() if word < 0]
        self.words.update({n: first + k for k, n in enumerate(open_words)})
        fixed = tuple(self.words.get(n, -1) for n in self.arena)
        names = self.values.constant_names
        constants = tuple(
            Constant(attribute, self.variable(n), self.words.get(n, -1))
            for attribute, n in zip(self.choices.attributes, names, strict=True)
        )
        return fixed, constants, first + len(open_words)

    def _launch(self, launch: Launch, size_words: dict[str, int]) -> LaunchCode:
        pointers = tuple(self.words[self.values.memory_of(n)] for n in launch.buffers)
        missing = [s for s in launch.kernel.symbols if s not in size_words]
        if missing:
            raise LoweringError("a kernel needs a size that no input gives", where=launch.kernel.name, got=missing[0])
        sizes = tuple(size_words[s] for s in launch.kernel.symbols)
        return LaunchCode(self.numbers[launch.digest], pointers, sizes)


def dtype_text(buffer: Buffer) -> str:
    return f"torch.{TORCH_NAMES[buffer.dtype.name]}"


def _function(head: str, lines: Sequence[str]) -> str:
    return "\n    ".join([f"def {head}:", *lines])
