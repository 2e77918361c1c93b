// Kernels for AVX-512 with VNNI, sums of products of bytes.
#define OSUM_LANES 16
#include "kernels/kernels_inl.h"

namespace osum {

const Kernels* avx512vnni_kernels() {
  static constexpr Kernels kKernels = make_kernels("avx512vnni");
  return &kKernels;
}

}  // namespace osum
