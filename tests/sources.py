"""The repository as the tests about the repository see it: its files, its package map, and what each file imports."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIBRARY = ("codegen", "compiler", "costmodel", "ir", "passes")  # the folders that the wheel carries
OTHERS = ("tests", "tools", "examples", "benchmarks")
NAME = "treadle"


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module; `target` is its full dotted name, `in_function` also where a method imports it."""

    target: str
    line: int
    relative: bool
    in_function: bool


@cache
def read_pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def list_sources(*folders: str) -> list[str]:
    """Return the Python files below the folders, as paths relative to the root."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def read_source(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def package_of(path: str) -> str:
    """Return the package a file belongs to: "ir/expr.py" -> "treadle.ir"; the front door is `treadle` itself."""
    folder = path.rpartition("/")[0]
    return NAME if folder == "compiler/public" else f"{NAME}.{folder.replace('/', '.')}"


def module_of(path: str) -> str:
    """Return the module that a file is: "ir/expr.py" -> "treadle.ir.expr", "ir/__init__.py" -> "treadle.ir"."""
    name = path.rpartition("/")[2].removesuffix(".py")
    return package_of(path) if name == "__init__" else f"{package_of(path)}.{name}"


def list_imports(path: str, source: str) -> Iterator[Import]:
    """Yield every import of a file, `from .. import x` once for each x, wherever it stands."""
    tree = ast.parse(source, path)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inner = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            targets = _resolve_from(path, node)
        else:
            continue
        relative = isinstance(node, ast.ImportFrom) and node.level > 0
        for target in targets:
            yield Import(target, node.lineno, relative, id(node) in inner)


def _resolve_from(path: str, node: ast.ImportFrom) -> list[str]:
    if not node.level:
        return [node.module or ""]
    package = package_of(path).split(".")
    base = package[: len(package) - node.level + 1]
    if node.module:
        return [".".join([*base, node.module])]
    return [".".join([*base, alias.name]) for alias in node.names]
