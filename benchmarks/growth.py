"""How compile time grows with equal layers: CPU seconds beyond aot_eager for 2, 8 and 32 layers of the main job's kind.

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
    """Nodes of the graph; for each backend the median CPU seconds of its first call, in all and beyond the floor."""
    nodes = run_cold(layers, NODE_COUNTER)
    row: dict[str, Any] = {"layers": layers, "nodes": nodes.get("nodes")}
    runs = {backend: [run_cold(layers, backend) for _ in range(repeats)] for backend in (FLOOR, *backends)}
    floor = middle(runs[FLOOR])
    for backend, results in runs.items():
        errors = [result["error"] for result in results if "error" in result]
        cost = None if errors else middle(results)
        beyond = None if cost is None or floor is None else round(cost - floor, 3)
        row[backend] = {"cpu": cost, "beyond_floor": beyond, "counters": results[0].get("counters"), "errors": errors}
        say(f"{layers:3} layers, {row['nodes']} nodes  {backend:10} {cost} CPU s, {beyond} beyond the floor")
    return row


def run_cold(layers: int, backend: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        arguments = {"target": MAIN_JOB, "dtype": "fp32", "backend": backend, "arguments": SIZES | {"layers": layers}}
        result = run_child("compiling", "measure", arguments, environment=empty_caches(directory))
    return result.value if result.ok else {"error": result.error}


def middle(results: list[dict[str, Any]]) -> float | None:
    """The median CPU seconds, own and children's; None if a run failed."""
    if any("error" in result for result in results):
        return None
    return round(median(result["own"] + result["children"] for result in results), 3)


def summarize(rows: dict[str, dict[str, Any]], backends: list[str]) -> dict[str, Any]:
    """For each backend: cost of the most layers over that of the fewest, and milliseconds a node."""
    ordered = sorted(rows.values(), key=lambda row: row["layers"])
    summary: dict[str, Any] = {}
    for backend in backends:
        costs = [row.get(backend, {}).get("beyond_floor") for row in ordered]
        if not costs or None in costs:
            continue
        per_node = [1000 * cost / row["nodes"] for cost, row in zip(costs, ordered, strict=True)]
        growth = round(costs[-1] / costs[0], 3) if costs[0] > 0 else None
        summary[backend] = {"growth": growth, "ms_per_node": [round(value, 3) for value in per_node]}
    say(str(summary))
    return summary


if __name__ == "__main__":
    main()
