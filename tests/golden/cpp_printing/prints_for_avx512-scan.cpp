// scan(x: f32[64, 4096], y: f32[64, 4096], z: f32[64, 4096])
//   a[t, c] = inclusive sum(c) x[t, c]
//   b[t, c] = inclusive sum(t) x[t, c]
//   y[t, c] = (a[t, c] * 0.5)
//   z[t, c] = b[t, c]
static int scan_0(void *const *args, const long *sizes, char *shared, char *work, long lo, long hi) {
  using namespace w16;
  f32* const x = (f32*)args[0];
  f32* const y = (f32*)args[1];
  for (long t = lo; t < hi; t++) {
    f64 a_carry = 0.0;
    const bool nt = ((long)(y + 4096 * t) & 63) == 0;
    f32* const x_t = x + 4096 * t;
    f32* const y_t = y + 4096 * t;
    for (long c = 0; c <= 4096 - 16; c += 16) {
      const F x_v = ld_f32(x_t + c);
      const F run = scan_add_F(x_v);
      const F a = run + (f32)a_carry;
      a_carry += last_F(run);
      const F v = a * 0.5f;
      if (nt) st_f32_nt(y_t + c, v); else st_f32(y_t + c, v);
    }
  }
  fence_nt();
  return 0;
}
static int scan_1(void *const *args, const long *sizes, char *shared, char *work, long lo, long hi) {
  using namespace w16;
  f32* const x = (f32*)args[0];
  f32* const z = (f32*)args[2];
  alignas(64) f32 b_run0[4096];
  alignas(64) f32 b_run1[4096];
  for (long c = 0; c <= 4096 - 16; c += 16) {
    st_f32(b_run0 + c, sp_F(0.0f));
    st_f32(b_run1 + c, sp_F(0.0f));
  }
  for (long t1 = 0; t1 < 64; t1++) {
    const long c_head = -(long)(z + 4096 * t1) / 4 & 15;
    const long c_first = c_head < 4096 ? c_head : 4096;
    const long c_done = c_first + (4096 - c_first) / 16 * 16;
    f32* const x_t = x + 4096 * t1;
    f32* const z_t = z + 4096 * t1;
    for (long c = c_first; c <= 4096 - 16; c += 16) {
      const F b_run0_v = ld_f32(b_run0 + c);
      const F x_v = ld_f32(x_t + c);
      const F sum = b_run0_v + x_v;
      const F v = sum - b_run0_v;
      const F sum1 = (b_run0_v - (sum - v)) + (x_v - v);
      const F sum2 = ld_f32(b_run1 + c) + sel_F(eq_F(sum1, sum1), sum1, sp_F(0.0f));
      const F b = sum + sum2;
      st_f32(b_run0 + c, sum);
      st_f32(b_run1 + c, sum2);
      st_f32_nt(z_t + c, b);
    }
    for (int side = 0; side < 2; side++) {
      const long stop = side ? 4096 : c_first;
      for (long c = side ? c_done : 0; c < stop; c += 16) {
        const long n = stop - c;
        const F b_run0_v = ld_f32_n(b_run0 + c, n);
        const F x_v = ld_f32_n(x_t + c, n);
        const F sum = b_run0_v + x_v;
        const F v = sum - b_run0_v;
        const F sum1 = (b_run0_v - (sum - v)) + (x_v - v);
        const F sum2 = ld_f32_n(b_run1 + c, n) + sel_F(eq_F(sum1, sum1), sum1, sp_F(0.0f));
        const F b = sum + sum2;
        st_f32_n(b_run0 + c, sum, n);
        st_f32_n(b_run1 + c, sum2, n);
        st_f32_n(z_t + c, b, n);
      }
    }
  }
  fence_nt();
  return 0;
}
extern "C" int scan(void *const *args, const long *sizes, char *work, long threads) {
  const long count = 1 + 9437184 / 16 / 400000;
  const long many = count < threads ? count : threads;
  if (const int bad = run_team(scan_0, args, sizes, work, work, 0, 64, many)) return bad;
  return scan_1(args, sizes, work, work, 0, 1);
}
