"""Where the values of a fused graph live while its plan runs, and for how long.

    input     given by the caller                    constant   a tensor of the fx module
    fresh     memory of its own: graph outputs, and what a callee may keep or return
    arena     bytes of the arena, shared with values that live at other times
    call      what a call of ATen returns

A life begins with the step that writes a value and ends with the last that reads it, or a view of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ...ir.graph import Graph, Node
from ...ir.loops import Buffer, contiguous
from ...ir.types import Dim, multiply, plus, product
from ...passes.fuse import Call, Fused, Launch
from ...passes.memory import Lifetime

# Products of matrices write where we say: the torch function that takes `out`.
OUT_CALLS = {
    "aten.mm.default": "torch.mm",
    "aten.bmm.default": "torch.bmm",
    "aten.addmm.default": "torch.addmm",
    "aten.baddbmm.default": "torch.baddbmm",
}


@dataclass(frozen=True)
class Values:
    """The homes of all values of one fused graph.

    constants  how many of the graph's last inputs are tensors of the module
    keeps      calls that may keep or return the memory of an operand
    """

    fused: Fused
    constants: int = 0
    keeps: frozenset[str] = frozenset()

    @property
    def graph(self) -> Graph:
        return self.fused.graph

    @cached_property
    def inputs(self) -> tuple[Node, ...]:
        """What the caller gives."""
        return self.graph.inputs[: len(self.graph.inputs) - self.constants]

    @cached_property
    def constant_names(self) -> tuple[str, ...]:
        return tuple(n.name for n in self.graph.inputs[len(self.inputs) :])

    def memory_of(self, name: str) -> str:
        """The stored value whose memory holds `name`."""
        while name in self.fused.views:
            name = self.fused.views[name].base
        return self.fused.in_place.get(name, name)

    @cached_property
    def homes(self) -> dict[str, str]:
        homes = {n.name: "input" for n in self.inputs} | dict.fromkeys(self.constant_names, "constant")
        for step in self.fused.steps:
            if isinstance(step, Call):
                homes[step.node] = self._call_home(step.node)
                continue
            for name in writes_of(step):
                if name not in self.fused.in_place:
                    homes[name] = "fresh" if name in self._own else "arena"
        for node in self.graph.nodes:
            if node.op == "result":
                homes[node.name] = "call"
        return homes

    @cached_property
    def _own(self) -> frozenset[str]:
        """Values that need memory of their own: outputs, and operands of calls that may keep them."""
        outputs = {self.memory_of(o) for o in self.graph.outputs if isinstance(o, str)}
        kept = {self.memory_of(i) for c in self.keeps for i in self.graph.by_name[c].inputs}
        return frozenset(outputs | kept)

    def _call_home(self, name: str) -> str:
        node = self.graph.by_name[name]
        return "arena" if node.attr("target") in OUT_CALLS and name not in self._own else "call"

    @cached_property
    def last_use(self) -> dict[str, int]:
        """The last step that reads each stored value; one past the last step for outputs and mutations."""
        last: dict[str, int] = {}
        for k, step in enumerate(self.fused.steps):
            for name in self.reads(k):
                last[self.memory_of(name)] = k
            for name in writes_of(step) if isinstance(step, Launch) else (step.node,):
                last.setdefault(self.memory_of(name), k)
        end = len(self.fused.steps)
        for name in (*self.graph.results, *(i for i, _ in self.graph.mutations)):
            last[self.memory_of(name)] = end
        return last

    @cached_property
    def written(self) -> tuple[int, ...]:
        """The numbers of the inputs that kernels or the mutations at the end write to."""
        launches = (s for s in self.fused.steps if isinstance(s, Launch))
        names = {self.memory_of(n) for s in launches for n in writes_of(s)} | {i for i, _ in self.graph.mutations}
        return tuple(k for k, n in enumerate(self.inputs) if n.name in names)

    def reads(self, step: int) -> tuple[str, ...]:
        s = self.fused.steps[step]
        return s.reads if isinstance(s, Launch) else self.graph.by_name[s.node].inputs

    @cached_property
    def used(self) -> frozenset[str]:
        """Every name that a step, an output or a mutation mentions, and what these live in."""
        names = {n for k in range(len(self.fused.steps)) for n in self.reads(k)} | set(self.graph.results)
        names |= {i for i, _ in self.graph.mutations}
        return frozenset(names | {self.memory_of(n) for n in names})

    def buffer(self, name: str) -> Buffer:
        """How a stored value lies in its own memory."""
        node = self.graph.by_name[name]
        strides = self.fused.layouts.get(name)
        if strides is None and node.op in ("call", "result", "input"):
            strides = node.strides
        if strides is None:
            return contiguous(name, node.element, node.shape)
        return Buffer(name, node.element, node.shape, strides)

    @cached_property
    def lifetimes(self) -> tuple[Lifetime, ...]:
        """The values of the arena; one life for all that share memory."""
        return tuple(
            Lifetime(name, buffer_bytes(self.buffer(name)), k, self.last_use[name])
            for k, step in enumerate(self.fused.steps)
            for name in (writes_of(step) if isinstance(step, Launch) else (step.node,))
            if self.homes.get(name) == "arena"
        )


def writes_of(launch: Launch) -> tuple[str, ...]:
    """The values that a launch stores, in the order of its kernel's outputs."""
    names = dict(zip(launch.kernel.buffers, launch.buffers, strict=True))
    return tuple(names[b.name] for b in launch.kernel.outputs)


def buffer_bytes(buffer: Buffer) -> Dim:
    """The bytes from the first element to the last."""
    return multiply(span_of(buffer), buffer.dtype.itemsize)


def span_of(buffer: Buffer) -> Dim:
    """The elements from the first to the last."""
    if 0 in buffer.shape:
        return 0
    if buffer.is_contiguous:
        return product(buffer.shape)
    last: Dim = 1
    for size, stride in zip(buffer.shape, buffer.strides, strict=True):
        last = plus(last, multiply(plus(size, -1), stride))
    return last
