import triton
import triton.language as tl


@triton.jit
def rms(x, g, y):
    # s[t] = sum(c) (f32(x[t, c]) * f32(x[t, c]))
    # y[t, c] = bf16(((f32(x[t, c]) * rsqrt(((s[t] * 0.001) + 1e-06))) * f32(g[c])))
    pid = tl.program_id(0)
    t = pid
    s = tl.full([4096], 0.0, tl.float32)
    c = tl.arange(0, 4096)
    c_in = c < 3001
    x_v = tl.load(x + (c + 3001 * t), mask=c_in, other=0)
    v = x_v.to(tl.float32)
    s = tl.where(c_in, s + (v * v), s)
    s_all = tl.sum(s, axis=0)
    v_1 = v * tl.rsqrt(((s_all * 0.0010000000474974513) + 9.999999974752427e-07))
    g_v = tl.load(g + c, mask=c_in, other=0)
    tl.store(y + (c + 3001 * t), (v_1 * g_v.to(tl.float32)).to(tl.bfloat16), mask=c_in)
