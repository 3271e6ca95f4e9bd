"""Appending one token to a key-value cache of 4096 tokens, in place, as a decoder does for each new token.

The append has to read the token's K and V and to write them: twice their bytes, which is the target too. A graph that
returns new caches, or copies them back, moves thousands of times as much. Where the backend is treadle, the bytes
are those of its own explanation; the time beside eager's shows them from outside: `gb_per_s_if_copied` is the
bandwidth that copying both caches in that time would need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from harness import bind, compile_for, measure, set_up, verdict
from record import OURS, Record, contestants, count_pairs, make_parser, say
from targets import DTYPES

HEADS, KEYS, WIDTH = 8, 4096, 128
POSITION = 4000


def main() -> None:
    set_up()
    args = make_parser(__doc__).parse_args()
    plans = {f"{name} {dtype}": (spelling, dtype) for name, spelling in SPELLINGS.items() for dtype in DTYPES}
    record = Record("kv_append", args)
    for name in record.missing(plans, args.only):
        record.add(name, measure_append(name, *plans[name], contestants(args), args.backend, count_pairs(args)))
    record.finish({name: row.get("moved_over_token") for name, row in record.rows.items()})


def append_by_index(
    keys: torch.Tensor, values: torch.Tensor, k: torch.Tensor, v: torch.Tensor, at: torch.Tensor
) -> None:
    """As the static cache of `transformers` does it; `at` is i64[1]."""
    keys.index_copy_(2, at, k)
    values.index_copy_(2, at, v)


def append_by_put(keys: torch.Tensor, values: torch.Tensor, k: torch.Tensor, v: torch.Tensor, at: torch.Tensor) -> None:
    keys[:, :, at] = k
    values[:, :, at] = v


def append_by_slice(
    keys: torch.Tensor, values: torch.Tensor, k: torch.Tensor, v: torch.Tensor, at: torch.Tensor
) -> None:
    """At a position that the graph knows; `at` is not used."""
    keys[:, :, POSITION : POSITION + 1] = k
    values[:, :, POSITION : POSITION + 1] = v


SPELLINGS: dict[str, Callable[..., None]] = {
    "index_copy": append_by_index,
    "index_put": append_by_put,
    "slice": append_by_slice,
}


def measure_append(
    name: str, append: Callable[..., None], dtype: str, names: list[str], ours: str, pairs: int
) -> dict[str, Any]:
    torch._dynamo.reset()
    calls = {who: bind(compile_for(who, append), make_inputs(dtype)) for who in names}
    wrong = [who for who in names if not appends(compile_for(who, append), dtype)]
    timing = measure(calls, pairs=pairs)
    token = 2 * HEADS * WIDTH * DTYPES[dtype].itemsize
    copied = 2 * 2 * HEADS * KEYS * WIDTH * DTYPES[dtype].itemsize  # both caches, read and written
    row: dict[str, Any] = {"token_bytes": token, "wrong": wrong, "times": timing.summary()}
    row["gb_per_s_if_copied"] = {who: round(copied / timing.median(who) / 1e9, 1) for who in names}
    row |= explain_bytes(append, make_inputs(dtype)) if OURS in names else {}
    moved = row.get("moved_bytes")
    row["moved_over_token"] = None if moved is None else moved / token
    shown = "  ".join(f"{who} {timing.median(who) * 1e6:8.1f} us" for who in names)
    told = f"moved {moved} of {token} bytes" if moved is not None else str(row.get("aten_calls", ""))
    say(f"{name:18} {shown}  {told}{f'  WRONG: {wrong}' if wrong else ''}")
    return row | verdict(timing, ours, names)


def make_inputs(dtype: str) -> tuple[torch.Tensor, ...]:
    """Both caches [1, heads, keys, width], the new token's K and V [1, heads, 1, width], and its position."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, HEADS, KEYS, WIDTH),) * 2 + ((1, HEADS, 1, WIDTH),) * 2
    return (*(torch.randn(s, generator=generator).to(DTYPES[dtype]) for s in shapes), torch.tensor([POSITION]))


def appends(append: Callable[..., None], dtype: str) -> bool:
    """Whether the caches are those that were handed in, with the one token changed."""
    keys, values, k, v, at = make_inputs(dtype)
    before = keys.clone(), values.clone()
    append(keys, values, k, v, at)
    for old, token in zip(before, (k, v), strict=True):
        old[:, :, POSITION] = token[:, :, 0]
    return torch.equal(keys, before[0]) and torch.equal(values, before[1])


def explain_bytes(append: Callable[..., None], inputs: tuple[torch.Tensor, ...]) -> dict[str, Any]:
    """The bytes that treadle says its kernels read and write, and the calls of ATen, of which it says none."""
    import treadle

    graphs = treadle.explain(append, inputs).graphs
    kernels = [kernel for graph in graphs for kernel in graph.kernels]
    moved = sum(kernel.launches * (kernel.read + kernel.written) for kernel in kernels)
    calls = [f"{call.count} x {call.target}" for graph in graphs for call in graph.calls if call.kind != "view"]
    return {"moved_bytes": None if calls else moved, "aten_calls": calls}


if __name__ == "__main__":
    main()
