"""Building expressions in normal form: constant folding and the identities that are exact in IEEE arithmetic.

Rules are values: an op name and a function (args, dtype) -> new expression or None; lists of rules add with `+`. The
exact rules always hold, bit for bit, NaN, infinities and signed zeros included; the fast ones change rounding only.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from .expr import FALSE, TRUE, Const, Expr, Iota, Op, const
from .index import Index, bounds
from .scalar import SCALAR_OPS, fold_constants, iota, is_const, result_dtype, round_to
from .types import BOOL, F32, I64, DType, is_nonnegative, multiply, plus

Args = tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """`before -> after` says what `apply` does at nodes of `op`; it returns None where it does not match."""

    op: str
    text: str
    apply: Callable[[Args, DType], Expr | None]


class Simplifier:
    """Applies a rule list at construction; use it as the `rebuild` of an expression rewriter.

    is_fast  whether roundings may differ from those of what was written
    """

    def __init__(self, rules: list[Rule], *, is_fast: bool = False) -> None:
        self.is_fast = is_fast
        self._by_op: dict[str, list[Rule]] = defaultdict(list)
        for rule in rules:
            self._by_op[rule.op].append(rule)

    def __call__(self, name: str, args: Args, dtype: DType) -> Expr:
        folded = fold_constants(name, args, dtype) if name != "cast" else _fold_cast(args[0], dtype)
        if folded is not None:
            return folded
        decided = self._fold_branches(name, args, dtype)
        if decided is not None:
            return decided
        if SCALAR_OPS[name].commutative and isinstance(args[0], Const) and not isinstance(args[1], Const):
            args = (args[1], args[0])
        for rule in self._by_op[name]:
            new = rule.apply(args, dtype)
            if new is not None:
                return new
        return Op(name, args, dtype)

    def _fold_branches(self, name: str, args: Args, dtype: DType) -> Expr | None:
        """where(p, 0, 1) == 0 -> where(p, true, false): an op on a choice of constants is a choice of results."""
        choices = [a for a in args if isinstance(a, Op) and a.name == "where"]
        if name in ("cast", "where") or len(choices) != 1 or not all(isinstance(c, Const) for c in choices[0].args[1:]):
            return None
        branches: list[Expr] = []
        for branch in choices[0].args[1:]:
            chosen = tuple(branch if a is choices[0] else a for a in args)
            folded = fold_constants(name, chosen, dtype)
            if folded is None:
                return None
            branches.append(folded)
        return self("where", (choices[0].args[0], *branches), dtype)


def make(name: str, *args: Expr) -> Expr:
    """A checked operation in exact normal form."""
    return exact(name, args, result_dtype(name, args))


def make_cast(value: Expr, dtype: DType) -> Expr:
    return value if value.dtype is dtype else exact("cast", (value,), dtype)


def both(a: Expr | None, b: Expr | None) -> Expr | None:
    """The conjunction of two optional guards."""
    if a is None or b is None:
        return b if a is None else a
    return make("and", a, b)


# --- exact rules -------------------------------------------------------------------------------------------------


def _fold_cast(value: Expr, dtype: DType) -> Expr | None:
    if not isinstance(value, Const):
        return None
    given = round_to(value.value, value.dtype)  # a tiny number of a narrow type is 0, and so false
    if isinstance(given, float) and not dtype.is_float and not math.isfinite(given):
        return TRUE if dtype is BOOL else None
    from_float = isinstance(given, float) and dtype.is_integer
    if from_float and not dtype.limits[0] <= given <= dtype.limits[1]:
        return None  # what the conversion gives is the machine's business
    if dtype.is_float:
        twice = isinstance(given, int) and abs(given) > 2**53  # float() would round before round_to does
        return None if twice else const(round_to(float(given), dtype), dtype)
    return const(given, dtype)


def _add_zero(args: Args, dtype: DType) -> Expr | None:
    if is_const(args[1], -0.0 if dtype.is_float else 0):
        return args[0]
    return None


def _times_one(args: Args, dtype: DType) -> Expr | None:
    if is_const(args[1], 1):
        return args[0]
    return const(0, dtype) if dtype.is_integer and is_const(args[1], 0) else None


def _divide_by_power_of_two(args: Args, dtype: DType) -> Expr | None:
    divisor = args[1]
    if not isinstance(divisor, Const) or divisor.value == 0 or not math.isfinite(divisor.value):
        return None
    factor = 1.0 / divisor.value
    if abs(math.frexp(divisor.value)[0]) != 0.5 or round_to(factor, dtype) != factor:
        return None
    return exact("mul", (args[0], const(factor, dtype)), dtype)


def _power(args: Args, dtype: DType) -> Expr | None:
    """torch computes these exponents by products and roots, not by pow."""
    x, exponent = args
    if not isinstance(exponent, Const):
        return None
    square = exact("mul", (x, x), dtype)
    by_value: dict[float, Callable[[], Expr]] = {
        1.0: lambda: x,
        2.0: lambda: square,
        3.0: lambda: exact("mul", (square, x), dtype),
        0.5: lambda: exact("sqrt", (x,), dtype),
        -0.5: lambda: exact("rsqrt", (x,), dtype),
        -1.0: lambda: exact("reciprocal", (x,), dtype),
        -2.0: lambda: exact("reciprocal", (square,), dtype),
    }
    build = by_value.get(float(exponent.value))
    return None if build is None else build()


def _undo(name: str) -> Callable[[Args, DType], Expr | None]:
    def apply(args: Args, dtype: DType) -> Expr | None:
        inner = args[0]
        return inner.args[0] if isinstance(inner, Op) and inner.name == name else None

    return apply


def _abs(args: Args, dtype: DType) -> Expr | None:
    inner = args[0]
    if isinstance(inner, Op) and inner.name == "neg" and dtype.is_float:
        return exact("abs", inner.args, dtype)
    return inner if isinstance(inner, Op) and inner.name == "abs" else None


def _and(args: Args, dtype: DType) -> Expr | None:
    a, b = args
    if a is b:
        return a
    if dtype is BOOL and isinstance(b, Const):
        return a if b.value else FALSE
    return None


def _or(args: Args, dtype: DType) -> Expr | None:
    a, b = args
    if a is b:
        return a
    if dtype is BOOL and isinstance(b, Const):
        return TRUE if b.value else a
    return None


def _not(args: Args, dtype: DType) -> Expr | None:
    """not (i < j) -> i >= j for integers; floats keep their NaNs."""
    inner = args[0]
    if not isinstance(inner, Op):
        return None
    if inner.name == "not":
        return inner.args[0]
    opposite = {"lt": "ge", "ge": "lt", "le": "gt", "gt": "le", "eq": "ne", "ne": "eq"}.get(inner.name)
    if opposite is None or (inner.args[0].dtype.is_float and inner.name not in ("eq", "ne")):
        return None
    return exact(opposite, inner.args, BOOL)


def _where(args: Args, dtype: DType) -> Expr | None:
    p, a, b = args
    if a is b:
        return a
    if isinstance(p, Const):
        return a if p.value else b
    if isinstance(p, Op) and p.name == "not":
        return exact("where", (p.args[0], b, a), dtype)
    if dtype is BOOL and a is TRUE and b is FALSE:
        return p
    if dtype is BOOL and a is FALSE and b is TRUE:
        return exact("not", (p,), BOOL)
    if isinstance(a, Op) and a.name == "where" and a.args[0] is p:
        return exact("where", (p, a.args[1], b), dtype)
    if isinstance(b, Op) and b.name == "where" and b.args[0] is p:
        return exact("where", (p, a, b.args[2]), dtype)
    if isinstance(b, Op) and b.name == "where":
        known = _assume(b.args[0], exact("not", (p,), BOOL))
        if known is not b.args[0]:
            return exact("where", (p, a, exact("where", (known, *b.args[1:]), dtype)), dtype)
    return None


def _assume(condition: Expr, fact: Expr) -> Expr:
    """The condition where `fact` is known to hold: a conjunct that is the fact goes."""
    if condition is fact:
        return TRUE
    if isinstance(condition, Op) and condition.name == "and":
        return exact("and", tuple(_assume(c, fact) for c in condition.args), BOOL)
    return condition


def _same_operands(args: Args, dtype: DType) -> Expr | None:
    return args[0] if args[0] is args[1] else None


def _cast(args: Args, dtype: DType) -> Expr | None:
    """A conversion to a type that holds every value of the source changes nothing on the way back or further on."""
    inner = args[0]
    if inner.dtype is dtype:
        return inner
    if isinstance(inner, Op) and inner.name == "cast" and _holds(inner.dtype, inner.args[0].dtype):
        return make_cast(inner.args[0], dtype)
    if isinstance(inner, Op) and inner.name == "where":
        return exact("where", (inner.args[0], *(make_cast(a, dtype) for a in inner.args[1:])), dtype)
    if (
        isinstance(inner, Op)
        and inner.name == "neg"
        and dtype.is_float
        and _holds(dtype, inner.dtype)
        and inner.dtype.is_float
    ):
        return exact("neg", (make_cast(inner.args[0], dtype),), dtype)
    return None


def _holds(wide: DType, narrow: DType) -> bool:
    """True when every value of `narrow` is exactly one of `wide`."""
    if narrow is BOOL:
        return True
    if wide is BOOL or (narrow.is_float and not wide.is_float):
        return False
    if wide.is_float and narrow.is_float:
        return wide is narrow or (wide.itemsize > narrow.itemsize)
    if wide.is_float:
        digits = {"f64": 53, "f32": 24, "f16": 11, "bf16": 8}[wide.name]
        return max(abs(v) for v in narrow.limits) <= 2**digits
    return wide.limits[0] <= narrow.limits[0] and narrow.limits[1] <= wide.limits[1]


def _difference(args: Args) -> Index | None:
    """a - b as an index, where both are index values or i64 constants."""
    sides = [e.position for e in args]
    if args[0].dtype is not I64 or sides[0] is None or sides[1] is None:
        return None
    return sides[0] - sides[1]


def _compare_indices(name: str) -> Callable[[Args, DType], Expr | None]:
    """A comparison of indices that the ranges decide: i < 8 with i:8 -> true."""

    def decide(args: Args, dtype: DType) -> Expr | None:
        difference = _difference(args)
        if difference is None:
            return None
        low, high = bounds(difference)
        negative = is_nonnegative(plus(multiply(high, -1), -1))
        positive = is_nonnegative(plus(low, -1))
        least, most = is_nonnegative(low), is_nonnegative(multiply(high, -1))
        zero = least and most
        true = {"lt": negative, "le": most, "gt": positive, "ge": least, "eq": zero, "ne": negative or positive}[name]
        false = {"lt": least, "le": positive, "gt": most, "ge": negative, "eq": negative or positive, "ne": zero}[name]
        return TRUE if true else FALSE if false else _ordered_comparison(name, difference, args)

    return decide


def _ordered_comparison(name: str, difference: Index, args: Args) -> Expr | None:
    """One spelling of each comparison: lt, ge, eq or ne; positive terms left, negative terms and the constant right."""
    if difference.terms and not is_nonnegative(difference.terms[0][1]):
        difference = difference * -1
        name = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}.get(name, name)
    if name in ("le", "gt"):  # a <= b is a < b + 1 for integers
        difference = difference + -1
        name = "lt" if name == "le" else "ge"
    positive = Index(tuple((a, c) for a, c in difference.terms if is_nonnegative(c)))
    left, right = iota(positive), iota(positive - difference)
    return None if (left, right) == args and not isinstance(left, Const) else Op(name, (left, right), BOOL)


def _index_arithmetic(name: str) -> Callable[[Args, DType], Expr | None]:
    """i64 sums, differences and products with a constant of indices are indices again."""

    def merge(args: Args, dtype: DType) -> Expr | None:
        if dtype is not I64 or not any(isinstance(a, Iota) for a in args):
            return None
        sides = [e.position for e in args]
        a, b = sides
        if a is None or b is None or any(abs(s.const) > 2**31 for s in (a, b) if isinstance(s.const, int)):
            return None
        if name == "add":
            return iota(a + b)
        if name == "sub":
            return iota(a - b)
        if b.is_constant and (not isinstance(b.const, int) or b.const > 0) and name in ("div_floor", "mod_floor"):
            return iota(a // b.const if name == "div_floor" else a % b.const)
        return iota(a * b.const) if b.is_constant and name == "mul" else None

    return merge


EXACT: list[Rule] = [
    Rule("add", "x + (-0.0) -> x;  i + 0 -> i", _add_zero),
    Rule("sub", "x - 0.0 -> x", lambda a, d: a[0] if is_const(a[1], 0.0 if d.is_float else 0) else None),
    Rule("mul", "x * 1 -> x;  i * 0 -> 0", _times_one),
    Rule("div", "x / 1 -> x", lambda a, d: a[0] if is_const(a[1], 1.0) else None),
    Rule("div", "x / 2^k -> x * 2^-k", _divide_by_power_of_two),
    Rule("pow", "x ** 2 -> x * x, and the other exponents that torch treats apart", _power),
    Rule("neg", "-(-x) -> x", _undo("neg")),
    Rule("abs", "|-x| -> |x|", _abs),
    Rule("and", "p & p -> p;  p & true -> p", _and),
    Rule("or", "p | p -> p;  p | false -> p", _or),
    Rule("not", "not not p -> p;  not (i < j) -> i >= j", _not),
    Rule("where", "where(p, x, x) -> x;  where(not p, a, b) -> where(p, b, a);  nested same condition", _where),
    Rule("min", "min(x, x) -> x", _same_operands),
    Rule("max", "max(x, x) -> x", _same_operands),
    Rule("cast", "f32(f64(x: f32)) -> x", _cast),
    *(Rule(c, "decided by index ranges", _compare_indices(c)) for c in ("lt", "le", "gt", "ge", "eq", "ne")),
    *(
        Rule(n, "arithmetic of indices is an index", _index_arithmetic(n))
        for n in ("add", "sub", "mul", "div_floor", "mod_floor")
    ),
]

# --- fast rules: `numerics="fast"` ---------------------------------------------------------------------------------


def _drop_rounding(args: Args, dtype: DType) -> Expr | None:
    inner = args[0]
    narrowed = isinstance(inner, Op) and inner.name == "cast" and inner.dtype.name in ("f16", "bf16")
    if narrowed and dtype is F32 and inner.args[0].dtype is F32:  # type: ignore[union-attr]
        return inner.args[0]  # type: ignore[union-attr]
    return None


def _gather_scales(args: Args, dtype: DType) -> Expr | None:
    """(x * c1) * c2 -> x * (c1*c2), where the product neither overflows nor vanishes."""
    inner, outer = args
    if not (dtype.is_float and isinstance(outer, Const) and isinstance(inner, Op) and inner.name == "mul"):
        return None
    if not isinstance(inner.args[1], Const):
        return None
    product = inner.args[1].value * outer.value
    if not math.isfinite(product) or not 1e-30 < abs(product) < 1e30:
        return None
    return fast("mul", (inner.args[0], const(product, dtype)), dtype)


def _divide_by_constant(args: Args, dtype: DType) -> Expr | None:
    divisor = args[1]
    if dtype.is_float and isinstance(divisor, Const) and 1e-30 < abs(divisor.value) < 1e30:
        return fast("mul", (args[0], const(1.0 / divisor.value, dtype)), dtype)
    return None


QUOTIENT = "x / c -> x * (1/c)"
FAST: list[Rule] = [
    Rule("cast", "f32(bf16(x: f32)) -> x", _drop_rounding),
    Rule("mul", "(x * c1) * c2 -> x * (c1*c2)", _gather_scales),
    Rule("div", QUOTIENT, _divide_by_constant),
    Rule(
        "reciprocal",
        "1 / sqrt(x) -> rsqrt(x)",
        lambda a, d: Op("rsqrt", a[0].args, d) if isinstance(a[0], Op) and a[0].name == "sqrt" else None,
    ),
    Rule("div", "1 / x -> reciprocal(x)", lambda a, d: fast("reciprocal", (a[1],), d) if is_const(a[0], 1.0) else None),
]

exact = Simplifier(EXACT)
fast = Simplifier(EXACT + FAST, is_fast=True)
fast_quotients = Simplifier(EXACT + [r for r in FAST if r.text != QUOTIENT], is_fast=True)


def simplifier(numerics: str, *, rounds: bool = False) -> Simplifier:
    """The rules of `numerics`. Where something is rounded to integers (`rounds`), quotients by constants stay exact: a
    number half way between two would else go the other way than in eager.
    """
    return exact if numerics != "fast" else fast_quotients if rounds else fast
