#include "kernels/decode_step.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/packed_linear.h"

namespace osum {
namespace {

constexpr const char* kName = "osum::decode_step";
constexpr int kLargestHeadDim = 256;

struct Shape {
  int64_t rows, width, num_heads, num_kv_heads, head_dim, capacity, ffn_width;
};

// Tensors of the caller as layers. Weights say their inputs, the cache says its heads; together they say everything else.
struct Layer {
  const float *attn_norm, *q_norm, *k_norm, *ffn_norm;
  PackedLinear q, k, v, o, gate, up, down;
};

const float* norm_of(const at::Tensor& weight, int64_t size) {
  TORCH_CHECK(
      weight.scalar_type() == at::kFloat && weight.is_contiguous() && weight.numel() == size, kName, ": a norm must be float (", size,
      "), got ", weight.scalar_type(), " ", weight.sizes());
  return weight.const_data_ptr<float>();
}

Layer layer_of(at::TensorList weights, size_t layer, const Shape& s) {
  const at::TensorList own = weights.slice(layer * kTensorsPerLayer, kTensorsPerLayer);
  const auto linear = [&](int at, int64_t num_outputs) {
    const size_t first = kNormsPerLayer + 3 * at;
    return PackedLinear(kName, own[first], own[first + 1], own[first + 2], num_outputs);
  };
  const bool has_head_norms = own[1].numel() > 0;
  const int64_t query_width = s.num_heads * s.head_dim, kv_width = s.num_kv_heads * s.head_dim;
  Layer found{
      norm_of(own[0], s.width),
      has_head_norms ? norm_of(own[1], s.head_dim) : nullptr,
      has_head_norms ? norm_of(own[2], s.head_dim) : nullptr,
      norm_of(own[3], s.width),
      linear(0, query_width),
      linear(1, kv_width),
      linear(2, kv_width),
      linear(3, s.width),
      linear(4, s.ffn_width),
      linear(5, s.ffn_width),
      linear(6, s.width)};
  for (const PackedLinear* reads_x : {&found.q, &found.k, &found.v, &found.gate, &found.up}) {
    TORCH_CHECK(reads_x->num_inputs() == s.width, kName, ": a weight has ", reads_x->num_inputs(), " inputs, x has ", s.width);
  }
  TORCH_CHECK(found.o.num_inputs() == query_width && found.down.num_inputs() == s.ffn_width, kName, ": layers differ in size");
  return found;
}

// Inputs of a packed weight, which is all the shape needs to know of it before it is checked.
int64_t inputs_of(const at::Tensor& weight) {
  const Format format = weight.scalar_type() == at::kByte ? Format::kInt4 : weight.scalar_type() == at::kChar ? Format::kInt8 : Format::kBf16;
  return weight.dim() == 4 ? weight.size(1) * inputs_per_word(format) : 0;
}

Shape shape_of(const at::Tensor& x_BD, at::TensorList weights, at::TensorList keys, at::TensorList values, const at::Tensor& lens_B) {
  TORCH_CHECK(x_BD.dim() == 2, kName, ": x must be (rows, width), got ", x_BD.sizes());
  TORCH_CHECK(
      !keys.empty() && keys.size() == values.size() && weights.size() == keys.size() * kTensorsPerLayer + 1, kName, ": ", weights.size(),
      " weights for ", keys.size(), " keys and ", values.size(), " values; a layer has ", kTensorsPerLayer, " and one norm follows");
  TORCH_CHECK(keys[0].dim() == 4 && keys[0].size(0) == x_BD.size(0), kName, ": keys ", keys[0].sizes(), " for x ", x_BD.sizes());
  Shape s{x_BD.size(0), x_BD.size(1), 0, keys[0].size(1), keys[0].size(3), keys[0].size(2), 0};
  TORCH_CHECK(s.head_dim > 0 && s.head_dim % 2 == 0 && s.head_dim <= kLargestHeadDim, kName, ": head width ", s.head_dim);
  s.num_heads = inputs_of(weights[kNormsPerLayer + 9]) / s.head_dim;
  s.ffn_width = inputs_of(weights[kNormsPerLayer + 18]);
  TORCH_CHECK(
      s.num_kv_heads > 0 && s.num_heads > 0 && s.num_heads % s.num_kv_heads == 0, kName, ": ", s.num_heads, " query heads and ",
      s.num_kv_heads, " key heads");
  for (const at::TensorList& caches : {keys, values}) {
    for (const at::Tensor& cache : caches) {
      TORCH_CHECK(
          cache.sizes() == keys[0].sizes() && cache.is_contiguous() && cache.scalar_type() == x_BD.scalar_type(), kName,
          ": keys and values must be contiguous, of one shape and of the dtype of x, ", x_BD.scalar_type(), "; got ", cache.scalar_type(), " ",
          cache.sizes());
    }
  }
  TORCH_CHECK(lens_B.scalar_type() == at::kLong && lens_B.is_contiguous() && lens_B.numel() == s.rows, kName, ": lens must be int64 (rows)");
  for (int64_t b = 0; b < s.rows; ++b) {
    const int64_t length = lens_B.const_data_ptr<int64_t>()[b];
    TORCH_CHECK(length >= 0 && length < s.capacity, kName, ": row ", b, " has ", length, " positions, the capacity is ", s.capacity);
  }
  return s;
}

// The working memory of a step and its parts. T is the type of activations and of the cache: float, or uint16_t for bf16.
template <class T>
class Step {
 public:
  Step(const Shape& s, const int64_t* lens_B, double rope_theta, float eps)
      : s_(s), lens_B_(lens_B), eps_(eps), x_BD_(s.rows * s.width), normed_BD_(s.rows * s.width),
        q_(s.rows * s.num_heads * s.head_dim), k_(s.rows * s.num_kv_heads * s.head_dim), v_(k_.size()), attended_(q_.size()),
        gated_BF_(s.rows * s.ffn_width), cos_(s.rows * s.head_dim / 2), sin_(cos_.size()), wide_(s.rows, s.width, kIsBf16),
        heads_(s.rows, s.num_heads * s.head_dim, kIsBf16), ffn_(s.rows, s.ffn_width, kIsBf16) {
    const int64_t half = s.head_dim / 2;
    for (int64_t b = 0; b < s.rows; ++b) {
      for (int64_t i = 0; i < half; ++i) {
        const float rate = std::pow(static_cast<float>(rope_theta), -static_cast<float>(2 * i) / static_cast<float>(s.head_dim));
        const float angle = static_cast<float>(lens_B[b]) * rate;
        cos_[b * half + i] = std::cos(angle);
        sin_[b * half + i] = std::sin(angle);
      }
    }
    const int64_t longest = 1 + *std::max_element(lens_B, lens_B + s.rows);
    scores_.resize(s.rows * s.num_heads * longest);
    score_stride_ = longest;
  }

  float* x() { return x_BD_.data(); }

  void run(const Layer& layer, T* keys, T* values) {
    project(layer);
    rotate_and_append(layer, keys, values);
    attend(keys, values);
    heads_.set(attended_.data(), layer.o.form(kIsBf16));
    add_to_x(layer.o, heads_);
    gate(layer);
    ffn_.set(gated_BF_.data(), layer.down.form(kIsBf16));
    add_to_x(layer.down, ffn_);
  }

  void final_norm(const float* weight, float* out) { norm_rows(weight, out); }

 private:
  static constexpr bool kIsBf16 = sizeof(T) == 2;

  void norm_rows(const float* weight, float* out) {
    for (int64_t b = 0; b < s_.rows; ++b) kernels().rms_norm(&x_BD_[b * s_.width], weight, eps_, s_.width, out + b * s_.width);
  }

  void project(const Layer& layer) {
    norm_rows(layer.attn_norm, normed_BD_.data());
    wide_.set(normed_BD_.data(), layer.q.form(kIsBf16) | layer.k.form(kIsBf16) | layer.v.form(kIsBf16));
    const PackedLinear* linears[3] = {&layer.q, &layer.k, &layer.v};
    float* outs[3] = {q_.data(), k_.data(), v_.data()};
    const int64_t ends[3] = {
        layer.q.num_panels(), layer.q.num_panels() + layer.k.num_panels(), layer.q.num_panels() + 2 * layer.k.num_panels()};
    at::parallel_for(0, ends[2], layer.q.grain(), [&](int64_t begin, int64_t end) {
      for (int64_t panel = begin; panel < end; ++panel) {
        const int which = panel < ends[0] ? 0 : panel < ends[1] ? 1 : 2;
        const int64_t stride = linears[which]->num_outputs();
        linears[which]->run_panel(wide_, panel - (which ? ends[which - 1] : 0), [&](int64_t b, int64_t first, int64_t n, const float* y) {
          std::copy(y, y + n, outs[which] + b * stride + first);
        });
      }
    });
  }

  void rotate(float* head, int64_t b) const {
    const int64_t half = s_.head_dim / 2;
    const float *cos = &cos_[b * half], *sin = &sin_[b * half];
    for (int64_t i = 0; i < half; ++i) {
      const float first = head[i], second = head[half + i];
      head[i] = first * cos[i] - second * sin[i];
      head[half + i] = second * cos[i] + first * sin[i];
    }
  }

  void store_head(const float* from, T* to) const {
    if constexpr (kIsBf16) {
      kernels().to_bf16(from, s_.head_dim, to);
    } else {
      std::copy(from, from + s_.head_dim, to);
    }
  }

  void rotate_and_append(const Layer& layer, T* keys, T* values) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(s_.head_dim));
    for (int64_t b = 0; b < s_.rows; ++b) {
      for (int64_t n = 0; n < s_.num_heads; ++n) {
        float* head = &q_[(b * s_.num_heads + n) * s_.head_dim];
        if (layer.q_norm) kernels().rms_norm(head, layer.q_norm, eps_, s_.head_dim, head);
        rotate(head, b);
        for (int64_t i = 0; i < s_.head_dim; ++i) head[i] *= scale;
      }
      for (int64_t k = 0; k < s_.num_kv_heads; ++k) {
        float* head = &k_[(b * s_.num_kv_heads + k) * s_.head_dim];
        if (layer.k_norm) kernels().rms_norm(head, layer.k_norm, eps_, s_.head_dim, head);
        rotate(head, b);
        const int64_t slot = ((b * s_.num_kv_heads + k) * s_.capacity + lens_B_[b]) * s_.head_dim;
        store_head(head, keys + slot);
        store_head(&v_[(b * s_.num_kv_heads + k) * s_.head_dim], values + slot);
      }
    }
  }

  // A task is one key head of one row with the queries that share it, cut further only when there are more threads than those.
  void attend(const T* keys, const T* values) {
    const int64_t shared = s_.num_heads / s_.num_kv_heads, key_heads = s_.rows * s_.num_kv_heads;
    const int64_t cuts = std::clamp<int64_t>((at::get_num_threads() + key_heads - 1) / key_heads, 1, shared);
    const int64_t queries = (shared + cuts - 1) / cuts;
    at::parallel_for(0, key_heads * cuts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t key_head = task / cuts, first = task % cuts * queries, b = key_head / s_.num_kv_heads;
        if (first >= shared) continue;
        const int64_t head = key_head * shared + first, slot = key_head * s_.capacity * s_.head_dim;
        AttendArgs args{};
        args.q = &q_[head * s_.head_dim];
        args.keys = keys + slot;
        args.values = values + slot;
        args.length = lens_B_[b] + 1;
        args.num_queries = static_cast<int>(std::min(queries, shared - first));
        args.head_dim = static_cast<int>(s_.head_dim);
        args.scores = &scores_[head * score_stride_];
        args.out = &attended_[head * s_.head_dim];
        (kIsBf16 ? kernels().attend_bf16 : kernels().attend_f32)(args);
      }
    });
  }

  void add_to_x(const PackedLinear& linear, const Activations& input) {
    at::parallel_for(0, linear.num_panels(), linear.grain(), [&](int64_t begin, int64_t end) {
      for (int64_t panel = begin; panel < end; ++panel) {
        linear.run_panel(input, panel, [&](int64_t b, int64_t first, int64_t n, const float* y) {
          float* x = &x_BD_[b * s_.width + first];
          for (int64_t i = 0; i < n; ++i) x[i] += y[i];
        });
      }
    });
  }

  void gate(const Layer& layer) {
    norm_rows(layer.ffn_norm, normed_BD_.data());
    wide_.set(normed_BD_.data(), layer.gate.form(kIsBf16) | layer.up.form(kIsBf16));
    at::parallel_for(0, layer.gate.num_panels(), layer.gate.grain(), [&](int64_t begin, int64_t end) {
      for (int64_t panel = begin; panel < end; ++panel) {
        layer.gate.run_panel(wide_, panel, [&](int64_t b, int64_t first, int64_t n, const float* y) {
          std::copy(y, y + n, &gated_BF_[b * s_.ffn_width + first]);
        });
        layer.up.run_panel(wide_, panel, [&](int64_t b, int64_t first, int64_t n, const float* y) {
          float* gated = &gated_BF_[b * s_.ffn_width + first];
          kernels().silu_mul(gated, y, n, gated);
        });
      }
    });
  }

  Shape s_;
  const int64_t* lens_B_;
  float eps_;
  int64_t score_stride_ = 0;
  std::vector<float> x_BD_, normed_BD_, q_, k_, v_, attended_, gated_BF_, cos_, sin_, scores_;
  Activations wide_, heads_, ffn_;
};

template <class T, class Stored>
at::Tensor run_step(
    const at::Tensor& x_BD, at::TensorList weights, at::TensorList keys, at::TensorList values, const Shape& s, const int64_t* lens_B,
    double rope_theta, double eps) {
  Step<T> step(s, lens_B, rope_theta, static_cast<float>(eps));
  const at::Tensor wide = x_BD.to(at::kFloat).contiguous();
  std::copy_n(wide.const_data_ptr<float>(), wide.numel(), step.x());
  for (size_t layer = 0; layer < keys.size(); ++layer) {
    T* key = reinterpret_cast<T*>(keys[layer].mutable_data_ptr<Stored>());
    step.run(layer_of(weights, layer, s), key, reinterpret_cast<T*>(values[layer].mutable_data_ptr<Stored>()));
  }
  at::Tensor out = at::empty(x_BD.sizes(), wide.options());
  step.final_norm(norm_of(weights[weights.size() - 1], s.width), out.mutable_data_ptr<float>());
  return out.to(x_BD.scalar_type());
}

}  // namespace

at::Tensor decode_step(
    const at::Tensor& x_BD, at::TensorList weights, at::TensorList keys, at::TensorList values, const at::Tensor& lens_B, double rope_theta,
    double eps) {
  const Shape s = shape_of(x_BD, weights, keys, values, lens_B);
  const int64_t* lens = lens_B.const_data_ptr<int64_t>();
  if (x_BD.scalar_type() == at::kFloat) return run_step<float, float>(x_BD, weights, keys, values, s, lens, rope_theta, eps);
  TORCH_CHECK(x_BD.scalar_type() == at::kBFloat16, kName, ": x must be float or bfloat16, got ", x_BD.scalar_type());
  return run_step<uint16_t, at::BFloat16>(x_BD, weights, keys, values, s, lens, rope_theta, eps);
}

}  // namespace osum
