"""Is a compiled result right? Judged by its error against float64, measured in units of eager's own error.

A fixed tolerance rejects correct compilers (rounding of a deep network) and accepts sloppy ones (0.1% wrong on a
shallow one). Here every float tensor has three versions: `got` (compiled), `eager` (same dtype) and `reference` (the
same computation in float64, see `reference.py`). With E = max|eager - reference| over the tensor, every element must
satisfy

    |got - reference| <= factor * (E + slack),    slack = ulps/factor * eps(dtype) * max(|reference|, rms(reference))

and the same holds for the root mean square of the errors, so that a small error everywhere is seen as well as a large
one somewhere. `ratio` in the report is the worst |got - reference| / (E + slack): 1 is as good as eager, above
`factor` fails. The defaults (factor 3, 2 ulps) leave room for another order of summation and nothing more. What no such
bound can see is an error below the rounding of the tensor's own dtype (0.1% in bfloat16): check the same code in
float32 for it.

Integers, bools and plain Python values are equal; NaN and infinities stand where eager has them (or, where eager
overflowed and float64 did not, the finite value is accepted); dtype, shape and strides are eager's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from statistics import median

import torch

from ..ir.errors import BadInput

PLAIN = bool | int | float | complex | str | torch.dtype | torch.device
FACTOR = 3.0
ULPS = 2.0
# Float64 has no wider reference: eager's error reads zero, and the slack alone allows another order of summation.
ULPS_OF_FLOAT64 = 256.0
# The largest of a handful of errors says little about the computation's noise (a lone scalar may be exact by luck).
FEW_ELEMENTS = 32


@dataclass(frozen=True, slots=True)
class Row:
    """The verdict on one leaf. Errors are absolute maxima against float64; `ratio` is in units of eager's error."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    eager_error: float = 0.0
    our_error: float = 0.0
    ratio: float = 0.0
    problem: str = ""  # empty when right

    @property
    def ok(self) -> bool:
        return not self.problem


@dataclass(frozen=True, slots=True)
class Report:
    """All verdicts of one comparison. `str(report)` is a table; `failures` are the rows that are wrong."""

    rows: tuple[Row, ...]
    factor: float = FACTOR

    @property
    def failures(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if not row.ok)

    @property
    def ok(self) -> bool:
        return not self.failures

    @property
    def worst_ratio(self) -> float:
        return max((row.ratio for row in self.rows), default=0.0)

    def __str__(self) -> str:
        return self.table()

    def table(self, most: int = 40) -> str:
        """The rows as text, wrong ones first, then by falling ratio; at most `most` of them."""
        ordered = sorted(self.rows, key=lambda row: (row.ok, -row.ratio))
        lines = [f"{'':5}{'ratio':>8} {'eager err':>10} {'our err':>10}  {'dtype':9}{'shape':18}name"]
        lines += [_format_row(row) for row in ordered[:most]]
        lines += [f"... and {len(ordered) - most} more"] if len(ordered) > most else []
        wrong = f"{len(self.failures)} of {len(self.rows)} wrong" if self.failures else f"{len(self.rows)} right"
        return "\n".join([*lines, f"{wrong}; worst ratio {self.worst_ratio:.3g}, allowed {self.factor:g}"])


def compare(
    got: object, eager: object, reference: object, *, factor: float = FACTOR, ulps: float = ULPS, strides: bool = True
) -> Report:
    """Compare three results of one structure: tensors in tuples, lists, mappings, dataclasses or plain objects.

    `reference` is the same computation in float64 (complex128); integer leaves of it are not used. `strides=False`
    leaves the strides out, for callers that promise values alone.
    """
    ours, theirs, exact = dict(leaves(got)), dict(leaves(eager)), dict(leaves(reference))
    noise = _pool_noise(theirs, exact)
    rows = [Row(name, _dtype_name(ours[name]), _shape(ours[name]), problem="eager has no such value")
            for name in ours if name not in theirs]  # fmt: skip
    for name, value in theirs.items():
        if name not in ours:
            rows.append(Row(name, _dtype_name(value), _shape(value), problem="missing"))
            continue
        rows.append(_judge(name, ours[name], value, exact.get(name), noise, factor, ulps, strides))
    return Report(tuple(rows), factor)


def leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Walk `value` and yield (dotted name, leaf); a leaf is a tensor, a number, a string, None, a dtype or a device."""
    if value is None or isinstance(value, PLAIN | torch.Tensor):
        yield name or "result", value
        return
    for key, child in _children(value):
        yield from leaves(child, f"{name}.{key}" if name else key)


def _children(value: object) -> list[tuple[str, object]]:
    if isinstance(value, Mapping):
        return [(str(key), child) for key, child in value.items()]
    if isinstance(value, list | tuple):
        return [(str(index), child) for index, child in enumerate(value)]
    if is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    if hasattr(value, "__dict__") and not callable(value):  # a key-value cache, for one
        return list(vars(value).items())
    raise BadInput("results of this type cannot be compared", got=type(value).__name__, hint="return tensors")


def _judge(
    name: str, got: object, eager: object, reference: object,
    noise: Mapping[torch.dtype, float], factor: float, ulps: float, strides: bool,
) -> Row:  # fmt: skip
    if not isinstance(eager, torch.Tensor) or not isinstance(got, torch.Tensor):
        return Row(name, _dtype_name(eager), _shape(eager), problem=_compare_plain(got, eager))
    row = Row(name, _dtype_name(eager), tuple(eager.shape))
    problem = _compare_metadata(got, eager, strides)
    if problem:
        return _replace_problem(row, problem)
    got, eager = _as_real(got), _as_real(eager)
    if not eager.is_floating_point():
        wrong = int((got != eager).sum())
        return _replace_problem(row, f"{wrong} of {eager.numel()} elements differ" if wrong else "")
    if not isinstance(reference, torch.Tensor) or reference.shape != row.shape:
        return _replace_problem(row, "the float64 reference has no such tensor")
    return _judge_floats(row, got, eager, _as_real(reference), noise, factor, ulps)


def _judge_floats(
    row: Row, got: torch.Tensor, eager: torch.Tensor, reference: torch.Tensor,
    noise: Mapping[torch.dtype, float], factor: float, ulps: float,
) -> Row:  # fmt: skip
    """Compare float tensors of one shape. The order matters: non-finite values first, they have no error."""
    dtype = eager.dtype
    ours, theirs, exact = (tensor.detach().to(torch.float64) for tensor in (got, eager, reference))
    misplaced = _misplaced_nonfinite(ours, theirs, exact)
    if misplaced:
        return _replace_problem(row, f"{misplaced} of {ours.numel()} NaN or infinities where eager has others")
    judged = ours.isfinite() & exact.isfinite()
    if not bool(judged.any()):
        return row
    ours, exact = ours[judged], exact[judged]
    error = (ours - exact).abs()
    finite = theirs.isfinite()[judged]
    eager_error = (theirs[judged] - exact).abs()[finite]
    worst = float(eager_error.max()) if eager_error.numel() else 0.0
    spread = float(eager_error.square().mean().sqrt()) if eager_error.numel() else 0.0
    size = float(exact.square().mean().sqrt())
    slack = (ULPS_OF_FLOAT64 if dtype == torch.float64 else ulps) / factor * torch.finfo(dtype).eps
    few = exact.numel() < FEW_ELEMENTS
    floor = noise.get(dtype, 0.0) * size if few else 0.0
    allowed = max(worst, floor) + slack * exact.abs().clamp_min(size)
    ratio = _largest_ratio(error, allowed)
    if not few:
        ratio = max(ratio, _divide(float(error.square().mean().sqrt()), spread + slack * size))
    problem = f"error {ratio:.3g} times eager's" if not ratio <= factor else ""
    return Row(row.name, row.dtype, row.shape, worst, float(error.max()), ratio, problem)


def _misplaced_nonfinite(got: torch.Tensor, eager: torch.Tensor, exact: torch.Tensor) -> int:
    """Count elements of another class (NaN, +inf, -inf, finite) than eager's, unless they are finite as float64 is."""
    same = (got.isnan() == eager.isnan()) & (got.isposinf() == eager.isposinf()) & (got.isneginf() == eager.isneginf())
    mended = got.isfinite() & exact.isfinite()
    return int((~(same | mended)).sum())


def _pool_noise(eager: Mapping[str, object], reference: Mapping[str, object]) -> dict[torch.dtype, float]:
    """Eager's relative error per dtype, the median over the large tensors: the floor for tensors of few elements."""
    seen: dict[torch.dtype, list[float]] = {}
    for name, value in eager.items():
        exact = reference.get(name)
        if not isinstance(value, torch.Tensor) or not isinstance(exact, torch.Tensor):
            continue
        if not value.is_floating_point() or value.shape != exact.shape or value.numel() < FEW_ELEMENTS:
            continue
        exact = exact.detach().to(torch.float64)
        error, size = (value.detach().to(torch.float64) - exact).abs().max(), exact.square().mean().sqrt()
        if bool(error.isfinite()) and bool(size > 0):
            seen.setdefault(value.dtype, []).append(float(error / size))
    return {dtype: median(values) for dtype, values in seen.items()}


def _compare_plain(got: object, eager: object) -> str:
    if type(got) is not type(eager):
        return f"{type(got).__name__} where eager has {type(eager).__name__}"
    both_nan = got != got and eager != eager
    return "" if got == eager or both_nan else f"{got!r} where eager has {eager!r}"


def _compare_metadata(got: torch.Tensor, eager: torch.Tensor, strides: bool) -> str:
    if got.dtype != eager.dtype:
        return f"dtype {_dtype_name(got)} where eager has {_dtype_name(eager)}"
    if got.shape != eager.shape:
        return f"shape {_shape(got)} where eager has {_shape(eager)}"
    if got.device != eager.device:
        return f"on {got.device} where eager is on {eager.device}"
    if strides and _meaningful_strides(got) != _meaningful_strides(eager):
        return f"strides {got.stride()} where eager has {eager.stride()}"
    return ""


def _meaningful_strides(tensor: torch.Tensor) -> tuple[int, ...]:
    """Strides of the axes longer than one; those of an empty tensor mean nothing."""
    if not tensor.numel() or tensor.layout != torch.strided:
        return ()
    return tuple(stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1)


def _largest_ratio(error: torch.Tensor, allowed: torch.Tensor) -> float:
    """max(error / allowed), where 0/0 is 0 (both exact) and x/0 is infinite."""
    ratios = torch.where(error == 0, torch.zeros_like(error), error / allowed)
    return float(ratios.max())


def _divide(error: float, allowed: float) -> float:
    if error == 0:
        return 0.0
    return error / allowed if allowed else math.inf


def _as_real(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _replace_problem(row: Row, problem: str) -> Row:
    return Row(row.name, row.dtype, row.shape, problem=problem)


def _dtype_name(value: object) -> str:
    return str(value.dtype).removeprefix("torch.") if isinstance(value, torch.Tensor) else type(value).__name__


def _shape(value: object) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _format_row(row: Row) -> str:
    errors = f"{row.ratio:8.3g} {row.eager_error:10.2e} {row.our_error:10.2e}"
    shape = "x".join(map(str, row.shape)) or "-"
    reason = f"  <- {row.problem}" if row.problem else ""
    return f"{'ok' if row.ok else 'WRONG':5}{errors}  {row.dtype:9}{shape:18}{row.name}{reason}"
