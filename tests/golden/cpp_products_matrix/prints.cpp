// k(x: bf16[32, 72], w: bf16[64, 72], b: bf16[64], y: bf16[32, 64])
//   s[m, n] = sum(k) (f32(x[m, k]) * f32(w[n, k]))
//   y[m, n] = bf16(max((s[m, n] + f32(b[n])), 0.0))
static int k_part(void *const *args, const long *sizes, char *shared, char *work, long lo, long hi) {
  using namespace w16;
  Tiles tiles;
  bf16* const x = (bf16*)args[0];
  bf16* const w = (bf16*)args[1];
  bf16* const b = (bf16*)args[2];
  bf16* const y = (bf16*)args[3];
  f32* const s_cols = (f32*)(work + 0);
  alignas(64) bf16 panel0[3072];
  f32* const s_all = (f32*)(work + 65536);
  for (long n_b = lo; n_b < hi; n_b++) {
    for (long k_2_w = 0; k_2_w < 3; k_2_w++) {
      {
        I block[16];
        bf16* const to = panel0 + 1024 * k_2_w;
        const bf16* q = x + 32 * k_2_w;
        const long rows = 36 - (16 * k_2_w), cols = 32 - (0);
        if (rows >= 16 && cols >= 16) {
#pragma GCC unroll 16
          for (long i = 0; i < 16; i++) { block[i] = ld_i32((i32*)(q + i * 72)); }
        } else {
#pragma GCC unroll 16
          for (long i = 0; i < 16; i++) block[i] = i < cols ? ld_i32_n((i32*)(q + i * 72), rows) : I{};
        }
        transpose_I(block);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) st_i32((i32*)(to + 64 * i), block[i]);
      }
      {
        I block1[16];
        bf16* const to1 = panel0 + 1024 * k_2_w + 32;
        const bf16* q1 = x + 32 * k_2_w + 1152;
        const long rows1 = 36 - (16 * k_2_w), cols1 = 32 - (16);
        if (rows1 >= 16 && cols1 >= 16) {
#pragma GCC unroll 16
          for (long i = 0; i < 16; i++) { block1[i] = ld_i32((i32*)(q1 + i * 72)); }
        } else {
#pragma GCC unroll 16
          for (long i = 0; i < 16; i++) block1[i] = i < cols1 ? ld_i32_n((i32*)(q1 + i * 72), rows1) : I{};
        }
        transpose_I(block1);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) st_i32((i32*)(to1 + 64 * i), block1[i]);
      }
    }
    for (long n_t = 0; n_t < 2; n_t++) {
      bf16* const w_n_t = w + 2304 * n_t;
      bf16* const w_n_t1 = w + 2304 * n_t + 1152;
      f32* const s_cols_n_t = s_cols + 1024 * n_t;
      f32* const s_cols_n_t1 = s_cols + 1024 * n_t + 16;
      f32* const s_cols_n_t2 = s_cols + 1024 * n_t + 512;
      f32* const s_cols_n_t3 = s_cols + 1024 * n_t + 528;
      {
        tiles.shape(16, 16);
        tiles.zero<0>();
        tiles.zero<1>();
        tiles.zero<2>();
        tiles.zero<3>();
        for (long k_2 = 0; k_2 + 16 <= 36; k_2 += 16) {
          tiles.load<4>(w_n_t + 2 * k_2, 144);
          tiles.load<6>(panel0 + 64 * k_2, 128);
          tiles.dot_bf16<0, 4, 6>();
          tiles.load<7>(panel0 + 64 * k_2 + 32, 128);
          tiles.dot_bf16<1, 4, 7>();
          tiles.load<5>(w_n_t1 + 2 * k_2, 144);
          tiles.dot_bf16<2, 5, 6>();
          tiles.dot_bf16<3, 5, 7>();
        }
        tiles.store<0>(s_cols_n_t, 128);
        tiles.store<1>(s_cols_n_t1, 128);
        tiles.store<2>(s_cols_n_t2, 128);
        tiles.store<3>(s_cols_n_t3, 128);
        tiles.shape(16, 4);
        tiles.load<0>(s_cols_n_t, 128);
        tiles.load<1>(s_cols_n_t1, 128);
        tiles.load<2>(s_cols_n_t2, 128);
        tiles.load<3>(s_cols_n_t3, 128);
        if (const long k_2 = 36 / 16 * 16; k_2 < 36) {
          tiles.load<4>(w_n_t + 2 * k_2, 144);
          tiles.load<6>(panel0 + 64 * k_2, 128);
          tiles.dot_bf16<0, 4, 6>();
          tiles.load<7>(panel0 + 64 * k_2 + 32, 128);
          tiles.dot_bf16<1, 4, 7>();
          tiles.load<5>(w_n_t1 + 2 * k_2, 144);
          tiles.dot_bf16<2, 5, 6>();
          tiles.dot_bf16<3, 5, 7>();
        }
        tiles.store<0>(s_cols_n_t, 128);
        tiles.store<1>(s_cols_n_t1, 128);
        tiles.store<2>(s_cols_n_t2, 128);
        tiles.store<3>(s_cols_n_t3, 128);
      }
    }
    for (long row_w = 0; row_w < 2; row_w++) {
      for (long column_w = 0; column_w < 4; column_w++) {
        {
          F block[16];
          f32* const to = s_all + 16 * column_w + 8192 * row_w;
          const f32* q = s_cols + 512 * column_w + 16 * row_w;
          const long rows = 32 - (16 * row_w), cols = 64 - (16 * column_w);
          if (rows >= 16 && cols >= 16) {
#pragma GCC unroll 16
            for (long i = 0; i < 16; i++) { block[i] = ld_f32(q + i * 32); }
          } else {
#pragma GCC unroll 16
            for (long i = 0; i < 16; i++) block[i] = i < cols ? ld_f32_n(q + i * 32, rows) : F{};
          }
          transpose_F(block);
#pragma GCC unroll 16
          for (int i = 0; i < 16; i++) st_f32(to + 512 * i, block[i]);
        }
      }
    }
    for (long m = 0; m < 32; m++) {
      f32* const s_all_m = s_all + 512 * m;
      bf16* const y_m = y + 64 * m;
      for (long n_1 = 0; n_1 <= 64 - 16; n_1 += 16) {
        st_bf16(y_m + n_1, max_F((ld_f32(s_all_m + n_1) + ld_bf16(b + n_1)), sp_F(0.0f)));
      }
    }
  }
  return 0;
}
extern "C" int k(void *const *args, const long *sizes, char *work, long threads) {
  const long count = 1 + 2064384 / 16 / 400000;
  const long many = count < threads ? count : threads;
  return run_team(k_part, args, sizes, work, work, 131072, 1, many);
}
