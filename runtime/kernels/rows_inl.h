// What a decode step does beside its linears: norms, the gate's nonlinearity, attention of one position. Plain loops, vectorised by the flags
// of the file that includes this.
#pragma once

#include <cstring>

#include "kernels/panel.h"

namespace osum {
namespace {

constexpr int kMaxHeadDim = 256;
constexpr float kNearest = 12582912.0f;  // 1.5 * 2^23: added and taken away again, it leaves the nearest integer of a small number

inline float bf16_to_float(uint16_t v) {
  const uint32_t bits = static_cast<uint32_t>(v) << 16;
  float f;
  std::memcpy(&f, &bits, sizeof(f));
  return f;
}
inline float as_float(uint16_t v) { return bf16_to_float(v); }
inline float as_float(float v) { return v; }

inline uint16_t float_to_bf16(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// e^x to two units in the last place: 2^n by the exponent bits, the rest (|r| <= ln 2 / 2) by its Taylor series. The library's
// would not be vectorised.
inline float fast_exp(float x) {
  x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  const float n = (x * 1.44269504f + kNearest) - kNearest;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  float series = 1.0f + r * (1.0f / 7.0f);
  series = 1.0f + r * (1.0f / 6.0f) * series;
  series = 1.0f + r * (1.0f / 5.0f) * series;
  series = 1.0f + r * (1.0f / 4.0f) * series;
  series = 1.0f + r * (1.0f / 3.0f) * series;
  series = 1.0f + r * (1.0f / 2.0f) * series;
  series = 1.0f + r * series;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return series * power;
}

void rms_norm(const float* x, const float* weight, float eps, int64_t size, float* out) {
  float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < size; ++i) squares += x[i] * x[i];
  const float scale = 1.0f / __builtin_sqrtf(squares / static_cast<float>(size) + eps);
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) out[i] = x[i] * scale * weight[i];
}

void silu_mul(const float* gate, const float* up, int64_t size, float* out) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) out[i] = gate[i] / (1.0f + fast_exp(-gate[i])) * up[i];
}

void to_bf16(const float* x, int64_t size, uint16_t* out) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) out[i] = float_to_bf16(x[i]);
}

void to_f32(const uint16_t* x, int64_t size, float* out) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) out[i] = bf16_to_float(x[i]);
}

// Activations in fixed point. What is not finite makes the scale so, and with it all that comes of the block.
void to_fixed(const float* x, int64_t num_blocks, FixedBlock* out) {
  for (; num_blocks > 0; --num_blocks, x += kBlock, ++out) {
    float largest = 0.0f, poison = 0.0f;
#pragma omp simd reduction(max : largest) reduction(+ : poison)
    for (int i = 0; i < kBlock; ++i) {
      const float size = x[i] < 0.0f ? -x[i] : x[i];
      largest = size > largest ? size : largest;
      poison += x[i] * 0.0f;
    }
    constexpr float kLargest = 127.0f * kFixedBase;
    const float inverse = largest > 0.0f && poison == 0.0f ? kLargest / largest : 0.0f;
    int32_t sum_hi = 0, sum_lo = 0;
#pragma omp simd reduction(+ : sum_hi, sum_lo)
    for (int i = 0; i < kBlock; ++i) {
      const float whole = (x[i] * inverse + kNearest) - kNearest;
      const float hi = (whole * (1.0f / kFixedBase) + kNearest) - kNearest;
      const int32_t hi_int = static_cast<int32_t>(hi), lo_int = static_cast<int32_t>(whole - hi * kFixedBase);
      out->hi[i] = static_cast<int8_t>(hi_int);
      out->lo[i] = static_cast<int8_t>(lo_int);
      sum_hi += hi_int;
      sum_lo += lo_int;
    }
    out->scale = largest / kLargest + poison;
    out->minus_hi = -sum_hi;
    out->minus_lo = -sum_lo;
  }
}

// Scores to weights that sum to one.
inline void softmax(float* scores, int64_t length) {
  float largest = scores[0], sum = 0.0f;
#pragma omp simd reduction(max : largest)
  for (int64_t t = 0; t < length; ++t) largest = scores[t] > largest ? scores[t] : largest;
#pragma omp simd reduction(+ : sum)
  for (int64_t t = 0; t < length; ++t) sum += scores[t] = fast_exp(scores[t] - largest);
  const float scale = 1.0f / sum;
#pragma omp simd
  for (int64_t t = 0; t < length; ++t) scores[t] *= scale;
}

template <class T>
void attend(const AttendArgs& a) {
  float wide[kMaxHeadDim];  // a key or a value as float, once for all queries
  for (int64_t t = 0; t < a.length; ++t) {
    const T* key = static_cast<const T*>(a.keys) + t * a.head_dim;
#pragma omp simd
    for (int h = 0; h < a.head_dim; ++h) wide[h] = as_float(key[h]);
    for (int query = 0; query < a.num_queries; ++query) {
      const float* q = a.q + query * a.head_dim;
      float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
      for (int h = 0; h < a.head_dim; ++h) dot += q[h] * wide[h];
      a.scores[query * a.length + t] = dot;
    }
  }
  for (int query = 0; query < a.num_queries; ++query) softmax(a.scores + query * a.length, a.length);
  std::memset(a.out, 0, sizeof(float) * a.num_queries * a.head_dim);
  for (int64_t t = 0; t < a.length; ++t) {
    const T* value = static_cast<const T*>(a.values) + t * a.head_dim;
#pragma omp simd
    for (int h = 0; h < a.head_dim; ++h) wide[h] = as_float(value[h]);
    for (int query = 0; query < a.num_queries; ++query) {
      const float weight = a.scores[query * a.length + t];
      float* out = a.out + query * a.head_dim;
#pragma omp simd
      for (int h = 0; h < a.head_dim; ++h) out[h] += weight * wide[h];
    }
  }
}

}  // namespace
}  // namespace osum
