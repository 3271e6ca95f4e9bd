// swiglu(g: bf16[64, 4096], x: bf16[64, 4096], y: bf16[64, 4096])
//   y[t, c] = bf16(((f32(g[t, c]) * sigmoid(f32(g[t, c]))) * f32(x[t, c])))
static int swiglu_part(void *const *args, const long *sizes, char *shared, char *work, long lo, long hi) {
  using namespace w16;
  bf16* const g = (bf16*)args[0];
  bf16* const x = (bf16*)args[1];
  bf16* const y = (bf16*)args[2];
  for (long tc_c = lo; tc_c < hi; tc_c++) {
    const long tc_begin = 16384 * tc_c;
    const long tc_end = 16384 * tc_c + 16384;
    for (long tc = tc_begin; tc <= tc_end - 16; tc += 16) {
      const F v = ld_bf16(g + tc);
      st_bf16(y + tc, ((v * sigmoid_F(v)) * ld_bf16(x + tc)));
    }
  }
  return 0;
}
extern "C" int swiglu(void *const *args, const long *sizes, char *work, long threads) {
  const long count = 1 + 8912896 / 16 / 400000;
  const long many = count < threads ? count : threads;
  return run_team(swiglu_part, args, sizes, work, work, 0, 16, many);
}
