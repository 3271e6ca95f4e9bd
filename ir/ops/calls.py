"""Calls: what treadle leaves to ATen, to a library or to torch's higher-order operators.

A `call` node keeps its arguments as a tree in attribute `args` (see `compiler.frontend.calls`); tensors in it are
positions among the node's inputs. `kind` is "library" for contractions and convolutions (a choice), "opaque" for the
rest (a limit), "effect" where order matters (random numbers, prints). `layouts` holds the strides each tensor input
must have (None: row-major, or no tensor); it is empty where any layout will do. A call with several results has
dtype None and is read by `result` nodes.
"""

from __future__ import annotations

from typing import Any

from ..errors import VerifyError
from ..types import DType
from .row import Inputs, OpRow, Shape


def _declared(inputs: Inputs, attrs: dict[str, Any]) -> tuple[Shape, DType | None]:
    raise VerifyError("the type of a call comes from tracing", hint="give shape and dtype when building the node")


ROWS = (
    OpRow("input", "input", (), _declared, None, None),
    OpRow("size", "input", ("dim",), _declared, None, None),
    OpRow("call", "call", ("target", "args", "kind", "layouts"), _declared, None, None),
    OpRow("result", "call", ("number",), _declared, None, None),
)
