// A packed weight as a linear layer: checked views of tensors, run panel by panel by whoever owns the threads.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <vector>

#include "kernels/cpu.h"

namespace osum {

// Rows of activations in the form a kernel asks for. With bf16 activations the float form holds the rounded values.
class Activations {
 public:
  Activations(int64_t rows, int64_t size, bool is_bf16) : rows_(rows), size_(size), is_bf16_(is_bf16) {}

  // (rows, size) floats, rounded to bf16 if that is what activations are; the caller keeps them until the last linear has run.
  void set(const float* x);
  // A contiguous (rows, size) tensor of float or bf16.
  void set(const at::Tensor& x);

  int64_t rows() const { return rows_; }
  int64_t size() const { return size_; }
  bool is_bf16() const { return is_bf16_; }
  const float* f32() const { return f32_; }
  const uint16_t* bf16() const { return bf16_; }

 private:
  int64_t rows_, size_;
  bool is_bf16_;
  const float* f32_ = nullptr;
  const uint16_t* bf16_ = nullptr;
  std::vector<float> own_f32_;
  std::vector<uint16_t> own_bf16_;
};

// weight (panels, K / inputs per word, 16, …): uint8 with 4 bytes is int4, int8 with 4 is int8, bfloat16 with 2 is bf16.
// scale (panels, groups, 16) bfloat16, empty for bf16; bias (N) float or absent. The tensors must outlive the object.
class PackedLinear {
 public:
  // Throws c10::Error that names what does not fit; `name` is who asks.
  PackedLinear(const char* name, const at::Tensor& weight, const at::Tensor& scale, const at::Tensor& bias, int64_t num_outputs);

  int64_t num_inputs() const { return num_inputs_; }
  int64_t num_outputs() const { return num_outputs_; }
  int64_t num_panels() const { return (num_outputs_ + kPanel - 1) / kPanel; }
  // Panels worth a thread of their own: fewer bytes than this cost less than waking one.
  int64_t grain() const;

  // Calls write(row, first output, number of outputs, values) for every row of a panel, bias added.
  template <class Write>
  void run_panel(const Activations& x, int64_t panel, const Write& write) const {
    float out[kMaxRows * kPanel];
    const int64_t first = panel * kPanel, count = std::min<int64_t>(kPanel, num_outputs_ - first);
    for (int64_t row = 0; row < x.rows(); row += kMaxRows) {
      const int rows = static_cast<int>(std::min<int64_t>(kMaxRows, x.rows() - row));
      multiply(x, panel, row, rows, out);
      for (int m = 0; m < rows; ++m) {
        if (bias_) {
          for (int64_t i = 0; i < count; ++i) out[m * kPanel + i] += bias_[first + i];
        }
        write(row + m, first, count, out + m * kPanel);
      }
    }
  }

  // All weights, transposed and scaled, into (K, stride) of float or bf16; stride covers whole panels.
  void unpack_panel(int64_t panel, bool to_bf16, void* out, int64_t stride) const;

 private:
  void multiply(const Activations& x, int64_t panel, int64_t row, int rows, float* out) const;
  PanelArgs panel_args(int64_t panel) const;

  Format format_;
  const uint32_t* words_;
  const uint16_t* scales_ = nullptr;
  const float* bias_ = nullptr;
  int64_t num_outputs_, num_inputs_, words_per_output_, num_groups_ = 1;
};

}  // namespace osum
