"""Lowerings of what draws random numbers: ATen's generator by default, counter-based under `rng="philox"`.

A number is then philox(seed, draw, index): the seed is one integer that each call of the graph draws from torch's
generator, `draw` is the number of the operator in the graph, `index` the element's place in row-major order. So a
number depends on nothing else: kernels compute it wherever it is read, as often as they like, alike on every target.
What AOTAutograd saves for the backward pass (a mask) it saves as in eager; under checkpointing it replays the
generator's state around the operator itself, which then runs through ATen.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ...ir.types import BOOL, F32, F64, I32, I64, DType, product
from .calls import Encoder
from .context import Context, Unsupported, Value, lowers
from .creation import filled
from .dims import Shape

DIGITS = {"f16": 11, "bf16": 8, "f32": 24}  # of a number in [0, 1): more would round to 1
DRAW = "aten.randint.low"
ENOUGH = 24  # bits of the normal distribution's two uniform numbers


def require_philox(cx: Context) -> None:
    if cx.rng != "philox":
        raise Unsupported("random numbers come from ATen's generator")


def draw_words(cx: Context, shape: Shape) -> Value:
    """64 random bits for each element of a shape."""
    seed = cx.seed = cx.seed if cx.seed is not None else draw_seed(cx)
    index = cx.g.reshape(cx.g.iota(product(shape)), shape)
    cx.drawn += 1
    return cx.g.philox(seed, cx.drawn - 1, index)


def draw_seed(cx: Context) -> Value:
    """A call of ATen's: any 63 bits, of the generator of the graph's device."""
    encoder = Encoder({})
    options = {"dtype": torch.int64, "device": torch.device(cx.dims.device), "pin_memory": False}
    tree = encoder.encode_call((0, 2**63 - 1, []), options)
    return cx.g.call(DRAW, tree, [], "effect", (), I64, ())


def uniform(cx: Context, shape: Shape, dtype: DType) -> Value:
    """Numbers of [0, 1), all multiples of the type's step below 1."""
    words = draw_words(cx, shape)
    if dtype is F64:
        return cx.g.cast((cx.g.shr(words, 11)) & (2**53 - 1), F64) * 2.0**-53
    digits = DIGITS[dtype.name]
    return cx.g.cast(_fraction(cx, words, 0, digits), dtype)


def _fraction(cx: Context, words: Value, which: int, digits: int) -> Value:
    """The first digits of one of the two words, as a number of [0, 1) in f32."""
    word = cx.g.apply("and", cx.g.shr(words, 32 * which + 32 - digits), (1 << digits) - 1)
    return cx.g.cast(cx.g.cast(word, I32), F32) * 2.0**-digits


def normal(cx: Context, shape: Shape) -> Value:
    """Numbers of the standard normal distribution in f32, within 5.8 of 0: Box and Muller, one of their two."""
    words = draw_words(cx, shape)
    radius = cx.g.sqrt(cx.g.log(_fraction(cx, words, 0, ENOUGH) + 2.0**-ENOUGH) * -2.0)
    return radius * cx.g.cos(_fraction(cx, words, 1, ENOUGH) * (2 * math.pi))


@lowers("native_dropout.default")
def _dropout(cx: Context, x: Value, p: float, train: bool | None) -> tuple[Value, Value]:
    if p == 0 or train is False:
        return x, cx.g.full(x.shape, True, BOOL)
    require_philox(cx)
    keep = uniform(cx, x.shape, F32) < 1 - p
    scale = 0.0 if p == 1 else 1 / (1 - p)
    wide = cx.wide(x)
    return cx.round(wide * cx.g.where(keep, cx.g.full((), scale, wide.dtype), 0.0)), keep


@lowers("bernoulli.p")
def _bernoulli(cx: Context, x: Value, p: float, generator: Any = None) -> Value:
    if p in (0, 1):
        return filled(cx, int(p))
    return _chosen(cx, x.shape, p, generator)


@lowers("bernoulli.default")
def _bernoulli_of(cx: Context, p: Value, generator: Any = None) -> Value:
    return _chosen(cx, p.shape, cx.g.cast(p, F32), generator)


def _chosen(cx: Context, shape: Shape, p: Value | float, generator: Any) -> Value:
    require_philox(cx)
    _refuse_generator(generator)
    return cx.g.cast(uniform(cx, shape, F32) < p, cx.dtype)


@lowers("rand.default", "rand_like.default")
def _rand(cx: Context, *_: Any, **__: Any) -> Value:
    require_philox(cx)
    return uniform(cx, cx.shape, cx.dtype)


@lowers("uniform.default")
def _uniform(cx: Context, x: Value, low: Any = 0.0, high: Any = 1.0, generator: Any = None) -> Value:
    require_philox(cx)
    _refuse_generator(generator)
    wide = F64 if cx.dtype is F64 else F32
    if cx.dtype is not wide:
        raise Unsupported("a narrow type may round up to the upper end")
    return uniform(cx, cx.shape, wide) * (high - low) + low


@lowers("randn.default", "randn_like.default")
def _randn(cx: Context, *_: Any, **__: Any) -> Value:
    require_philox(cx)
    return cx.g.cast(normal(cx, cx.shape), cx.dtype)


@lowers("normal_functional.default")
def _normal(cx: Context, x: Value, mean: Any = 0.0, std: Any = 1.0, generator: Any = None) -> Value:
    require_philox(cx)
    _refuse_generator(generator)
    return cx.g.cast(normal(cx, cx.shape) * std + mean, cx.dtype)


def _refuse_generator(generator: Any) -> None:
    if generator is not None:
        raise Unsupported("it has a generator of its own")
