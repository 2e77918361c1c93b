// The operators of torch.ops.osum: one schema for Python, TorchScript and C++.
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

#include "kernels/decode_step.h"
#include "kernels/packed_linear.h"

namespace osum {
namespace {

at::Tensor or_empty(const std::optional<at::Tensor>& x) { return x.value_or(at::Tensor()); }

int64_t packed_inputs(const at::Tensor& weight) {
  const int64_t per_word = weight.scalar_type() == at::kByte ? 8 : weight.scalar_type() == at::kChar ? 4 : 2;
  return weight.size(1) * per_word;
}

void check_activations(const char* name, const at::Tensor& x, int64_t num_inputs) {
  TORCH_CHECK(
      x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16, name, ": x must be float or bfloat16, got ", x.scalar_type());
  TORCH_CHECK(x.dim() >= 1 && x.size(-1) == num_inputs, name, ": x ", x.sizes(), " does not end in the weight's ", num_inputs, " inputs");
}

at::Tensor linear(
    const at::Tensor& x, const at::Tensor& weight, const at::Tensor& scale, const std::optional<at::Tensor>& bias, int64_t out_features) {
  const at::Tensor bias_N = or_empty(bias);
  const PackedLinear packed("osum::linear", weight, scale, bias_N, out_features);
  check_activations("osum::linear", x, packed.num_inputs());
  auto shape = x.sizes().vec();
  shape.back() = out_features;
  const at::Tensor x_MK = x.reshape({-1, packed.num_inputs()}).contiguous();
  at::Tensor y = at::empty(shape, x.options());
  if (y.numel() == 0) return y;
  Activations rows(x_MK.size(0), packed.num_inputs(), x.scalar_type() == at::kBFloat16);
  rows.set(x_MK, packed.form(rows.is_bf16()));
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, y.scalar_type(), "osum_linear", [&] {
    scalar_t* out = y.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, packed.num_panels(), packed.grain(), [&](int64_t begin, int64_t end) {
      for (int64_t panel = begin; panel < end; ++panel) {
        packed.run_panel(rows, panel, [&](int64_t row, int64_t first, int64_t count, const float* values) {
          for (int64_t i = 0; i < count; ++i) out[row * out_features + first + i] = static_cast<scalar_t>(values[i]);
        });
      }
    });
  });
  return y;
}

at::Tensor linear_meta(
    const at::Tensor& x, const at::Tensor& weight, const at::Tensor& /*scale*/, const std::optional<at::Tensor>& /*bias*/,
    c10::SymInt out_features) {
  check_activations("osum::linear", x, packed_inputs(weight));
  auto shape = x.sym_sizes().vec();
  shape.back() = out_features;
  return at::empty_symint(shape, x.options());
}

at::Tensor unpack(const at::Tensor& weight, const at::Tensor& scale, at::ScalarType dtype) {
  TORCH_CHECK(dtype == at::kFloat || dtype == at::kBFloat16, "osum::unpack: dtype must be float or bfloat16, got ", dtype);
  const int64_t padded = weight.size(0) * kPanel;
  const PackedLinear packed("osum::unpack", weight, scale, at::Tensor(), padded);
  at::Tensor out = at::empty({packed.num_inputs(), padded}, weight.options().dtype(dtype));
  char* bytes = static_cast<char*>(out.mutable_data_ptr());
  at::parallel_for(0, packed.num_panels(), packed.grain(), [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      packed.unpack_panel(panel, dtype == at::kBFloat16, bytes + panel * kPanel * out.element_size(), padded);
    }
  });
  return out;
}

at::Tensor unpack_meta(const at::Tensor& weight, const at::Tensor& /*scale*/, at::ScalarType dtype) {
  return at::empty({packed_inputs(weight), weight.size(0) * kPanel}, weight.options().dtype(dtype));
}

at::Tensor decode_step_meta(
    const at::Tensor& x, at::TensorList /*weights*/, at::TensorList /*keys*/, at::TensorList /*values*/, const at::Tensor& /*lens*/,
    double /*rope_theta*/, double /*eps*/) {
  return at::empty_like(x);
}

// Decoding needs no gradients: packed integers have none, and one with respect to the activations alone would be easy to mistake for training.
void no_gradient(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  if (at::GradMode::is_enabled()) {
    for (size_t i = stack->size() - op.schema().arguments().size(); i < stack->size(); ++i) {
      const c10::IValue& value = (*stack)[i];
      TORCH_CHECK(
          !(value.isTensor() && value.toTensor().defined() && value.toTensor().requires_grad()), op.schema().name(),
          " has no gradient: it is for decoding; call it under torch.inference_mode() or torch.no_grad()");
    }
  }
  op.redispatchBoxed(keys & c10::after_autograd_keyset, stack);
}

std::string use_kernels_op(const std::string& name) {
  TORCH_CHECK(use_kernels(name), "osum::use_kernels: this machine has no kernels \"", name, "\"; it has ", kernel_names());
  return kernels().name;
}

}  // namespace
}  // namespace osum

TORCH_LIBRARY(osum, m) {
  m.def("linear(Tensor x, Tensor weight, Tensor scale, Tensor? bias, SymInt out_features) -> Tensor");
  m.def("unpack(Tensor weight, Tensor scale, ScalarType dtype) -> Tensor");
  m.def(
      "decode_step(Tensor x, Tensor[] weights, Tensor(a!)[] keys, Tensor(b!)[] values, Tensor lens, float rope_theta, float eps) -> Tensor");
  m.def("use_kernels(str name) -> str", &osum::use_kernels_op);
  m.def("kernel_names() -> str[]", &osum::kernel_names);
}

TORCH_LIBRARY_IMPL(osum, CPU, m) {
  m.impl("linear", &osum::linear);
  m.impl("unpack", &osum::unpack);
  m.impl("decode_step", &osum::decode_step);
}

TORCH_LIBRARY_IMPL(osum, Meta, m) {
  m.impl("linear", &osum::linear_meta);
  m.impl("unpack", &osum::unpack_meta);
  m.impl("decode_step", &osum::decode_step_meta);
}

TORCH_LIBRARY_IMPL(osum, Autograd, m) {
  for (const char* name : {"linear", "unpack", "decode_step"}) m.impl(name, torch::CppFunction::makeFromBoxedFunction<&osum::no_gradient>());
}
