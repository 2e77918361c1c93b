// Kernels for any machine: vectors of 128 bits, which every 64-bit x86 and Arm has.
#define OSUM_LANES 4
#include "kernels/kernels_inl.h"

namespace osum {

const Kernels* portable_kernels() {
  static constexpr Kernels kKernels = make_kernels("portable");
  return &kKernels;
}

}  // namespace osum
