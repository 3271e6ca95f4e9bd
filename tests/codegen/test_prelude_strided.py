"""Loads of every other element: what they give, and that they touch nothing beyond it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cpp_run import Fenced
from prelude_build import DTYPES, WIDTHS, Library, build

from treadle.codegen.cpp.isa import ISAS
from treadle.codegen.cpp.prelude_strided import STORAGE

_LOADS = """
extern "C" void whole_$T(const $T* p, $T* q) { w$N::st_$T(q, w$N::ld_$T_2(p)); }
extern "C" void first_$T(const $T* p, $T* q, long n) { w$N::st_$T(q, w$N::ld_$T_2n(p, n)); }
extern "C" void masked_$T(const $T* p, $T* q, const b8* m) { w$N::st_$T(q, w$N::ld_$T_2m(p, w$N::ld_b8(m))); }
"""
SAME_BITS = {"f32": torch.int32, "i32": torch.int32}  # others: torch.int16


@pytest.fixture(scope="module", params=[w for w in WIDTHS if w[1] > 1], ids=lambda w: f"{w[0]}_{w[1]}")
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    name, lanes = request.param
    code = "".join(_LOADS.replace("$T", storage).replace("$N", str(lanes)) for storage in STORAGE)
    return build(tmp_path_factory.mktemp("strided"), ISAS[name], lanes, code)


def fenced(storage: str, count: int) -> np.ndarray:
    """1, 2 .. before a page that nobody may touch."""
    memory = Fenced(count, SAME_BITS.get(storage, torch.int16)).flat.numpy().view(DTYPES[storage])
    memory[:] = (np.arange(1, count + 1) << 7).astype(DTYPES[storage])
    return memory


@pytest.mark.parametrize("storage", STORAGE)
def test_whole_packs_end_with_their_last_element(library: Library, storage: str):
    x = fenced(storage, 2 * library.lanes - 1)
    out = np.zeros(library.lanes, x.dtype)
    library.call(f"whole_{storage}", x, out)
    np.testing.assert_array_equal(out, x[::2])


@pytest.mark.parametrize("storage", STORAGE)
def test_first_lanes_and_masks_touch_nothing_beyond(library: Library, storage: str, rng: np.random.Generator):
    lanes = library.lanes
    for n in range(1, lanes + 1):
        x, out = fenced(storage, 2 * n - 1), np.ones(lanes, DTYPES[storage])
        library.call(f"first_{storage}", x, out, n)
        np.testing.assert_array_equal(out, np.concatenate([x[::2], np.zeros(lanes - n, x.dtype)]))
        mask = np.zeros(lanes, bool)
        mask[:n] = rng.integers(0, 2, n)
        library.call(f"masked_{storage}", x, out, mask)
        np.testing.assert_array_equal(out[:n], np.where(mask[:n], x[::2], 0))
        assert not out[n:].any()
