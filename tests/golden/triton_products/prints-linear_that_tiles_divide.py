import triton
import triton.language as tl


@triton.jit
def linear(x, w, b, y):
    # s[m, n] = sum(k) (f32(x[k + 4096*m]) * f32(w[k + 4096*n]))
    # y[4096*m + n] = bf16(max((s[m, n] + f32(b[n])), 0.0))
    pid = tl.program_id(0)
    first = pid // 256 * 8
    inside = pid % 256
    m = (first + inside % 8) * 128 + tl.arange(0, 128)[:, None]
    n = (inside // 8) * 128 + tl.arange(0, 128)[None, :]
    s = tl.full([128, 128], 0.0, tl.float32)
    for k0 in range(0, 4096, 64):
        k = k0 + tl.arange(0, 64)
        k_across = k[None, :]
        x_v = tl.load(x + (k_across + 4096 * m))
        k_down = k[:, None]
        w_v = tl.load(w + (k_down + 4096 * n))
        s = tl.dot(x_v, w_v, s)
    b_v = tl.load(b + n)
    max_v = tl.maximum((s + b_v.to(tl.float32)), 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(y + (4096 * m + n), max_v.to(tl.bfloat16))
