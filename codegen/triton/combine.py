"""The combine functions of reduction and scan states in Triton, printed from the rows of `ir.states`."""

from __future__ import annotations

from ...ir.expr import Load, walk
from ...ir.states import STATES, Values
from ...ir.types import DTYPES
from ..parts import count_uses
from ..text import strip
from .scope import Stack, Val
from .values import Values as Printed


class Combiners:
    """The functions that the kernels of one module combine their states with; `helpers` are those of the prelude."""

    def __init__(self) -> None:
        self.helpers: set[str] = set()
        self.functions: dict[str, str] = {}

    def function(self, state: str, dtypes: tuple[str, ...]) -> str:
        """The name of the function that joins two neighbouring states of a row."""
        name = "_".join(("combine", state, *dict.fromkeys(dtypes)))
        if name not in self.functions:
            self.functions[name] = self._print(name, state, dtypes)
        return name

    def _print(self, name: str, state: str, dtypes: tuple[str, ...]) -> str:
        stack = Stack()
        values = Printed(stack, {}, self.helpers)
        stack.open({}, frozenset())
        sides: list[Values] = []
        for side in "ab":
            loads = tuple(Load(f"{side}{k}", (), DTYPES[d]) for k, d in enumerate(dtypes))
            stack.bound.update({e.name: (Val(stack.fresh(e.name), frozenset(), e.dtype.name), 0) for e in loads})
            sides.append(loads)
        results = STATES[state].combine(*sides)
        values.uses = count_uses(walk(*results))
        found = [values.value(e).text for e in results]
        args = ", ".join(v.text for v, _ in stack.bound.values())
        lines = [*stack.close(), f"return {', '.join(map(strip, found))}"]
        body = "\n".join(f"    {line}" for line in lines)
        return f"@triton.jit\ndef {name}({args}):\n{body}\n"
