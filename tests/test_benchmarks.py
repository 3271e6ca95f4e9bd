"""The benchmarks' own machinery: processes, records, what is counted. Speed is not judged here."""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from treadle.codegen.triton.emit import default_schedule
from treadle.compiler.runtime import arena as arena_module

ROOT = Path(__file__).resolve().parent.parent
HELPERS = """
import os, subprocess, sys, time

def double(number):
    print("noise before the result")
    return {"twice": 2 * number, "caches": os.environ["TREADLE_CACHE_DIR"]}

def crash():
    raise ValueError("a reason to crash")

def hang():
    subprocess.run([sys.executable, "-c", "import time; time.sleep(600)"])
"""


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of benchmarks/, which are scripts and import each other by bare names."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module(name)


@pytest.fixture
def helpers(tmp_path: Path) -> dict[str, str]:
    """An environment in which child processes find the module `helpers`."""
    (tmp_path / "helpers.py").write_text(HELPERS)
    return {"PYTHONPATH": str(tmp_path), "OMP_WAIT_POLICY": "passive"}


@pytest.mark.slow
def test_a_child_returns_its_result_or_its_error(
    helpers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    child = load("child", monkeypatch)
    caches = child.empty_caches(tmp_path / "caches")
    done = child.run_child("helpers", "double", {"number": 21}, environment=helpers | caches)
    assert done.ok and done.value == {"twice": 42, "caches": caches["TREADLE_CACHE_DIR"]}
    assert done.cpu_seconds > 0
    failed = child.run_child("helpers", "crash", {}, environment=helpers)
    assert not failed.ok and failed.value is None and "a reason to crash" in failed.error
    assert "benchmarks/child.py" in failed.error and str(ROOT) not in failed.error
    late = child.run_child("helpers", "hang", {}, environment=helpers, timeout=15)
    assert "no result after 15 s" in late.error and late.wall_seconds < 60


def test_the_gpu_suite_plans_every_slice_and_needs_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    gpu = load("gpu", monkeypatch)
    assert all(plan(quick) for plan, _ in gpu.SLICES.values() for quick in (True, False))
    assert all(isinstance(summarize({}), dict) for _, summarize in gpu.SLICES.values())
    products = gpu.SLICES["products"][0](True)
    assert {"w4a16 37x896", "mm 37x1000", "w8a16 16"} <= set(products) and "w8a8 16" not in products
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for arguments, told in (
        (["--slice", "products"], "no GPU"),
        (["--slice", "product"], "no such slice"),
        (["--help"], "products"),
    ):
        monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
        with pytest.raises(SystemExit):
            gpu.main()
        printed = capsys.readouterr()
        assert told in printed.out + printed.err


def test_products_of_every_case_are_kernels_of_products(monkeypatch: pytest.MonkeyPatch):
    resources, cases = load("triton_resources", monkeypatch), load("product_cases", monkeypatch)
    for case in cases.CASES:
        kernels = resources.find_products(case.name, 64)
        assert any(default_schedule(k).strategy == "products" for k in kernels.values()), case.name
    assert len(resources.find_products("gated", 64)) == 1


def make_args(path: Path | None, **more: Any) -> argparse.Namespace:
    return argparse.Namespace(out=path, note="", **{"resume": False} | more)


def test_a_record_is_written_after_every_row_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    record = load("record", monkeypatch)
    path = tmp_path / "out" / "rows.json"
    first = record.Record("kernels", make_args(path))
    first.add("a", {"us": 1})
    document = json.loads(path.read_text())
    assert document["rows"] == {"a": {"us": 1}}
    assert document["machine"]["cpu"] and document["versions"]["torch"] == torch.__version__
    resumed = record.Record("kernels", make_args(path, resume=True))
    assert resumed.missing(["a", "b", "ab"], only="b") == ["b", "ab"]
    assert record.Record("kernels", make_args(path)).missing(["a", "b"]) == ["a", "b"]


def test_a_record_names_no_path_of_the_machine(monkeypatch: pytest.MonkeyPatch):
    record = load("record", monkeypatch)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks" / "kernels.py"), "--quick"])
    assert record.describe_command() == "python benchmarks/kernels.py --quick"
    monkeypatch.setattr(sys, "argv", ["/somewhere/else/kernels.py"])
    assert record.describe_command() == "python kernels.py"


def test_committed_results_name_no_path_of_the_machine():
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        text = path.read_text()
        assert str(ROOT) not in text and str(Path.home()) + "/" not in text, path.name
        assert {"date", "command", "machine", "versions", "rows"} <= json.loads(text).keys()


def test_started_programs_are_named(monkeypatch: pytest.MonkeyPatch):
    compiling = load("compiling", monkeypatch)
    assert compiling.program_name("subprocess.Popen", ("/usr/bin/g++", ["/usr/bin/g++", "-O2"], None, None)) == "g++"
    assert compiling.program_name("subprocess.Popen", (None, "/usr/bin/clang++ -v", None, None)) == "clang++"
    assert compiling.program_name("os.posix_spawn", (b"/usr/bin/gcc", [b"gcc"], {})) == "gcc"
    assert compiling.program_name("os.system", (b"cc -v",)) == "cc"


@pytest.mark.slow
def test_measuring_a_compile_sees_nodes_and_compilers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    child = load("child", monkeypatch)
    environment = child.empty_caches(tmp_path) | {"OMP_WAIT_POLICY": "passive"}
    arguments = {"target": "one_kernel", "dtype": "fp32"}
    floor = child.run_child("compiling", "measure", arguments | {"backend": "count_nodes"}, environment=environment)
    assert floor.ok, floor.error
    assert floor.value["nodes"] == 3 and floor.value["graphs"] == 1 and not floor.value["compilers"]
    peer = child.run_child("compiling", "measure", arguments | {"backend": "inductor"}, environment=environment)
    assert peer.ok, peer.error
    assert peer.value["compilers"] and peer.value["children"] > 0


def test_no_compiler_of_ours_is_imported_before_the_clock_starts(monkeypatch: pytest.MonkeyPatch):
    """Else its import would be missing from the cold compile time."""
    import subprocess

    code = "import compiling, sys; print([m for m in sys.modules if m.startswith('treadle.')])"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "benchmarks", capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(ran.stdout.splitlines()[-1].replace("'", '"')))
    light = {
        "treadle.compiler",
        "treadle.compiler.timing",
        "treadle.compiler.model_file",
        "treadle.ir",
        "treadle.ir.errors",
    }
    assert loaded <= light


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 300), (3, 256), (7, 1)])
def test_every_kernel_case_runs_at_odd_shapes(
    shape: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    cases = load("kernel_cases", monkeypatch)
    for case in cases.CASES:
        inputs = cases.make_inputs(case, shape, dtype)
        output = case.function(*inputs)
        assert cases.bytes_moved(case, inputs, output) >= output.numel() * output.element_size()


def test_bytes_of_a_copy(monkeypatch: pytest.MonkeyPatch):
    cases = load("kernel_cases", monkeypatch)
    by_name = {case.name: case for case in cases.CASES}
    for name, expected in (("transpose", 2 * 4), ("cast", 4 + 2), ("embedding", 2 * 4 + 8 / 50)):
        inputs = cases.make_inputs(by_name[name], (30, 50), torch.float32)
        assert cases.bytes_moved(by_name[name], inputs, by_name[name].function(*inputs)) == expected * 30 * 50


def zoo_row(fallbacks: int = 0, left: dict[str, int] | None = None, **counts: int) -> dict[str, Any]:
    return {"ok": True, "worst_ratio": 1.0, "fallbacks": fallbacks, "counters": {"treadle": counts},
            "left_to_aten": left or {}}  # fmt: skip


def test_the_zoo_counts_what_is_native(monkeypatch: pytest.MonkeyPatch):
    zoo = load("architectures", monkeypatch)
    rows = {
        "a fp32": zoo_row(native=90, opaque=6, effect=4, library=50, left={"aten.topk.default: why": 6}),
        "a train": zoo_row(native=100, left={"aten.sort.default": 1}, opaque=1),
        "b fp32": zoo_row(native=10, library=3),
        "c fp32": zoo_row(fallbacks=1, native=49, opaque=1),
        "d fp32": {"ok": False, "error": "crash"},
    }
    summary = zoo.summarize(rows)
    assert summary["native_share"] == round(200 / 261, 4)
    each = summary["native_share_by_architecture"]
    assert each == {"c": 0.0, "a": round(190 / 201, 4), "b": 1.0, "d": None} and next(iter(each)) == "c"
    assert summary["left_to_aten"] == {"aten.topk.default: why": 6, "aten.sort.default": 1}


def test_the_zoo_names_what_is_left_to_aten(monkeypatch: pytest.MonkeyPatch, empty_cache: Path):
    zoo = load("architectures", monkeypatch)

    @torch.compile(backend="treadle")
    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.exp(torch.sort(x.t())[0]) @ torch.rand(4, 4)

    counts = torch._dynamo.utils.counters["treadle"]
    counts.clear()
    with zoo.collect() as graphs:
        function(torch.randn(4, 5))
    (graph,) = graphs
    found = zoo.count_calls(graph)
    assert {name.split(":")[0]: number for name, number in found.items()} == {
        "aten.sort.default": 1, "aten.rand.default": 1}  # fmt: skip
    assert found.total() == counts["opaque"] + counts["effect"]


def test_every_module_learns_at_a_tiny_size(monkeypatch: pytest.MonkeyPatch):
    """62 of them, each with gradients of all that learns, which are finite, not all zero, and near float64's."""
    cases, steps = load("module_cases", monkeypatch).CASES, load("steps", monkeypatch)
    assert len({case.name for case in cases}) == len(cases) == 62
    for case in cases:
        function, inputs = case.make(case.sizes.tiny)
        given = steps.draw_gradients(function, inputs)
        outputs, gradients = steps.bind_step(function, inputs, given)()
        exact = steps.run_exactly(function, inputs, given)
        assert all(y.dtype == case.dtype or y.dtype == torch.float32 for y in outputs), case.name
        assert gradients and all(g is not None and g.isfinite().all() and g.any() for g in gradients), case.name
        for got, wide in zip((*outputs, *gradients), (*exact[0], *exact[1]), strict=True):
            assert wide.dtype == torch.float64, case.name
            error = float((got.double() - wide).norm() / wide.norm())
            assert error < 16 * torch.finfo(case.dtype).eps, (case.name, error)


def test_the_same_case_has_the_same_numbers(monkeypatch: pytest.MonkeyPatch):
    for case in load("module_cases", monkeypatch).CASES:
        (_, first), (_, second) = case.make(case.sizes.tiny), case.make(case.sizes.tiny)
        assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True)), case.name


def test_a_reference_is_float64_all_through(monkeypatch: pytest.MonkeyPatch):
    """Though the function casts to float32, and for the very gradients that the narrow one was given."""
    steps = load("steps", monkeypatch)
    (x,) = leaves = (torch.randn(5, 7).to(torch.bfloat16).requires_grad_(),)

    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.exp(x.float()).to(x.dtype)

    given = steps.draw_gradients(function, leaves)
    assert given[0].dtype == torch.bfloat16
    (output,), (gradient,) = steps.run_exactly(function, leaves, given)
    expected = x.detach().double().exp()
    assert torch.allclose(output, expected, rtol=1e-14, atol=0)
    assert torch.allclose(gradient, expected * given[0].double(), rtol=1e-14, atol=0)


def test_peak_memory_of_known_intermediates(monkeypatch: pytest.MonkeyPatch):
    allocations, steps = load("allocations", monkeypatch), load("steps", monkeypatch)
    size, x = 4 * 1000, torch.randn(1000)
    assert allocations.measure_peak(x.sin) == size
    assert allocations.measure_peak(lambda: x.sin().cos().exp()) == 2 * size  # one is read while the next is written
    assert allocations.measure_peak(lambda: (x.sin(), x.cos(), x.exp())) == 3 * size
    assert allocations.measure_peak(lambda: x.view(10, 100).t()) == 0
    leaf = x.clone().requires_grad_()
    step = steps.bind_step(lambda x: x.sin().exp(), (leaf,), [torch.ones(1000)])
    assert allocations.measure_peak(step) == 4 * size  # the output, exp's gradient, cos(x), sin's gradient


def test_peak_memory_has_what_is_kept_between_calls(monkeypatch: pytest.MonkeyPatch):
    allocations = load("allocations", monkeypatch)
    kept: list[torch.Tensor] = []

    def call() -> None:
        worked = torch.empty(500, dtype=torch.uint8)
        del worked
        if not kept:
            kept.append(torch.empty(3000, dtype=torch.uint8))

    assert allocations.measure_peak(call) == 3500  # the second call works beside what the first one kept


def test_peak_memory_has_what_treadle_kept_before(monkeypatch: pytest.MonkeyPatch):
    """Arenas and large outputs of the calls that compiled."""
    allocations = load("allocations", monkeypatch)
    arenas, large = allocations.ARENAS, allocations.large

    def use_arena() -> torch.Tensor:
        arena = arenas.pop() if arenas else arena_module.Arena()
        arena.reserve(5000)
        result = torch.empty(100, dtype=torch.uint8)
        arenas.append(arena)
        return result

    def use_large() -> torch.Tensor:
        return large.empty_large((large.LARGE,), (1,), torch.uint8)

    use_arena()
    use_large()
    assert allocations.measure_peak(use_arena) == 5000 + arena_module.ALIGNMENT + 100
    use_arena()
    use_large()
    assert allocations.measure_peak(use_large) == large.LARGE
    assert not arenas and large.kept_bytes() == large.LARGE


def test_peak_memory_has_the_arena_of_a_compiled_graph(monkeypatch: pytest.MonkeyPatch, empty_cache: Path):
    allocations, harness = load("allocations", monkeypatch), load("harness", monkeypatch)

    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.sort(x.exp())[0].neg()

    compiled = harness.compile_for("treadle", function)
    call = harness.bind(compiled, (torch.randn(1000),))
    call()
    peak = allocations.measure_peak(call)
    (arena,) = allocations.ARENAS
    assert arena.memory.nbytes >= 4 * 1000  # exp's result, which a call of ATen reads
    assert peak >= arena.memory.nbytes + 4 * 1000  # with the output
    assert allocations.measure_peak(call) == peak


def test_blocks_that_were_there_before_count_for_nothing(monkeypatch: pytest.MonkeyPatch):
    find_peak = load("allocations", monkeypatch).find_peak
    assert find_peak([(1, 10), (7, -50), (2, 20), (1, -10), (1, 5), (2, -20)]) == 30
    assert find_peak([(1, 10), (1, 40), (2, 1)]) == 41  # the first one's end was not seen


def test_bytes_of_tensors_count_each_storage_once(monkeypatch: pytest.MonkeyPatch):
    bytes_of = load("allocations", monkeypatch).bytes_of
    x, y = torch.empty(10, 10), torch.empty(5)
    assert bytes_of([x, x.t(), y, None]) == 4 * 105
    assert bytes_of([x, y], beside=[x[0]]) == 4 * 5


def test_the_summary_of_modules(monkeypatch: pytest.MonkeyPatch):
    modules = load("modules", monkeypatch)

    def row(share: float, **more: Any) -> dict[str, Any]:
        ratio = {"median": 2.0, "low": 1.9, "high": 2.1}
        return {"over": {"eager": ratio}, "over_best": ratio, "wrong": [], "memory_over_eager": {"treadle": share},
                "peak_bytes": {"eager": 100}, "least_bytes": 25, "counters": {}, "graph_breaks": 0,
                "left_to_aten": {}} | more  # fmt: skip

    slow = {"median": 0.8, "low": 0.7, "high": 0.9}
    rows = {
        "a": row(0.3),
        "b": row(1.2, over={"eager": slow}, over_best=slow, left_to_aten={"aten.sort.default": 2}),
        "c": row(0.6, wrong=["treadle"], counters={"fallback": 1}, graph_breaks=1),
    }
    summary = modules.summarize(rows)
    assert summary["memory_over_eager"] == {"treadle": 0.6} and summary["least_memory_over_eager"] == 0.25
    assert summary["worst_memory"] == {"treadle": (1.2, "b")} and summary["memory_above"] == {"treadle": ["b"]}
    assert summary["below"] == ["b"] and summary["wrong"] == ["c: treadle"] and summary["fell_back"] == ["c"]
    assert summary["broken"] == ["c"] and summary["left_to_aten"] == {"aten.sort.default": 2}
    assert summary["geomean_over"] == {"eager": round((2 * 2 * 0.8) ** (1 / 3), 3)}
