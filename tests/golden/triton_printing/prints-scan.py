import triton
import triton.language as tl


@triton.jit
def combine_sum_f32(a0, b0):
    return a0 + b0


@triton.jit
def combine_sum_f64(a0, b0):
    return a0 + b0


@triton.jit
def scan_0(x, y):
    # a[t, c] = inclusive sum(c) x[t, c]
    # b[t, c] = inclusive sum(t) x[t, c]
    # y[t, c] = (a[t, c] * 0.5)
    # z[t, c] = b[t, c]
    pid = tl.program_id(0)
    t = pid
    a_carry = tl.full([], 0.0, tl.float64)
    c = tl.arange(0, 4096)
    x_v = tl.load(x + (c + 4096 * t))
    a_in = x_v
    run = tl.associative_scan(a_in, 0, combine_sum_f32)
    a = combine_sum_f32(run, a_carry.to(tl.float32))
    a_all = tl.sum(a_in, axis=0)
    a_carry = combine_sum_f64(a_carry, a_all.to(tl.float64))
    tl.store(y + (c + 4096 * t), a * 0.5)


@triton.jit
def scan_1(x, z):
    pid = tl.program_id(0)
    c = pid * 64 + tl.arange(0, 64)[:, None]
    b_carry = tl.full([], 0.0, tl.float64) + tl.full([64, 1], 0, tl.float64)
    for t0 in range(0, 64, 32):
        t = t0 + tl.arange(0, 32)[None, :]
        x_v = tl.load(x + (c + 4096 * t))
        b_in = x_v
        run = tl.associative_scan(b_in, 1, combine_sum_f32)
        b = combine_sum_f32(run, b_carry.to(tl.float32))
        b_all = tl.sum(b_in, axis=1, keep_dims=True)
        b_carry = combine_sum_f64(b_carry, b_all.to(tl.float64))
        tl.store(z + (c + 4096 * t), b)
