"""Sums of narrow products: pairs of bf16 and quads of bytes in one instruction, numbers looked up by their bits.

Programs are interpreted for processors that have the instructions; they run where this one has them too.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cpp_run import Case, check_cases
from law_runs import read
from tiled import assert_computes

from treadle.codegen.cpp.emit import default_schedule, emit_kernel, tile_kernel
from treadle.codegen.cpp.isa import ISAS, Isa, detect_isa
from treadle.codegen.fields import Field, find_field
from treadle.codegen.products import find_products, join_bits
from treadle.codegen.products import panel as product_panel
from treadle.codegen.products import tiles as product_tiles
from treadle.codegen.products.bits import find_planes, steps_by
from treadle.codegen.products.fields import find_byte, find_lookup
from treadle.codegen.products.panel import PanelBuilder
from treadle.codegen.products.tiles import ProductBuilder
from treadle.codegen.tiling_prepare import prepare
from treadle.ir.expr import Load, Op, loads_in
from treadle.ir.loops import Equation, Kernel
from treadle.ir.scalar import op
from treadle.ir.text_tiles import print_program
from treadle.ir.text_tiles_read import parse_program
from treadle.ir.tiles import Loop, Put, Stage, Update, walk_statements
from treadle.ir.verify import verify_program

WIDE = replace(ISAS["avx512"], features=("avx512_bf16", "avx512_vnni"))
NARROW = replace(ISAS["avx2"], features=("avx_vnni",))
WORD = "i32(q[n, g, j])"
NIBBLE = f"where((#(d) < 1:i64), {{0}}(u8(({WORD} & 15:i32))), {{0}}(u8(({WORD} >> 4:i32))))"
IN_BLOCKS = NIBBLE.replace(WORD, "i32(q[n, g, j])").format("f32")
HEAD = """
kernel {name}(x: bf16[{{m}}, 3, {{k}}, 2], q: u8[{{n}}, 3, {{k}}], s: {scale}[{{n}}, 3]{more}) -> (y: f32[{{m}}, {{n}}])
  axes m:{{m}}, n:{{n}}, g:3, j:{{k}}, d:2
  a[m, n]: f32 = sum(g, j, d) operands bf16 ({product})
  y[m, n] <- a[m, n]
"""
BYTES = """
kernel bytes(x: bf16[{m}, {k}], q: u8[{n}, {k}]) -> (y: f32[{m}, {n}])
  axes m:{m}, n:{n}, k:{k}
  a[m, n]: f32 = sum(k) operands bf16 (f32(x[m, k]) * {value})
  y[m, n] <- a[m, n]
"""
SIZE = (
    "(f32(((i32(q[n, k]) & 7:i32) + where((((i32(q[n, k]) & 127:i32) >> 3:i32) > 0:i32), 8:i32, 0:i32)))"
    " * exp2(f32((max(((i32(q[n, k]) & 127:i32) >> 3:i32), 1:i32) - 10:i32))))"
)
E4M3 = f"where((i32(q[n, k]) >= 128:i32), neg({SIZE}), {SIZE})"  # FP8 without its NaN
SIGNED = """
kernel signed(x: i8[{m}, {k}], w: i8[{n}, {k}]) -> (y: i32[{m}, {n}])
  axes m:{m}, n:{n}, k:{k}
  a[m, n]: i32 = sum(k) (i32(x[m, k]) * i32(w[n, k]))
  y[m, n] <- a[m, n]
"""
ACROSS = """
kernel across(x: {d}[{m}, {k}], w: {d}[{k}, {n}]) -> (y: {s}[{m}, {n}])
  axes m:{m}, n:{n}, k:{k}
  a[m, n]: {s} = sum(k) ({s}(x[m, k]) * {s}(w[k, n]))
  y[m, n] <- a[m, n]
"""
PLAIN = """
kernel plain(x: bf16[{m}, {k}], w: bf16[{n}, {k}]) -> (y: bf16[{m}, {n}])
  axes m:{m}, n:{n}, k:{k}
  a[m, n]: f32 = sum(k) operands bf16 (f32(x[m, k]) * f32(w[n, k]))
  y[m, n] <- bf16(a[m, n])
"""


BITS = """
kernel {name}(x: bf16[{m}, {k}, 8], q: u8[{planes}, {n}, {k}]{more}) -> (y: f32[{m}, {n}])
  axes m:{m}, n:{n}, j:{k}, d:8
  a[m, n]: f32 = sum(j, d) operands bf16 (f32(x[m, j, d]) * {value})
  y[m, n] <- a[m, n]
"""
BLOCKS = """
kernel blocks(x: bf16[{m}, {k}, 8, 2], q: u8[{n}, {k}, 8], s: u8[{n}, {k}]) -> (y: f32[{m}, {n}])
  axes m:{m}, n:{n}, g:{k}, j:8, d:2
  a[m, n]: f32 = sum(g, j, d) operands bf16 (f32(x[m, g, j, d]) * {value})
  y[m, n] <- a[m, n]
"""


def number_of(planes: int) -> str:
    """The integer whose bits stand in so many planes."""
    bits = [f"(((i32(q[{i}, n, j]) >> i32(#(d))) & 1:i32) << {i}:i32)" for i in range(planes)]
    found = bits[0]
    for bit in bits[1:]:
        found = f"({found} + {bit})"
    return found


def chosen_bit() -> str:
    """The bits of a byte one after the other, as a stack of them spells it."""
    found = "(i32(q[0, n, j]) >> 7:i32)"
    for i in reversed(range(7)):
        found = f"where((#(d) < {i + 1}:i64), ((i32(q[0, n, j]) >> {i}:i32) & 1:i32), {found})"
    return found


def bits(name: str, planes: int, value: str, more: str = "") -> str:
    text = BITS.replace("{name}", name).replace("{planes}", str(planes)).replace("{more}", more)
    return text.replace("{value}", value)


def grouped(name: str, value: str, scale: str = "bf16", more: str = "", factor: str = "f32(s[n, g])") -> str:
    return HEAD.format(name=name, scale=scale, more=more, product=f"(f32(x[m, g, j, d]) * {factor}) * {value}")


TEXTS = {
    "nibbles": grouped("nibbles", f"({NIBBLE.format('f32')} - 8.0)"),
    "zeros": grouped("zeros", f"({NIBBLE.format('f32')} - f32(i32(z[n, g])))", more=", z: u8[{n}, 3]"),
    "powers": grouped("powers", f"({NIBBLE.format('f32')} - 8.0)", "u8", "", "exp2(f32((i32(s[n, g]) - 127:i32)))"),
    "table": grouped("table", f"t[at({NIBBLE.format('i64')}, 16)]", more=", t: f32[16]"),
    "codes": grouped("codes", f"f32(t[n, at({NIBBLE.format('i64')}, 16)])", more=", t: bf16[{n}, 16]"),
    "bytes": BYTES.replace("{value}", E4M3),
    "signed": SIGNED,
    "plain": PLAIN,
    "across": ACROSS.replace("{d}", "bf16").replace("{s}", "f32"),
    "across_signed": ACROSS.replace("{d}", "i8").replace("{s}", "i32"),
    "planes1": bits("planes1", 1, f"((f32({number_of(1)}) * 2.0) - 1.0)"),
    "planes3": bits("planes3", 3, f"((f32({number_of(3)}) * 2.0) - 7.0)"),
    "planes6": bits("planes6", 6, f"(f32({number_of(6)}) - 32.0)"),
    "planes8": bits("planes8", 8, f"((f32({number_of(8)}) * 2.0) - 255.0)"),
    "stacked": bits("stacked", 1, f"((f32({chosen_bit()}) * 2.0) - 1.0)"),
    "picked": bits("picked", 2, f"t[at(i64({number_of(2)}), 4)]", ", t: f32[4]"),
    "blocks": BLOCKS.replace("{value}", f"(({IN_BLOCKS} - 8.0) * exp2(f32((i32(s[n, g]) - 127:i32))))"),
}
INSTRUCTIONS = {
    "nibbles": "lookup_fields_I", "zeros": "lookup_fields_I", "powers": "lookup_fields_I", "table": "lookup_fields_I",
    "codes": "lookup_fields_I", "bytes": "lookup_bytes_I", "signed": "dot_quads_I", "plain": "dot_pairs_F",
    "across": "dot_pairs_F", "across_signed": "dot_quads_I",
    "planes1": "add_bits_I", "planes3": "lookup_fields_I", "planes6": "lookup_6_I", "planes8": "lookup_8_I",
    "stacked": "add_bits_I", "picked": "table_F", "blocks": "dot_pairs_F",
}  # fmt: skip
SIZES = ((1, 70, 64), (2, 66, 16), (3, 9, 68), (7, 67, 64), (16, 65, 32), (37, 70, 66), (40, 33, 133))


def kernel_of(name: str, size: tuple[int, int, int]) -> Kernel:
    m, n, k = size
    return read(TEXTS[name].replace("{m}", str(m)).replace("{n}", str(n)).replace("{k}", str(k)))


def draw(kernel: Kernel, seed: int) -> dict[str, torch.Tensor]:
    """Random inputs: bytes of all values, floats about 1, powers of two that do not overflow."""
    generator = torch.Generator().manual_seed(seed)
    types = {"u8": torch.uint8, "i8": torch.int8, "bf16": torch.bfloat16, "f32": torch.float32}
    made: dict[str, torch.Tensor] = {}
    for b in kernel.inputs:
        shape = [int(n) for n in b.shape if isinstance(n, int)]
        if b.dtype.is_integer:
            low, high = (
                (120, 134)
                if b.name == "s"
                else (0, 16)
                if b.name == "z"
                else (-128, 128)
                if b.dtype.name == "i8"
                else (0, 256)
            )
            made[b.name] = torch.randint(low, high, shape, generator=generator).to(types[b.dtype.name])
        else:
            made[b.name] = torch.randn(shape, generator=generator).to(types[b.dtype.name])
    return made


def source_of(kernel: Kernel, isa: Isa) -> str:
    return emit_kernel(kernel, default_schedule(kernel, isa), isa, "k").text


@pytest.mark.parametrize("name", list(TEXTS))
def test_programs_compute_their_kernels(name: str):
    for size in (SIZES[0], SIZES[2], SIZES[4]):
        kernel = kernel_of(name, size)
        program = tile_kernel(kernel, default_schedule(kernel, WIDE), WIDE).program
        verify_program(program)
        assert parse_program(print_program(program)) == program
        assert_computes(program, kernel, draw(kernel, 3))


ODD = ((1, 9, 131), (5, 67, 35), (13, 70, 67), (37, 11, 101))  # points of the sum that fill no group are left


@pytest.mark.parametrize("name", ["bytes", "signed", "plain", "across", "across_signed"])
def test_odd_sums_use_the_instructions_too(name: str):
    for size in ODD:
        kernel = kernel_of(name, size)
        program = tile_kernel(kernel, default_schedule(kernel, WIDE), WIDE).program
        verify_program(program)
        assert_computes(program, kernel, draw(kernel, 5))
        assert INSTRUCTIONS[name] in source_of(kernel, WIDE) or (name.startswith("across") and 1 in size)


@pytest.mark.parametrize("name", list(TEXTS))
def test_programs_of_small_blocks(name: str, monkeypatch: pytest.MonkeyPatch):
    for builder, rows, columns in ((ProductBuilder, 6, 8), (PanelBuilder, 32, 32)):
        monkeypatch.setattr(builder, "many", rows)
        monkeypatch.setattr(builder, "block", columns)
    monkeypatch.setattr(product_tiles, "DEEP", 16)
    monkeypatch.setattr(product_panel, "PANEL_BYTES", 4096)
    monkeypatch.setattr(product_panel, "PACKED", 16)
    monkeypatch.setattr(product_panel, "LONGEST_CHAIN", 16)
    for size in ((1, 10, 64), (33, 11, 18), (33, 11, 35)):
        kernel = kernel_of(name, size)
        for isa in (WIDE, NARROW):
            program = tile_kernel(kernel, default_schedule(kernel, isa), isa).program
            assert_computes(program, kernel, draw(kernel, 5))


@pytest.mark.parametrize("name", list(TEXTS))
def test_the_instructions_are_used(name: str):
    wanted = INSTRUCTIONS[name]
    size = (3, 70, 64) if name.startswith("across") else (1, 70, 64)  # one row of those is a sum of scaled rows
    assert wanted in source_of(kernel_of(name, size), WIDE)
    assert wanted not in source_of(kernel_of(name, size), ISAS["avx512"])


def test_kernels_run_on_this_machine():
    """With whatever instructions it has, and without them."""
    kernels = [(f"{name} {size}", kernel_of(name, size)) for name in TEXTS for size in SIZES]
    here = detect_isa()
    for isa in dict.fromkeys((here, replace(here, features=()))):
        check_cases([Case(name, k, draw(k, 7)) for name, k in kernels], isa)


def test_threads_give_the_same_bits():
    kernel = kernel_of("table", (2, 1003, 64))
    check_cases([Case(f"{n}", kernel, draw(kernel, 1), threads=n) for n in (1, 2, 5)], detect_isa())


def test_the_rows_operands_are_computed_once_for_all_blocks_of_columns():
    kernel = kernel_of("nibbles", (2, 200, 64))
    program = tile_kernel(kernel, default_schedule(kernel, WIDE), WIDE).program
    first, *others = program.body
    packs = {s.target for s in walk_statements([first]) if isinstance(s, Put)}
    assert isinstance(first, Loop) and first.kind == "grid" and len(packs) == 4
    written = {s.target for loop in others for s in walk_statements([loop]) if isinstance(s, Put | Stage)}
    assert others and not packs & written


def test_scales_of_many_groups_are_computed_together():
    """Where there are groups enough for a pack; few are read one by one."""
    text = TEXTS["powers"]
    many = read(text.replace(", 3", ", 16").replace("g:3", "g:16").format(m=1, n=70, k=64))
    assert "a_scales" in source_of(many, WIDE) and "scales" not in source_of(kernel_of("powers", (1, 70, 64)), WIDE)
    program = tile_kernel(many, default_schedule(many, WIDE), WIDE).program
    assert_computes(program, many, draw(many, 11))


def test_short_groups_fill_packs_together():
    """Where many rows share what is unpacked; of few rows, the sums of groups are scaled."""
    assert "repeat_I" in source_of(kernel_of("blocks", (16, 70, 12)), WIDE)
    assert "repeat_I" not in source_of(kernel_of("blocks", (2, 70, 12)), WIDE)


def test_bits_are_found_in_the_order_of_the_lanes():
    kernel = kernel_of("planes3", (1, 9, 16))
    found = find_products(prepare(kernel))
    assert found is not None and found.lanes.extent == 16 and [a.extent for a in found.summed] == [8]
    joined = join_bits(found)
    assert joined.lanes.extent == 128 and not joined.summed
    ((product,),) = joined.sums[0].groups
    assert isinstance(product, Op)
    planes = find_planes(product.args[1])
    assert planes is not None and len(planes.bits) == 3 and len(planes.words) == 8
    assert [steps_by(b, joined.lanes) for b in planes.bits] == [1, 1, 1]
    assert find_planes(op("mul", product.args[1], product.args[0])) is None


def test_zero_points_leave_the_sums():
    """What a row sums up to is found once for all columns of a tile; numbers are looked up without their zero point."""
    kernel = kernel_of("zeros", (1, 70, 64))
    program = tile_kernel(kernel, default_schedule(kernel, WIDE), WIDE).program
    updates = [s for s in walk_statements(program.body) if isinstance(s, Update)]
    readers = [s for s in updates if "z" in {e.name for e in loads_in(*s.values)}]
    summed = {s.names[0] for s in updates if s.names[0].startswith("a_rows")}
    assert readers and all("q" not in {e.name for e in loads_in(*s.values)} for s in readers)
    assert summed == {"a_rows0"}  # of the one row of a tile


def value_of(kernel: Kernel, name: str) -> Op:
    """The factor of the sum's products that reads a buffer."""
    (equation,) = (s for s in kernel.body if isinstance(s, Equation))
    product = equation.args[0]
    assert isinstance(product, Op)
    factor = next(a for a in product.args if name in {e.name for e in loads_in(a)})
    assert isinstance(factor, Op)
    return factor


def test_fields_of_bytes():
    text = "kernel f(q: u8[8], w: i32[8]) -> (y: i32[8])\n  axes k:8\n  y[k] <- {}\n"

    def field(value: str) -> Field | None:
        return find_field(read(text.format(value)).stores[0].value)

    found = [
        field(f"i32(u8({v}))")
        for v in ("(i32(q[k]) & 15:i32)", "(i32(q[k]) >> 4:i32)", "((i32(q[k]) >> 2:i32) & 3:i32)")
    ]
    assert [(f.low, f.bits, f.byte.name) for f in found if f is not None] == [(0, 4, "q"), (4, 4, "q"), (2, 2, "q")]
    for other in ("(w[k] & 15:i32)", "(i32(q[k]) & 6:i32)", "(i32(q[k]) + 1:i32)", "(i32(q[k]) >> 9:i32)"):
        assert field(other) is None


def test_bytes_are_looked_up_where_the_upper_bit_is_a_sign():
    value = value_of(kernel_of("bytes", (1, 8, 64)), "q")
    found = find_byte(value)
    assert found is not None and found[0].name == "q"
    want = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).to(torch.bfloat16).view(torch.int16)
    assert list(found[1][:127]) == want.tolist()
    even = read(TEXTS["bytes"].format(m=1, n=8, k=64).replace("neg(", "abs("))
    assert find_byte(value_of(even, "q")) is None


def test_tables_are_those_of_memory_or_of_constants():
    def looked(value: str) -> object:
        text = "kernel f(q: u8[8], t: f32[20], u: f32[8]) -> (y: f32[8])\n  axes k:8\n  y[k] <- {}\n"
        return find_lookup(read(text.format(value)).stores[0].value)

    constants = looked("(f32(u8((i32(q[k]) & 15:i32))) - 8.0)")
    assert getattr(constants, "words", None) == tuple(
        torch.arange(-8, 8).bfloat16().view(torch.int16).bitwise_and(0xFFFF).int().bitwise_and(0xFFFF).tolist()
    )
    memory = looked("t[at(i64(u8((i32(q[k]) & 15:i32))), 16) + 4]")
    assert isinstance(getattr(memory, "table", None), Load)
    assert looked("t[at(i64(q[k]), 20)]") is None  # as many states as a byte
    assert looked("(f32(u8((i32(q[k]) & 15:i32))) * u[k])") is None
