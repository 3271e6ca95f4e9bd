"""Contractions in regions: what is computed of their results rides along, and what must wait for them does."""

from __future__ import annotations

import pytest
from fused import assert_same
from golden import Golden

from treadle.ir.builder import GraphBuilder, Value
from treadle.ir.graph import Graph
from treadle.ir.loops import Equation
from treadle.ir.text import print_kernel
from treadle.ir.types import BF16, F32, I64, U8, DType
from treadle.passes.fuse import Fused, Launch

ROWS, COLUMNS, DEPTH = 4, 96, 64


def launches_of(fused: Fused) -> list[Launch]:
    return [s for s in fused.steps if isinstance(s, Launch)]


def sums_of(launch: Launch) -> list[Equation]:
    return [s for s in launch.kernel.body if isinstance(s, Equation) and s.state == "sum"]


class Layer:
    """A graph under construction with an input of rows and weights that its linear layers read."""

    def __init__(self, rows: int = ROWS, dtype: DType = F32) -> None:
        self.g = GraphBuilder("layer")
        self.dtype = dtype
        self.x = self.g.input("x", (rows, DEPTH), dtype, (DEPTH, 1))

    def weight(self, name: str, shape: tuple[int, ...] = (COLUMNS, DEPTH), dtype: DType | None = None) -> Value:
        strides = (*shape[1:], 1) if len(shape) < 3 else (shape[1] * shape[2], shape[2], 1)
        return self.g.input(name, shape, dtype or self.dtype, strides)

    def linear(self, x: Value, weight: Value) -> Value:
        return self.g.contract(x, weight, ((0, 2), (1, 2), (0, 1)))

    def finish(self, *outputs: Value) -> Graph:
        strides = [tuple(_contiguous(o)) for o in outputs]
        return self.g.finish(outputs, (), strides)


def _contiguous(v: Value) -> list[int]:
    strides, step = [], 1
    for n in reversed(v.shape):
        strides.append(step)
        step *= int(n)
    return strides[::-1]


def check(graph: Graph, count: int) -> list[Launch]:
    """The launches, after a look at what they compute."""
    launches = launches_of(assert_same(graph))
    assert len(launches) == count, [print_kernel(s.kernel) for s in launches]
    return launches


def test_bias_activation_and_residual_are_one_kernel():
    layer = Layer()
    g, bias, other = layer.g, layer.weight("b", (COLUMNS,)), layer.weight("r", (ROWS, COLUMNS))
    y = g.sigmoid(layer.linear(layer.x, layer.weight("w")) + bias) * 2.0 + other
    (launch,) = check(layer.finish(y), 1)
    assert len(sums_of(launch)) == 1


def test_gate_and_up_are_one_kernel(golden: Golden):
    layer = Layer(dtype=BF16)
    gate, up = (layer.linear(layer.x, layer.weight(n)) for n in ("gate", "up"))
    y = layer.g.cast(gate * layer.g.sigmoid(gate) * up, BF16)
    (launch,) = check(layer.finish(y), 1)
    assert len(sums_of(launch)) == 2 and {s.operand_dtype for s in sums_of(launch)} == {BF16}
    golden(print_kernel(launch.kernel))


def test_layers_after_each_other_are_kernels_after_each_other():
    layer = Layer()
    h = layer.g.tanh(layer.linear(layer.x, layer.weight("w1")))
    y = layer.g.tanh(layer.linear(h, layer.weight("w2", (8, COLUMNS))))
    first, second = check(layer.finish(y), 2)
    assert len(sums_of(first)) == len(sums_of(second)) == 1


def test_what_reduces_the_results_waits_for_them():
    layer = Layer()
    g = layer.g
    y = layer.linear(layer.x, layer.weight("w"))
    z = g.exp(y - g.reduce("max", y, (1,), keepdim=True))
    first, second = check(layer.finish(z), 2)
    assert len(sums_of(first)) == 1 and not sums_of(second)


def test_results_read_at_two_places_are_computed_once():
    layer = Layer()
    g, half = layer.g, COLUMNS // 2
    y = layer.linear(layer.x, layer.weight("w"))
    turned = g.cat([-g.slice(y, 1, half, half), g.slice(y, 1, 0, half)], 1)
    launches = check(layer.finish(y * 3.0 + turned), 2)
    assert [len(sums_of(s)) for s in launches] == [1, 0]


@pytest.mark.parametrize(("rows", "count"), [(1, 1), (ROWS, 1), (400, 2)])
def test_weights_are_unpacked_on_the_way_where_few_rows_read_them(rows: int, count: int):
    layer = Layer(rows)
    g = layer.g
    whole, scale = layer.weight("q", dtype=U8), layer.weight("s", (COLUMNS, 1))
    w = (g.cast(whole, F32) - 8.0) * scale
    check(layer.finish(layer.linear(layer.x, w)), count)


def test_inputs_are_computed_before_the_results_that_share_them():
    layer = Layer()
    h = layer.g.exp(layer.x)
    launches = check(layer.finish(layer.linear(h, layer.weight("w"))), 2)
    assert [len(sums_of(s)) for s in launches] == [0, 1]


def windows_of(g: GraphBuilder, x: Value) -> Value:
    """The sum of three neighbours along the last dimension, times 1, 2 and 3."""
    padded = g.pad(x, (0, 1), (0, 1), 0.0)
    parts = [g.slice(padded, 1, k, int(x.shape[1]), 1) * float(k + 1) for k in range(3)]
    return parts[0] + parts[1] + parts[2]


def test_windows_are_read_of_what_is_stored():
    """Neither the sum is computed for each of three neighbours, nor its last values stored apart from it."""
    layer = Layer()
    g = layer.g
    first = g.exp(layer.linear(layer.x, layer.weight("a")) * 0.1)
    second = layer.linear(windows_of(g, first), layer.weight("b", (COLUMNS, COLUMNS)))
    launches = check(layer.finish(second), 3)
    assert [len(sums_of(s)) for s in launches] == [1, 0, 1]
    assert all(len(s.writes) == 1 for s in launches)


def test_slices_without_common_elements_are_no_windows():
    """Numbers in planes are put together on the way; slices that overlap would compute each element several times."""
    layer = Layer()
    g = layer.g
    planes = g.exp(layer.weight("planes", (3 * COLUMNS, DEPTH)))
    parts = [g.slice(planes, 0, k * COLUMNS, COLUMNS) * float(k + 1) for k in range(3)]
    check(layer.finish(layer.linear(layer.x, parts[0] + parts[1] + parts[2])), 1)


def test_cheap_values_are_computed_for_each_window():
    g = GraphBuilder("plain")
    x = g.input("x", (ROWS, COLUMNS), F32, (COLUMNS, 1))
    assert len(launches_of(assert_same(g.finish([windows_of(g, x * 2.0)], (), [(COLUMNS, 1)])))) == 1
    costly = g.finish([windows_of(g, g.exp(g.tanh(x)))], (), [(COLUMNS, 1)])
    assert len(launches_of(assert_same(costly))) <= 2


def test_layouts_of_nodes_are_those_in_memory():
    """A value between two contractions that is laid out otherwise is stored so, and its views are strided so."""
    layer = Layer()
    g = layer.g
    first = g.lay_out(layer.linear(layer.x, layer.weight("a")), (1, ROWS))
    total = layer.linear(first, layer.weight("b", (COLUMNS, COLUMNS)))
    fused = assert_same(layer.finish(total))
    assert fused.layouts[first.node.name] == (1, ROWS)


# --- groups ------------------------------------------------------------------------------------------------------


class Experts(Layer):
    """Rows in three groups, each with a matrix of its own."""

    def __init__(self, rows: int = 60) -> None:
        super().__init__(rows)
        g = self.g
        labels = ((0, 1), (2, 3, 1), (0, 3))
        ends = g.apply("mul", g.apply("add", g.iota(3), 1), 17)
        self.y, self.z = (
            g.contract_groups(self.x, self.weight(name, (3, COLUMNS, DEPTH)), ends, labels, 2, 0) for name in "wv"
        )

    def moved(self, how: str) -> Value:
        g, rows = self.g, self.y.shape[0]
        if how == "taken":
            return g.take(self.y, (0,), (g.input("i", (rows,), I64, (1,)),))
        if how == "cut":
            return g.slice(self.y, 0, 5, 50)
        if how == "turned":
            return g.slice(self.y, 0, 59, rows, -1)
        return g.reshape(self.y, (4, 15, COLUMNS))


def test_what_is_computed_of_rows_of_groups_rides_along():
    layer, half = Experts(), COLUMNS // 2
    gate, up = (layer.g.slice(layer.y, 1, k * half, half) for k in range(2))
    check(layer.finish(layer.g.apply("mul", layer.g.apply("sigmoid", gate), up)), 1)


def test_rows_of_groups_may_be_columns():
    layer = Experts()
    check(layer.finish(layer.g.apply("exp", layer.g.permute(layer.y, (1, 0)))), 1)


@pytest.mark.parametrize("how", ["taken", "cut", "turned", "split"])
def test_rows_of_groups_are_stored_before_they_are_moved(how: str):
    """Moved rows are in no groups: each would be multiplied with all matrices."""
    layer = Experts()
    launches = check(layer.finish(layer.g.apply("exp", layer.moved(how))), 2)
    assert sums_of(launches[0]) and not sums_of(launches[1])


def test_products_of_the_same_groups_are_one_kernel():
    layer = Experts()
    check(layer.finish(layer.g.apply("mul", layer.y, layer.z)), 1)


@pytest.mark.parametrize("other", ["groups", "depth", "all rows"])
def test_products_of_other_groups_or_of_all_rows_are_kernels_of_their_own(other: str):
    layer = Experts()
    g, rows = layer.g, int(layer.y.shape[0])
    if other == "all rows":
        found = layer.linear(layer.x, layer.weight("u"))
    else:
        k = 8 if other == "depth" else DEPTH
        weight = g.input("u", (3, COLUMNS, k), F32, (COLUMNS * k, k, 1))
        ends = g.apply("mul", g.apply("add", g.iota(3), 1), 20 if other == "groups" else 17)
        x = g.input("a", (rows, k), F32, (k, 1))
        found = g.contract_groups(x, weight, ends, ((0, 1), (2, 3, 1), (0, 3)), 2, 0)
    launches = check(layer.finish(g.apply("add", layer.y, found)), 3)
    assert [len(sums_of(s)) for s in launches] == [1, 1, 0]
