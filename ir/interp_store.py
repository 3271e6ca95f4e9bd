"""Carrying out a store: plain writes, colliding writes in order, and accumulation (in float64, rounded once)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .expr import data_in
from .interp_eval import conjunction
from .interp_grid import Evaluation, Grid, GridWorld, Ranges
from .interp_numbers import Planes, Tensor
from .interp_reduce import CHUNK, halve
from .loops import Store
from .types import DType

Write = Callable[[Evaluation, Planes, Tensor | None], None]  # what to do with a chunk's values where they are live


def run_store(world: GridWorld, store: Store, position: int, box: Ranges, target: Planes, dtype: DType) -> None:
    """Writes the points of `box` into the target's planes."""
    if store.mode == "set" and store.injective:
        _each_chunk(world, store, position, box, lambda e, value, live: _put(store, e, value, live, target))
        return
    numbers = world.numbers
    work = tuple(p.reshape(-1) for p in target)
    if store.mode in ("add", "mul"):
        work = numbers.widen(work)
    flags = work[0].dtype is torch.bool
    if flags:
        work = (work[0].to(torch.uint8), *work[1:])
    work = tuple(p.clone() for p in work)
    shape = target[0].shape

    def merge(e: Evaluation, value: Planes, live: Tensor | None) -> None:
        at, x = _listed(store, e, value, live, shape)
        if store.mode == "set":
            _put_last(work, at, x)
        else:
            x = (x[0].to(work[0].dtype), *x[1:])
            numbers.accumulate(store.mode, work, at, x, dtype)

    _each_chunk(world, store, position, box, merge)
    for plane, new in zip(target, (work if flags else numbers.round(work, dtype)), strict=True):
        plane.copy_(new.reshape(shape))


def mark_stored(world: GridWorld, store: Store, position: int, box: Ranges, mask: Tensor) -> None:
    """Sets `mask` where the points of `box` are written."""
    true = (mask.new_ones(()),)
    _each_chunk(world, store, position, box, lambda e, value, live: _put(store, e, true, live, (mask,)))


def _each_chunk(world: GridWorld, store: Store, position: int, box: Ranges, write: Write) -> None:
    grid = Grid(store.axes, box)
    if not grid.points:
        return
    cut = halve(box) if grid.points > CHUNK else None
    if cut is not None:
        for part in cut[1:]:
            _each_chunk(world, store, position, part, write)
        return
    evaluation = Evaluation(world, grid, position)
    roots = [store.value, *(d.value for i in store.index for d in data_in(i))]
    value, *_ = evaluation.evaluate(*roots)
    live = evaluation.exists
    if store.guard is not None:
        live = conjunction(live, evaluation.evaluate(store.guard)[0][0])
    write(evaluation, value, live)


def _put(store: Store, e: Evaluation, value: Planes, live: Tensor | None, target: Planes) -> None:
    views = e.strided(target, store.index) if live is None else None
    if views is not None and all(v.shape == e.grid.shape for v in views):
        for view, plane in zip(views, value, strict=True):
            view.copy_(plane)
        return
    at, x = _listed(store, e, value, live, target[0].shape)
    for plane, new in zip(target, x, strict=True):
        plane[torch.unravel_index(at, plane.shape)] = new.to(plane.dtype)


def _listed(
    store: Store, e: Evaluation, value: Planes, live: Tensor | None, shape: tuple[int, ...]
) -> tuple[Tensor, Planes]:
    """(row-major positions in the target, values) of the live points, in axis order."""
    indices = e.checked(store.buffer, store.index, shape, live)
    at = torch.zeros((), dtype=torch.int64, device=e.numbers.device)
    for i, size in zip(indices, shape, strict=True):
        at = at * size + i
    at = at.expand(e.grid.shape).reshape(-1)
    x = tuple(p.expand(e.grid.shape).reshape(-1) for p in value)
    if live is None:
        return at, x
    chosen = live.expand(e.grid.shape).reshape(-1)
    return at[chosen], tuple(p[chosen] for p in x)


def _put_last(target: Planes, at: Tensor, x: Planes) -> None:
    """target[at] = x, where the last of several writes to one element stays."""
    order = torch.arange(at.numel(), device=at.device)
    last = order.new_full(target[0].shape, -1).scatter_reduce_(0, at, order, "amax")
    wins = last[at] == order
    for plane, new in zip(target, x, strict=True):
        plane[at[wins]] = new[wins].to(plane.dtype)
