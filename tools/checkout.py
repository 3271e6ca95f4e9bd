"""Runs a script with treadle imported from this checkout, on a machine where it is not installed.

python tools/checkout.py benchmarks/gpu.py --slice correctness
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
import tomllib
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


class Finder:
    """Finds the packages that pyproject.toml maps to folders; what is inside them is found by Python itself."""

    def __init__(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        self.folders: dict[str, str] = project["tool"]["setuptools"]["package-dir"]

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        folder = self.folders.get(name)
        if folder is None:
            return None
        where = ROOT / folder
        return importlib.util.spec_from_file_location(
            name, where / "__init__.py", submodule_search_locations=[str(where)]
        )


def main() -> None:
    if importlib.util.find_spec("treadle") is None:
        sys.meta_path.insert(0, Finder())
    del sys.argv[0]
    script = Path(sys.argv[0]).resolve()
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
