"""treadle: a tensor compiler for PyTorch. Kernels are derived, not matched.

    import torch, treadle
    fast = torch.compile(model, backend="treadle")            # the door most people want
    call = treadle.compile(graph_module, example_inputs)      # a captured graph or an exported program
    print(treadle.explain(graph_module, example_inputs))      # its kernels, and why each is what it is
    treadle.package(model, example_inputs, directory)         # compiled ahead of time; treadle.load(directory) runs it
    small = treadle.quantize(model, "w4a16")                  # linear layers of narrow numbers, as plain modules
    with treadle.settings.override(debug=3): ...              # every option: `treadle doctor`

Importing this module is cheap: nothing of torch is loaded until one of these names is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from treadle.compiler.doors import compile, explain
    from treadle.compiler.package import package
    from treadle.compiler.quantize.door import quantize
    from treadle.compiler.runtime.package import load
    from treadle.compiler.settings import settings

__version__ = "0.1.0.dev0"
__all__ = ["__version__", "compile", "explain", "load", "package", "quantize", "settings"]

# public name -> the module that defines it, imported when the name is first asked for
_HOMES = {
    "compile": "treadle.compiler.doors",
    "explain": "treadle.compiler.doors",
    "load": "treadle.compiler.runtime.package",
    "package": "treadle.compiler.package",
    "quantize": "treadle.compiler.quantize.door",
    "settings": "treadle.compiler.settings",
}


if not TYPE_CHECKING:  # a type checker is to see the names above, and no others

    def __getattr__(name: str) -> Any:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'treadle' has no attribute {name!r}; it has {', '.join(__all__)}")
        value = getattr(import_module(home), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
