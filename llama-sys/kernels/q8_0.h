// Q8_0: 32 weights of 8 bits to a 16-bit scale.
//
// Sixteen rows lie together, two blocks of each row at a time, in 17 cache lines: as many bytes as in the file.
//
//     line 0        scales:   block 0 of rows 0..15 | block 1 of rows 0..15
//     line 1 + s    block 0:  weights 4s..4s+3 of row 0 | the same of row 1 | ... | of row 15     s = 0..7
//     line 9 + s    block 1:  the same
//
// A vector of 32-bit lanes holds four weights of each row. They meet four activations of a column, the same in each lane,
// and each lane sums the products of its row. Sums within a block are exact; blocks are added in their order. The result of
// a row and a column is the same bits, however many columns there are.
//
// The scales lead because a group is read from front to back: at the end of the group, they cost a cache miss for each block.
#pragma once

#include "ahead.h"
#include "columns.h"
#include "format.h"
#include "sums.h"

namespace kernels {

template <class Machine>
struct Q8_0 {
    struct Block {
        uint16_t scale[2][GROUP_ROWS];
        uint8_t weight[2][8][GROUP_ROWS][4];
    };
    static_assert(sizeof(Block) == 17 * 64 && sizeof(Block) == GROUP_ROWS * 2 * sizeof(block_q8_0));

    static constexpr ggml_type TYPE = GGML_TYPE_Q8_0;
    static constexpr int64_t BLOCK_WEIGHTS = 64;
    // Calls that fetch ahead, for each block and vector of rows.
    static constexpr size_t FETCHES = 2;
    static constexpr size_t COLUMN_BYTES = 2 * sizeof(Columns32<1>);
    // Added to each weight where the processor multiplies unsigned by signed numbers only.
    static constexpr int OFFSET = Machine::SIGNED_OFFSET;

    static void pack(const char * row, int64_t blocks, char * group, int index) {
        const auto * from = reinterpret_cast<const block_q8_0 *>(row);
        auto * to = reinterpret_cast<Block *>(group);
        for (int64_t i = 0; i < 2 * blocks; i++) {
            to[i / 2].scale[i % 2][index] = from[i].d;
            for (int j = 0; j < 32; j++) {
                to[i / 2].weight[i % 2][j / 4][index][j % 4] = static_cast<uint8_t>(from[i].qs[j] + OFFSET);
            }
        }
    }

    static void unpack(const char * group, int index, int64_t blocks, char * row) {
        const auto * from = reinterpret_cast<const Block *>(group);
        auto * to = reinterpret_cast<block_q8_0 *>(row);
        for (int64_t i = 0; i < 2 * blocks; i++) {
            to[i].d = from[i / 2].scale[i % 2][index];
            for (int j = 0; j < 32; j++) {
                to[i].qs[j] = static_cast<int8_t>(from[i / 2].weight[i % 2][j / 4][index][j % 4] - OFFSET);
            }
        }
    }

    template <int WIDTH>
    static void arrange(const float * column, int64_t first, int64_t end, char * tile, int index) {
        arrange32<Machine, OFFSET, WIDTH>(column, 2 * first, 2 * end, tile, index);
    }

    // PARTS vectors of rows from `row` on.
    template <int WIDTH, int PARTS>
    static void multiply(const char * group, int64_t blocks, const char * tile, int row, float * out, size_t stride,
                         Ahead & ahead) {
        const auto * weights = reinterpret_cast<const Block *>(group);
        const auto * columns = reinterpret_cast<const Columns32<WIDTH> *>(tile);
        Results<Machine, PARTS, WIDTH> results;
        auto & result = results.of;
        for (int64_t i = 0; i < 2 * blocks; i++, columns++) {
            const auto & scale = weights[i / 2].scale[i % 2];
            const auto & weight = weights[i / 2].weight[i % 2];
            typename Machine::Ints sum[PARTS][WIDTH];
            for (auto & part : sum) {
                for (int c = 0; c < WIDTH; c++) {
                    part[c] = Machine::start(OFFSET == 0 ? 0 : columns->start[c]);
                }
            }
#pragma GCC unroll 1
            for (int step = 0; step < 8; step++) {
                for (int p = 0; p < PARTS; p++) {
                    const auto four = Machine::wide_weights(weight[step][row + p * Machine::LANES]);
                    for (int c = 0; c < WIDTH; c++) {
                        sum[p][c] = Machine::add_wide_products(sum[p][c], four, Machine::four(columns->value[step][c]));
                    }
                }
            }
            for (int p = 0; p < PARTS; p++) {
                ahead.fetch();
                const auto of_rows = Machine::halfs(scale + row + p * Machine::LANES);
                for (int c = 0; c < WIDTH; c++) {
                    result[p][c] = Machine::add_scaled(result[p][c], sum[p][c], Machine::times(of_rows, columns->scale[c]));
                }
            }
        }
        results.store(out, row, stride);
    }
};

}  // namespace kernels
