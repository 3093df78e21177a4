// In place of the kernels, where a build has none of them.

#include "kernels.h"

const char * kernels_register(bool * amiss) {
    *amiss = false;
    return "this build has no kernels of its own";
}

const char * kernels_instruction_set(void) { return nullptr; }
ggml_backend_buffer_type_t kernels_buffer_type(void) { return nullptr; }
bool kernels_take(enum ggml_type, int64_t) { return false; }
void kernels_begin_load(struct kernels_load *) {}
void kernels_end_load(void) {}
uint64_t kernels_multiplications(void) { return 0; }
uint64_t kernels_attentions(void) { return 0; }
