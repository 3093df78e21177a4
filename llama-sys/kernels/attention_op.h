// Attention as an operation of ggml's: which ones the kernel takes, and how they are shared out among threads.
#pragma once

#include "attention.h"
#include "ggml-cpu-impl.h"
#include "ggml.h"

namespace kernels {

// Whether an operation of the kind GGML_OP_FLASH_ATTN_EXT is of the kernel's shapes. The rest is llama.cpp's.
bool can_attend(const ggml_tensor * op);

// Bytes of memory that it takes meanwhile.
size_t attention_bytes(int threads, const ggml_tensor * op);

// This thread's share.
void attend(const ggml_compute_params * params, ggml_tensor * op, Attend kernel);

}  // namespace kernels
