"""The prelude's arithmetic, compares, casts and roundings against torch and numpy, on special and random values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from prelude_build import (
    DTYPES,
    EACH_WIDTH,
    PACKS,
    SPECIAL_FLOATS,
    Library,
    Map,
    build_maps,
    is_wide,
    map_of,
    pairs,
    sample_floats,
    sample_integers,
)

from treadle.codegen.cpp.isa import ISAS

Reference = Callable[..., torch.Tensor]


def _sign(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x.isnan(), 0, x.sign())


def _sqrt(x: torch.Tensor) -> torch.Tensor:
    """Correctly rounded, which torch's is not everywhere."""
    with np.errstate(invalid="ignore"):
        return torch.from_numpy(np.sqrt(x.numpy()))


_FLOATS: dict[str, tuple[int, str, Reference]] = {
    "min": (2, "", torch.minimum),
    "max": (2, "", torch.maximum),
    "abs": (1, "", torch.abs),
    "neg": (1, "", torch.neg),
    "sign": (1, "", _sign),
    "copysign": (2, "", torch.copysign),
    "floor": (1, "", torch.floor),
    "ceil": (1, "", torch.ceil),
    "trunc": (1, "", torch.trunc),
    "round_even": (1, "", torch.round),
    "sqrt": (1, "", _sqrt),
    "recip": (1, "", torch.reciprocal),
    "div_trunc": (2, "", lambda a, b: torch.div(a, b, rounding_mode="trunc")),
    "isnan": (1, "M", torch.isnan),
    "isinf": (1, "M", torch.isinf),
    "isfinite": (1, "M", torch.isfinite),
    "signbit": (1, "M", torch.signbit),
}
_INTEGERS: dict[str, tuple[int, str, Reference]] = {
    "min": (2, "", torch.minimum),
    "max": (2, "", torch.maximum),
    "abs": (1, "", torch.abs),
    "neg": (1, "", torch.neg),
    "sign": (1, "", torch.sign),
    "signbit": (1, "M", torch.signbit),
}
_COMPARES: dict[str, Reference] = {
    "eq": torch.eq, "ne": torch.ne, "lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge
}  # fmt: skip
_DIVISIONS: dict[str, Reference] = {
    "div_trunc": lambda a, b: torch.div(a, b, rounding_mode="trunc"),
    "div_floor": torch.floor_divide,
    "mod_trunc": torch.fmod,
    "mod_floor": torch.remainder,
}
_OPERATORS = {"add": "a + b", "subtract": "a - b", "multiply": "a * b"}
_BITS = {"bitwise_and": "a & b", "bitwise_or": "a | b", "bitwise_xor": "a ^ b"}


def _maps(wide: bool) -> dict[str, Map]:
    packs = "FIDL" if wide else "FI"
    maps: list[Map] = []
    for pack in packs:
        storage = PACKS[pack]
        table = _FLOATS if pack in "FD" else _INTEGERS
        maps += [map_of(name, pack, count, result) for name, (count, result, _) in table.items()]
        maps += [map_of(name, pack, 2, "M") for name in _COMPARES]
        operators = _OPERATORS | (_BITS if pack in "IL" else {"divide": "a / b"})
        maps += [Map(f"t_{n}_{pack}", storage, (storage,) * 2, e) for n, e in operators.items()]
        maps += [Map(f"t_sel_{pack}", storage, ("b8", storage, storage), f"sel_{pack}(a, b, c)")]
        maps += [Map(f"t_cvt_{pack}_{b}", PACKS[b], (storage,), f"cvt_{pack}_{b}(a)") for b in packs + "M" if b != pack]
        maps += [Map(f"t_cvt_M_{pack}", storage, ("b8",), f"cvt_M_{pack}(a)")]
        maps += [Map(f"t_fma_{pack}", storage, (storage,) * 3, f"fma_{pack}(a, b, c)")] if pack in "FD" else []
        maps += [map_of(name, pack, 2) for name in (*_DIVISIONS, "shl", "shr")] if pack in "IL" else []
        maps += [Map(f"t_iota_{pack}", storage, (storage,), f"a + iota_{pack}()")] if pack in "IL" else []
        maps += [Map(f"t_splat_{pack}", storage, (storage,), f"a + sp_{pack}(3)")]
    for name in ("bf16", "f16"):
        maps += [
            Map(f"t_decode_{name}", "f32", (name,), "a"),
            Map(f"t_encode_{name}", name, ("f32",), "a"),
            Map(f"t_round_{name}", "f32", ("f32",), f"rnd_{name}(a)"),
        ]
    for name in ("i8", "u8", "i16"):
        maps += [Map(f"t_wrap_{name}", "i32", ("i32",), f"wrap_{name}(a)"), Map(f"t_store_{name}", name, ("i32",), "a")]
        maps += [Map(f"t_load_{name}", "i32", (name,), "a")]
    return {m.name: m for m in maps}


class Numbers:
    """A built library with its kernels by name."""

    def __init__(self, library: Library, maps: dict[str, Map]) -> None:
        self.library, self.maps = library, maps
        self.packs = "FIDL" if is_wide(library.isa, library.lanes) else "FI"

    def __call__(self, name: str, *arguments: np.ndarray) -> np.ndarray:
        return self.library.map(self.maps[f"t_{name}"], *arguments)


@pytest.fixture(scope="module", params=EACH_WIDTH)
def numbers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Numbers:
    name, lanes = request.param
    isa = ISAS[name]
    maps = _maps(is_wide(isa, lanes))
    return Numbers(build_maps(tmp_path_factory.mktemp("numbers"), isa, lanes, maps.values()), maps)


def _samples(rng: np.random.Generator, pack: str) -> tuple[np.ndarray, np.ndarray]:
    dtype = np.dtype(DTYPES[PACKS[pack]]).type
    if pack in "FD":
        return pairs(sample_floats(rng, 500, dtype), len(SPECIAL_FLOATS))
    return pairs(sample_integers(rng, 1000, dtype), 12)


def _check(got: np.ndarray, want: torch.Tensor, what: str) -> None:
    """Equal, NaN for NaN and -0.0 for -0.0."""
    expected = want.numpy()
    np.testing.assert_array_equal(got, expected, err_msg=what)
    if got.dtype.kind == "f":
        number = ~np.isnan(got)
        np.testing.assert_array_equal(np.signbit(got)[number], np.signbit(expected)[number], err_msg=what)


def test_arithmetic(numbers: Numbers, rng: np.random.Generator):
    for pack in numbers.packs:
        a, b = _samples(rng, pack)
        for name, (count, _, reference) in (_FLOATS if pack in "FD" else _INTEGERS).items():
            arguments = (a, b)[:count]
            want = reference(*map(torch.from_numpy, arguments))
            got = numbers(f"{name}_{pack}", *arguments)
            if name in ("min", "max") and pack in "FD":  # which zero is returned is not specified
                got, want = got + 0.0, want + 0.0
            _check(got, want, f"{name}_{pack}")


def test_operators(numbers: Numbers, rng: np.random.Generator):
    for pack in numbers.packs:
        a, b = _samples(rng, pack)
        for name in (*_OPERATORS, *(_BITS if pack in "IL" else ("divide",))):
            with np.errstate(all="ignore"):
                want = getattr(np, name)(a, b)
            _check(numbers(f"{name}_{pack}", a, b), torch.from_numpy(want), f"{name}_{pack}")
        with np.errstate(all="ignore"):
            _check(numbers(f"splat_{pack}", a), torch.from_numpy(a + a.dtype.type(3)), f"splat_{pack}")
        if pack in "IL":
            zero = np.zeros(64, a.dtype)
            lanes = torch.arange(64).to(torch.from_numpy(a).dtype) % numbers.library.lanes
            _check(numbers(f"iota_{pack}", zero), lanes, f"iota_{pack}")


def test_fused_multiply_add(numbers: Numbers, rng: np.random.Generator):
    for pack in numbers.packs.replace("I", "").replace("L", ""):
        dtype = DTYPES[PACKS[pack]]
        a, b, c = (rng.normal(0, 1, 1001).astype(dtype) for _ in range(3))
        got = numbers(f"fma_{pack}", a, b, c)
        fused = numbers.library.isa.name != "scalar"
        exact = (a.astype(np.longdouble) * b + c).astype(np.float64)
        if pack == "F" and fused:
            np.testing.assert_array_equal(got, exact.astype(np.float32))
        else:
            error = 1e-6 if pack == "F" else 1e-15
            np.testing.assert_allclose(got, exact, rtol=error, atol=error)


def test_compares(numbers: Numbers, rng: np.random.Generator):
    for pack in numbers.packs:
        a, b = _samples(rng, pack)
        for name, reference in _COMPARES.items():
            _check(numbers(f"{name}_{pack}", a, b), reference(torch.from_numpy(a), torch.from_numpy(b)), name + pack)


def test_selection_keeps_bits(numbers: Numbers, rng: np.random.Generator):
    for pack in numbers.packs:
        a, b = _samples(rng, pack)
        mask = rng.integers(0, 2, len(a)).astype(bool)
        assert numbers(f"sel_{pack}", mask, a, b).tobytes() == np.where(mask, a, b).tobytes()


def test_integer_division(numbers: Numbers, rng: np.random.Generator):
    for pack in numbers.packs.replace("F", "").replace("D", ""):
        a, b = _samples(rng, pack)
        least = np.iinfo(a.dtype).min
        defined = (b != 0) & ~((a == least) & (b == -1))
        x, y = torch.from_numpy(a[defined]), torch.from_numpy(b[defined])
        for name, reference in _DIVISIONS.items():
            got = numbers(f"{name}_{pack}", a, b)
            _check(got[defined], reference(x, y), f"{name}_{pack}")
            by_zero = got[b == 0]
            np.testing.assert_array_equal(by_zero, 0 * by_zero)
            wrapped = got[(a == least) & (b == -1)]
            assert (wrapped == (least if name.startswith("div") else 0)).all()


def test_shifts(numbers: Numbers, rng: np.random.Generator):
    for pack in numbers.packs.replace("F", "").replace("D", ""):
        a = sample_integers(rng, 500, DTYPES[PACKS[pack]])
        b = rng.integers(-3, 70, len(a)).astype(a.dtype)
        b[:5] = [-1, 31, 32, 63, 64]
        x, y = torch.from_numpy(a), torch.from_numpy(b)
        _check(numbers(f"shl_{pack}", a, b), torch.bitwise_left_shift(x, y), f"shl_{pack}")
        _check(numbers(f"shr_{pack}", a, b), torch.bitwise_right_shift(x, y), f"shr_{pack}")


def _in_range(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Floats that an integer type holds after truncation."""
    limit = 2.0 ** (8 * dtype.itemsize - 1)
    return (x > -limit) & (x < limit)


def test_casts(numbers: Numbers, rng: np.random.Generator):
    for source in numbers.packs:
        a, _ = _samples(rng, source)
        for target in numbers.packs + "M":
            if target == source:
                continue
            got = numbers(f"cvt_{source}_{target}", a)
            valid = _in_range(a, got.dtype) if source in "FD" and target in "IL" else np.ones(len(a), bool)
            with np.errstate(all="ignore"):
                want = torch.from_numpy(a[valid]).to(torch.from_numpy(got).dtype)
            _check(got[valid], want, f"cvt_{source}_{target}")
            if not valid.all():  # NaN and what does not fit: the most negative integer, as x86 converts
                assert (got[~valid] == np.iinfo(got.dtype).min).all() or numbers.library.lanes == 1
        mask = rng.integers(0, 2, 99).astype(bool)
        _check(numbers(f"cvt_M_{source}", mask), torch.from_numpy(mask.astype(a.dtype)), f"cvt_M_{source}")


@pytest.mark.parametrize("name", ["bf16", "f16"])
def test_every_half_is_decoded(numbers: Numbers, name: str):
    bits = np.arange(1 << 16, dtype=np.uint16)
    half = torch.from_numpy(bits).view(torch.bfloat16 if name == "bf16" else torch.float16)
    _check(numbers(f"decode_{name}", bits.view(DTYPES[name])), half.float(), name)


@pytest.mark.parametrize("name", ["bf16", "f16"])
def test_halves_are_rounded_to_nearest_even(numbers: Numbers, name: str, rng: np.random.Generator):
    dtype = torch.bfloat16 if name == "bf16" else torch.float16
    halves = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(dtype).float().numpy()
    halves = halves[np.isfinite(halves)]
    step = np.nextafter(halves, np.float32(np.inf))
    middle = (halves.astype(np.float64) + np.sort(halves)[np.searchsorted(np.sort(halves), halves) - 1]) / 2
    around = middle.astype(np.float32)
    x = np.concatenate(
        [sample_floats(rng, 20000), halves, step, around, np.nextafter(around, np.float32(np.inf)), -step]
    ).astype(np.float32)
    want = torch.from_numpy(x).to(dtype)
    encoded = torch.from_numpy(numbers(f"encode_{name}", x).view(np.uint16)).view(dtype)
    _check(encoded.float().numpy(), want.float(), f"encode_{name}")
    _check(numbers(f"round_{name}", x), want.float(), f"rnd_{name}")


@pytest.mark.parametrize("name", ["i8", "u8", "i16"])
def test_small_integers_wrap(numbers: Numbers, name: str, rng: np.random.Generator):
    x = sample_integers(rng, 3000, np.int32)
    want = x.astype(DTYPES[name])
    np.testing.assert_array_equal(numbers(f"wrap_{name}", x), want.astype(np.int32))
    np.testing.assert_array_equal(numbers(f"store_{name}", x), want)
    every = np.arange(np.iinfo(want.dtype).min, np.iinfo(want.dtype).max + 1).astype(want.dtype)
    np.testing.assert_array_equal(numbers(f"load_{name}", every), every.astype(np.int32))
