// softmax(x: f32[64, 4096], y: f32[64, 4096])
//   m[t] = max(c) x[t, c]
//   e[t, c] = exp((x[t, c] - m[t]))
//   l[t] = sum(c) e[t, c]
//   y[t, c] = (e[t, c] / l[t])
static int softmax_part(void *const *args, const long *sizes, char *shared, char *work, long lo, long hi) {
  using namespace w1;
  f32* const x = (f32*)args[0];
  f32* const y = (f32*)args[1];
  alignas(64) f32 e_all[4096];
  for (long t = lo; t < hi; t++) {
    F m[4];
    for (int u = 0; u < 4; u++) m[u] = sp_F(-__builtin_inff());
    f32* const x_t = x + 4096 * t;
    for (long c_t = 0; c_t <= 4096 - 4; c_t += 4)
#pragma GCC unroll 4
      for (int u = 0; u < 4; u++) {
        const long c = c_t + 1 * u;
        const F x_v = ld_f32(x_t + c);
        m[u] = max_F(m[u], x_v);
      }
    const F m1 = max_F(m[0], m[2]);
    const F m2 = max_F(m[1], m[3]);
    const F m3 = max_F(m1, m2);
    const f32 m_all = hmax_F(m3);
    F l[4];
    for (int u = 0; u < 4; u++) l[u] = sp_F(0.0f);
    f32* const x_t1 = x + 4096 * t + 4096;
    f32* const y_t = y + 4096 * t;
    for (long c_b = 0; c_b < 64; c_b++) {
      F l_part0[4];
      for (int u = 0; u < 4; u++) l_part0[u] = sp_F(0.0f);
      const long c_begin = 64 * c_b;
      const long c_end = 64 * c_b + 64;
      for (long c_t = c_begin; c_t <= c_end - 4; c_t += 4)
#pragma GCC unroll 4
        for (int u = 0; u < 4; u++) {
          const long c = c_t + 1 * u;
          const F x_v = ld_f32(x_t + c);
          const F e = exp_F((x_v - m_all));
          st_f32(e_all + c, e);
          l_part0[u] = l_part0[u] + e;
          if (u % 16 == 0) __builtin_prefetch(x_t1 + c);
          if (u % 16 == 0) __builtin_prefetch(y_t + c, 1);
        }
      for (int u = 0; u < 4; u++) {
        l[u] = l[u] + l_part0[u];
      }
    }
    const F l1 = l[0] + l[2];
    const F l2 = l[1] + l[3];
    const F l3 = l1 + l2;
    const f32 l_all = hsum_F(l3);
    const f32 inverse = 1 / l_all;
    for (long c_t = 0; c_t <= 4096 - 4; c_t += 4)
#pragma GCC unroll 4
      for (int u = 0; u < 4; u++) {
        const long c = c_t + 1 * u;
        st_f32(y_t + c, divide_F(ld_f32(e_all + c), l_all, inverse));
      }
  }
  return 0;
}
extern "C" int softmax(void *const *args, const long *sizes, char *work, long threads) {
  const long count = 1 + 5242880 / 1 / 400000;
  const long many = count < threads ? count : threads;
  return run_team(softmax_part, args, sizes, work, work, 0, 64, many);
}
