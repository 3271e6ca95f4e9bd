"""Quantized linear layers against the bf16 layer, ATen's own int4 and int8 kernels, Inductor, and the roofline.

A row is a scheme of `treadle.quantize` at a number of rows: 4096 x 4096 weights, bf16 inputs, no bias. Targets over
the bf16 layer at so many rows: w4a16 5x at 1, 3x at 16, 1x at 128 and 512; w8a8 6x at 1, 5x at 16, 2x at 256; w8a16 5x
at 1, 2.2x at 16; 1.4x over ATen's kernels everywhere; no scheme slower than the layer without being listed (`slower`).
"""

from __future__ import annotations

from typing import Any

import torch
from harness import bind, compile_for, geomean, measure, set_up, verdict
from record import OURS, Record, contestants, count_pairs, make_parser, say
from summary import describe, judged_rows

import treadle
from treadle.compiler.quantize import QuantLinear, compute_reference, parse_scheme
from treadle.compiler.quantize import measure as measure_errors
from treadle.compiler.quantize.linear import BlockLinear, IntLinear
from treadle.compiler.quantize.schemes import Int

SIZE = 4096
FEW = (1, 16, 256)
MANY = (1, 4, 16, 128, 256, 512)
MAIN = ("w4a16", "w8a16", "w8a8")  # at all numbers of rows
OTHERS = (
    "w4a16-g64", "w4a16-g32", "w4a16-asym", "w4a16-nf4", "w4a16-nf4-r16", "w3a16", "w2a16", "w8a8-static",
    "w8a8-smooth", "w4a8", "w4a8-fp8", "w4a8-smooth", "w4a4", "w4ax", "fp8", "fp8-row", "fp8-block", "ternary",
    "ternary-a8", "codebook2", "codebook3", "codebook4", "bfp4", "bfp8", "mxfp4", "mxfp8", "planes1", "planes2",
    "planes4", "planes8",
)  # fmt: skip
LAYER, ATEN = "linear", "aten"
PEERS = (LAYER, ATEN, "inductor")
WORST = 1.5  # times the error that the eager module has


def main() -> None:
    set_up()
    args = make_parser(__doc__, peers=PEERS).parse_args()
    plans = {f"{scheme} {rows}": (scheme, rows) for scheme, rows in plan_rows(args.quick)}
    record = Record("quantized", args)
    ceilings = Ceilings()
    missing = record.missing(plans, args.only)
    for number, name in enumerate(missing, 1):
        row = measure_row(*plans[name], contestants(args), args.backend, count_pairs(args), ceilings)
        record.add(name, row)
        say(f"{number:3}/{len(missing)} {name:18} {describe(row)}; roofline {row['of_roofline']:.2f}")
    record.finish(summarize(record.rows))
    say(str(record.document["summary"]))


def plan_rows(quick: bool) -> list[tuple[str, int]]:
    few = (1, 16) if quick else MANY
    main = [(scheme, rows) for scheme in MAIN for rows in few]
    return main if quick else [*main, *((scheme, rows) for scheme in OTHERS for rows in FEW)]


class Ceilings:
    """What this machine reaches, measured once: a read of so many bytes, products of bf16 and of bytes in a library."""

    def __init__(self) -> None:
        self.known: dict[object, float] = {}

    def read(self, size: int) -> float:
        """Bytes per second of a pass over `size` bytes, whatever cache they fit."""
        if size not in self.known:
            held = torch.randn(size // 4)
            total = compile_for(OURS, torch.sum)
            self.known[size] = size / measure({"read": bind(total, (held,))}, pairs=20).median("read")
        return self.known[size]

    def multiply(self, dtype: torch.dtype) -> float:
        """Operations per second (two a product) of a large product of matrices."""
        if dtype not in self.known:
            a, b = (torch.randn(SIZE // k, SIZE).mul(9).to(dtype) for k in (4, 1))
            product = torch.ops.aten._int_mm if dtype is torch.int8 else torch.mm
            timing = measure({"mm": bind(product, (a, b.t()))}, pairs=20)
            self.known[dtype] = 2 * a.numel() * SIZE / timing.median("mm")
        return self.known[dtype]


def measure_row(
    name: str, rows: int, names: list[str], ours: str, pairs: int, ceilings: Ceilings
) -> dict[str, Any]:  # fmt: skip
    torch._dynamo.reset()
    x, layer, module = make_layer(name, rows)
    calls = {peer: bind(call, (x,)) for peer in names if (call := make_call(peer, layer, module)) is not None}
    exact, plain = compute_reference(module, x), relative(module(x), compute_reference(module, x))
    ran = {peer: torch.as_tensor(call()) for peer, call in calls.items() if peer not in (LAYER, ATEN)}
    errors = {peer: relative(got, exact) for peer, got in ran.items()}
    wrong = [peer for peer, error in errors.items() if error > WORST * plain]
    timing = measure(calls, pairs=pairs)
    report = measure_errors(torch.nn.Sequential(layer), torch.nn.Sequential(module)).layers[0]
    held = sum(t.numel() * t.element_size() for t in module.buffers())
    kind = torch.int8 if isinstance(module, IntLinear) else torch.bfloat16
    bound = max(held / ceilings.read(held), 2 * rows * SIZE * SIZE / ceilings.multiply(kind))
    found = {
        "times": timing.summary(), "wrong": wrong, "bits": round(report.bits, 3), "bytes": held,
        "error": {"weights": report.weights, "outputs": report.outputs, "arithmetic": errors | {"eager": plain}},
        "simulated": isinstance(module, BlockLinear), "bound_us": round(bound * 1e6, 1),
        "of_roofline": round(bound / timing.median(ours), 3) if ours in calls else 0.0,
    }  # fmt: skip
    return found | verdict(timing, ours, list(calls))


def make_layer(name: str, rows: int) -> tuple[torch.Tensor, torch.nn.Linear, QuantLinear]:
    """The inputs, the layer in bf16, and the quantized one."""
    generator = torch.Generator().manual_seed(rows)
    layer = torch.nn.Linear(SIZE, SIZE, bias=False)
    layer.weight.data = torch.randn(SIZE, SIZE, generator=generator) * SIZE**-0.5
    layer = layer.bfloat16().requires_grad_(requires_grad=False)
    x = torch.randn(rows, SIZE, generator=generator).bfloat16()
    scheme = parse_scheme(name)
    sample = [torch.randn(64, SIZE, generator=generator).bfloat16()] if scheme.needs_calibration else None
    quantized = treadle.quantize(torch.nn.Sequential(layer), scheme, calibration=sample)
    module = quantized.get_submodule("0")
    assert isinstance(module, QuantLinear)
    return x, layer, module


def make_call(peer: str, layer: torch.nn.Linear, module: QuantLinear) -> Any:
    """What computes the layer; None where the peer has nothing for the scheme."""
    if peer == LAYER:
        return layer
    if peer == ATEN:
        return make_library_call(module)
    return compile_for(peer, module)


def make_library_call(module: QuantLinear) -> Any:
    """ATen's own kernel: for weights of INT8, of INT4 in groups, and for INT8 inputs that eager multiplies so."""
    form, scale = module.scheme.weight, module.scale
    if isinstance(module, IntLinear):
        return module
    if module.scheme.activation is not None or module.scheme.rank or not isinstance(form, Int) or form.power:
        return None
    if form.bits == 8 and not form.group:
        codes, scales = module.elements(torch.int8), scale.flatten().bfloat16()
        return lambda x: torch.ops.aten._weight_int8pack_mm(x, codes, scales)
    if form.bits != 4 or not form.group or not form.symmetric:
        return None
    numbers = (module.elements(torch.float32) + 8).to(torch.int32)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers, 1)
    scales = scale.reshape(SIZE, -1).t().bfloat16()
    both = torch.stack([scales, torch.zeros_like(scales)], 2).contiguous()
    return lambda x: torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, form.group, both)


def relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm())


def summarize(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Ratios over the bf16 layer and over ATen's kernels, by scheme and rows; what is slower than the layer."""
    judged = judged_rows(rows)
    over = {peer: {n: r["over"][peer]["median"] for n, r in judged.items() if peer in r["over"]} for peer in PEERS}
    return {
        "rows": len(rows),
        "over_linear": over[LAYER],
        "over_aten": over[ATEN],
        "geomean_over": {peer: round(geomean(found.values()), 3) for peer, found in over.items() if found},
        "slower": {
            n: r["over"][LAYER]["median"] for n, r in judged.items() if r["over"].get(LAYER, {}).get("high", 1) < 1
        },
        "simulated": sorted({n.split()[0] for n, r in rows.items() if r["simulated"]}),
        "wrong": sorted(f"{n}: {', '.join(r['wrong'])}" for n, r in rows.items() if r["wrong"]),
    }


if __name__ == "__main__":
    main()
