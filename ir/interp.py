"""The interpreter of the loops level: the oracle of tests and of `verify`. Kernels run as vectorised torch.

    run_kernel(kernel, {"x": x, "w": w})["y"]                 each type as declared, float sums accumulated in float64
    run_kernel(kernel, ..., float64=True)                     every float in float64
    run_sampled(kernel, ..., sample=Sample())["y"].values     some tiles of a large kernel, and which they are
    error_bound(kernel, ...)["y"]                             how far a right kernel may be from the float64 result

A buffer is given as a tensor of its declared shape (any strides), or as its storage: a flat tensor, into which the
declared strides and offset point. What is given is never written to; outputs are new tensors with the declared
strides, poisoned (NaN, odd integers) where no store writes. Statements run in order; a statement reads what the
stores before it left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch

from .errors import BadInput
from .interp_bounds import BoundedNumbers
from .interp_grid import Ranges, Source
from .interp_inputs import Sizes, enter_buffer
from .interp_numbers import Numbers, Planes, Tensor
from .interp_reduce import evaluate_equation
from .interp_sample import Sample, sample_boxes
from .interp_store import mark_stored, run_store
from .loops import Buffer, Equation, Kernel, Store, reads_of
from .types import Dim
from .weighted import without_weighted

Tensors = Mapping[str, Tensor]
SizesByName = Mapping[str, int]

__all__ = ["Sample", "Sampled", "error_bound", "run_kernel", "run_sampled"]


@dataclass(frozen=True, slots=True)
class Sampled:
    """A partly computed output: the elements of `values` where `computed` is true; the others are poison."""

    values: Tensor
    computed: Tensor


def run_kernel(
    kernel: Kernel, buffers: Tensors, sizes: SizesByName | None = None, float64: bool = False
) -> dict[str, Tensor]:
    """The outputs of a kernel. Raises IndexError where a live index is out of range, BadInput on unfit buffers."""
    return {name: planes[0] for name, planes in _run(kernel, buffers, sizes, float64).items()}


def error_bound(kernel: Kernel, buffers: Tensors, sizes: SizesByName | None = None) -> dict[str, Tensor]:
    """For each element of the outputs, what correct rounding of every operation may make of it: an absolute error.

    A first-order bound from the kernel's own conditioning (see `ir.interp_bounds`): a correct kernel is within a small
    multiple of it (for the accuracy of exp and the like) of the float64 result. Infinite where a decision (a
    comparison, a conversion to integers) hangs on rounding in a way that no number bounds.
    """
    run = _Run(kernel, buffers, sizes or {}, BoundedNumbers(_device_of(buffers)))
    return {name: planes[1] for name, planes in run.outputs().items()}


def run_sampled(
    kernel: Kernel,
    buffers: Tensors,
    sizes: SizesByName | None = None,
    float64: bool = False,
    sample: Sample | None = None,
) -> dict[str, Sampled]:
    """Some tiles of each output, and of everything else only what these need (reductions whole).

    Outputs with several stores, colliding ones or ones that are read again are computed whole.
    """
    numbers = Numbers(float64, _device_of(buffers))
    run = _Run(kernel, buffers, sizes or {}, numbers, sample or Sample())
    return {name: Sampled(planes[0], run.computed[name]) for name, planes in run.outputs().items()}


def _run(kernel: Kernel, buffers: Tensors, sizes: SizesByName | None, float64: bool) -> dict[str, Planes]:
    return _Run(kernel, buffers, sizes or {}, Numbers(float64, _device_of(buffers))).outputs()


def _device_of(buffers: Tensors) -> torch.device | str:
    return next((b.device for b in buffers.values()), "cpu")


@dataclass
class _Local:
    """What is known of an equation's results: boxes of its axes, each with the planes of every component."""

    boxes: list[tuple[Ranges, tuple[Planes, ...]]] = field(default_factory=list)


class _Run:
    """One execution. Equations are evaluated once; a sampled run evaluates the boxes of them that are asked for."""

    def __init__(
        self, kernel: Kernel, buffers: Tensors, sizes: SizesByName, numbers: Numbers, sample: Sample | None = None
    ) -> None:
        self.kernel = kernel = without_weighted(kernel)
        self.numbers = numbers
        self.sample = sample
        self.computed: dict[str, Tensor] = {}
        self._sizes = Sizes(sizes, kernel.name)
        self._locals = {k: _Local() for k, s in enumerate(kernel.body) if isinstance(s, Equation)}
        self._defined = {
            name: (k, n)
            for k, s in enumerate(kernel.body) if isinstance(s, Equation)
            for n, name in enumerate(s.names) if name != "_"
        }  # fmt: skip
        # Each buffer's contents after the statements that write it; -1 stands for "before the first".
        self._contents: dict[str, list[tuple[int, Planes]]] = {}
        for buffer in (*kernel.inputs, *kernel.outputs):
            if buffer.name not in self._contents:
                given = buffers.get(buffer.name) if buffer in kernel.inputs else None
                self._contents[buffer.name] = [(-1, self._first(buffer, given))]

    def outputs(self) -> dict[str, Planes]:
        for position, statement in enumerate(self.kernel.body):
            if isinstance(statement, Store):
                self._store(statement, position)
            elif self.sample is None:
                full = tuple(range(self.size(a.extent)) for a in statement.axes)
                self._boxed(statement, position, lambda full=full: full)
        return {b.name: self._contents[b.name][-1][1] for b in self.kernel.outputs}

    # --- what an evaluation asks for -----------------------------------------------------------------------------

    def size(self, dim: Dim) -> int:
        return self._sizes(dim)

    def source(self, name: str, position: int, needed: Callable[[], Ranges]) -> Source:
        if name in self._defined:
            where, component = self._defined[name]
            equation = self.kernel.body[where]
            assert isinstance(equation, Equation)
            box, results = self._boxed(equation, where, needed)
            return results[component], tuple(r.start for r in box)
        if name not in self._contents:
            raise BadInput("a load of an unknown name", where=self.kernel.name, got=name)
        planes = next(p for at, p in reversed(self._contents[name]) if at < position)
        return planes, (0,) * planes[0].dim()

    def _boxed(
        self, eq: Equation, position: int, needed: Callable[[], Ranges]
    ) -> tuple[Ranges, tuple[Planes, ...]]:  # fmt: skip
        known = self._locals[position].boxes
        if self.sample is None and known:
            return known[0]
        full = tuple(range(self.size(a.extent)) for a in eq.axes)
        box = tuple(
            whole if eq.scan and a in eq.reduce else range(r.start, min(r.stop, whole.stop))
            for a, r, whole in zip(eq.axes, needed(), full, strict=True)
        )
        for found in known:
            if all(r.start >= f.start and r.stop <= f.stop for r, f in zip(box, found[0], strict=True)):
                return found
        known.append((box, evaluate_equation(self, eq, position, box)))
        return known[-1]

    # --- buffers -------------------------------------------------------------------------------------------------

    def _first(self, buffer: Buffer, given: Tensor | None) -> Planes:
        if given is None and any(buffer.name == b.name for b in self.kernel.inputs):
            raise BadInput("a buffer is missing", where=self.kernel.name, expected=buffer.name)
        return enter_buffer(buffer, given, self.numbers, self._sizes)

    def _store(self, store: Store, position: int) -> None:
        buffer = self.kernel.buffers[store.buffer]
        contents = self._contents[store.buffer]
        target = contents[-1][1]
        if len(contents) == 1 or store.buffer in self._read_back:
            strides = tuple(self.size(d) for d in buffer.strides)
            target = tuple(_laid_out(p, strides) for p in target)
        full = tuple(range(self.size(a.extent)) for a in store.axes)
        boxes = self._boxes_of(store, full)
        for box in boxes:
            run_store(self, store, position, box, target, buffer.dtype)
        if self.sample is not None:
            everywhere = boxes == [full]
            mask = torch.full(target[0].shape, everywhere, dtype=torch.bool, device=self.numbers.device)
            self.computed[store.buffer] = mask
            for box in [] if everywhere else boxes:
                mark_stored(self, store, position, box, mask)
        contents.append((position, target))

    def _boxes_of(self, store: Store, full: Ranges) -> list[Ranges]:
        alone = sum(s.buffer == store.buffer for s in self.kernel.stores) == 1
        partial = alone and store.injective and store.mode == "set" and store.buffer not in self._read_back
        return [full] if self.sample is None or not partial else sample_boxes(self.sample, full)

    @cached_property
    def _read_back(self) -> set[str]:
        """The buffers that some statement reads."""
        return {name for s in self.kernel.body for name in reads_of(s)}


def _laid_out(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """A copy with the given strides."""
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
