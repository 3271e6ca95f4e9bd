"""A plan captured once as a CUDA graph and replayed: one launch of the host's in place of all.

    call 1    runs the plan as it is, and notes where inputs lie
    call 2    captures it, and replays it; so do all further calls

A graph has the addresses of its capture in it. What that means, and what is done about it:

inputs    One that lay in the same place in both calls (a parameter, or what another graph gives) is used where it lies,
          and every call checks that it is still there. Another is copied to memory of the graph's own before each
          replay, and back behind it where the plan writes to it.
outputs   They lie in the graph's own memory, and a replay must not overwrite what a caller still holds. Each call asks
          how many tensors share an output's memory: an output that was still held at the next call is given out as a
          copy from then on. What the count cannot see: a bare address taken of an output, and work on another stream
          that still reads an output nobody holds any more.
memory    Values between the launches lie in an arena and in a memory pool of this graph alone.

Where an input has moved or an output is held, the graph is captured again, with that one copied: a few times at most.
Calls on another stream than the first, from a second thread at once, or while somebody else captures run the plan as it
is. A capture that fails ends all attempts, with one line that says why.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch._dynamo.utils import counters
from torch.multiprocessing.reductions import StorageWeakRef

from ..executable import reinterpret_tensor
from .device import Device

log = logging.getLogger(__name__)

MOST_CAPTURES = 8  # of one plan: beyond, its callers give other memory in every call
Call = Callable[[list[Any]], list[Any]]
Giver = Callable[[list[Any], dict[int, Any]], Any]
count_users: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)


@dataclass(slots=True)
class Home:
    """Memory of the graph's own that outputs lie in. `users` counts who shares it when no caller does."""

    whole: torch.Tensor
    storage: Any
    outputs: list[int]
    users: int = 0

    def count(self) -> int:
        assert count_users is not None
        return count_users(self.storage._cdata)

    def is_held(self) -> bool:
        return self.count() > self.users


@dataclass(slots=True)
class Recording:
    """A captured graph. `givers` make the results of a call from its arguments and the copies of homes.

    inputs   by number: the memory of the graph's own that this input is copied to
    fixed    by number: the address that this input must have
    keep     what the graph reads and writes besides
    """

    replay: Callable[[], None]
    inputs: dict[int, torch.Tensor]
    fixed: dict[int, int]
    homes: list[Home]
    givers: list[Giver]
    keep: tuple[Any, ...] = ()


class Recorder:
    """Calls a plan, and captures and replays it where it can. See the module.

    run     runs the plan once for its inputs, which the list loses
    record  the same with an arena of the caller's: `record(arenas, inputs)`
    check   raises what an earlier replay has met
    written the numbers of the inputs that the plan writes to
    """

    def __init__(
        self, device: Device, run: Call, record: Callable[[list[Any], list[Any]], list[Any]],
        check: Callable[[], None], written: Sequence[int],
    ) -> None:  # fmt: skip
        self.device = device
        self.run = run
        self.record = record
        self.check = check
        self.written = frozenset(written)
        self.problem = "" if count_users is not None else "this torch does not tell who holds a tensor"
        self.recording: Recording | None = None
        self.captures = 0
        self.replays = 0
        self.stream = 0
        self.first: list[int] | None = None
        self.first_outputs: list[StorageWeakRef | None] = []
        self.copied: set[int] = set()
        self.kept: set[int] = set()
        self._lock = threading.Lock()

    def __call__(self, args: list[Any]) -> list[Any]:
        if self.problem or self.device.is_capturing() or not self._lock.acquire(blocking=False):
            return self.run(args)
        try:
            return self._call(args)
        finally:
            self._lock.release()

    def _call(self, args: list[Any]) -> list[Any]:
        addresses = [x.data_ptr() for x in args]
        if self.first is None:
            return self._warm_up(args, addresses)
        if self.device.stream() != self.stream:
            return self.run(args)
        recording = self.recording
        if recording is None or not self._still_fits(recording, addresses):
            recording = self._capture_again(args, addresses)
            if recording is None:
                return self.run(args)
        self.check()
        self.replays += 1
        with torch.no_grad():
            results = self._replay(recording, args)
        args.clear()
        return results

    def _warm_up(self, args: list[Any], addresses: list[int]) -> list[Any]:
        self.first, self.stream = addresses, self.device.stream()
        results = self.run(args)
        self.first_outputs = [StorageWeakRef(r.untyped_storage()) if _is_tensor(r) else None for r in results]
        return results

    def _still_fits(self, recording: Recording, addresses: list[int]) -> bool:
        """Whether inputs used in place are there and nobody holds outputs; else what to copy from now on is noted."""
        moved = [k for k, address in recording.fixed.items() if addresses[k] != address]
        held = [k for home in recording.homes if not self.kept.issuperset(home.outputs) and home.is_held()
                for k in home.outputs]  # fmt: skip
        self.copied.update(moved)
        self.kept.update(held)
        return not moved and not held

    def _capture_again(self, args: list[Any], addresses: list[int]) -> Recording | None:
        if self.recording is None:  # the first time: what of the call before is alive will be so in later calls
            assert self.first is not None
            self.copied.update(k for k, address in enumerate(addresses) if address != self.first[k])
            alive = [k for k, ref in enumerate(self.first_outputs) if ref is not None and not ref.expired()]
            self.kept.update(alive)
            self.first_outputs = []
        self.recording = None
        self.captures += 1
        if self.captures > MOST_CAPTURES:
            self._give_up("its callers give other memory in every call")
            return None
        try:
            with torch.inference_mode(False), torch.no_grad():
                self.recording = self._capture(args, addresses)
        except Exception as error:  # noqa: BLE001 - whatever stops a capture, the plan itself runs
            self._give_up(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            return None
        counters["treadle"]["graph_captures"] += 1
        return self.recording

    def _give_up(self, problem: str) -> None:
        self.problem = problem
        counters["treadle"]["uncaptured"] += 1
        log.warning("treadle: a graph is no longer captured as a CUDA graph: %s", problem)

    # --- capture -------------------------------------------------------------------------------------------------

    def _capture(self, args: list[Any], addresses: list[int]) -> Recording:
        own = {k: self.device.empty_strided((_span(args[k]),), (1,), args[k].dtype) for k in sorted(self.copied)}
        given = [reinterpret_tensor(own[k], x.shape, x.stride(), 0) if k in own else x for k, x in enumerate(args)]
        arenas: list[Any] = []
        graph, outputs = self.device.capture(partial(self.record, arenas, list(given)))
        fixed = {k: address for k, address in enumerate(addresses) if k not in own}
        homes: dict[int, Home] = {}
        givers = [self._giver(k, out, given, homes) for k, out in enumerate(outputs)]
        del outputs, given
        for home in homes.values():
            home.users = home.count()
        return Recording(graph.replay, own, fixed, list(homes.values()), givers, (graph, arenas))

    def _giver(self, number: int, out: Any, given: list[Any], homes: dict[int, Home]) -> Giver:
        """How a call gets this result: of its own inputs, of the graph's memory, or always the same."""
        if not _is_tensor(out):
            return lambda args, copies: out
        storage = out.untyped_storage()
        shape, strides, offset = tuple(out.shape), out.stride(), out.storage_offset()
        for k, x in enumerate(given):
            if x.untyped_storage()._cdata != storage._cdata:
                continue
            if out is x:
                return lambda args, copies, k=k: args[k]
            offset -= x.storage_offset()
            return lambda args, copies, k=k, n=offset: reinterpret_tensor(args[k], shape, strides, n)
        home = homes.get(storage._cdata)
        if home is None:
            whole = torch.empty(0, dtype=torch.uint8, device=out.device).set_(storage)
            home = homes[storage._cdata] = Home(whole, storage, [])
        home.outputs.append(number)
        key, flat = storage._cdata, home.whole.new_empty(0, dtype=out.dtype).set_(storage)

        def give(args: list[Any], copies: dict[int, Any]) -> Any:
            memory = copies.get(key)
            source = flat if memory is None else flat.new_empty(0).set_(memory)
            return reinterpret_tensor(source, shape, strides, offset)

        return give

    # --- replay --------------------------------------------------------------------------------------------------

    def _replay(self, recording: Recording, args: list[Any]) -> list[Any]:
        for k, own in recording.inputs.items():
            own.copy_(reinterpret_tensor(args[k], own.shape, (1,), 0))
        recording.replay()
        for k in self.written.intersection(recording.inputs):
            x, own = args[k], recording.inputs[k]
            x.copy_(reinterpret_tensor(own, x.shape, x.stride(), 0))
        copies = {
            home.storage._cdata: home.whole.clone().untyped_storage()
            for home in recording.homes if self.kept.intersection(home.outputs)
        }  # fmt: skip
        return [give(args, copies) for give in recording.givers]


def _is_tensor(x: Any) -> bool:
    return isinstance(x, torch.Tensor)


def _span(x: torch.Tensor) -> int:
    """The elements from the first to the last."""
    if not x.numel():
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
