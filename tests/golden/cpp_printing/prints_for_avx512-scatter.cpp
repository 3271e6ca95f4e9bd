// scatter(d: i64[64], x: f32[64, 4096], w: f32[5, 4096])
//   w[at(d[t], 5), c] += x[t, c]
extern "C" int scatter(void *const *args, const long *sizes, char *work, long) {
  using namespace w16;
  i64* const d = (i64*)args[0];
  f32* const x = (f32*)args[1];
  f32* const w = (f32*)args[2];
  for (long t = 0; t < 64; t++) {
    i64 at = d[t];
    if (at < 0) at += 5;
    if ((unsigned long)at >= (unsigned long)5) return 1;
    f32* const w_at = w + 4096 * at;
    f32* const x_t = x + 4096 * t;
    for (long c = 0; c <= 4096 - 16; c += 16) {
      st_f32(w_at + c, (ld_f32(w_at + c) + ld_f32(x_t + c)));
    }
  }
  return 0;
}
