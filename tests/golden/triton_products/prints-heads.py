import triton
import triton.language as tl


@triton.jit
def heads(q, c, y):
    # a[b, gm, n] = sum(k) (f32(q[65536*b + 64*gm + k]) * f32(c[32768*b + k + 64*n]))
    # y[524288*b + 512*gm + n] = bf16((a[b, gm, n] * 0.125))
    pid = tl.program_id(0)
    b = pid // 64
    at = pid % 64
    first = at // 64 * 8
    inside = at % 64
    gm = (first + inside % 8) * 128 + tl.arange(0, 128)[:, None]
    n = (inside // 8) * 64 + tl.arange(0, 64)[None, :]
    a = tl.full([128, 64], 0.0, tl.float32)
    k = tl.arange(0, 64)
    k_across = k[None, :]
    q_v = tl.load(q + (65536 * b + 64 * gm + k_across))
    k_down = k[:, None]
    c_v = tl.load(c + (32768 * b + k_down + 64 * n))
    a = tl.dot(q_v, c_v, a)
    tl.store(y + (524288 * b + 512 * gm + n), (a * 0.125).to(tl.bfloat16))
