"""Which products of matrices become kernels of ours, and which a library computes.

Products with few rows are read from memory once, whatever computes them: those are ours, with all that is computed of
their operands and results. With many rows they are where no library is quicker: narrow floats that the processor does
not multiply itself (libraries are then slower than fp32, in which our kernels compute), integers (of which libraries
multiply bytes alone), bf16 without matrix registers (measured: as quick as oneDNN), and fp32 on processors that MKL
does not know (measured on a Zen 5: a third of what the processor does).

Convolutions over windows of several channels are arithmetic alone, in which libraries are as quick as a processor is:
they are ours where it does not multiply their type itself, and where reading the weights is most of the time: for few
positions, before which libraries put the weights into another order (measured: at 7 x 7 positions of 512 channels that
come last 1.6 times as quick as oneDNN, in fp32 and bf16).

The setting `gemm` overrules what is a question of cost.

Rows whose count is known at run time only are those of one kernel, whatever they are then: the example's count says who
is likely to be quicker.

Products on tile registers are ours only where the settings ask for them: nobody has measured those kernels.
"""

from __future__ import annotations

from ..codegen.cpp.isa import Isa
from ..ir.types import BF16, F16, F32, I8, I16, I32, U8, DType
from .frontend.contractions import Product

FEW_ROWS = 16  # of the smaller operand: so many share one pass over the larger one
FEW_POSITIONS = 64  # of images, for whose windows reading the weights is most of the time
LONG = 256  # products of a result, whose operands lie side by side for the most part
VECTORS = 32  # bytes of a register: with less, libraries are quicker
INSTRUCTIONS = {BF16: {"avx512_bf16", "amx_bf16"}, F16: {"avx512_fp16"}}
NOT_OF_MKL = "AuthenticAMD"  # MKL takes no AVX-512 there
FLOATS = (F32, BF16, F16)
INTEGERS = (I8, U8, I16, I32)


def judge_product(
    product: Product, isa: Isa, gemm: str = "auto", tiles: bool = False, links: bool = True
) -> str:  # fmt: skip
    """Why a library is to compute it, under the setting `gemm`; "" where a kernel is to.

    tiles  those that fit tile registers run on them
    links  the numerics allow that one kernel computes contractions that are linked
    """
    if gemm == "library":
        return "a contraction, which the setting gemm leaves to libraries"
    if isa.vector_bytes < VECTORS:
        return "a contraction, and no vector instructions to compute it with"
    if product.linked and product.is_static and gemm != "own":
        return _judge_linked(product, isa) if links else "a contraction whose order of additions is to be kept"
    if not product.is_static and (product.windows or not product.has_dynamic_rows):
        return "a contraction of dynamic sizes"
    left, right = product.dtypes
    whole = left in INTEGERS and right in INTEGERS
    if not whole and not (left in FLOATS and right in FLOATS):
        return "a contraction of other types than floats and integers of up to 32 bits"
    if product.groups != 0 and product.batch != 1:
        return "a contraction over the points of groups"
    if product.groups != 0 and not product.dense[product.large]:
        return "a contraction in groups whose matrices are not dense along what is summed over"
    if gemm == "own":
        return ""
    if product.windows:
        return _judge_windows(product, isa)
    rows = _count_rows(product)
    few = rows <= FEW_ROWS
    tiles = tiles and isa.permits_tiles and isa.tiles[0] and left is right is BF16 and product.is_static
    if not few and not (whole or tiles or _is_quick(left, right, isa)):
        return f"a contraction of more than {FEW_ROWS} rows"
    across = product.across[product.large] and product.is_static and (few or left is F32 or product.reordered)
    if not product.dense[product.large] and not across:
        return "a contraction whose larger operand is not dense along what is summed over"
    return ""


def _count_rows(product: Product) -> int:
    """Rows that share the larger operand: of one group, where there are several."""
    if isinstance(product.groups, int) and product.groups:
        return product.hints[0] // product.groups
    return product.hints[1 - product.large] if product.has_dynamic_rows else min(*_points(product))


def _judge_windows(product: Product, isa: Isa) -> str:
    left, right = product.dtypes
    if left is right and left in INSTRUCTIONS and not INSTRUCTIONS[left] & set(isa.features):
        return ""
    rows, columns = _points(product)
    few = product.batch == 1 and rows <= FEW_POSITIONS <= columns
    if few and product.dense[0] and product.depth >= LONG and _is_quick(left, right, isa):
        return ""
    return "a convolution over windows of several channels, in which a library is as quick"


def _judge_linked(product: Product, isa: Isa) -> str:
    """Libraries are quicker where they have registers for matrices; nowhere else do they keep results so close."""
    left, right = product.dtypes
    if left is not right or left not in FLOATS:
        return "a contraction of unlike types, or of other ones than floats"
    return "a contraction for registers of matrices" if left is BF16 and "amx_bf16" in isa.features else ""


def _points(product: Product) -> tuple[int, int]:
    rows, columns = product.rows, product.columns
    assert isinstance(rows, int) and isinstance(columns, int)
    return rows, columns


def _is_quick(left: DType, right: DType, isa: Isa) -> bool:
    """True where our kernels for many rows are as quick as libraries."""
    if left is not right:
        return False
    if left is F32:
        return isa.vendor == NOT_OF_MKL
    helps = INSTRUCTIONS[left] & set(isa.features)
    return not helps or (left is BF16 and isa.adds_pairs and helps == {"avx512_bf16"})
