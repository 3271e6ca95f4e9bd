"""Peak memory of the main job: how far the process grows beyond its size with the model loaded, a process a backend.

"steady" is the peak of calls after the first, "whole" includes compiling in the process itself (not its child
compilers). Target: no higher than Inductor's.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from child import empty_caches, run_child
from harness import bind, compile_for, set_up
from record import Record, contestants, make_parser, say
from targets import MAIN_JOB, load_target, short_name

STATUS = Path("/proc/self/status")
CLEAR_PEAK = Path("/proc/self/clear_refs")  # writing 5 sets the peak to the present size
CALLS = 5


def main() -> None:
    set_up()
    parser = make_parser(__doc__)
    parser.add_argument("--repeats", type=int, help="processes of each backend (3; 1 with --quick)")
    args = parser.parse_args()
    repeats = args.repeats or (1 if args.quick else 3)
    plans = {f"{short_name(MAIN_JOB)} {dtype}": dtype for dtype in (("bf16",) if args.quick else ("bf16", "fp32"))}
    record = Record("memory", args)
    for name in record.missing(plans, args.only):
        record.add(name, {who: measure_backend(name, plans[name], who, repeats) for who in contestants(args)})
    record.finish({name: {who: row[who].get("steady_mib") for who in row} for name, row in record.rows.items()})


def measure_backend(name: str, dtype: str, backend: str, repeats: int) -> dict[str, Any]:
    runs = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as directory:
            arguments = {"target": MAIN_JOB, "dtype": dtype, "backend": backend}
            result = run_child("memory", "probe", arguments, environment=empty_caches(directory))
        if not result.ok:
            say(f"{name:12} {backend:10} failed: {result.error.strip().splitlines()[-1]}")
            return {"error": result.error}
        runs.append(result.value)
    row = {key: round(median(run[key] for run in runs), 1) for key in runs[0]}
    say(f"{name:12} {backend:10} steady {row['steady_mib']:8.1f} MiB, whole {row['whole_mib']:8.1f} MiB")
    return row


def probe(target: str, dtype: str, backend: str) -> dict[str, float]:
    """Peaks beyond the size before the first call, in MiB; runs in a process of its own."""
    model, inputs = load_target(target, dtype)
    call = bind(compile_for(backend, model), inputs)
    CLEAR_PEAK.write_text("5")
    start = read_mib("VmRSS")
    call()
    whole = read_mib("VmHWM") - start
    CLEAR_PEAK.write_text("5")
    for _ in range(CALLS):
        call()
    return {
        "start_mib": start,
        "whole_mib": max(whole, read_mib("VmHWM") - start),
        "steady_mib": read_mib("VmHWM") - start,
    }


def read_mib(field: str) -> float:
    """A size from /proc/self/status: VmRSS is the present one, VmHWM the peak."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
