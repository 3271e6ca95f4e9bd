"""What the pipeline does otherwise for a graph on a GPU."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch._dynamo.utils import counters

from ..codegen.triton.emit import default_schedule
from ..codegen.triton.space import cuts_under
from ..costmodel.roofline import Device
from ..costmodel.roofline import find_device as price_of
from ..ir.errors import DeviceError, TreadleError
from ..ir.loops import Kernel
from ..passes.fuse import Launch
from .contractions_gpu import judge_gpu_product
from .cutting import describe_cuts
from .frontend.contractions import Product
from .frontend.importer import Imported
from .gpu_kernels import GpuTools, build_gpu_kernels, print_gpu_kernel, require_triton
from .kernels import Built, Show, Shown, Toolchain, build_runner, describe
from .places import describe_place
from .runtime.gpu.device import find_device
from .runtime.gpu.executable import GpuExecutable, bind_gpu_plan, device_of
from .runtime.plan import Plan
from .runtime.plan_values import Values
from .settings import settings

log = logging.getLogger(__name__)
__all__ = ["bind_gpu", "build_gpu_kernels", "describe_gpu", "find_gpu", "judge"]


def find_gpu(device: str, host: Toolchain) -> GpuTools:
    """The tools for a GPU. Raises DeviceError for one without kernels of ours, CompileError without Triton."""
    target = find_device(torch.device(device).index or 0).target()
    tools = GpuTools(host, target, device)
    require_triton(tools)
    return tools


def judge(product: Product) -> str:
    """Why a library is to compute a product of matrices; "" where a kernel is to."""
    return judge_gpu_product(product, settings.gemm)


def describe_gpu(plan: Plan) -> tuple[Show, Device]:
    """What a report prints kernels with, and the row that prices them."""

    def show(built: Built, original: Kernel) -> Shown:
        try:
            schedule = built.wanted or default_schedule(built.kernel)
            source = print_gpu_kernel(built.kernel, built.digest, schedule).text
            return Shown(schedule, describe_cuts(original, cuts_under(original, schedule)), source)
        except TreadleError as error:
            return Shown(None, problem=str(error))

    return show, price_of(device_of(plan).target().name)


def bind_gpu(
    plan: Plan, kernels: Sequence[Built], values: Values, imported: Imported, tools: Toolchain
) -> GpuExecutable:  # fmt: skip
    """The executable of a plan just made; kernels that could not be made, or that the driver refuses, run through ATen.

    Raises DeviceError for the latter where falling back is forbidden.
    """
    first = {s.digest: s for s in reversed(values.fused.steps) if isinstance(s, Launch)}
    stash: list[BaseException] = []
    functions: list[Any] = []
    device = device_of(plan)

    def stand_in(number: int, error: DeviceError | None) -> Any:
        built = kernels[number]
        if error is not None:
            _tell_refusal(built, error, values)
        watched = import_module(".watched", __package__)  # the interpreter: costly, and seldom needed
        functions.append(watched.aten_function_on(device, built.kernel, values, first[built.digest], stash))
        return functions[-1]

    executable = bind_gpu_plan(
        plan, tools.store, imported.constants, imported.objects, replays=settings.cuda_graphs, stand_in=stand_in,
        runner_path=lambda: build_runner(tools), stash=stash,
    )  # fmt: skip
    executable.keep_alive += tuple(functions)
    return executable


def _tell_refusal(built: Built, error: DeviceError, values: Values) -> None:
    if settings.fallback == "error":
        raise error
    counters["treadle"]["fallback"] += 1
    log.warning("treadle: %s runs through ATen: %s", describe_place(built, values.fused), describe(error))
