import triton
import triton.language as tl


@triton.jit
def gated(x, g, u, y):
    # s[m, n] = sum(k) (f32(x[k + 4096*m]) * f32(g[k + 4096*n]))
    # t[m, n] = sum(k) (f32(x[k + 4096*m]) * f32(u[k + 4096*n]))
    # y[4096*m + n] = bf16(((s[m, n] * sigmoid(s[m, n])) * t[m, n]))
    pid = tl.program_id(0)
    m = (pid // 128) * 16 + tl.arange(0, 16)[:, None]
    n = (pid % 128) * 32 + tl.arange(0, 32)[None, :]
    s = tl.full([16, 32], 0.0, tl.float32)
    t = tl.full([16, 32], 0.0, tl.float32)
    for k0 in range(0, 4096, 64):
        k = k0 + tl.arange(0, 64)
        k_across = k[None, :]
        x_v = tl.load(x + (k_across + 4096 * m))
        k_down = k[:, None]
        g_v = tl.load(g + (k_down + 4096 * n))
        u_v = tl.load(u + (k_down + 4096 * n))
        s = tl.dot(x_v, g_v, s)
        t = tl.dot(x_v, u_v, t)
    tl.store(y + (4096 * m + n), ((s * tl.sigmoid(s)) * t).to(tl.bfloat16))
