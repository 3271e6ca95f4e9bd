"""Schemes by name: "w4a16-g64-asym" -> Scheme(Int(4, 64, symmetric=False)).

A name is a head and options, joined by "-", in any order:

    w2a16 ... w8a16    INT2 to INT8 weights; -gN groups of N (128, and none for 8 bits), -asym, -nf4
    w8a8, w4a8, w4a4   integers on both sides; -static, -smooth, -gN, and -fp8 for w4a8
    w4ax               INT4 weights; blocks of inputs in 4 or 8 bits
    fp8                e4m3 on both sides; -row, -block, -a16 (weights only)
    ternary            -1, 0, 1; -a8 (INT8 inputs)
    codebook2 ... 4    k-means of each row
    planes1 ... 8      bipolar integers in bit planes; -gN
    bfp4, bfp8         block floating point, blocks of 16 (-gN); -a8 (inputs too, in 8 bits)
    mxfp4, mxfp8       microscaling; -a8 (inputs too, in MXFP8)

-rN adds a low-rank part to any scheme of weights alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ...ir.errors import BadInput, SettingError
from .schemes import NF4, Float8, Int, Micro, Mixed, Planes, Scheme, Table, Ternary

GROUP, NF4_GROUP, BFP_GROUP, SMOOTH = 128, 64, 16, 0.5

SCHEMES = (
    "w8a8", "w8a8-static", "w8a8-smooth", "w8a16", "w4a16", "w4a16-g64", "w4a16-g32", "w4a16-asym", "w4a16-nf4",
    "w3a16", "w2a16", "w4a8", "w4a8-fp8", "w4a8-smooth", "w4a4", "w4ax", "fp8", "fp8-row", "fp8-block", "ternary",
    "ternary-a8", "codebook2", "codebook3", "codebook4", "bfp4", "bfp8", "mxfp4", "mxfp8",
    *(f"planes{n}" for n in range(1, 9)), "w4a16-nf4-r16",
)  # fmt: skip


@dataclass(slots=True)
class _Options:
    """The words behind the head; what nobody took is an error."""

    words: list[str] = field(default_factory=list)

    def flag(self, word: str) -> bool:
        if word not in self.words:
            return False
        self.words.remove(word)
        return True

    def number(self, letter: str, default: int) -> int:
        found = [w for w in self.words if re.fullmatch(rf"{letter}\d+", w)]
        if not found:
            return default
        self.words.remove(found[0])
        return int(found[0][1:])


def parse_scheme(scheme: str | Scheme) -> Scheme:
    """The scheme of a name; a scheme itself is returned as it is. Raises SettingError, which lists the schemes."""
    if isinstance(scheme, Scheme):
        return scheme
    if not isinstance(scheme, str):
        raise BadInput("not a scheme", expected="a name such as 'w4a16', or a Scheme", got=repr(scheme))
    head, *words = scheme.lower().split("-")
    options = _Options(words)
    for pattern, make in _HEADS.items():
        match = re.fullmatch(pattern, head)
        if match:
            rank = options.number("r", 0)
            made = replace(make(options, *map(int, match.groups())), rank=rank)
            break
    else:
        raise SettingError("no such scheme", got=scheme, choices=SCHEMES)
    if options.words:
        raise SettingError(f"{head!r} has no option {options.words[0]!r}", got=scheme, choices=SCHEMES)
    return made


def _weight_only(options: _Options, bits: int) -> Scheme:
    if bits == 4 and options.flag("nf4"):
        return Scheme(Table(4, options.number("g", NF4_GROUP), NF4))
    group = options.number("g", 0 if bits == 8 else GROUP)
    return Scheme(Int(bits, group, symmetric=not options.flag("asym")))


def _both(options: _Options, weight_bits: int, input_bits: int) -> Scheme:
    weight = Int(weight_bits, options.number("g", 0))
    smooth = SMOOTH if options.flag("smooth") else 0.0
    if (weight_bits, input_bits) == (4, 8) and options.flag("fp8"):
        return Scheme(weight, Float8("row"), smooth=smooth)
    return Scheme(weight, Int(input_bits), options.flag("static"), smooth)


def _mixed(options: _Options) -> Scheme:
    group = options.number("g", GROUP)
    return Scheme(Int(4, group), Mixed(group))


def _fp8(options: _Options) -> Scheme:
    grain = next((g for g in ("row", "block") if options.flag(g)), "tensor")
    return Scheme(Float8(grain), None if options.flag("a16") else Float8(grain))


def _bfp(options: _Options, bits: int) -> Scheme:
    group = options.number("g", BFP_GROUP)
    return Scheme(Int(bits, group, power=True), Int(8, group, power=True) if options.flag("a8") else None)


_HEADS: dict[str, Callable[..., Scheme]] = {
    r"w([2-8])a16": _weight_only,
    r"w([48])a(8)": _both,
    r"w(4)a(4)": _both,
    r"w4ax": _mixed,
    r"fp8": _fp8,
    r"nf4": lambda options: Scheme(Table(4, options.number("g", NF4_GROUP), NF4)),
    r"ternary": lambda options: Scheme(Ternary(), Int(8) if options.flag("a8") else None),
    r"codebook([2-4])": lambda options, bits: Scheme(Table(bits)),
    r"planes([1-8])": lambda options, bits: Scheme(Planes(bits, options.number("g", 0))),
    r"bfp([48])": _bfp,
    r"mxfp([48])": lambda options, bits: Scheme(Micro(bits), Micro(8) if options.flag("a8") else None),
}


def name_scheme(scheme: Scheme) -> str:
    """The shortest text that says which scheme it is: its name where it has one, else its fields."""
    head = _name_formats(scheme)
    group = getattr(scheme.weight, "group", 0)
    words = ["static"] * scheme.static + ["smooth"] * (scheme.smooth > 0) + [f"r{scheme.rank}"] * (scheme.rank > 0)
    names = ("-".join([head, *words]), "-".join([head, f"g{group}", *words]))
    return next((name for name in names if _is_name_of(name, scheme)), str(scheme))


def _is_name_of(name: str, scheme: Scheme) -> bool:
    try:
        return parse_scheme(name) == scheme
    except (BadInput, SettingError):
        return False


def _name_formats(scheme: Scheme) -> str:
    weight, inputs = scheme.weight, scheme.activation
    a8 = "-a8" * (inputs is not None)
    if isinstance(weight, Float8):
        return f"fp8-{weight.grain}".removesuffix("-tensor") + "-a16" * (inputs is None)
    if isinstance(weight, Ternary):
        return f"ternary{a8}"
    if isinstance(weight, Micro):
        return f"mxfp{weight.bits}{a8}"
    if isinstance(weight, Planes):
        return f"planes{weight.bits}"
    if isinstance(weight, Table):
        return "w4a16-nf4" if weight.values == NF4 else f"codebook{weight.bits}"
    if isinstance(weight, Int) and weight.power:
        return f"bfp{weight.bits}{a8}"
    asym = "-asym" * (isinstance(weight, Int) and not weight.symmetric)
    ending = {Float8: "8-fp8", Mixed: "x", type(None): "16"}.get(type(inputs), str(getattr(inputs, "bits", "")))
    return f"w{getattr(weight, 'bits', '')}a{ending}{asym}"
