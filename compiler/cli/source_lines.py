"""The lines of the user's program that a kernel computes, told in few words."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

SOURCE = re.compile(r"(?P<file>.*?):(?P<line>\d+)(?: \((?P<module>.*)\))?")
PACKAGES = re.compile(r"^.*/(?:site|dist)-packages/")


def gather_sources(sources: Iterable[str]) -> list[str]:
    """Lines of one file and of like modules become one.

    a.py:3 (layers.0.norm), a.py:4 (layers.0.norm), a.py:3 (layers.1.norm)   ->   a.py:3, 4 (layers.*.norm)
    """
    groups: dict[tuple[str, str], tuple[set[int], dict[str, None]]] = {}
    for source in sources:
        file, line, module = split_source(source)
        lines, modules = groups.setdefault((file, star_numbers(module)), (set(), {}))
        lines.update([line] if line else [])
        modules[module] = None
    return [_format_sources(file, like, *group) for (file, like), group in groups.items()]


def gather_places(sources: Iterable[str]) -> list[str]:
    """The modules that the lines are in, like ones as one; for lines outside of modules the file and line.

    a.py:3 (layers.0.norm), a.py:3 (layers.1.norm), b.py:7   ->   layers.*.norm, b.py:7
    """
    split = [split_source(source) for source in sources]
    known = {module for _, _, module in split}
    found: dict[str, None] = {}
    for file, line, module in split:
        like = star_numbers(module)
        alone = sum(star_numbers(other) == like for other in known) == 1
        found[(module if alone else like) or f"{os.path.basename(file)}:{line}"] = None
    return list(found)


def split_source(source: str) -> tuple[str, int, str]:
    """ "a.py:3 (layers.0)" -> ("a.py", 3, "layers.0"); what does not look so is a file."""
    match = SOURCE.fullmatch(source)
    if match is None:
        return source, 0, ""
    return shorten_path(match["file"]), int(match["line"]), match["module"] or ""


def star_numbers(module: str) -> str:
    return re.sub(r"\b\d+\b", "*", module)


def _format_sources(file: str, like: str, lines: set[int], modules: dict[str, None]) -> str:
    module = like if len(modules) > 1 else next(iter(modules), "")
    numbers = f":{', '.join(map(str, sorted(lines)))}" if lines else ""
    return f"{file}{numbers}" + (f" ({module})" if module else "")


def shorten_path(path: str) -> str:
    """A path as seen from the packages or from here."""
    short = PACKAGES.sub("", path)
    if short != path:
        return short
    here = os.getcwd() + os.sep
    return path.removeprefix(here)
