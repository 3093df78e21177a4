// See trial.h. Results are compared with the same in plain floating point.

#include "trial.h"

#include <cmath>
#include <memory>
#include <vector>

#include "buffer_type.h"
#include "ggml-alloc.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include "multiply.h"

namespace kernels {
namespace {

template <class T, void (*FREE)(T *)>
struct Free {
    void operator()(T * one) const { FREE(one); }
};
using Context = std::unique_ptr<ggml_context, Free<ggml_context, ggml_free>>;
using Backend = std::unique_ptr<ggml_backend, Free<ggml_backend, ggml_backend_free>>;
using Buffer = std::unique_ptr<ggml_backend_buffer, Free<ggml_backend_buffer, ggml_backend_buffer_free>>;

// A graph of one operation, its weights in our buffer and the rest in a plain one.
struct Graph {
    Context weights = tensors(), rest = tensors();
    Backend backend{ ggml_backend_cpu_init() };
    Buffer of_weights, of_rest;

    static Context tensors() { return Context(ggml_init({ 8 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true })); }

    bool is_whole() const { return weights && rest && backend; }
    bool allocate() {
        if (ggml_get_first_tensor(weights.get()) != nullptr) {
            of_weights.reset(ggml_backend_alloc_ctx_tensors_from_buft(weights.get(), buffer_type()));
            if (!of_weights) {
                return false;
            }
        }
        of_rest.reset(ggml_backend_alloc_ctx_tensors(rest.get(), backend.get()));
        return of_rest != nullptr;
    }
    bool compute(ggml_tensor * result, std::vector<float> & output) {
        ggml_cgraph * graph = ggml_new_graph(rest.get());
        ggml_build_forward_expand(graph, result);
        ggml_backend_cpu_set_n_threads(backend.get(), 1);
        if (ggml_backend_graph_compute(backend.get(), graph) != GGML_STATUS_SUCCESS) {
            return false;
        }
        output.resize(ggml_nelements(result));
        ggml_backend_tensor_get(result, output.data(), 0, ggml_nbytes(result));
        return true;
    }
};

// Numbers between -1 and 1 that go up and down.
std::vector<float> waves(size_t count, int step) {
    std::vector<float> waves(count);
    for (size_t i = 0; i < count; i++) {
        waves[i] = std::sin(static_cast<float>(step * i + 1));
    }
    return waves;
}

// In 16 bits, and `numbers` themselves as these are.
std::vector<ggml_fp16_t> halved(std::vector<float> & numbers) {
    std::vector<ggml_fp16_t> halved(numbers.size());
    ggml_fp32_to_fp16_row(numbers.data(), halved.data(), static_cast<int64_t>(numbers.size()));
    ggml_fp16_to_fp32_row(halved.data(), numbers.data(), static_cast<int64_t>(numbers.size()));
    return halved;
}

template <class T>
void set(ggml_tensor * tensor, const std::vector<T> & data) {
    ggml_backend_tensor_set(tensor, data.data(), 0, ggml_nbytes(tensor));
}

// Whether columns are multiplied with a matrix, or with two of which each column has both, in turn the one or the other first.
bool multiplies(const Format & format, int64_t matrices) {
    constexpr int64_t ROWS = 17, COLUMNS = 3;
    const int64_t width = 2 * format.block_weights;
    const int64_t rows_in_all = ROWS * matrices;
    std::vector<float> values = waves(width * rows_in_all, 1), output;
    const std::vector<float> input = waves(width * COLUMNS, 7);
    std::vector<char> rows(ggml_row_size(format.type, width) * rows_in_all);
    ggml_quantize_chunk(format.type, values.data(), rows.data(), 0, rows_in_all, width, nullptr);
    ggml_get_type_traits(format.type)->to_float(rows.data(), values.data(), width * rows_in_all);
    std::vector<int32_t> chosen(matrices * COLUMNS);
    for (size_t i = 0; i < chosen.size(); i++) {
        chosen[i] = static_cast<int32_t>((i + i / matrices) % matrices);
    }

    Graph graph;
    if (!graph.is_whole()) {
        return false;
    }
    ggml_context * rest = graph.rest.get();
    ggml_tensor * weights = ggml_new_tensor_3d(graph.weights.get(), format.type, width, ROWS, matrices);
    ggml_tensor * columns = ggml_new_tensor_3d(rest, GGML_TYPE_F32, width, 1, COLUMNS);
    ggml_tensor * ids = ggml_new_tensor_2d(rest, GGML_TYPE_I32, matrices, COLUMNS);
    ggml_tensor * product = matrices == 1 ? ggml_mul_mat(rest, weights, columns) : ggml_mul_mat_id(rest, weights, columns, ids);
    if (!graph.allocate()) {
        return false;
    }
    set(weights, rows);
    set(columns, input);
    set(ids, chosen);
    const uint64_t before = multiplications();
    if (!graph.compute(product, output) || multiplications() != before + 1) {
        return false;
    }
    for (size_t c = 0; c < chosen.size(); c++) {
        const float * column = input.data() + c / matrices * width;
        for (int64_t r = 0; r < ROWS; r++) {
            const float * row = values.data() + (chosen[c] * ROWS + r) * width;
            double exact = 0, most = 0;
            for (int64_t k = 0; k < width; k++) {
                const double one = static_cast<double>(row[k]) * column[k];
                exact += one;
                most += std::fabs(one);
            }
            // Activations are rounded to 8 bits.
            if (!(std::fabs(output[c * ROWS + r] - exact) <= most / 100)) {
                return false;
            }
        }
    }
    return true;
}

bool attends() {
    // Three query heads to a KV head, and cells for two spans.
    constexpr int64_t SIZE = 16, TOKENS = 2, HEADS = 3, CELLS = SPAN_CELLS + 10;
    constexpr float SCALE = 0.5f;
    std::vector<float> keys = waves(SIZE * CELLS, 1), values = waves(SIZE * CELLS, 3), mask = waves(CELLS * TOKENS, 5), output;
    const std::vector<float> queries = waves(SIZE * TOKENS * HEADS, 7);
    for (size_t i = 0; i < mask.size(); i += 3) {
        mask[i] = -INFINITY;
    }
    Graph graph;
    if (!graph.is_whole()) {
        return false;
    }
    ggml_context * rest = graph.rest.get();
    ggml_tensor * query = ggml_new_tensor_3d(rest, GGML_TYPE_F32, SIZE, TOKENS, HEADS);
    ggml_tensor * key = ggml_new_tensor_2d(rest, GGML_TYPE_F16, SIZE, CELLS);
    ggml_tensor * value = ggml_new_tensor_2d(rest, GGML_TYPE_F16, SIZE, CELLS);
    ggml_tensor * hidden = ggml_new_tensor_2d(rest, GGML_TYPE_F16, CELLS, TOKENS);
    ggml_tensor * seen = ggml_flash_attn_ext(rest, query, key, value, hidden, SCALE, 0, 0);
    if (!graph.allocate()) {
        return false;
    }
    set(query, queries);
    set(key, halved(keys));
    set(value, halved(values));
    set(hidden, halved(mask));
    const uint64_t before = attentions();
    if (!graph.compute(seen, output) || attentions() != before + 1) {
        return false;
    }
    for (int64_t token = 0; token < TOKENS; token++) {
        for (int64_t head = 0; head < HEADS; head++) {
            std::vector<double> sum(SIZE, 0);
            double all = 0;
            for (int64_t cell = 0; cell < CELLS; cell++) {
                double score = 0;
                for (int64_t i = 0; i < SIZE; i++) {
                    score += static_cast<double>(queries[(head * TOKENS + token) * SIZE + i]) * keys[cell * SIZE + i];
                }
                const double weight = std::exp(score * SCALE + mask[token * CELLS + cell]);
                all += weight;
                for (int64_t i = 0; i < SIZE; i++) {
                    sum[i] += weight * values[cell * SIZE + i];
                }
            }
            for (int64_t i = 0; i < SIZE; i++) {
                if (!(std::fabs(output[(token * HEADS + head) * SIZE + i] - sum[i] / all) <= 1e-5)) {
                    return false;
                }
            }
        }
    }
    return true;
}

}  // namespace

bool all_work(const Format * formats) {
    for (const Format * format = formats; format->block_weights != 0; format++) {
        if (!multiplies(*format, 1) || !multiplies(*format, 2)) {
            return false;
        }
    }
    return attends();
}

}  // namespace kernels
