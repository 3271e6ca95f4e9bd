"""Why what could be one kernel is not: the closed list of reasons that the passes give.

    h[t] = ...; y = a library's product of h; z[t] = y[t] + h[t]     ->     h, y: library;  h, z: across

The pass that refuses names the reason: its own predicate returns `Reason | None`, and there is no second judge. What
was tried is recorded only where somebody asks (`refusals`).
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from ..ir.errors import LoweringError


class Reason(Enum):
    """A short name, a sentence, and the condition under which it holds.

    In the sentences {value} is the value that could have had no memory of its own, and {other} what stands against it:
    the call that reads or makes it, the input that it replaces, a limit.
    """

    # --- why a value is in memory ---
    OUTPUT = "output", "{value} is returned", "The graph returns the value, so somebody outside reads it."
    MUTATION = "mutation", "{value} is the new value of {other}", "The graph writes the value into one of its inputs."
    LIBRARY = (
        "library", "{other} is a library call",
        "One of the two is an ATen call that is faster than a kernel of treadle's: its operands are in memory.",
    )  # fmt: skip
    OPAQUE = "opaque", "{other} is left to ATen", "One of the two is an op, or a view, that has no equations here."
    EFFECT = "effect", "{other} keeps its place", "One of the two is a call with effects, in the order of the program."
    ACROSS = (
        "across", "calls or contractions lie between {value} and {other}",
        "More calls or contractions come before the reader than before the value, which cannot wait for them: it is a "
        "reduction or a scan, others read it earlier, or a contraction would compute it many times.",
    )  # fmt: skip
    SCATTER = (
        "scatter", "{value} is written where indices say",
        "Elements of a scatter are known when all of it is written, so none can be computed where it is read.",
    )  # fmt: skip
    CHAIN = (
        "chain", "values would nest too deep",
        "Expressions are cut at the largest operand of the value that would nest deeper than the limit; what is stored "
        "on the way may add little to that.",
    )  # fmt: skip
    SIZE = (
        "size", "it would make an expression of more than {other} operations",
        "Expressions are cut at the largest operand of the value that would be larger than the limit.",
    )  # fmt: skip
    GUARDED = (
        "guarded", "{value} is a reduction that is read in some places only",
        "A reduction is read under a guard (through a pad, a cat, a roll): a local equation has no guard.",
    )  # fmt: skip
    ORDER = (
        "order", "{value} is a scan that is read out of order",
        "The index along the scan is not an axis by itself: the reader wants its elements in another order.",
    )  # fmt: skip
    COST = (
        "cost", "cheaper stored",
        "The search found the region slower where the value is computed in its readers again.",
    )  # fmt: skip
    UNTRIED = (
        "untried", "stored by a rule of thumb: more than one reads it, and it is not cheap",
        "The region is too large for all its partitions to be tried, and the one without the value was not.",
    )  # fmt: skip

    # --- why two kernels are two ---
    DOMAIN = (
        "domain", "they run over different axes",
        "The kernel does not pass over each element of the value exactly once; or its axes have other extents.",
    )  # fmt: skip
    EXTENTS = (
        "extents", "they reduce axes of different extents",
        "Both reduce, over axes of different extents: one of them would wait in the other's loop.",
    )  # fmt: skip
    FULL = "full", "the kernel stores as many values as one may", "One more output would pass the limit of a kernel."
    CYCLE = "cycle", "another kernel runs between them", "A third kernel needs the one, and the other needs the third."
    TAKEN = "taken", "another kernel that reads {value} stores it", "A value is stored once, by the first that can."
    UNSHARED = (
        "unshared", "{value} reads nothing that the other reads",
        "What the two have in common is read for the sake of other values that they store.",
    )  # fmt: skip
    APART = "apart", "no value leads from one to the other", "Parts of a graph that no value connects are not compared."

    # --- why a reduction is not streamed, its factors not delayed, its sums not exchanged ---
    SHORT = "short", "the row stays in cache", "The reduced axes are no longer than what a core keeps close."
    FORM = (
        "form", "what is summed does not follow a running {other}",
        "The sum is neither of exponentials less the maximum of their exponents, nor of squares about the mean.",
    )  # fmt: skip
    STRICT = "strict", "it would round in another order", 'numerics="strict" keeps rounding where the user put it.'
    OPERANDS = (
        "operands", "without its factor it would be summed in too few digits",
        "The sum runs in 16 bits, or its operands are rounded to a narrow type in which they are not exact.",
    )  # fmt: skip
    KNOWN = (
        "known", "its factors wait for no other reduction",
        "What could leave the reduction is known before the row is passed over, so that no pass is saved.",
    )  # fmt: skip
    UNCHECKED = (
        "unchecked", "no other read would report a bad index",
        "An element is picked by an index from data, and nothing else in the kernel reads memory by that index.",
    )  # fmt: skip
    WHOLE = (
        "whole", "all of {other} is read again anyway",
        "An element of a row is picked, but other readers need the row after it has been passed over.",
    )  # fmt: skip
    ABSENT = (
        "absent", "no equation has the sum that would be inside",
        "Two sums change places where the inner one is computed already, over the same axes.",
    )  # fmt: skip
    LONGER = "longer", "the sum that is left would be no shorter", "Both inner sums are needed, and neither is shorter."

    # --- why a reduction cannot be cut into parts ---
    SCANS = "scans", "it is a scan", "Every prefix of a scan is a result, so its parts do not stand alone."
    UNSIZED = "unsized", "the length is not known", "The reduced axis has a symbolic extent, or data bound it."
    PARTS = "parts", "there are fewer than two parts of at least one element", "One part is the reduction itself."
    UNREDUCED = "unreduced", "it does not reduce the axis", "What is to be cut is a reduction over the axis."

    # --- why a new value is copied into its input ---
    RETURNED = "returned", "both are seen outside", "The graph returns the input or its new value."
    TWICE = "twice", "one of them stands in two writes", "The value goes into two inputs, or two values into the input."
    FOREIGN = "foreign", "no kernel computes it", "The new value is an input or a call's result, or goes to a view."
    LAYOUT = "layout", "they are laid out differently", "Shape or type differ, or elements of the input overlap."
    LATER = "later", "{other} is read after {value} is known", "What needs the new value reads the old one too."
    MOVED = (
        "moved", "elements are read after others take their place",
        "A read of the old value is not at the element that the same point writes, or comes after the write.",
    )  # fmt: skip
    UNCHANGED = "unchanged", "nothing of {other} changes", "The new value is the old one at every element."
    WAITING = "waiting", "two kernels would wait for each other", "Each would have to run before the other writes."

    def __init__(self, short: str, sentence: str, condition: str) -> None:
        self.short = short
        self.sentence = sentence
        self.condition = condition


class Refusal(NamedTuple):
    """A reason, and what stands against the value."""

    reason: Reason
    other: str = ""


class Tried(NamedTuple):
    """A law that was asked about a value: legal where there is no reason.

    other  what it was to be one with: the first root of a kernel (merge), an earlier reduction (stream), an input
           (reinplace)
    """

    law: str
    value: str
    other: str
    reason: Reason | None


class CannotPull(LoweringError):
    """A value that some reader cannot compute for itself."""

    def __init__(self, reason: Reason, name: str) -> None:
        super().__init__(reason.sentence.format(value=name, other=""), where=name, hint="store it")
        self.reason = reason
