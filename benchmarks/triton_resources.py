"""What the Triton kernels of every benchmark take of five GPUs: registers, stack, shared memory. No GPU is needed.

Each case of the kernel, reduction and module suites is compiled as treadle compiles it (forward, and backward where
there is one); products of matrices as they are where no library is asked. Each kernel is printed under its default
schedule and compiled for sm_80, sm_90, sm_100, sm_120, gfx942.
Target: all compile, and none has a stack, which is where registers spill to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import kernel_cases
import product_cases
import reduction_cases
import torch
from harness import compile_for, set_up
from module_cases import CASES
from record import OURS, Record, make_parser, say
from steps import bind_step, draw_gradients, make_step
from targets import DTYPES
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from treadle.codegen.triton.emit import emit_module
from treadle.codegen.triton.targets import TARGETS
from treadle.compiler.contractions_gpu import judge_gpu_product
from treadle.compiler.driver import collect
from treadle.compiler.frontend.importer import import_graph
from treadle.compiler.gpu_kernels import print_gpu_kernel
from treadle.compiler.runtime.gpu.cross import Failed, Request, compile_launches, describe
from treadle.costmodel.roofline import estimate, find_device
from treadle.ir.errors import TreadleError
from treadle.ir.loops import Kernel
from treadle.passes.fuse import Launch, fuse_graph

PRODUCT = "product_"  # before the name of a case
PRICED_AS = "sm_90"  # what decides on fusion where no device is there
MODULE = "module"  # in the place of a shape: the modules have sizes of their own
PER_ROUND = 8  # cases whose kernels are compiled at once: a module is imported by each process once


def main() -> None:
    set_up()
    args = make_parser(__doc__, peers=()).parse_args()
    record = Record("triton_resources", args)
    missing = list(record.missing(plan_rows(args.quick), args.only))
    for start in range(0, len(missing), PER_ROUND):
        names = missing[start : start + PER_ROUND]
        found = compile_all({name: find_kernels(name) for name in names})
        for name in names:
            record.add(name, found[name])
        say(f"{start + len(names):3}/{len(missing)} {names[-1]}: {len(found[names[-1]]['launches'])} launches")
    record.finish(summarize(record.rows))
    say(str(record.document["summary"]))


def plan_rows(quick: bool) -> dict[str, str]:
    """Names of the rows; each names a case, a shape and a type."""
    suites = ((kernel_cases.CASES, kernel_cases.SHAPES, kernel_cases.QUICK_SHAPES),
              (reduction_cases.REDUCTIONS, reduction_cases.SHAPES, reduction_cases.QUICK_SHAPES))  # fmt: skip
    names = [
        f"{case.name} {rows}x{columns} {dtype}"
        for cases, shapes, few in suites for case in cases for rows, columns in (few[:1] if quick else shapes)
        for dtype in DTYPES
    ]  # fmt: skip
    names += [
        f"{PRODUCT}{case.name} {rows}x{product_cases.WIDTH} bfloat16"
        for rows in (product_cases.QUICK_ROWS if quick else product_cases.ROWS) for case in product_cases.CASES
        if rows >= case.least
    ]  # fmt: skip
    names += [] if quick else [f"{case.name} {MODULE} {str(case.dtype).removeprefix('torch.')}" for case in CASES]
    return dict.fromkeys(names, "")


def find_kernels(name: str) -> dict[str, Kernel]:
    """The distinct kernels of a row, by digest; of its backward too where it has one."""
    case_name, shape, dtype = name.split()
    torch._dynamo.reset()
    if shape == MODULE:
        function, given = next(c for c in CASES if c.name == case_name).make()
        with collect() as found:
            bind_step(compile_for(OURS, function), given, draw_gradients(function, given))()
        return distinct_kernels(found)
    rows, columns = (int(n) for n in shape.split("x"))
    if case_name.startswith(PRODUCT):
        return find_products(case_name.removeprefix(PRODUCT), rows)
    with collect() as found:
        plain = next((c for c in kernel_cases.CASES if c.name == case_name), None)
        if plain is not None:
            inputs = kernel_cases.make_inputs(plain, (rows, columns), DTYPES[dtype])
            compile_for(OURS, plain.function)(*inputs)
        else:
            case = next(c for c in reduction_cases.REDUCTIONS if c.name == case_name)
            inputs = reduction_cases.make_inputs(case, (rows, columns), DTYPES[dtype])
            compiled = compile_for(OURS, case.function)
            make_step(compiled, inputs)() if case.learns else compiled(*inputs)
    return distinct_kernels(found)


def find_products(name: str, rows: int) -> dict[str, Kernel]:
    """The kernels of a product of matrices where no library is asked."""
    case = next(c for c in product_cases.CASES if c.name == name)
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(t) for t in product_cases.make_inputs(case, rows)]
        module = make_fx(torch.func.functionalize(case.function))(*fakes)
    graph = import_graph(module, name, judge=lambda product: judge_gpu_product(product, "own")).graph
    row = find_device(PRICED_AS)
    fused = fuse_graph(graph, lambda kernel: estimate(kernel, row).seconds, "fast")
    return {s.digest: s.kernel for s in fused.steps if isinstance(s, Launch)}


def distinct_kernels(found: Iterable[Any]) -> dict[str, Kernel]:
    return {s.digest: s.kernel for c in found for s in c.fused.steps if isinstance(s, Launch)}


def compile_all(kernels: dict[str, dict[str, Kernel]]) -> dict[str, dict[str, Any]]:
    """For each row its launches, with what each takes of each GPU; and what could not be printed."""
    rows: dict[str, dict[str, Any]] = {name: {"launches": {}, "unprinted": {}} for name in kernels}
    requests: list[Request] = []
    places: list[tuple[str, str, str]] = []
    for name, found in kernels.items():
        for digest, kernel in found.items():
            try:
                source = print_gpu_kernel(kernel, digest)
            except TreadleError as error:
                rows[name]["unprinted"][digest] = str(error)
                continue
            text = emit_module([source])
            for launch in source.launches:
                rows[name]["launches"][launch.function] = {"programs": str(launch.programs), "warps": launch.warps}
                for target in TARGETS.values():
                    requests.append(Request(text, launch, target))
                    places.append((name, launch.function, target.name))
    for (name, function, target), made in zip(places, compile_launches(requests), strict=True):
        row = {"error": f"{made.kind}: {made.error[-300:]}"} if isinstance(made, Failed) else describe(made)
        row.pop("name", None)
        rows[name]["launches"][function][target] = row
    return rows


def summarize(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How many compile for each target, which spill, which fail; the most registers a thread has."""
    launches = [(name, f, x) for name, row in rows.items() for f, x in row["launches"].items()]
    made = {t: [x[t] for _, _, x in launches if t in x] for t in TARGETS}
    return {
        "rows": len(rows),
        "launches": len(launches),
        "compiled": {t: sum("error" not in x for x in found) for t, found in made.items()},
        "most_registers": {t: max((x.get("registers", 0) for x in found), default=0) for t, found in made.items()},
        "spills": sorted({f"{n} {f} {t}" for n, f, x in launches for t in TARGETS if x.get(t, {}).get("stack")}),
        "failed": sorted({f"{n} {f} {t}" for n, f, x in launches for t in TARGETS if "error" in x.get(t, {})}),
        "unprinted": sorted(name for name, row in rows.items() if row["unprinted"]),
    }


if __name__ == "__main__":
    main()
