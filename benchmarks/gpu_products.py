"""Products of matrices on a real GPU: our kernels against float64, then timed against cuBLAS and Inductor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from gpu_measure import QUICK_SAMPLES, SAMPLES, compile_on_gpu, exactly, judge, measure, to_gpu
from harness import geomean, verdict
from product_cases import CASES, QUICK_ROWS, ROWS, Case, make_inputs
from record import OURS

ODD = 37, 1000  # rows and columns that no tile divides
OWN = "own"


def plan_products(quick: bool) -> dict[str, Callable[[Any], dict[str, Any]]]:
    """Right results at odd sizes first, then both at real ones."""
    rows, width = ODD
    plans: dict[str, Callable[[Any], dict[str, Any]]] = {
        f"{case.name} {rows}x{width // case.step * case.step}": lambda args, c=case: check_product(c) for case in CASES
    }
    for rows in QUICK_ROWS if quick else ROWS:
        for case in CASES:
            if rows >= case.least:
                plans[f"{case.name} {rows}"] = lambda args, c=case, m=rows: time_product(c, m, args)
    return plans


def check_product(case: Case) -> dict[str, Any]:
    """Our kernels' error over eager's, against float64, at odd sizes."""
    rows, width = ODD
    inputs = to_gpu(make_inputs(case, rows, width // case.step * case.step))
    found = compile_on_gpu(OURS, case.function, gemm=OWN)(*inputs)
    return judge(found, case.function(*inputs), exactly(case.function, inputs))


def time_product(case: Case, rows: int, args: Any) -> dict[str, Any]:
    """Right or wrong; times of eager (cuBLAS), of Inductor, of treadle's default, and of our kernels."""
    inputs = to_gpu(make_inputs(case, rows))
    own = compile_on_gpu(OURS, case.function, gemm=OWN)
    found = judge(own(*inputs), case.function(*inputs), exactly(case.function, inputs))
    names = [*args.peers.split(","), OURS]
    torch._dynamo.reset()
    compiled = {name: compile_on_gpu(name, case.function) for name in names}
    compiled[OWN] = compile_on_gpu(OURS, case.function, gemm=OWN)
    calls = {name: (lambda f=f: f(*inputs)) for name, f in compiled.items()}
    timing = measure(calls, args.pairs or (QUICK_SAMPLES if args.quick else SAMPLES))
    return {**found, "times": timing.summary(), **verdict(timing, OWN, [*names, OWN])}


def summarize_products(rows: Mapping[str, Any]) -> dict[str, Any]:
    """What is wrong; how many times as quick as each peer ours are, by case."""
    timed = {name: row for name, row in rows.items() if "over" in row}
    peers = sorted({peer for row in timed.values() for peer in row["over"]})
    return {
        "rows": len(rows),
        "wrong": sorted(name for name, row in rows.items() if not row.get("right")),
        "geomean_over": {
            case.name: {peer: round(geomean(ratios), 3) for peer in peers if (ratios := _ratios(timed, case, peer))}
            for case in CASES
        },
    }


def _ratios(rows: Mapping[str, Any], case: Case, peer: str) -> list[float]:
    return [row["over"][peer]["median"] for name, row in rows.items() if name.split()[0] == case.name]
