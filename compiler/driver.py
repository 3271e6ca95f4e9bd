"""The driver: from an fx graph to an executable, out of the store or through the pipeline.

    torch.compile(model, backend="treadle")                                          see `backend`
    treadle.compile(graph_module_or_exported_program, example_inputs, **options)     see `doors`
    treadle.explain(model, example_inputs, **options)                                see `doors`

All doors come to `compile_fx_graph`. What this module imports at its head is what a process pays for that finds its
graphs in the store; the pipeline (passes, code generation) is imported for the first graph that is not there.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch._dynamo.utils import counters

from ..codegen.cpp.isa import ISAS, TILES_PERMITTED, Isa, detect_isa
from ..ir.errors import CompileError, LoweringError, TreadleError
from .collection import pause_collection
from .graph_key import digest_sources, make_graph_key
from .runtime.amx import allow_tiles
from .runtime.cpu import identify_machine
from .runtime.executable import Executable, bind_stored
from .runtime.plan import Plan, plan_from_json, plan_to_json
from .runtime.store import Store
from .settings import settings
from .watch import Watch

if TYPE_CHECKING:
    from .pipeline import Compiled

log = logging.getLogger(__name__)

PLAN = "plan"  # kind of the store's entries
KINDS = ("cpu", "cuda")  # of devices
Boxed = Callable[[list[Any]], Any]

_numbers = itertools.count()
_collected: ContextVar[list[Compiled] | None] = ContextVar("treadle_collected", default=None)


def compile_fx_graph(gm: fx.GraphModule, kind: str = "graph") -> Executable:
    """Compile an aten graph whose nodes carry fake tensors in `meta["val"]`.

    kind  what the graph is called in messages: "inference", "forward", "backward" or "graph"

    Raises LoweringError for a graph that cannot be taken, CompileError where there is no compiler.
    """
    watch = Watch(f"{kind}{next(_numbers)}")
    store, isa, collected, device = open_store(), choose_isa(), _collected.get(), find_device_of(gm)
    with watch.phase("key"):
        sources = digest_sources(store)
        key = make_graph_key(gm, sources, settings.cache_key(), isa.name, isa.features, isa.vendor,
                             describe_device(device), *describe_measuring())  # fmt: skip
    executable = None
    if key is not None and collected is None and not settings.verify:
        executable = find_stored(gm, key, store, watch)
    if executable is None:
        with pause_collection():
            pipeline = import_module(".pipeline", __package__)  # much to import, for graphs that are new
            compiled = pipeline.compile_graph(gm, watch, store, isa, sources, device)
        executable = compiled.executable
        if key is not None and compiled.storable:
            store.put_json(PLAN, key, plan_to_json(executable.plan))
        if collected is not None:
            collected.append(compiled)
    count(executable.plan.counts)
    if settings.cuda_graphs and executable.plan.uncapturable:
        counters["treadle"]["uncaptured"] += 1
        watch.say(2, f"not captured as a CUDA graph: {executable.plan.uncapturable}")
    summary = ", ".join(f"{n} {name}" for name, n in executable.plan.counts.items())
    watch.say(1, f"{summary}; {watch.own_seconds:.3f} s, compiler {watch.compiler_seconds:.3f} s of CPU time")
    return executable


def find_stored(gm: fx.GraphModule, key: str, store: Store, watch: Watch) -> Executable | None:
    """The executable of a graph that was compiled before, here or in another process."""
    with watch.phase("find"):
        plan = plan_from_json(store.get_json(PLAN, key))
        executable = None if plan is None else bind_any(plan, gm, store)
    if executable is not None:
        counters["treadle"]["store_hit"] += 1
    return executable


def bind_any(plan: Plan, module: fx.GraphModule, store: Store) -> Executable | None:
    """A stored plan on the device that it was made for."""
    if plan.device == "cpu":
        return bind_stored(plan, module, store)
    gpu = import_module(".runtime.gpu.executable", __package__)
    return gpu.bind_stored_gpu(plan, module, store, replays=settings.cuda_graphs)


def compile_boxed(gm: fx.GraphModule, kind: str = "graph") -> Boxed:
    """What runs a graph: treadle's plan, or the graph itself through ATen, with one line that says why."""
    try:
        return compile_fx_graph(gm, kind).call
    except TreadleError as error:
        problem: Exception = error
    except Exception as error:  # noqa: BLE001 - a fault of treadle's own is no reason for the user's program to stop
        problem = error
    if settings.fallback == "error":
        raise problem
    counters["treadle"]["fallback"] += 1
    warn_of_fallback(kind, problem)
    return run_eagerly(gm)


def run_eagerly(gm: fx.GraphModule) -> Boxed:
    """The graph, node by node through ATen."""

    def call(args: list[Any]) -> Any:
        inputs = list(args)
        args.clear()
        return torch.fx.Interpreter(gm).boxed_run(inputs) if inputs else gm()

    call._boxed_call = True  # type: ignore[attr-defined]
    return call


def warn_of_fallback(kind: str, problem: Exception) -> None:
    if isinstance(problem, CompileError) and not problem.command:
        _warn_once(f"{problem}; until then graphs run eagerly")
    else:
        text = str(problem).split("\n", 1)[0]
        name = "" if isinstance(problem, TreadleError) else f"{type(problem).__name__}: "
        log.warning("treadle: this %s graph runs through ATen: %s%s", kind, name, text, exc_info=settings.debug >= 2)


@cache
def _warn_once(line: str) -> None:
    log.warning("treadle: %s", line)


def find_device_of(gm: fx.GraphModule) -> str:
    """Where a graph's kernels run: the first GPU that one of its tensors is on, else "cpu".

    Raises LoweringError for tensors on a device of another kind.
    """
    devices = dict.fromkeys(str(v.device) for n in gm.graph.nodes for v in [n.meta.get("val")] if _is_tensor(v))
    for device in devices:
        if device.partition(":")[0] not in KINDS:
            raise LoweringError(f"its tensors are on {device!r}, and treadle compiles for {' and '.join(KINDS)}")
    return next((d for d in devices if d != "cpu"), "cpu")


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def describe_device(device: str) -> str:
    """What decides on the code for a device, beyond its name."""
    if device == "cpu":
        return device
    gpu = import_module(".runtime.gpu.device", __package__)
    return f"{device} {gpu.find_device(torch.device(device).index or 0).target().name}"


def describe_measuring() -> tuple[object, ...]:
    """What decides on code by measuring, where that is asked for: the machine, and the threads of a kernel."""
    return ("measured", identify_machine(), settings.threads or torch.get_num_threads()) if settings.autotune else ()


@contextmanager
def collect() -> Iterator[list[Compiled]]:
    """Within the block, graphs are compiled anew (though not their kernels) and what was found out is kept."""
    found: list[Compiled] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


def count(counts: dict[str, int]) -> None:
    for name, number in counts.items():
        counters["treadle"][name] += number


def open_store() -> Store:
    return _open_store(str(settings.cache_dir), settings.cache_size)


@cache
def _open_store(root: str, limit: int) -> Store:
    """One store a directory: it remembers which of its files it has checked."""
    return Store(root, limit)


def choose_isa() -> Isa:
    """The instruction set to print C++ for; with tile registers where they may be used, and the system permits it."""
    isa = detect_isa() if settings.target == "auto" else ISAS[settings.target]
    wanted = settings.amx == "always" or (settings.amx == "tuned" and settings.autotune)
    if not (wanted and any(isa.tiles) and allow_tiles()):
        return isa
    return replace(isa, features=(*isa.features, TILES_PERMITTED))
