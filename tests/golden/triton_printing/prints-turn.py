import triton
import triton.language as tl


@triton.jit
def turn(x, g, y, z):
    # y[t, c] = x[c, t]
    # z[t, c] = bf16((f32(x[c, t]) + f32(g[t, c])))
    pid = tl.program_id(0)
    c = (pid % 16) * 32 + tl.arange(0, 32)[None, :]
    t = (pid // 16) * 32 + tl.arange(0, 32)[:, None]
    x_v = tl.load(x + (256 * c + t))
    tl.store(y + (c + 512 * t), x_v)
    x_v_1 = tl.load(x + (256 * c + t))
    g_v = tl.load(g + (c + 512 * t))
    tl.store(z + (c + 512 * t), (x_v_1.to(tl.float32) + g_v.to(tl.float32)).to(tl.bfloat16))
