"""Kernels as text that the tests of the C++ target share, and inputs for them.

`{d}` is their type, «x» a value of it in f32, ‹x› a value of f32 in it.
"""

from __future__ import annotations

import torch
from strategies import random_tensor

from treadle.ir.loops import Kernel
from treadle.ir.text import parse_kernel
from treadle.ir.types import evaluate

SWIGLU = """
kernel swiglu(g: {d}[{T}, {C}], x: {d}[{T}, {C}]) -> (y: {d}[{T}, {C}])
  axes t:{T}, c:{C}
  y[t, c] <- ‹((«g[t, c]» * sigmoid(«g[t, c]»)) * «x[t, c]»)›
"""
RMS = """
kernel rms(x: {d}[{T}, {C}], g: {d}[{C}]) -> (y: {d}[{T}, {C}])
  axes t:{T}, c:{C}
  s[t]: f32 = sum(c) («x[t, c]» * «x[t, c]»)
  y[t, c] <- ‹((«x[t, c]» * rsqrt(((s[t] * 0.001) + 1e-06))) * «g[c]»)›
"""
SOFTMAX = """
kernel softmax(x: {d}[{T}, {C}]) -> (y: {d}[{T}, {C}])
  axes t:{T}, c:{C}
  m[t]: f32 = max(c) «x[t, c]»
  e[t, c]: f32 = exp((«x[t, c]» - m[t]))
  l[t]: f32 = sum(c) e[t, c]
  y[t, c] <- ‹(e[t, c] / l[t])›
"""
STREAMED = """
kernel streamed(x: {d}[{T}, {C}]) -> (y: {d}[{T}, {C}], z: f32[{T}])
  axes t:{T}, c:{C}
  (m[t]: f32, l[t]: f32) = max_sum_exp(c) «x[t, c]»
  y[t, c] <- ‹(exp((«x[t, c]» - m[t])) / l[t])›
  z[t] <- (m[t] + log(l[t]))
"""
MOMENTS = """
kernel moments(x: {d}[{T}, {C}]) -> (y: f32[{T}], z: f32[{T}])
  axes t:{T}, c:{C}
  (_[t]: f32, mean[t]: f32, m2[t]: f32) = moments(c) «x[t, c]»
  y[t] <- mean[t]
  z[t] <- m2[t]
"""
COLUMNS = """
kernel columns(x: {d}[{T}, {C}]) -> (y: f32[{C}], z: {d}[{T}, {C}])
  axes t:{T}, c:{C}
  m[c]: f32 = max(t) «x[t, c]»
  s[c]: f32 = sum(t) exp((«x[t, c]» - m[c]))
  y[c] <- s[c]
  z[t, c] <- ‹(exp((«x[t, c]» - m[c])) / s[c])›
"""
MIDDLE = """
kernel middle(x: {d}[{T}, 7, {C}]) -> (y: f32[{T}, {C}])
  axes t:{T}, c:{C}, k:7
  s[t, c]: f32 = sum(k) «x[t, k, c]»
  y[t, c] <- s[t, c]
"""
TOTAL = """
kernel total(x: {d}[{T}, {C}]) -> (y: f32[], z: {d}[{T}, {C}])
  axes t:{T}, c:{C}
  s[]: f32 = sum(t, c) («x[t, c]» * 0.5)
  z[t, c] <- ‹(«x[t, c]» + 1.0)›
  y[] <- s[]
"""
BOTH = """
kernel both(x: {d}[{T}, {C}], g: {d}[{T}, {C}]) -> (y: {d}[{T}, {C}], z: f32[{C}])
  axes t:{T}, c:{C}
  s[t]: f32 = sum(c) («x[t, c]» * «g[t, c]»)
  y[t, c] <- ‹((«g[t, c]» - s[t]) * «x[t, c]»)›
  b[c]: f32 = sum(t) («g[t, c]» * s[t])
  z[c] <- b[c]
"""
ARGMAX = """
kernel argmax(x: {d}[{T}, {C}]) -> (y: i64[{T}], z: i64[{C}])
  axes t:{T}, c:{C}
  (_[t]: f32, k[t]: i64) = argmax(c) «x[t, c]», #(c)
  (_[c]: f32, j[c]: i64) = argmin(t) «x[t, c]», #(t)
  y[t] <- k[t]
  z[c] <- j[c]
"""
TURN = """
kernel turn(x: {d}[{C}, {T}], g: {d}[{T}, {C}]) -> (y: {d}[{T}, {C}], z: {d}[{T}, {C}])
  axes t:{T}, c:{C}
  y[t, c] <- x[c, t]
  z[t, c] <- ‹(«x[c, t]» + «g[t, c]»)›
"""
SCAN = """
kernel scan(x: {d}[{T}, {C}]) -> (y: {d}[{T}, {C}], z: f32[{T}, {C}])
  axes t:{T}, c:{C}
  a[t, c]: f32 = scan sum(c) inclusive «x[t, c]»
  b[t, c]: f32 = scan sum(t) inclusive «x[t, c]»
  y[t, c] <- ‹(a[t, c] * 0.5)›
  z[t, c] <- b[t, c]
"""
LATEST = """
kernel latest(x: i64[{T}, {C}]) -> (y: i64[{T}, {C}], z: i64[{T}, {C}])
  axes t:{T}, c:{C}
  (m[t, c]: i64, k[t, c]: i64) = scan argmax_last(c) inclusive reverse x[t, c], #(c)
  (n[t, c]: i64, l[t, c]: i64) = scan argmin_last(t) inclusive reverse x[t, c], #(t)
  y[t, c] <- (m[t, c] * k[t, c])
  z[t, c] <- (n[t, c] - l[t, c])
"""
SCANS = """
kernel scans(x: {d}[{T}, {C}]) -> (y: f32[{T}, {C}], z: i64[{T}, {C}], r: f32[{T}, {C}], q: f32[{T}, {C}])
  axes t:{T}, c:{C}
  (m[t, c]: f32, k[t, c]: i64) = scan argmax_last(c) inclusive «x[t, c]», #(c)
  p[t, c]: f32 = scan max(c) inclusive «x[t, c]»
  s[t, c]: f32 = scan sum(c) exclusive «x[t, c]»
  v[t, c]: f32 = scan sum(t) inclusive reverse «x[t, c]»
  y[t, c] <- m[t, c]
  z[t, c] <- k[t, c]
  r[t, c] <- (s[t, c] + p[t, c])
  q[t, c] <- v[t, c]
"""
EMBED = """
kernel embed(d: i64[{T}], w: {d}[5, {C}]) -> (y: {d}[{T}, {C}])
  axes t:{T}, c:{C}
  y[t, c] <- w[at(d[t], 5), c]
"""
GATHER = """
kernel gather(d: i32[{T}, {C}], w: {d}[{T}, 5]) -> (y: {d}[{T}, {C}])
  axes t:{T}, c:{C}
  y[t, c] <- w[t, at(i64(d[t, c]), 5, nowrap)]
"""
SCATTER = """
kernel scatter(d: i64[{T}], x: {d}[{T}, {C}], w: {d}[5, {C}]) -> (w: {d}[5, {C}])
  axes t:{T}, c:{C}
  w[at(d[t], 5), c] += x[t, c] colliding for (t, c)
"""
HISTOGRAM = """
kernel histogram(d: i64[{T}], n: i64[5]) -> (n: i64[5])
  axes t:{T}
  n[at(d[t], 5)] += 1:i64 colliding for (t)
"""
MASKED = """
kernel masked(x: {d}[{T}, {C}]) -> (y: {d}[{T}, {C}])
  axes t:{T}, c:{C}
  y[t, c] <- ‹where((#(c) > #(t)), -inf, («x[t, c]» * 0.125))›
"""
PAD = """
kernel pad(x: {d}[{T}, {C}]) -> (y: {d}[{T}, {C}])
  axes t:{T}, c:{C}
  y[t, c] <- where((#(c - 2) >= 0:i64), x[t, c - 2 if (#(c - 2) >= 0:i64)], x[t, 0])
"""
TABLE = """
kernel table(d: i64[{T}, {C}], w: {d}[3, 2]) -> (i: i64[{T}, {C}], y: {d}[{T}, {C}], z: f32[{T}, {C}])
  axes t:{T}, c:{C}
  k[t, c]: i64 = where((#(c) < 1:i64), 3:i64, where((#(t) < 1:i64), 2:i64, d[t, c]))
  i[t, c] <- k[t, c]
  y[t, c] <- w[(at(k[t, c], 5) // 2), (at(k[t, c], 5) % 2)]
  z[t, c] <- where((#(at(k[t, c], 5)) < 3:i64), f32(#((at(k[t, c], 5) % 3))), f32(#((at(k[t, c], 5) // 3))))
"""
PIECES = """
kernel pieces(x: {d}[{T}, {C}]) -> (y: i64[{T}, {C}], z: f32[{T}, {C}], w: f32[{T}])
  axes t:{T}, c:{C}
  p[t, c]: i64 = scan sum(c) inclusive where((#(c) >= 3:i64), 2:i64, 5:i64)
  s[t, c]: f32 = scan sum(c) inclusive where((#(c) < 18:i64), «x[t, c]», 1.5)
  r[t]: f32 = sum(c) where((#(c) < 18:i64), «x[t, c]», 1.5)
  y[t, c] <- p[t, c]
  z[t, c] <- s[t, c]
  w[t] <- r[t]
"""
IN_PLACE = """
kernel in_place(x: {d}[{T}, {C}], g: {d}[{C}]) -> (x: {d}[{T}, {C}])
  axes t:{T}, c:{C}
  x[t, c] <- ‹(«x[t, c]» + «g[c]»)›
"""
DIGITS = """
kernel digits(x: {d}[{C}], g: f32[{C}]) -> (y: f32[{T}, {C}])
  axes t:{T}, c:{C}
  y[t, c] <- ((«x[(c // 16)]» + g[(c // 5)]) + f32(#((c % 3) + 2*t)))
"""

EVERYWHERE = {
    "swiglu": SWIGLU, "rms": RMS, "softmax": SOFTMAX, "streamed": STREAMED, "moments": MOMENTS, "columns": COLUMNS,
    "middle": MIDDLE, "total": TOTAL, "both": BOTH, "argmax": ARGMAX, "turn": TURN, "scan": SCAN, "scans": SCANS,
    "embed": EMBED, "gather": GATHER, "scatter": SCATTER, "histogram": HISTOGRAM, "masked": MASKED, "pad": PAD,
    "pieces": PIECES, "table": TABLE, "in_place": IN_PLACE, "digits": DIGITS,
}  # fmt: skip

# Axes that data bounds: what they read is given with them.
RAGGED = {
    "segments": (
        """
        kernel segments(x: f32[200, 3], off: i32[5]) -> (y: f32[4, 3], n: f32[200])
          axes b:4, c:3, t:200 in i64(off[b])..i64(off[b + 1])
          s[b, c]: f32 = sum(t) x[t, c]
          y[b, c] <- s[b, c]
          n[t] <- f32(#(b)) for (b, t)
        """,
        {"off": [0, 43, 43, 71, 200]},
    ),
    "rows of a grid": (
        """
        kernel rows(x: f32[10, 3], w: f32[4], off: i64[5]) -> (y: f32[10, 3])
          axes b:4, c:3, t:10 in off[b]..off[b + 1]
          y[t, c] <- (x[t, c] * w[b]) for (b, t, c)
        """,
        {"off": [0, 4, 4, 7, 10]},
    ),
    "long sums": (
        """
        kernel sums(x: f32[10000], off: i64[5]) -> (y: f32[4])
          axes b:4, t:10000 in off[b]..off[b + 1]
          s[b]: f32 = sum(t) x[t]
          y[b] <- s[b]
        """,
        {"off": [0, 4000, 4000, 7001, 10000]},
    ),
    "up to a length": (
        """
        kernel prefixes(x: f32[8, 64], n: i64[8]) -> (y: f32[8])
          axes b:8, t:64 in _..n[b]
          s[b]: f32 = sum(t) x[b, t]
          y[b] <- s[b]
        """,
        {"n": [0, 64, 3, 5, 63, 17, 1, 80]},
    ),
    "from a start": (
        """
        kernel suffixes(x: f32[8, 64], n: i64[8]) -> (y: f32[8])
          axes b:8, t:64 in n[b].._
          s[b]: f32 = sum(t) x[b, t]
          y[b] <- s[b]
        """,
        {"n": [0, 64, 3, 5, 63, 17, 1, -4]},
    ),
    "strided bounds": (
        """
        kernel strided(x: f32[12, 3], w: f32[2, 2], off: i64[2, 3] strides [4, 1] offset 1)
            -> (y: f32[12, 3], z: f32[2, 2])
          axes b:2, h:2, c:3, t:12 in off[b, h]..off[b, h + 1]
          y[t, c] <- (x[t, c] * w[b, h]) for (b, h, t, c)
          s[b, h]: f32 = sum(t) x[t, 0]
          z[b, h] <- (s[b, h] + w[b, h])
        """,
        {"off": [[0, 4, 5], [5, 5, 12]]},
    ),
}


def ragged(name: str) -> tuple[Kernel, dict[str, torch.Tensor]]:
    """A kernel of `RAGGED` and its inputs."""
    text, data = RAGGED[name]
    kernel = parse_kernel(text)
    inputs = inputs_of(kernel, 1)
    return kernel, inputs | {n: torch.tensor(v).to(inputs[n].dtype) for n, v in data.items()}


def kernel_of(text: str, dtype: str = "f32", T: object = 64, C: object = 4096) -> Kernel:
    """The kernel of a text for T rows of C columns of a type; a size may be the name of a symbol."""
    plain = dtype == "f32"
    marks = {"«": "" if plain else "f32(", "‹": "" if plain else f"{dtype}(", "»": "" if plain else ")"}
    marks["›"] = marks["»"]
    return parse_kernel(text.format(d=dtype, T=T, C=C).strip().translate(str.maketrans(marks)) + "\n")


def inputs_of(kernel: Kernel, seed: int, sizes: dict[str, int] | None = None) -> dict[str, torch.Tensor]:
    """Random inputs; `d` holds indices of a dimension of 5, negative ones where they may be."""
    made = {}
    for k, b in enumerate(kernel.inputs):
        shape = tuple(evaluate(n, sizes or {}) for n in b.shape)
        limits = ((-5 if b.dtype.itemsize == 8 else 0), 4) if b.name == "d" else (-3, 3)
        made[b.name] = random_tensor(shape, b.dtype, seed + k, *limits)
    return made
