// Panels in the compiler's own vectors of OSUM_LANES floats: one source for every instruction set, which the flags of the file decide.
// Activations are float here; panel_fixed_inl.h has them in fixed point, panel_avx512bf16.cc in bf16.
#pragma once

#include <cstring>

#include "kernels/panel.h"

namespace osum {
namespace {

constexpr int kLanes = OSUM_LANES;
constexpr int kParts = kPanel / kLanes;  // vectors of a panel

typedef float VecF __attribute__((vector_size(4 * kLanes)));
typedef int32_t VecI __attribute__((vector_size(4 * kLanes)));
typedef uint32_t VecU __attribute__((vector_size(4 * kLanes)));
typedef uint16_t VecH __attribute__((vector_size(2 * kLanes)));

template <class Vec>
inline Vec load(const void* from) {
  Vec v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

template <class Vec>
inline void store(void* to, Vec v) {
  std::memcpy(to, &v, sizeof(v));
}

inline VecF widen(VecH v) { return (VecF)(__builtin_convertvector(v, VecU) << 16); }

// Round to nearest even, as torch does; weights are finite.
inline VecH narrow(VecF v) {
  const VecU bits = (VecU)v;
  return __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, VecH);
}

inline VecF scale_of(const PanelArgs& a, int64_t group, int part) {
  return a.scales ? widen(load<VecH>(a.scales + group * kPanel + part * kLanes)) : VecF{} + 1.0f;
}

// Which input of its word the nibble, byte or half number `piece` is, counted from the low bits.
template <Format F>
constexpr int input_of(int piece) {
  return F == Format::kInt4 ? piece / 2 + piece % 2 * 4 : piece;
}

// That piece as float and without its scale; `piece` is a constant once the loops are unrolled.
template <Format F>
inline VecF piece_of(VecI words, int piece) {
  constexpr int kFlipOffset = static_cast<int>(0x88888888);  // of plus 8, to what sign extension reads
  if constexpr (F == Format::kInt4) return __builtin_convertvector(((words ^ kFlipOffset) << (28 - 4 * piece)) >> 28, VecF);
  if constexpr (F == Format::kInt8) return __builtin_convertvector((words << (24 - 8 * piece)) >> 24, VecF);
  return (VecF)(piece == 0 ? words << 16 : words & ~0xffff);
}

// Sums that do not wait for each other: a fused multiply-add takes about four cycles, and two may start in each.
constexpr int num_chains(int sums) { return sums >= 8 ? 1 : sums >= 4 ? 2 : 4; }

template <Format F, int M>
void panel_rows_float(const PanelArgs& a, int first_row) {
  constexpr int kInputs = inputs_per_word(F), kWords = 4, kChains = num_chains(M * kParts);
  const float* x = static_cast<const float*>(a.x) + first_row * a.x_stride;
  const uint32_t* words = a.words;
  VecF total[M][kParts] = {};
  for (int64_t group = 0; group < a.num_groups; ++group) {
    VecF sum[kChains][M][kParts] = {};
    for (int64_t word = 0; word < a.group_words; word += kWords, words += kWords * kPanel, x += kWords * kInputs) {
#pragma GCC unroll 32
      for (int at = 0; at < kWords * kInputs; ++at) {
#pragma GCC unroll 4
        for (int part = 0; part < kParts; ++part) {
          const VecF w = piece_of<F>(load<VecI>(words + at / kInputs * kPanel + part * kLanes), at % kInputs);
#pragma GCC unroll 4
          for (int m = 0; m < M; ++m) {
            sum[at % kChains][m][part] += w * x[m * a.x_stride + at / kInputs * kInputs + input_of<F>(at % kInputs)];
          }
        }
      }
    }
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      const VecF scale = scale_of(a, group, part);
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) {
        VecF all = sum[0][m][part];
#pragma GCC unroll 4
        for (int chain = 1; chain < kChains; ++chain) all += sum[chain][m][part];
        total[m][part] += all * scale;
      }
    }
  }
  for (int m = 0; m < M; ++m) {
    for (int part = 0; part < kParts; ++part) store(a.out + (first_row + m) * kPanel + part * kLanes, total[m][part]);
  }
}

// As many rows at a time as there are registers for; the panel is still in the cache when the next ones ask for it.
template <Format F>
void panel_float(const PanelArgs& a) {
  constexpr int kAtOnce = kParts < 4 ? 4 : 2;
  int row = 0;
  for (; row + kAtOnce <= a.rows; row += kAtOnce) panel_rows_float<F, kAtOnce>(a, row);
  if (a.rows - row == 3) panel_rows_float<F, 3>(a, row);
  if (a.rows - row == 2) panel_rows_float<F, 2>(a, row);
  if (a.rows - row == 1) panel_rows_float<F, 1>(a, row);
}

template <Format F, class T>
void unpack_panel(const PanelArgs& a, void* out, int64_t stride) {
  constexpr int kInputs = inputs_per_word(F);
  T* row = static_cast<T*>(out);
  for (int64_t word = 0; word < a.num_groups * a.group_words; ++word, row += kInputs * stride) {
    for (int part = 0; part < kParts; ++part) {
      const VecF scale = scale_of(a, word / a.group_words, part);
      const VecI words = load<VecI>(a.words + word * kPanel + part * kLanes);
#pragma GCC unroll 8
      for (int piece = 0; piece < kInputs; ++piece) {
        T* to = row + input_of<F>(piece) * stride + part * kLanes;
        const VecF w = piece_of<F>(words, piece) * scale;
        if constexpr (sizeof(T) == 4) {
          store(to, w);
        } else {
          store(to, narrow(w));
        }
      }
    }
  }
}

}  // namespace
}  // namespace osum
