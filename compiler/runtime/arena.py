"""Arenas: the memory of values between kernels, shared by all compiled graphs of a process.

A call takes an arena out of `ARENAS` and puts it back when it is done; where none is left (the first call, a second
thread, a callee that calls a compiled graph itself) it makes one. No value of an arena outlives its call, so graphs
that run one after the other, forward and backward say, use the same bytes: the process keeps the most any needs.

A *fit* is what one graph has prepared on one arena for given sizes: the table of its pointers and the tensors that its
calls of ATen read and write, `(address of the table, table, tensors...)`. An arena knows the fits on it: they go when
it grows.
"""

from __future__ import annotations

import torch

from .large import make_storage

ALIGNMENT = 64  # bytes
MOST_IDLE = 4  # arenas that wait for a call (written out in plans)
MOST_TENSORS = 20_000  # on one arena: what many graphs and many sizes have prepared is dropped beyond this

Fit = tuple
Key = int | tuple[int, ...]  # an executable's number, with the sizes where they are dynamic


class Arena(dict[Key, Fit]):
    """Memory that one call at a time works in, and the fits on it."""

    def __init__(self) -> None:
        self.memory = torch.empty(0, dtype=torch.uint8)
        self.tensors = 0

    def reserve(self, size: int) -> None:
        """Have at least `size` bytes. Call it outside of inference mode: what is made here outlives the caller's."""
        if self.memory.numel() >= size:
            return
        self.forget()
        self.memory = torch.empty(0, dtype=torch.uint8)  # the old one goes before the new one comes
        self.memory = torch.empty(0, dtype=torch.uint8).set_(make_storage(size + ALIGNMENT))

    @property
    def base(self) -> int:
        """The address of the first aligned byte."""
        return -(-self.memory.data_ptr() // ALIGNMENT) * ALIGNMENT

    def keep(self, key: Key, fit: Fit) -> Fit:
        if self.tensors > MOST_TENSORS:
            self.forget()
        self.tensors += len(fit)
        self[key] = fit
        return fit

    def forget(self) -> None:
        self.clear()
        self.tensors = 0


ARENAS: list[Arena] = []


class Users:
    """Counts the executables that live: when the last one goes, so does the memory that they shared."""

    def __init__(self) -> None:
        self.count = 0

    def enter(self) -> None:
        self.count += 1

    def leave(self) -> None:
        self.count -= 1
        if self.count == 0:
            ARENAS.clear()


USERS = Users()
