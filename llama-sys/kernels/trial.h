// Whether the kernels work: a small operation of each kind, by way of ggml.
#pragma once

#include "format.h"

namespace kernels {

// Whether what is plugged in, with these formats, computes, and computes what it should.
bool all_work(const Format * formats);

}  // namespace kernels
