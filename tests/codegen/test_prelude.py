"""The prelude's text, its loads and stores of every type, and its work across lanes."""

from __future__ import annotations

import ctypes
import mmap
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prelude_build import ALL_WIDTHS, DTYPES, EACH_WIDTH, PACKS, Library, build, is_wide

from treadle.codegen.cpp.isa import ISAS
from treadle.codegen.cpp.prelude import known, names_at, prelude

STORAGE = tuple(DTYPES)
_ACCESS = """
extern "C" void copy_$T(const $T* p, $T* q) { w$N::st_$T(q, w$N::ld_$T(p)); }
extern "C" void first_$T(const $T* p, $T* q, long n) { w$N::st_$T(q, w$N::ld_$T_n(p, n)); }
extern "C" void copy_n_$T(const $T* p, $T* q, long n) { w$N::st_$T_n(q, w$N::ld_$T_n(p, n), n); }
extern "C" void copy_m_$T(const $T* p, $T* q, const b8* m) {
  w$N::M k = w$N::ld_b8(m);
  w$N::st_$T_m(q, w$N::ld_$T_m(p, k), k);
}
extern "C" void masked_$T(const $T* p, $T* q, const b8* m) { w$N::st_$T(q, w$N::ld_$T_m(p, w$N::ld_b8(m))); }
extern "C" void gather_s_$T(const $T* p, $T* q, long s) { w$N::st_$T(q, w$N::ld_$T_s(p, s)); }
extern "C" void scatter_s_$T(const $T* p, $T* q, long s) { w$N::st_$T_s(q, w$N::ld_$T(p), s); }
extern "C" void gather_sn_$T(const $T* p, $T* q, long s, long n) { w$N::st_$T(q, w$N::ld_$T_sn(p, s, n)); }
extern "C" void scatter_sn_$T(const $T* p, $T* q, long s, long n) { w$N::st_$T_sn(q, w$N::ld_$T_n(p, n), s, n); }
extern "C" void stream_$T(const $T* p, $T* q) { w$N::st_$T_nt(q, w$N::ld_$T(p)); w$N::fence_nt(); }
"""
_INDEXED = """
extern "C" void gather_$g_$T(const $T* p, $T* q, const $X* i) { w$N::st_$T(q, w$N::ld_$T_$g(p, w$N::ld_$X(i))); }
extern "C" void scatter_$g_$T(const $T* p, $T* q, const $X* i) { w$N::st_$T_$g(q, w$N::ld_$T(p), w$N::ld_$X(i)); }
extern "C" void gather_$gm_$T(const $T* p, $T* q, const $X* i, const b8* m) {
  w$N::st_$T(q, w$N::ld_$T_$gm(p, w$N::ld_$X(i), w$N::ld_b8(m)));
}
extern "C" void scatter_$gm_$T(const $T* p, $T* q, const $X* i, const b8* m) {
  w$N::M k = w$N::ld_b8(m);
  w$N::st_$T_$gm(q, w$N::ld_$T_m(p, k), w$N::ld_$X(i), k);
}
"""
_ACROSS = """
extern "C" void reduce_$A(const $T* p, $T* q) {
  using namespace w$N;
  $A x = ld_$T(p);
  q[0] = hsum_$A(x); q[1] = hprod_$A(x); q[2] = hmin_$A(x); q[3] = hmax_$A(x); q[4] = last_$A(x); q[5] = at_$A(x, 0);
}
extern "C" void scan_$A(const $T* p, $T* q) {
  using namespace w$N;
  $A x = ld_$T(p);
  st_$T(q, scan_add_$A(x)); st_$T(q + $N, scan_mul_$A(x));
  st_$T(q + 2 * $N, scan_min_$A(x)); st_$T(q + 3 * $N, scan_max_$A(x));
}
"""
_TRANSPOSE = """
extern "C" void turn_$K(const $T* p, $T* q) {
  using namespace w$N;
  $K r[$N];
  for (int i = 0; i < $N; i++) r[i] = get_$K(p + i * $N);
  transpose_$K(r);
  for (int i = 0; i < $N; i++) put_$K(q + i * $N, r[i]);
}
"""
_MASKS = """
extern "C" void masks(const b8* p, const b8* r, b8* q, i32* counts, long n) {
  using namespace w$N;
  M a = ld_b8(p), b = ld_b8(r);
  M results[] = {and_M(a, b), or_M(a, b), xor_M(a, b), not_M(a), sel_M(a, b, not_M(b)), first_n_M(n), sp_M(n & 1),
                 lt_M(a, b), le_M(a, b), gt_M(a, b), ge_M(a, b), eq_M(a, b), ne_M(a, b)};
  for (long i = 0; i < 13; i++) st_b8(q + i * $N, results[i]);
  i32 found[] = {any_M(a), all_M(a), count_M(a), first_lane_M(a), last_M(a), at_M(a, 0), hany_M(b), hall_M(b)};
  for (int i = 0; i < 8; i++) counts[i] = found[i];
}
"""


def _fill(text: str, lanes: int, **holes: str) -> str:
    for name, value in {"N": str(lanes), **holes}.items():
        text = text.replace(f"${name}", value)
    return text


def _code(lanes: int, wide: bool) -> str:
    text = _fill(_MASKS, lanes)
    for storage in STORAGE:
        if wide or storage not in ("f64", "i64"):
            text += _fill(_ACCESS, lanes, T=storage) + _fill(_INDEXED, lanes, T=storage, X="i32", g="gi")
            text += _fill(_INDEXED, lanes, T=storage, X="i64", g="g") if wide else ""
    for pack in "FIDL" if wide else "FI":
        text += _fill(_ACROSS, lanes, A=pack, T=PACKS[pack])
    for kind, storage in _transposable(lanes, wide).items():
        text += _fill(_TRANSPOSE, lanes, K=kind, T=storage)
    return text


def _transposable(lanes: int, wide: bool) -> dict[str, str]:
    kinds = {"F": ("f32", 4), "I": ("i32", 4), "D": ("f64", 8), "L": ("i64", 8), "H": ("u16", 2), "B": ("u8", 1)}
    return {k: t for k, (t, size) in kinds.items() if lanes > 1 and lanes * size >= 16 and (wide or size < 8)}


@pytest.fixture(scope="module", params=EACH_WIDTH)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    name, lanes = request.param
    isa = ISAS[name]
    return build(tmp_path_factory.mktemp("prelude"), isa, lanes, _code(lanes, is_wide(isa, lanes)))


def _storages(library: Library) -> tuple[str, ...]:
    return STORAGE if is_wide(library.isa, library.lanes) else tuple(t for t in STORAGE if t not in ("f64", "i64"))


def _values(rng: np.random.Generator, storage: str, count: int) -> np.ndarray:
    """Values that survive a load and a store."""
    dtype = np.dtype(DTYPES[storage])
    if storage in ("f32", "f64", "f16"):
        return rng.normal(0, 100, count).astype(dtype)
    if storage == "b8":
        return rng.integers(0, 2, count).astype(dtype)
    if storage == "bf16":
        return (rng.normal(0, 100, count).astype(np.float32).view(np.uint32) >> 16).astype(dtype)
    return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, count, dtype=dtype)


def _poison(like: np.ndarray, count: int) -> np.ndarray:
    return np.full(count * like.itemsize, 1 if like.dtype == bool else 0xA5, np.uint8).view(like.dtype)


class Page:
    """Memory that ends where the next byte faults."""

    def __init__(self) -> None:
        size = mmap.PAGESIZE
        self._map = mmap.mmap(-1, 2 * size)
        self._bytes = np.frombuffer(self._map, np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mprotect(ctypes.c_void_p(self._bytes.ctypes.data + size), ctypes.c_size_t(size), 0) == 0

    def end(self, values: np.ndarray) -> np.ndarray:
        """A copy of `values` whose last element is the last accessible one."""
        view = self._bytes[mmap.PAGESIZE - values.nbytes : mmap.PAGESIZE].view(values.dtype)
        view[:] = values
        return view


@pytest.fixture(scope="module")
def page() -> Page:
    return Page()


@pytest.fixture(scope="module")
def other_page() -> Page:
    return Page()


def test_whole_packs(library: Library, rng: np.random.Generator):
    for storage in _storages(library):
        x = _values(rng, storage, library.lanes)
        aligned = np.empty(256, np.uint8)
        aligned = aligned[-aligned.ctypes.data % 64 :][: x.nbytes].view(x.dtype)
        for kernel, out in ((f"copy_{storage}", _poison(x, len(x))), (f"stream_{storage}", aligned)):
            library.call(kernel, x, out)
            np.testing.assert_array_equal(out, x, err_msg=kernel)


def test_first_n_lanes_touch_nothing_beyond(library: Library, rng: np.random.Generator, page: Page, other_page: Page):
    lanes = library.lanes
    for storage in _storages(library):
        for n in range(lanes + 1):
            values = _values(rng, storage, n)
            x = page.end(values)
            out = _poison(values, lanes)
            library.call(f"first_{storage}", x, out, n)
            np.testing.assert_array_equal(out, np.concatenate([values, np.zeros(lanes - n, values.dtype)]))
            target = other_page.end(_poison(values, n))
            library.call(f"copy_n_{storage}", x, target, n)
            np.testing.assert_array_equal(target, values)


def test_n_outside_the_pack_is_cut(library: Library, rng: np.random.Generator):
    lanes = library.lanes
    for storage in _storages(library):
        x = _values(rng, storage, lanes)
        for n in (-5, lanes + 1, 300, 1 << 40):
            out = _poison(x, lanes + 1)
            library.call(f"copy_n_{storage}", x, out, n)
            want = _poison(x, lanes + 1)
            want[: lanes if n > 0 else 0] = x[: lanes if n > 0 else 0]
            assert out.tobytes() == want.tobytes()


def test_masked_lanes_touch_nothing_else(library: Library, rng: np.random.Generator, page: Page, other_page: Page):
    lanes = library.lanes
    for storage in _storages(library):
        for _ in range(8):
            mask = rng.integers(0, 2, lanes).astype(bool)
            used = lanes - int(np.argmax(mask[::-1])) if mask.any() else 0
            values = _values(rng, storage, used)
            x = page.end(values)
            out = _poison(values, lanes)
            library.call(f"masked_{storage}", x, out, mask)
            want = np.zeros(lanes, values.dtype)
            want[:used] = np.where(mask[:used], values, want[:used])
            np.testing.assert_array_equal(out, want)
            target = other_page.end(_poison(values, used))
            library.call(f"copy_m_{storage}", x, target, mask)
            kept = _poison(values, used)
            assert target.tobytes() == np.where(mask[:used], values, kept).tobytes()


@pytest.mark.parametrize("stride", [0, 1, 3, 1000, -2])
def test_strides(library: Library, rng: np.random.Generator, stride: int):
    lanes = library.lanes
    reach = abs(stride) * lanes + 1
    start = reach if stride < 0 else 0
    for storage in _storages(library):
        x = _values(rng, storage, 2 * reach + lanes)
        out = _poison(x, lanes)
        picked = x[start + stride * np.arange(lanes)]
        library.call(f"gather_s_{storage}", x[start:], out, stride)
        np.testing.assert_array_equal(out, picked)
        for n in {0, 1, lanes // 2, lanes}:
            library.call(f"gather_sn_{storage}", x[start:], out, stride, n)
            np.testing.assert_array_equal(out, np.where(np.arange(lanes) < n, picked, np.zeros_like(picked)))
        for kernel, n in ((f"scatter_s_{storage}", None), (f"scatter_sn_{storage}", lanes // 2)):
            target, want = _poison(x, len(x)), _poison(x, len(x))
            library.call(kernel, x, target[start:], stride, *([] if n is None else [n]))
            for lane in range(lanes if n is None else n):
                want[start + stride * lane] = x[lane]
            assert target.tobytes() == want.tobytes()


@pytest.mark.parametrize("index", ["gi", "g"])
def test_gathers_and_scatters(library: Library, rng: np.random.Generator, page: Page, index: str):
    lanes = library.lanes
    if index == "g" and not is_wide(library.isa, lanes):
        pytest.skip("no packs of 8-byte elements at this width")
    for storage in _storages(library):
        x = page.end(_values(rng, storage, 50))
        at = rng.integers(-20, 30, lanes).astype(np.int32 if index == "gi" else np.int64)
        mask = rng.integers(0, 2, lanes).astype(bool)
        out = _poison(x, lanes)
        library.call(f"gather_{index}_{storage}", x[20:], out, at)
        np.testing.assert_array_equal(out, x[20 + at])
        far = np.where(mask, at, 1 << 30)
        library.call(f"gather_{index}m_{storage}", x[20:], out, far.astype(at.dtype), mask)
        np.testing.assert_array_equal(out, np.where(mask, x[20 + at], np.zeros_like(out)))
        source = _values(rng, storage, lanes)
        for masked in (False, True):
            target, want = _poison(x, 50), _poison(x, 50)
            name = f"scatter_{index}{'m' if masked else ''}_{storage}"
            library.call(name, source, target[20:], far.astype(at.dtype) if masked else at, *([mask] if masked else []))
            for lane in range(lanes):
                if mask[lane] or not masked:
                    want[20 + at[lane]] = source[lane]
            assert target.tobytes() == want.tobytes(), name


def test_reductions(library: Library, rng: np.random.Generator):
    lanes = library.lanes
    for pack in "FIDL" if is_wide(library.isa, lanes) else "FI":
        dtype = DTYPES[PACKS[pack]]
        x = rng.normal(0, 2, lanes).astype(dtype) if pack in "FD" else rng.integers(-99, 99, lanes).astype(dtype)
        out = _poison(x, 6)
        library.call(f"reduce_{pack}", x, out)
        with np.errstate(over="ignore"):
            want = np.array([x.sum(), x.prod(dtype=dtype), x.min(), x.max(), x[-1], x[0]], dtype)
        np.testing.assert_allclose(out, want, rtol=1e-5 if pack == "F" else 1e-13 if pack == "D" else 0)
        if pack in "FD":
            x[rng.integers(lanes)] = np.nan
            library.call(f"reduce_{pack}", x, out)
            assert np.isnan(out[:4]).all()


def test_scans(library: Library, rng: np.random.Generator):
    lanes = library.lanes
    for pack in "FIDL" if is_wide(library.isa, lanes) else "FI":
        dtype = DTYPES[PACKS[pack]]
        x = rng.normal(0, 2, lanes).astype(dtype) if pack in "FD" else rng.integers(-9, 9, lanes).astype(dtype)
        for value in (None, *((np.nan, np.inf) if pack in "FD" else (np.iinfo(dtype).min,))):
            if value is not None:
                x[lanes // 2] = value
            out = _poison(x, 4 * lanes)
            library.call(f"scan_{pack}", x, out)
            with np.errstate(all="ignore"):
                steps = (np.add, np.multiply, np.minimum, np.maximum)
                want = np.concatenate([step.accumulate(x, dtype=dtype) for step in steps])
            np.testing.assert_allclose(out, want, rtol=1e-5 if pack == "F" else 1e-12 if pack == "D" else 0)


def test_transposes(library: Library, rng: np.random.Generator):
    lanes = library.lanes
    kinds = _transposable(lanes, is_wide(library.isa, lanes))
    for kind, storage in kinds.items():
        dtype = np.uint16 if storage == "u16" else DTYPES[storage]
        x = rng.permutation(lanes * lanes).astype(dtype)
        out = _poison(x, lanes * lanes)
        library.call(f"turn_{kind}", x, out)
        np.testing.assert_array_equal(out.reshape(lanes, lanes), x.reshape(lanes, lanes).T, err_msg=kind)


def test_masks(library: Library, rng: np.random.Generator):
    lanes = library.lanes
    for case in range(12):
        a, b = (rng.integers(0, 2, lanes).astype(bool) for _ in range(2))
        if case < 2:
            a[:] = bool(case)
        out, counts = np.empty((13, lanes), bool), np.empty(8, np.int32)
        library.call("masks", a, b, out, counts, case)
        first, odd = np.arange(lanes) < case, np.full(lanes, bool(case & 1))
        want = [a & b, a | b, a ^ b, ~a, np.where(a, b, ~b), first, odd, ~a & b, ~a | b, a & ~b, a | ~b, a == b, a != b]
        np.testing.assert_array_equal(out, np.array(want))
        lane = int(np.argmax(a)) if a.any() else lanes
        assert counts.tolist() == [a.any(), a.all(), a.sum(), lane, a[-1], a[0], b.any(), b.all()]


def test_only_what_is_named_is_printed():
    text = prelude(ISAS["avx512"], 16, ["exp_F"])
    assert "exp_F" in text and "erf_" not in text and "ld_" not in text
    assert text == prelude(ISAS["avx512"], 16, {"exp_F": None, "scale2_F": None})
    assert len(text) < 3000


def test_the_order_of_names_does_not_matter():
    names = ["st_bf16", "tanh_F", "ld_f32_n", "hsum_F"]
    assert prelude(ISAS["avx2"], 8, names) == prelude(ISAS["avx2"], 8, reversed(names))


def test_nothing_is_included():
    assert "#include" not in prelude(ISAS["scalar"], 1, ["exp_F", "ld_f16"])


def test_known_names():
    assert known("ld_bf16_n") and known("pow_D") and known("transpose_H") and known("cvt_L_M")
    assert not known("ld_f8") and not known("i")


@pytest.mark.parametrize(
    ("name", "lanes", "wanted", "message"),
    [
        ("avx2", 16, "exp_F", "8, 4, 1 lanes, not 16"),
        ("avx512", 16, "ld_f64", "use 8 lanes"),
        ("avx512", 16, "sine_F", "no function 'sine_F'"),
    ],
)
def test_errors_say_what_to_do(name: str, lanes: int, wanted: str, message: str):
    with pytest.raises(ValueError, match=message):
        prelude(ISAS[name], lanes, [wanted])


def _compile_all(name: str, lanes: int, path: Path, *options: str) -> str:
    """The compiler's output for every function of a width, each kept although nothing calls it."""
    text = prelude(ISAS[name], lanes, names_at(ISAS[name], lanes)).replace("unused", "used")
    source = path / "all.cpp"
    source.write_text(text)
    command = ["g++", *ISAS[name].compile_flags, *options, "-o", "-", str(source)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(("name", "lanes"), ALL_WIDTHS)
def test_every_function_compiles_without_warnings(name: str, lanes: int, tmp_path: Path):
    _compile_all(name, lanes, tmp_path, "-Wall", "-Wno-parentheses", "-Werror", "-fsyntax-only")


_LANE = re.compile(r"\tv?(pextr[bwdq]|pinsr[bwdq]|extractps|insertps|cvtt?s[ids]2s[ids]\w*|movss\t\(|movsd\t\()")
_LANEWISE: Callable[[str], object] = re.compile(
    r"_(s|sn|g|gi|gm|gim)E|far_|get_[BH]_[nm]|put_[BH]|[ls][dt]_(b?f16|[iub]8|i16)_[nm]|at_|last_"
    r"|(lgamma|nextafter)_F|[a-z0-9]_DEDv|div_|mod_|hprod|_lane"
).search
"""Functions that go lane by lane on purpose."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "lanes"), [w for w in ALL_WIDTHS if w[1] > 1])
def test_vectors_are_not_taken_apart(name: str, lanes: int, tmp_path: Path):
    """gcc turns what it cannot do on vectors into scalar code without a word."""
    taken: dict[str, int] = {}
    function = ""
    for line in _compile_all(name, lanes, tmp_path, "-S").splitlines():
        label = re.match(r"_ZN\d?t?\w*?w\d+L?\d+(\w+):", line)
        function = label.group(1) if label else function
        if _LANE.match(line) and not _LANEWISE(function):
            taken[function] = taken.get(function, 0) + 1
    allowed = {f for f in taken if re.match(r"cvt_(D_L|F_L|L_D|L_F)E", f)} if name == "avx2" else set()
    assert {f: n for f, n in taken.items() if n > 2 and f not in allowed} == {}
