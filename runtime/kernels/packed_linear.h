// A packed weight as a linear layer: checked views of tensors, run panel by panel by whoever owns the threads.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <vector>

#include "kernels/cpu.h"

namespace osum {

// Rows of activations in the forms that kernels ask for.
class Activations {
 public:
  // bf16 ones meet bf16 weights as bf16; every other form keeps more than bf16 does and is made of what set() is given.
  Activations(int64_t rows, int64_t size, bool is_bf16) : rows_(rows), size_(size), is_bf16_(is_bf16) {}

  // `forms` are bits of Form. (rows, size) floats; the caller keeps them until the last linear has run.
  void set(const float* x, int forms);
  // A contiguous (rows, size) tensor of float or bf16, kept in the same way.
  void set(const at::Tensor& x, int forms);

  int64_t rows() const { return rows_; }
  bool is_bf16() const { return is_bf16_; }
  const void* row(Form form, int64_t row) const;
  int64_t stride(Form form) const { return form == Form::kFixed ? size_ / kBlock : size_; }

 private:
  int64_t rows_, size_;
  bool is_bf16_;
  const float* float_ = nullptr;
  const uint16_t* bf16_ = nullptr;
  std::vector<float> own_float_;
  std::vector<uint16_t> own_bf16_;
  std::vector<FixedBlock> fixed_;
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
  // What run_panel() reads, for Activations::set().
  int form(bool is_bf16) const { return static_cast<int>(panel_of(is_bf16).form); }
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
  const Panel& panel_of(bool is_bf16) const {
    return (is_bf16 ? kernels().for_bf16 : kernels().for_float)[static_cast<int>(format_)];
  }

  Format format_;
  const uint32_t* words_;
  const uint16_t* scales_ = nullptr;
  const float* bias_ = nullptr;
  int64_t num_outputs_, num_inputs_, words_per_output_, num_groups_ = 1;
};

}  // namespace osum
