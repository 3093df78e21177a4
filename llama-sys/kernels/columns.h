// Activations of a tile of columns, as a kernel reads them: from front to back, each number once.
//
// Included by one file for each instruction set; everything here is a template over that file's own Machine, so that no
// function compiled for one processor is taken by the linker for another.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#define GGML_COMMON_DECL_C
#include "ggml-common.h"
#include "ggml-cpu.h"

namespace kernels {

// 32 activations of each of WIDTH columns.
template <int WIDTH>
struct Columns32 {
    float scale[WIDTH];
    // What the products' sum begins with: it takes back the offset that made the weights unsigned.
    int32_t start[WIDTH];
    // Four at a time, for weights of as many neighbours in a row.
    int8_t value[8][WIDTH][4];
};

// 256 activations of each of WIDTH columns, with sums of SPAN neighbours each.
template <int WIDTH, int SPAN>
struct Columns256 {
    float scale[WIDTH];
    int16_t sum[256 / SPAN / 2][WIDTH][2];
    int8_t value[64][WIDTH][4];
};

// Quantises blocks of 32 of a column as ggml does (Q8_0: a 16-bit scale), for weights that have OFFSET added.
template <class Machine, int OFFSET, int WIDTH>
void arrange32(const float * column, int64_t first, int64_t end, char * tile, int index) {
    const auto quantize = ggml_get_type_traits_cpu(GGML_TYPE_Q8_0)->from_float;
    auto * to = reinterpret_cast<Columns32<WIDTH> *>(tile);
    for (int64_t i = first; i < end; i++) {
        block_q8_0 block;
        quantize(column + 32 * i, &block, 32);
        int32_t sum = 0;
        for (int j = 0; j < 32; j++) {
            sum += block.qs[j];
        }
        to[i].scale[index] = Machine::half(block.d);
        to[i].start[index] = -OFFSET * sum;
        for (int step = 0; step < 8; step++) {
            std::memcpy(to[i].value[step][index], block.qs + 4 * step, 4);
        }
    }
}

// Quantises blocks of 256 of a column as ggml does (Q8_K).
template <class Machine, int SPAN, int WIDTH>
void arrange256(const float * column, int64_t first, int64_t end, char * tile, int index) {
    const auto quantize = ggml_get_type_traits_cpu(GGML_TYPE_Q8_K)->from_float;
    auto * to = reinterpret_cast<Columns256<WIDTH, SPAN> *>(tile);
    for (int64_t i = first; i < end; i++) {
        block_q8_K block;
        quantize(column + 256 * i, &block, 256);
        to[i].scale[index] = block.d;
        for (int part = 0; part < 256 / SPAN; part++) {
            int16_t sum = 0;
            for (int j = 0; j < SPAN; j++) {
                sum += block.qs[SPAN * part + j];
            }
            to[i].sum[part / 2][index][part % 2] = sum;
        }
        for (int step = 0; step < 64; step++) {
            std::memcpy(to[i].value[step][index], block.qs + 4 * step, 4);
        }
    }
}

}  // namespace kernels
