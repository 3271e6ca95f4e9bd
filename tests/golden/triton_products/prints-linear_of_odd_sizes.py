import triton
import triton.language as tl


@triton.jit
def linear(x, w, b, y):
    # s[m, n] = sum(k) (f32(x[k + 3000*m]) * f32(w[k + 3000*n]))
    # y[1001*m + n] = bf16(max((s[m, n] + f32(b[n])), 0.0))
    pid = tl.program_id(0)
    first = pid // 128 * 4
    inside = pid % 128
    m = (first + inside % 4) * 32 + tl.arange(0, 32)[:, None]
    m_in = m < 100
    n = (inside // 4) * 32 + tl.arange(0, 32)[None, :]
    n_in = n < 1001
    s = tl.full([32, 32], 0.0, tl.float32)
    for k0 in range(0, 3000, 64):
        k = k0 + tl.arange(0, 64)
        k_across = k[None, :]
        k_in = k_across < 3000
        x_v = tl.load(x + (k_across + 3000 * m), mask=m_in & k_in, other=0)
        k_down = k[:, None]
        k_in_1 = k_down < 3000
        w_v = tl.load(w + (k_down + 3000 * n), mask=k_in_1 & n_in, other=0)
        s = tl.dot(x_v, w_v, s)
    b_v = tl.load(b + n, mask=n_in, other=0)
    max_v = tl.maximum((s + b_v.to(tl.float32)), 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(y + (1001 * m + n), max_v.to(tl.bfloat16), mask=m_in & n_in)
