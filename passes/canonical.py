"""The canonical form of a kernel: one spelling for what is equal up to names and the order of commuting operands.

    kernel k(a, b):  z[t, c] <- b[t] + a[t, c]     ->     kernel (x0, x1):  y0[i0, i1] <- x0[i0, i1] + x1[i0]

Axes are ordered as the first store walks memory, right sides are in normal form (`normalize`), and buffers and
equations are named in the order of a walk through the statements. Equality of kernels is then equality of a digest,
which is also the workload key of tuning records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..ir.expr import Expr, Load, Rewriter, loads_in
from ..ir.index import Axis, axes_of, of_atom
from ..ir.loops import Equation, Kernel, Statement, Store, statement_expressions
from ..ir.simplify import Simplifier
from .keys import Keys, buffer_text
from .laws import apply_laws
from .normalize import normalize
from .share import name_shared


@dataclass(frozen=True, slots=True)
class Canonical:
    """`names` are the original buffer names in the order of the kernel's buffers."""

    kernel: Kernel
    names: tuple[str, ...]
    digest: str


def canonicalize(kernel: Kernel, simplify: Simplifier) -> Canonical:
    """The canonical kernel, the buffers that its parameters stand for, and its digest."""
    kernel = derive(kernel, simplify)
    kernel = order_statements(name_shared(kernel, simplify))
    kernel, names = _rename_values(kernel, simplify)
    digest = kernel_digest(kernel)
    return Canonical(replace(kernel, name=f"k{digest[:12]}"), names, digest)


def derive(kernel: Kernel, simplify: Simplifier) -> Kernel:
    """The normal form after the laws of reductions."""
    before = normal_form(kernel, simplify)
    after = apply_laws(before, simplify)
    return after if after is before else normalize(after, simplify)


def normal_form(kernel: Kernel, simplify: Simplifier) -> Kernel:
    """The kernel with canonical axes and right sides: what the laws of reductions are asked about."""
    return normalize(_rename_axes(kernel, simplify), simplify)


# --- axes --------------------------------------------------------------------------------------------------------


def _ordered_axes(kernel: Kernel) -> tuple[Axis, ...]:
    seen: dict[Axis, None] = {}
    for s in kernel.stores:
        for i in s.index:
            seen.update(dict.fromkeys(a for a in s.axes if a in axes_of(i)))
        seen.update(dict.fromkeys(s.axes))
    for s in kernel.body:
        seen.update(dict.fromkeys(s.domain))
    return tuple(seen)


def _rename_axes(kernel: Kernel, simplify: Simplifier) -> Kernel:
    order = _ordered_axes(kernel)
    renamed = {a: Axis(f"i{k}", a.extent, a.begin, a.end) for k, a in enumerate(order)}
    position = {new: k for k, new in enumerate(renamed.values())}
    mapping = {old: of_atom(new) for old, new in renamed.items()}
    old_axes = {n: e.axes for n, e in kernel.equations.items()}

    def in_order(axes: Iterable[Axis]) -> tuple[Axis, ...]:
        return tuple(sorted((renamed[a] for a in axes), key=position.__getitem__))

    def load(e: Load) -> Expr:
        if e.name not in old_axes:
            return e
        at = dict(zip((renamed[a] for a in old_axes[e.name]), e.index, strict=True))
        return Load(e.name, tuple(at[a] for a in in_order(old_axes[e.name])), e.dtype, e.guard)

    rewrite = Rewriter(mapping, load, simplify)
    body: list[Statement] = []
    for s in kernel.body:
        if isinstance(s, Equation):
            args = tuple(rewrite(a) for a in s.args)
            body.append(replace(s, args=args, axes=in_order(s.axes), reduce=in_order(s.reduce)))
        else:
            body.append(_rewritten_store(s, rewrite, in_order(s.axes)))
    return replace(kernel, body=tuple(body))


def _rewritten_store(s: Store, rewrite: Rewriter, axes: tuple[Axis, ...]) -> Store:
    guard = None if s.guard is None else rewrite(s.guard)
    return replace(s, index=tuple(rewrite.index(i) for i in s.index), value=rewrite(s.value), guard=guard, axes=axes)


# --- statements --------------------------------------------------------------------------------------------------


def order_statements(kernel: Kernel) -> Kernel:
    """Stores in their order, each after the equations that it is the first to need, in the order of a walk."""
    body: list[Statement] = []
    placed: set[Equation] = set()

    def place(s: Statement) -> None:
        for e in loads_in(*statement_expressions(s)):
            needed = kernel.equations.get(e.name)
            if needed is not None and needed not in placed:
                placed.add(needed)
                place(needed)
        body.append(s)

    for s in kernel.stores:
        place(s)
    return replace(kernel, body=tuple(body))


# --- buffers and equations ---------------------------------------------------------------------------------------


def _rename_values(kernel: Kernel, simplify: Simplifier) -> tuple[Kernel, tuple[str, ...]]:
    written = {b.name for b in kernel.outputs}
    names: dict[str, str] = {}
    locals_: dict[str, str] = {}
    for s in kernel.body:
        for e in loads_in(*statement_expressions(s)):
            if e.name not in kernel.equations and e.name not in written and e.name not in names:
                names[e.name] = f"x{len(names)}"
        if isinstance(s, Equation):
            for n in s.names:
                if n != "_":
                    locals_[n] = f"e{len(locals_)}"
    for s in kernel.stores:
        if s.buffer not in names:
            names[s.buffer] = f"y{sum(1 for v in names.values() if v[0] == 'y')}"
    renamed = {**names, **locals_}

    def load(e: Load) -> Expr:
        return Load(renamed[e.name], e.index, e.dtype, e.guard)

    rewrite = Rewriter(load=load, rebuild=simplify)
    body: list[Statement] = []
    for s in kernel.body:
        if isinstance(s, Equation):
            new = tuple(locals_.get(n, "_") for n in s.names)
            body.append(replace(s, names=new, args=tuple(rewrite(a) for a in s.args)))
        else:
            body.append(replace(_rewritten_store(s, rewrite, s.axes), buffer=names[s.buffer]))
    by_name = kernel.buffers
    inputs = tuple(replace(by_name[o], name=n) for o, n in names.items() if o in {b.name for b in kernel.inputs})
    outputs = tuple(replace(by_name[o], name=n) for o, n in names.items() if o in written)
    original = {n: o for o, n in names.items()}
    renamed_kernel = replace(kernel, inputs=inputs, outputs=outputs, body=tuple(body))
    return renamed_kernel, tuple(original[b.name] for b in renamed_kernel.buffers.values())


def kernel_digest(kernel: Kernel) -> str:
    """The digest of everything that a kernel computes, names included: equal for canonical kernels that are equal."""
    keys = Keys(kernel, named=True)
    parts = [f"{b.name}:{buffer_text(b)}" for b in (*kernel.inputs, *kernel.outputs)]
    for s in kernel.body:
        if isinstance(s, Equation):
            parts += ["=", *s.names, *keys.equation(s)]
        else:
            guard = "" if s.guard is None else keys(s.guard)
            axes = ",".join(repr(a) for a in s.axes)
            parts += ["<-", s.buffer, *(keys.index(i) for i in s.index), keys(s.value), axes, s.mode, str(s.injective)]
            parts.append(guard)
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=16).hexdigest()
