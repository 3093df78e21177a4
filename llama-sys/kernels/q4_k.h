// Q4_K and Q5_K: 256 weights of 4 or 5 bits to a block, in eight parts of 32 with a 6-bit scale and a 6-bit least value
// each; both are multiples of the block's own 16-bit scales d and m. A weight is d * scale * bits - m * least.
//
// Sixteen rows lie together, a block of each row at a time:
//
//     line 0          d of rows 0..15 | m of rows 0..15
//     lines 1, 2      scales:  parts 0, 1 of row 0 | of row 1 | ... | of row 15 | parts 2, 3 of row 0 | ...
//     lines 3, 4      least values, in the same order
//     lines 5 to 36   weights: four lines for a part, bytes of row 0 | of row 1 | ... | of row 15, four each
//     (or 5 to 44)    line l, byte j: weight 8l + j in the low half, weight 8l + 4 + j in the high one
//                     Q5_K has a fifth line in each part, of the fifth bits
//                     byte j: weights j, 4 + j, ... 28 + j in bits 0, 1, ... 7
//
// Scales have a byte each where the file has six bits: 3 % more bytes than in the file, and nothing to take apart.
#pragma once

#include "ahead.h"
#include "columns.h"
#include "format.h"
#include "sums.h"

namespace kernels {

template <class Machine, int BITS>
struct Q45_K {
    using FileBlock = std::conditional_t<BITS == 4, block_q4_K, block_q5_K>;

    struct Part4 {
        uint8_t weight[4][GROUP_ROWS][4];
    };
    struct Part5 : Part4 {
        uint8_t fifth[GROUP_ROWS][4];
    };
    using Part = std::conditional_t<BITS == 4, Part4, Part5>;
    struct Block {
        uint16_t d[GROUP_ROWS];
        uint16_t m[GROUP_ROWS];
        uint8_t scale[4][GROUP_ROWS][2];
        uint8_t least[4][GROUP_ROWS][2];
        Part part[8];
    };
    static_assert(sizeof(Block) == (BITS == 4 ? 37 : 45) * 64);

    static constexpr ggml_type TYPE = BITS == 4 ? GGML_TYPE_Q4_K : GGML_TYPE_Q5_K;
    static constexpr int64_t BLOCK_WEIGHTS = 256;
    static constexpr size_t FETCHES = 8;
    static constexpr size_t COLUMN_BYTES = sizeof(Columns256<1, 32>);
    static constexpr int STEPS = Machine::steps_before_overflow((1 << BITS) - 1);
    static_assert(STEPS >= (BITS == 4 ? 8 : 4));

    static void pack(const char * row, int64_t blocks, char * group, int index) {
        const auto * from = reinterpret_cast<const FileBlock *>(row);
        auto * to = reinterpret_cast<Block *>(group);
        for (int64_t i = 0; i < blocks; i++) {
            to[i].d[index] = from[i].d;
            to[i].m[index] = from[i].dmin;
            for (int part = 0; part < 8; part++) {
                const uint8_t * six = from[i].scales;
                const bool early = part < 4;
                to[i].scale[part / 2][index][part % 2] =
                    early ? six[part] & 63 : (six[part + 4] & 15) | six[part - 4] >> 6 << 4;
                to[i].least[part / 2][index][part % 2] =
                    early ? six[part + 4] & 63 : six[part + 4] >> 4 | six[part] >> 6 << 4;
                // The file has part 2n in the low halves of the bytes whose high ones are part 2n + 1.
                const uint8_t * bytes = from[i].qs + part / 2 * 32;
                const int shift = part % 2 * 4;
                for (int j = 0; j < 16; j++) {
                    const int first = j / 4 * 8 + j % 4;
                    const int low = bytes[first] >> shift & 15;
                    const int high = bytes[first + 4] >> shift & 15;
                    to[i].part[part].weight[j / 4][index][j % 4] = static_cast<uint8_t>(low | high << 4);
                }
                if constexpr (BITS == 5) {
                    for (int j = 0; j < 4; j++) {
                        int bits = 0;
                        for (int step = 0; step < 8; step++) {
                            bits |= (from[i].qh[4 * step + j] >> part & 1) << step;
                        }
                        to[i].part[part].fifth[index][j] = static_cast<uint8_t>(bits);
                    }
                }
            }
        }
    }

    static void unpack(const char * group, int index, int64_t blocks, char * row) {
        const auto * from = reinterpret_cast<const Block *>(group);
        auto * to = reinterpret_cast<FileBlock *>(row);
        std::memset(row, 0, blocks * sizeof(FileBlock));
        for (int64_t i = 0; i < blocks; i++) {
            to[i].d = from[i].d[index];
            to[i].dmin = from[i].m[index];
            for (int part = 0; part < 8; part++) {
                const int scale = from[i].scale[part / 2][index][part % 2];
                const int least = from[i].least[part / 2][index][part % 2];
                uint8_t * six = to[i].scales;
                if (part < 4) {
                    six[part] |= scale;
                    six[part + 4] |= least;
                } else {
                    six[part + 4] |= (scale & 15) | (least & 15) << 4;
                    six[part - 4] |= scale >> 4 << 6;
                    six[part] |= least >> 4 << 6;
                }
                uint8_t * bytes = to[i].qs + part / 2 * 32;
                const int shift = part % 2 * 4;
                for (int j = 0; j < 16; j++) {
                    const int first = j / 4 * 8 + j % 4;
                    const int both = from[i].part[part].weight[j / 4][index][j % 4];
                    bytes[first] |= (both & 15) << shift;
                    bytes[first + 4] |= both >> 4 << shift;
                }
                if constexpr (BITS == 5) {
                    for (int j = 0; j < 32; j++) {
                        to[i].qh[j] |= (from[i].part[part].fifth[index][j % 4] >> j / 4 & 1) << part;
                    }
                }
            }
        }
    }

    template <int WIDTH>
    static void arrange(const float * column, int64_t first, int64_t end, char * tile, int index) {
        arrange256<Machine, 32, WIDTH>(column, first, end, tile, index);
    }

    template <int WIDTH, int PARTS>
    static void multiply(const char * group, int64_t blocks, const char * tile, int row, float * out, size_t stride,
                         Ahead & ahead) {
        const auto * block = reinterpret_cast<const Block *>(group);
        const auto * columns = reinterpret_cast<const Columns256<WIDTH, 32> *>(tile);
        Results<Machine, PARTS, WIDTH> results;
        auto & result = results.of;
        for (int64_t i = 0; i < blocks; i++, block++, columns++) {
            for (int p = 0; p < PARTS; p++) {
                const int lane = row + p * Machine::LANES;
                typename Machine::Ints sum[WIDTH];
                clear<Machine>(sum);
#pragma GCC unroll 1
                for (int part = 0; part < 8; part++) {
                    ahead.fetch();
                    add_part(*block, *columns, part, lane, sum);
                }
                typename Machine::Ints taken_off[WIDTH];
                clear<Machine>(taken_off);
                for (int pair = 0; pair < 4; pair++) {
                    const auto least = Machine::unsigned_pairs(block->least[pair][lane]);
                    for (int c = 0; c < WIDTH; c++) {
                        taken_off[c] = Machine::add_pairs(taken_off[c], least, Machine::two(columns->sum[pair][c]));
                    }
                }
                const auto d = Machine::halfs(block->d + lane);
                const auto m = Machine::halfs(block->m + lane);
                for (int c = 0; c < WIDTH; c++) {
                    const float scale = columns->scale[c];
                    result[p][c] = Machine::add_scaled(result[p][c], sum[c], Machine::times(d, scale));
                    result[p][c] = Machine::add_scaled(result[p][c], taken_off[c], Machine::times(m, -scale));
                }
            }
        }
        results.store(out, row, stride);
    }

  private:
    // Adds the products of a part's 32 weights, times its scale.
    template <int WIDTH>
    static inline __attribute__((always_inline)) void add_part(const Block & block, const Columns256<WIDTH, 32> & columns,
                                                               int part, int lane, typename Machine::Ints (&sum)[WIDTH]) {
        const auto scales = Machine::unsigned_pairs(block.scale[part / 2][lane]);
        const auto scale = part % 2 == 0 ? Machine::first_of_pairs(scales) : Machine::second_of_pairs(scales);
        typename Machine::Ints products[WIDTH];
        clear<Machine>(products);
        for (int line = 0; line < 4; line++) {
            const auto both = Machine::load(block.part[part].weight[line][lane]);
            auto low = Machine::low_half(both);
            auto high = Machine::high_half(both);
            if constexpr (BITS == 5) {
                const auto bits = Machine::load(block.part[part].fifth[lane]);
                low = Machine::either(low, Machine::moved(bits, 1 << 2 * line, 4 - 2 * line));
                high = Machine::either(high, Machine::moved(bits, 2 << 2 * line, 3 - 2 * line));
            }
            const int step = 8 * part + 2 * line;
            for (int c = 0; c < WIDTH; c++) {
                products[c] = Machine::add_products(products[c], low, Machine::four(columns.value[step][c]));
                products[c] = Machine::add_products(products[c], high, Machine::four(columns.value[step + 1][c]));
            }
            if ((2 * line + 2) % STEPS == 0 || line == 3) {
                for (int c = 0; c < WIDTH; c++) {
                    sum[c] = Machine::add_times(sum[c], products[c], scale);
                    products[c] = Machine::start(0);
                }
            }
        }
    }
};

template <class Machine>
using Q4_K = Q45_K<Machine, 4>;
template <class Machine>
using Q5_K = Q45_K<Machine, 5>;

}  // namespace kernels
