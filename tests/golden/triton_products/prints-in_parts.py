import triton
import triton.language as tl


@triton.jit
def linear_0(x, w, s_part_all):
    # s_part[k_block, m, n] = sum(k_at) (f32(x[k_at + 512*k_block + 4096*m]) * f32(w[k_at + 512*k_block +
    #   4096*n]))
    # s[m, n] = (((s_part[0, m, n] + s_part[1, m, n]) + (s_part[2, m, n] + s_part[3, m, n])) + ((s_part[4, m, n] +
    #   s_part[5, m, n]) + (s_part[6, m, n] + s_part[7, m, n])))
    # y[1024*m + n] = bf16(max((s[m, n] + f32(b[n])), 0.0))
    pid = tl.program_id(0)
    k_block = pid // 16
    at = pid % 16
    m = (at // 16) * 16 + tl.arange(0, 16)[:, None]
    n = (at % 16) * 64 + tl.arange(0, 64)[None, :]
    s_part = tl.full([16, 64], 0.0, tl.float32)
    for k_at0 in range(0, 512, 64):
        k_at = k_at0 + tl.arange(0, 64)
        k_at_across = k_at[None, :]
        x_v = tl.load(x + (k_at_across + 512 * k_block + 4096 * m))
        k_at_down = k_at[:, None]
        w_v = tl.load(w + (k_at_down + 512 * k_block + 4096 * n))
        s_part = tl.dot(x_v, w_v, s_part)
    tl.store(s_part_all + (16384 * k_block + 1024 * m + n), s_part)


@triton.jit
def linear_1(b, y, s_part_all):
    pid = tl.program_id(0)
    n = tl.arange(0, 1024)
    m = pid
    s_part_all_v = tl.load(s_part_all + (1024 * m + n))
    s_part_all_v_1 = tl.load(s_part_all + (1024 * m + n + 16384))
    s_part_all_v_2 = tl.load(s_part_all + (1024 * m + n + 32768))
    s_part_all_v_3 = tl.load(s_part_all + (1024 * m + n + 49152))
    s_part_all_v_4 = tl.load(s_part_all + (1024 * m + n + 65536))
    s_part_all_v_5 = tl.load(s_part_all + (1024 * m + n + 81920))
    s_part_all_v_6 = tl.load(s_part_all + (1024 * m + n + 98304))
    s_part_all_v_7 = tl.load(s_part_all + (1024 * m + n + 114688))
    total = (s_part_all_v_4 + s_part_all_v_5) + (s_part_all_v_6 + s_part_all_v_7)
    total_1 = ((s_part_all_v + s_part_all_v_1) + (s_part_all_v_2 + s_part_all_v_3)) + total
    b_v = tl.load(b + n)
    max_v = tl.maximum((total_1 + b_v.to(tl.float32)), 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(y + (1024 * m + n), max_v.to(tl.bfloat16))
