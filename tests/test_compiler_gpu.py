"""Graphs on a GPU, from the trace to the launches: on a driver that runs Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_fake import FakeGpu, build_driver, install
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from treadle.codegen.triton.targets import TARGETS, target_of
from treadle.compiler import driver, gpu_kernels
from treadle.compiler.runtime.gpu import driver as cuda_driver
from treadle.compiler.runtime.gpu.cross import Binary, Failed
from treadle.compiler.runtime.gpu.device import find_arenas
from treadle.costmodel.roofline import GPUS, find_device
from treadle.ir.errors import CompileError, DeviceError, LoweringError

F = torch.nn.functional


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, library: Path) -> FakeGpu:
    return install(monkeypatch, library)


def check(gpu: FakeGpu, function: Callable[..., Any], inputs: Sequence[torch.Tensor], **options: Any) -> Any:
    """The executable, after its results were compared with those of the function itself in float64."""
    executable = gpu.compile(function, inputs, **options)
    found = executable(*[x.clone() for x in inputs])
    if gpu.errors:
        raise gpu.errors[0]
    wide = [x.double() if x.is_floating_point() else x for x in inputs]
    wanted = function(*wide)
    for got, want in zip(found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        room = torch.finfo(got.dtype).eps * 8 if got.is_floating_point() else 0
        torch.testing.assert_close(got.double(), want.double(), rtol=room, atol=room)
    return executable


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_one_kernel(gpu: FakeGpu):
    x, g = random(5, 70, dtype=torch.bfloat16), random(70, seed=1)
    check(gpu, lambda x, g: torch.softmax(x * g, -1), (x, g))
    assert len(gpu.launches) == 1 and gpu.launches[0][4] == 7, "one launch, on the current stream"


def test_several_kernels_and_a_library_call(gpu: FakeGpu):
    x, w, b = random(6, 20), random(20, 9, seed=1), random(9, seed=2)
    executable = check(gpu, lambda x, w, b: F.layer_norm(F.gelu(torch.softmax(x, -1) @ w + b), (9,)), (x, w, b))
    assert executable.plan.device == "cuda:0" and len(gpu.launches) >= 2


def test_a_reduction_and_what_reads_it_are_two_launches_of_one_kernel(gpu: FakeGpu):
    check(gpu, lambda x: x / x.sum(), (random(30, 50).abs(),))
    assert [name.rsplit("_", 1)[1] for name, *_ in gpu.launches] == ["0", "1"]


def test_a_sum_of_all_does_not_join_the_rows_that_it_waits_for(gpu: FakeGpu):
    """Row statistics, what reads them and a sum over everything have equal axes, and are no single pass."""

    def function(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.softmax(x @ w, -1)
        return torch.sort(y)[0], y.sum()

    check(gpu, function, (random(4, 8), random(8, 8, seed=1)))


def test_an_input_is_written_in_place(gpu: FakeGpu):
    def step(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        x.add_(g, alpha=-0.5)
        return x.square().sum(-1)

    x, g = random(4, 33), random(4, 33, seed=1)
    executable = gpu.compile(step, (x, g))
    mine, theirs = x.clone(), x.clone()
    (found,) = executable(mine, g)
    want = step(theirs, g)
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)


def test_sizes_are_dynamic(gpu: FakeGpu):
    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, -1) * x.shape[0]

    executable = gpu.compile(function, (random(50),), dynamic=True)
    assert executable.plan.symbols
    for count in (50, 1030, 2):
        x = random(count, seed=count)
        torch.testing.assert_close(executable(x)[0], function(x))


def test_pointers_that_are_not_aligned_have_another_binary(gpu: FakeGpu):
    executable = gpu.compile(lambda x: x * 2 + 1, (random(40),))
    whole = random(41)
    for start, aligned in ((0, True), (1, False)):
        x = whole[start : start + 40]
        assert (x.data_ptr() % 16 == 0) is aligned
        torch.testing.assert_close(executable(x)[0], x * 2 + 1)
        assert gpu.launches[-1][5] is aligned


def test_a_bad_index_raises_at_the_next_call(gpu: FakeGpu):
    w, good, bad = random(7, 5), torch.tensor([0, 6, 2]), torch.tensor([0, 7, 2])
    executable = gpu.compile(lambda w, i: torch.index_select(w, 0, i), (w, good))
    torch.testing.assert_close(executable(w, good)[0], w[good])
    executable(w, bad)
    with pytest.raises(IndexError, match="index"):
        executable(w, good)
    torch.testing.assert_close(executable(w, good)[0], w[good])


def test_an_error_of_the_driver_is_told_in_its_words(gpu: FakeGpu):
    executable = gpu.compile(lambda x: x + 1, (random(8),))
    gpu.fail_with = 700
    with pytest.raises(DeviceError, match="CUDA error 700: failed"):
        executable(random(8))


def test_a_binary_that_the_driver_refuses(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch):
    real = gpu_kernels.compile_launches

    def refused(requests: Sequence[Any]) -> list[Any]:
        return [replace(b, code=b"refused" + b.code) for b in real(requests) if isinstance(b, Binary)]

    monkeypatch.setattr(gpu_kernels, "compile_launches", refused)
    with pytest.raises(DeviceError, match=r"unsupported PTX.*driver may be older"):
        gpu.compile(lambda x: x - 3, (random(8),))


def refuse(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, which: Callable[[Any], bool]) -> None:
    """Lets Triton fail on some functions."""
    real = gpu_kernels.compile_launches

    def compile_some(requests: Sequence[Any]) -> list[Any]:
        made = zip(requests, real(requests), strict=True)
        return [Failed("CompilationError", "at 3:7:\nno such dot") if which(r) else b for r, b in made]

    monkeypatch.setattr(gpu_kernels, "compile_launches", compile_some)


def mixed(x: torch.Tensor, w: torch.Tensor, i: torch.Tensor) -> tuple[torch.Tensor, ...]:
    y = torch.softmax(x, -1) + x.tril(1)
    z = torch.tanh(y @ w)
    return torch.index_select(z, 0, i) * 2, torch.where(z > 0, z, 1.0).sum(0)


@pytest.mark.parametrize("refused", ["exp", "where", ""])
@pytest.mark.parametrize("options", [{}, {"cuda_graphs": True}], ids=str)
def test_a_kernel_that_triton_refuses_is_left_to_aten_alone(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, caplog: Any, tmp_path: Path, refused: str, options: dict[str, Any]
):
    def contains(request: Any) -> bool:
        text = request.module.split(f"def {request.launch.function}(")[1].split("@triton.jit")[0]
        return refused in text

    refuse(gpu, monkeypatch, contains)
    counters.clear()
    inputs = random(6, 8), random(8, 8, seed=1), torch.tensor([5, 0, 3])
    with driver.collect() as found:
        executable = gpu.compile(mixed, inputs, fallback="aten", cache_dir=tmp_path, **options)
    kernels = len(executable.plan.kernels)
    for _ in range(4):
        for got, want in zip(executable(*inputs), mixed(*inputs), strict=True):
            torch.testing.assert_close(got, want)
    failed = [k for k in found[0].report().kernels if k.problem]
    assert counters["treadle"]["fallback"] == len(failed) == (kernels if not refused else len(failed)) > 0
    assert all(k.problem == "CompilationError: no such dot" for k in failed)
    assert bool(gpu.launches) is bool(refused) and not gpu.errors
    assert caplog.text.count("runs through ATen: CompilationError: no such dot") == len(failed)


def test_a_kernel_that_stops_its_module_stops_no_other(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):  # fmt: skip
    refuse(gpu, monkeypatch, lambda request: "tl.exp" in request.module)
    inputs = random(6, 8), random(8, 8, seed=1), torch.tensor([5, 0, 3])
    executable = gpu.compile(mixed, inputs, fallback="aten", cache_dir=tmp_path)
    failed = [k for k in executable.plan.kernels if not k.library]
    assert 0 < len(failed) < len(executable.plan.kernels)
    for got, want in zip(executable(*inputs), mixed(*inputs), strict=True):
        torch.testing.assert_close(got, want)


def test_where_falling_back_is_forbidden_a_refused_kernel_is_an_error(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch):
    refuse(gpu, monkeypatch, lambda request: True)
    with pytest.raises(LoweringError, match="no such dot"):
        gpu.compile(lambda x: x - 9, (random(8),))


def test_a_binary_that_does_not_load_is_left_to_aten(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, caplog: Any):
    real = gpu_kernels.compile_launches

    def too_large(requests: Sequence[Any]) -> list[Any]:
        return [replace(b, shared=1 << 20) for b in real(requests) if isinstance(b, Binary)]

    monkeypatch.setattr(gpu_kernels, "compile_launches", too_large)
    x, counted = random(8), counters["treadle"]["fallback"]
    for _ in range(2):  # what is stored is not loaded either
        executable = gpu.compile(lambda x: x - 11, (x,), fallback="aten")
        torch.testing.assert_close(executable(x)[0], x - 11)
    assert counters["treadle"]["fallback"] == counted + 2 and "shared memory" in caplog.text and not gpu.launches


def test_each_stream_has_arenas_of_its_own(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch):
    executable = gpu.compile(lambda x, w: torch.softmax(torch.softmax(x, -1) @ w, -1), (random(4, 8), random(8, 8)))
    x, w = random(4, 8), random(8, 8, seed=1)
    first = executable(x, w)[0]
    arenas = find_arenas(executable.device)
    monkeypatch.setattr(type(executable.device), "stream_now", 8)
    assert len(arenas) == 0
    torch.testing.assert_close(executable(x, w)[0], first)
    assert len(arenas) == 1 and {launch[4] for launch in gpu.launches} == {7, 8}


def test_another_process_finds_everything_in_the_store(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch):
    function, inputs = (lambda x: torch.softmax(x, -1) + 4), (random(3, 20),)
    gpu.compile(function, inputs)

    def forbidden(requests: Sequence[Any]) -> list[Any]:
        raise AssertionError("compiled again")

    monkeypatch.setattr(gpu_kernels, "compile_launches", forbidden)
    monkeypatch.setattr("treadle.compiler.pipeline.compile_graph", forbidden)
    hits = counters["treadle"]["store_hit"]
    torch.testing.assert_close(gpu.compile(function, inputs)(*inputs)[0], function(*inputs))
    assert counters["treadle"]["store_hit"] == hits + 1


def test_two_devices_have_functions_of_their_own(gpu: FakeGpu):
    function, x = (lambda x: torch.tanh(x) * 5), random(3, 20)
    first = gpu.compile(function, (x,))
    gpu.device = "cuda:1"
    second = gpu.compile(function, (x,))
    assert (first.device.index, second.device.index) == (0, 1)
    for executable in (first, second, first):
        torch.testing.assert_close(executable(x)[0], function(x))


def test_numbers_on_the_host_beside_tensors_on_the_device(gpu: FakeGpu):
    with FakeTensorMode():
        x, s = torch.empty(4, 9, device="cuda"), torch.empty(())
        module = make_fx(lambda x, s: (x * s).exp() + 1)(x, s)
    executable = driver.compile_fx_graph(module)
    x, s = random(4, 9), torch.tensor(0.25)
    torch.testing.assert_close(executable(x, s)[0], (x * s).exp() + 1)


def test_architectures_by_capability():
    assert target_of(9, 0) is TARGETS["sm_90"] and target_of(8, 6).name == "sm_86"
    with pytest.raises(DeviceError, match=r"sm_75.*8\.0 or later"):
        target_of(7, 5)
    with pytest.raises(DeviceError, match=r"sm_130.*newer"):
        target_of(13, 0)


def test_without_triton_the_graph_says_what_is_missing(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpu_kernels.GpuTools, "version", "")
    with pytest.raises(CompileError, match="Triton is not installed"):
        gpu.compile(lambda x: x + 77, (random(8),))


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libnosuchdriver.so.1")
    cuda_driver.open_driver.cache_clear()
    with pytest.raises(DeviceError, match="driver does not load"):
        cuda_driver.open_driver()
    cuda_driver.open_driver.cache_clear()


def test_each_gpu_has_a_device_row():
    assert [find_device(t).name for t in ("sm_90", "sm_86", "sm_103", "gfx942")] == [
        "sm_90",
        "sm_80",
        "sm_100",
        "gfx942",
    ]
    assert set(GPUS) == set(TARGETS)


def test_explain_shows_what_runs_there(gpu: FakeGpu):
    with driver.collect() as found:
        gpu.compile(lambda x: torch.softmax(x, -1), (random(4, 70),))
    (kernel,) = found[0].report().kernels
    assert "@triton.jit" in kernel.source and kernel.schedule.startswith("reduce") and not kernel.problem
