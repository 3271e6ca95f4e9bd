// columns(x: f32[4096, 2048], y: f32[2048], z: f32[4096, 2048])
//   m[c] = max(t) x[t, c]
//   s[c] = sum(t) exp((x[t, c] - m[c]))
//   y[c] = s[c]
//   z[t, c] = (exp((x[t, c] - m[c])) / s[c])
extern "C" int columns(void *const *args, const long *sizes, char *work, long) {
  using namespace w8;
  f32* const x = (f32*)args[0];
  f32* const y = (f32*)args[1];
  f32* const z = (f32*)args[2];
  alignas(64) f32 m[2048];
  alignas(64) f32 s_part0[2048];
  alignas(64) f32 s_part0_part1[2048];
  alignas(64) f32 s[2048];
  for (long c = 0; c <= 2048 - 8; c += 8) {
    st_f32(m + c, sp_F(-__builtin_inff()));
  }
  for (long t_rows = 0; t_rows < 512; t_rows++) {
    f32* const x_t_rows = x + 16384 * t_rows;
    f32* const x_t_rows1 = x + 16384 * t_rows + 2048;
    f32* const x_t_rows2 = x + 16384 * t_rows + 4096;
    f32* const x_t_rows3 = x + 16384 * t_rows + 6144;
    f32* const x_t_rows4 = x + 16384 * t_rows + 8192;
    f32* const x_t_rows5 = x + 16384 * t_rows + 10240;
    f32* const x_t_rows6 = x + 16384 * t_rows + 12288;
    f32* const x_t_rows7 = x + 16384 * t_rows + 14336;
    for (long c = 0; c <= 2048 - 8; c += 8) {
      const F m_v = ld_f32(m + c);
      __builtin_prefetch((const char*)(x_t_rows + c) + 1024);
      __builtin_prefetch((const char*)(x_t_rows1 + c) + 1024);
      __builtin_prefetch((const char*)(x_t_rows2 + c) + 1024);
      __builtin_prefetch((const char*)(x_t_rows3 + c) + 1024);
      const F max_ = max_F(max_F(ld_f32(x_t_rows + c), ld_f32(x_t_rows1 + c)), max_F(ld_f32(x_t_rows2 + c), ld_f32(x_t_rows3 + c)));
      __builtin_prefetch((const char*)(x_t_rows4 + c) + 1024);
      __builtin_prefetch((const char*)(x_t_rows5 + c) + 1024);
      __builtin_prefetch((const char*)(x_t_rows6 + c) + 1024);
      __builtin_prefetch((const char*)(x_t_rows7 + c) + 1024);
      const F max_1 = max_F(max_F(ld_f32(x_t_rows4 + c), ld_f32(x_t_rows5 + c)), max_F(ld_f32(x_t_rows6 + c), ld_f32(x_t_rows7 + c)));
      st_f32(m + c, max_F(m_v, max_F(max_, max_1)));
    }
  }
  for (long c = 0; c <= 2048 - 8; c += 8) {
    st_f32(s + c, sp_F(0.0f));
  }
  for (long t_rows_b_b = 0; t_rows_b_b < 8; t_rows_b_b++) {
    for (long c = 0; c <= 2048 - 8; c += 8) {
      st_f32(s_part0 + c, sp_F(0.0f));
    }
    const long t_rows_b_begin = 16 * t_rows_b_b;
    const long t_rows_b_end = 16 * t_rows_b_b + 16;
    for (long t_rows_b = t_rows_b_begin; t_rows_b < t_rows_b_end; t_rows_b++) {
      for (long c = 0; c <= 2048 - 8; c += 8) {
        st_f32(s_part0_part1 + c, sp_F(0.0f));
      }
      const long t_rows_begin = 16 * t_rows_b;
      const long t_rows_end = 16 * t_rows_b + 16;
      for (long t_rows = t_rows_begin; t_rows < t_rows_end; t_rows++) {
        f32* const x_t_rows = x + 4096 * t_rows;
        f32* const x_t_rows1 = x + 4096 * t_rows + 2048;
        for (long c = 0; c <= 2048 - 8; c += 8) {
          const F s_part0_part1_v = ld_f32(s_part0_part1 + c);
          __builtin_prefetch((const char*)(x_t_rows + c) + 1024);
          const F m_v = ld_f32(m + c);
          __builtin_prefetch((const char*)(x_t_rows1 + c) + 1024);
          const F sum = s_part0_part1_v + (exp_F((ld_f32(x_t_rows + c) - m_v)) + exp_F((ld_f32(x_t_rows1 + c) - m_v)));
          st_f32(s_part0_part1 + c, sum);
        }
      }
      for (long c = 0; c <= 2048 - 8; c += 8) {
        const F s_part0_v = ld_f32(s_part0 + c);
        const F s_part0_part1_v = ld_f32(s_part0_part1 + c);
        st_f32(s_part0 + c, (s_part0_v + s_part0_part1_v));
      }
    }
    for (long c = 0; c <= 2048 - 8; c += 8) {
      const F s_v = ld_f32(s + c);
      const F s_part0_v = ld_f32(s_part0 + c);
      st_f32(s + c, (s_v + s_part0_v));
    }
  }
  for (long c_t = 0; c_t <= 2048 - 32; c_t += 32)
#pragma GCC unroll 4
    for (int u = 0; u < 4; u++) {
      const long c = c_t + 8 * u;
      const F s_v = ld_f32(s + c);
      st_f32(y + c, s_v);
    }
  for (long t = 0; t < 4096; t++) {
    const long c_head = -(long)(z + 2048 * t) / 4 & 15;
    const long c_first = c_head < 2048 ? c_head : 2048;
    const long c_done = c_first + (2048 - c_first) / 32 * 32;
    f32* const x_t = x + 2048 * t;
    f32* const z_t = z + 2048 * t;
    for (long c_t = c_first; c_t <= 2048 - 32; c_t += 32) {
      F z_line[4];
#pragma GCC unroll 4
      for (int u = 0; u < 4; u++) {
        const long c = c_t + 8 * u;
        __builtin_prefetch((const char*)(x_t + c) + 1024);
        const F m_v = ld_f32(m + c);
        const F s_v = ld_f32(s + c);
        z_line[u] = (exp_F((ld_f32(x_t + c) - m_v)) / s_v);
      }
#pragma GCC unroll 4
      for (int u = 0; u < 4; u++) {
        const long c = c_t + 8 * u;
        st_f32_nt(z_t + c, z_line[u]);
      }
    }
    for (int side = 0; side < 2; side++) {
      const long stop = side ? 2048 : c_first;
      for (long c = side ? c_done : 0; c < stop; c += 8) {
        const long n = stop - c;
        const F m_v = ld_f32_n(m + c, n);
        const F s_v = ld_f32_n(s + c, n);
        st_f32_n(z_t + c, (exp_F((ld_f32_n(x_t + c, n) - m_v)) / s_v), n);
      }
    }
  }
  fence_nt();
  return 0;
}
