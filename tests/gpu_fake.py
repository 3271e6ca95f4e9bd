"""A GPU that is none: torch's tensors in host memory, and a CUDA driver that runs Triton's interpreter.

    gpu = install(monkeypatch, build_driver(tmp_path))
    call = gpu.compile(function, example_tensors)          traced with fake tensors on "cuda:0"
    call(*tensors)                                         the plan, its launchers and the printed kernels really run

The binaries that the fake driver loads are the requests that they were made from, so each launch finds its source.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton_run import load_module

from treadle.codegen.triton.targets import TARGETS, GpuTarget
from treadle.compiler import autotune_gpu, gpu_kernels, gpu_pipeline
from treadle.compiler import driver as pipeline_driver
from treadle.compiler.runtime.gpu import cross, device, driver, executable
from treadle.compiler.settings import settings
from treadle.compiler.stand_ins import host_bytes
from treadle.compiler.timing import time_once

SOURCE = """\
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>
// A CUDA driver: a module is its text, a function the number of a module and a name, a launch calls back.
typedef int (*callback)(long function, unsigned grid, unsigned block, unsigned shared, long stream, void **arguments);
static callback hook;
static std::vector<std::string> texts;
static std::vector<std::string> names;
extern "C" {
void fake_hook(callback f) { hook = f; }
const char *fake_module(long function) { return texts[function - 1].c_str(); }
const char *fake_name(long function) { return names[function - 1].c_str(); }
int cuModuleLoadData(void **module, const char *code) {
  if (!strncmp(code, "refused", 7)) return 222;
  texts.push_back(code); names.push_back(""); *module = (void *)texts.size(); return 0;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
  names[(long)module - 1] = name; *function = module; return 0;
}
int cuFuncSetAttribute(void *, int, int bytes) { return bytes > (227 << 10) ? 1 : 0; }
int cuDriverGetVersion(int *version) { *version = 12040; return 0; }
int cuGetErrorString(int code, const char **text) { *text = code == 222 ? "unsupported PTX" : "failed"; return 0; }
int cuLaunchKernel(long f, unsigned gx, unsigned, unsigned, unsigned bx, unsigned, unsigned, unsigned shared,
                   long stream, void **arguments, void **) {
  return hook(f, gx, bx, shared, stream, arguments);
}
}
"""
HOOK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_long, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint, ctypes.c_long,
    ctypes.POINTER(ctypes.c_void_p),
)  # fmt: skip
ELEMENTS = {"i1": "bool", "u8": "uint8", "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64",
            "fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "fp64": "float64"}  # fmt: skip
CAPTURE_STREAM = 99
EXTRA = 2  # arguments that Triton adds behind a function's own


class FakeGraph(TorchDispatchMode):
    """Launches and calls of torch in the order in which they came, and all tensors that they saw, kept alive.

    Nothing that writes runs at once. A call that returns fresh tensors does, on whatever memory holds then: a replay
    computes it again into the same place.
    """

    current: FakeGraph | None = None

    def __init__(self) -> None:
        super().__init__()
        self.work: list[Callable[[], Any]] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.cudagraph_unsafe in func.tags or func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        if func._schema.is_mutable and torch.Tag.inplace_view not in func.tags and "set_" not in func._schema.name:
            self.work.append(lambda: func(*args, **kwargs))
            return kwargs.get("out", args[0])
        made = func(*args, **kwargs)
        if func._schema.is_mutable or "empty" in func._schema.name:  # memory, and no work
            return made
        if not any(r.alias_info for r in func._schema.returns):
            tensors = [t for t in tree_leaves(made) if isinstance(t, torch.Tensor)]
            self.work.append(lambda: _copy_all(tensors, tree_leaves(func(*args, **kwargs))))
        return made

    def replay(self) -> None:
        self.replays += 1
        for step in self.work:
            step()


def _copy_all(into: Sequence[torch.Tensor], values: Sequence[Any]) -> None:
    for target, value in zip(into, (v for v in values if isinstance(v, torch.Tensor)), strict=True):
        target.copy_(value)


class FakeDevice(device.Device):
    """Streams are numbers, memory is the host's."""

    stream_now = 7
    current_now = 0

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cpu")

    def target(self) -> GpuTarget:
        return TARGETS["sm_90"]

    def stream(self) -> int:
        return FakeDevice.stream_now

    def is_current(self) -> bool:
        return FakeDevice.current_now == self.index

    def guard(self) -> Any:
        return nullcontext()

    def empty_strided(self, shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        made = torch.empty_strided(shape, strides, dtype=dtype)
        return made.fill_(float("nan") if dtype.is_floating_point else 85 if dtype is not torch.bool else True)

    def empty_bytes(self, count: int) -> torch.Tensor:
        return torch.full((count,), 255, dtype=torch.uint8)

    def mapped_cells(self, count: int) -> torch.Tensor:
        return torch.zeros(count, dtype=torch.int32)

    def time(self, call: Callable[[], object], repeats: int) -> float:
        return time_once(call, 1)

    def name(self) -> str:
        return "a GPU that is none"

    def bytes_at(self, address: int, count: int) -> torch.Tensor:
        return host_bytes(address, count)

    def factories(self) -> Any:
        return nullcontext()

    def is_capturing(self) -> bool:
        return FakeGraph.current is not None

    def capture(self, run: Callable[[], Any]) -> tuple[FakeGraph, Any]:
        graph = FakeGraph()
        before = FakeDevice.stream_now
        FakeGraph.current, FakeDevice.stream_now = graph, CAPTURE_STREAM
        try:
            with graph:
                return graph, run()
        finally:
            FakeGraph.current, FakeDevice.stream_now = None, before


class FakeGpu:
    """See the module. `launches` are (function, programs, threads, shared, stream, aligned) of every launch so far."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.launches: list[tuple[Any, ...]] = []
        self.errors: list[BaseException] = []
        self.fail_with = 0
        self.device = "cuda:0"
        library.fake_module.restype = library.fake_name.restype = ctypes.c_char_p
        self.hook = HOOK(self._launch)  # kept alive: C calls it
        library.fake_hook(self.hook)

    def compile(
        self, function: Callable[..., Any], inputs: Sequence[torch.Tensor], *, dynamic: bool = False, **options: Any
    ) -> Any:
        """The executable of a function that is traced as if its tensors were on a GPU."""
        module = self.trace(function, inputs, dynamic)
        with settings.override(**{"fallback": "error", **options}):
            return pipeline_driver.compile_fx_graph(module)

    def trace(self, function: Callable[..., Any], inputs: Sequence[torch.Tensor], dynamic: bool = False) -> Any:
        """The functional graph; with `dynamic` the first dimension of every tensor is the same unknown size."""
        mode = FakeTensorMode(shape_env=ShapeEnv() if dynamic else None)
        context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC]) if dynamic else None
        with mode:
            fakes = [mode.from_tensor(x, symbolic_context=context).to(self.device) for x in inputs]
            return make_fx(torch.func.functionalize(function, remove="mutations"))(*fakes)

    def _run_later(self, run: Callable[[], Any]) -> None:
        """A launch of a replay: what goes wrong in it is told as that of any launch is."""
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - the device tells nobody
            self.errors.append(error)

    def _launch(self, function: int, grid: int, block: int, shared: int, stream: int, arguments: Any) -> int:
        if self.fail_with:
            return self.fail_with
        try:
            request = json.loads(self.library.fake_module(function))
            name = self.library.fake_name(function).decode()
            self.launches.append((name, grid, block, shared, stream, request["aligned"]))
            module = load_module(request["module"], name)
            given = [_read(arguments[k], kind) for k, (_, kind) in enumerate(request["arguments"])]
            assert all(ctypes.cast(arguments[len(given) + k], ctypes.POINTER(ctypes.c_void_p))[0] is None
                       for k in range(EXTRA))  # fmt: skip
            run = partial(module[name][(grid,)], *given, num_warps=block // 32)
            if FakeGraph.current is None:
                run()
            else:
                FakeGraph.current.work.append(partial(self._run_later, run))
        except BaseException as error:  # noqa: BLE001 - it must not cross C
            self.errors.append(error)
            return 1
        return 0


def _read(argument: int, kind: str) -> Any:
    word = ctypes.cast(argument, ctypes.POINTER(ctypes.c_long))[0]
    if not kind.startswith("*"):
        return word
    dtype = getattr(torch, ELEMENTS[kind[1:]])
    whole = (ctypes.c_char * (1 << 40)).from_address(word)
    return torch.frombuffer(whole, dtype=dtype, count=1)


def fake_compile(requests: Sequence[cross.Request], jobs: int | None = None) -> list[cross.Binary | cross.Failed]:
    """Binaries that say what they were made of."""
    found: list[cross.Binary | cross.Failed] = []
    for r in requests:
        told = {"module": r.module, "function": r.launch.function, "arguments": r.launch.arguments}
        code = json.dumps(told | {"aligned": r.aligned}).encode()
        found.append(cross.Binary(r.launch.function, code, 32, 0, 0, len(r.launch.arguments) + EXTRA))
    return found


def build_driver(folder: Path) -> Path:
    """The driver's library."""
    (folder / "driver.cpp").write_text(SOURCE)
    command = ["g++", "-shared", "-fPIC", "-O1", "driver.cpp", "-o", "libfakecuda.so"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "libfakecuda.so"


def install(monkeypatch: pytest.MonkeyPatch, library: Path) -> FakeGpu:
    """Puts the fake GPU in place of CUDA for a test."""
    monkeypatch.setattr(driver, "LIBRARY", str(library))
    driver.open_driver.cache_clear()
    for module in (autotune_gpu, device, executable, gpu_pipeline):
        monkeypatch.setattr(module, "find_device", FakeDevice)
    monkeypatch.setattr(gpu_kernels, "compile_launches", fake_compile)
    monkeypatch.setattr(executable, "_functions", {})
    monkeypatch.setattr(FakeDevice, "stream_now", 7)
    return FakeGpu(ctypes.CDLL(str(library)))
