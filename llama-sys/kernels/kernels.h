/*
 * Matrix multiplication and attention for small batches: kernels of our own, plugged into ggml's CPU backend as one more
 * buffer type.
 *
 * ggml asks its extra buffer types for each weight whether they want it; ours takes matrices in the formats that it has
 * kernels for, keeps them rearranged (layouts: q8_0.h and its neighbours), and multiplies with them. It asks them about each
 * operation too, which is how attention comes here (attention.h): that of every model, as it has no weights.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ggml-backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Plugs the kernels in, and tries them on small matrices. To be called once, before the first model is loaded.
 * Returns NULL when they are in use from now on, or else why they are not; then *amiss tells whether they should have been.
 *
 * The environment variable LLAMA_KERNELS chooses: "off", or the name of an instruction set ("avx2", "avx512vnni",
 * "plain") in place of the best that the processor has.
 */
const char * kernels_register(bool * amiss);

/* The instruction set in use, "avx2" for instance; NULL without any. */
const char * kernels_instruction_set(void);

/* The buffer type; NULL before kernels_register() and where it failed. */
ggml_backend_buffer_type_t kernels_buffer_type(void);

/* Whether a matrix of `columns` weights in each of its rows is taken when a model is loaded. */
bool kernels_take(enum ggml_type type, int64_t columns);

/* What a load may take, and who is told of it. The caller's, from kernels_begin_load() to kernels_end_load(). */
struct kernels_load {
    /* Whether weights may be taken at all. */
    bool take;
    /* Whether the token embedding may be, because the output layer is the same tensor. */
    bool take_token_embedding;
    /* Called with the name of each tensor that was taken. */
    void (*taken)(void * user_data, const char * name);
    void * user_data;
    /* The load within which this one happens; set by kernels_begin_load(). */
    struct kernels_load * outer;
};

/* Holds for models that the calling thread loads from here on. Without it, all is taken that there is a kernel for. */
void kernels_begin_load(struct kernels_load * load);

/* Ends the last one begun. */
void kernels_end_load(void);

/* Multiplications that the kernels have done in this process, and attentions: one a layer and graph. */
uint64_t kernels_multiplications(void);
uint64_t kernels_attentions(void);

#ifdef __cplusplus
}
#endif
