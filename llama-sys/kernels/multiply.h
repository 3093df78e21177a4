// Operations on weights that lie in a buffer of ours.
#pragma once

#include <cstdint>

#include "ggml-cpu-impl.h"

namespace kernels {

// Whether `multiply` or `get_rows` computes this operation, of whatever weights the kernels have a form for.
bool can_compute(const ggml_tensor * op);

// Bytes of work memory that it takes.
size_t work_bytes(int threads, const ggml_tensor * op);

// MUL_MAT, and MUL_MAT_ID: each token by the matrices that it chose.
void multiply(const ggml_compute_params * params, ggml_tensor * result);

// GET_ROWS.
void get_rows(const ggml_compute_params * params, ggml_tensor * result);

// How often `multiply` was called in this process, by all threads together.
uint64_t multiplications();

}  // namespace kernels
