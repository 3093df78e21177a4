// See layout.h.

#include "layout.h"

namespace kernels {
namespace {

const Format * in_use = nullptr;

}  // namespace

Layout layout_of(const ggml_tensor * tensor) {
    const bool is_whole = tensor->view_src == nullptr && tensor->ne[3] == 1;
    const Format * format = is_whole ? format_of(tensor->type, tensor->ne[0]) : nullptr;
    if (format == nullptr) {
        return {};
    }
    const int64_t blocks = tensor->ne[0] / format->block_weights;
    return { format, blocks, (tensor->ne[1] + GROUP_ROWS - 1) / GROUP_ROWS, blocks * format->block_bytes };
}

const Format * format_of(ggml_type type, int64_t columns) {
    for (const Format * format = in_use; format != nullptr && format->block_weights != 0; format++) {
        if (format->type == type && columns % format->block_weights == 0) {
            return format;
        }
    }
    return nullptr;
}

void use_formats(const Format * formats) { in_use = formats; }

bool have_formats() { return in_use != nullptr; }

}  // namespace kernels
