"""One spelling for products, selects and commuting operands, so that kernels that compute the same look the same.

    (x * r) * g,  x * (r * g),  g * x * r          ->  one product, factors with fewer axes first
    x / sqrt(v),  x * (1 / sqrt(v))                ->  x * rsqrt(v)
    s + where(p, -inf, 0),  where(~p, s, -inf)     ->  where(p, -inf, s)
    where(p, f(where(p, x, 0)), y)                 ->  where(p, f(x), y)

Products are reordered and selects lifted only under `numerics="fast"`: rounding may differ in the last place. Sums are
never reassociated: (x + 1e8) - 1e8 is not x.
"""

from __future__ import annotations

import math
import struct
from dataclasses import replace

from ..ir.expr import Const, Expr, Load, Op, Rewriter, const
from ..ir.loops import Equation, Kernel, Statement
from ..ir.scalar import SCALAR_OPS
from ..ir.simplify import Simplifier, exact
from ..ir.types import BOOL, DType
from .assume import assume
from .keys import Keys, rewritten

PRODUCT = ("mul", "div", "neg", "reciprocal")
HALF_ULP = 2.0**-24
FEW_DIGITS = 4  # of a constant that somebody wrote down
LARGEST = 1e30  # constants beyond this, or below its inverse, stay where the user put them


def normalize(kernel: Kernel, simplify: Simplifier) -> Kernel:
    """The kernel with every right side in normal form and equal equations joined."""
    normal = Normalizer(kernel, simplify)
    return join_equal(replace(kernel, body=tuple(rewritten(s, normal) for s in kernel.body)), simplify)


class Normalizer(Rewriter):
    """Rebuilds expressions bottom-up in normal form; the order of operands comes from keys that no name enters."""

    def __init__(self, kernel: Kernel, simplify: Simplifier) -> None:
        super().__init__(rebuild=self._rebuild)
        self.keys = Keys(kernel)
        self.simplify = simplify
        self.is_fast = simplify.is_fast

    def _rewrite(self, e: Expr) -> Expr:
        if not isinstance(e, Op):
            return super()._rewrite(e)
        return self._rebuild(e.name, tuple(self(a) for a in e.args), e.dtype)

    def _rebuild(self, name: str, args: tuple[Expr, ...], dtype: DType) -> Expr:
        e = self.simplify(name, args, dtype)
        if not isinstance(e, Op):
            return e
        if e.name == "where":
            return self._select(e)
        if self.is_fast and dtype.is_float and e.name in PRODUCT:
            return self._product(e)
        if self.is_fast and e.name in ("add", "sub"):
            lifted = self._lift_select(e)
            if lifted is not None:
                return lifted
        return self._sorted(e)

    # --- commuting operands --------------------------------------------------------------------------------------

    def _order(self, e: Expr) -> tuple[bool, int, str]:
        return isinstance(e, Const), len(e.axes), self.keys(e)

    def _sorted(self, e: Op) -> Expr:
        if not SCALAR_OPS[e.name].commutative:
            return e
        args = tuple(sorted(e.args, key=self._order))
        return e if args == e.args else Op(e.name, args, e.dtype)

    # --- products ------------------------------------------------------------------------------------------------

    def _product(self, e: Op) -> Expr:
        """constant * (factors, those of fewer axes first) / divisors."""
        factors: list[Expr] = []
        divisors: list[Expr] = []
        scale = _collect(e, factors, divisors)
        if scale is None:
            return self._sorted(e)
        above = self._times(sorted(factors, key=self._order), scale, e.dtype)
        for d in sorted(divisors, key=self._order):
            above = Op("reciprocal", (d,), e.dtype) if above is None else Op("div", (above, d), e.dtype)
        return const(scale, e.dtype) if above is None else above

    def _times(self, factors: list[Expr], scale: float, dtype: DType) -> Expr | None:
        scale = shortest(scale) if dtype.name == "f32" else scale
        if not factors:
            return None if scale == 1.0 else const(scale, dtype)
        total, *rest = factors
        if scale not in (1.0, -1.0):
            total = Op("mul", (total, const(scale, dtype)), dtype)
        for f in rest:
            total = Op("mul", (total, f), dtype)
        return Op("neg", (total,), dtype) if scale == -1.0 else total

    # --- selects -------------------------------------------------------------------------------------------------

    def _select(self, e: Op) -> Expr:
        """Conditions are conjunctions of `lt`, `eq` and loaded masks where a swap of the branches makes them so."""
        p, a, b = e.args
        if isinstance(p, Op) and p.name in ("ge", "ne", "or") and not p.args[0].dtype.is_float:
            return self._rebuild("where", (self._negated(p), b, a), e.dtype)
        known = assume(a, p, True, self._rebuild), assume(b, p, False, self._rebuild)
        if known != (a, b):
            return self._rebuild("where", (p, *known), e.dtype)
        if isinstance(b, Op) and b.name == "where" and b.args[1] is a:  # either condition gives a
            p = self._rebuild("or", (p, b.args[0]), BOOL)
            return self._rebuild("where", (p, a, b.args[2]), e.dtype)
        if isinstance(a, Op) and a.name == "where" and a.args[2] is b:  # both conditions are needed for the inner value
            p = self._rebuild("and", (p, a.args[0]), BOOL)
            return self._rebuild("where", (p, a.args[1], b), e.dtype)
        return e

    def _negated(self, p: Op) -> Expr:
        if p.name == "or":
            return self._rebuild("and", tuple(exact("not", (q,), BOOL) for q in p.args), BOOL)
        return exact("not", (p,), BOOL)

    def _lift_select(self, e: Op) -> Expr | None:
        """x + where(p, -inf, 0) -> where(p, -inf, x): one branch swallows the sum, the other does not change it."""
        for k, side in enumerate(e.args):
            if not (isinstance(side, Op) and side.name == "where") or not e.dtype.is_float:
                continue
            branches = side.args[1:]
            if not all(isinstance(b, Const) and _absorbs(b) for b in branches):
                continue
            other = e.args[1 - k]
            if e.name == "sub" and k == 0:
                continue
            new = tuple(_plus(other, b, negate=e.name == "sub") for b in branches)
            return self._rebuild("where", (side.args[0], *new), e.dtype)
        return None


def _absorbs(c: Expr) -> bool:
    return isinstance(c, Const) and (c.value == 0.0 or math.isinf(c.value))


def _plus(x: Expr, c: Expr, negate: bool) -> Expr:
    assert isinstance(c, Const)
    if c.value == 0.0:
        return x
    return const(-c.value if negate else c.value, c.dtype)


def _collect(e: Expr, factors: list[Expr], divisors: list[Expr]) -> float | None:
    """Appends the factors and divisors of a product and returns its constant; None where the constant is extreme."""
    if isinstance(e, Const):
        return e.value if e.value != 0 and 1 / LARGEST < abs(e.value) < LARGEST else None
    if not isinstance(e, Op) or e.name not in PRODUCT:
        factors.append(e)
        return 1.0
    if e.name == "neg":
        inner = _collect(e.args[0], factors, divisors)
        return None if inner is None else -inner
    if e.name == "reciprocal":
        divisors.append(e.args[0])
        return 1.0
    left = _collect(e.args[0], factors, divisors)
    if e.name == "div":
        divisor = e.args[1]
        if isinstance(divisor, Op) and divisor.name == "sqrt":
            factors.append(Op("rsqrt", divisor.args, e.dtype))
        else:
            divisors.append(divisor)
        return left
    right = _collect(e.args[1], factors, divisors)
    if left is None or right is None:
        return None
    return _product_of(left, right, e.dtype)


def _product_of(a: float, b: float, dtype: DType) -> float | None:
    """a * b; None where it is extreme."""
    product = a * b if dtype.name == "f64" else shortest(a * b)
    return product if 1 / LARGEST < abs(product) < LARGEST else None


def shortest(value: float) -> float:
    """The decimal that stands for all spellings of an f32 constant: 0.25000001 and 1/4 are 0.25.

    A short one may be as far from `value` as f32 rounds; a long one is the same f32, or every element would be off the
    same way, which sums do not average out.
    """
    for digits in range(1, 10):
        short = float(f"{value:.{digits}g}")
        near = abs(short - value) <= HALF_ULP * abs(value) if digits <= FEW_DIGITS else _same_f32(short, value)
        if near:
            return short
    return value


def _same_f32(a: float, b: float) -> bool:
    try:
        return struct.pack("f", a) == struct.pack("f", b)
    except OverflowError:
        return False


def join_equal(kernel: Kernel, simplify: Simplifier) -> Kernel:
    """Two equations with equal right sides are one."""
    seen: dict[object, Equation] = {}
    renamed: dict[str, str] = {}
    body: list[Statement] = []

    def load(e: Load) -> Expr:
        return Load(renamed.get(e.name, e.name), e.index, e.dtype, e.guard)

    rewrite = Rewriter(load=load, rebuild=simplify)
    for s in kernel.body:
        s = rewritten(s, rewrite) if renamed else s
        if isinstance(s, Equation):
            key = (s.axes, s.reduce, s.state, s.scan, s.reverse, s.args)
            first = seen.get(key)
            if first is not None and all(b == "_" or a != "_" for a, b in zip(first.names, s.names, strict=True)):
                renamed.update({b: a for a, b in zip(first.names, s.names, strict=True) if b != "_"})
                rewrite.memo.clear()
                continue
            seen.setdefault(key, s)
        body.append(s)
    return replace(kernel, body=tuple(body)) if renamed else kernel
