"""Builds functions of the C++ prelude into shared objects and calls them on arrays."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from treadle.codegen.cpp.isa import ISAS, LINK_LIBRARIES, Isa, read_cpu_flags
from treadle.codegen.cpp.prelude import known, prelude

ALL_WIDTHS = (
    ("avx512", 16), ("avx512", 8), ("avx512", 4), ("avx512", 1), ("avx2", 8), ("avx2", 4), ("avx2", 1), ("scalar", 1)
)  # fmt: skip
"""Every table of primitives at every width."""

WIDTHS = [(name, lanes) for name, lanes in ALL_WIDTHS if read_cpu_flags().issuperset(ISAS[name].needs)]
"""Those that this machine runs."""

_RARE = (("avx512", 4), ("avx512", 1))
EACH_WIDTH = [
    pytest.param(width, id="_".join(map(str, width)), marks=[pytest.mark.slow] if width in _RARE else [])
    for width in WIDTHS
]
"""The same as test parameters; widths that share their texts with others are slow tests."""

DTYPES = {
    "f32": np.float32, "f64": np.float64, "f16": np.float16, "bf16": np.uint16, "i8": np.int8, "u8": np.uint8,
    "i16": np.int16, "i32": np.int32, "i64": np.int64, "b8": np.bool_,
}  # fmt: skip
PACKS = {"F": "f32", "D": "f64", "I": "i32", "L": "i64", "M": "b8"}
"""A storage type that holds each pack unchanged."""

_WORD = re.compile(r"\b[A-Za-z_]\w*")


def is_wide(isa: Isa, lanes: int) -> bool:
    """Whether packs of 8-byte elements exist at this width."""
    return lanes == 1 or 8 * lanes <= isa.vector_bytes


@dataclass(frozen=True, slots=True)
class Map:
    """A kernel that computes `expression` of packs a, b, c, loaded and stored as the given storage types."""

    name: str
    result: str
    arguments: tuple[str, ...]
    expression: str

    def code(self, lanes: int) -> str:
        names = "abc"[: len(self.arguments)]
        parameters = ", ".join(f"const {t}* {p}_" for t, p in zip(self.arguments, names, strict=True))
        loads = " ".join(f"auto {p} = ld_{t}({p}_ + i);" for t, p in zip(self.arguments, names, strict=True))
        tails = " ".join(f"auto {p} = ld_{t}_n({p}_ + i, n - i);" for t, p in zip(self.arguments, names, strict=True))
        return f"""
extern "C" void {self.name}({parameters}, {self.result}* out, long n) {{
  using namespace w{lanes};
  long i = 0;
  for (; i + {lanes} <= n; i += {lanes}) {{ {loads} st_{self.result}(out + i, {self.expression}); }}
  if (i < n) {{ {tails} st_{self.result}_n(out + i, {self.expression}, n - i); }}
}}
"""


def map_of(function: str, pack: str, count: int = 1, result: str = "") -> Map:
    """`function`_`pack` of `count` packs, to a pack `result` (default: the same)."""
    full = f"{function}_{pack}"
    arguments = ", ".join("abc"[:count])
    return Map(f"t_{full}", PACKS[result or pack], (PACKS[pack],) * count, f"{full}({arguments})")


class Library:
    """A built file of kernels for one width."""

    def __init__(self, isa: Isa, lanes: int, path: Path) -> None:
        self.isa, self.lanes = isa, lanes
        self._library = ctypes.CDLL(str(path))

    def call(self, name: str, *arguments: np.ndarray | int) -> None:
        """Call a kernel; arrays are passed by pointer, integers as long."""
        values = [ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else ctypes.c_long(a) for a in arguments]
        getattr(self._library, name)(*values)

    def map(self, kernel: Map, *arguments: np.ndarray) -> np.ndarray:
        """The result of `kernel`, from an output that held garbage."""
        count = len(arguments[0])
        arrays = [np.ascontiguousarray(a, DTYPES[t]) for a, t in zip(arguments, kernel.arguments, strict=True)]
        out = np.full(count * np.dtype(DTYPES[kernel.result]).itemsize, 0xA5, np.uint8).view(DTYPES[kernel.result])
        self.call(kernel.name, *arrays, out, count)
        return out


def build(directory: Path, isa: Isa, lanes: int, code: str) -> Library:
    """Compile `code`, with all that it names of the prelude, as kernels are compiled. Warnings are errors."""
    text = prelude(isa, lanes, _prelude_names(code)) + code
    source = directory / f"{isa.name}_{lanes}.cpp"
    source.write_text(text)
    target = source.with_suffix(".so")
    command = ["g++", *isa.compile_flags, "-Wall", "-Wno-parentheses", "-Werror", "-o", str(target), str(source)]
    subprocess.run([*command, *LINK_LIBRARIES], check=True)
    return Library(isa, lanes, target)


def build_maps(directory: Path, isa: Isa, lanes: int, maps: Iterable[Map]) -> Library:
    return build(directory, isa, lanes, "".join(m.code(lanes) for m in maps))


def _prelude_names(code: str) -> set[str]:
    return {word for word in _WORD.findall(code) if known(word)}


SPECIAL_FLOATS = (
    0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 0.1, 3.0, -7.0, 1e-45, -1e-45, 1.1754944e-38, -1.1754942e-38,
    3.4028235e38, -3.4028235e38, float("inf"), float("-inf"), float("nan"), 65504.0, 65520.0, 6e-8, 8388607.5,
    16777217.0, 2147483648.0, -2147483648.0, 2147483520.0, 88.72283, 88.72284, -103.97, -104.0, 128.0, -126.5, -150.0,
)  # fmt: skip


def sample_floats(rng: np.random.Generator, count: int, dtype: type = np.float32) -> np.ndarray:
    """Special values, all bit patterns alike, and the ranges that models use; `count` of each."""
    bits = rng.integers(0, 2**32, count, dtype=np.uint32).view(np.float32)
    near = [rng.normal(0, s, count) for s in (1, 10, 1e-3)] + [rng.uniform(-1, 1, count), rng.uniform(-110, 110, count)]
    with np.errstate(all="ignore"):
        return np.concatenate([np.array(SPECIAL_FLOATS), bits, *near]).astype(dtype)


def sample_integers(rng: np.random.Generator, count: int, dtype: type) -> np.ndarray:
    info = np.iinfo(dtype)
    special = [0, 1, 2, 3, 7, info.max, info.max - 1, info.min, info.min + 1] + ([-1, -2, -7] if info.min else [])
    wide = rng.integers(info.min, info.max, count, dtype=dtype, endpoint=True)
    small = rng.integers(-20 if info.min else 0, 20, count)
    return np.concatenate([np.array(special, dtype), wide, small.astype(dtype)])


def pairs(values: np.ndarray, specials: int) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of the first `specials` values, then the others beside one another."""
    a, b = np.meshgrid(values[:specials], values[:specials])
    rest = values[specials:]
    return np.concatenate([a.ravel(), rest]), np.concatenate([b.ravel(), rest[::-1]])


def ulp_error(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Errors of floats in units of the last place of the exact double; infinite where one is NaN or infinite alone.

    Beyond the largest float the exact result counts as infinite, but the largest float itself is allowed there.
    """
    with np.errstate(all="ignore"):
        rounded = exact.astype(got.dtype)
        limit = np.finfo(got.dtype).max
        scale = np.spacing(np.minimum(np.abs(rounded), limit)).astype(np.float64)
        error = np.abs(got.astype(np.float64) - exact) / scale
    finite = np.isfinite(rounded) & np.isfinite(got)
    edge = ~finite & (np.abs(np.nan_to_num(got, posinf=limit, neginf=-limit)) == limit) & (np.abs(exact) >= limit)
    same = (rounded == got) | (np.isnan(rounded) & np.isnan(got)) | (edge & (np.sign(got) == np.sign(exact)))
    return np.where(finite, error, np.where(same, 0.0, np.inf))
