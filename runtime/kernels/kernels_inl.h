// The table of one instruction set; a file that includes this defines OSUM_LANES first and is compiled with that set's flags.
#pragma once

#include "kernels/panel_inl.h"
#include "kernels/rows_inl.h"
#if OSUM_LANES > 4
#include "kernels/panel_fixed_inl.h"
#endif

namespace osum {
namespace {

template <Format F>
constexpr Panel panel_of() {
#if OSUM_LANES > 4
  if constexpr (F == Format::kInt4 || (F == Format::kInt8 && kHasFixedInt8)) return {panel_fixed<F>, Form::kFixed};
#endif
  return {panel_float<F>, Form::kFloat};
}

constexpr Kernels make_kernels(const char* name) {
  return {
      name,
      {panel_of<Format::kInt4>(), panel_of<Format::kInt8>(), panel_of<Format::kBf16>()},
      {panel_of<Format::kInt4>(), panel_of<Format::kInt8>(), panel_of<Format::kBf16>()},
      {unpack_panel<Format::kInt4, float>, unpack_panel<Format::kInt8, float>, unpack_panel<Format::kBf16, float>},
      {unpack_panel<Format::kInt4, uint16_t>, unpack_panel<Format::kInt8, uint16_t>, unpack_panel<Format::kBf16, uint16_t>},
      attend<float>,
      attend<uint16_t>,
      rms_norm,
      silu_mul,
      to_bf16,
      to_f32,
      to_fixed,
  };
}

}  // namespace
}  // namespace osum
