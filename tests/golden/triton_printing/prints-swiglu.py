import triton
import triton.language as tl


@triton.jit
def swiglu(g, x, y):
    # y[t, c] = bf16(((f32(g[t, c]) * sigmoid(f32(g[t, c]))) * f32(x[t, c])))
    pid = tl.program_id(0)
    tc = pid * 1024 + tl.arange(0, 1024)
    g_v = tl.load(g + tc)
    v = g_v.to(tl.float32)
    x_v = tl.load(x + tc)
    tl.store(y + tc, ((v * tl.sigmoid(v)) * x_v.to(tl.float32)).to(tl.bfloat16))
