"""Which instruction set is chosen, and that its flags are ones the compiler takes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from treadle.codegen.cpp.isa import ISAS, choose_isa, detect_isa, read_cpu_flags

_AVX2 = {"avx2", "fma", "f16c"}
_AVX512 = {*_AVX2, "avx512f", "avx512dq", "avx512bw", "avx512vl"}


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (_AVX512, "avx512"),
        (_AVX512 - {"avx512vl"}, "avx2"),
        (_AVX2, "avx2"),
        (_AVX2 - {"f16c"}, "scalar"),
        (set(), "scalar"),
    ],
)
def test_the_widest_complete_set_is_chosen(flags: set[str], name: str):
    assert choose_isa("x86_64", frozenset(flags)).name == name


def test_other_machines_are_scalar():
    assert choose_isa("aarch64", frozenset(_AVX512)).name == "scalar"


def test_optional_features_are_listed_when_present():
    assert choose_isa("x86_64", frozenset(_AVX512 | {"amx_bf16", "sse2"})).features == ("amx_bf16",)


def test_flags_are_read_from_the_first_processor(tmp_path: Path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2 fma\n\nprocessor\t: 1\nflags\t\t: other\n")
    assert read_cpu_flags(cpuinfo) == {"fpu", "avx2", "fma"}
    assert read_cpu_flags(tmp_path / "missing") == frozenset()


def test_detection_is_one_of_the_table():
    assert detect_isa().name in ISAS


@pytest.mark.parametrize("name", ISAS)
def test_the_compiler_takes_the_flags(name: str, tmp_path: Path):
    source = tmp_path / "empty.cpp"
    source.write_text("int x;\n")
    subprocess.run(["g++", *ISAS[name].compile_flags, "-Werror", "-o", str(tmp_path / "x.so"), str(source)], check=True)


def test_lanes_fit_the_register():
    assert [ISAS[name].lanes(4) for name in ISAS] == [16, 8, 1]
    assert [ISAS[name].lanes(8) for name in ISAS] == [8, 4, 1]
