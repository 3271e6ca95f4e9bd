"""`treadle.package`: a model compiled ahead of time into a folder, which `treadle.load` runs without a compiler.

treadle.package(model, (x,), "model.treadle", targets=("avx512", "avx2"), dynamic_shapes={"x": {0: Dim("batch")}})
y = treadle.load("model.treadle")(x)

export -> compile for each target -> files in a folder beside the directory -> manifest -> rename
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import fx, nn
from torch.export import ExportedProgram

from ..ir.errors import BadInput
from .doors import lower_exported
from .frontend.calls import find_target
from .package_devices import PORTABLE
from .package_place import check_place, make_beside, publish
from .package_signature import WHERE, drop_constants, read_signature
from .package_targets import AUTO, choose_targets, plan_target
from .pipeline import Planned
from .runtime.executable import read_attribute
from .runtime.manifest import CPU, CUDA, WEIGHTS, Manifest, describe_file, write_manifest
from .runtime.plan import Plan
from .runtime.signature import WRITTEN

TORCH_FROM, TORCH_BELOW = "2.11", "2.16"  # as pyproject.toml says; a test compares

Inputs = Sequence[Any] | Mapping[str, Any] | None


def package(
    model: Callable[..., Any] | ExportedProgram, example_inputs: Inputs, directory: str | os.PathLike[str], *,
    targets: Sequence[str] = (AUTO,), dynamic_shapes: Any = None, force: bool = False,
) -> Path:  # fmt: skip
    """Compile a model for its inputs and write what it takes to run it to a directory, which is returned.

    model           a module or function, exported here as it is (call `eval()` first), or an exported program
    example_inputs  positional arguments, or keywords; None for an exported program, which brings its own
    targets         "auto": this machine's processor, or the GPU that the model is on; "avx512", "avx2", "scalar": any
                    processor that has as much; "sm_80", "sm_90", "sm_100", "sm_120": such a GPU, here or elsewhere.
                    A loader takes the best that runs on its own.
    dynamic_shapes  which sizes may vary, as torch.export takes it
    force           replace a package that is there

    The directory is whole or not there at all: it is made beside itself and renamed. Raises BadInput for a model or
    directory that cannot be taken, LoweringError where a part of the model cannot be compiled, CompileError where
    there is no compiler.
    """
    place = Path(directory).absolute()
    check_place(place, force=force)
    choose_targets(targets)  # a wrong name is better known before the model is exported
    program = model if isinstance(model, ExportedProgram) else export(model, example_inputs, dynamic_shapes)
    name = "program" if isinstance(model, ExportedProgram) else getattr(model, "__name__", type(model).__name__)
    place.parent.mkdir(parents=True, exist_ok=True)
    with make_beside(place) as folder:
        _fill(folder, name, program, targets)
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


def lower(program: ExportedProgram, *, portable: bool = False) -> ExportedProgram:
    """The program over operators that every device has, if it is to be `portable`.

    Raises BadInput for a program that torch itself cannot make functional.
    """
    try:
        with _torch_warns_itself():
            return lower_exported(program, PORTABLE if portable else None)
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


def _fill(folder: Path, name: str, program: ExportedProgram, targets: Sequence[str]) -> None:
    home = find_home(program)
    aims = choose_targets(targets, home)
    # What stays on its device takes what is best there; the rest is lowered to what every device has, and moved.
    stays = home.partition(":")[0]
    lowered = {portable: lower(program, portable=portable) for portable in {aim.kind != stays for aim in aims}}
    first = next(iter(lowered.values()))
    state = {str(n): t for n, t in _find_state(first).items()}
    stored = share_names(state)
    signature = read_signature(first, list(getattr(program, "_guards_code", ())), stored)
    written = {signature.inputs[o.index].name for o in signature.outputs if o.kind == WRITTEN}
    check_overlaps(state, stored, written)
    for one in lowered.values():
        drop_constants(one)
    planned = [plan_target(folder, lowered[aim.kind != stays], aim, moves=aim.kind != stays) for aim in aims]
    modules = [lowered[aim.kind != stays].graph_module for aim in aims]
    held = find_constants([(m, one.plan) for m, (one, _) in zip(modules, planned, strict=True)])
    constants = {name: f"constant:{name}" for name in held}
    tensors = {stored[n]: state[n] for n in state} | {constants[n]: t for n, t in held.items()}
    save_file(make_savable(tensors), folder / WEIGHTS, metadata={"format": "pt"})
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    write_manifest(
        Manifest(
            name=name,
            treadle=import_module("treadle").__version__,
            torch=str(torch.__version__),
            torch_from=TORCH_FROM,
            torch_below=TORCH_BELOW,
            calls=dict(sorted({k: v for one, _ in planned for k, v in _list_calls(one).items()}.items())),
            signature=signature,
            constants=constants,
            targets=tuple(target for _, target in planned),
            files={p.relative_to(folder).as_posix(): describe_file(p) for p in files},
        ),
        folder,
    )


def find_home(program: ExportedProgram) -> str:
    """The device that a program was exported on. Raises BadInput where there are several."""
    vals = (node.meta.get("val") for node in program.graph.find_nodes(op="placeholder"))
    found = dict.fromkeys(str(val.device) for val in vals if isinstance(val, torch.Tensor))
    if len(found) > 1:
        raise BadInput("a package runs on one device", where=WHERE, got=f"tensors on {' and '.join(found)}")
    home = next(iter(found), CPU)
    if home.partition(":")[0] not in (CPU, CUDA):
        raise BadInput("packages are for CPUs and CUDA devices", where=WHERE, got=f"tensors on {home!r}")
    return home


def _find_state(program: ExportedProgram) -> dict[str, torch.Tensor]:
    """Parameters, buffers and constants by their names."""
    known = {**program.constants, **program.state_dict}
    specs = [spec for spec in program.graph_signature.input_specs if spec.target is not None]
    return {str(s.target): known[s.target] for s in specs if isinstance(known.get(s.target), torch.Tensor)}  # type: ignore[index]


def find_constants(planned: Sequence[tuple[fx.GraphModule, Plan]]) -> dict[str, torch.Tensor]:
    """The tensors of the graphs themselves that plans read, by their names. Raises BadInput where two have one name."""
    found: dict[str, torch.Tensor] = {}
    for module, plan in planned:
        for name in (c.attribute for c in plan.constants):
            tensor = read_attribute(module, name)
            if not torch.equal(found.setdefault(name, tensor), tensor):
                raise BadInput("targets have different constants of one name", where=name, hint="package them apart")
    return found


def _list_calls(planned: Planned) -> dict[str, str]:
    """The operators of torch that a plan calls, with their schemas."""
    targets = {str(n.attr("target")) for n in planned.fused.graph.nodes if n.op == "call"}
    found = {name: find_target(name, planned.imported.objects) for name in targets}
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


def make_savable(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous tensors on memory of their own, as the file format wants them."""
    seen: set[int] = set()
    savable: dict[str, torch.Tensor] = {}
    for name, t in tensors.items():
        plain = t.detach().cpu().contiguous()
        memory = plain.untyped_storage()
        whole = memory.nbytes() == plain.numel() * plain.element_size() and memory.data_ptr() not in seen
        savable[name] = plain if whole else plain.clone()
        seen.add(savable[name].untyped_storage().data_ptr())
    return savable
