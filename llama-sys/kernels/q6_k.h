// Q6_K: 256 weights of 6 bits (0 to 63, with 32 taken off) to a block, in sixteen parts of 16 with a signed 8-bit scale each,
// which are multiples of the block's own 16-bit scale d.
//
// Sixteen rows lie together, a block of each row at a time:
//
//     line 0          d of rows 0..15, and nothing
//     lines 1 to 4    scales: parts 0, 1 of row 0 | of row 1 | ... | of row 15 | parts 2, 3 of row 0 | ...
//     lines 5 to 52   weights: three lines for a part, bytes of row 0 | of row 1 | ... | of row 15, four each
//                     line 0, byte j: the low four bits of weight j in the low half, of weight 4 + j in the high one
//                     line 1, byte j: the same of weights 8 + j and 12 + j
//                     line 2, byte j: the high two bits of weights j, 4 + j, 8 + j, 12 + j, from the lowest bits up
//
// Half a line of nothing keeps all others where a cache line begins: 1 % more bytes than in the file.
#pragma once

#include "ahead.h"
#include "columns.h"
#include "format.h"
#include "sums.h"

namespace kernels {

template <class Machine>
struct Q6_K {
    struct Part {
        uint8_t low[2][GROUP_ROWS][4];
        uint8_t high[GROUP_ROWS][4];
    };
    struct Block {
        uint16_t d[GROUP_ROWS];
        uint16_t nothing[GROUP_ROWS];
        int8_t scale[8][GROUP_ROWS][2];
        Part part[16];
    };
    static_assert(sizeof(Block) == 53 * 64);

    static constexpr ggml_type TYPE = GGML_TYPE_Q6_K;
    static constexpr int64_t BLOCK_WEIGHTS = 256;
    static constexpr size_t FETCHES = 8;
    static constexpr size_t COLUMN_BYTES = sizeof(Columns256<1, 16>);
    static constexpr int STEPS = Machine::steps_before_overflow(63);
    static_assert(STEPS >= 2);

    // Where the file has a weight: bytes of `ql` and `qh`, and how far the bits are from the lowest.
    struct Place {
        int low, low_shift, high, high_shift;
    };
    static Place place(int weight) {
        const int half = weight / 128, quarter = weight % 128 / 32, j = weight % 32;
        return { 64 * half + 32 * (quarter % 2) + j, quarter / 2 * 4, 32 * half + j, quarter * 2 };
    }

    static void pack(const char * row, int64_t blocks, char * group, int index) {
        const auto * from = reinterpret_cast<const block_q6_K *>(row);
        auto * to = reinterpret_cast<Block *>(group);
        for (int64_t i = 0; i < blocks; i++) {
            to[i].d[index] = from[i].d;
            for (int part = 0; part < 16; part++) {
                to[i].scale[part / 2][index][part % 2] = from[i].scales[part];
                for (int j = 0; j < 4; j++) {
                    int low[4], high = 0;
                    for (int step = 0; step < 4; step++) {
                        const Place at = place(16 * part + 4 * step + j);
                        low[step] = from[i].ql[at.low] >> at.low_shift & 15;
                        high |= (from[i].qh[at.high] >> at.high_shift & 3) << 2 * step;
                    }
                    to[i].part[part].low[0][index][j] = static_cast<uint8_t>(low[0] | low[1] << 4);
                    to[i].part[part].low[1][index][j] = static_cast<uint8_t>(low[2] | low[3] << 4);
                    to[i].part[part].high[index][j] = static_cast<uint8_t>(high);
                }
            }
        }
    }

    static void unpack(const char * group, int index, int64_t blocks, char * row) {
        const auto * from = reinterpret_cast<const Block *>(group);
        auto * to = reinterpret_cast<block_q6_K *>(row);
        std::memset(row, 0, blocks * sizeof(block_q6_K));
        for (int64_t i = 0; i < blocks; i++) {
            to[i].d = from[i].d[index];
            for (int part = 0; part < 16; part++) {
                to[i].scales[part] = from[i].scale[part / 2][index][part % 2];
                for (int j = 0; j < 16; j++) {
                    const Place at = place(16 * part + j);
                    const int low = from[i].part[part].low[j / 8][index][j % 4] >> j % 8 / 4 * 4 & 15;
                    const int high = from[i].part[part].high[index][j % 4] >> j / 4 * 2 & 3;
                    to[i].ql[at.low] |= low << at.low_shift;
                    to[i].qh[at.high] |= high << at.high_shift;
                }
            }
        }
    }

    template <int WIDTH>
    static void arrange(const float * column, int64_t first, int64_t end, char * tile, int index) {
        arrange256<Machine, 16, WIDTH>(column, first, end, tile, index);
    }

    template <int WIDTH, int PARTS>
    static void multiply(const char * group, int64_t blocks, const char * tile, int row, float * out, size_t stride,
                         Ahead & ahead) {
        const auto * block = reinterpret_cast<const Block *>(group);
        const auto * columns = reinterpret_cast<const Columns256<WIDTH, 16> *>(tile);
        Results<Machine, PARTS, WIDTH> results;
        auto & result = results.of;
        for (int64_t i = 0; i < blocks; i++, block++, columns++) {
            for (int p = 0; p < PARTS; p++) {
                const int lane = row + p * Machine::LANES;
                typename Machine::Ints sum[WIDTH], taken_off[WIDTH];
                clear<Machine>(sum);
                clear<Machine>(taken_off);
#pragma GCC unroll 1
                for (int pair = 0; pair < 8; pair++) {
                    ahead.fetch();
                    const auto scales = Machine::signed_pairs(block->scale[pair][lane]);
                    for (int c = 0; c < WIDTH; c++) {
                        taken_off[c] = Machine::add_pairs(taken_off[c], scales, Machine::two(columns->sum[pair][c]));
                    }
                    add_part(block->part[2 * pair], *columns, 2 * pair, lane, Machine::first_of_pairs(scales), sum);
                    add_part(block->part[2 * pair + 1], *columns, 2 * pair + 1, lane, Machine::second_of_pairs(scales), sum);
                }
                const auto d = Machine::halfs(block->d + lane);
                for (int c = 0; c < WIDTH; c++) {
                    const auto whole = Machine::less_32_times(sum[c], taken_off[c]);
                    result[p][c] = Machine::add_scaled(result[p][c], whole, Machine::times(d, columns->scale[c]));
                }
            }
        }
        results.store(out, row, stride);
    }

  private:
    // Adds the products of a part's 16 weights, times its scale.
    template <int WIDTH>
    static inline __attribute__((always_inline)) void add_part(const Part & part, const Columns256<WIDTH, 16> & columns,
                                                               int number, int lane, typename Machine::Ints scale,
                                                               typename Machine::Ints (&sum)[WIDTH]) {
        const auto high = Machine::load(part.high[lane]);
        typename Machine::Ints products[WIDTH];
        clear<Machine>(products);
        for (int line = 0; line < 2; line++) {
            const auto both = Machine::load(part.low[line][lane]);
            const auto even = Machine::either(Machine::low_half(both), Machine::moved(high, 3 << 4 * line, 4 - 4 * line));
            const auto odd = Machine::either(Machine::high_half(both), Machine::moved(high, 12 << 4 * line, 2 - 4 * line));
            const int step = 4 * number + 2 * line;
            for (int c = 0; c < WIDTH; c++) {
                products[c] = Machine::add_products(products[c], even, Machine::four(columns.value[step][c]));
                products[c] = Machine::add_products(products[c], odd, Machine::four(columns.value[step + 1][c]));
            }
            if ((2 * line + 2) % STEPS == 0 || line == 1) {
                for (int c = 0; c < WIDTH; c++) {
                    sum[c] = Machine::add_times(sum[c], products[c], scale);
                    products[c] = Machine::start(0);
                }
            }
        }
    }
};

}  // namespace kernels
