// The table of one instruction set; a file that includes this defines OSUM_LANES first and is compiled with that set's flags.
#pragma once

#include "kernels/panel_inl.h"
#include "kernels/rows_inl.h"

namespace osum {
namespace {

constexpr Kernels make_kernels(const char* name) {
  return {
      name,
      {panel_f32<Format::kInt4>, panel_f32<Format::kInt8>, panel_f32<Format::kBf16>},
      {nullptr, nullptr, nullptr},
      {unpack_panel<Format::kInt4, float>, unpack_panel<Format::kInt8, float>, unpack_panel<Format::kBf16, float>},
      {unpack_panel<Format::kInt4, uint16_t>, unpack_panel<Format::kInt8, uint16_t>, unpack_panel<Format::kBf16, uint16_t>},
      attend<float>,
      attend<uint16_t>,
      rms_norm,
      silu_mul,
      to_bf16,
      to_f32,
  };
}

}  // namespace
}  // namespace osum
