import triton
import triton.language as tl


@triton.jit
def packed(x, q, s, y):
    # a[m, n] = sum(g, j) (((f32(x[128*g + 2*j + 384*m]) * f32(s[g + 3*n])) * (f32(u8((i32(q[64*g + j + 192*n]) &
    #   15:i32))) - 8.0)) + ((f32(x[128*g + 2*j + 384*m + 1]) * f32(s[g + 3*n])) * (f32(u8((i32(q[64*g + j +
    #   192*n]) >> 4:i32))) - 8.0)))
    # y[4096*m + n] = bf16(a[m, n])
    pid = tl.program_id(0)
    m = (pid // 128) * 16 + tl.arange(0, 16)[:, None]
    n = (pid % 128) * 32 + tl.arange(0, 32)[None, :]
    a = tl.full([16, 32], 0.0, tl.float32)
    for g in range(3):
        a_part = tl.full([16, 32], 0.0, tl.float32)
        j = tl.arange(0, 64)
        j_across = j[None, :]
        x_v = tl.load(x + (128 * g + 2 * j_across + 384 * m))
        x_v_1 = tl.load(x + (128 * g + 2 * j_across + 384 * m + 1))
        j_down = j[:, None]
        q_v = tl.load(q + (64 * g + j_down + 192 * n))
        v = q_v.to(tl.int32)
        operand = ((v & 15).to(tl.uint8).to(tl.float32) - 8.0).to(tl.bfloat16)
        operand_1 = ((v >> 4).to(tl.uint8).to(tl.float32) - 8.0).to(tl.bfloat16)
        a_part = tl.dot(x_v, operand, a_part)
        a_part = tl.dot(x_v_1, operand_1, a_part)
        s_v = tl.load(s + (g + 3 * n))
        a = a + (a_part * s_v.to(tl.float32))
    tl.store(y + (4096 * m + n), a.to(tl.bfloat16))
