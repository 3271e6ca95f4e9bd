"""A gated linear recurrence written as cumulative sums: h[t] = a[t] * h[t-1] + b[t], without a Python loop.

Run it with `treadle run examples/05_scan.py`. With A[t] = log a[1] + ... + log a[t] the recurrence is
h[t] = exp(A[t]) * sum(s <= t) b[s] * exp(-A[s]). Within blocks the exponents stay small; the last state of each is
carried on by a scan over the blocks, in the same form.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import pad, silu, softplus

BLOCK = 32


class GatedScan(nn.Module):
    """A layer of a state-space model in cumulative form: norm, gates, scan over time, output projection."""

    def __init__(self, width: int = 512, slowest: float = 0.02) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.slowest = slowest

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [batch, time, width] -> the same shape; time is a multiple of the block."""
        value, forget, gate = self.project(self.norm(x)).float().chunk(3, dim=-1)
        decay = -self.slowest * softplus(forget)  # log a, negative: the state forgets
        state = scan_blocks(decay, value * -torch.expm1(decay))
        return x + self.out((state * silu(gate)).to(x.dtype))


def scan_blocks(log_a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """h[t] = exp(log_a[t]) * h[t-1] + b[t] along dimension 1, from h = 0: [batch, time, width] -> the same shape."""
    log_a, b = log_a.unflatten(1, (-1, BLOCK)), b.unflatten(1, (-1, BLOCK))
    reach = log_a.cumsum(2)  # how much of the state before the block is left at each step, as a logarithm
    inside = reach.exp() * (b * (-reach).exp()).cumsum(2)
    left, last = reach[:, :, -1], inside[:, :, -1]
    carried = left.cumsum(1).exp() * (last * (-left.cumsum(1)).exp()).cumsum(1)
    before = pad(carried[:, :-1], (0, 0, 1, 0))
    return (inside + reach.exp() * before[:, :, None]).flatten(1, 2)


def build(
    dtype: torch.dtype = torch.bfloat16, *, batch: int = 2, time: int = 512
) -> tuple[nn.Module, tuple[torch.Tensor]]:
    """Two layers and `batch` random sequences, [batch, time, 512]."""
    torch.manual_seed(0)
    model = nn.Sequential(GatedScan(), GatedScan()).to(dtype).eval()
    return model, (torch.randn(batch, time, 512, dtype=dtype),)


def main() -> None:
    model, inputs = build()
    compiled = torch.compile(model, backend="treadle")
    with torch.no_grad():
        result = compiled(*inputs)
    print(f"result {tuple(result.shape)}, deviation {float(result.float().std()):.3f}")


if __name__ == "__main__":
    main()
