"""The zoo of `transformers` architectures through a backend, one process a case: right or wrong, graphs, compile time.

    python benchmarks/architectures.py --backend inductor --arch llama,bert --cases fp32,train --out zoo.json

A crash or a time-out of one case is that case's row, with the error's text. `counters` are the backend's own
(`torch._dynamo.utils.counters[backend]`) and Dynamo's; a right result that a fallback to ATen gave is named. Target: at
least 95% of the nodes that compute and are no contractions, convolutions or attention are compiled (`native_share`).
Views are counted on neither side, nothing of a case that fell back is counted as compiled, and `left_to_aten` has the
operators that are not, with their number and why.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from child import empty_caches, run_child
from harness import set_up
from parts import NOT_NATIVE, count_calls
from record import OURS, Record, make_parser, say

from tests.zoo import ARCHITECTURES
from tests.zoo.cases import CASES, list_cases, run_case
from treadle.compiler.driver import collect

SHOWN_COUNTERS = ("stats", "graph_break", "frames", "aot_autograd")
FAILURES_SHOWN = 5
QUICK = ("llama", "bert", "t5", "vit", "mixtral", "mamba", "wav2vec2")


def main() -> None:
    set_up()
    parser = make_parser(__doc__, peers=())
    parser.add_argument("--arch", default="", help="architectures, separated by commas (all; a few with --quick)")
    parser.add_argument("--cases", default=",".join(CASES), help="of fp32, bf16, train")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--timeout", type=float, default=600, help="seconds a case may take")
    args = parser.parse_args()
    chosen = args.arch.split(",") if args.arch else (QUICK if args.quick else list(ARCHITECTURES))
    unknown = [name for name in chosen if name not in ARCHITECTURES]
    if unknown:
        parser.error(f"no such architecture: {', '.join(unknown)}; there are {', '.join(ARCHITECTURES)}")
    plans = {f"{name} {case}": (name, case) for name in chosen for case in list_cases(ARCHITECTURES[name])
             if case in args.cases.split(",")}  # fmt: skip
    record = Record("architectures", args)
    missing = record.missing(plans, args.only)
    with ThreadPoolExecutor(args.jobs) as pool:
        rows = pool.map(lambda name: judge_case(*plans[name], args.backend, args.timeout), missing)
        for number, (name, row) in enumerate(zip(missing, rows, strict=True), 1):
            record.add(name, row)
            say(f"{number:3}/{len(missing)} {name:28} {describe(row)}")
    record.finish(summarize(record.rows))
    say(str(record.document["summary"]))


def judge_case(name: str, case: str, backend: str, timeout: float) -> dict[str, Any]:
    """Run one case in a process of its own, with empty caches."""
    arguments = {"name": name, "case": case, "backend": backend}
    with tempfile.TemporaryDirectory() as directory:
        result = run_child("architectures", "judge", arguments, environment=empty_caches(directory), timeout=timeout)
    row = result.value if result.ok else {"ok": False, "error": result.error}
    return row | {"wall_seconds": round(result.wall_seconds, 1), "cpu_seconds": round(result.cpu_seconds, 1)}


def judge(name: str, case: str, backend: str) -> dict[str, Any]:
    """What `run_case` found, as JSON; called in the case's own process."""
    import torch

    torch.set_grad_enabled(True)
    with collect() as graphs:
        outcome = run_case(ARCHITECTURES[name], case, backend)
    failures = [f"{row.name} {row.dtype}{list(row.shape)}: {row.problem}" for row in outcome.report.failures]
    return {
        "ok": outcome.report.ok,
        "error": "\n".join(failures[:FAILURES_SHOWN]),
        "wrong": len(failures),
        "compared": len(outcome.report.rows),
        "worst_ratio": round(min(outcome.report.worst_ratio, 1e9), 3),
        "graphs": outcome.graphs,
        "first_call_cpu": round(outcome.first_call_cpu, 3),
        "fallbacks": outcome.fallbacks(backend),
        "counters": {k: shorten(outcome.counters[k]) for k in (backend, *SHOWN_COUNTERS) if k in outcome.counters},
        "left_to_aten": dict(sum((count_calls(graph) for graph in graphs), Counter())),
    }


def shorten(counts: Any) -> dict[str, int]:
    """Counters by the first line of their names: what follows in a graph break's tells of files on this machine."""
    short: Counter[str] = Counter()
    for name, count in counts.items():
        short[name.partition("\n")[0]] += count
    return dict(short)


def describe(row: dict[str, Any]) -> str:
    if "graphs" not in row:
        return f"CRASH {row['error'].strip().splitlines()[-1][:150]}"
    verdict = "ok   " if row["ok"] else "WRONG"
    facts = f"ratio {row['worst_ratio']:6.2f}  {row['graphs']} graphs  first call {row['first_call_cpu']:.1f} CPU s"
    facts += f"  {row['fallbacks']} FELL BACK" if row["fallbacks"] else ""
    return f"{verdict} {facts}{'' if row['ok'] else '  ' + row['error'].splitlines()[0]}"


def summarize(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    left = sum((Counter(row.get("left_to_aten", {})) for row in rows.values()), Counter())
    return {
        "cases": len(rows),
        "right": sum(row["ok"] for row in rows.values()),
        "architectures": len({name.split()[0] for name in rows}),
        "worst_ratio": max((row["worst_ratio"] for row in rows.values() if row["ok"]), default=None),
        "failed": sorted(name for name, row in rows.items() if not row["ok"]),
        "fell_back": sorted(name for name, row in rows.items() if row.get("fallbacks")),
        "native_share": share_native(rows.values()),
        "native_share_by_architecture": share_each(rows),
        "left_to_aten": dict(left.most_common()),
        "first_call_cpu": round(sum(row.get("first_call_cpu", 0) for row in rows.values()), 1),
    }


def share_native(rows: Iterable[dict[str, Any]]) -> float | None:
    """Of the compute nodes that are no library calls, how many treadle compiled itself; None for other backends."""
    native = total = 0
    for row in rows:
        counts = row.get("counters", {}).get(OURS, {})
        own = counts.get("native", 0)
        total += own + sum(counts.get(kind, 0) for kind in NOT_NATIVE)
        native += 0 if row.get("fallbacks") else own
    return round(native / total, 4) if total else None


def share_each(rows: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """`share_native` of each architecture, the least first."""
    names = dict.fromkeys(name.split()[0] for name in rows)
    shares = {name: share_native(row for key, row in rows.items() if key.split()[0] == name) for name in names}
    return dict(sorted(shares.items(), key=lambda item: 1.0 if item[1] is None else item[1]))


if __name__ == "__main__":
    main()
