"""treadle.package and treadle.load: results, sizes, state, targets, and every way in which a package can be wrong."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sources import read_pyproject
from torch import nn
from torch.export import Dim
from torch.utils import _pytree as pytree

import treadle
from treadle.codegen.cpp.isa import ISAS, read_cpu_flags
from treadle.compiler import package as writer
from treadle.compiler import package_place
from treadle.compiler import package_targets as targets
from treadle.compiler.check import compare
from treadle.compiler.frontend.dims import Dims
from treadle.compiler.runtime import package as loader
from treadle.compiler.runtime import package_target
from treadle.ir.errors import BadInput, CompileError

Tensor = torch.Tensor
DYNAMIC = {"x": {0: Dim("batch", min=3, max=64)}, "scale": None, "mask": None}


class Model(nn.Module):
    """A norm with written statistics, tied weights, a constant, a counter, keywords, several results."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(24)
        self.first, self.second = nn.Linear(24, 24), nn.Linear(24, 24)
        self.second.weight = self.first.weight
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.bias = torch.randn(24)

    def forward(self, x: Tensor, *, scale: float = 2.0, mask: Tensor | None = None) -> dict[str, Any]:
        self.calls.add_(1)
        h = F.gelu(self.first(self.norm(x))) * scale
        y = torch.softmax(self.second(h) + self.bias.to(x.dtype), -1)
        return {"y": y if mask is None else y * mask, "more": [h.sum(0), (None, 3, 0.5)], "x": x * 2}


def make_model(dtype: torch.dtype = torch.float32) -> Model:
    torch.manual_seed(0)
    return Model().to(dtype).train()


def make_inputs(batch: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    return {"x": torch.randn(batch, 24, dtype=dtype), "scale": 2.0, "mask": torch.rand(24).to(dtype)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package for every instruction set. Tests that damage one take a copy."""
    directory = tmp_path_factory.mktemp("packages") / "model.treadle"
    found = treadle.package(make_model(), make_inputs(6), directory, targets=tuple(ISAS), dynamic_shapes=DYNAMIC)
    assert found == directory
    return directory


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "copy.treadle")


def make(tmp_path: Path, model: Callable[..., Any], inputs: Any, **more: Any) -> loader.LoadedModel:
    return treadle.load(treadle.package(model, inputs, tmp_path / "made.treadle", **more))


def sine(x: Tensor) -> Tensor:
    return x.sin()


def assert_right(got: Any, want: Any) -> None:
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


# --- what it computes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_are_as_near_to_float64_as_eagers(dtype: torch.dtype, made: Path, tmp_path: Path):
    model = make_model(dtype)
    if dtype is not torch.float32:
        made = treadle.package(model, make_inputs(6, dtype), tmp_path / "made", dynamic_shapes=DYNAMIC)
    call = treadle.load(made)
    exact = copy.deepcopy(model).double()
    for batch in (6, 3, 17, 64):
        inputs = make_inputs(batch, dtype)
        wide = {k: v.double() if isinstance(v, Tensor) else v for k, v in inputs.items()}
        report = compare(call(**inputs), model(**inputs), exact(**wide))
        assert report.ok and len(report.rows) >= 3, str(report)


def test_what_the_model_writes_is_written_in_the_loaded_one(made: Path):
    model, call = make_model(), treadle.load(made)
    for batch in (4, 9):
        inputs = make_inputs(batch)
        assert_right(call(**inputs), model(**inputs))
    state = call.state
    assert int(state["calls"]) == 2
    for name, value in model.state_dict().items():
        assert_right(state[name], value)
    assert state["first.weight"] is state["second.weight"]
    assert int(treadle.load(made).state["calls"]) == 0


@pytest.mark.parametrize("name", [n for n, isa in ISAS.items() if read_cpu_flags().issuperset(isa.needs)])
def test_the_best_target_that_the_processor_has_is_used(name: str, made: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(package_target, "read_flags", lambda: frozenset(ISAS[name].needs))
    call: Any = treadle.load(made)
    inputs = make_inputs(5)
    assert_right(call(**inputs), make_model()(**inputs))
    assert f"cpu {name}, " in call.describe() and call.describe().count("(in use)") == 1
    assert call.target.name == name


def test_it_runs_where_there_is_no_compiler_and_nothing_of_ours_but_the_runtime(made: Path, tmp_path: Path):
    inputs = make_inputs(7)
    want = make_model()(**inputs)["y"].detach()
    save_file({"x": inputs["x"], "mask": inputs["mask"], "y": want}, tmp_path / "case.safetensors")
    code = f"""
import sys
import torch
before = set(sys.modules)
started = []
watched = ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "os.fork", "socket.connect")
sys.addaudithook(lambda event, args: started.append(args) if event in watched else None)
import treadle
call = treadle.load({str(made)!r})
from safetensors.torch import load_file
case = load_file({str(tmp_path / "case.safetensors")!r})
got = call(x=case["x"], scale=2.0, mask=case["mask"])["y"]
loaded = set(sys.modules) - before
torch.testing.assert_close(got, case["y"], rtol=1e-4, atol=1e-5)
assert not started, started
ours = [m.removeprefix("treadle.") for m in loaded if m.startswith("treadle.")]
allowed = ("ir", "ir.errors", "compiler", "compiler.runtime")
assert not [m for m in ours if m not in allowed and not m.startswith("compiler.runtime.")], ours
assert not [m for m in ours if "plan_" in m or "dim_text" in m], ours
assert "compiler.runtime.package" in ours
assert not loaded & {{"sympy", "torch.export", "torch._dynamo", "torch._inductor"}}, loaded
"""
    environment = {"PATH": str(tmp_path / "nothing"), "HOME": str(tmp_path), "TREADLE_CACHE_DIR": str(tmp_path / "c")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "c").exists()


def test_sizes_outside_of_what_was_exported_are_refused(made: Path):
    call = treadle.load(made)
    for batch, bounds in ((2, "3 to 64"), (65, "3 to 64"), (0, "3 to 64")):
        with pytest.raises(BadInput, match=rf"x\.shape\[0\]: outside .*expected {bounds}, got {batch}"):
            call(**make_inputs(batch))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": torch.randn(6, 23)}, r"x\.shape\[1\]: not the size that was exported \(expected 24, got 23\)"),
        ({"x": torch.randn(6, 24, 1)}, r"x: not as many dimensions"),
        ({"x": torch.randn(6, 24).double()}, r"x: not like .*expected a plain tensor of float32\[.*, 24\].*float64"),
        ({"x": 5}, "x: not like the exported input .*got int"),
        ({"x": torch.randn(6, 24, device="meta")}, "x: not like .*on the CPU, got .* on meta"),
        ({"x": torch.randn(6, 24).to_sparse()}, "x: not like"),
        ({"scale": 2.5}, r"scale: not the value that was exported \(expected 2\.0, got 2\.5\)"),
        ({"scale": torch.tensor(2.0)}, "scale: not the value"),
        ({"mask": None}, "mask: not like"),
        ({"mask": [torch.randn(24)]}, "of another structure"),
        ({"y": 1}, r"not the arguments .*expected \(x=, scale=, mask=\), got \(x=, scale=, mask=, y=\)"),
    ],
)
def test_arguments_unlike_those_exported_are_refused(made: Path, change: dict[str, Any], said: str):
    with pytest.raises(BadInput, match=said):
        treadle.load(made)(**make_inputs(6) | change)


def test_sizes_of_zero_and_one_are_exported_sizes(tmp_path: Path):
    def f(x: Tensor) -> Tensor:
        return torch.softmax(x, -1) + x.sum(0) + x.shape[0]

    call = make(tmp_path, f, (torch.randn(5, 8),), dynamic_shapes=({0: Dim("batch", max=10)},))
    for batch in (0, 1, 2, 10):
        x = torch.randn(batch, 8)
        assert_right(call(x), f(x))
    with pytest.raises(BadInput, match="expected 0 to 10, got 11"):
        call(torch.randn(11, 8))


def test_kernels_do_not_rely_on_sizes_of_two():
    """torch's tracing does, and the ranges that the user gave do not say so."""
    module = writer._Function(sine)
    program = torch.export.export(module, (torch.randn(5),), dynamic_shapes=({0: Dim("n", max=10)},))
    [node] = program.graph.find_nodes(op="placeholder")
    size = node.meta["val"].shape[0]
    with targets.true_ranges(program):
        assert str(Dims("cpu").to_dim(size)) == f"{size}_2 - 2", "a symbol of at least 2, less 2"
    assert str(Dims("cpu").to_dim(size)) == str(size)


def test_a_size_may_be_a_multiple_of_another(tmp_path: Path):
    def f(x: Tensor, y: Tensor) -> Tensor:
        return x.view(y.shape[0], 2, 8).sum(1) * y

    half = Dim("half", min=2, max=9)
    call = make(tmp_path, f, (torch.randn(6, 8), torch.randn(3, 8)), dynamic_shapes=({0: 2 * half}, {0: half}))
    x, y = torch.randn(14, 8), torch.randn(7, 8)
    assert_right(call(x, y), f(x, y))
    for rows, other, said in ((13, 7, r"of the form 2\*"), (20, 10, "4 to 18"), (14, 6, "expected 7, got 6")):
        with pytest.raises(BadInput, match=said):
            call(torch.randn(rows, 8), torch.randn(other, 8))


def test_conditions_that_export_found_are_checked(tmp_path: Path):
    def f(x: Tensor) -> Tensor:
        return x.view(x.shape[0] // 2, 2, -1).sum(1)

    call = make(tmp_path, f, (torch.randn(6, 8),), dynamic_shapes=({0: Dim.DYNAMIC},))
    x = torch.randn(10, 8)
    assert_right(call(x), f(x))
    with pytest.raises(BadInput, match=r"the exported model needs .*x\.shape\[0\]"):
        call(torch.randn(7, 8))


def test_transposed_inputs_of_any_size(tmp_path: Path):
    """Kernels read by the strides of the example, whatever the caller's are."""

    def f(x: Tensor) -> Tensor:
        return torch.softmax(x, -1)

    sizes = {0: Dim("a", max=30), 2: Dim("b", max=30)}
    call = make(tmp_path, f, (torch.randn(3, 6, 8).transpose(1, 2),), dynamic_shapes=(sizes,))
    for x in (torch.randn(4, 9, 8).transpose(1, 2), torch.randn(4, 8, 9), torch.randn(1, 8, 30)):
        assert_right(call(x), f(x))


Pair = namedtuple("Pair", "low high")


def test_nested_arguments_and_results(tmp_path: Path):
    class Nested(nn.Module):
        def forward(self, batch: dict[str, Any], pair: Any, count: int, flag: bool = True) -> Any:
            first = batch["xs"][0] * pair[1] * count
            return Pair(first, [first.sum()]), batch["xs"][1] + 1 if flag else None

    def inputs() -> tuple[Any, ...]:
        return {"xs": [torch.randn(4), torch.randn(3)]}, (torch.randn(4), torch.randn(4)), 3, True

    call, given = make(tmp_path, Nested(), inputs()), inputs()
    got, want = call(*given), Nested()(*given)
    assert_right(pytree.tree_leaves(got), pytree.tree_leaves(want))
    assert type(got[0]) is tuple and type(got[0][1]) is list, "a class of the caller's own is not needed to load"
    with pytest.raises(BadInput, match="of another structure"):
        call({"ys": given[0]["xs"]}, *given[1:])
    with pytest.raises(BadInput, match=r"batch\['xs'\]\[1\]\.shape\[0\]: .*expected 3, got 5"):
        call({"xs": [torch.randn(4), torch.randn(5)]}, *given[1:])
    with pytest.raises(BadInput, match="count: not the value"):
        call(given[0], given[1], 4, True)


def test_integers_may_vary(tmp_path: Path):
    def f(x: Tensor, n: int) -> Tensor:
        return x * n

    call = make(tmp_path, f, (torch.randn(6), 3), dynamic_shapes=(None, Dim.DYNAMIC))
    x = torch.randn(6)
    for n in (2, 5, 1000):
        assert_right(call(x, n), f(x, n))
    with pytest.raises(BadInput, match="n: not an integer"):
        call(x, 2.0)


def test_inputs_that_are_written(tmp_path: Path):
    def f(x: Tensor, y: Tensor) -> Tensor:
        x.add_(y)
        return y * 2

    call = make(tmp_path, f, (torch.zeros(4, 5), torch.ones(4, 5)))
    x, y = torch.randn(5, 4).t(), torch.randn(4, 5)
    twin = x.clone()
    assert_right((call(x, y), x), (f(twin, y), twin))


def test_an_exported_program_brings_its_inputs(tmp_path: Path):
    program = torch.export.export(make_model(), (), make_inputs(6))
    call, inputs = make(tmp_path, program, None), make_inputs(6)
    assert_right(call(**inputs), make_model()(**inputs))


def test_channels_last_weights(tmp_path: Path):
    conv = nn.Conv2d(3, 8, 3)
    conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)
    call = make(tmp_path, conv, (torch.randn(2, 3, 9, 9).to(memory_format=torch.channels_last),))
    x = torch.randn(2, 3, 9, 9)
    assert_right(call(x), conv(x))
    assert call.state["weight"].stride() == conv.weight.stride()


# --- what cannot be packaged -------------------------------------------------------------------------------------


def test_graphs_with_python_objects_are_refused(tmp_path: Path):
    def f(x: Tensor) -> Any:
        return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))

    with pytest.raises(BadInput, match="Python objects that no file can hold"):
        treadle.package(f, (torch.randn(4),), tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_what_torch_does_not_export_is_told(tmp_path: Path):
    def f(x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x

    with pytest.raises(BadInput, match=r"torch\.export does not take this model: .+"):
        treadle.package(f, (torch.randn(4),), tmp_path / "made")
    with pytest.raises(BadInput, match="needs example inputs"):
        treadle.package(f, None, tmp_path / "made")


def test_without_a_compiler_nothing_is_written(tmp_path: Path):
    with treadle.settings.override(compiler="no-such-compiler"), pytest.raises(CompileError, match="no C\\+\\+"):
        treadle.package(sine, (torch.randn(4),), tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("targets", [(), "auto", ("avx1024",)])
def test_targets_that_do_not_exist(targets: Any, tmp_path: Path):
    with pytest.raises(BadInput, match=r"no (such target|targets)"):
        treadle.package(sine, (torch.randn(4),), tmp_path / "made", targets=targets)


def test_a_written_buffer_must_not_share_memory():
    base = torch.zeros(8)
    state = {"a": base, "b": base[:4], "c": base}
    stored = writer.share_names(state)
    assert stored == {"a": "a", "b": "b", "c": "a"}
    writer.check_overlaps(state, stored, set())
    with pytest.raises(BadInput, match="writes a, which shares memory with b"):
        writer.check_overlaps(state, stored, {"a"})


# --- where it is written -----------------------------------------------------------------------------------------


def test_nothing_but_a_package_is_replaced_and_that_only_by_force(made: Path, copied: Path, tmp_path: Path):
    tiny = (sine, (torch.randn(4),))
    before = (copied / "manifest.json").read_bytes()
    with pytest.raises(BadInput, match="there is a package already; force=True"):
        treadle.package(*tiny, copied)
    assert (copied / "manifest.json").read_bytes() == before
    treadle.package(*tiny, copied, force=True)
    x = torch.randn(4)
    assert_right(treadle.load(copied)(x), x.sin())
    assert sorted(p.name for p in tmp_path.iterdir()) == [copied.name]
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years")
    with pytest.raises(BadInput, match="not empty, and no treadle package"):
        treadle.package(*tiny, other, force=True)
    (other / "manifest.json").write_text('{"name": "a browser extension"}')
    with pytest.raises(BadInput, match="not of a treadle package"):
        treadle.package(*tiny, other, force=True)
    assert (other / "thesis.txt").read_text() == "years"
    with pytest.raises(BadInput, match="something else than a directory"):
        treadle.package(*tiny, other / "thesis.txt")


def test_a_rename_that_fails_leaves_the_old_package(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = (copied / "manifest.json").read_bytes()
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if target == copied and self.name != "old":
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no"), package_place.make_beside(copied) as folder:
        package_place.publish(folder, copied, force=True)
    assert (copied / "manifest.json").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [copied.name]


def test_the_range_of_torch_is_that_of_the_package():
    [needed] = [line for line in read_pyproject()["project"]["dependencies"] if line.startswith("torch")]
    assert re.findall(r"\d+\.\d+", needed) == [writer.TORCH_FROM, writer.TORCH_BELOW]


def test_the_description_names_what_matters(made: Path):
    call: Any = treadle.load(made)
    told = call.describe()
    assert re.search(r"takes   x: float32\[\w+, 24\]", told) and "takes   scale: 2.0" in told
    assert re.search(r"size    \w+: 3 to 64", told)
    assert all(f"target  cpu {name}," in told for name in ISAS)
    assert "weights.safetensors: " in told and "sha256" in told
