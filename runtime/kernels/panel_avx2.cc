// Kernels for AVX2 with FMA.
#define OSUM_LANES 8
#include "kernels/kernels_inl.h"

namespace osum {

const Kernels* avx2_kernels() {
  static constexpr Kernels kKernels = make_kernels("avx2");
  return &kKernels;
}

}  // namespace osum
