"""Large outputs: memory is used again exactly when nobody can tell."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from treadle.compiler.runtime import large
from treadle.compiler.runtime.large import LARGE, MOST_KEPT, empty_large, kept_bytes, release

N = LARGE // 4


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    release()
    yield
    release()


def make() -> torch.Tensor:
    return empty_large((N // 8, 8), (8, 1), torch.float32)


def test_memory_is_used_again_when_it_is_free():
    first = make()
    address = first.data_ptr()
    del first
    assert make().data_ptr() == address


@pytest.mark.parametrize("hold", ["tensor", "view", "storage", "numpy", "graph", "detached"])
def test_memory_that_anybody_holds_is_left_alone(hold: str):
    x = make().fill_(1.0)
    y = torch.ones(8, requires_grad=True)
    held = {
        "tensor": lambda x: x,
        "view": lambda x: x[3:5, 1],
        "storage": lambda x: x.untyped_storage(),
        "numpy": lambda x: x.numpy(),
        "graph": lambda x: (y * x).sum(),
        "detached": lambda x: x.detach(),
    }[hold](x)
    address = x.data_ptr()
    del x
    other = make().fill_(2.0)
    assert other.data_ptr() != address
    if hold == "graph":
        held.backward()
        assert y.grad is not None and torch.equal(y.grad, torch.full((8,), float(N // 8)))


def test_a_loop_that_rebinds_its_result_alternates_between_two():
    seen = set()
    y = make()
    for _ in range(6):
        y = make()
        seen.add(y.data_ptr())
    assert len(seen) == 2
    assert kept_bytes() == 2 * LARGE


def test_several_results_of_a_size_are_remembered():
    first = [make() for _ in range(4)]
    addresses = {x.data_ptr() for x in first}
    first.clear()
    assert {x.data_ptr() for x in [make() for _ in range(4)]} == addresses


def test_what_is_kept_is_bounded():
    for extra in range(12):
        empty_large((N + extra,), (1,), torch.float32)
    assert kept_bytes() <= MOST_KEPT
    empty_large((MOST_KEPT,), (1,), torch.uint8)
    assert kept_bytes() <= MOST_KEPT


def test_a_storage_that_was_resized_is_not_used_again():
    x = make()
    x.resize_(4)
    x.untyped_storage().resize_(16)
    del x
    assert make().untyped_storage().nbytes() == LARGE


def test_strides_and_types_are_as_asked():
    x = empty_large((64, N // 32), (1, 64), torch.float32)
    assert x.shape == (64, N // 32) and x.stride() == (1, 64) and x.dtype == torch.float32


def test_without_the_count_of_uses_nothing_is_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(large, "_count_uses", None)
    make()
    assert kept_bytes() == 0


def test_compiled_results_are_their_callers_own():
    fast = torch.compile(lambda x: x * 2, backend="treadle")
    x = torch.ones(4096, 2048)
    results = [fast(x * k) for k in range(4)]
    assert [float(r[0, 0]) for r in results] == [0.0, 2.0, 4.0, 6.0]
    assert all(bool((r == r[0, 0]).all()) for r in results)
