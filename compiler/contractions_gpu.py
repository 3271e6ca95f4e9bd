"""Which products of matrices become kernels of ours on a GPU, and which a library computes.

No GPU has timed ours yet, so a library keeps all that it does as it is. What it cannot do is to unpack an operand on
the way: weights of bytes or nibbles are written out as halves first, and read again. With few rows, where reading the
weights is all of the time, that is several times what ours reads. The setting `gemm` overrules this.
"""

from __future__ import annotations

from ..ir.types import BF16, F16, F32, I8
from .frontend.contractions import Product

FEW_ROWS = 64  # of the smaller operand: a product is bound by memory with so many, and far from bound by arithmetic
HALVES = (BF16, F16)
KNOWN = (*HALVES, F32, I8)


def judge_gpu_product(product: Product, gemm: str) -> str:
    """Why a library is to compute it, under the setting `gemm`; "" where a kernel is to."""
    if gemm == "library":
        return "a contraction, which the setting gemm leaves to libraries"
    if product.groups != 0:
        return "a contraction in groups, for which there is no kernel on GPUs yet"
    if not product.is_static:
        return "a contraction of dynamic sizes"
    left, right = product.dtypes
    if left is not right or left not in KNOWN:
        return "a contraction of other types than bf16, f16, f32 and bytes"
    if gemm == "own":
        return ""
    if product.windows:
        return "a convolution over windows of several channels, which a library keeps"
    rows, columns = product.rows, product.columns
    assert isinstance(rows, int) and isinstance(columns, int)
    if left not in HALVES or not product.unpacked[1 if columns >= rows else 0]:
        return "a contraction of operands that a library reads as they are"
    return "" if min(rows, columns) <= FEW_ROWS else f"a contraction of more than {FEW_ROWS} rows"
