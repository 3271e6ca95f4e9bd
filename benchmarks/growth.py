"""How compile time grows with equal layers: CPU seconds for 2, 8 and 32 layers of the main job's kind.

Both inside treadle's own compiler, and beyond aot_eager: the second is the difference of two large noisy numbers.

Targets: at 32 layers at most 4x of 2 layers, at most 1 ms a graph node, and as many distinct kernels. The width is
small, so that running the model costs nothing beside compiling it.
"""

from __future__ import annotations

import tempfile
from statistics import median
from typing import Any

from child import empty_caches, run_child
from compiling import NODE_COUNTER
from harness import set_up
from record import Record, contestants, make_parser, say
from targets import MAIN_JOB

FLOOR = "aot_eager"
LAYERS = (2, 8, 32)
QUICK_LAYERS = (2, 8)
SIZES = {"hidden": 128, "length": 32}


def main() -> None:
    set_up()
    parser = make_parser(__doc__, peers=())  # Inductor takes minutes at 32 layers: --peers inductor to see it
    parser.add_argument("--repeats", type=int, help="runs of each backend (3; 1 with --quick)")
    args = parser.parse_args()
    repeats = args.repeats or (1 if args.quick else 3)
    layers = {f"{count} layers": count for count in (QUICK_LAYERS if args.quick else LAYERS)}
    record = Record("growth", args)
    for name in record.missing(layers, args.only):
        record.add(name, measure_layers(layers[name], contestants(args), repeats))
    record.finish(summarize(record.rows, contestants(args)))


def measure_layers(layers: int, backends: list[str], repeats: int) -> dict[str, Any]:
    """Nodes of the graph; for each backend, run in turn, what its first call cost, in all and beyond the floor."""
    nodes = run_cold(layers, NODE_COUNTER)
    row: dict[str, Any] = {"layers": layers, "nodes": nodes.get("nodes")}
    names = (FLOOR, *backends)
    rounds = [{name: run_cold(layers, name) for name in names} for _ in range(repeats)]
    for name in names:
        row[name] = describe_cost([found[name] for found in rounds], [found[FLOOR] for found in rounds])
        told = {key: row[name].get(key) for key in ("cpu", "inside", "beyond_floor", "own_beyond_floor")}
        say(f"{layers:3} layers, {row['nodes']} nodes  {name:10} {told}")
    return row


def describe_cost(runs: list[dict[str, Any]], floors: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of CPU seconds: all, inside treadle's compiler, beyond the floor, and the part of that which no child
    process (compiler) spent.
    """
    errors = [run["error"] for run in (*runs, *floors) if "error" in run]
    if errors:
        return {"error": errors[0]}
    cost = median(run["own"] + run["children"] for run in runs)
    own, floor = median(run["own"] for run in runs), median(run["own"] for run in floors)
    inside = median(run["inside"] for run in runs)
    seconds = {"cpu": cost, "inside": inside, "beyond_floor": cost - floor, "own_beyond_floor": own - floor}
    return {key: round(value, 3) for key, value in seconds.items()} | {"counters": runs[0]["counters"], "runs": runs}


def run_cold(layers: int, backend: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        arguments = {"target": MAIN_JOB, "dtype": "fp32", "backend": backend, "arguments": SIZES | {"layers": layers}}
        result = run_child("compiling", "measure", arguments, environment=empty_caches(directory))
    return result.value if result.ok else {"error": result.error}


def summarize(rows: dict[str, dict[str, Any]], backends: list[str]) -> dict[str, Any]:
    """For each backend: cost of the most layers over that of the fewest, milliseconds a node, distinct kernels."""
    ordered = sorted(rows.values(), key=lambda row: row["layers"])
    summary = {
        name: summarize_backend(name, ordered) for name in backends if all("cpu" in row[name] for row in ordered)
    }
    say(str(summary))
    return summary


def summarize_backend(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"kernels": [row[name]["counters"].get(name, {}).get("kernels") for row in rows]}
    for key in ("inside", "beyond_floor", "own_beyond_floor"):
        costs = [row[name][key] for row in rows]
        found[f"{key}_growth"] = round(costs[-1] / costs[0], 3) if costs[0] > 0 else None
        found[f"{key}_ms_per_node"] = [
            round(1000 * cost / row["nodes"], 3) for cost, row in zip(costs, rows, strict=True)
        ]
    return found


if __name__ == "__main__":
    main()
