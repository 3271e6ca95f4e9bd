"""The package as a user gets it: what the wheel carries, and that it works far from the repository."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from sources import LIBRARY, NAME, ROOT, list_sources, module_of, package_of, read_pyproject, read_source

import treadle


def list_packages_on_disk() -> set[str]:
    inits = [path for path in list_sources(*LIBRARY) if path.endswith("/__init__.py")]
    return {package_of(path) for path in inits}


def folder_of(package: str) -> str:
    """Return the folder of a package, as setuptools finds it: by the longest name that package-dir maps."""
    mapped = read_pyproject()["tool"]["setuptools"]["package-dir"]
    if package in mapped:
        return mapped[package]
    parent, _, last = package.rpartition(".")
    return f"{folder_of(parent)}/{last}"


def test_the_package_list_is_the_folders_on_disk():
    """A sub-package missing from the list works in an editable install and is silently absent from the wheel."""
    assert set(read_pyproject()["tool"]["setuptools"]["packages"]) == list_packages_on_disk()


def test_every_source_stands_in_a_package():
    """A folder without __init__.py is no package: its files would be left out of the wheel."""
    homeless = [path for path in list_sources(*LIBRARY) if package_of(path) not in list_packages_on_disk()]
    assert not homeless


def test_packages_lie_where_the_map_says():
    for package in list_packages_on_disk():
        assert (ROOT / folder_of(package) / "__init__.py").is_file()


def test_entry_points_name_functions_that_exist():
    project = read_pyproject()["project"]
    targets = [*project["scripts"].values(), *project["entry-points"]["torch_dynamo_backends"].values()]
    assert [target for target in targets if not defines(*target.split(":"))] == []


def test_the_front_door_leads_to_names_that_exist():
    assert [name for name, home in treadle._HOMES.items() if not defines(home, name)] == []
    assert set(treadle.__all__) == {"__version__", *treadle._HOMES}


def defines(module: str, name: str) -> bool:
    """Whether the module's source binds `name` at its top level; read, not imported."""
    path = ROOT / f"{folder_of(module)}.py"
    if not path.exists():
        return False
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return True
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return True
    return False


def test_an_unknown_public_name_is_an_attribute_error_that_lists_what_exists():
    with pytest.raises(AttributeError, match="compile, explain, load, package, quantize, settings"):
        _ = treadle.tunne  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the built wheel unpacked into it. A build in place would leave its files to the next."""
    copy = tmp_path_factory.mktemp("copy")
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in LIBRARY:
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    subprocess.run(command, cwd=copy, check=True, capture_output=True)
    [wheel] = (copy / "dist").glob("*.whl")
    target = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(target)
    return target


def test_the_wheel_carries_every_file_and_nothing_else(site: Path):
    """Data too: a text or a table beside the sources wants a line in package-data."""
    carried = {path.relative_to(site / NAME).as_posix() for path in (site / NAME).rglob("*") if path.is_file()}
    files = [path.relative_to(ROOT) for folder in LIBRARY for path in (ROOT / folder).rglob("*") if path.is_file()]
    names = {path.as_posix().removeprefix("compiler/public/") for path in files if "__pycache__" not in path.parts}
    assert carried == names
    assert (site / NAME / "py.typed").is_file()
    assert {path.name.split("-")[0] for path in site.iterdir()} == {NAME}


def test_the_wheel_declares_its_version_licence_and_entry_points(site: Path):
    [info] = site.glob("*.dist-info")
    metadata = (info / "METADATA").read_text(encoding="utf-8")
    assert f"Version: {treadle.__version__}\n" in metadata
    assert "License-Expression: Apache-2.0\n" in metadata
    assert "torch_dynamo_backends" in (info / "entry_points.txt").read_text(encoding="utf-8")


def test_the_wheel_imports_from_a_foreign_directory(site: Path, tmp_path: Path):
    """Every module of it, in a process that finds `treadle` in the unpacked wheel and nowhere else."""
    names = [module_of(path) for path in list_sources(*LIBRARY) if not path.endswith("__main__.py")]
    code = (
        f"import sys, importlib; sys.path.insert(0, {str(site)!r})\n"
        f"for name in {names!r}:\n"
        f"    file = importlib.import_module(name).__file__\n"
        f"    assert file.startswith({str(site)!r}), file\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_version_is_written_once():
    assert "version" in read_pyproject()["project"]["dynamic"]
    assert f'__version__ = "{treadle.__version__}"' in read_source("compiler/public/__init__.py")
