// Which tensors the kernels have a form for, and where rows lie in it: in groups of 16, the groups of a matrix one after the
// other, and matrix after matrix where a tensor has several.
#pragma once

#include "format.h"

namespace kernels {

struct Layout {
    // NULL for a tensor that stays as it is.
    const Format * format = nullptr;
    // Of a group, along its rows.
    int64_t blocks = 0;
    // Of a matrix. Its last group may have room for more rows than there are.
    int64_t groups = 0;
    size_t group_bytes = 0;

    size_t matrix_bytes() const { return groups * group_bytes; }
    char * group(const ggml_tensor * tensor, int64_t matrix, int64_t number) const {
        return static_cast<char *>(tensor->data) + matrix * matrix_bytes() + number * group_bytes;
    }
};

// Of a tensor as a whole.
Layout layout_of(const ggml_tensor * tensor);

// The format that a matrix of `columns` weights in each of its rows would be kept in; NULL if it is not one of them.
const Format * format_of(ggml_type type, int64_t columns);

// From now on there are these; NULL for none.
void use_formats(const Format * formats);
bool have_formats();

}  // namespace kernels
