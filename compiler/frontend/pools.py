"""Lowerings of pooling and of nearest-neighbour resizing by whole factors, as shifted strided views.

A window of k x k positions is k*k views of the padded image, joined pointwise:

    out[i] = max(x[2*i - 1], x[2*i], x[2*i + 1])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from math import prod
from typing import Any

from .context import I64, Context, Dim, Unsupported, Value, lowers

MOST_TAPS = 64  # positions in a window; a larger one is left to ATen


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows over the last dimensions of an image; one entry per such dimension.

    size    of the window
    step    from window to window
    pad     positions before the image (and, as far as the last window needs them, after it)
    stride  between the positions of one window
    """

    size: tuple[int, ...]
    step: tuple[int, ...]
    pad: tuple[int, ...]
    stride: tuple[int, ...]

    def taps(self) -> Iterator[tuple[int, ...]]:
        """The positions of a window, row-major."""
        for flat in range(prod(self.size)):
            position, rest = [], flat
            for n in reversed(self.size):
                position.append(rest % n)
                rest //= n
            yield tuple(reversed(position))

    def extents(self, count: Sequence[int]) -> tuple[int, ...]:
        """How far `count` windows reach, from the first position of the padding on."""
        return tuple(
            (n - 1) * s + d * (k - 1) + 1
            for n, s, d, k in zip(count, self.step, self.stride, self.size, strict=True)
        )  # fmt: skip


def make_windows(rank: int, size: Any, step: Any, pad: Any, stride: Any = 1) -> Windows:
    """Windows of which each position is written out."""
    windows = Windows(*(_each(v, rank) for v in (size, step or size, pad, stride)))
    if prod(windows.size) > MOST_TAPS:
        raise Unsupported("a large window")
    return windows


def _each(value: Any, rank: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * rank if len(values) == 1 else values


def static_sizes(shape: Sequence[Dim]) -> tuple[int, ...]:
    if any(not isinstance(n, int) for n in shape):
        raise Unsupported("an image of dynamic size")
    return tuple(n for n in shape if isinstance(n, int))


def pad_windows(cx: Context, x: Value, w: Windows, count: tuple[int, ...], fill: float) -> Value:
    """The image with what `count` windows need around it."""
    first = x.rank - len(count)
    lead, image = (0,) * first, static_sizes(x.shape[first:])
    high = [e - p - n for e, p, n in zip(w.extents(count), w.pad, image, strict=True)]
    return cx.g.pad(x, (*lead, *w.pad), (*lead, *high), fill) if any((*w.pad, *high)) else x


def window_views(cx: Context, x: Value, w: Windows, count: tuple[int, ...], fill: float) -> list[Value]:
    """For each position of the window, what stands there in every window: [..., *count]."""
    first, padded = x.rank - len(count), pad_windows(cx, x, w, count, fill)
    found = []
    for tap in w.taps():
        view = padded
        for d, (t, stride, n, step) in enumerate(zip(tap, w.stride, count, w.step, strict=True)):
            view = cx.g.slice(view, first + d, t * stride, n, step)
        found.append(view)
    return found


def lowers_by_rank(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a lowering for images of 2 and 3 dimensions; it is told which."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        for rank in (2, 3):
            lowers(f"{name.format(rank)}.default")(partial(function, rank=rank))
        return function

    return enter


@lowers_by_rank("max_pool{}d_with_indices")
def _max_pool(
    cx: Context,
    x: Value,
    size: Any,
    step: Any = (),
    pad: Any = 0,
    stride: Any = 1,
    ceil_mode: bool = False,
    *,
    rank: int,
) -> tuple[Value, Value]:
    """The greatest value of each window, and where it is in the flat image (the first of equals; NaN wins)."""
    if not x.dtype.is_float:
        raise Unsupported("of integers")
    w = make_windows(rank, size, step, pad, stride)
    count, image = static_sizes(cx.shape[-rank:]), static_sizes(x.shape[-rank:])
    g, found = cx.g, window_views(cx, x, w, count, float("-inf"))
    best, at = found[0], _flat_position(cx, w, count, image, (0,) * rank)
    for tap, value in zip(list(w.taps())[1:], found[1:], strict=True):
        better = (value > best) | (g.isnan(value) & ~g.isnan(best))
        at = g.where(better, _flat_position(cx, w, count, image, tap), at)
        best = g.where(better, value, best)
    return best, g.expand(at, cx.shape)


def _flat_position(
    cx: Context, w: Windows, count: tuple[int, ...], image: tuple[int, ...], tap: tuple[int, ...]
) -> Value:
    """Where position `tap` of each window lies in the flat image, moved into the image where it is padding."""
    g, flat = cx.g, cx.g.full((), 0, I64)
    for d, (n, size) in enumerate(zip(count, image, strict=True)):
        at = g.iota(n) * w.step[d] + (tap[d] * w.stride[d] - w.pad[d])
        at = g.apply("min", g.apply("max", at, 0), size - 1)
        flat = flat * size + g.reshape(at, (n, *(1 for _ in count[d + 1 :])))
    return flat


@lowers_by_rank("max_pool{}d_with_indices_backward")
def _max_pool_backward(
    cx: Context, grad: Value, x: Value, size: Any, step: Any, pad: Any, stride: Any, ceil_mode: bool, index: Value, *,
    rank: int,
) -> Value:  # fmt: skip
    g = cx.g
    lead, image = x.shape[: x.rank - rank], static_sizes(x.shape[-rank:])
    flat = (*lead, prod(static_sizes(grad.shape[-rank:])))
    zeros = g.full((*lead, prod(image)), 0.0, grad.dtype.compute)
    values = g.cast(g.reshape(grad, flat), zeros.dtype)
    summed = g.scatter(zeros, len(lead), g.reshape(index, flat), values, "add")
    return cx.round(g.reshape(summed, x.shape))


@lowers_by_rank("avg_pool{}d")
def _avg_pool(
    cx: Context, x: Value, size: Any, step: Any = (), pad: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None, *, rank: int,
) -> Value:  # fmt: skip
    if not x.dtype.is_float:
        raise Unsupported("of integers")
    w = make_windows(rank, size, step, pad)
    count = static_sizes(cx.shape[-rank:])
    total = reduce(lambda a, b: a + b, window_views(cx, cx.wide(x), w, count, 0.0))
    return cx.round(total / _divisor(cx, total, x, w, count, count_include_pad, divisor_override))


def _divisor(
    cx: Context, total: Value, x: Value, w: Windows, count: tuple[int, ...], include_pad: bool, override: int | None
) -> Value | float:
    """The number of positions that each window is divided by."""
    image = static_sizes(x.shape[-len(count) :])
    fits = all(e <= n + 2 * p for e, n, p in zip(w.extents(count), image, w.pad, strict=True))
    if override is not None or (fits and (include_pad or not any(w.pad))):
        return float(prod(w.size) if override is None else override)
    g, sizes = cx.g, cx.g.full((), 1.0, total.dtype)
    for d, (n, size) in enumerate(zip(count, image, strict=True)):
        start = g.iota(n) * w.step[d] - w.pad[d]
        end = g.apply("min", start + w.size[d], size + w.pad[d])
        if not include_pad:
            start, end = g.apply("max", start, 0), g.apply("min", end, size)
        sizes = sizes * g.reshape(g.cast(end - start, total.dtype), (n, *(1 for _ in count[d + 1 :])))
    return sizes


@lowers_by_rank("avg_pool{}d_backward")
def _avg_pool_backward(
    cx: Context, grad: Value, x: Value, size: Any, step: Any, pad: Any, ceil_mode: bool, count_include_pad: bool,
    divisor_override: int | None, *, rank: int,
) -> Value:  # fmt: skip
    """Each window's gradient, divided, spread over its positions: one strided write per position of the window."""
    g, w = cx.g, make_windows(rank, size, step, pad)
    count, image, first = static_sizes(grad.shape[-rank:]), static_sizes(x.shape[-rank:]), x.rank - rank
    wide = cx.wide(grad)
    share = wide / _divisor(cx, wide, x, w, count, count_include_pad, divisor_override)
    total: Value | None = None
    for tap in w.taps():
        spread = share
        for d, (t, extent) in enumerate(zip(tap, w.extents(count), strict=True)):
            shape = (*spread.shape[: first + d], extent, *spread.shape[first + d + 1 :])
            spread = g.slice_scatter(g.full(shape, 0.0, wide.dtype), spread, first + d, t, w.step[d])
        total = spread if total is None else total + spread
    assert total is not None
    lead = (0,) * first
    high = [n + p - e for n, p, e in zip(image, w.pad, w.extents(count), strict=True)]
    return cx.round(g.pad(total, (*lead, *(-p for p in w.pad)), (*lead, *high), 0.0))


@lowers_by_rank("_adaptive_avg_pool{}d")
def _adaptive_avg_pool(cx: Context, x: Value, size: Any, *, rank: int) -> Value:
    """The mean of equal blocks, where the image divides into them."""
    blocks, dims = _blocks(x, cx.shape[-rank:])
    return cx.round(cx.g.mean(cx.g.reshape(cx.wide(x), blocks), dims))


@lowers_by_rank("_adaptive_avg_pool{}d_backward")
def _adaptive_avg_pool_backward(cx: Context, grad: Value, x: Value, *, rank: int) -> Value:
    blocks, dims = _blocks(x, grad.shape[-rank:])
    shape = tuple(1 if d in dims else n for d, n in enumerate(blocks))
    share = cx.g.reshape(cx.wide(grad), shape) / float(prod(static_sizes([blocks[d] for d in dims])))
    return cx.round(cx.g.reshape(cx.g.expand(share, blocks), x.shape))


def _blocks(x: Value, count: Sequence[Dim]) -> tuple[tuple[Dim, ...], tuple[int, ...]]:
    """x's shape with each of the last dimensions as [blocks, size of a block], and which those sizes are."""
    image, rank = static_sizes(x.shape[-len(count) :]), len(count)
    if any(n == 0 or size % n for n, size in zip(static_sizes(count), image, strict=True)):
        raise Unsupported("blocks of unequal size")
    pairs = [part for n, size in zip(static_sizes(count), image, strict=True) for part in (n, size // n)]
    first = x.rank - rank
    return (*x.shape[:first], *pairs), tuple(first + 2 * k + 1 for k in range(rank))


@lowers(*(f"{kind}{n}d.default" for kind in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3)))
def _upsample(cx: Context, x: Value, size: Any, *scales: float | None) -> Value:
    """Each position repeated; only whole factors, for which every rounding of the source index agrees."""
    g, shape, factors = cx.g, *_whole_factors(x.shape, cx.shape, scales)
    return g.reshape(g.expand(g.reshape(x, shape), tuple(_interleave(x.shape, factors))), cx.shape)


@lowers(
    *(f"{kind}{n}d_backward.default" for kind in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3))
)
def _upsample_backward(cx: Context, grad: Value, size: Any, input_size: Any, *scales: float | None) -> Value:
    _, factors = _whole_factors(cx.shape, grad.shape, scales)
    split = cx.g.reshape(cx.wide(grad), tuple(_interleave(cx.shape, factors)))
    dims = tuple(d for d in range(1, 2 * len(factors), 2))
    return cx.round(cx.g.sum(split, dims))


def _whole_factors(
    narrow: Sequence[Dim], wide: Sequence[Dim], scales: Sequence[float | None]
) -> tuple[tuple[Dim, ...], list[int]]:
    """(the narrow shape with a 1 after each dimension, how often each position is repeated)"""
    image, larger = static_sizes(narrow[2:]), static_sizes(wide[2:])
    factors = [1, 1]
    for k, (n, m) in enumerate(zip(image, larger, strict=True)):
        scale = scales[k] if k < len(scales) else None
        if n == 0 or m % n or (scale is not None and scale != m // n):
            raise Unsupported("resizing by a broken factor")
        factors.append(m // n)
    return tuple(_interleave(narrow, [1] * len(narrow))), factors


def _interleave(shape: Sequence[Dim], factors: Sequence[int]) -> Iterator[Dim]:
    for n, f in zip(shape, factors, strict=True):
        yield n
        yield f
