"""What only a GPU can tell, as one command: right results, times against peers and ceilings, records for tuning.

    python benchmarks/gpu.py --out DIR [--slice correctness] [--minutes 9]

Without --slice every slice runs, each to DIR/gpu-SLICE.json, within so many minutes in all; a row that there was no
time for is missing, and `--resume` measures it. Where treadle is not installed:

    python tools/checkout.py benchmarks/gpu.py --out DIR
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import kernel_cases
import reduction_cases
import torch
from gpu_measure import QUICK_SAMPLES, SAMPLES, WARM_UP, compile_on_gpu, exactly, judge, measure, to_gpu
from gpu_packages import plan_packages, summarize_packages
from gpu_products import plan_products, summarize_products
from harness import Call, geomean, verdict
from record import OURS, Record, make_parser, say
from steps import make_step

from treadle.compiler.modes import MODES
from treadle.ir.errors import TreadleError

PEERS = ("eager", "inductor")
COPY_BYTES = 1 << 30
MATMUL = 8192
LAUNCH_CALLS = 2000
RECORD_CASES = 12  # kernels whose schedules are all measured


def main() -> None:
    parser = make_parser(__doc__, peers=PEERS)
    parser.add_argument("--slice", default=",".join(SLICES), help=f"of {', '.join(SLICES)}")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which no further row is begun")
    args = parser.parse_args()
    unknown = set(args.slice.split(",")) - set(SLICES)
    if unknown:
        parser.error(f"no such slice: {', '.join(sorted(unknown))}; there are {', '.join(SLICES)}")
    if not torch.cuda.is_available():
        parser.error("there is no GPU that this torch can use")
    torch.set_grad_enabled(False)
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 10_000
    folder, deadline = args.out or Path("benchmarks/results"), time.monotonic() + 60 * args.minutes
    folder.mkdir(parents=True, exist_ok=True)
    for name in args.slice.split(","):
        args.out = folder / f"gpu-{name}.json"
        record = Record(f"gpu-{name}", args)
        record.document["device"] = describe_device()
        run_slice(name, record, args, deadline)


def run_slice(name: str, record: Record, args: Any, deadline: float) -> None:
    plan, summarize = SLICES[name]
    rows = plan(args.quick)
    missing = record.missing(rows, args.only)
    for number, row in enumerate(missing, 1):
        if time.monotonic() > deadline:
            say(f"{name}: no time for {len(missing) - number + 1} rows")
            break
        torch._dynamo.reset()
        try:
            found = rows[row](args)
        except Exception as error:  # noqa: BLE001 - a row that fails is a result, and the others go on
            found = {"error": f"{type(error).__name__}: {str(error)[:600]}"}
        record.add(row, found)
        say(f"{name} {number:3}/{len(missing)} {row:48} {describe(found)}")
    record.finish(summarize(record.rows))
    say(f"{name}: {record.document['summary']}")


def describe_device() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory": properties.total_memory,
        "cuda": torch.version.cuda,
    }


def describe(row: Mapping[str, Any]) -> str:
    shown = ("error", "right", "worst_ratio", "gb_per_s", "over_best", "best", "of_copy", "microseconds", "records")
    return str({k: row[k] for k in shown if k in row})


# --- ceilings ----------------------------------------------------------------------------------------------------


def plan_ceilings(quick: bool) -> dict[str, Callable[[Any], dict[str, Any]]]:
    return {"copy": measure_copy, "matmul bf16": measure_matmul, "launch": measure_launch}


def measure_copy(args: Any) -> dict[str, Any]:
    """Bytes read and written a second by a copy within the device's memory."""
    source = torch.randn(COPY_BYTES // 4, device="cuda")
    target = torch.empty_like(source)
    seconds = measure({"copy": lambda: target.copy_(source)}, QUICK_SAMPLES).median("copy")
    return {"gb_per_s": round(2 * COPY_BYTES / seconds / 1e9, 1)}


def measure_matmul(args: Any) -> dict[str, Any]:
    a, b = (torch.randn(MATMUL, MATMUL, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    seconds = measure({"matmul": lambda: a @ b}, QUICK_SAMPLES).median("matmul")
    return {"tflop_per_s": round(2 * MATMUL**3 / seconds / 1e12, 1)}


def measure_launch(args: Any) -> dict[str, Any]:
    """Microseconds of the host for a call of a graph with one kernel: all of it, and treadle's plan alone."""
    x = torch.randn(64, device="cuda")

    def function(x: torch.Tensor) -> torch.Tensor:
        return x * 2 + 1

    calls: dict[str, Call] = {
        name: (lambda f=f: f(x)) for name, f in ((n, compile_on_gpu(n, function)) for n in (*PEERS, OURS))
    }
    plan = find_plan(function, (x,))
    calls["plan"] = lambda: plan(x)
    found = {name: host_seconds(call) * 1e6 for name, call in calls.items()}
    return {"microseconds": {name: round(value, 2) for name, value in found.items()}}


def host_seconds(call: Call) -> float:
    for _ in range(WARM_UP):
        call()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(LAUNCH_CALLS):
        call()
    spent = time.perf_counter() - begin
    torch.cuda.synchronize()
    return spent / LAUNCH_CALLS


def find_plan(function: Callable[..., Any], inputs: tuple[torch.Tensor, ...]) -> Callable[..., Any]:
    """The plan that treadle makes of a function, without Dynamo's guards and AOTAutograd's wrapper."""
    from treadle.compiler.driver import collect

    torch._dynamo.reset()
    with collect() as found:
        compile_on_gpu(OURS, function)(*inputs)
    return found[0].executable


def summarize_ceilings(rows: Mapping[str, Any]) -> dict[str, Any]:
    return dict(rows)


# --- correctness -------------------------------------------------------------------------------------------------


def plan_correctness(quick: bool) -> dict[str, Callable[[Any], dict[str, Any]]]:
    """Every case of both suites at an odd and at a real shape; those that learn with their gradients."""
    shapes = ((37, 131),) if quick else ((37, 131), (4096, 2048))
    plans: dict[str, Callable[[Any], dict[str, Any]]] = {}
    for shape in shapes:
        for dtype in reduction_cases.DTYPES:
            tail = f"{shape[0]}x{shape[1]} {str(dtype).removeprefix('torch.')}"
            for plain in kernel_cases.CASES:
                if plain.name != "rotary" or shape[1] % kernel_cases.HEAD == 0:
                    plans[f"{plain.name} {tail}"] = lambda args, c=plain, s=shape, d=dtype: check_plain(c, s, d)
            for case in reduction_cases.REDUCTIONS:
                plans[f"{case.name} {tail}"] = lambda args, c=case, s=shape, d=dtype: check_reduction(c, s, d)
    return plans


def check_plain(case: kernel_cases.Case, shape: tuple[int, int], dtype: torch.dtype) -> dict[str, Any]:
    inputs = to_gpu(kernel_cases.make_inputs(case, shape, dtype))
    exact = None if case.name == "masked_scores" else exactly(case.function, inputs)
    return judge(compile_on_gpu(OURS, case.function)(*inputs), case.function(*inputs), exact)


def check_reduction(case: reduction_cases.Reduction, shape: tuple[int, int], dtype: torch.dtype) -> dict[str, Any]:
    inputs = to_gpu(reduction_cases.make_inputs(case, shape, dtype))
    ours = compile_on_gpu(OURS, case.function)
    found = judge(ours(*inputs), case.function(*inputs), exactly(case.function, inputs))
    if not case.learns:
        return found
    torch._dynamo.reset()
    exact = exactly(case.function, inputs, step=True)
    trained = judge(make_step(ours, inputs)(), make_step(case.function, inputs)(), exact)
    return {
        "right": found["right"] and trained["right"],
        "worst_ratio": max(found["worst_ratio"], trained["worst_ratio"]),
        "problems": found["problems"] + trained["problems"],
    }


def summarize_correctness(rows: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "rows": len(rows),
        "right": sum(bool(row.get("right")) for row in rows.values()),
        "wrong": sorted(name for name, row in rows.items() if not row.get("right")),
    }


# --- speed -------------------------------------------------------------------------------------------------------


def plan_speed(quick: bool) -> dict[str, Callable[[Any], dict[str, Any]]]:
    plans: dict[str, Callable[[Any], dict[str, Any]]] = {}
    for rows, columns in kernel_cases.QUICK_SHAPES if quick else kernel_cases.SHAPES:
        for dtype in reduction_cases.DTYPES:
            tail = f"{rows}x{columns} {str(dtype).removeprefix('torch.')}"
            for plain in kernel_cases.CASES:
                plans[f"{plain.name} {tail}"] = lambda args, c=plain, s=(rows, columns), d=dtype: time_row(
                    c.function, kernel_cases.make_inputs(c, s, d), args, train=False
                )
    for rows, columns in reduction_cases.QUICK_SHAPES if quick else reduction_cases.SHAPES:
        for dtype in reduction_cases.DTYPES:
            tail = f"{rows}x{columns} {str(dtype).removeprefix('torch.')}"
            for case in reduction_cases.REDUCTIONS:
                for train in (False, True) if case.learns else (False,):
                    kind = "train" if train else "forward"
                    plans[f"{case.name} {tail} {kind}"] = lambda args, c=case, s=(rows, columns), d=dtype, t=train: (
                        time_row(c.function, reduction_cases.make_inputs(c, s, d), args, train=t)
                    )
    return plans


def time_row(
    function: Callable[..., Any], inputs: tuple[torch.Tensor, ...], args: Any, *, train: bool
) -> dict[str, Any]:  # fmt: skip
    """Times of eager, Inductor and treadle; of the copy ceiling, the part that the inputs and outputs alone make."""
    given = to_gpu(inputs)
    names = [*args.peers.split(","), OURS]
    compiled = {name: compile_on_gpu(name, function) for name in names}
    calls = {name: make_step(f, given) if train else (lambda f=f: f(*given)) for name, f in compiled.items()}
    timing = measure(calls, args.pairs or (QUICK_SAMPLES if args.quick else SAMPLES))
    found: dict[str, Any] = {"times": timing.summary(), **verdict(timing, OURS, names)}
    if not train:
        outputs = function(*given)
        flat = outputs if isinstance(outputs, tuple) else (outputs,)
        moved = sum(t.numel() * t.element_size() for t in (*given, *flat))
        found |= {"bytes": moved, "gb_per_s": round(moved / timing.median(OURS) / 1e9, 1)}
    return found


def summarize_speed(rows: Mapping[str, Any]) -> dict[str, Any]:
    judged = {name: row for name, row in rows.items() if "over" in row}
    peers = sorted({peer for row in judged.values() for peer in row["over"]})
    return {
        "rows": len(rows),
        "geomean_over": {
            peer: round(geomean(row["over"][peer]["median"] for row in judged.values()), 3) for peer in peers
        },
        "below": sorted(name for name, row in judged.items() if row["over_best"]["high"] < 0.95),
        "errors": sorted(name for name, row in rows.items() if "error" in row),
    }


# --- records -----------------------------------------------------------------------------------------------------


def plan_records(quick: bool) -> dict[str, Callable[[Any], dict[str, Any]]]:
    """Kernels of the reduction suite, whose candidate schedules are all measured."""
    chosen = reduction_cases.REDUCTIONS[: 3 if quick else RECORD_CASES]
    return {
        f"{case.name} 4096x2048 bfloat16": lambda args, c=case: measure_schedules(c, (4096, 2048), torch.bfloat16)
        for case in chosen
    }


def measure_schedules(case: reduction_cases.Reduction, shape: tuple[int, int], dtype: torch.dtype) -> dict[str, Any]:
    """Seconds of a case under each schedule of its kernels, one kernel at a time, the others at their default."""
    from treadle.codegen.triton import emit
    from treadle.compiler import gpu_kernels
    from treadle.compiler.driver import collect
    from treadle.passes.fuse import Launch

    inputs = to_gpu(reduction_cases.make_inputs(case, shape, dtype))
    default = gpu_kernels.default_schedule
    records: list[dict[str, Any]] = []
    with collect() as found:
        compile_on_gpu(OURS, case.function)(*inputs)
    kernels = {s.digest: s.kernel for s in found[0].fused.steps if isinstance(s, Launch)}
    try:
        for digest, kernel in kernels.items():
            for schedule in emit.candidates(kernel):
                gpu_kernels.default_schedule = lambda k, s=schedule, mine=kernel: s if k == mine else default(k)
                torch._dynamo.reset()
                try:
                    with collect() as tried, settings_for(schedule):
                        compiled = compile_on_gpu(OURS, case.function)
                        compiled(*inputs)
                    del tried
                    seconds = measure({"x": lambda f=compiled: f(*inputs)}, QUICK_SAMPLES).median("x")
                except TreadleError as error:
                    records.append({"kernel": digest, "schedule": schedule.to_json(), "error": str(error)})
                    continue
                records.append({"kernel": digest, "schedule": schedule.to_json(), "seconds": seconds})
    finally:
        gpu_kernels.default_schedule = default
    return {"records": len(records), "measured": records}


def settings_for(schedule: Any) -> Any:
    """A store of its own for each schedule: kernels are found by what they compute, not by how."""
    import tempfile

    from treadle.compiler.settings import settings

    return settings.override(cache_dir=tempfile.mkdtemp(prefix="treadle-records-"))


def summarize_records(rows: Mapping[str, Any]) -> dict[str, Any]:
    best: dict[str, float] = {}
    for name, row in rows.items():
        seconds = [r["seconds"] for r in row.get("measured", ()) if "seconds" in r]
        if seconds:
            best[name] = round(seconds[0] / min(seconds), 3)
    return {"rows": len(rows), "default_over_best": best}


# --- modes -------------------------------------------------------------------------------------------------------

MODE_CALLS = 6
RANDOM = {"rng": "philox"}


def feed_forward(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    h = torch.nn.functional.gelu(torch.nn.functional.rms_norm(x, x.shape[-1:]) @ w)
    return x + torch.softmax(h @ v, -1)


def plan_modes(quick: bool) -> dict[str, Callable[[Any], dict[str, Any]]]:
    """Every mode of torch.compile, with results held over the calls and inputs that move; random numbers in kernels."""
    plans: dict[str, Callable[[Any], dict[str, Any]]] = {
        f"{mode} {'train' if train else 'forward'}": lambda args, m=mode, t=train: check_mode(m, train=t)
        for mode in MODES for train in (False, True)
    }  # fmt: skip
    return plans | {"host time": time_modes, "random": check_random}


def mode_inputs(seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator("cuda").manual_seed(seed)
    x, w, v = (torch.randn(s, device="cuda", generator=generator) for s in ((128, 256), (256, 512), (512, 256)))
    return x, w / 16, v / 16


def check_mode(mode: str, *, train: bool) -> dict[str, Any]:
    """Weights stay where they are, the other input is another tensor in each call; nothing is judged before the end."""
    options: Any = {"fallback": "error", **MODES[mode]}
    ours = torch.compile(feed_forward, backend=OURS, dynamic=False, fullgraph=True, options=options)
    torch._dynamo.utils.counters.clear()
    weights = mode_inputs(0)[1:]
    given = [(mode_inputs(seed)[0], *weights) for seed in range(MODE_CALLS)]
    with torch.set_grad_enabled(train):
        got = [make_step(ours, x)() if train else ours(*x) for x in given]
        eager = [make_step(feed_forward, x)() if train else feed_forward(*x) for x in given]
        exact = [exactly(feed_forward, x, step=train) for x in given]
    counted = {k: n for k, n in torch._dynamo.utils.counters["treadle"].items() if isinstance(n, int)}
    return {**judge(got, eager, exact), "counters": counted}


def time_modes(args: Any) -> dict[str, Any]:
    """Microseconds of the host for a call, as models make them: one after the other, results dropped."""
    x = mode_inputs(0)
    found: dict[str, float] = {"eager": host_seconds(lambda: feed_forward(*x)) * 1e6}
    for mode in ("default", "reduce-overhead"):
        for name in ("inductor", OURS):
            torch._dynamo.reset()
            compiled = torch.compile(feed_forward, backend=name, dynamic=False, fullgraph=True, mode=mode)
            found[f"{name} {mode}"] = host_seconds(lambda f=compiled: f(*x)) * 1e6
    return {"microseconds": {name: round(value, 2) for name, value in found.items()}}


def check_random(args: Any) -> dict[str, Any]:
    """One seed gives one mask, another call another; dropped and kept elements are as many as they should be."""

    def function(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.nn.functional.dropout(x, 0.25, True), torch.randn_like(x)

    x = torch.ones(1024, 1024, device="cuda")
    problems = []
    for graphs in (False, True):
        torch._dynamo.reset()
        options: Any = {"fallback": "error", "cuda_graphs": graphs, **RANDOM}
        ours = torch.compile(function, backend=OURS, dynamic=False, fullgraph=True, options=options)
        calls = []
        for seed in (1, 2, 1, 2, 1):
            torch.manual_seed(seed)
            calls.append([t.clone() for t in (*ours(x), *ours(x))])
        dropped, drawn = (calls[0][0] == 0).double().mean().item(), calls[0][1].double()
        fair = (dropped - 0.25, drawn.mean().item(), drawn.std().item() - 1)
        checks = {
            "one seed, one result": all(map(torch.equal, calls[0], calls[2])) and all(map(torch.equal, *calls[1::2])),
            "another call, another result": not torch.equal(calls[0][0], calls[0][2]),
            "another seed, another result": not torch.equal(calls[0][0], calls[1][0]),
            "distributions": all(abs(d) < 0.006 for d in fair),  # over six standard deviations of each
        }
        problems += [f"graphs={graphs}: {name}" for name, right in checks.items() if not right]
    return {"right": not problems, "problems": problems}


def summarize_modes(rows: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "wrong": sorted(name for name, row in rows.items() if row.get("right") is False or "error" in row),
        "microseconds": rows.get("host time", {}).get("microseconds", {}),
    }


Plan = Callable[[bool], dict[str, Callable[[Any], dict[str, Any]]]]
SLICES: dict[str, tuple[Plan, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "ceilings": (plan_ceilings, summarize_ceilings),
    "correctness": (plan_correctness, summarize_correctness),
    "speed": (plan_speed, summarize_speed),
    "records": (plan_records, summarize_records),
    "modes": (plan_modes, summarize_modes),
    "packages": (plan_packages, summarize_packages),
    "products": (plan_products, summarize_products),
}


if __name__ == "__main__":
    sys.exit(main())
