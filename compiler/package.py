"""`treadle.package`: a model compiled ahead of time into a folder, which `treadle.load` runs without a compiler.

treadle.package(model, (x,), "model.treadle", targets=("avx512", "avx2"), dynamic_shapes={"x": {0: Dim("batch")}})
y = treadle.load("model.treadle")(x)

export -> compile for each target -> files in a folder beside the directory -> manifest -> rename
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import fx, nn
from torch.export import ExportedProgram

from ..codegen.cpp.isa import ISAS, Isa, detect_isa
from ..ir.errors import BadInput, StoreError, suggest
from .doors import lower_exported
from .driver import collect, compile_fx_graph, find_device_of, open_store
from .frontend.calls import find_target
from .package_place import check_place, make_beside, publish
from .package_signature import WHERE, drop_constants, read_signature
from .runtime.build import LIBRARY
from .runtime.executable import read_attribute
from .runtime.manifest import WEIGHTS, Manifest, Target, describe_file, write_manifest
from .runtime.plan import plan_to_json
from .runtime.signature import WRITTEN
from .settings import settings

if TYPE_CHECKING:
    from .pipeline import Compiled

AUTO = "auto"
TARGETS = (AUTO, *ISAS)
TORCH_FROM, TORCH_BELOW = "2.11", "2.16"  # as pyproject.toml says; a test compares
X86 = ("x86_64", "AMD64")

Inputs = Sequence[Any] | Mapping[str, Any] | None


def package(
    model: Callable[..., Any] | ExportedProgram, example_inputs: Inputs, directory: str | os.PathLike[str], *,
    targets: Sequence[str] = (AUTO,), dynamic_shapes: Any = None, force: bool = False,
) -> Path:  # fmt: skip
    """Compile a model for its inputs and write what it takes to run it to a directory, which is returned.

    model           a module or function, exported here as it is (call `eval()` first), or an exported program
    example_inputs  positional arguments, or keywords; None for an exported program, which brings its own
    targets         "auto": this machine's processor; "avx512", "avx2", "scalar": any processor that has as much.
                    A loader takes the best that runs on its own.
    dynamic_shapes  which sizes may vary, as torch.export takes it
    force           replace a package that is there

    The directory is whole or not there at all: it is made beside itself and renamed. Raises BadInput for a model or
    directory that cannot be taken, LoweringError where a part of the model cannot be compiled, CompileError where
    there is no compiler.
    """
    place = Path(directory).absolute()
    check_place(place, force=force)
    isas = choose_targets(targets)
    program = model if isinstance(model, ExportedProgram) else export(model, example_inputs, dynamic_shapes)
    name = "program" if isinstance(model, ExportedProgram) else getattr(model, "__name__", type(model).__name__)
    place.parent.mkdir(parents=True, exist_ok=True)
    with make_beside(place) as folder:
        _fill(folder, name, program, isas)
        publish(folder, place, force=force)
    return place


# --- from a model to an exported program -------------------------------------------------------------------------


def export(model: Callable[..., Any], example_inputs: Inputs, dynamic_shapes: Any) -> ExportedProgram:
    """Raises BadInput, with torch.export's own words, for a model that it does not take."""
    if example_inputs is None:
        raise BadInput("a model needs example inputs", where=WHERE, hint="treadle.package(model, inputs, directory)")
    named = isinstance(example_inputs, Mapping)
    args = () if named else (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
    kwargs = dict(example_inputs) if isinstance(example_inputs, Mapping) else {}
    module = model if isinstance(model, nn.Module) else _Function(model)
    try:
        with torch.no_grad(), _torch_warns_itself():
            return torch.export.export(module, args, kwargs, dynamic_shapes=dynamic_shapes)
    except Exception as error:
        hint = "torch.export.export(model, args, kwargs) shows all of it; see torch.export's documentation"
        raise BadInput(
            f"torch.export does not take this model: {_first_line(error)}", where=WHERE, hint=hint
        ) from error


def lower(program: ExportedProgram) -> ExportedProgram:
    """Raises BadInput for a program that torch itself cannot make functional."""
    try:
        with _torch_warns_itself():
            return lower_exported(program)
    except Exception as error:
        hint = "program.run_decompositions() shows all of it; buffers that share memory are a known cause"
        raise BadInput(f"torch does not lower this program: {_first_line(error)}", where=WHERE, hint=hint) from error


@contextmanager
def _torch_warns_itself() -> Iterator[None]:
    """torch's copies of its own tree specs tell users not to write what torch has written."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
        yield


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class _Function(nn.Module):
    """A function as a module with the function's own parameters."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.forward = function


# --- what goes into the folder -----------------------------------------------------------------------------------


def choose_targets(names: Sequence[str]) -> tuple[tuple[str, Isa], ...]:
    """The settings' names of the targets and what they are, the best first. Raises BadInput."""
    if isinstance(names, str) or not names:
        raise BadInput("no targets", where=WHERE, expected=f"a sequence of {', '.join(TARGETS)}", got=repr(names))
    found: dict[tuple[str, ...], tuple[str, Isa]] = {}
    for name in names:
        if name not in TARGETS:
            raise BadInput("no such target", where=WHERE, got=name, hint=suggest(name, TARGETS))
        isa = detect_isa() if name == AUTO else ISAS[name]
        if isa.needs and platform.machine() not in X86:
            raise BadInput("no target of this machine", where=WHERE, expected="auto or scalar", got=name)
        found.setdefault((*isa.needs, *isa.features), (name, isa))
    ranks = list(ISAS)
    return tuple(sorted(found.values(), key=lambda row: (ranks.index(row[1].name), -len(row[1].features))))


def _fill(folder: Path, name: str, program: ExportedProgram, isas: Sequence[tuple[str, Isa]]) -> None:
    lowered = lower(program)
    module = lowered.graph_module
    device = find_device_of(module)
    if device != "cpu":
        raise BadInput("packages are for the CPU today", where=WHERE, got=f"tensors on {device!r}")
    state = {str(n): t for n, t in _find_state(lowered).items()}
    stored = share_names(state)
    signature = read_signature(lowered, list(getattr(program, "_guards_code", ())), stored)
    written = {signature.inputs[o.index].name for o in signature.outputs if o.kind == WRITTEN}
    check_overlaps(state, stored, written)
    drop_constants(lowered)
    with true_ranges(lowered):
        compiled = [_compile_target(folder, module, setting, isa) for setting, isa in isas]
    constants = {c.attribute: f"constant:{c.attribute}" for one, _ in compiled for c in one.executable.plan.constants}
    tensors = {stored[n]: state[n] for n in state} | {k: read_attribute(module, n) for n, k in constants.items()}
    save_file(_make_savable(tensors), folder / WEIGHTS, metadata={"format": "pt"})
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    write_manifest(
        Manifest(
            name=name,
            treadle=import_module("treadle").__version__,
            torch=str(torch.__version__),
            torch_from=TORCH_FROM,
            torch_below=TORCH_BELOW,
            calls=dict(sorted({k: v for one, _ in compiled for k, v in _list_calls(one).items()}.items())),
            signature=signature,
            constants=constants,
            targets=tuple(target for _, target in compiled),
            files={p.relative_to(folder).as_posix(): describe_file(p) for p in files},
        ),
        folder,
    )


def _find_state(program: ExportedProgram) -> dict[str, torch.Tensor]:
    """Parameters, buffers and constants by their names."""
    known = {**program.constants, **program.state_dict}
    specs = [spec for spec in program.graph_signature.input_specs if spec.target is not None]
    return {str(s.target): known[s.target] for s in specs if isinstance(known.get(s.target), torch.Tensor)}  # type: ignore[index]


@contextmanager
def true_ranges(program: ExportedProgram) -> Iterator[None]:
    """Within the block, symbols have the ranges that the program was exported with.

    While torch traces, each size is at least 2; what was exported may be called with 0 and 1 all the same. Kernels must
    then not rely on it.
    """
    nodes = program.graph_module.graph.find_nodes(op="placeholder")
    vals = [node.meta.get("val") for node in nodes]
    sizes = [n for val in vals for n in (val.shape if isinstance(val, torch.Tensor) else (val,))]
    envs = {id(n.node.shape_env): n.node.shape_env for n in sizes if isinstance(n, torch.SymInt)}
    kept = [(env.var_to_range, dict(env.var_to_range)) for env in envs.values()]
    for ranges, _ in kept:
        ranges.update({s: r for s, r in program.range_constraints.items() if s in ranges})
    try:
        yield
    finally:
        for ranges, before in kept:
            ranges.update(before)


def _compile_target(folder: Path, module: fx.GraphModule, setting: str, isa: Isa) -> tuple[Compiled, Target]:
    """Compile into a store of its own: a library of the user's store may hold other models' kernels beside ours."""
    name = "+".join((isa.name, *isa.features))
    home = folder / "targets" / name
    home.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="treadle-package-") as scratch:
        options = {"target": setting, "cache_dir": scratch, "cache_size": 0, "fallback": "error", "verify": False}
        with settings.override(**options), collect() as found:
            compile_fx_graph(module, "package")
            store = open_store()
        [compiled] = found
        if not compiled.storable:
            hint = "higher-order operators and Python functions in the graph need the Python that they came from"
            raise BadInput("the model calls Python objects that no file can hold", where=WHERE, hint=hint)
        libraries = {}
        for key in dict.fromkeys(k.library for k in compiled.executable.plan.kernels):
            data = store.get(LIBRARY, key)
            if data is None:
                raise StoreError("a library just made is gone", path=store.root, hint="package the model again")
            libraries[key] = f"targets/{name}/{key[:16]}.so"
            (folder / libraries[key]).write_bytes(data)
    plan = home / "plan.json"
    plan.write_text(json.dumps(plan_to_json(compiled.executable.plan), indent=1) + "\n", encoding="utf-8")
    needs = (*isa.needs, *isa.features)
    relative = plan.relative_to(folder).as_posix()
    return compiled, Target(name, platform.system(), platform.machine(), needs, relative, libraries)


def _list_calls(compiled: Compiled) -> dict[str, str]:
    """The operators of torch that a plan calls, with their schemas."""
    targets = {str(n.attr("target")) for n in compiled.fused.graph.nodes if n.op == "call"}
    found = {name: find_target(name, compiled.imported.objects) for name in targets}
    return {name: str(op._schema) for name, op in found.items() if isinstance(op, torch._ops.OpOverload)}


# --- tensors -----------------------------------------------------------------------------------------------------


def _identify(t: torch.Tensor) -> tuple[Any, ...]:
    return (t.untyped_storage().data_ptr() or id(t), t.storage_offset(), t.shape, t.stride(), t.dtype)


def share_names(state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """The name under which each tensor is stored: the same tensor under two names is stored once."""
    first: dict[tuple[Any, ...], str] = {}
    return {name: first.setdefault(_identify(t), name) for name, t in state.items()}


def check_overlaps(state: Mapping[str, torch.Tensor], stored: Mapping[str, str], written: set[str]) -> None:
    """Raises BadInput where the model writes a tensor of which another is a part: stored apart, they would part."""
    for name in written & state.keys():
        memory = state[name].untyped_storage().data_ptr()
        for other, t in state.items():
            if memory and stored[other] != stored[name] and t.untyped_storage().data_ptr() == memory:
                hint = "give them memory of their own: register clones"
                raise BadInput(f"the model writes {name}, which shares memory with {other}", where=WHERE, hint=hint)


def _make_savable(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous tensors on memory of their own, as the file format wants them."""
    seen: set[int] = set()
    savable: dict[str, torch.Tensor] = {}
    for name, t in tensors.items():
        plain = t.detach().contiguous()
        memory = plain.untyped_storage()
        whole = memory.nbytes() == plain.numel() * plain.element_size() and memory.data_ptr() not in seen
        savable[name] = plain if whole else plain.clone()
        seen.add(savable[name].untyped_storage().data_ptr())
    return savable
