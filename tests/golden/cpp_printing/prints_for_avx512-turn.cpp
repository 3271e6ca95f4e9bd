// turn(x: bf16[512, 256], g: bf16[256, 512], y: bf16[256, 512], z: bf16[256, 512])
//   y[t, c] = x[c, t]
//   z[t, c] = bf16((f32(x[c, t]) + f32(g[t, c])))
static int turn_part(void *const *args, const long *sizes, char *shared, char *work, long lo, long hi) {
  using namespace w16;
  bf16* const x = (bf16*)args[0];
  bf16* const g = (bf16*)args[1];
  bf16* const y = (bf16*)args[2];
  bf16* const z = (bf16*)args[3];
  alignas(64) i32 x_t[768];
  alignas(64) f32 x_t1[768];
  for (long c_b = lo; c_b < hi; c_b++) {
    i32* const x_t_c_b = x_t - 32 * c_b;
    f32* const x_t1_c_b = x_t1 - 32 * c_b;
    for (long t_s = 0; t_s < 16; t_s++) {
      const long c_t_begin = 2 * c_b;
      const long c_t_end = 2 * c_b + 2;
      for (long c_t = c_t_begin; c_t < c_t_end; c_t++) {
        {
          I block[16];
          i32* const to = x_t + -32 * c_b + 16 * c_t;
          const i16* q = (i16*)(x + 4096 * c_t + 16 * t_s);
          const long rows = 256 - (16 * t_s), cols = 512 - (16 * c_t);
          if (rows >= 16 && cols >= 16) {
#pragma GCC unroll 16
            for (long i = 0; i < 16; i++) { block[i] = ld_i16(q + i * 256); }
          } else {
#pragma GCC unroll 16
            for (long i = 0; i < 16; i++) block[i] = i < cols ? ld_i16_n(q + i * 256, rows) : I{};
          }
          transpose_I(block);
#pragma GCC unroll 16
          for (int i = 0; i < 16; i++) st_i32(to + 48 * i, block[i]);
        }
        {
          F block1[16];
          f32* const to1 = x_t1 + -32 * c_b + 16 * c_t;
          const bf16* q1 = x + 4096 * c_t + 16 * t_s;
          const long rows1 = 256 - (16 * t_s), cols1 = 512 - (16 * c_t);
          if (rows1 >= 16 && cols1 >= 16) {
#pragma GCC unroll 16
            for (long i = 0; i < 16; i++) { block1[i] = ld_bf16(q1 + i * 256); }
          } else {
#pragma GCC unroll 16
            for (long i = 0; i < 16; i++) block1[i] = i < cols1 ? ld_bf16_n(q1 + i * 256, rows1) : F{};
          }
          transpose_F(block1);
#pragma GCC unroll 16
          for (int i = 0; i < 16; i++) st_f32(to1 + 48 * i, block1[i]);
        }
      }
      const long t_begin = 16 * t_s;
      const long t_end = 16 * t_s + 16;
      i32* const x_t_t_s = x_t_c_b - 768 * t_s;
      f32* const x_t1_t_s = x_t1_c_b - 768 * t_s;
      for (long t = t_begin; t < t_end; t++) {
        const long c_begin = 32 * c_b;
        const long c_end = 32 * c_b + 32;
        i32* const x_t_t = x_t_t_s + 48 * t;
        bf16* const y_t = y + 512 * t;
        f32* const x_t1_t = x_t1_t_s + 48 * t;
        bf16* const g_t = g + 512 * t;
        bf16* const z_t = z + 512 * t;
        for (long c_t = c_begin; c_t <= c_end - 32; c_t += 32)
#pragma GCC unroll 2
          for (int u = 0; u < 2; u++) {
            const long c = c_t + 16 * u;
            st_i16((i16*)(y_t + c), ld_i32(x_t_t + c));
            st_bf16(z_t + c, (ld_f32(x_t1_t + c) + ld_bf16(g_t + c)));
          }
      }
    }
  }
  return 0;
}
extern "C" int turn(void *const *args, const long *sizes, char *work, long threads) {
  const long count = 1 + 3407872 / 16 / 400000;
  const long many = count < threads ? count : threads;
  return run_team(turn_part, args, sizes, work, work, 0, 16, many);
}
