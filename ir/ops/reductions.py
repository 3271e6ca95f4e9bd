"""Reductions and scans: rows of the state table applied along dimensions."""

from __future__ import annotations

from typing import Any

from ..graph import Node
from ..index import Axis, linearize, of_atom
from ..loops import Equation, Statement
from ..scalar import iota
from ..states import STATES
from ..types import BOOL, I64, DType, contiguous_strides, product
from .row import Inputs, OpRow, Shape, expect, read

REDUCTIONS = ("sum", "prod", "max", "min", "any", "all", "argmax", "argmin")


def _check_dims(where: str, rank: int, dims: tuple[int, ...]) -> None:
    fits = len(set(dims)) == len(dims) and all(0 <= d < rank for d in dims)
    expect(fits, where, "reduced dimensions must be distinct and in range", f"0..{rank - 1}", dims)


def _infer_reduce(name: str) -> Any:
    def infer(inputs: Inputs, attrs: dict[str, Any]) -> tuple[Shape, DType]:
        x, dims = inputs[0], tuple(attrs["dims"])
        _check_dims(name, len(x.shape), dims)
        boolean = name in ("any", "all")
        fits = x.element is BOOL if boolean else x.element.compute is x.element and x.element is not BOOL
        expect(fits, name, "element type not accepted", "bool" if boolean else "f32, f64, i32 or i64", x.element)
        shape = tuple(n for d, n in enumerate(x.shape) if d not in dims)
        return shape, I64 if name.startswith("arg") else x.element

    return infer


def _reduced_axes(node: Node, x: Node, axes: tuple[Axis, ...], dims: tuple[int, ...]) -> tuple[Axis, ...]:
    """One axis per dimension of `x`: the kept ones are the output's, the reduced ones are new."""
    kept = iter(axes)
    return tuple(Axis(f"{node.name}_r{d}", n) if d in dims else next(kept) for d, n in enumerate(x.shape))


def _lower_reduce(name: str) -> Any:
    def lower(node: Node, inputs: Inputs, axes: tuple[Axis, ...]) -> tuple[Statement, ...]:
        x, dims = inputs[0], tuple(node.attr("dims"))
        every = _reduced_axes(node, x, axes, dims)
        reduce = tuple(a for d, a in enumerate(every) if d in dims)
        value = read(x, tuple(of_atom(a) for a in every))
        if not name.startswith("arg"):
            return (Equation((node.name,), axes, (value,), (node.element,), name, reduce, source=node.source),)
        position = linearize((of_atom(a) for a in reduce), contiguous_strides([a.extent for a in reduce]))
        args = (value, iota(position))
        names = ("_", node.name)
        return (Equation(names, axes, args, (x.element, I64), name, reduce, source=node.source),)

    return lower


def _reference_reduce(name: str) -> Any:
    def over_dims(t: Any, inputs: list[Any], node: Node) -> Any:
        x, dims = inputs[0], tuple(node.attr("dims"))
        if not dims:
            return t.zeros((), dtype=t.int64).expand(x.shape) if name.startswith("arg") else x
        if name in ("sum", "any", "all"):
            return getattr(t, name)(x, dim=dims)
        kept = [d for d in range(x.dim()) if d not in dims]
        count = product(x.shape[d] for d in dims)
        flat = x.permute(*kept, *dims).reshape(*(x.shape[d] for d in kept), count)
        if name == "prod":
            return flat.prod(-1)
        if name.startswith("arg"):
            return getattr(t, name)(flat, -1)
        if flat.shape[-1] == 0:
            low, high = (-float("inf"), float("inf")) if x.is_floating_point() else node.element.limits
            return t.full(flat.shape[:-1], low if name == "max" else high, dtype=x.dtype)
        return (t.amax if name == "max" else t.amin)(flat, -1)

    return over_dims


def _infer_scan(inputs: Inputs, attrs: dict[str, Any]) -> tuple[Shape, DType]:
    x = inputs[0]
    _check_dims("scan", len(x.shape), (attrs["dim"],))
    known = [s.name for s in STATES.values() if s.arity == 1 or s.positional]
    expect(attrs["state"] in known, "scan", "unknown state", ", ".join(known), attrs["state"])
    is_position = attrs["state"].startswith("arg") and attrs["component"] == 1
    return x.shape, I64 if is_position else x.element


def _lower_scan(node: Node, inputs: Inputs, axes: tuple[Axis, ...]) -> tuple[Statement, ...]:
    state, component = node.attr("state"), node.attr("component")
    axis = axes[node.attr("dim")]
    index = tuple(of_atom(a) for a in axes)
    args = (read(inputs[0], index),)
    if STATES[state].positional:
        args = (*args, iota(of_atom(axis)))
    dtypes = STATES[state].dtypes(tuple(a.dtype for a in args))
    names = tuple(node.name if k == component else "_" for k in range(len(dtypes)))
    scan = "exclusive" if node.attr("exclusive") else "inclusive"
    reverse = bool(node.attr("reverse"))
    return (Equation(names, axes, args, dtypes, state, (axis,), scan, reverse, source=node.source),)


def _reference_scan(t: Any, inputs: list[Any], node: Node) -> Any:
    x, dim, state = inputs[0], node.attr("dim"), node.attr("state")
    if node.attr("reverse"):
        x = x.flip(dim)
    if state in ("sum", "prod"):
        out = getattr(t, f"cum{state}")(x, dim)
    elif state == "max_sum_exp":
        out = t.cummax(x, dim).values
        if node.attr("component") == 1:
            out = t.exp(t.logcumsumexp(x, dim) - out)
    else:
        found = (t.cummax if "max" in state else t.cummin)(x, dim)
        out = found.indices if node.attr("component") == 1 else found.values
    if node.attr("exclusive"):
        start = 1 if state == "prod" else 0
        out = t.cat([t.full_like(out.narrow(dim, 0, 1), start), out.narrow(dim, 0, out.shape[dim] - 1)], dim)
    return out.flip(dim) if node.attr("reverse") else out


ROWS = (
    *(OpRow(n, "reduce", ("dims",), _infer_reduce(n), _reference_reduce(n), _lower_reduce(n)) for n in REDUCTIONS),
    OpRow(
        "scan", "scan", ("state", "dim", "component", "reverse", "exclusive"),
        _infer_scan, _reference_scan, _lower_scan,
    ),
)  # fmt: skip
