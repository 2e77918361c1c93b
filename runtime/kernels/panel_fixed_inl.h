// Panels of int4 and int8 with activations in fixed point: products of bytes, four of them summed into each lane. For AVX2 and AVX-512.
#pragma once

#include <immintrin.h>

#include "kernels/panel_inl.h"

namespace osum {
namespace {

// Whether weights of int8 meet bytes of activations: plain AVX-512 would overflow 16 bits, and has no instruction that moves the sign over.
#if defined(__AVX512VNNI__) || OSUM_LANES == 8
constexpr bool kHasFixedInt8 = true;
#else
constexpr bool kHasFixedInt8 = false;
#endif

// sum + the four products of bytes of each lane, w without sign and x with it. Without VNNI pairs go through 16 bits, where |w| < 129 fits.
inline VecI dot4(VecI sum, VecI w, VecI x) {
#if defined(__AVX512VNNI__)
  return (VecI)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
#elif OSUM_LANES == 16
  return sum + (VecI)_mm512_madd_epi16(_mm512_maddubs_epi16((__m512i)w, (__m512i)x), _mm512_set1_epi16(1));
#else
  return sum + (VecI)_mm256_madd_epi16(_mm256_maddubs_epi16((__m256i)w, (__m256i)x), _mm256_set1_epi16(1));
#endif
}

inline VecI broadcast4(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, sizeof(four));
  return VecI{} + four;
}

// What is added to a weight to make its byte unsigned, as a power of two; 0 where the sign moves over to the activations.
template <Format F>
constexpr int offset_bits() {
  if (F == Format::kInt4) return 3;
#if defined(__AVX512VNNI__)
  return 7;
#else
  return 0;
#endif
}

// One word of each lane: `x` are the activations from its first input on.
template <Format F>
inline VecI add_word(VecI sum, VecI word, const int8_t* x) {
  if constexpr (F == Format::kInt4) {
    sum = dot4(sum, word & 0x0f0f0f0f, broadcast4(x));
    return dot4(sum, (word >> 4) & 0x0f0f0f0f, broadcast4(x + 4));
  }
#if OSUM_LANES == 8
  return dot4(sum, (VecI)_mm256_abs_epi8((__m256i)word), (VecI)_mm256_sign_epi8((__m256i)broadcast4(x), (__m256i)word));
#else
  return dot4(sum, word ^ static_cast<int>(0x80808080), broadcast4(x));
#endif
}

template <Format F, int M>
void panel_rows_fixed(const PanelArgs& a, int first_row) {
  constexpr int kInputs = inputs_per_word(F), kWords = kBlock / kInputs;
  const FixedBlock* x = static_cast<const FixedBlock*>(a.x) + first_row * a.x_stride;
  const uint32_t* words = a.words;
  VecF total[M][kParts] = {};
  for (int64_t group = 0; group < a.num_groups; ++group) {
    for (int64_t word = 0; word < a.group_words; word += kWords, words += kWords * kPanel, ++x) {
#pragma GCC unroll 2
      for (int part = 0; part < kParts; ++part) {
        VecI hi[M], lo[M];
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) {
          hi[m] = lo[m] = VecI{};
          if constexpr (offset_bits<F>() > 0) {
            hi[m] = (VecI{} + x[m * a.x_stride].minus_hi) << offset_bits<F>();
            lo[m] = (VecI{} + x[m * a.x_stride].minus_lo) << offset_bits<F>();
          }
        }
#pragma GCC unroll 8
        for (int at = 0; at < kWords; ++at) {
          const VecI w = load<VecI>(words + at * kPanel + part * kLanes);
#pragma GCC unroll 4
          for (int m = 0; m < M; ++m) {
            hi[m] = add_word<F>(hi[m], w, x[m * a.x_stride].hi + at * kInputs);
            lo[m] = add_word<F>(lo[m], w, x[m * a.x_stride].lo + at * kInputs);
          }
        }
        const VecF scale = scale_of(a, group, part);
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) {
          const VecF sum = __builtin_convertvector(hi[m], VecF) * static_cast<float>(kFixedBase) + __builtin_convertvector(lo[m], VecF);
          total[m][part] += sum * (scale * x[m * a.x_stride].scale);
        }
      }
    }
  }
  for (int m = 0; m < M; ++m) {
    for (int part = 0; part < kParts; ++part) store(a.out + (first_row + m) * kPanel + part * kLanes, total[m][part]);
  }
}

template <Format F>
void panel_fixed(const PanelArgs& a) {
  int row = 0;
  for (; row + 4 <= a.rows; row += 4) panel_rows_fixed<F, 4>(a, row);
  if (a.rows - row == 3) panel_rows_fixed<F, 3>(a, row);
  if (a.rows - row == 2) panel_rows_fixed<F, 2>(a, row);
  if (a.rows - row == 1) panel_rows_fixed<F, 1>(a, row);
}

}  // namespace
}  // namespace osum
