// What the buffer type knows of a weight format: one of these for each format of an instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ggml.h"

namespace kernels {

// Rows of weights that lie together: 16, so that a cache line holds four weights of each.
constexpr int GROUP_ROWS = 16;

// Columns of a tile, at most, on any instruction set.
constexpr int WIDEST_TILE = 8;

struct Format {
    ggml_type type;
    // Weights of a row in one block of a group.
    int64_t block_weights;
    // Bytes of that block: of all 16 rows.
    size_t block_bytes;
    // Bytes of as many activations of one column.
    size_t column_bytes;
    // The most columns that are multiplied in one go: up to WIDEST_TILE.
    int widest;

    // Puts one row of a file's blocks into its group, and back. `blocks` are of a group.
    void (*pack)(const char * row, int64_t blocks, char * group, int index);
    void (*unpack)(const char * group, int index, int64_t blocks, char * row);

    // Quantises activations `first_block` up to `end_block` of one column into its place in a tile of `width` columns.
    void (*arrange)(const float * column, int64_t first_block, int64_t end_block, char * tile, int width, int index);

    // Multiplies 16 rows with a tile. `out` has the rows of a column side by side, columns `stride` numbers apart. Meanwhile so
    // many lines are fetched into the cache from `next` on.
    void (*multiply)(const char * group, int64_t blocks, const char * tile, int width, float * out, size_t stride,
                     const char * next, size_t lines);
};

// An instruction set's formats, ended by one without block_weights.
const Format * plain_formats();
const Format * avx2_formats();
const Format * avx512vnni_formats();

}  // namespace kernels
