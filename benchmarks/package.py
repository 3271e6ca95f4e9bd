"""Packages: seconds from `import torch` to the first result of a loaded model, in processes without a compiler.

A model is packaged once; then new processes load it and call it twice. "start" is loading and the first call, beyond
importing torch; "own" is the start less the second call, which is the model's own work. Target: 0.5 s of own at most.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from harness import ROOT, set_up
from record import Record, make_parser, say
from safetensors.torch import save_file
from targets import MAIN_JOB, load_target

import treadle

LIMIT_S = 0.5
WIDTH = 256
# What a process runs that has a package and nothing else; prints JSON.
START = """
import json, sys, time
begin = time.perf_counter()
import torch
torch.set_num_threads(1)
imported = time.perf_counter()
import treadle
call = treadle.load(sys.argv[1])
loaded = time.perf_counter()
from safetensors.torch import load_file
inputs = load_file(sys.argv[2])
ready = time.perf_counter()
call(**inputs)
first = time.perf_counter()
call(**inputs)
print(json.dumps({"import_torch_s": imported - begin, "load_s": loaded - imported, "first_call_s": first - ready,
                  "second_call_s": time.perf_counter() - first, "start_s": loaded - imported + first - ready,
                  "modules": len([name for name in sys.modules if name.startswith("treadle")])}))
"""

Built = tuple[Any, dict[str, torch.Tensor]]


def main() -> None:
    set_up()
    parser = make_parser(__doc__, peers=())
    parser.add_argument("--repeats", type=int, help="processes of each model (7; 3 with --quick)")
    args = parser.parse_args()
    repeats = args.repeats or (3 if args.quick else 7)
    cases: dict[str, Callable[[], Built]] = {"mlp fp32": build_mlp, "small llama bf16": build_small_llama}
    if not args.quick:
        cases["llama bf16"] = build_llama
    record = Record("package", args)
    for name in record.missing(cases, args.only):
        record.add(name, measure_model(name, cases[name], repeats))
    summary = {key: {name: row[key] for name, row in record.rows.items()} for key in ("start_s", "own_s")}
    within = all(seconds <= LIMIT_S for seconds in summary["own_s"].values())
    record.finish(summary | {"limit_s": LIMIT_S, "within": within})


def build_mlp() -> Built:
    """Two layers of 256, a batch of 32."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(256, 256), torch.nn.GELU(), torch.nn.Linear(256, 10), torch.nn.Softmax(-1)]
    return torch.nn.Sequential(*layers), {"input": torch.randn(32, 256)}


def build_small_llama() -> Built:
    model, inputs = load_target(MAIN_JOB, hidden=WIDTH, layers=2, length=64)
    return model, dict(inputs)


def build_llama() -> Built:
    model, inputs = load_target(MAIN_JOB)
    return model, dict(inputs)


def measure_model(name: str, build: Callable[[], Built], repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        model, inputs = build()
        begin = time.perf_counter()
        place = treadle.package(model, inputs, Path(folder, "model.treadle"))
        seconds = time.perf_counter() - begin
        save_file(inputs, Path(folder, "inputs.safetensors"))
        runs = [start(place, Path(folder, "inputs.safetensors")) for _ in range(repeats)]
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    row = {key: round(median(run[key] for run in runs), 4) for key in runs[0]}
    row["own_s"] = round(median(run["start_s"] - run["second_call_s"] for run in runs), 4)
    row |= {"worst_start_s": round(max(run["start_s"] for run in runs), 4), "package_s": round(seconds, 2),
            "mib": round(size / 2**20, 2), "processes": repeats}  # fmt: skip
    say(f"{name:18} start {row['start_s']:.3f} s (load {row['load_s']:.3f}, first call {row['first_call_s']:.3f}, "
        f"second {row['second_call_s']:.3f}), worst {row['worst_start_s']:.3f}; {row['mib']:.1f} MiB")  # fmt: skip
    return row


def start(place: Path, inputs: Path) -> dict[str, float]:
    """Load and call in a new process, whose PATH leads to no compiler."""
    environment = os.environ | {"PATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", START, str(place), str(inputs)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the process failed:\n{done.stderr}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
