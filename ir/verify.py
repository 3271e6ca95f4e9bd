"""Verifying the IR: each level has a list of rules, and a rule is a value.

verify_graph(graph)       raises VerifyError where a rule is broken, else returns the graph
verify_kernel(kernel)
verify_program(program)
find_problems(kernel, KERNEL_RULES)     all of them, as data
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from .errors import VerifyError
from .graph import Graph
from .loops import Kernel
from .tiles import Program
from .verify_graph import GRAPH_RULES
from .verify_loops import KERNEL_RULES
from .verify_rules import Problem, Rule
from .verify_tiles import PROGRAM_RULES

T = TypeVar("T")

__all__ = [
    "GRAPH_RULES", "KERNEL_RULES", "PROGRAM_RULES", "Problem", "Rule", "find_problems",
    "verify_graph", "verify_kernel", "verify_program",
]  # fmt: skip


def verify_graph(graph: Graph) -> Graph:
    return _verified(graph, GRAPH_RULES, f"graph {graph.name}")


def verify_kernel(kernel: Kernel) -> Kernel:
    return _verified(kernel, KERNEL_RULES, f"kernel {kernel.name}")


def verify_program(program: Program) -> Program:
    return _verified(program, PROGRAM_RULES, f"tiles {program.name}")


def find_problems(ir: T, rules: Sequence[Rule[T]]) -> list[Problem]:
    """The problems that the first broken rule finds: later rules rely on earlier ones."""
    for rule in rules:
        problems = list(rule.check(ir))
        if problems:
            return problems
    return []


def _verified(ir: T, rules: Sequence[Rule[T]], where: str) -> T:
    problems = find_problems(ir, rules)
    if not problems:
        return ir
    first, more = problems[0], len(problems) - 1
    hint = f"and {more} more like it" if more else ""
    place = f"{where}, {first.where}" if first.where else where
    raise VerifyError(first.problem, where=place, expected=first.expected, got=first.got, hint=hint)
