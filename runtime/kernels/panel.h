// The packed layout of decode weights, the forms activations take, and the table of kernels of one instruction set.
//
// A weight of N outputs and K inputs is cut into panels of 16 outputs. A panel is one stream of words of 32 bits in the order (word, output):
// 64 bytes hold one word of each of the 16 outputs, and a word holds 8 (int4), 4 (int8) or 2 (bf16) consecutive inputs of its output. So a
// vector of 16 sums belongs to 16 outputs, nothing is summed across lanes, inputs are broadcast, and memory is read once, in order.
// int4 is stored plus 8; byte b of a word holds input b in its low half and input 4 + b in its high half, so that masks yield four bytes in
// the order of the inputs. Scales are bf16, (panel, group of inputs, output); a weight of kind bf16 has none. Rows beyond N are zero.
//
// Nothing of torch or of the standard library's inline code may be included here: these headers are compiled once per instruction set, and
// the linker would be free to keep the copy an older machine cannot run.
#pragma once

#include <cstdint>

namespace osum {

constexpr int kPanel = 16;   // outputs of a panel
constexpr int kMaxRows = 8;  // rows of activations one call takes
constexpr int kBlock = 32;   // inputs; K and groups are multiples of it

enum class Format : int { kInt4 = 0, kInt8 = 1, kBf16 = 2 };
constexpr int kNumFormats = 3;

static constexpr int inputs_per_word(Format format) {
  return format == Format::kInt4 ? 8 : format == Format::kInt8 ? 4 : 2;
}

// Activations in fixed point: x = scale * (254 * hi + lo). Weights of few bits then meet bytes, which machines multiply many at a time. The
// error is at most 2^-16 of the largest of 32 activations, far below what rounding to bf16 has done to it.
struct FixedBlock {
  float scale;
  int32_t minus_hi, minus_lo;  // minus the sums of hi and lo, for weights that are stored with an offset
  int8_t hi[kBlock], lo[kBlock];
};
constexpr int kFixedBase = 254;  // so that both halves stay within -127 ... 127

enum class Form : int { kFloat = 1, kBf16 = 2, kFixed = 4 };  // of activations; bits, since linears of one input may ask for several

// One panel against some rows of activations.
struct PanelArgs {
  const uint32_t* words;   // (num_groups * group_words, 16)
  const uint16_t* scales;  // bf16, (num_groups, 16); null: 1
  int64_t num_groups;
  int64_t group_words;     // per output; whole blocks
  const void* x;           // (rows, K) in the form the kernel asks for
  int64_t x_stride;        // floats, bf16 or blocks from one row to the next
  int rows;                // 1 ... kMaxRows
  float* out;              // (rows, 16)
};

struct Panel {
  void (*run)(const PanelArgs&);
  Form form;
};

// The weights of a panel, (K, 16) with `stride` elements from one input to the next: 16 outputs are one store.
using UnpackFn = void (*)(const PanelArgs&, void* out, int64_t stride);

// Attention of the query heads that share one key head, over the keys so far.
struct AttendArgs {
  const float* q;      // (num_queries, head_dim), scaled
  const void* keys;    // (length, head_dim) in the type of the cache
  const void* values;  // the same
  int64_t length;
  int num_queries;
  int head_dim;
  float* scores;       // (num_queries, length), overwritten
  float* out;          // (num_queries, head_dim)
};

struct Kernels {
  const char* name;
  Panel for_float[kNumFormats];  // when activations are float
  Panel for_bf16[kNumFormats];   // when they are bf16
  UnpackFn unpack_f32[kNumFormats];
  UnpackFn unpack_bf16[kNumFormats];
  void (*attend_f32)(const AttendArgs&);
  void (*attend_bf16)(const AttendArgs&);
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t size, float* out);
  void (*silu_mul)(const float* gate, const float* up, int64_t size, float* out);
  void (*to_bf16)(const float* x, int64_t size, uint16_t* out);
  void (*to_f32)(const uint16_t* x, int64_t size, float* out);
  void (*to_fixed)(const float* x, int64_t num_blocks, FixedBlock* out);
};

const Kernels* portable_kernels();
const Kernels* avx2_kernels();  // this and the next ones only where OSUM_X86 is defined
const Kernels* avx512_kernels();
const Kernels* avx512vnni_kernels();
const Kernels* avx512bf16_kernels();

}  // namespace osum
