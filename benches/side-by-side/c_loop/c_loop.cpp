// What a program gets out of llama.cpp that calls its C API and checks nothing: the ceiling that the safe layer is held against.

#include <kernels.h>
#include <llama.h>

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace {

constexpr int32_t BATCH = 2048;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

// The highest of some logits: a loop that compilers turn into vector instructions.
float highest_of(const float *logits, int32_t count) {
    float most = logits[0];
    for (int32_t i = 0; i < count; i++) {
        most = logits[i] > most ? logits[i] : most;
    }
    return most;
}

// The likeliest token, the lowest of equal ones. Only the block that has the highest logit of all is looked at number by number.
int32_t best(const float *logits, int32_t count) {
    constexpr int32_t BLOCK = 128;
    float most = logits[0];
    int32_t block = 0;
    for (int32_t start = 0; start < count; start += BLOCK) {
        const float highest = highest_of(logits + start, std::min(BLOCK, count - start));
        if (highest > most) {
            most = highest;
            block = start;
        }
    }
    while (logits[block] != most) {
        block++;
    }
    return block;
}

void put(llama_batch &batch, int32_t token, int32_t position, int32_t sequence, bool output) {
    const int32_t row = batch.n_tokens++;
    batch.token[row] = token;
    batch.pos[row] = position;
    batch.n_seq_id[row] = 1;
    batch.seq_id[row][0] = sequence;
    batch.logits[row] = output;
}

} // namespace

extern "C" {

struct llama_model *c_loop_load(const char *path) {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    // The same kernels as all others of this build. Where they are off, the loop is llama.cpp as it is.
    bool amiss;
    kernels_register(&amiss);
    return llama_model_load_from_file(path, llama_model_default_params());
}

// `sequences` prompts of `length` tokens, one behind the other in `prompts`; `generate` tokens of each go to `outputs` in the same
// way. `seconds` gets the time of the prompts with the first tokens, and that of all others. Returns 0, or what llama.cpp returned.
int32_t c_loop_run(llama_model *model, int32_t sequences, int32_t length, int32_t generate, int32_t cells, int32_t threads,
                   const int32_t *prompts, int32_t *outputs, double *seconds) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = static_cast<uint32_t>(sequences * cells);
    params.n_batch = std::min(static_cast<uint32_t>(BATCH), params.n_ctx);
    params.n_seq_max = static_cast<uint32_t>(sequences);
    params.n_threads = threads;
    params.n_threads_batch = threads;
    params.kv_unified = false;
    llama_context *context = llama_init_from_model(model, params);
    if (context == nullptr) {
        return -1;
    }
    const int32_t vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    llama_batch batch = llama_batch_init(BATCH, 0, 1);

    // Threads are awake and memory is there before the clock runs.
    for (int32_t position = 0; position < 16; position++) {
        put(batch, 3, position, 0, position == 15);
    }
    int32_t code = llama_decode(context, batch);
    llama_memory_clear(llama_get_memory(context), false);
    batch.n_tokens = 0;

    auto started = Clock::now();
    // The first sequence whose end is not decoded yet.
    int32_t waiting = 0;
    for (int32_t sequence = 0; sequence < sequences && code == 0; sequence++) {
        for (int32_t position = 0; position < length && code == 0; position++) {
            const bool last = position + 1 == length;
            put(batch, prompts[sequence * length + position], position, sequence, last);
            if (batch.n_tokens < BATCH && !(last && sequence + 1 == sequences)) {
                continue;
            }
            code = llama_decode(context, batch);
            for (int32_t row = 0; row < batch.n_tokens && code == 0; row++) {
                if (batch.logits[row]) {
                    outputs[waiting++ * generate] = best(llama_get_logits_ith(context, row), vocabulary);
                }
            }
            batch.n_tokens = 0;
        }
    }
    seconds[0] = seconds_since(started);

    started = Clock::now();
    for (int32_t step = 1; step < generate && code == 0; step++) {
        for (int32_t sequence = 0; sequence < sequences; sequence++) {
            put(batch, outputs[sequence * generate + step - 1], length + step - 1, sequence, true);
        }
        code = llama_decode(context, batch);
        for (int32_t sequence = 0; sequence < sequences && code == 0; sequence++) {
            outputs[sequence * generate + step] = best(llama_get_logits_ith(context, sequence), vocabulary);
        }
        batch.n_tokens = 0;
    }
    seconds[1] = seconds_since(started);

    llama_batch_free(batch);
    llama_free(context);
    return code;
}

} // extern "C"
