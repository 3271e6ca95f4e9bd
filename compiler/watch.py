"""The one place where a compilation is timed, dumped and printed.

    watch = Watch("inference0")
    with watch.phase("fuse"):
        fused = ...
    watch.show(5, "graph", lambda: print_graph(graph))

`settings.debug` says what is printed, `settings.dump` names a directory for numbered files, one folder a graph.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .settings import settings


class Watch:
    """What one graph's compilation took, in CPU seconds by phase, and a place to put its intermediate forms."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seconds: dict[str, float] = {}
        self.compiler_seconds = 0.0
        self._debug = settings.debug
        self._folder = None if settings.dump is None else settings.dump / name
        self._files = 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count this thread's CPU time to a phase."""
        begin = time.thread_time()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.thread_time() - begin

    @property
    def own_seconds(self) -> float:
        return sum(self.seconds.values())

    def show(self, level: int, title: str, text: Callable[[], str], suffix: str = "txt") -> None:
        """Print a form of the graph from debug level `level` on, and write it to the dump directory at any level."""
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._files += 1
            path = self._folder / f"{self._files:02d}-{title}.{suffix}"
            path.write_text(text().rstrip() + "\n", encoding="utf-8")
        if self._debug >= level:
            self.say(level, f"--- {title}\n{text().rstrip()}")

    def say(self, level: int, line: str) -> None:
        if self._debug >= level:
            print(f"treadle {self.name}: {line}", file=sys.stderr)
