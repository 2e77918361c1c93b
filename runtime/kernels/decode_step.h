// One position of every row through all layers of a Qwen2/Qwen3 decoder, on packed weights: what Llm.step does, without a Python call or a
// tensor for each of the four hundred small operations.
#pragma once

#include <ATen/ATen.h>

namespace osum {

// Tensors of a layer in `weights`, in this order: attn_norm (D), q_norm (H), k_norm (H), ffn_norm (D), then weight, scale and bias of q, k,
// v, o, gate, up and down. What a model does not have is an empty tensor. After the layers comes the final norm (D). Norms are float.
constexpr int kNormsPerLayer = 4;
constexpr int kLinearsPerLayer = 7;
constexpr int kTensorsPerLayer = kNormsPerLayer + 3 * kLinearsPerLayer;

// x_BD (float or bf16, which is then what linears are fed; the residual stream is float), keys and values one (B, K, C, H) a layer, written at
// position lens_B[b] of row b; lens_B itself is left to the caller. Returns the normed hidden states (B, D) in the dtype of x_BD.
at::Tensor decode_step(
    const at::Tensor& x_BD, at::TensorList weights, at::TensorList keys, at::TensorList values, const at::Tensor& lens_B, double rope_theta,
    double eps);

}  // namespace osum
