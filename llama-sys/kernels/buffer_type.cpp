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

#include "attention_op.h"
#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "layout.h"
#include "multiply.h"
#include "traits.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

// Declared in traits.h, and weak here: where a ggml has it no more, the program links, and goes without these kernels.
__attribute__((weak)) std::vector<ggml_backend_buffer_type_t> & ggml_backend_cpu_get_extra_buffer_types();

namespace kernels {
namespace {

Attend attend_kernel = nullptr;
std::atomic<uint64_t> attention_count{ 0 };

// The load that this thread is in.
thread_local kernels_load * load = nullptr;

bool is_ours(const ggml_tensor * tensor) {
    return tensor->buffer != nullptr && tensor->buffer->buft == buffer_type();
}

// Calls `change` with a row in the file's form, first to last, and writes it back if `write`.
template <class Change>
void each_row(ggml_tensor * tensor, size_t offset, size_t size, bool write, Change change) {
    const Layout layout = layout_of(tensor);
    const size_t row_bytes = ggml_row_size(tensor->type, tensor->ne[0]);
    std::vector<char> row(row_bytes);
    for (size_t at = offset; at < offset + size;) {
        const size_t number = at / row_bytes, begin = at % row_bytes;
        const size_t length = std::min(row_bytes - begin, offset + size - at);
        const int64_t in_matrix = number % tensor->ne[1];
        char * group = layout.group(tensor, number / tensor->ne[1], in_matrix / GROUP_ROWS);
        const int index = static_cast<int>(in_matrix % GROUP_ROWS);
        if (!write || length < row_bytes) {
            layout.format->unpack(group, index, layout.blocks, row.data());
        }
        change(row.data() + begin, at - offset, length);
        if (write) {
            layout.format->pack(row.data(), layout.blocks, group, index);
        }
        at += length;
    }
}

ggml_status init_tensor(ggml_backend_buffer_t, ggml_tensor * tensor) {
    const Layout layout = layout_of(tensor);
    if (layout.format != nullptr && tensor->data != nullptr) {
        // Rows that the last group has room for and the matrix has not.
        for (int64_t matrix = 0; matrix < tensor->ne[2]; matrix++) {
            std::memset(layout.group(tensor, matrix, layout.groups - 1), 0, layout.group_bytes);
        }
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
    const Layout layout = layout_of(tensor);
    return layout.format == nullptr ? ggml_nbytes(tensor) : tensor->ne[2] * layout.matrix_bytes();
}

class WithWeights : public ggml::cpu::tensor_traits {
    bool work_size(int threads, const ggml_tensor * op, size_t & size) override {
        size = work_bytes(threads, op);
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

bool has_our_weights(const ggml_tensor * op) { return op->src[0] != nullptr && is_ours(op->src[0]) && can_compute(op); }

class Extra : public ggml::cpu::extra_buffer_type {
    bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) override {
        if (!has_our_weights(op)) {
            return false;
        }
        if (op->src[0]->buffer->size != 0) {
            const auto is_host = [](const ggml_tensor * other) {
                return other == nullptr || other->buffer == nullptr || ggml_backend_buft_is_host(other->buffer->buft);
            };
            return is_host(op->src[1]) && is_host(op->src[2]);
        }
        // A loader asks with a buffer of no size whether the weights may be ours (llama-model-loader.cpp, weight_buft_supported).
        // So do graphs of models without weights (llama-model.cpp, no_alloc), outside of any load: there they are.
        if (op->op != GGML_OP_GET_ROWS) {
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
    if (!have_formats()) {
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
    use_formats(formats);
    attend_kernel = attend;
    // First: whoever comes first is asked first. ggml-cpu.cpp:76 copies the list when the first model is loaded.
    list.insert(list.begin(), buffer_type());
    return true;
}

void take_out() {
    auto & list = ggml_backend_cpu_get_extra_buffer_types();
    list.erase(std::remove(list.begin(), list.end(), buffer_type()), list.end());
    use_formats(nullptr);
}

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
