"""Loading a package: a compiled model that needs no compiler, no passes and no code generation of ours.

    call = treadle.load("llama.treadle")                     # the best that it has for this machine
    call = treadle.load("llama.treadle", device="cuda:1")
    logits = call(input_ids=ids)

A package holds machine code and a Python text that is run: load those alone whose source you trust.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.utils import _pytree as pytree

from ...ir.errors import BadInput, CompileError, StoreError
from .build import LIBRARY, load_library
from .executable import Executable, address_of
from .layouts import Layout, laid_out
from .manifest import AGAIN, WEIGHTS, Manifest, Target, check_file, read_manifest
from .package_target import PackageFiles, choose_target, is_gpu
from .plan import Plan, move_plan, plan_from_json
from .runner import bind_runner
from .signature import CONSTANT, SIZE, STATE, WRITTEN, Checker, Signature, show_shape

DIGEST_SHOWN = 16
CAPTURED = "captured as CUDA graphs"


def load(
    directory: str | PathLike[str], device: str | torch.device | None = None, *, cuda_graphs: bool = False
) -> LoadedModel:  # fmt: skip
    """The model of a package, for this machine; see `LoadedModel`.

    device       where it is to run: "cpu", "cuda", "cuda:1". None: the current GPU if the package has code for it
    cuda_graphs  capture its calls on a GPU as CUDA graphs, where its plan may be

    Raises BadInput where the directory is no package, or the device is not here; StoreError where the package is
    damaged, was made for another machine, torch or treadle, or calls an operator that this process does not have;
    DeviceError where the driver refuses its binaries. Its text says which, and what to do.
    """
    path = Path(directory)
    manifest = read_manifest(path)
    target, place = choose_target(manifest, path, device)
    check_torch(manifest, path)
    signature = manifest.signature
    trees = tuple(_read_tree(text, path) for text in (signature.tree_in, signature.tree_out))
    held = torch.device(place)
    if is_gpu(place):
        held = import_module(".gpu.device", __package__).find_device(held.index).torch_device
    weights = _load_weights(path, manifest, held)
    plan = _read_plan(check_file(path, target.plan, manifest))
    bind = partial(_bind_gpu, move_plan(plan, place), cuda_graphs) if is_gpu(place) else partial(_bind, plan)
    constants = [weights[manifest.constants[c.attribute]] for c in plan.constants]
    try:
        executable = bind(PackageFiles(path, manifest, target), constants)
    except (CompileError, AttributeError, KeyError) as error:
        problem = f"the kernels do not load here: {error}"
        raise StoreError(problem, path=path, hint="package the model on a system like this one") from None
    model = LoadedModel(path, manifest, target, held, executable, weights, trees)
    if cuda_graphs:
        model.capture = f"not captured as CUDA graphs: {plan.uncapturable}" if plan.uncapturable else CAPTURED
    return model


class LoadedModel:
    """A packaged model. Called with arguments like those it was exported with, it returns what the model returns.

    state   its parameters and buffers by name; a buffer that the model writes is written here
    device  where they are, and where its tensors must be
    capture  whether its calls are captured as CUDA graphs, in words; "" where nobody asked

    A call raises BadInput for arguments of another structure, type or size than were exported. No gradients.
    """

    def __init__(
        self, path: Path, manifest: Manifest, target: Target, device: torch.device, executable: Executable,
        weights: Mapping[str, torch.Tensor], trees: tuple[pytree.TreeSpec, ...],
    ) -> None:  # fmt: skip
        self.path, self.manifest, self.target, self.device = path, manifest, target, device
        self.capture = ""
        self._run = executable.call
        self._tree_in, self._tree_out = trees
        signature = manifest.signature
        self._checker = Checker(signature, device)
        held = _place_state(signature, weights)
        self.state = {i.name: held[k] for k, i in enumerate(signature.inputs) if i.kind == STATE}
        # Inputs as the graph takes them, state filled in; the caller's go to the places in `_given`.
        self._template: list[Any] = [held.get(k) for k in range(len(signature.inputs))]
        self._given = [k for k, i in enumerate(signature.inputs) if i.kind != STATE]
        self._layouts: list[Layout] = [i.layout for i in signature.given]
        self._results = [(k, o) for k, o in enumerate(signature.outputs) if o.kind != WRITTEN]
        self._written = [(k, o.index) for k, o in enumerate(signature.outputs) if o.kind == WRITTEN]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves = self._flatten(args, kwargs)
        self._checker.check(leaves)
        inputs, laid = list(self._template), list(self._template)
        with torch.no_grad():
            for k, x, layout in zip(self._given, leaves, self._layouts, strict=True):
                inputs[k], laid[k] = x, laid_out(x, layout)
            results = self._run(laid)
            for k, index in self._written:
                inputs[index].copy_(results[k])
        given = [o.value if o.kind == CONSTANT else results[k] for k, o in self._results]
        return pytree.tree_unflatten(given, self._tree_out)

    def __repr__(self) -> str:
        return f"<treadle package {self.manifest.name} for {self.target.name}>"

    def describe(self) -> str:
        """What the package holds, in lines for people: arguments, targets, sizes, digests."""
        m, signature = self.manifest, self.manifest.signature
        size = sum(f.size for f in m.files.values())
        lines = [f"{m.name}: {len(m.files)} files, {size / 2**20:.1f} MiB, by treadle {m.treadle} and torch {m.torch}"]
        for i in signature.given:
            shown = repr(i.value) if i.kind == CONSTANT else "int " * (i.kind == SIZE) + i.dtype + show_shape(i.shape)
            lines.append(f"  takes   {i.name}: {shown}")
        for name, (low, high) in signature.symbols.items():
            lines.append(f"  size    {name}: {low} to {'any' if high is None else high}")
        for t in m.targets:
            mark = f" (in use{', ' * bool(self.capture)}{self.capture})" if t == self.target else ""
            needs = f"needs {' '.join(t.needs) or 'nothing more'}{mark}"
            lines.append(f"  target  {t.kind} {t.name}, {t.system} {t.machine}, {needs}")
        for name, f in sorted(m.files.items()):
            lines.append(f"  file    {name}: {f.size} bytes, sha256 {f.sha256[:DIGEST_SHOWN]}")
        return "\n".join(lines)

    def _flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        signature = self.manifest.signature
        if set(signature.named) != set(kwargs) or len(args) != signature.positional:
            expected = _show_call(["..."] * signature.positional, signature.named)
            got = _show_call([type(a).__name__ for a in args], kwargs)
            raise BadInput("not the arguments that the model was exported with", where=self.manifest.name,
                           expected=expected, got=got)  # fmt: skip
        leaves, tree = pytree.tree_flatten((args, {k: kwargs[k] for k in signature.named}))
        if tree != self._tree_in:
            raise BadInput("arguments of another structure than were exported", where=self.manifest.name,
                           expected=self._tree_in, got=tree)  # fmt: skip
        return leaves


def check_torch(manifest: Manifest, path: Path) -> None:
    """Raises StoreError where this torch is not one that the plan's calls were written for."""
    here = str(torch.__version__)
    if not _version(manifest.torch_from) <= _version(here) < _version(manifest.torch_below):
        hint = f"install torch >={manifest.torch_from},<{manifest.torch_below}, or package the model again"
        raise StoreError(f"the package was made with torch {manifest.torch}, and this is {here}", path=path, hint=hint)
    for name, schema in manifest.calls.items():
        found = _find_schema(name)
        if found is None:
            hint = "import the library that registers it before treadle.load"
            raise StoreError(f"the package calls {name}, which this process does not have", path=path, hint=hint)
        if str(found) != schema and not found.is_backward_compatible_with(torch._C.parse_schema(schema)):
            problem = f"the package calls {name}, which takes other arguments in torch {here}"
            raise StoreError(problem, path=path, hint=f"install torch {manifest.torch}, or package the model again")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", text)[:2])


def _find_schema(name: str) -> Any:
    """The schema of "aten.mm.default" in this process; None where there is no such operator."""
    found: Any = torch.ops
    try:
        for part in name.split("."):
            found = getattr(found, part)
        return found._schema
    except AttributeError:
        return None


def _read_tree(text: str, path: Path) -> pytree.TreeSpec:
    try:
        return pytree.treespec_loads(text)
    except Exception as error:  # noqa: BLE001 - torch raises several kinds
        hint = "import the library that registers the class before treadle.load"
        raise StoreError(f"the arguments or results have a class that is not known here: {error}", path=path,
                         hint=hint) from None  # fmt: skip


def _load_weights(path: Path, manifest: Manifest, device: torch.device) -> dict[str, torch.Tensor]:
    """On the CPU mapped from the file, not read: processes share its pages."""
    file = check_file(path, WEIGHTS, manifest)
    try:
        return load_file(file, device=str(device))
    except (SafetensorError, OSError) as error:
        raise StoreError(f"the weights cannot be read: {error}", path=file, hint=AGAIN) from None


def _bind(plan: Plan, files: PackageFiles, constants: Sequence[torch.Tensor]) -> Executable:
    libraries = {name: load_library(_find_library(files, name)) for name in files.target.libraries}
    functions = [address_of(getattr(libraries[k.library], k.symbol)) for k in plan.kernels]
    runner = bind_runner(next(iter(libraries.values()))) if libraries else None
    return Executable(plan, functions, runner, constants, keep_alive=tuple(libraries.values()))


def _bind_gpu(plan: Plan, cuda_graphs: bool, files: PackageFiles, constants: Sequence[torch.Tensor]) -> Executable:
    executable: Executable = import_module(".gpu.executable", __package__).bind_gpu_plan(
        plan, files, constants, replays=cuda_graphs
    )
    return executable


def _find_library(files: PackageFiles, name: str) -> Path:
    found = files.path(LIBRARY, name)
    assert found is not None, "one of the target's own names"
    return found


def _read_plan(file: Path) -> Plan:
    plan = plan_from_json(json.loads(file.read_text(encoding="utf-8")))
    if plan is None:
        raise StoreError("the plan has a form that this treadle does not read", path=file, hint=AGAIN)
    return plan


def _place_state(signature: Signature, weights: Mapping[str, torch.Tensor]) -> dict[int, torch.Tensor]:
    """The state by the number of its input, each tensor in its layout. Those that are written are copies."""
    written = {signature.inputs[o.index].stored for o in signature.outputs if o.kind == WRITTEN}
    made: dict[Any, torch.Tensor] = {}
    placed: dict[int, torch.Tensor] = {}
    for k, i in enumerate(signature.inputs):
        if i.kind != STATE:
            continue
        key = (i.stored, i.layout)
        if key not in made:
            stored = weights[i.stored]
            made[key] = laid_out(stored.clone() if i.stored in written else stored, i.layout)
        placed[k] = made[key]
    return placed


def _show_call(args: Iterable[str], names: Iterable[str]) -> str:
    return f"({', '.join([*args, *(f'{name}=' for name in names)])})"
