"""What a rule of a verifier is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Problem:
    where: str
    problem: str
    expected: object = ""
    got: object = ""


@dataclass(frozen=True, slots=True)
class Rule(Generic[T]):
    """`check` gives the places where the rule, which its name states, does not hold."""

    name: str
    check: Callable[[T], Iterable[Problem]]
