import triton
import triton.language as tl


@triton.jit
def embed(d, w, y, bad):
    # y[t, c] = w[at(d[t], 5), c]
    pid = tl.program_id(0)
    c = tl.arange(0, 1024)
    t = tl.cast(pid, tl.int64)
    d_v = tl.load(d + t)
    at = tl.where(d_v < 0, d_v + 5, d_v)
    inside = (at >= 0) & (at < 5)
    tl.store(bad + tl.full([1024], 0, tl.int32), 1, mask=(inside ^ True))
    w_v = tl.load(w + (1024 * at + c), mask=inside, other=0)
    tl.store(y + (c.to(tl.int64) + 1024 * t), w_v)
