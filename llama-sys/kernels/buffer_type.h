// The buffer type of rearranged weights, and the way in for what is computed with them and for attention.
#pragma once

#include "attention.h"
#include "format.h"
#include "ggml-backend.h"
#include "kernels.h"

namespace kernels {

// Makes the buffer type of these formats and puts it before ggml's own, once. False if this ggml has no place for it.
bool plug_in(const Format * formats, Attend attend);

// Takes it out again.
void take_out();

// NULL before plug_in().
ggml_backend_buffer_type_t buffer_type();

uint64_t attentions();

void begin_load(kernels_load * load);
void end_load();

}  // namespace kernels
