import triton
import triton.language as tl


@triton.jit
def combine_max_f32(a0, b0):
    return tl.maximum(a0, b0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def columns(x, y, z):
    # m[c] = max(t) x[t, c]
    # s[c] = sum(t) exp((x[t, c] - m[c]))
    # y[c] = s[c]
    # z[t, c] = (exp((x[t, c] - m[c])) / s[c])
    pid = tl.program_id(0)
    c = pid * 64 + tl.arange(0, 64)[:, None]
    m = tl.full([64, 32], float("-inf"), tl.float32)
    for t0 in range(0, 4096, 32):
        t = t0 + tl.arange(0, 32)[None, :]
        x_v = tl.load(x + (c + 2048 * t))
        m = tl.maximum(m, x_v, propagate_nan=tl.PropagateNan.ALL)
    m_all = tl.reduce(m, 1, combine_max_f32, keep_dims=True)
    s = tl.full([64, 32], 0.0, tl.float32)
    for t0_1 in range(0, 4096, 32):
        t_1 = t0_1 + tl.arange(0, 32)[None, :]
        x_v_1 = tl.load(x + (c + 2048 * t_1))
        exp_v = tl.exp((x_v_1 - m_all))
        s = s + exp_v
    s_all = tl.sum(s, axis=1, keep_dims=True)
    tl.store(y + c, s_all)
    for t0_2 in range(0, 4096, 32):
        t_2 = t0_2 + tl.arange(0, 32)[None, :]
        x_v_2 = tl.load(x + (c + 2048 * t_2))
        exp_v_1 = tl.exp((x_v_2 - m_all))
        tl.store(z + (c + 2048 * t_2), exp_v_1 / s_all)
