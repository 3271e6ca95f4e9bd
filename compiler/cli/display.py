"""How the commands print: results on standard output, progress and warnings on standard error."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 120  # where there is no terminal to ask
REFRESHES = 5  # a second

# How the counters of a graph (`counters["treadle"]`) are told, in this order; others go by their own names.
COUNTED = {
    "graphs": ("graph", "graphs"),
    "store_hit": ("of them from the store", "of them from the store"),
    "kernels": ("kernel", "kernels"),
    "launches": ("launch", "launches"),
    "native": ("op compiled", "ops compiled"),
    "library": ("library call", "library calls"),
    "opaque": ("op left to ATen", "ops left to ATen"),
    "effect": ("ordered call", "ordered calls"),
    "fallback": ("region that fell back to ATen", "regions that fell back to ATen"),
}


def make_console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or COLUMNS says; made anew by each command, so tests can swap the streams."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def make_table(*columns: str, right: Iterable[str] = ()) -> Table:
    """A table with plain headings; the columns named in `right` are aligned to the right and never broken."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim", padding=(0, 1))
    numbers = set(right)
    for column in columns:
        number = column in numbers
        table.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


def make_grid(rows: Iterable[tuple[str, str | Text]], *, names: int = 12) -> Padding:
    """Facts as two indented columns: a dim name, `names` wide at least, and a text that may go on below itself."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True, min_width=names)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, value if isinstance(value, Text) else Text(value))
    return indent(grid)


def indent(table: Table) -> Padding:
    return Padding(table, (0, 0, 0, 2), expand=False)


def make_heading(text: str, *, first: bool = False) -> Text:
    """A bold line, set apart from what stands above."""
    return Text(text if first else f"\n{text}", "bold")


class Steps:
    """Says on stderr what is being done: a spinner on a terminal, one line for each step elsewhere.

        with Steps() as steps:
            steps.begin("compiling through inductor")
            steps.begin("timing", total=60)
            steps.advance(12, 60)

    While a step with a total runs, nothing is drawn but by `advance`: a spinner would take time from what is measured.
    """

    def __init__(self) -> None:
        self.console = make_console(stderr=True)
        self.bar: Progress | None = None
        self.started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def begin(self, text: str, total: int | None = None) -> None:
        """Show the next step, in place of the last."""
        self._stop()
        if not self.console.is_terminal:
            self.console.print(Text(f"{time.monotonic() - self.started:6.1f} s  {text}"))
            return
        counting = (BarColumn(bar_width=30), MofNCompleteColumn()) if total else (TimeElapsedColumn(),)
        self.bar = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), *counting,
            console=self.console, transient=True, auto_refresh=total is None, refresh_per_second=REFRESHES,
        )  # fmt: skip
        self.bar.add_task(text, total=total)
        self.bar.start()

    def advance(self, done: int, total: int, text: str = "") -> None:
        """Draw how much of the step is done."""
        if self.bar is None or not self.bar.tasks:
            return
        task = self.bar.tasks[0]
        self.bar.update(task.id, completed=done, total=total, description=text or task.description)
        self.bar.refresh()

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def format_bytes(count: float) -> str:
    """1536 -> "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"


def format_seconds(seconds: float) -> str:
    """0.00123 -> "1.23 ms"; three digits, as more would be noise."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size or unit == "us":
            break
    value = seconds / size
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"


def format_count(count: int, noun: str, plural: str = "") -> str:
    """(1, "kernel") -> "1 kernel", (12, "kernel") -> "12 kernels"."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def format_amount(count: float) -> str:
    """1840000 -> "1.84 M"."""
    for unit in ("", " k", " M", " G"):
        if count < 1000 or unit == " G":
            break
        count /= 1000
    return f"{count:.3g}{unit}"


def describe_counts(counts: Mapping[str, int]) -> str:
    """ "1 graph, 9 kernels, 33 library calls": what a backend counted, zeros left out."""
    words = [format_count(counts[key], *names) for key, names in COUNTED.items() if counts.get(key)]
    words += [f"{key} {value}" for key, value in sorted(counts.items()) if key not in COUNTED and value]
    return ", ".join(words)


def join_words(words: Sequence[str], most: int = 6) -> str:
    """Join with commas, at most so many of them."""
    rest = len(words) - most
    return ", ".join([*words[:most], *([f"and {rest} more"] if rest > 0 else [])])
