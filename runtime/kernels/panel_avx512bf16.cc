// AVX-512 with bf16 dot products: two inputs of 16 outputs in one instruction, activations as they are.
//
// int8 stays with float activations: turning bytes into bf16 costs more than the dot product saves.
#include <immintrin.h>

#define OSUM_LANES 16
#include "kernels/kernels_inl.h"

namespace osum {
namespace {

// bf16 of the 16 values of a nibble, twice: the look-up reads five bits, the fifth belongs to the neighbour and must not matter.
inline __m512i nibble_table() {
  alignas(64) uint16_t table[32];
  for (int i = 0; i < 32; ++i) table[i] = float_to_bf16(static_cast<float>((i & 15) < 8 ? i & 15 : (i & 15) - 16));
  return _mm512_load_si512(table);
}

template <Format F>
inline __m512bh pair_of(__m512i words, int pair, __m512i table) {
  if constexpr (F == Format::kInt4) return (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi32(words, 4 * pair), table);
  return (__m512bh)words;
}

inline __m512bh broadcast_pair(const uint16_t* x) {
  int32_t pair;
  std::memcpy(&pair, x, sizeof(pair));
  return (__m512bh)_mm512_set1_epi32(pair);
}

template <Format F, int M>
void panel_rows_bf16(const PanelArgs& a, int first_row) {
  constexpr int kPairs = inputs_per_word(F) / 2, kChains = num_chains(M);
  const __m512i table = nibble_table();
  const uint16_t* x = static_cast<const uint16_t*>(a.x) + first_row * a.x_stride;
  const uint32_t* words = a.words;
  VecF total[M] = {};
  for (int64_t group = 0; group < a.num_groups; ++group) {
    __m512 sum[kChains][M] = {};
    for (int64_t word = 0; word < a.group_words; word += kUnroll, words += kUnroll * kPanel, x += kUnroll * kPairs * 2) {
#pragma GCC unroll 16
      for (int at = 0; at < kUnroll * kPairs; ++at) {
        const __m512bh w = pair_of<F>(_mm512_loadu_si512(words + at / kPairs * kPanel), at % kPairs, table);
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) {
          sum[at % kChains][m] = _mm512_dpbf16_ps(sum[at % kChains][m], w, broadcast_pair(x + m * a.x_stride + 2 * at));
        }
      }
    }
    const VecF scale = a.scales ? widen(load<VecH>(a.scales + group * kPanel)) : VecF{} + 1.0f;
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      VecF all = sum[0][m];
#pragma GCC unroll 4
      for (int chain = 1; chain < kChains; ++chain) all += sum[chain][m];
      total[m] += all * scale;
    }
  }
  for (int m = 0; m < M; ++m) store(a.out + (first_row + m) * kPanel, total[m]);
}

template <Format F>
void panel_bf16(const PanelArgs& a) {
  int row = 0;
  for (; row + 4 <= a.rows; row += 4) panel_rows_bf16<F, 4>(a, row);
  if (a.rows - row == 3) panel_rows_bf16<F, 3>(a, row);
  if (a.rows - row == 2) panel_rows_bf16<F, 2>(a, row);
  if (a.rows - row == 1) panel_rows_bf16<F, 1>(a, row);
}

constexpr Kernels make_bf16_kernels() {
  Kernels kernels = make_kernels("avx512bf16");
  kernels.bf16[static_cast<int>(Format::kInt4)] = panel_bf16<Format::kInt4>;
  kernels.bf16[static_cast<int>(Format::kBf16)] = panel_bf16<Format::kBf16>;
  return kernels;
}

}  // namespace

const Kernels* avx512bf16_kernels() {
  static constexpr Kernels kKernels = make_bf16_kernels();
  return &kKernels;
}

}  // namespace osum
