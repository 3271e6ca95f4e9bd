"""Schemes: their names, their data, and what is no scheme."""

from __future__ import annotations

import json

import pytest

from treadle.compiler.quantize import (
    NF4,
    SCHEMES,
    Float8,
    Int,
    Micro,
    Mixed,
    Planes,
    Scheme,
    Table,
    Ternary,
    name_scheme,
    parse_scheme,
)
from treadle.compiler.quantize.schemes import decode_scheme, encode_scheme, group_of
from treadle.ir.errors import BadInput, SettingError

EXPECTED = {
    "w8a16": Scheme(Int(8)),
    "w4a16": Scheme(Int(4, 128)),
    "W4A16-asym-G64": Scheme(Int(4, 64, symmetric=False)),
    "w4a16-nf4": Scheme(Table(4, 64, NF4)),
    "nf4-g32-r8": Scheme(Table(4, 32, NF4), rank=8),
    "w8a8": Scheme(Int(8), Int(8)),
    "w8a8-static": Scheme(Int(8), Int(8), static=True),
    "w4a8-smooth-g128": Scheme(Int(4, 128), Int(8), smooth=0.5),
    "w4a8-fp8": Scheme(Int(4), Float8("row")),
    "w4a4": Scheme(Int(4), Int(4)),
    "w4ax": Scheme(Int(4, 128), Mixed(128)),
    "fp8": Scheme(Float8(), Float8()),
    "fp8-block-a16": Scheme(Float8("block")),
    "ternary-a8": Scheme(Ternary(), Int(8)),
    "codebook3": Scheme(Table(3)),
    "planes5-g32": Scheme(Planes(5, 32)),
    "bfp8-a8": Scheme(Int(8, 16, power=True), Int(8, 16, power=True)),
    "mxfp4-a8": Scheme(Micro(4), Micro(8)),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_name_is_a_scheme(name: str):
    assert parse_scheme(name) == EXPECTED[name]
    assert parse_scheme(EXPECTED[name]) is EXPECTED[name]


@pytest.mark.parametrize("name", SCHEMES)
def test_listed_names_are_the_shortest(name: str):
    assert name_scheme(parse_scheme(name)) == name


def test_schemes_without_a_name_show_their_fields():
    assert name_scheme(Scheme(Int(4, 64, symmetric=False), rank=3)) == "w4a16-asym-g64-r3"
    odd = Scheme(Int(6), Int(4, 32), smooth=0.3)
    assert name_scheme(odd) == str(odd) and "smooth=0.3" in name_scheme(odd)
    assert "values=(0.0, 1.0" in name_scheme(Scheme(Table(2, 0, (0.0, 1.0, 2.0, 3.0))))


@pytest.mark.parametrize("name", [*SCHEMES, *EXPECTED])
def test_schemes_are_data(name: str):
    scheme = parse_scheme(name)
    assert decode_scheme(json.loads(json.dumps(encode_scheme(scheme)))) == scheme


@pytest.mark.parametrize("data", [None, {}, {"weight": {"format": "Int"}}, {"weight": {"format": "os"}}, {"wight": 3}])
def test_other_data_are_an_error(data: object):
    with pytest.raises(BadInput):
        decode_scheme(data)


@pytest.mark.parametrize("name", ["w5a4", "w4a16x", "", "w1a16", "w9a16", "codebook5", "planes9", "mxfp6", "int4"])
def test_an_unknown_name_lists_the_schemes(name: str):
    with pytest.raises(SettingError, match=r"no such scheme.*w8a8.*fp8-block.*mxfp8"):
        parse_scheme(name)


@pytest.mark.parametrize(
    "name", ["w4a16-g64-asim", "w8a8-asym", "fp8-g32", "ternary-fp8", "w8a16-nf4", "w4a16-g64-g32"]
)
def test_an_unknown_option_is_named(name: str):
    with pytest.raises(SettingError, match=f"has no option '{name.rpartition('-')[2]}'"):
        parse_scheme(name)


def test_the_name_that_was_meant_is_proposed():
    with pytest.raises(SettingError, match="did you mean 'w4a16'"):
        parse_scheme("w4_a16")
    with pytest.raises(BadInput, match="a name such as"):
        parse_scheme(4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Int(1), "2 to 8"),
        (lambda: Int(4, -1), "at least 0"),
        (lambda: Int(4, 32, symmetric=False, power=True), "symmetric"),
        (lambda: Planes(0), "1 to 8"),
        (lambda: Float8("column"), "tensor, row, block"),
        (lambda: Micro(6), "4 or 8"),
        (lambda: Table(5), "2 to 4"),
        (lambda: Table(2, 0, (1.0,)), "4 values"),
        (lambda: Table(2, 0, (0.0,) * 4), "not all 0"),
        (lambda: Table(2, 32), "no groups"),
        (lambda: Mixed(0), "at least 1"),
        (lambda: Mixed(32, 1.5), "0 to 1"),
        (lambda: Scheme(Mixed()), "weights have one format"),
        (lambda: Scheme(Int(4), Int(3)), "not rounded to this format"),
        (lambda: Scheme(Int(4), Int(8, symmetric=False)), "symmetric"),
        (lambda: Scheme(Int(4), Micro(4)), "Micro"),
        (lambda: Scheme(Int(4), Ternary()), "Int"),
        (lambda: Scheme(Int(4), static=True), "static"),
        (lambda: Scheme(Int(4), Int(8, 32), static=True), "static"),
        (lambda: Scheme(Int(4), smooth=0.5), "rounds? inputs|round inputs"),
        (lambda: Scheme(Int(4), Int(8), smooth=2), "0 to 1"),
        (lambda: Scheme(Int(4), Int(8), rank=3), "weight-only"),
        (lambda: Scheme(Int(4), rank=-1), "rank >= 0"),
    ],
)
def test_what_cannot_be_is_refused(make: object, word: str):
    with pytest.raises(BadInput, match=word):
        make()  # type: ignore[operator]


def test_groups():
    found = [group_of(f) for f in (Int(4, 32), Int(8), Float8(), Float8("block"), Micro(4), Ternary(), Mixed(64), None)]
    assert found == [32, 0, 0, 128, 32, 0, 64, 0]
