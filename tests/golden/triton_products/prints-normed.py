import triton
import triton.language as tl


@triton.jit
def normed(x, g, w, y):
    # q[m] = sum(k) (f32(x[k + 4096*m]) * f32(x[k + 4096*m]))
    # s[m, n] = sum(k) ((f32(x[k + 4096*m]) * f32(g[k])) * f32(w[k + 4096*n]))
    # y[4096*m + n] = (s[m, n] * rsqrt((q[m] + 0.001)))
    pid = tl.program_id(0)
    first = pid // 128 * 2
    inside = pid % 128
    m = (first + inside % 2) * 64 + tl.arange(0, 64)[:, None]
    n = (inside // 2) * 64 + tl.arange(0, 64)[None, :]
    q = tl.full([64, 1], 0.0, tl.float32)
    s = tl.full([64, 64], 0.0, tl.float32)
    for k0 in range(0, 4096, 32):
        k = k0 + tl.arange(0, 32)
        k_across = k[None, :]
        x_v = tl.load(x + (k_across + 4096 * m))
        v = x_v.to(tl.float32)
        operand = v * v
        g_v = tl.load(g + k_across)
        operand_1 = v * g_v.to(tl.float32)
        k_down = k[:, None]
        w_v = tl.load(w + (k_down + 4096 * n))
        operand_2 = w_v.to(tl.float32)
        q += tl.sum(operand.to(tl.float32), axis=1, keep_dims=True)
        s = tl.dot(operand_1, operand_2, s, input_precision="ieee")
    tl.store(y + (4096 * m + n), s * tl.rsqrt((q + 0.0010000000474974513)))
