"""What a kernel costs when regions are partitioned: the roofline, and what no target can print well is never chosen."""

from __future__ import annotations

import math

from ..codegen.products import runs_apart
from ..costmodel.roofline import Device, estimate
from ..ir.loops import Kernel


def seconds_of(kernel: Kernel, device: Device) -> float:
    """Seconds of a kernel on a device; infinitely many where it would compute sums anew for each that reads them."""
    return math.inf if runs_apart(kernel, links=device.name == "cpu") else estimate(kernel, device).seconds
