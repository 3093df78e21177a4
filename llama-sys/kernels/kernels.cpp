// See kernels.h: which kernels, and whether they work.

#include "kernels.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "buffer_type.h"
#include "ggml-alloc.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include "processor.h"

namespace {

struct InstructionSet {
    const char * name;
    bool (*is_here)();
    const kernels::Format * (*formats)();
    // Whether it is taken without being asked for.
    bool is_fast;
};

// The best first.
const InstructionSet SETS[] = {
#if defined(KERNELS_X86)
    { "avx512vnni", kernels::has_avx512vnni, kernels::avx512vnni_formats, true },
    { "avx2", kernels::has_avx2, kernels::avx2_formats, true },
#endif
    { "plain", [] { return true; }, kernels::plain_formats, false },
};

const InstructionSet * in_use = nullptr;

template <class T, void (*FREE)(T *)>
struct Free {
    void operator()(T * one) const { FREE(one); }
};
using Context = std::unique_ptr<ggml_context, Free<ggml_context, ggml_free>>;
using Backend = std::unique_ptr<ggml_backend, Free<ggml_backend, ggml_backend_free>>;
using Buffer = std::unique_ptr<ggml_backend_buffer, Free<ggml_backend_buffer, ggml_backend_buffer_free>>;

// Multiplies a small matrix by way of ggml, and compares with the same in plain floating point.
bool works(const kernels::Format & format) {
    constexpr int64_t ROWS = 17, COLUMNS = 3;
    const int64_t width = 2 * format.block_weights;
    const auto wave = [](int64_t i) { return std::sin(static_cast<float>(i)); };
    std::vector<float> values(width * ROWS), input(width * COLUMNS), output(ROWS * COLUMNS);
    for (size_t i = 0; i < values.size(); i++) {
        values[i] = wave(static_cast<int64_t>(i));
    }
    for (size_t i = 0; i < input.size(); i++) {
        input[i] = wave(static_cast<int64_t>(7 * i + 1));
    }
    std::vector<char> rows(ggml_row_size(format.type, width) * ROWS);
    ggml_quantize_chunk(format.type, values.data(), rows.data(), 0, ROWS, width, nullptr);
    ggml_get_type_traits(format.type)->to_float(rows.data(), values.data(), width * ROWS);

    const size_t overhead = 8 * ggml_tensor_overhead() + ggml_graph_overhead();
    const Context of_weights(ggml_init({ overhead, nullptr, true })), of_rest(ggml_init({ overhead, nullptr, true }));
    const Backend backend(ggml_backend_cpu_init());
    if (!of_weights || !of_rest || !backend) {
        return false;
    }
    ggml_backend_cpu_set_n_threads(backend.get(), 1);
    ggml_tensor * weights = ggml_new_tensor_2d(of_weights.get(), format.type, width, ROWS);
    ggml_tensor * columns = ggml_new_tensor_2d(of_rest.get(), GGML_TYPE_F32, width, COLUMNS);
    ggml_tensor * product = ggml_mul_mat(of_rest.get(), weights, columns);
    ggml_cgraph * graph = ggml_new_graph(of_rest.get());
    ggml_build_forward_expand(graph, product);
    const Buffer ours(ggml_backend_alloc_ctx_tensors_from_buft(of_weights.get(), kernels::buffer_type()));
    const Buffer plain(ggml_backend_alloc_ctx_tensors(of_rest.get(), backend.get()));
    if (!ours || !plain) {
        return false;
    }
    ggml_backend_tensor_set(weights, rows.data(), 0, rows.size());
    ggml_backend_tensor_set(columns, input.data(), 0, input.size() * sizeof(float));
    const uint64_t before = kernels::multiplications();
    if (ggml_backend_graph_compute(backend.get(), graph) != GGML_STATUS_SUCCESS) {
        return false;
    }
    ggml_backend_tensor_get(product, output.data(), 0, output.size() * sizeof(float));
    for (int64_t c = 0; c < COLUMNS; c++) {
        for (int64_t r = 0; r < ROWS; r++) {
            double exact = 0, most = 0;
            for (int64_t k = 0; k < width; k++) {
                const double one = static_cast<double>(values[r * width + k]) * input[c * width + k];
                exact += one;
                most += std::fabs(one);
            }
            // Activations are rounded to 8 bits.
            if (!(std::fabs(output[c * ROWS + r] - exact) <= most / 100)) {
                return false;
            }
        }
    }
    return kernels::multiplications() == before + 1;
}

bool all_work() {
    for (const kernels::Format * format = in_use->formats(); format->block_weights != 0; format++) {
        if (!works(*format)) {
            return false;
        }
    }
    return true;
}

}  // namespace

namespace {

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
    if (!kernels::plug_in(in_use->formats())) {
        in_use = nullptr;
        return "this llama.cpp has no list of extra buffer types";
    }
    if (!all_work()) {
        kernels::take_out();
        in_use = nullptr;
        return "a trial multiplication came out wrong, or was not done by them";
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
