"""Memory planning: no two live values share a byte, and the arena is near the least it can be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from treadle.ir.types import evaluate, symbol
from treadle.passes.memory import ALIGNMENT, Lifetime, MemoryPlan, align, peak_bytes, plan_memory

S, T = symbol("s"), symbol("t")
SIZES = st.one_of(st.integers(0, 5000), st.sampled_from([4 * S, 8 * S, 4 * S * T, 4 * S + 64, 4 * T]))
LIVES = st.lists(st.tuples(SIZES, st.integers(0, 12), st.integers(0, 6)), max_size=24).map(
    lambda rows: [Lifetime(f"v{k}", size, first, first + length) for k, (size, first, length) in enumerate(rows)]
)


def place(plan: MemoryPlan, sizes: dict[str, int]) -> dict[str, int]:
    """The offset of every value under concrete sizes, as the runtime computes it."""
    starts, at = [], plan.static
    for size in plan.slots:
        starts.append(at)
        at += align(evaluate(size, sizes))
    return plan.offsets | {name: starts[k] for name, k in plan.slot_of.items()}


@given(LIVES, st.integers(2, 40), st.integers(2, 40))
def test_live_values_never_overlap(lives: list[Lifetime], s: int, t: int):
    sizes = {"s": s, "t": t}
    offsets = place(plan_memory(lives), sizes)
    assert all(offset % ALIGNMENT == 0 for offset in offsets.values())
    for k, a in enumerate(lives):
        for b in lives[:k]:
            if a.overlaps(b):
                first, second = sorted((a, b), key=lambda v: offsets[v.name])
                end = offsets[first.name] + evaluate(first.size, sizes)
                assert end <= offsets[second.name] or 0 in (evaluate(a.size, sizes), evaluate(b.size, sizes))


@given(LIVES)
def test_the_bound_is_a_bound(lives: list[Lifetime]):
    plan = plan_memory(lives)
    assert plan.bound <= plan.static
    assert plan.bound == peak_bytes([v for v in lives if isinstance(v.size, int)])


def test_a_chain_needs_two_buffers():
    plan = plan_memory([Lifetime(f"v{k}", 4096, k, k + 1) for k in range(50)])
    assert plan.static == plan.bound == 8192


def test_a_chain_of_dynamic_sizes_needs_two_slots():
    plan = plan_memory([Lifetime(f"v{k}", 4 * S if k % 2 else 8 * S, k, k + 1) for k in range(50)])
    assert len(plan.slots) == 2 and plan.static == 0


def test_a_smaller_dynamic_value_goes_into_a_larger_slot():
    plan = plan_memory([Lifetime("small", 4 * S, 0, 0), Lifetime("large", 4 * S * T, 1, 1)])
    assert plan.slots == (4 * S * T,)
