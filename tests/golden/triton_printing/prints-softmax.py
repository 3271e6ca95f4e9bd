import triton
import triton.language as tl


@triton.jit
def combine_max_f32(a0, b0):
    return tl.maximum(a0, b0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def softmax(x, y):
    # m[t] = max(c) x[t, c]
    # e[t, c] = exp((x[t, c] - m[t]))
    # l[t] = sum(c) e[t, c]
    # y[t, c] = (e[t, c] / l[t])
    pid = tl.program_id(0)
    t = pid
    m = tl.full([4096], float("-inf"), tl.float32)
    c = tl.arange(0, 4096)
    x_v = tl.load(x + (c + 4096 * t))
    m = tl.maximum(m, x_v, propagate_nan=tl.PropagateNan.ALL)
    m_all = tl.reduce(m, 0, combine_max_f32)
    l = tl.full([4096], 0.0, tl.float32)
    exp_v = tl.exp((x_v - m_all))
    l = l + exp_v
    l_all = tl.sum(l, axis=0)
    tl.store(y + (c + 4096 * t), exp_v / l_all)
