// rms(x: bf16[1000, 3001], g: bf16[3001], y: bf16[1000, 3001])
//   s[t] = sum(c) (f32(x[t, c]) * f32(x[t, c]))
//   y[t, c] = bf16(((f32(x[t, c]) * rsqrt(((s[t] * 0.001) + 1e-06))) * f32(g[c])))
static int rms_part(void *const *args, const long *sizes, char *shared, char *work, long lo, long hi) {
  using namespace w8;
  bf16* const x = (bf16*)args[0];
  bf16* const g = (bf16*)args[1];
  bf16* const y = (bf16*)args[2];
  for (long t = lo; t < hi; t++) {
    F s[4];
    for (int u = 0; u < 4; u++) s[u] = sp_F(0.0f);
    bf16* const x_t = x + 3001 * t;
    for (long c_b = 0; c_b < 6; c_b++) {
      F s_part0[4];
      for (int u = 0; u < 4; u++) s_part0[u] = sp_F(0.0f);
      const long c_begin = 512 * c_b;
      const long c_end = 512 * c_b + 512 < 3001 ? 512 * c_b + 512 : 3001;
      for (long c_t = c_begin; c_t <= c_end - 32; c_t += 32)
#pragma GCC unroll 4
        for (int u = 0; u < 4; u++) {
          const long c = c_t + 8 * u;
          const F v = ld_bf16(x_t + c);
          s_part0[u] = s_part0[u] + (v * v);
        }
      for (long c = c_begin + (c_end - c_begin) / 32 * 32; c < c_end; c += 8) {
        const long n = c_end - c;
        const M live = first_n_M(n);
        const F v = ld_bf16_n(x_t + c, n);
        s_part0[0] = sel_F(live, s_part0[0] + (v * v), s_part0[0]);
      }
      for (int u = 0; u < 4; u++) {
        s[u] = s[u] + s_part0[u];
      }
    }
    const F s1 = s[0] + s[2];
    const F s2 = s[1] + s[3];
    const F s3 = s1 + s2;
    const f32 s_all = hsum_F(s3);
    const long c_head = -(long)(y + 3001 * t) / 2 & 31;
    const long c_first = c_head < 3001 ? c_head : 3001;
    const long c_done = c_first + (3001 - c_first) / 32 * 32;
    const f32 rsqrt_ = w1::rsqrt_F(((s_all * 0.001f) + 1e-06f));
    bf16* const y_t = y + 3001 * t;
    bf16* const x_t1 = x + 3001 * t + 3001;
    for (long c_t = c_first; c_t <= 3001 - 32; c_t += 32) {
      F y_line[4];
#pragma GCC unroll 4
      for (int u = 0; u < 4; u++) {
        const long c = c_t + 8 * u;
        const F v = ld_bf16(x_t + c);
        y_line[u] = ((v * rsqrt_) * ld_bf16(g + c));
        if (u % 4 == 0) __builtin_prefetch(x_t1 + c);
      }
#pragma GCC unroll 4
      for (int u = 0; u < 4; u++) {
        const long c = c_t + 8 * u;
        st_bf16_nt(y_t + c, y_line[u]);
      }
    }
    for (int side = 0; side < 2; side++) {
      const long stop = side ? 3001 : c_first;
      for (long c = side ? c_done : 0; c < stop; c += 8) {
        const long n = stop - c;
        const F v = ld_bf16_n(x_t + c, n);
        st_bf16_n(y_t + c, ((v * rsqrt_) * ld_bf16_n(g + c, n)), n);
      }
    }
  }
  fence_nt();
  return 0;
}
extern "C" int rms(void *const *args, const long *sizes, char *work, long threads) {
  const long count = 1 + 84028000 / 8 / 400000;
  const long many = count < threads ? count : threads;
  return run_team(rms_part, args, sizes, work, work, 0, 1000, many);
}
