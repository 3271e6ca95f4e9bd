"""Fusing keeps every value: random graphs, fused and run by the loops interpreter, against the graph's references."""

from __future__ import annotations

import math
import random

import pytest
from fused import assert_same, fuse

from treadle.ir.builder import GraphBuilder, Value
from treadle.ir.graph import Graph
from treadle.ir.types import BF16, F32, I64
from treadle.passes.fuse import Launch

SHAPES = ((4, 6), (3, 5, 4), (2, 3, 4, 2), (7,), (1, 5), (6, 1))


class RandomGraph:
    """Grows a graph op by op from a seed; every op takes earlier values."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.g = GraphBuilder(f"random{seed}")
        shape = self.rng.choice(SHAPES)
        self.pool = [self.g.input(f"x{k}", shape, self.rng.choice((F32, BF16)), _strides(shape)) for k in range(2)]
        self.indices = self.g.input("ids", shape[:1], I64, (1,))

    def build(self, size: int) -> Graph:
        for _ in range(size):
            x = self.rng.choice(self.pool[-6:])
            step = self.rng.choice((self.unary, self.binary, self.view, self.reduce, self.norm, self.index, self.scan,
                                    self.product))  # fmt: skip
            self.pool.append(step(x))
        outputs = list(dict.fromkeys([self.pool[-1], *self.rng.sample(self.pool[2:], min(2, size))]))
        return self.g.finish(outputs, (), [_strides(o.shape) for o in outputs])

    def unary(self, x: Value) -> Value:
        return self.g.apply(self.rng.choice(("exp", "neg", "abs", "sigmoid", "tanh")), self.g.tanh(x))

    def binary(self, x: Value) -> Value:
        fits = [y for y in self.pool if y.shape == x.shape] or [x]
        return self.g.apply(
            self.rng.choice(("add", "mul", "sub", "max", "min")), x, self.g.cast(self.rng.choice(fits), x.dtype)
        )

    def product(self, x: Value) -> Value:
        """x times itself, or another value, over one of its dimensions."""
        g, d = self.g, self.rng.randrange(x.rank)
        y = self.rng.choice([v for v in self.pool if v.dtype is x.dtype and x.shape[d] in v.shape] or [x])
        at = y.shape.index(x.shape[d])
        left = tuple(range(x.rank))
        right = tuple(d if k == at else x.rank + k for k in range(y.rank))
        kept = [*(k for k in left if k != d), *(k for k in right if k != d)]
        if not 1 <= len(kept) <= 3 or math.prod(int(n) for n in (*x.shape, *y.shape)) > 4000:
            return self.unary(x)
        self.rng.shuffle(kept)
        return g.tanh(g.contract(x, y, (left, right, tuple(kept))))

    def view(self, x: Value) -> Value:
        g, rng = self.g, self.rng
        d = rng.randrange(x.rank)
        size = x.shape[d]
        assert isinstance(size, int)
        kind = rng.randrange(8)
        if kind == 0:
            return g.permute(x, rng.sample(range(x.rank), x.rank))
        if kind == 1:
            total = 1
            for n in x.shape:
                total *= n
            factor = next(k for k in (4, 3, 2, 5, 7, 1) if total % k == 0)
            return g.reshape(x, rng.choice(((factor, total // factor), (total,), (1, total // factor, factor))))
        if kind == 2 and size > 1:
            return g.slice(x, d, 1, size - 1)
        if kind == 3:
            return g.slice(x, d, size - 1, size, -1)
        if kind == 4:
            return g.cat([x, g.neg(x), x], d)
        if kind == 5:
            return g.pad(
                x, [1 if k == d else 0 for k in range(x.rank)], [2 if k == d else 0 for k in range(x.rank)], 0.5
            )
        if kind == 6:
            return g.roll(x, d, 1)
        return g.slice_scatter(x, g.slice(g.exp(g.neg(g.abs(x))), d, 0, 1), d, size - 1)

    def reduce(self, x: Value) -> Value:
        dims = sorted(self.rng.sample(range(x.rank), self.rng.randrange(1, x.rank + 1)))
        total = self.g.reduce(self.rng.choice(("sum", "max", "min")), self.g.cast(x, F32), dims, keepdim=True)
        return self.g.cast(self.g.tanh(total), x.dtype) if self.rng.random() < 0.5 else x - self.g.cast(total, x.dtype)

    def norm(self, x: Value) -> Value:
        g = self.g
        x32, d = g.cast(x, F32), (x.rank - 1,)
        if self.rng.random() < 0.5:
            e = g.exp(x32 - g.reduce("max", x32, d, True))
            return g.cast(e / g.sum(e, d, True), x.dtype)
        centred = x32 - g.mean(x32, d, True)
        return g.cast(centred * g.rsqrt(g.mean(centred * centred, d, True) + 1e-2), x.dtype)

    def index(self, x: Value) -> Value:
        g, size = self.g, self.indices.shape[0]
        d = self.rng.randrange(x.rank)
        if x.shape[d] in (0, 1):
            return g.exp(g.neg(g.abs(x)))
        if self.rng.random() < 0.6:
            return g.take(x, (d,), [self.indices])
        values = g.full((*x.shape[:d], size, *x.shape[d + 1 :]), 0.25, x.dtype)
        return g.put(x, (d,), [self.indices], values, "add")

    def scan(self, x: Value) -> Value:
        d = self.rng.randrange(x.rank)
        return self.g.cast(self.g.tanh(self.g.scan("sum", self.g.cast(x, F32), d)), x.dtype)


def _strides(shape: tuple[object, ...]) -> tuple[int, ...]:
    step, strides = 1, []
    for n in reversed(shape):
        strides.append(step)
        step *= max(int(n), 1)  # type: ignore[call-overload]
    return tuple(reversed(strides))


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs_keep_their_values(seed: int) -> None:
    assert_same(RandomGraph(seed).build(4 + seed % 11), seed, numerics=("fast", "strict")[seed % 2])


def test_a_normalisation_is_one_kernel_that_stores_the_sum_it_needs() -> None:
    g = GraphBuilder()
    x, r = g.input("x", (5, 64), BF16, (64, 1)), g.input("r", (5, 64), BF16, (64, 1))
    h = x + r
    h32 = g.cast(h, F32)
    y = g.cast(h32 * g.rsqrt(g.mean(h32 * h32, (1,), True) + 1e-6), BF16)
    fused = assert_same(g.finish([h, y], (), [(64, 1), (64, 1)]))
    assert len(fused.steps) == 1
    step = fused.steps[0]
    assert isinstance(step, Launch) and len(step.writes) == 2


def test_equal_layers_share_their_kernels() -> None:
    g = GraphBuilder()
    x = g.input("x", (6, 8), F32, (8, 1))
    for _ in range(5):
        y = x + g.exp(x - g.reduce("max", x, (1,), True))
        x = g.call("aten.mm.default", (0, 1), [y, g.permute(y, (1, 0))], "library", (6, 6), F32, (6, 1))
        x = g.call("aten.mm.default", (0, 1), [x, y], "library", (6, 8), F32, (8, 1))
    fused = fuse(g.finish([x], (), [(8, 1)]))
    launches = [s for s in fused.steps if isinstance(s, Launch)]
    assert len(launches) == 5
    assert len({s.digest for s in launches}) == 1
    assert len(fused.partitions) == 1
