"""What a quantized layer holds: the format of its weights, the format of its inputs, and what stands beside them.

Scheme(Int(4, 128))                        w4a16: INT4 weights, one scale per 128 of them; inputs as they are
Scheme(Int(8), Int(8))                     w8a8: INT8 weights and inputs, a scale per output channel and per row
Scheme(Table(4, 64, NF4), rank=16)         NormalFloat codes plus a product of two thin matrices

Weights are [N, K] as in `torch.nn.Linear`; groups and blocks lie along K, the axis that the product sums over.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from ...ir.errors import BadInput

MX_BLOCK = 32  # elements that share a power of two; OCP Microscaling Formats, arXiv:2310.10537
FP8_BLOCK = 128  # 128 x 128 weights, 1 x 128 inputs; DeepSeek-V3, arXiv:2412.19437
GRAINS = ("tensor", "row", "block")

# Quantiles of a normal distribution, with zero, scaled to [-1, 1]: 4-bit NormalFloat of QLoRA, arXiv:2305.14314
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Int:
    """Integers times a scale; with `symmetric=False` minus a zero point before it.

    bits    2 to 8; inputs take 4 or 8
    group   how many elements along K share a scale; 0: all of a row
    power   scales are powers of two: block floating point, as in MSFP (Darvish Rouhani et al., NeurIPS 2020)
    """

    bits: int
    group: int = 0
    symmetric: bool = True
    power: bool = False

    def __post_init__(self) -> None:
        _check("bits of an integer format", self.bits, range(2, 9), "2 to 8; Planes and Ternary go lower")
        _check_group(self.group)
        if self.power and not self.symmetric:
            raise BadInput("block floating point is symmetric", hint="leave out symmetric=False")


@dataclass(frozen=True, slots=True)
class Planes:
    """Bipolar integers in bit planes: sum(i) 2^i (2 b_i - 1), the odd numbers of n bits. arXiv:2409.17870."""

    bits: int
    group: int = 0

    def __post_init__(self) -> None:
        _check("bit planes", self.bits, range(1, 9), "1 to 8")
        _check_group(self.group)


@dataclass(frozen=True, slots=True)
class Ternary:
    """-1, 0 and 1 times the mean magnitude of the matrix: BitNet b1.58 (arXiv:2402.17764), TriLM (arXiv:2407.12327)."""


@dataclass(frozen=True, slots=True)
class Float8:
    """FP8 e4m3 (arXiv:2209.05433) times a scale of its tensor, its row, or its block of 128."""

    grain: str = "tensor"

    def __post_init__(self) -> None:
        _check("grain of FP8 scales", self.grain, GRAINS, ", ".join(GRAINS))


@dataclass(frozen=True, slots=True)
class Micro:
    """MXFP4 (e2m1) and MXFP8 (e4m3): 32 elements share a power of two. arXiv:2310.10537."""

    bits: int

    def __post_init__(self) -> None:
        _check("bits of a microscaling format", self.bits, (4, 8), "4 or 8")


@dataclass(frozen=True, slots=True)
class Table:
    """Codes of 2 to 4 bits into a table: the given values times a scale per group, or each row's own k-means.

    values  2^bits of them, such as NF4; none: k-means of each row (SqueezeLLM, arXiv:2306.07629), without scales
    """

    bits: int
    group: int = 0
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check("bits of a codebook", self.bits, range(2, 5), "2 to 4")
        _check_group(self.group)
        if self.values and (len(self.values) != 2**self.bits or not any(self.values)):
            raise BadInput("a table of other length", expected=f"{2**self.bits} values, not all 0", got=self.values)
        if not self.values and self.group:
            raise BadInput("k-means has a table per row and no groups", hint="leave out the group")


@dataclass(frozen=True, slots=True)
class Mixed:
    """Inputs in blocks along K, of which the loudest take 8 bits and the others 4. COMET, arXiv:2410.12168.

    share   how much of K takes 8 bits; channels are reordered by their loudness on the calibration inputs
    """

    group: int = 128
    share: float = 0.125

    def __post_init__(self) -> None:
        _check_group(self.group, least=1)
        if not 0 <= self.share <= 1:
            raise BadInput("the share of 8-bit blocks is a fraction", expected="0 to 1", got=self.share)


Format = Int | Planes | Ternary | Float8 | Micro | Table | Mixed
FORMATS: dict[str, type[Format]] = {f.__name__: f for f in (Int, Planes, Ternary, Float8, Micro, Table, Mixed)}
FOR_INPUTS = (Int, Float8, Micro, Mixed)


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a layer is quantized.

    weight      any format but Mixed
    activation  Int of 4 or 8 bits, Float8, Micro(8) or Mixed, found anew for each call; None: inputs stay as they are
    static      inputs are rounded by one scale, found from calibration inputs, instead
    smooth      exponent by which loud input channels pass their magnitude on to the weights (SmoothQuant,
                arXiv:2211.10438; FireQ, arXiv:2505.20839); 0: not at all
    rank        of a product of two thin matrices that takes up what rounding loses (LQ-LoRA, arXiv:2311.12023); 0: none
    """

    weight: Format
    activation: Format | None = None
    static: bool = False
    smooth: float = 0.0
    rank: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.weight, Mixed):
            raise BadInput("weights have one format", got="Mixed", hint="Mixed is for inputs: Scheme(Int(4), Mixed())")
        if self.activation is not None:
            _check_inputs(self.activation)
        if self.static and (not isinstance(self.activation, Int) or self.activation.group):
            raise BadInput("static scales are for integers without groups", got=self.activation, hint="such as Int(8)")
        if not 0 <= self.smooth <= 1:
            raise BadInput("the exponent of smoothing is a fraction", expected="0 to 1", got=self.smooth)
        if self.smooth and self.activation is None:
            raise BadInput("smoothing is for schemes that round inputs", hint="give an activation, such as Int(8)")
        if self.rank < 0 or (self.rank and self.activation is not None):
            raise BadInput("low-rank parts stand beside weight-only schemes", expected="rank >= 0, no activation")

    @property
    def needs_calibration(self) -> bool:
        return self.static or self.smooth > 0 or isinstance(self.activation, Mixed)


def group_of(form: Format | None) -> int:
    """How many elements along K share a scale; 0 where a whole row or more does."""
    if isinstance(form, Micro):
        return MX_BLOCK
    if isinstance(form, Float8):
        return FP8_BLOCK if form.grain == "block" else 0
    return getattr(form, "group", 0)


# --- as data -----------------------------------------------------------------------------------------------------


def encode_scheme(scheme: Scheme) -> dict[str, Any]:
    """The scheme as plain JSON values."""
    whole = {f.name: getattr(scheme, f.name) for f in fields(Scheme)}
    return {name: _encode_format(value) if type(value) in FORMATS.values() else value for name, value in whole.items()}


def decode_scheme(data: Any) -> Scheme:
    """Raises BadInput for data that `encode_scheme` did not make."""
    try:
        whole: dict[str, Any] = {n: _decode_format(v) if isinstance(v, dict) else v for n, v in data.items()}
        return Scheme(**whole)
    except (AttributeError, KeyError, TypeError) as error:
        raise BadInput(f"not a scheme: {error}", got=data, hint="the file was written by another treadle") from None


def _encode_format(form: Format) -> dict[str, Any]:
    return {"format": type(form).__name__, **asdict(form)}


def _decode_format(data: dict[str, Any]) -> Format:
    options: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in data.items() if n != "format"}
    return FORMATS[data["format"]](**options)


# --- checks ------------------------------------------------------------------------------------------------------


def _check(what: str, value: Any, allowed: Any, expected: str) -> None:
    if value not in allowed:
        raise BadInput(f"no such {what}", expected=expected, got=value)


def _check_group(group: int, least: int = 0) -> None:
    if group < least:
        raise BadInput("a group counts elements", expected=f"at least {least}", got=group)


def _check_inputs(form: Format) -> None:
    fits = isinstance(form, FOR_INPUTS) and (not isinstance(form, Int) or (form.bits in (4, 8) and form.symmetric))
    if not fits or form == Micro(4):
        expected = "Int(8), Int(4), Float8(), Micro(8) or Mixed(), symmetric"
        raise BadInput("inputs are not rounded to this format", expected=expected, got=form)
