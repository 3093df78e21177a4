// Q4_0: 32 weights of 4 bits (0 to 15, with 8 taken off) to a 16-bit scale.
//
// Sixteen rows lie together, two blocks of each row at a time, in 9 cache lines: as many bytes as in the file.
//
//     line 0        scales:   block 0 of rows 0..15 | block 1 of rows 0..15
//     line 1 + l    block 0:  bytes of row 0 | of row 1 | ... | of row 15, four each                 l = 0..3
//                             byte j: weight 8l + j in the low half, weight 8l + 4 + j in the high one
//     line 5 + l    block 1:  the same
//
// Weights stay unsigned in the products; eight times the activations' sum is taken off at the start.
#pragma once

#include "ahead.h"
#include "columns.h"
#include "format.h"
#include "sums.h"

namespace kernels {

template <class Machine>
struct Q4_0 {
    struct Block {
        uint16_t scale[2][GROUP_ROWS];
        uint8_t weight[2][4][GROUP_ROWS][4];
    };
    static_assert(sizeof(Block) == 9 * 64 && sizeof(Block) == GROUP_ROWS * 2 * sizeof(block_q4_0));

    static constexpr ggml_type TYPE = GGML_TYPE_Q4_0;
    static constexpr int64_t BLOCK_WEIGHTS = 64;
    // Calls that fetch ahead, for each block and vector of rows.
    static constexpr size_t FETCHES = 2;
    static constexpr size_t COLUMN_BYTES = 2 * sizeof(Columns32<1>);
    static constexpr int OFFSET = 8;
    // All eight steps of a block fit into what a machine adds up without looking.
    static_assert(Machine::steps_before_overflow(15) >= 8);

    static void pack(const char * row, int64_t blocks, char * group, int index) {
        const auto * from = reinterpret_cast<const block_q4_0 *>(row);
        auto * to = reinterpret_cast<Block *>(group);
        for (int64_t i = 0; i < 2 * blocks; i++) {
            to[i / 2].scale[i % 2][index] = from[i].d;
            // The file has weight j beside weight j + 16.
            uint8_t weight[32];
            for (int j = 0; j < 16; j++) {
                weight[j] = from[i].qs[j] & 15;
                weight[j + 16] = from[i].qs[j] >> 4;
            }
            for (int j = 0; j < 16; j++) {
                const int first = j / 4 * 8 + j % 4;
                to[i / 2].weight[i % 2][j / 4][index][j % 4] = weight[first] | weight[first + 4] << 4;
            }
        }
    }

    static void unpack(const char * group, int index, int64_t blocks, char * row) {
        const auto * from = reinterpret_cast<const Block *>(group);
        auto * to = reinterpret_cast<block_q4_0 *>(row);
        for (int64_t i = 0; i < 2 * blocks; i++) {
            to[i].d = from[i / 2].scale[i % 2][index];
            uint8_t weight[32];
            for (int j = 0; j < 16; j++) {
                const int first = j / 4 * 8 + j % 4;
                const uint8_t both = from[i / 2].weight[i % 2][j / 4][index][j % 4];
                weight[first] = both & 15;
                weight[first + 4] = both >> 4;
            }
            for (int j = 0; j < 16; j++) {
                to[i].qs[j] = weight[j] | weight[j + 16] << 4;
            }
        }
    }

    template <int WIDTH>
    static void arrange(const float * column, int64_t first, int64_t end, char * tile, int index) {
        arrange32<Machine, OFFSET, WIDTH>(column, 2 * first, 2 * end, tile, index);
    }

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
                clear<Machine>(part);
            }
#pragma GCC unroll 1
            for (int line = 0; line < 4; line++) {
                for (int p = 0; p < PARTS; p++) {
                    const auto both = Machine::load(weight[line][row + p * Machine::LANES]);
                    const auto low = Machine::low_half(both);
                    const auto high = Machine::high_half(both);
                    for (int c = 0; c < WIDTH; c++) {
                        sum[p][c] = Machine::add_products(sum[p][c], low, Machine::four(columns->value[2 * line][c]));
                        sum[p][c] = Machine::add_products(sum[p][c], high, Machine::four(columns->value[2 * line + 1][c]));
                    }
                }
            }
            for (int p = 0; p < PARTS; p++) {
                ahead.fetch();
                const auto of_rows = Machine::halfs(scale + row + p * Machine::LANES);
                for (int c = 0; c < WIDTH; c++) {
                    const auto whole = Machine::add(Machine::start(columns->start[c]), sum[p][c]);
                    result[p][c] = Machine::add_scaled(result[p][c], whole, Machine::times(of_rows, columns->scale[c]));
                }
            }
        }
        results.store(out, row, stride);
    }
};

}  // namespace kernels
