// Which instruction set the kernels run on.
#pragma once

#include <string>
#include <vector>

#include "kernels/panel.h"

namespace osum {

// The kernels in use: the best this machine has unless use_kernels() chose others.
const Kernels& kernels();

// Names of all this machine can run, best first.
std::vector<std::string> kernel_names();

// Chooses by name ("" for the best), for tests and measurements, never while an operator runs; false, and nothing changes, when this machine
// cannot run it.
bool use_kernels(const std::string& name);

}  // namespace osum
