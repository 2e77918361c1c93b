// AVX-512 with bf16 dot products, for bf16 weights and activations as they are: two inputs of 16 outputs in one instruction. Machines that
// have it have VNNI too.
#include <immintrin.h>

#define OSUM_LANES 16
#include "kernels/kernels_inl.h"

namespace osum {
namespace {

inline __m512bh broadcast_pair(const uint16_t* x) {
  int32_t pair;
  std::memcpy(&pair, x, sizeof(pair));
  return (__m512bh)_mm512_set1_epi32(pair);
}

template <int M>
void panel_rows_bf16(const PanelArgs& a, int first_row) {
  constexpr int kWords = 4, kChains = num_chains(M);
  const uint16_t* x = static_cast<const uint16_t*>(a.x) + first_row * a.x_stride;
  const uint32_t* words = a.words;
  __m512 sum[kChains][M] = {};
  for (int64_t word = 0; word < a.num_groups * a.group_words; word += kWords, words += kWords * kPanel, x += 2 * kWords) {
#pragma GCC unroll 4
    for (int at = 0; at < kWords; ++at) {
      const __m512bh w = (__m512bh)_mm512_loadu_si512(words + at * kPanel);
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) {
        sum[at % kChains][m] = _mm512_dpbf16_ps(sum[at % kChains][m], w, broadcast_pair(x + m * a.x_stride + 2 * at));
      }
    }
  }
  for (int m = 0; m < M; ++m) {
    VecF all = sum[0][m];
    for (int chain = 1; chain < kChains; ++chain) all += sum[chain][m];
    store(a.out + (first_row + m) * kPanel, all);
  }
}

void panel_bf16(const PanelArgs& a) {
  int row = 0;
  for (; row + 4 <= a.rows; row += 4) panel_rows_bf16<4>(a, row);
  if (a.rows - row == 3) panel_rows_bf16<3>(a, row);
  if (a.rows - row == 2) panel_rows_bf16<2>(a, row);
  if (a.rows - row == 1) panel_rows_bf16<1>(a, row);
}

constexpr Kernels make_bf16_kernels() {
  Kernels kernels = make_kernels("avx512bf16");
  kernels.for_bf16[static_cast<int>(Format::kBf16)] = {panel_bf16, Form::kBf16};
  return kernels;
}

}  // namespace

const Kernels* avx512bf16_kernels() {
  static constexpr Kernels kKernels = make_bf16_kernels();
  return &kKernels;
}

}  // namespace osum
