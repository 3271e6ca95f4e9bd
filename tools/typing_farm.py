"""Lay out .typing/treadle: links that show the type checker the package as Python's import system sees it.

The folders stand at the repository's root and the import name is `treadle`. An editable install bridges that with an
import hook, which type checkers do not follow; links they do follow. Read from the package map in pyproject.toml, so
there is no second list to keep. Run by `make lint`; safe to run again.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
FARM = ROOT / ".typing"


def main() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for package, folder in sorted(config["tool"]["setuptools"]["package-dir"].items()):
        link = FARM.joinpath(*package.split("."))
        if "." in package:
            link_to(link, ROOT / folder)
            continue
        link.mkdir(parents=True, exist_ok=True)  # the front door: a real folder, so that the others can stand in it
        for path in (ROOT / folder).iterdir():
            if path.is_file():
                link_to(link / path.name, path)


def link_to(link: Path, target: Path) -> None:
    """Make `link` a relative link to `target`, whatever stood there before."""
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(target, link.parent), target_is_directory=target.is_dir())


if __name__ == "__main__":
    main()
