import triton
import triton.language as tl


@triton.jit
def whole(x, w, s, t, y):
    # a[m, n] = sum(k) (i32(x[k + 4096*m]) * i32(w[k + 4096*n]))
    # y[4096*m + n] = bf16(((f32(a[m, n]) * t[m]) * s[n]))
    pid = tl.program_id(0)
    first = pid // 128 * 2
    inside = pid % 128
    m = (first + inside % 2) * 64 + tl.arange(0, 64)[:, None]
    n = (inside // 2) * 64 + tl.arange(0, 64)[None, :]
    a = tl.full([64, 64], 0, tl.int32)
    for k0 in range(0, 4096, 128):
        k = k0 + tl.arange(0, 128)
        k_across = k[None, :]
        x_v = tl.load(x + (k_across + 4096 * m))
        k_down = k[:, None]
        w_v = tl.load(w + (k_down + 4096 * n))
        a = tl.dot(x_v, w_v, a)
    t_v = tl.load(t + m)
    s_v = tl.load(s + n)
    tl.store(y + (4096 * m + n), ((a.to(tl.float32) * t_v) * s_v).to(tl.bfloat16))
