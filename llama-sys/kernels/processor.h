// What this machine's processor can do.
#pragma once

namespace kernels {

// Asked of the processor itself, and of what the system keeps of its registers.
bool has_avx2();
bool has_avx512vnni();

}  // namespace kernels
