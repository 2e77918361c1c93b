#include "kernels/cpu.h"

#include <atomic>

namespace osum {
namespace {

std::vector<const Kernels*> usable() {
  std::vector<const Kernels*> found;
#ifdef OSUM_X86
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  if (vnni && __builtin_cpu_supports("avx512bf16")) found.push_back(avx512bf16_kernels());
  if (vnni) found.push_back(avx512vnni_kernels());
  if (avx512) found.push_back(avx512_kernels());
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(avx2_kernels());
#endif
  found.push_back(portable_kernels());
  return found;
}

std::atomic<const Kernels*>& chosen() {
  static std::atomic<const Kernels*> kernels{usable().front()};
  return kernels;
}

}  // namespace

const Kernels& kernels() { return *chosen().load(std::memory_order_relaxed); }

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const Kernels* kernels : usable()) names.emplace_back(kernels->name);
  return names;
}

bool use_kernels(const std::string& name) {
  for (const Kernels* kernels : usable()) {
    if (name.empty() || name == kernels->name) {
      chosen().store(kernels);
      return true;
    }
  }
  return false;
}

}  // namespace osum
