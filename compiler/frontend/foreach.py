"""Lowerings of the operators on lists of tensors (optimizers are made of them): each element by the single operator.

_foreach_addcmul([p, q], [a, b], [c, d], 0.1)  ->  addcmul(p, a, c, 0.1), addcmul(q, b, d, 0.1)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .context import LOWERINGS, Context, Unsupported, Value, lowers

SINGLE = (
    "abs", "acos", "asin", "atan", "ceil", "cos", "cosh", "erf", "erfc", "exp", "expm1", "floor", "frac", "lgamma",
    "log", "log10", "log1p", "log2", "neg", "reciprocal", "round", "rsqrt", "sigmoid", "sign", "sin", "sinh",
    "sqrt", "tan", "tanh", "trunc", "clone",
)  # fmt: skip
# foreach name -> the single operator, whose other operands are lists, or one number or 0-d tensor for all
PAIRS = {
    "add": "add.Tensor",
    "sub": "sub.Tensor",
    "mul": "mul.Tensor",
    "div": "div.Tensor",
    "maximum": "clamp_min.default",
    "minimum": "clamp_max.default",
    "clamp_min": "clamp_min.default",
    "clamp_max": "clamp_max.default",
    "lerp": "lerp.Scalar",
    "addcmul": "addcmul.default",
    "addcdiv": "addcdiv.default",
    "copy": "copy.default",
}
OVERLOADS = ("default", "List", "Scalar", "ScalarList", "Tensor")


def _bind(single: str) -> Callable[..., tuple[Any, ...]]:
    def lower(cx: Context, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        function = LOWERINGS[f"aten.{single}"]
        metas, results = cx.metas, []
        for k, meta in enumerate(metas):
            cx.metas = (meta,)
            results.append(function(cx, *(_element(a, k) for a in args), **kwargs))
        cx.metas = metas
        return tuple(results)

    return lower


def _element(arg: Any, k: int) -> Any:
    return arg[k] if isinstance(arg, (list, tuple)) else arg


for _name in SINGLE:
    lowers(f"_foreach_{_name}.default")(_bind(f"{_name}.default"))
for _name, _single in PAIRS.items():
    lowers(*(f"_foreach_{_name}.{overload}" for overload in OVERLOADS))(_bind(_single))


@lowers("_foreach_pow.List", "_foreach_pow.Scalar", "_foreach_pow.ScalarList", "_foreach_pow.ScalarAndTensor")
def _pow(cx: Context, bases: Any, exponents: Any) -> tuple[Value, ...]:
    number = not isinstance(_element(exponents, 0), Value)
    kind = "Tensor_Scalar" if number else "Tensor_Tensor" if isinstance(bases, (list, tuple)) else "Scalar"
    return _bind(f"pow.{kind}")(cx, bases, exponents)


@lowers("_foreach_norm.Scalar")
def _norm(cx: Context, values: Any, order: Any = 2, dtype: Any = None) -> tuple[Value, ...]:
    if dtype is not None:
        raise Unsupported("a norm in another type")
    return _bind("linalg_vector_norm.default")(cx, values, order)
