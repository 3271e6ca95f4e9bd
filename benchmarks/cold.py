"""Cold and warm compile time: CPU seconds of the first call, own and children's, beyond those through aot_eager.

Each run is a new process. Cold: every cache is empty. Warm: the next process with the same caches. Dynamo and
AOTAutograd cost every backend the same; aot_eager, which runs their graphs as they are, is that floor. Targets: the
main job within 1/10 of Inductor's cost beyond the floor, a graph of one kernel within 0.3 s, a second process without
a compiler and within 0.1 s.
"""

from __future__ import annotations

import compileall
import tempfile
from statistics import median
from typing import Any

from child import ROOT, empty_caches, run_child
from harness import set_up
from record import Record, contestants, make_parser, say
from targets import MAIN_JOB, ONE_KERNEL, short_name

FLOOR = "aot_eager"
PACKAGES = ("compiler", "ir", "passes", "codegen", "costmodel")
CASES = ((ONE_KERNEL, "fp32"), (MAIN_JOB, "bf16"), (MAIN_JOB, "fp32"))
QUICK_CASES = CASES[:2]


def main() -> None:
    set_up()
    byte_compile()
    parser = make_parser(__doc__, peers=("inductor",))
    parser.add_argument("--repeats", type=int, help="runs of each backend (3; 1 with --quick)")
    args = parser.parse_args()
    repeats = args.repeats or (1 if args.quick else 3)
    cases = {
        f"{short_name(target)} {dtype}": (target, dtype) for target, dtype in (QUICK_CASES if args.quick else CASES)
    }
    record = Record("cold", args)
    backends = [FLOOR, *contestants(args)]
    for name in record.missing(cases, args.only):
        record.add(name, measure_case(name, *cases[name], backends, repeats))
    record.finish({name: compare(row, args.backend) for name, row in record.rows.items()})


def byte_compile() -> None:
    """Byte-compile treadle's modules, as an installer does with those of its peers: a checkout's may never be."""
    for folder in PACKAGES:
        compileall.compile_dir(ROOT / folder, quiet=1)


def measure_case(name: str, target: str, dtype: str, backends: list[str], repeats: int) -> dict[str, Any]:
    """Run all backends in turn, `repeats` times; medians of each, and costs beyond the floor."""
    runs: dict[str, list[dict[str, Any]]] = {backend: [] for backend in backends}
    for repeat in range(repeats):
        for backend in backends:
            result = measure_twice(target, dtype, backend)
            runs[backend].append(result)
            say(f"{name:12} {repeat + 1}/{repeats} {backend:10} {describe(result)}")
    row = {backend: summarize(results) for backend, results in runs.items()}
    floor = row[FLOOR]
    for values in row.values():
        if "error" not in values and "error" not in floor:
            values["cold_beyond_floor"] = round(values["cold_cpu"] - floor["cold_cpu"], 3)
            values["warm_beyond_floor"] = round(values["warm_cpu"] - floor["warm_cpu"], 3)
    return row


def measure_twice(target: str, dtype: str, backend: str) -> dict[str, Any]:
    """One process with empty caches and one after it; {"cold": ..., "warm": ...} or {"error": ...}."""
    arguments = {"target": target, "dtype": dtype, "backend": backend}
    with tempfile.TemporaryDirectory() as directory:
        environment = empty_caches(directory)
        cold = run_child("compiling", "measure", arguments, environment=environment)
        warm = run_child("compiling", "measure", arguments, environment=environment)
    if not cold.ok or not warm.ok:
        return {"error": cold.error or warm.error}
    return {"cold": cold.value, "warm": warm.value}


def summarize(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the repeats; what was started and counted is the first run's."""
    errors = [result["error"] for result in results if "error" in result]
    if errors:
        return {"error": errors[0]}
    summary: dict[str, Any] = {}
    for phase in ("cold", "warm"):
        runs = [result[phase] for result in results]
        first = runs[0]
        summary |= {
            f"{phase}_cpu": round(median(run["own"] + run["children"] for run in runs), 3),
            f"{phase}_children": round(median(run["children"] for run in runs), 3),
            f"{phase}_wall": round(median(run["wall"] for run in runs), 3),
            f"{phase}_compilers": max(run["compilers"] for run in runs),
            f"{phase}_counters": first["counters"],
        }
    return summary | {"samples": [run["own"] + run["children"] for run in (result["cold"] for result in results)]}


def compare(row: dict[str, Any], ours: str) -> dict[str, Any]:
    """Our cost beyond the floor and its share of every peer's."""
    beyond = {name: values.get("cold_beyond_floor") for name, values in row.items() if name != FLOOR}
    mine = beyond.pop(ours, None)
    shares = {name: round(mine / theirs, 4) for name, theirs in beyond.items() if mine is not None and theirs}
    return {"ours": mine, "peers": beyond, "share_of": shares, "floor": row.get(FLOOR, {}).get("cold_cpu")}


def describe(result: dict[str, Any]) -> str:
    if "error" in result:
        return f"failed: {result['error'].strip().splitlines()[-1]}"
    parts = [
        f"{phase}: {run['own'] + run['children']:.2f} CPU s ({run['children']:.2f} in children, "
        f"{run['compilers']} compilers), {run['wall']:.2f} s"
        for phase, run in result.items()
    ]
    return "; ".join(parts)


if __name__ == "__main__":
    main()
