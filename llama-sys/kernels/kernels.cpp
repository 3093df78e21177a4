// See kernels.h: which kernels, and whether they work.

#include "kernels.h"

#include <cstdlib>
#include <cstring>

#include "buffer_type.h"
#include "ggml-cpu.h"
#include "layout.h"
#include "multiply.h"
#include "processor.h"
#include "trial.h"

namespace {

struct InstructionSet {
    const char * name;
    bool (*is_here)();
    const kernels::Format * (*formats)();
    kernels::Attend (*attend)();
    // Whether it is taken without being asked for.
    bool is_fast;
};

// The best first.
const InstructionSet SETS[] = {
#if defined(KERNELS_X86)
    // Whoever has it has AVX2.
    { "avx512vnni", kernels::has_avx512vnni, kernels::avx512vnni_formats, kernels::avx2_attend, true },
    { "avx2", kernels::has_avx2, kernels::avx2_formats, kernels::avx2_attend, true },
#endif
    { "plain", [] { return true; }, kernels::plain_formats, kernels::plain_attend, false },
};

const InstructionSet * in_use = nullptr;

const char * register_best(bool & amiss) {
    const char * wanted = std::getenv("LLAMA_KERNELS");
    if (wanted != nullptr && std::strcmp(wanted, "off") == 0) {
        return "LLAMA_KERNELS is off";
    }
    const bool chosen = wanted != nullptr && *wanted != 0;
    for (const InstructionSet & set : SETS) {
        if ((chosen ? std::strcmp(set.name, wanted) == 0 : set.is_fast) && set.is_here()) {
            in_use = &set;
            break;
        }
    }
    if (in_use == nullptr) {
        amiss = chosen;
        return chosen ? "this processor or this build has not what LLAMA_KERNELS asks for"
                      : "the processor has neither AVX-512 with VNNI nor AVX2 with FMA and F16C";
    }
    amiss = true;
    // It starts ggml, whose tables of numbers the kernels use as well.
    ggml_cpu_init();
    if (!kernels::plug_in(in_use->formats(), in_use->attend())) {
        in_use = nullptr;
        return "this llama.cpp has no list of extra buffer types";
    }
    if (!kernels::all_work(in_use->formats())) {
        kernels::take_out();
        in_use = nullptr;
        return "a trial of them came out wrong, or was computed by llama.cpp";
    }
    return nullptr;
}

}  // namespace

const char * kernels_register(bool * amiss) {
    *amiss = false;
    try {
        return register_best(*amiss);
    } catch (...) {
        in_use = nullptr;
        if (kernels::buffer_type() != nullptr) {
            kernels::take_out();
        }
        return "there was no memory to try them";
    }
}

const char * kernels_instruction_set(void) { return in_use == nullptr ? nullptr : in_use->name; }

ggml_backend_buffer_type_t kernels_buffer_type(void) { return kernels::buffer_type(); }

bool kernels_take(enum ggml_type type, int64_t columns) { return kernels::format_of(type, columns) != nullptr; }

void kernels_begin_load(struct kernels_load * load) { kernels::begin_load(load); }

void kernels_end_load(void) { kernels::end_load(); }

uint64_t kernels_multiplications(void) { return kernels::multiplications(); }

uint64_t kernels_attentions(void) { return kernels::attentions(); }
