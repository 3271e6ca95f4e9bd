"""The prelude's elementary functions against double precision: within `MAX_ULP`, with the limits of IEEE arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from prelude_build import (
    ALL_WIDTHS,
    PACKS,
    SPECIAL_FLOATS,
    WIDTHS,
    Library,
    Map,
    build_maps,
    is_wide,
    map_of,
    pairs,
    sample_floats,
    ulp_error,
)

from treadle.codegen.cpp.isa import ISAS
from treadle.codegen.cpp.prelude import MAX_ULP

Reference = Callable[..., torch.Tensor]
_EVERYWHERE = [w for w in WIDTHS if w in (("avx512", 16), ("avx512", 8), ("avx2", 8), ("avx2", 4), ("scalar", 1))]
"""One width for each way that a function is compiled."""

_UNARY: dict[str, Reference] = {
    name: getattr(torch, name)
    for name in (
        "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sigmoid", "tanh", "sinh", "cosh", "asinh", "acosh",
        "atanh", "erf", "erfc", "lgamma", "digamma", "erfinv", "sin", "cos", "tan", "asin", "acos", "atan", "rsqrt",
    )
}  # fmt: skip
_BINARY: dict[str, Reference] = {
    "pow": torch.pow,
    "atan2": torch.atan2,
    "hypot": torch.hypot,
    "fmod_trunc": torch.fmod,
    "mod_floor": torch.remainder,
    "div_floor": lambda a, b: torch.div(a, b, rounding_mode="floor"),
}
_OTHER_ULP = {
    "rsqrt": 1.5,
    "fmod_trunc": 0.0,
    "mod_floor": 0.5,
    "div_floor": 2.0,
    "lgamma": 16.0,
    "digamma": 0.6,
    "erfinv": 0.6,
}
"""lgamma is libm's, and its ulp has no bound near its zeros; div_floor may take the neighbouring integer, as eager."""
_LIBM_ULP = 2.6
"""What glibc's own functions of floats are off by at most (tanhf), without FMA."""


def _maps(pack: str) -> dict[str, Map]:
    maps = [map_of(name, pack) for name in _UNARY] + [map_of(name, pack, 2) for name in (*_BINARY, "nextafter")]
    return {m.name.removeprefix("t_").removesuffix(f"_{pack}"): m for m in maps}


@pytest.fixture(scope="module", params=_EVERYWHERE, ids=lambda p: f"{p[0]}_{p[1]}")
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    name, lanes = request.param
    maps = {**_maps("F")} if not is_wide(ISAS[name], lanes) else {**_maps("F"), **_tagged(_maps("D"))}
    return build_maps(tmp_path_factory.mktemp("math"), ISAS[name], lanes, maps.values())


def _tagged(maps: dict[str, Map]) -> dict[str, Map]:
    return {f"{name}_D": m for name, m in maps.items()}


def _bound(library: Library, name: str) -> float:
    bound = _OTHER_ULP.get(name, MAX_ULP.get(name, 0.0))
    return max(bound, _LIBM_ULP) if library.isa.name == "scalar" and name in MAX_ULP else bound


def _check(got: np.ndarray, exact: np.ndarray, bound: float, arguments: tuple[np.ndarray, ...], what: str) -> None:
    error = ulp_error(got, exact)
    worst = int(np.argmax(error))
    where = [float(a[worst]) for a in arguments]
    assert error[worst] <= bound, f"{what}{where} is {got[worst]}, not {exact[worst]}: {error[worst]} ulp"
    zero = (got == 0) & (exact == 0)
    wrong = zero & (np.signbit(got) != np.signbit(exact))
    assert not wrong.any(), f"{what}{[a[wrong][:3] for a in arguments]} has the wrong sign"


def _unary_samples(rng: np.random.Generator) -> np.ndarray:
    far = [rng.uniform(-1e5, 1e5, 5000), rng.uniform(0.5, 1.5, 5000), 10.0 ** rng.uniform(-40, 38, 5000)]
    multiples = np.arange(-2000, 2000) * (np.pi / 4)
    return np.concatenate([sample_floats(rng, 20000), np.concatenate([*far, multiples]).astype(np.float32)])


def test_functions_of_one_float(library: Library, rng: np.random.Generator):
    x = _unary_samples(rng)
    double = torch.from_numpy(x).double()
    for name, reference in _UNARY.items():
        got, exact = library.map(_maps("F")[name], x), reference(double).numpy()
        if name == "sigmoid":  # eager too is 0 where exp(-x) overflows
            exact = np.where(x < -88.7, 0.0, exact)
            got = np.where(x < -88.7, np.where(got < 2**-126, 0.0, got), got).astype(np.float32)
        _check(got, exact, _bound(library, name), (x,), name)


def test_functions_of_two_floats(library: Library, rng: np.random.Generator):
    x, y = pairs(sample_floats(rng, 5000), len(SPECIAL_FLOATS))
    base, exponent = np.abs(rng.normal(0, 10, 20000)).astype(np.float32), rng.normal(0, 10, 20000).astype(np.float32)
    whole = rng.integers(-20, 20, 20000).astype(np.float32)
    x, y = np.concatenate([x, base, exponent]), np.concatenate([y, exponent, whole])
    for name, reference in _BINARY.items():
        exact = reference(torch.from_numpy(x).double(), torch.from_numpy(y).double()).numpy()
        _check(library.map(_maps("F")[name], x, y), exact, _bound(library, name), (x, y), name)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(library.map(_maps("F")["nextafter"], x, y), np.nextafter(x, y))


def test_functions_of_doubles(library: Library, rng: np.random.Generator):
    if not is_wide(library.isa, library.lanes):
        pytest.skip("no packs of 8-byte elements at this width")
    x, y = pairs(sample_floats(rng, 1000, np.float64), len(SPECIAL_FLOATS))
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    for name, map_ in _maps("D").items():
        if name == "nextafter":
            want = torch.nextafter(a, b)
        else:
            want = _UNARY[name](a) if name in _UNARY else _BINARY[name](a, b)
        got = library.map(map_, *(x, y)[: len(map_.arguments)])
        atol = 1e-15 if name == "digamma" else 1e-300  # it cancels near its zero
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-13, atol=atol, err_msg=name)


def test_doubles_have_the_signs_of_zero(library: Library):
    if not is_wide(library.isa, library.lanes):
        pytest.skip("no packs of 8-byte elements at this width")
    zeros = np.array([0.0, -0.0] * 8)
    for name in ("expm1", "log1p", "tanh", "sinh", "asinh", "atanh", "erf", "sin", "tan", "asin", "atan"):
        np.testing.assert_array_equal(np.signbit(library.map(_maps("D")[name], zeros)), np.signbit(zeros), err_msg=name)


@pytest.mark.slow
def test_every_width_with_fma_gives_the_same_bits(rng: np.random.Generator, tmp_path_factory: pytest.TempPathFactory):
    """So that a tail, or a CPU with other registers, computes what the body computes."""
    x, y = pairs(_unary_samples(rng), len(SPECIAL_FLOATS))
    maps = _maps("F")
    first: dict[str, bytes] = {}
    for name, lanes in ALL_WIDTHS:
        if name == "scalar" or (name, lanes) not in WIDTHS:
            continue
        library = build_maps(tmp_path_factory.mktemp("same"), ISAS[name], lanes, maps.values())
        for function, map_ in maps.items():
            got = library.map(map_, *(x, y)[: len(map_.arguments)])
            bits = np.where(np.isnan(got), np.float32(np.nan), got).tobytes()
            assert bits == first.setdefault(function, bits), f"{function} differs at {name} with {lanes} lanes"


def test_every_documented_bound_is_tested():
    assert set(MAX_ULP) <= {*_UNARY, *_BINARY}
    assert set(PACKS) >= {"F", "D"}
