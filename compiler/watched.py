"""Kernels with another function beside them: ATen's where there is none of ours, the interpreter under `verify`."""

from __future__ import annotations

import logging
from typing import Any

from torch._dynamo.utils import counters

from ..ir.errors import VerifyError
from ..ir.graph import Graph
from ..ir.loops import Kernel
from ..ir.verify import verify_graph, verify_kernel
from ..passes.fuse import Fused, Launch
from .kernels import Built
from .places import describe_place
from .runtime.executable import Executable, address_of
from .runtime.gpu.device import Device
from .runtime.plan_values import Values
from .settings import settings
from .stand_ins import HOST, Place, aten_body, make_function
from .verify import verifying_body

log = logging.getLogger(__name__)


def aten_function(
    kernel: Kernel, values: Values, launch: Launch, stash: list[BaseException], place: Place = HOST
) -> Any:  # fmt: skip
    """The function that computes through ATen what a launch of the kernel would."""
    return make_function(kernel, aten_body(values, launch, place), stash)


def aten_function_on(
    device: Device, kernel: Kernel, values: Values, launch: Launch, stash: list[BaseException]
) -> Any:  # fmt: skip
    """The same for a launch on a GPU, on the stream that is current there."""
    return aten_function(kernel, values, launch, stash, Place(device.bytes_at, device.factories))


def verify_levels(graph: Graph, fused: Fused) -> None:
    """Hold the graph and its kernels against the rules of their levels; tile programs are when they are printed.

    Raises VerifyError for the first rule that is broken.
    """
    verify_graph(graph)
    for kernel in {s.digest: s.kernel for s in fused.steps if isinstance(s, Launch)}.values():
        verify_kernel(kernel)


def watch_kernel(executable: Executable, number: int, built: Built, values: Values, launch: Launch) -> None:
    """Let a kernel's first run be checked against the interpreter; ATen takes its place where they disagree."""
    stash, native = executable.stash, executable.functions[number]
    otherwise = aten_body(values, launch)
    stand_in = make_function(built.kernel, otherwise, stash)
    forbidden = settings.fallback == "error"

    def tell(problem: str) -> None:
        executable.set_function(number, address_of(stand_in) if problem else native)
        if not problem:
            counters["treadle"]["verified"] += 1
            return
        error = VerifyError("kernel and interpreter disagree", where=describe_place(built, values.fused), got=problem)
        if forbidden:
            raise error
        counters["treadle"]["fallback"] += 1
        log.warning("treadle: %s; ATen computes it from now on", error)

    checked = make_function(built.kernel, verifying_body(built.kernel, native, otherwise, tell), stash)
    executable.keep_alive += (stand_in, checked)
    executable.set_function(number, address_of(checked))
