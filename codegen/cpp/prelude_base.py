"""How prelude texts are written: C++ definitions by name, with `$name` holes that a `Shape` fills."""

from __future__ import annotations

import re
from dataclasses import dataclass
from string import Template

from .isa import Isa

_NAME = re.compile(r"(\w+)(?= ?\(| __attribute__|;| \{)")
_CONTINUES = (" ", "}", ")")


@dataclass(frozen=True, slots=True)
class Shape:
    """A width to print for: `lanes` elements in every pack of instruction set `isa`.

    `bits` is the width of a pack of 4-byte elements, `wide_bits` that of 8-byte elements.
    """

    isa: Isa
    lanes: int

    def __post_init__(self) -> None:
        allowed = [n for n in (16, 8, 4) if 4 * n <= self.isa.vector_bytes] + [1]
        if self.lanes not in allowed:
            raise ValueError(
                f"packs of {self.isa.name} have {', '.join(map(str, allowed))} lanes, not {self.lanes}: "
                f"ask for isa.lanes(4), or isa.lanes(8) where 8-byte elements are computed"
            )

    @property
    def kind(self) -> str:
        """Which table of primitives serves: "avx512", "avx2" or "scalar" (any single lane)."""
        return "scalar" if self.lanes == 1 else self.isa.name

    @property
    def has_fma(self) -> bool:
        return self.isa.name != "scalar"

    @property
    def has_wide(self) -> bool:
        """Whether packs of 8-byte elements (D, L) fit a register."""
        return self.lanes == 1 or 8 * self.lanes <= self.isa.vector_bytes

    @property
    def bits(self) -> int:
        return 32 * self.lanes

    @property
    def wide_bits(self) -> int:
        return 64 * self.lanes

    def fill(self, text: str, **holes: object) -> str:
        """`text` with `$N` (lanes), `$b` (bits), `$q` (wide bits) and further `holes` filled in."""
        return Template(text).substitute(N=self.lanes, b=self.bits, q=self.wide_bits, **holes)


def split_definitions(text: str) -> dict[str, str]:
    """Definitions of a C++ text by name.

    A definition starts in column 0, goes on over indented lines and a closing brace, and takes the comments
    right above it. `F f(F x) {..}` is named f; `typedef float F ..;` is named F.
    """
    found: dict[str, str] = {}
    comment: list[str] = []
    name = ""
    for line in text.splitlines():
        if not line.strip():
            continue
        if line.startswith("//"):
            comment.append(line)
        elif line.startswith(_CONTINUES):
            found[name] += "\n" + line
        else:
            name = _definition_name(line)
            found[name] = "\n".join([*comment, line])
            comment = []
    return found


def _definition_name(line: str) -> str:
    match = _NAME.search(line)
    if match is None:
        raise ValueError(f"no definition starts in this line of the prelude: {line!r}")
    return match.group(1)


def cases(count: int, start: int = 0) -> str:
    """`0, 1, 2` .. as text: lane numbers of a shuffle or an iota."""
    return ", ".join(str(i) for i in range(start, start + count))


def horner(variable: str, coefficients: tuple[float, ...], suffix: str = "f") -> str:
    """A polynomial, lowest power first, as nested multiply-adds (the compiler contracts them).

    >>> horner("s", (1.0, 2.0, 3.0))
    '(3.0f * s + 2.0f) * s + 1.0f'
    """
    text = f"{coefficients[-1]!r}{suffix}"
    for power in range(len(coefficients) - 2, -1, -1):
        c = coefficients[power]
        text = f"{text} * {variable} {'-' if c < 0 else '+'} {abs(c)!r}{suffix}"
        if power:
            text = f"({text})"
    return text
