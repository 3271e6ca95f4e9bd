"""The public doors besides torch.compile: `treadle.compile` of a captured graph, `treadle.explain` of anything.

call = treadle.compile(graph_module, example_inputs)           a graph module from any tracer
call = treadle.compile(torch.export.export(model, inputs))     an exported program, with its dynamic shapes
print(treadle.explain(model, example_inputs))                  a module or function too
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch._dynamo.utils import flatten_graph_inputs
from torch.export import ExportedProgram, default_decompositions
from torch.export.graph_signature import OutputKind
from torch.utils import _pytree as pytree

from ..ir.errors import BadInput
from ..ir.types import contiguous_strides, is_static
from .backend import run_aot, treadle_backend
from .driver import collect, compile_boxed, open_store
from .frontend.dims import Dims
from .modes import find_options
from .runtime.layouts import Layout, laid_out
from .settings import settings
from .table import find_decompositions, list_decompositions

if TYPE_CHECKING:
    from .report import Report

STAR = inspect.Parameter.VAR_POSITIONAL
Inputs = Sequence[Any] | Mapping[str, Any]


def compile(
    program: fx.GraphModule | ExportedProgram, example_inputs: Inputs | None = None, *, mode: str | None = None,
    **options: Any,
) -> Callable[..., Any]:  # fmt: skip
    """A function that computes what the program does, on inputs like the examples (it checks that they are alike).

    example_inputs  positional arguments, or keywords; an exported program brings its own
    mode            as torch.compile's: "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"
    options         treadle's settings by name

    Gradients are computed through a graph module where its inputs or parameters ask for them.
    Raises SettingError for modes and options that do not exist, BadInput for a program or inputs that do not fit.
    """
    with settings.override(**find_options(mode, options)):
        if isinstance(program, ExportedProgram):
            return _compile_exported(program)
        if isinstance(program, fx.GraphModule):
            return _compile_module(program, example_inputs)
    expected = "a torch.fx.GraphModule or a torch.export.ExportedProgram"
    hint = 'for a module or a function write torch.compile(model, backend="treadle")'
    raise BadInput("not a captured program", where="treadle.compile", expected=expected, got=type(program).__name__,
                   hint=hint)  # fmt: skip


def explain(
    program: Any, example_inputs: Inputs | None = None, *, train: bool = False, mode: str | None = None, **options: Any
) -> Report:  # fmt: skip
    """Compile a captured program, a module or a function for its inputs, and tell what became of it.

    A module or function is run once by torch.compile, with gradients where `train` says so. Nothing is taken from the
    store but compiled kernels, so all graphs are told of.
    """
    with collect() as found, settings.override(**find_options(mode, options)):
        if isinstance(program, (fx.GraphModule, ExportedProgram)):
            compile(program, example_inputs, mode=mode, **options)
        else:
            _run_once(program, example_inputs, train)
    report: Report = import_module(".report", __package__).Report(tuple(c.report() for c in found))
    return report


def _run_once(program: Callable[..., Any], example_inputs: Inputs | None, train: bool) -> None:
    torch._dynamo.reset()  # what was compiled before would not be compiled again
    compiled = torch.compile(program, backend=treadle_backend)
    args, kwargs = _split(example_inputs)
    with torch.set_grad_enabled(train):
        out = compiled(*args, **kwargs)
        if train:
            leaves = [t for t in pytree.tree_leaves(out) if isinstance(t, torch.Tensor) and t.requires_grad]
            torch.autograd.grad([t.float().sum() for t in leaves], _learned(program, (args, kwargs)), allow_unused=True)
    torch._dynamo.reset()


def _learned(program: Any, inputs: Any) -> list[torch.Tensor]:
    tensors = [t for t in pytree.tree_leaves(inputs) if isinstance(t, torch.Tensor)]
    parameters = list(program.parameters()) if isinstance(program, torch.nn.Module) else []
    return [t for t in (*tensors, *parameters) if t.requires_grad]


def _split(inputs: Inputs | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if inputs is None:
        return (), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, torch.Tensor):
        return (inputs,), {}
    return tuple(inputs), {}


# --- exported programs -------------------------------------------------------------------------------------------


def _compile_exported(program: ExportedProgram) -> Callable[..., Any]:
    """The program's graph is functional already: its state goes in as inputs, what it mutates comes out as results."""
    lowered = lower_exported(program)
    boxed = compile_boxed(lowered.graph_module, "graph")
    layouts: list[Layout] = [
        find_layout(n.meta.get("val")) for n in lowered.graph_module.graph.nodes if n.op == "placeholder"
    ]

    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            flat = _flatten_inputs(lowered, args, kwargs)
            given = [laid_out(x, layout) for x, layout in zip(flat, layouts, strict=True)]
            return _put_back(lowered, flat, boxed(given))

    return call


def lower_exported(program: ExportedProgram, more: Mapping[Any, Callable[..., Any]] | None = None) -> ExportedProgram:
    """The program over the operators that torch.compile hands over.

    Composite operators (`linear`, `softmax.int`, `scaled_dot_product_attention`) are taken apart as AOTAutograd does:
    `run_decompositions` leaves those that its table lacks. `more` are decompositions that come before all others.
    """
    known = list_decompositions()
    composite = {op: function for op, function in default_decompositions().items() if op not in known}
    return program.run_decompositions(composite | find_decompositions(open_store()) | dict(more or {}))


def _flatten_inputs(program: ExportedProgram, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """State and inputs in the order of the graph, checked against the program's own constraints."""
    try:
        return list(program._graph_module_flat_inputs(args, kwargs))
    except Exception as error:  # noqa: BLE001 - torch raises several kinds
        raise BadInput(f"the inputs do not fit the exported program: {error}", where="treadle.compile") from None


def _put_back(program: ExportedProgram, flat: list[Any], results: Sequence[Any]) -> Any:
    """Write mutated state and inputs; give the user's results the structure that they had."""
    signature = program.graph_signature
    position: dict[str | None, int] = {spec.arg.name: k for k, spec in enumerate(signature.input_specs)}
    state: dict[str | None, int] = {spec.target: k for k, spec in enumerate(signature.input_specs)}
    leaves = []
    for spec, result in zip(signature.output_specs, results, strict=True):
        if spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION):
            flat[state[spec.target]].copy_(result)
        elif spec.kind is OutputKind.USER_INPUT_MUTATION:
            flat[position[spec.target]].copy_(result)
        else:
            leaves.append(result)
    structure: Any = program.call_spec.out_spec
    return pytree.tree_unflatten(leaves, structure)


def find_layout(val: Any) -> Layout:
    """The strides that compiled code expects of an input: numbers, contiguous, or any where nobody can say."""
    if not isinstance(val, torch.Tensor) or val.layout is not torch.strided:
        return "any"
    dims = Dims("cpu")
    shape, strides = dims.shape(val.shape), dims.strides(val)
    if shape is None or strides is None:
        return "any"
    if strides == contiguous_strides(shape):
        return "contiguous"
    return tuple(int(s) for s in strides) if is_static(strides) else "any"


# --- graph modules -----------------------------------------------------------------------------------------------


def _compile_module(gm: fx.GraphModule, example_inputs: Inputs | None) -> Callable[..., Any]:
    if example_inputs is None:
        hint = "treadle.compile(graph_module, inputs)"
        raise BadInput("a graph module needs example inputs", where="treadle.compile", hint=hint)
    signature = inspect.signature(gm.forward)
    examples = _in_order(signature, *_split(example_inputs))
    flat_gm, spec = return_tuple(gm)
    leaves, in_spec = pytree.tree_flatten(examples)
    kinds = [_kind_of(x) for x in leaves]
    nested = len(leaves) != len(examples)
    compiled = flatten_graph_inputs(flat_gm, examples, run_aot) if nested else run_aot(flat_gm, examples)

    def call(*args: Any, **kwargs: Any) -> Any:
        given = _in_order(signature, args, kwargs)
        _check_alike(given, in_spec, kinds)
        return pytree.tree_unflatten(compiled(*given), spec)

    return call


def return_tuple(gm: fx.GraphModule) -> tuple[fx.GraphModule, pytree.TreeSpec]:
    """The module with its results in one flat tuple, and the structure that they had."""
    graph = fx.Graph()
    results = graph.graph_copy(gm.graph, {})
    leaves, spec = pytree.tree_flatten(results)
    graph.output(tuple(leaves))
    return fx.GraphModule(gm, graph), spec


def _in_order(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The arguments in the order of the module's placeholders."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise BadInput(f"the inputs do not fit the module: {error}", where="treadle.compile") from None
    bound.apply_defaults()
    return [x for p, x in bound.arguments.items() for x in (x if signature.parameters[p].kind is STAR else [x])]


def _kind_of(x: Any) -> tuple[Any, ...]:
    """What compiled code relies on."""
    if isinstance(x, torch.Tensor):
        return x.dtype, tuple(x.shape), tuple(x.stride()), x.device
    return type(x), x


def _check_alike(given: list[Any], in_spec: pytree.TreeSpec, kinds: list[tuple[Any, ...]]) -> None:
    leaves, spec = pytree.tree_flatten(given)
    hint = "compile again for such inputs, or torch.export with dynamic shapes first"
    if spec != in_spec:
        raise BadInput("inputs of another structure than the examples", expected=in_spec, got=spec, hint=hint)
    for number, (x, kind) in enumerate(zip(leaves, kinds, strict=True)):
        if _kind_of(x) != kind:
            where = f"input {number}"
            raise BadInput("not like the example", where=where, expected=_show(kind), got=_show(_kind_of(x)), hint=hint)


def _show(kind: tuple[Any, ...]) -> str:
    if isinstance(kind[0], torch.dtype):
        return f"{kind[0]}{list(kind[1])} of strides {list(kind[2])} on {kind[3]}"
    return repr(kind[1])
