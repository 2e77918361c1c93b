// Kernels for AVX-512 F, BW, DQ and VL.
#define OSUM_LANES 16
#include "kernels/kernels_inl.h"

namespace osum {

const Kernels* avx512_kernels() {
  static constexpr Kernels kKernels = make_kernels("avx512");
  return &kKernels;
}

}  // namespace osum
