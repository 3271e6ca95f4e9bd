"""What the pipeline does otherwise for a graph on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..codegen.triton.emit import default_schedule
from ..costmodel.roofline import Device
from ..costmodel.roofline import find_device as price_of
from ..ir.errors import LoweringError, TreadleError
from ..ir.schedule import Schedule
from .frontend.importer import Imported
from .gpu_kernels import GpuTools, build_gpu_kernels, print_gpu_kernel, require_triton
from .kernels import Built, Show, Toolchain
from .runtime.gpu.device import find_device
from .runtime.gpu.executable import GpuExecutable, bind_gpu_plan, device_of
from .runtime.plan import Plan
from .runtime.plan_values import Values
from .settings import settings

__all__ = ["bind_gpu", "build_gpu_kernels", "describe_gpu", "find_gpu"]


def find_gpu(device: str, host: Toolchain) -> GpuTools:
    """The tools for a GPU. Raises DeviceError for one without kernels of ours, CompileError without Triton."""
    target = find_device(torch.device(device).index or 0).target()
    tools = GpuTools(host, target, device)
    require_triton(tools)
    return tools


def describe_gpu(plan: Plan) -> tuple[Show, Device]:
    """What a report prints kernels with, and the row that prices them."""

    def show(built: Built) -> tuple[Schedule | None, str, str]:
        try:
            schedule = built.wanted or default_schedule(built.kernel)
            return schedule, print_gpu_kernel(built.kernel, built.digest, schedule).text, ""
        except TreadleError as error:
            return None, "", str(error)

    return show, price_of(device_of(plan).target().name)


def bind_gpu(
    plan: Plan, kernels: Sequence[Built], values: Values, imported: Imported, tools: Toolchain
) -> GpuExecutable:  # fmt: skip
    """The executable of a plan just made.

    Raises LoweringError where a kernel could not be made: the graph then runs eagerly, as a whole.
    """
    failed = [b for b in kernels if b.problem]
    if failed:
        raise LoweringError(failed[0].problem, where=failed[0].kernel.name)
    return bind_gpu_plan(plan, tools.store, imported.constants, imported.objects, replays=settings.cuda_graphs)
