"""The cost of a first call, measured inside a fresh process: CPU seconds, processes started, what was counted."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from harness import Call, bind, compile_for, measure_cost
from record import OURS
from targets import load_target
from torch._dynamo.utils import counters

COMPILERS = ("g++", "gcc", "c++", "cc1plus", "clang", "clang++", "ptxas")
PROCESS_EVENTS = ("subprocess.Popen", "os.posix_spawn", "os.system", "os.exec")
NODE_COUNTER = "count_nodes"


def measure(target: str, backend: str, dtype: str = "bf16", arguments: dict[str, Any] | None = None) -> dict[str, Any]:
    """Build, call twice through `backend`, and say what the first call cost, the backend's own import included.

    own, children   CPU seconds of this process, and of the processes it started and waited for, in the first call
    second          CPU seconds of the second call, which compiles nothing
    started         the programs that the first call started; `compilers` how many of them compile
    inside          CPU seconds of this process inside treadle's own compiler: without the part of Dynamo and
                    AOTAutograd, whose noise is larger than it
    nodes           call nodes of the graphs behind AOTAutograd, only through the backend "count_nodes"
    """
    model, inputs = load_target(target, dtype, **(arguments or {}))
    nodes: list[int] = []
    backend_or_counter: Any = count_nodes_into(nodes) if backend == NODE_COUNTER else backend
    started = watch_processes()
    inside = watch_compiler() if backend == OURS else []
    counters.clear()

    def compile_and_call() -> Call:
        call = bind(compile_for(backend_or_counter, model), inputs)
        call()
        return call

    call, first = measure_cost(compile_and_call)
    programs = sorted(started)
    _, second = measure_cost(call)
    return {
        "own": first.own,
        "children": first.children,
        "wall": first.wall,
        "inside": sum(inside),
        "second": second.own,
        "started": programs,
        "compilers": sum(program in COMPILERS for program in programs),
        "graphs": counters["stats"]["unique_graphs"],
        "nodes": sum(nodes),
        "counters": {key: dict(counters[key]) for key in (backend,) if key in counters},
    }


def count_nodes_into(nodes: list[int]) -> Callable[..., Any]:
    """`aot_eager` that also counts the call nodes of every graph it is handed."""
    from torch._dynamo.backends.common import aot_autograd

    def count(graph_module: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        nodes.append(sum(node.op == "call_function" for node in graph_module.graph.nodes))
        return graph_module

    return aot_autograd(fw_compiler=count)


def watch_compiler() -> list[float]:
    """CPU seconds of each graph that treadle compiles from now on; the list grows as it does."""
    from treadle.compiler import driver

    spent: list[float] = []
    compile_graph = driver.compile_fx_graph

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return compile_graph(*args, **kwargs)
        finally:
            spent.append(time.process_time() - start)

    driver.compile_fx_graph = timed
    return spent


def watch_processes() -> list[str]:
    """The names of programs started from now on; the list grows as they start."""
    started: list[str] = []

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event in PROCESS_EVENTS:
            started.append(program_name(event, arguments))

    sys.addaudithook(note)
    return started


def program_name(event: str, arguments: tuple[Any, ...]) -> str:
    """The program's base name; of a shell command its first word."""
    words = arguments[1] if event == "subprocess.Popen" else arguments[0]
    first = words[0] if isinstance(words, list | tuple) else os.fsdecode(words).split()[0]
    return os.path.basename(os.fsdecode(first))
