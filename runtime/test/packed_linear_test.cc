// The operators from C++, without Python: every path of the machine against a matrix product, shared threads, and what is refused.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "kernels/cpu.h"
#include "kernels/packed_linear.h"

namespace osum {
namespace {

at::Tensor call_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& scale, int64_t num_outputs) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("osum::linear", "")
                             .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, c10::SymInt)>();
  return op.call(x, weight, scale, std::nullopt, num_outputs);
}

at::Tensor call_unpack(const at::Tensor& weight, const at::Tensor& scale) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("osum::unpack", "")
                             .typed<at::Tensor(const at::Tensor&, const at::Tensor&, at::ScalarType)>();
  return op.call(weight, scale, at::kFloat);
}

// Any bytes are a weight.
struct Weight {
  at::Tensor words, scale;
};

Weight random_int4(int64_t panels, int64_t inputs) {
  return {torch::randint(256, {panels, inputs / 8, kPanel, 4}, at::kByte), torch::rand({panels, inputs / 32, kPanel}).to(at::kBFloat16)};
}

TEST(PackedLinear, EveryPathEqualsTheProductWithTheUnpackedWeight) {
  torch::manual_seed(0);
  const Weight weight = random_int4(3, 64);
  const int64_t num_outputs = 45;
  const at::Tensor unpacked_NK = call_unpack(weight.words, weight.scale).t().slice(0, 0, num_outputs);
  for (const std::string& name : kernel_names()) {
    ASSERT_TRUE(use_kernels(name));
    for (const int64_t rows : {1, 3, 8, 11}) {
      const at::Tensor x = torch::randn({rows, 64});
      const at::Tensor expected = at::linear(x, unpacked_NK), got = call_linear(x, weight.words, weight.scale, num_outputs);
      EXPECT_LT(((got - expected).norm() / expected.norm()).item<double>(), 5e-5) << name << ", " << rows << " rows";
    }
  }
  use_kernels("");
}

TEST(PackedLinear, ThreadsDoNotChangeTheResult) {
  const Weight weight = random_int4(256, 512);
  const at::Tensor x = torch::randn({2, 512}).to(at::kBFloat16);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor alone = call_linear(x, weight.words, weight.scale, 4096);
  at::set_num_threads(3);
  EXPECT_TRUE(at::equal(alone, call_linear(x, weight.words, weight.scale, 4096)));
  at::set_num_threads(threads);
}

TEST(PackedLinear, WhatDoesNotFitIsRefused) {
  const Weight weight = random_int4(2, 64);
  EXPECT_THROW(call_linear(torch::randn({1, 32}), weight.words, weight.scale, 32), c10::Error);
  EXPECT_THROW(call_linear(torch::randn({1, 64}), weight.words, weight.scale, 33), c10::Error);
  EXPECT_THROW(call_linear(torch::randn({1, 64}), weight.words, weight.scale.to(at::kFloat), 32), c10::Error);
  EXPECT_THROW(call_linear(torch::randn({1, 64}), weight.words.to(at::kInt), weight.scale, 32), c10::Error);
}

TEST(Kernels, AnUnknownNameChangesNothing) {
  const std::string before = kernels().name;
  EXPECT_FALSE(use_kernels("abacus"));
  EXPECT_EQ(before, kernels().name);
  EXPECT_EQ("portable", kernel_names().back());
}

}  // namespace
}  // namespace osum
