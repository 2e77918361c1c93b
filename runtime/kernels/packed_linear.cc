#include "kernels/packed_linear.h"

#include <algorithm>

namespace osum {
namespace {

constexpr int64_t kGrainBytes = 1 << 16;

Format format_of(const char* name, const at::Tensor& weight) {
  TORCH_CHECK(weight.dim() == 4, name, ": a packed weight has 4 axes (panels, words, ", kPanel, ", …), got ", weight.sizes());
  switch (weight.scalar_type()) {
    case at::kByte:
      return Format::kInt4;
    case at::kChar:
      return Format::kInt8;
    case at::kBFloat16:
      return Format::kBf16;
    default:
      TORCH_CHECK(false, name, ": a packed weight is uint8 (int4), int8 or bfloat16, got ", weight.scalar_type());
  }
}

}  // namespace

void Activations::set(const float* x, int forms) {
  float_ = x;
  if (forms & static_cast<int>(Form::kBf16)) {
    own_bf16_.resize(rows_ * size_);
    kernels().to_bf16(x, rows_ * size_, own_bf16_.data());
    bf16_ = own_bf16_.data();
  }
  if (forms & static_cast<int>(Form::kFixed)) {
    fixed_.resize(rows_ * size_ / kBlock);
    kernels().to_fixed(x, rows_ * size_ / kBlock, fixed_.data());
  }
}

void Activations::set(const at::Tensor& x, int forms) {
  if (x.scalar_type() == at::kFloat) return set(x.const_data_ptr<float>(), forms);
  const uint16_t* narrow = reinterpret_cast<const uint16_t*>(x.const_data_ptr<at::BFloat16>());
  if (forms != static_cast<int>(Form::kBf16)) {
    own_float_.resize(rows_ * size_);
    kernels().to_f32(narrow, rows_ * size_, own_float_.data());
    set(own_float_.data(), forms & ~static_cast<int>(Form::kBf16));
  }
  bf16_ = narrow;
}

const void* Activations::row(Form form, int64_t row) const {
  if (form == Form::kFixed) return fixed_.data() + row * size_ / kBlock;
  if (form == Form::kBf16) return bf16_ + row * size_;
  return float_ + row * size_;
}

PackedLinear::PackedLinear(
    const char* name, const at::Tensor& weight, const at::Tensor& scale, const at::Tensor& bias, int64_t num_outputs)
    : format_(format_of(name, weight)), num_outputs_(num_outputs), words_per_output_(weight.size(1)) {
  const int64_t per_word = weight.element_size() * weight.size(3);
  TORCH_CHECK(
      weight.size(2) == kPanel && per_word == sizeof(uint32_t), name, ": a packed weight ends in ", kPanel, " words of 4 bytes, got ",
      weight.sizes(), " of ", weight.scalar_type());
  TORCH_CHECK(weight.is_contiguous() && weight.is_cpu(), name, ": a packed weight must be contiguous and on the CPU");
  TORCH_CHECK(
      num_outputs > 0 && weight.size(0) == num_panels(), name, ": ", num_outputs, " outputs take ", num_panels(), " panels, the weight has ",
      weight.size(0));
  num_inputs_ = words_per_output_ * inputs_per_word(format_);
  TORCH_CHECK(num_inputs_ > 0 && num_inputs_ % kBlock == 0, name, ": inputs must be a multiple of ", kBlock, ", got ", num_inputs_);
  words_ = static_cast<const uint32_t*>(weight.const_data_ptr());
  if (format_ == Format::kBf16) {
    TORCH_CHECK(scale.numel() == 0, name, ": a bf16 weight has no scale, got ", scale.sizes());
  } else {
    TORCH_CHECK(
        scale.scalar_type() == at::kBFloat16 && scale.dim() == 3 && scale.size(0) == num_panels() && scale.size(2) == kPanel, name,
        ": scale must be bfloat16 (", num_panels(), ", groups, ", kPanel, "), got ", scale.scalar_type(), " ", scale.sizes());
    num_groups_ = scale.size(1);
    TORCH_CHECK(scale.is_contiguous() && scale.is_cpu(), name, ": scale must be contiguous and on the CPU");
    TORCH_CHECK(
        num_groups_ > 0 && num_inputs_ % (num_groups_ * kBlock) == 0, name, ": ", num_inputs_, " inputs do not divide into ", num_groups_,
        " groups of a multiple of ", kBlock);
    scales_ = reinterpret_cast<const uint16_t*>(scale.const_data_ptr<at::BFloat16>());
  }
  if (bias.defined() && bias.numel() > 0) {
    TORCH_CHECK(
        bias.scalar_type() == at::kFloat && bias.is_contiguous() && bias.dim() == 1 && bias.size(0) == num_outputs, name,
        ": bias must be float (", num_outputs, "), got ", bias.scalar_type(), " ", bias.sizes());
    bias_ = bias.const_data_ptr<float>();
  }
}

int64_t PackedLinear::grain() const {
  return std::max<int64_t>(1, kGrainBytes / (words_per_output_ * kPanel * static_cast<int64_t>(sizeof(uint32_t))));
}

PanelArgs PackedLinear::panel_args(int64_t panel) const {
  PanelArgs args{};
  args.words = words_ + panel * words_per_output_ * kPanel;
  args.scales = scales_ ? scales_ + panel * num_groups_ * kPanel : nullptr;
  args.num_groups = num_groups_;
  args.group_words = words_per_output_ / num_groups_;
  return args;
}

void PackedLinear::multiply(const Activations& x, int64_t panel, int64_t row, int rows, float* out) const {
  const Panel& kernel = panel_of(x.is_bf16());
  PanelArgs args = panel_args(panel);
  args.x = x.row(kernel.form, row);
  args.x_stride = x.stride(kernel.form);
  args.rows = rows;
  args.out = out;
  kernel.run(args);
}

void PackedLinear::unpack_panel(int64_t panel, bool to_bf16, void* out, int64_t stride) const {
  const int format = static_cast<int>(format_);
  (to_bf16 ? kernels().unpack_bf16[format] : kernels().unpack_f32[format])(panel_args(panel), out, stride);
}

}  // namespace osum
