"""Who may import whom, and what may stand where: the rules of CONTRIBUTING.md, checked on the sources themselves."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from sources import LIBRARY, NAME, OTHERS, list_imports, list_sources, module_of, read_source

# ir <- passes, codegen, costmodel (siblings never import each other) <- compiler
MAY_IMPORT = {
    "ir": {"ir"},
    "passes": {"passes", "ir"},
    "codegen": {"codegen", "ir"},
    "costmodel": {"costmodel", "ir"},
    "compiler": {"compiler", "codegen", "costmodel", "ir", "passes"},
}
TARGETS = ("cpp", "triton")  # the folders of codegen: each could be deleted without the other noticing
TORCH_AT_IMPORT = re.compile(
    r"ir/(graph_)?interp\w*\.py"
)  # the interpreter is torch's and NumPy's client; the rest of ir is not
# Heavy, and not needed by every command: these may be imported inside the function that needs them.
HEAVY = {
    "jinja2",
    "matplotlib",
    "plotly",
    "ray",
    "rich",
    "scipy",
    "sqlalchemy",
    "torch",
    "transformers",
    "triton",
    "xgboost",
    "z3",
}
PICKLERS = {
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "pickle",
    "shelve",
}  # a stored file must not be able to run code
# A pass that names one of these has begun to match patterns; the laws are to derive them.
FAMILIES = re.compile(
    r"softmax|attention|sdpa|flash|(?<![a-z])rms(?![a-z])|rms_?norm|layer_?norm|group_?norm|batch_?norm|instance_?norm"
    r"|cross_?entropy|nll_?loss|gelu|silu|swiglu|rotary|(?<![a-z])rope(?![a-z])|welford|dropout",
    re.IGNORECASE,
)
MAX_LINES = 500


def find_layer_faults(path: str, source: str) -> list[str]:
    """Return a line for each import that crosses the layers, names our folders absolutely, or hides in a function."""
    layer = path.split("/")[0]
    faults = []
    for item in list_imports(path, source):
        top, _, rest = item.target.partition(".")
        place = f"{path}:{item.line}: imports {item.target}"
        if top in LIBRARY:
            faults.append(f"{place}: a bare folder name makes second copies of its classes; import it relatively")
        elif top == NAME and not item.relative and path != "compiler/public/__init__.py":
            faults.append(f"{place}: inside the library, import relatively")
        elif top == NAME and rest.split(".")[0] not in MAY_IMPORT[layer]:
            faults.append(f"{place}: {layer} may import {sorted(MAY_IMPORT[layer])} only")
        elif item.in_function and top not in HEAVY:
            faults.append(f"{place}: inside a function; only {sorted(HEAVY)} may be")
        if top == "torch" and layer == "ir" and not item.in_function and not TORCH_AT_IMPORT.fullmatch(path):
            faults.append(f"{place}: ir imports no torch")
        if top in PICKLERS:
            faults.append(f"{place}: nothing of treadle is pickled")
        faults += [
            f"{place}: a target imports no other target"
            for one in TARGETS
            for other in TARGETS
            if one != other and path.startswith(f"codegen/{one}/") and rest.startswith(f"codegen.{other}")
        ]
    return faults


def find_family_words(path: str, source: str) -> list[str]:
    lines = enumerate(source.splitlines(), 1)
    return [f"{path}:{n}: {match[0]}" for n, line in lines for match in FAMILIES.finditer(line)]


def test_imports_follow_the_layers():
    faults = [fault for path in list_sources(*LIBRARY) for fault in find_layer_faults(path, read_source(path))]
    assert not faults, "\n".join(faults)


def test_no_pass_names_an_op_family():
    faults = [fault for path in list_sources("passes") for fault in find_family_words(path, read_source(path))]
    assert not faults, "\n".join(faults)


def test_tests_and_tools_import_treadle_by_its_name():
    """`import ir` at the root works by accident, and its classes are not those of `treadle.ir`."""
    faults = [
        f"{path}:{item.line}: imports {item.target}; write {NAME}.{item.target}"
        for path in list_sources(*OTHERS)
        for item in list_imports(path, read_source(path))
        if item.target.split(".")[0] in LIBRARY
    ]
    assert not faults, "\n".join(faults)


def test_files_are_short():
    sizes = {path: len(read_source(path).splitlines()) for path in list_sources(*LIBRARY, *OTHERS)}
    long = {path: lines for path, lines in sizes.items() if lines > MAX_LINES}
    assert not long, f"over {MAX_LINES} lines; split by idea: {long}"


@pytest.mark.parametrize(
    ("path", "source", "word"),
    [
        ("ir/a.py", "from ..passes.base import Pass", "may import"),
        ("ir/a.py", "import torch", "no torch"),
        ("ir/a.py", "from torch import fx", "no torch"),
        ("passes/a.py", "from ..codegen import emit", "may import"),
        ("passes/a.py", "from .. import costmodel", "may import"),
        ("passes/a.py", "from treadle.ir import types", "relatively"),
        ("passes/a.py", "import ir.types", "bare folder"),
        ("codegen/cpp/a.py", "from ...passes import base", "may import"),
        ("codegen/cpp/a.py", "from ..triton import emit", "other target"),
        ("codegen/cpp/a.py", "def f():\n    from ..writer import Writer", "inside a function"),
        ("compiler/runtime/a.py", "class A:\n    def f(self):\n        import os", "inside a function"),
        ("compiler/a.py", "from pickle import loads", "pickled"),
    ],
)
def test_a_fault_is_found(path: str, source: str, word: str):
    assert any(word in fault for fault in find_layer_faults(path, source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ir/interp.py", "import torch"),
        ("ir/a.py", "def f():\n    import torch"),
        ("ir/sub/a.py", "from ..types import DType"),
        ("passes/a.py", "from ..ir.types import DType\nfrom .base import Pass"),
        ("codegen/cpp/a.py", "from ...ir import types\nfrom ..writer import Writer"),
        ("compiler/cli/a.py", "from ... import passes\nfrom ...ir import types\nfrom ..settings import settings"),
        ("compiler/public/__init__.py", "from treadle.compiler.settings import settings"),
    ],
)
def test_what_is_allowed_is_no_fault(path: str, source: str):
    assert find_layer_faults(path, source) == []


@pytest.mark.parametrize(
    ("text", "found"), [("RMSNorm", 1), ("is_rms", 1), ("terms, norms, transforms", 0), ("FlashAttn", 1)]
)
def test_family_words_are_found_as_words(text: str, found: int):
    assert len(find_family_words("a.py", text)) == found


def test_importing_treadle_and_its_ir_loads_no_torch():
    """Measured in a process of its own: what a user's `import treadle` really brings in."""
    names = [NAME, *(module_of(path) for path in list_sources("ir") if not TORCH_AT_IMPORT.fullmatch(path))]
    code = f"import sys\nfor name in {names}: __import__(name)\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
