"""Models in Python files, as `treadle run`, `treadle explain` and the benchmarks take them: FILE[:FUNCTION].

The function (default `build`) returns the model, or any callable, and its inputs: a tuple of positional arguments or a
mapping of keyword arguments.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch

from ..ir.errors import BadInput, suggest

DEFAULT_FUNCTION = "build"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What a file's function returned. `name` is FILE:FUNCTION."""

    path: Path
    name: str
    model: Callable[..., Any]
    inputs: tuple[Any, ...] | Mapping[str, Any]


def load_model(target: str, dtype: str = "", **arguments: Any) -> ModelFile:
    """Import the file, call its function and check what it returns.

    dtype      a key of DTYPES, handed to the function's parameter `dtype`; "" leaves the function its default
    arguments  more keyword arguments for it

    Raises BadInput where there is no such file or function, where it raises, or returns something else.
    """
    file, function = split_target(target)
    name = f"{file}:{function}"
    build = _find_function(load_file(file), function, name)
    if dtype:
        arguments["dtype"] = _find_dtype(dtype)
    _check_arguments(build, arguments, name)
    try:
        returned = build(**arguments)
    except (Exception, SystemExit) as error:
        raise blame(file, f"{function}() raised", error) from error
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise _wrong_result(name, describe_type(returned))
    model, inputs = returned
    if not callable(model) or not isinstance(inputs, tuple | list | Mapping):
        raise _wrong_result(name, f"({describe_type(model)}, {describe_type(inputs)})")
    return ModelFile(file, name, model, inputs if isinstance(inputs, Mapping) else tuple(inputs))


def split_target(target: str) -> tuple[Path, str]:
    """Return the file and the function that FILE[:FUNCTION] names. Raises BadInput where there is no such file."""
    file, colon, function = target.rpartition(":")
    if not colon or not function.isidentifier():
        file, function = target, DEFAULT_FUNCTION
    path = Path(file)
    if path.suffix != ".py":
        raise BadInput("this is not a Python file", where=file, expected="FILE.py or FILE.py:FUNCTION")
    if not path.is_file():
        raise BadInput("there is no such file", where=file)
    return path, function


def load_file(path: Path) -> ModuleType:
    """Import a Python file, whatever its name; like a script it finds the modules beside it.

    Raises BadInput, with the line of the file, where it cannot be imported.
    """
    name = f"treadle_file_{path.stem}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadInput("this is not a Python file", where=path)
    module = module_from_spec(spec)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    sys.modules[name] = module  # dataclasses and torch look a class's module up by its name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise blame(path, "it cannot be imported:", error) from error
    return module


def blame(file: Path, problem: str, error: BaseException) -> BadInput:
    """Return a BadInput that says where in the user's file an error came from, in one line."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file.absolute()]
    line = frames[-1].lineno if frames else getattr(error, "lineno", None)
    said = (str(error).strip().splitlines() or [""])[0]
    kind = type(error).__name__
    place = f"{file}:{line}" if line else file
    told = f"{problem} {kind}{': ' if said else ''}{said}"
    return BadInput(told, where=place, hint="TREADLE_DEBUG=1 shows the stack")


def describe_type(value: object) -> str:
    """Return a short text for what a value is: "LlamaForCausalLM", "bf16[2, 3]", "dict of 2"."""
    if isinstance(value, torch.Tensor):
        return f"{name_dtype(value.dtype)}{list(value.shape)}"
    if isinstance(value, tuple | list | Mapping):
        return f"{type(value).__name__} of {len(value)}"
    return value.__name__ if inspect.isfunction(value) else type(value).__name__


def name_dtype(dtype: torch.dtype) -> str:
    """Return a dtype as treadle writes it: "bf16", "i64", "bool"."""
    kinds = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "complex": "c"}
    name = str(dtype).removeprefix("torch.")
    letters = name.rstrip("0123456789")
    return kinds.get(letters, letters) + name[len(letters) :]


def describe_model(loaded: ModelFile) -> str:
    """ "LlamaForCausalLM, 110.1 M parameters in bf16; input_ids i64[1, 256]"."""
    words = [describe_type(loaded.model)]
    if isinstance(loaded.model, torch.nn.Module):
        parameters = list(loaded.model.parameters())
        dtypes = dict.fromkeys(name_dtype(parameter.dtype) for parameter in parameters)
        count = sum(parameter.numel() for parameter in parameters)
        words += [f"{format_parameters(count)} in {', '.join(dtypes)}"] if count else []
    return f"{', '.join(words)}; {describe_inputs(loaded.inputs)}"


def describe_inputs(inputs: tuple[Any, ...] | Mapping[str, Any]) -> str:
    if isinstance(inputs, Mapping):
        return ", ".join(f"{name} {describe_type(value)}" for name, value in inputs.items()) or "no inputs"
    return ", ".join(describe_type(value) for value in inputs) or "no inputs"


def format_parameters(count: int) -> str:
    return f"{count / 1e6:.1f} M parameters" if count >= 1e5 else f"{count} parameters"


def _find_dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise BadInput("no such dtype", got=name, hint=suggest(name, DTYPES))
    return DTYPES[name]


def _find_function(module: ModuleType, function: str, name: str) -> Callable[..., Any]:
    found = getattr(module, function, None)
    if callable(found):
        return found
    defined = [key for key, value in vars(module).items() if inspect.isfunction(value) and _is_from(value, module)]
    raise BadInput("there is no such function in this file", where=name, hint=suggest(function, defined))


def _check_arguments(build: Callable[..., Any], arguments: Mapping[str, Any], name: str) -> None:
    try:
        parameters = inspect.signature(build).parameters
    except (TypeError, ValueError):
        return
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for argument in arguments:
        if argument not in parameters and not takes_any:
            hint = suggest(argument, parameters)
            raise BadInput("the function has no such parameter", where=name, got=argument, hint=hint)


def _is_from(function: FunctionType, module: ModuleType) -> bool:
    return function.__code__.co_filename == module.__file__


def _wrong_result(name: str, got: str) -> BadInput:
    expected = "(model, inputs): a callable, and a tuple or a mapping of its arguments"
    return BadInput("the function returns something else", where=name, expected=expected, got=got)
