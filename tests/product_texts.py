"""Kernels that are sums of products, for tests: of `m` rows, `n` columns and `k` points, in a type `d`."""

LINEAR = """
kernel linear(x: {d}[{m}, {k}], w: {d}[{n}, {k}], b: {d}[{n}]) -> (y: {d}[{m}, {n}])
  axes m:{m}, n:{n}, k:{k}
  s[m, n]: f32 = sum(k) operands {d} (f32(x[m, k]) * f32(w[n, k]))
  y[m, n] <- {d}(max((s[m, n] + f32(b[n])), 0.0))
"""
GATED = """
kernel gated(x: {d}[{m}, {k}], g: {d}[{n}, {k}], u: {d}[{n}, {k}]) -> (y: {d}[{m}, {n}], z: {d}[{m}, {n}])
  axes m:{m}, n:{n}, k:{k}
  s[m, n]: f32 = sum(k) operands {d} (f32(x[m, k]) * f32(g[n, k]))
  t[m, n]: f32 = sum(k) operands {d} (f32(x[m, k]) * f32(u[n, k]))
  v[m, n]: f32 = ((s[m, n] * sigmoid(s[m, n])) * t[m, n])
  y[m, n] <- {d}(v[m, n])
  z[m, n] <- {d}((v[m, n] * 2.0))
"""
NORMED = """
kernel normed(x: {d}[{m}, {k}], g: {d}[{k}], w: {d}[{n}, {k}]) -> (y: f32[{m}, {n}])
  axes m:{m}, n:{n}, k:{k}
  q[m]: f32 = sum(k) (f32(x[m, k]) * f32(x[m, k]))
  s[m, n]: f32 = sum(k) ((f32(x[m, k]) * f32(g[k])) * f32(w[n, k]))
  y[m, n] <- (s[m, n] * rsqrt((q[m] + 0.001)))
"""
HEADS = """
kernel heads(q: {d}[{m}, {n}, {k}], c: {d}[{m}, 7, {k}]) -> (y: {d}[{m}, 7, {n}])
  axes h:{m}, s:7, n:{n}, k:{k}
  a[h, s, n]: f32 = sum(k) operands {d} (f32(q[h, n, k]) * f32(c[h, s, k]))
  y[h, s, n] <- {d}((a[h, s, n] * 0.125))
"""
SCALED = """
kernel scaled(x: f32[{m}, {k}], w: i8[{n}, {k}], s: f32[{n}]) -> (y: f32[{m}, {n}])
  axes m:{m}, n:{n}, k:{k}
  a[m, n]: f32 = sum(k) (x[m, k] * f32(w[n, k]))
  y[m, n] <- (a[m, n] * s[n])
"""
WHOLE = """
kernel whole(x: i8[{m}, {k}], w: i8[{n}, {k}]) -> (y: i32[{m}, {n}])
  axes m:{m}, n:{n}, k:{k}
  a[m, n]: i32 = sum(k) (i32(x[m, k]) * i32(w[n, k]))
  y[m, n] <- a[m, n]
"""
PACKED = """
kernel packed(x: {d}[{m}, 3, {k}, 2], q: u8[{n}, 3, {k}], s: {d}[{n}, 3]) -> (y: {d}[{m}, {n}])
  axes m:{m}, n:{n}, g:3, j:{k}, d:2
  a[m, n]: f32 = sum(g, j, d) operands {d} ((f32(x[m, g, j, d]) * f32(s[n, g])) * (where((#(d) < 1:i64),
    f32(u8((i32(q[n, g, j]) & 15:i32))), f32(u8((i32(q[n, g, j]) >> 4:i32)))) - 8.0))
  y[m, n] <- {d}(a[m, n])
"""
CHANNELS = """
kernel channels(x: {d}[{m}, {k}], w: i8[{n}, {k}], s: f32[{n}], t: f32[{m}]) -> (y: f32[{m}, {n}])
  axes m:{m}, n:{n}, k:{k}
  a[m, n]: f32 = sum(k) operands {d} ((f32(x[m, k]) * t[m]) * (f32(w[n, k]) * s[n]))
  y[m, n] <- a[m, n]
"""
PRODUCTS = {
    "channels": CHANNELS, "packed": PACKED, "linear": LINEAR, "gated": GATED, "normed": NORMED,
    "heads": HEADS, "scaled": SCALED, "whole": WHOLE,
}  # fmt: skip
ACROSS = """
kernel across(x: {d}[{m}, {k}], w: {d}[{k}, {n}], b: f32[{n}]) -> (y: f32[{m}, {n}])
  axes m:{m}, n:{n}, k:{k}
  s[m, n]: f32 = sum(k) (f32(x[m, k]) * f32(w[k, n]))
  y[m, n] <- max((s[m, n] + b[n]), 0.0)
"""
BATCHED = """
kernel batched(x: {d}[3, {k}, {m}], w: {d}[3, {k}, {n}]) -> (y: f32[3, {m}, {n}])
  axes h:3, m:{m}, n:{n}, k:{k}
  s[h, m, n]: f32 = sum(k) (f32(x[h, k, m]) * exp(f32(w[h, k, n])))
  y[h, m, n] <- s[h, m, n]
"""
WINDOWS = """
kernel windows(x: {d}[{m}, 3, {k}], w: {d}[{n}, 2, 3, {k}], b: f32[{n}]) -> (y: f32[{m}, 3, {n}])
  axes i:{m}, j:3, n:{n}, t:2, u:3, k:{k}
  s[i, j, n]: f32 = sum(t, u, k) operands {d} (
    where(((#(i + t) < {m}:i64) & ((#(j + u) >= 1:i64) & (#(j + u) < 4:i64))),
      f32(x[i + t, j + u - 1, k if ((#(i + t) < {m}:i64) & ((#(j + u) >= 1:i64) & (#(j + u) < 4:i64)))]),
      0.0) * f32(w[n, t, u, k]))
  y[i, j, n] <- max((s[i, j, n] + b[n]), 0.0)
"""
IMAGES = """
kernel images(x: {d}[{k}, 5, {m}], w: {d}[{n}, {k}, 3, 2]) -> (y: f32[{n}, 3, {m}])
  axes n:{n}, i:3, j:{m}, k:{k}, t:3, u:2
  s[n, i, j]: f32 = sum(k, t, u) operands {d} (where((#(j + u) < {m}:i64), f32(x[k, i + t, j + u if
    (#(j + u) < {m}:i64)]), 0.0) * f32(w[n, k, t, u]))
  y[n, i, j] <- s[n, i, j]
"""
STATIC = PRODUCTS | {  # those that take no dynamic rows too
    "across": ACROSS, "batched": BATCHED, "windows": WINDOWS, "images": IMAGES,
}  # fmt: skip
IN_GROUP = "((i64(o[g - 1 if (#(g) >= 1:i64)]) <= #(m)) & (#(m) < i64(o[g])))"
GROUPS = {
    "plain": """
kernel plain(x: {d}[{m}, {k}], w: {d}[{g}, {n}, {k}], o: i32[{g}]) -> (y: {d}[{m}, {n}])
  axes m:{m}, n:{n}, g:{g}, k:{k}
  s[m, n]: f32 = sum(g, k) operands {d} where(IN, (f32(x[m, k]) * f32(w[g, n, k])), 0.0)
  y[m, n] <- {d}(s[m, n])
""",
    "gated": """
kernel gated(x: {d}[{m}, {k}], a: {d}[{g}, {n}, {k}], b: {d}[{g}, {n}, {k}], o: i64[{g}], r: f32[{m}])
    -> (y: f32[{m}, {n}])
  axes m:{m}, n:{n}, g:{g}, k:{k}
  s[m, n]: f32 = sum(g, k) operands {d} where(IN, (f32(x[m, k]) * f32(a[g, n, k])), 0.0)
  t[m, n]: f32 = sum(g, k) operands {d} where(IN, (f32(x[m, k]) * f32(b[g, n, k])), 0.0)
  y[m, n] <- (((s[m, n] * sigmoid(s[m, n])) * (t[m, n] + 1.0)) * r[m])
""",
    "bytes": """
kernel bytes(x: {d}[{m}, {k}], w: i8[{g}, {n}, {k}], c: f32[{g}, {n}], o: i32[{g}]) -> (y: f32[{m}, {n}])
  axes m:{m}, n:{n}, g:{g}, k:{k}
  s[m, n]: f32 = sum(g, k) operands {d} where(IN, (f32(x[m, k]) * (f32(w[g, n, k]) * c[g, n])), 0.0)
  y[m, n] <- s[m, n]
""",
    "taken": """
kernel taken(x: {d}[5, {k}], w: {d}[{g}, {n}, {k}], o: i32[{g}], d: i32[{m}]) -> (y: f32[{m}, {n}])
  axes m:{m}, n:{n}, g:{g}, k:{k}
  s[m, n]: f32 = sum(g, k) operands {d} where(IN, (f32(x[at(i64(d[m]), 5, nowrap), k]) * f32(w[g, n, k])), 0.0)
  y[m, n] <- (s[m, n] + 2.0)
""",
}
GROUPS = {name: text.replace("IN,", f"{IN_GROUP},") for name, text in GROUPS.items()}
