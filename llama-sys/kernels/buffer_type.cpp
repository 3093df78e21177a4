// See buffer_type.h.
//
// ggml's CPU backend keeps a list of extra buffer types, and asks each of them about every operation: whether it takes the
// operation's weights (when a model is loaded), and whether it computes the operation (in every graph). The list is the
// backend's own variable, and there is no function that adds to it; file and line of what is relied on stand beside it.

#include "buffer_type.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "ahead.h"
#include "attention_op.h"
#include "ggml-backend-impl.h"
#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"
#include "traits.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

// Declared in traits.h, and weak here: where a ggml has it no more, the program links, and goes without these kernels.
__attribute__((weak)) std::vector<ggml_backend_buffer_type_t> & ggml_backend_cpu_get_extra_buffer_types();

namespace kernels {
namespace {

const Format * all_formats = nullptr;
Attend attend_kernel = nullptr;
std::atomic<uint64_t> multiplication_count{ 0 }, attention_count{ 0 };

// The load that this thread is in.
thread_local kernels_load * load = nullptr;

bool is_ours(const ggml_tensor * tensor) {
    return tensor->buffer != nullptr && tensor->buffer->buft == buffer_type();
}

int64_t groups_of(const ggml_tensor * weights) { return (weights->ne[1] + GROUP_ROWS - 1) / GROUP_ROWS; }

size_t group_bytes(const Format & format, const ggml_tensor * weights) {
    return weights->ne[0] / format.block_weights * format.block_bytes;
}

// The format of a matrix that lies in a buffer of ours as a whole; NULL for anything else.
const Format * format_of_matrix(const ggml_tensor * tensor) {
    const bool whole = tensor->view_src == nullptr && tensor->ne[2] == 1 && tensor->ne[3] == 1;
    return whole ? format_of(tensor->type, tensor->ne[0]) : nullptr;
}

// --- the buffer

// Calls `change` with a row in the file's form, first to last, and writes it back if `write`.
template <class Change>
void each_row(ggml_tensor * tensor, size_t offset, size_t size, bool write, Change change) {
    const Format & format = *format_of_matrix(tensor);
    const int64_t blocks = tensor->ne[0] / format.block_weights;
    const size_t row_bytes = ggml_row_size(tensor->type, tensor->ne[0]);
    std::vector<char> row(row_bytes);
    for (size_t at = offset; at < offset + size;) {
        const size_t number = at / row_bytes, begin = at % row_bytes;
        const size_t length = std::min(row_bytes - begin, offset + size - at);
        char * group = static_cast<char *>(tensor->data) + number / GROUP_ROWS * group_bytes(format, tensor);
        const int index = static_cast<int>(number % GROUP_ROWS);
        if (!write || length < row_bytes) {
            format.unpack(group, index, blocks, row.data());
        }
        change(row.data() + begin, at - offset, length);
        if (write) {
            format.pack(row.data(), blocks, group, index);
        }
        at += length;
    }
}

ggml_status init_tensor(ggml_backend_buffer_t, ggml_tensor * tensor) {
    const Format * format = format_of_matrix(tensor);
    if (format != nullptr && tensor->data != nullptr) {
        // Rows that the last group has room for and the matrix has not.
        const size_t bytes = group_bytes(*format, tensor);
        std::memset(static_cast<char *>(tensor->data) + (groups_of(tensor) - 1) * bytes, 0, bytes);
        if (load != nullptr && load->taken != nullptr) {
            load->taken(load->user_data, tensor->name);
        }
    }
    return GGML_STATUS_SUCCESS;
}

void set_tensor(ggml_backend_buffer_t, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    each_row(tensor, offset, size, true, [&](char * part, size_t from, size_t length) {
        std::memcpy(part, static_cast<const char *>(data) + from, length);
    });
}

void get_tensor(ggml_backend_buffer_t, const ggml_tensor * tensor, void * data, size_t offset, size_t size) {
    each_row(const_cast<ggml_tensor *>(tensor), offset, size, false, [&](const char * part, size_t to, size_t length) {
        std::memcpy(static_cast<char *>(data) + to, part, length);
    });
}

const char * name(ggml_backend_buffer_type_t) { return "CPU_SMALL_BATCH"; }

// Asks for large pages. Weights are read from end to end in each step: with pages of 4 KiB, each of which has to be looked up,
// that took 3 to 10 % longer.
void ask_for_large_pages(ggml_backend_buffer_t buffer) {
#if defined(__linux__)
    constexpr uintptr_t PAGE = 2 << 20;
    const auto begin = reinterpret_cast<uintptr_t>(ggml_backend_buffer_get_base(buffer));
    const uintptr_t first = (begin + PAGE - 1) / PAGE * PAGE, end = (begin + ggml_backend_buffer_get_size(buffer)) / PAGE * PAGE;
    if (first < end) {
        // Where the system has none, it goes without.
        madvise(reinterpret_cast<void *>(first), end - first, MADV_HUGEPAGE);
    }
#endif
}

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t type, size_t size) {
    ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
    if (buffer != nullptr) {
        ask_for_large_pages(buffer);
        buffer->buft = type;
        buffer->iface.init_tensor = init_tensor;
        buffer->iface.set_tensor = set_tensor;
        buffer->iface.get_tensor = get_tensor;
        // Those of a plain buffer would write into the rearranged form. Nobody needs them.
        buffer->iface.memset_tensor = nullptr;
        buffer->iface.cpy_tensor = nullptr;
    }
    return buffer;
}

// A cache line.
size_t alignment(ggml_backend_buffer_type_t) { return 64; }

size_t alloc_size(ggml_backend_buffer_type_t, const ggml_tensor * tensor) {
    const Format * format = format_of_matrix(tensor);
    return format == nullptr ? ggml_nbytes(tensor) : groups_of(tensor) * group_bytes(*format, tensor);
}

// --- the operations

// A column of an operand, and of the result: rows of a tensor of up to four dimensions, counted through.
char * column_of(const ggml_tensor * tensor, int64_t number) {
    const int64_t i1 = number % tensor->ne[1], i2 = number / tensor->ne[1] % tensor->ne[2];
    const int64_t i3 = number / tensor->ne[1] / tensor->ne[2];
    return static_cast<char *>(tensor->data) + i1 * tensor->nb[1] + i2 * tensor->nb[2] + i3 * tensor->nb[3];
}

// Columns are multiplied in tiles as wide as the kernels allow, and as equal as that can be.
struct Tiles {
    int64_t columns, count;
    Tiles(const Format & format, int64_t columns)
        : columns(columns), count((columns + format.widest - 1) / format.widest) {}
    int64_t first(int64_t tile) const { return columns * tile / count; }
    int width(int64_t tile) const { return static_cast<int>(first(tile + 1) - first(tile)); }
};

// Row groups that go through all tiles one after another: their weights stay in the second level cache, and the columns of a
// tile in the first. Four were the best of those tried on the 135M shape (one, two, four, eight), where they are 40 to 105 KiB,
// and the next chunk is fetched beside them; wider rows are to stay within what the cache has.
constexpr int64_t CHUNK_BYTES = 256 * 1024, MOST_GROUPS = 4;
// For each thread, so that a late one leaves its share to the others.
constexpr int64_t CHUNKS_A_THREAD = 8;

void multiply(const ggml_compute_params * params, ggml_tensor * result) {
    const ggml_tensor * weights = result->src[0];
    const ggml_tensor * input = result->src[1];
    const Format & format = *format_of_matrix(weights);
    const int64_t blocks = weights->ne[0] / format.block_weights;
    const size_t column_bytes = blocks * format.column_bytes;
    const Tiles tiles(format, ggml_nrows(input));
    char * arranged = static_cast<char *>(params->wdata);

    // All threads quantise all columns, each its part of them: that is even at any number of columns.
    const int64_t first = blocks * params->ith / params->nth, end = blocks * (params->ith + 1) / params->nth;
    for (int64_t tile = 0; tile < tiles.count; tile++) {
        for (int c = 0; c < tiles.width(tile); c++) {
            const char * column = column_of(input, tiles.first(tile) + c);
            char * to = arranged + tiles.first(tile) * column_bytes;
            format.arrange(reinterpret_cast<const float *>(column), first, end, to, tiles.width(tile), c);
        }
    }
    if (params->ith == 0) {
        multiplication_count.fetch_add(1, std::memory_order_relaxed);
        // The first ones are given out without being asked for.
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);

    const int64_t groups = groups_of(weights);
    const size_t bytes = group_bytes(format, weights);
    const int64_t fair = groups / (CHUNKS_A_THREAD * params->nth);
    const int64_t cached = CHUNK_BYTES / static_cast<int64_t>(bytes);
    const int64_t chunk = std::max<int64_t>(1, std::min({ fair, cached, MOST_GROUPS }));
    const int64_t chunks = (groups + chunk - 1) / chunk;
    const auto end_of = [&](int64_t number) { return std::min(groups, (number + 1) * chunk); };
    for (int64_t mine = params->ith, next; mine < chunks; mine = next) {
        // Taken before it is needed, so that its weights are there when it is.
        next = ggml_threadpool_chunk_add(params->threadpool, 1);
        const char * after = static_cast<const char *>(weights->data) + next * chunk * bytes;
        const size_t lines = next < chunks ? (end_of(next) - next * chunk) * bytes / CACHE_LINE : 0;
        const size_t all = tiles.count * (end_of(mine) - mine * chunk);
        size_t done = 0, fetched = 0;
        for (int64_t tile = 0; tile < tiles.count; tile++) {
            const char * columns = arranged + tiles.first(tile) * column_bytes;
            const int width = tiles.width(tile);
            float * to[WIDEST_TILE];
            for (int c = 0; c < width; c++) {
                to[c] = reinterpret_cast<float *>(column_of(result, tiles.first(tile) + c));
            }
            for (int64_t group = mine * chunk; group < end_of(mine); group++) {
                float sums[WIDEST_TILE][GROUP_ROWS];
                const char * from = static_cast<const char *>(weights->data) + group * bytes;
                const size_t until = lines * ++done / all;
                format.multiply(from, blocks, columns, width, sums[0], GROUP_ROWS, after + fetched * CACHE_LINE, until - fetched);
                fetched = until;
                const int64_t row = group * GROUP_ROWS;
                const size_t rows = std::min<int64_t>(GROUP_ROWS, weights->ne[1] - row);
                for (int c = 0; c < width; c++) {
                    std::memcpy(to[c] + row, sums[c], rows * sizeof(float));
                }
            }
        }
    }
}

void get_rows(const ggml_compute_params * params, ggml_tensor * result) {
    const ggml_tensor * weights = result->src[0];
    const ggml_tensor * numbers = result->src[1];
    const Format & format = *format_of_matrix(weights);
    const int64_t blocks = weights->ne[0] / format.block_weights;
    const auto to_float = ggml_get_type_traits(weights->type)->to_float;
    char * row = static_cast<char *>(params->wdata) + params->ith * ggml_row_size(weights->type, weights->ne[0]);
    const int64_t all = ggml_nelements(numbers);
    for (int64_t i = all * params->ith / params->nth; i < all * (params->ith + 1) / params->nth; i++) {
        const int64_t i0 = i % numbers->ne[0], i1 = i / numbers->ne[0] % numbers->ne[1];
        const int64_t i2 = i / numbers->ne[0] / numbers->ne[1];
        const char * at = static_cast<const char *>(numbers->data) + i0 * numbers->nb[0] + i1 * numbers->nb[1] + i2 * numbers->nb[2];
        int32_t number;
        std::memcpy(&number, at, sizeof(number));
        GGML_ASSERT(number >= 0 && number < weights->ne[1]);
        const char * group = static_cast<const char *>(weights->data) + number / GROUP_ROWS * group_bytes(format, weights);
        format.unpack(group, number % GROUP_ROWS, blocks, row);
        char * to = static_cast<char *>(result->data) + i0 * result->nb[1] + i1 * result->nb[2] + i2 * result->nb[3];
        to_float(row, reinterpret_cast<float *>(to), weights->ne[0]);
    }
}

class WithWeights : public ggml::cpu::tensor_traits {
    bool work_size(int threads, const ggml_tensor * op, size_t & size) override {
        const Format & format = *format_of_matrix(op->src[0]);
        if (op->op == GGML_OP_GET_ROWS) {
            size = threads * ggml_row_size(op->src[0]->type, op->src[0]->ne[0]);
        } else {
            size = ggml_nrows(op->src[1]) * op->src[0]->ne[0] / format.block_weights * format.column_bytes;
        }
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        if (op->op == GGML_OP_GET_ROWS) {
            get_rows(params, op);
        } else {
            multiply(params, op);
        }
        return true;
    }
};

class Attention : public ggml::cpu::tensor_traits {
    bool work_size(int threads, const ggml_tensor * op, size_t & size) override {
        size = attention_bytes(threads, op);
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        if (params->ith == 0) {
            attention_count.fetch_add(1, std::memory_order_relaxed);
        }
        attend(params, op, attend_kernel);
        return true;
    }
};

bool has_our_weights(const ggml_tensor * op) {
    if (op->src[0] == nullptr || !is_ours(op->src[0]) || format_of_matrix(op->src[0]) == nullptr) {
        return false;
    }
    const ggml_tensor * other = op->src[1];
    if (op->op == GGML_OP_GET_ROWS) {
        return other->type == GGML_TYPE_I32;
    }
    return op->op == GGML_OP_MUL_MAT && other->type == GGML_TYPE_F32 && other->nb[0] == sizeof(float);
}

class Extra : public ggml::cpu::extra_buffer_type {
    bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) override {
        if (!has_our_weights(op)) {
            return false;
        }
        if (op->src[0]->buffer->size != 0) {
            const ggml_tensor * other = op->src[1];
            return other->buffer == nullptr || ggml_backend_buft_is_host(other->buffer->buft);
        }
        // A loader asks with a buffer of no size whether the weights may be ours (llama-model-loader.cpp, weight_buft_supported).
        // So do graphs of models without weights (llama-model.cpp, no_alloc), outside of any load: there they are.
        if (op->op == GGML_OP_MUL_MAT) {
            return load == nullptr || load->take;
        }
        // Of other embeddings llama.cpp makes views (gemma3n.cpp, per_layer_tok_embd); rows of these two are all that it takes.
        const bool is_known = std::strcmp(op->src[0]->name, "token_embd.weight") == 0 ||
                              std::strcmp(op->src[0]->name, "output.weight") == 0;
        return is_known && (load == nullptr || (load->take && load->take_token_embedding));
    }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        static WithWeights with_weights;
        static Attention attention;
        if (op->op == GGML_OP_FLASH_ATTN_EXT) {
            // Of any buffer: there are no weights in it.
            return can_attend(op) ? &attention : nullptr;
        }
        return has_our_weights(op) ? &with_weights : nullptr;
    }
};

}  // namespace

ggml_backend_buffer_type_t buffer_type() {
    if (all_formats == nullptr) {
        return nullptr;
    }
    static Extra extra;
    static ggml_backend_buffer_type type = {
        /* iface */ { name, alloc_buffer, nullptr, alignment, nullptr, alloc_size, nullptr, nullptr },
        /* device */ ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0),
        /* context */ static_cast<ggml::cpu::extra_buffer_type *>(&extra),
    };
    return &type;
}

bool plug_in(const Format * formats, Attend attend) {
    if (ggml_backend_cpu_get_extra_buffer_types == nullptr) {
        return false;
    }
    auto & list = ggml_backend_cpu_get_extra_buffer_types();
    list.reserve(list.size() + 1);
    all_formats = formats;
    attend_kernel = attend;
    // First: whoever comes first is asked first. ggml-cpu.cpp:76 copies the list when the first model is loaded.
    list.insert(list.begin(), buffer_type());
    return true;
}

void take_out() {
    auto & list = ggml_backend_cpu_get_extra_buffer_types();
    list.erase(std::remove(list.begin(), list.end(), buffer_type()), list.end());
    all_formats = nullptr;
}

const Format * format_of(ggml_type type, int64_t columns) {
    for (const Format * format = all_formats; format != nullptr && format->block_weights != 0; format++) {
        if (format->type == type && columns % format->block_weights == 0) {
            return format;
        }
    }
    return nullptr;
}

uint64_t multiplications() { return multiplication_count.load(std::memory_order_relaxed); }

uint64_t attentions() { return attention_count.load(std::memory_order_relaxed); }

void begin_load(kernels_load * begun) {
    begun->outer = load;
    load = begun;
}

void end_load() {
    if (load != nullptr) {
        load = load->outer;
    }
}

}  // namespace kernels
