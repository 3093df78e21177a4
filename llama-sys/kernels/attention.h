// Attention of some tokens over keys and values of 16 bits, as a KV cache keeps them.
//
// Query heads that share a KV head read the same keys and values. Up to three of them go together here, so that each key and
// each value is read and turned into 32 bits once for all of them:
//
//     scores    of four cells with each head: twelve sums, over the length of a key
//     weights   e^(score - largest score of the head)
//     values    of a cell times the weight of each head: twelve sums, over the cells
//
// The cells that are to be seen are gone through in spans of 128, each with a largest score of its own, and the spans are joined
// in their order (the way of M. N. Rabe and C. Staats, arXiv:2112.05682). So a result is the same bits whatever else is in the
// batch, whatever lies between the cells, however many threads share the work.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace kernels {

// Many against what it takes to join them with others, by a count of instructions, and few enough that two threads share a text of
// some hundred tokens evenly. Others were not tried.
constexpr int SPAN_CELLS = 128;

// Keys, values and twelve sums are what sixteen registers hold.
constexpr int MOST_HEADS = 3;

// Other heads' keys lie between those of a head: the processor does not foresee which it reads next. Fetching them was worth 6 to
// 10 % of a step with 32 sequences; other distances were not tried.
constexpr int KEYS_AHEAD = 12;

// Some query heads of one token, which share a KV head.
struct Heads {
    int count;
    // Numbers in a key, and in a value: whole vectors.
    int64_t key_size, value_size;
    // A head's query, and bytes from one to the next.
    const char * query;
    size_t query_stride;
    // The keys and values of all cells, and bytes from one to the next.
    const char * keys, * values;
    size_t key_stride, value_stride;
    // Added to the score of each cell, times the head's slope; NULL for nothing. Minus infinity: not to be seen.
    const uint16_t * mask;
    float slope[MOST_HEADS];
    float scale;
};

// What a head has seen of some cells: followed by the values' sum, each value times its weight.
struct Seen {
    // The largest score: minus infinity without any cell.
    float most;
    // The sum of the weights, which are relative to it.
    float weight;

    inline __attribute__((always_inline)) float * values() { return reinterpret_cast<float *>(this + 1); }
};

// What `heads` see of a span: the next SPAN_CELLS cells from `first` on that are to be seen, or as many as there are up to `end`.
// Returns where the next span begins. Heads are `stride` bytes apart.
using Attend = int64_t (*)(const Heads & heads, int64_t first, int64_t end, char * seen, size_t stride);

Attend plain_attend();
Attend avx2_attend();

// Everything here is a template over a file's own Machine, is inlined without question, or is the file's own: no function
// compiled for one processor is to be taken by the linker for another.
namespace attention {

// Cells of a span that are to be seen, and what is added to their scores. Filled up to whole vectors by the last one, with
// minus infinity.
template <class Machine>
struct Cells {
    int count = 0, filled = 0;
    int32_t cell[SPAN_CELLS];
    float bias[SPAN_CELLS];
};

// Minus infinity in 16 bits, and four of it.
constexpr uint16_t HIDDEN = 0xfc00;
constexpr uint64_t FOUR_HIDDEN = 0xfc00fc00fc00fc00;

template <class Machine>
int64_t find(Cells<Machine> & cells, const uint16_t * mask, int64_t first, int64_t end) {
    int64_t at = first;
    while (at < end && cells.count < SPAN_CELLS) {
        uint64_t four = 0;
        if (mask != nullptr && at + 4 <= end) {
            std::memcpy(&four, mask + at, sizeof(four));
        }
        if (four == FOUR_HIDDEN) {
            at += 4;
            continue;
        }
        if (mask == nullptr || mask[at] != HIDDEN) {
            cells.cell[cells.count] = static_cast<int32_t>(at);
            cells.bias[cells.count++] = mask == nullptr ? 0.0f : Machine::half(mask[at]);
        }
        at++;
    }
    cells.filled = cells.count;
    for (; cells.filled % Machine::LANES != 0; cells.filled++) {
        cells.cell[cells.filled] = cells.cell[cells.count - 1];
        cells.bias[cells.filled] = -INFINITY;
    }
    return at;
}

static inline const uint16_t * cell_of(const char * from, size_t stride, int32_t cell) {
    return reinterpret_cast<const uint16_t *>(from + cell * stride);
}

static inline void fetch(const char * row, int64_t size) {
    for (int64_t i = 0; i < size; i += 32) {
        __builtin_prefetch(reinterpret_cast<const uint16_t *>(row) + i);
    }
}

template <class Machine, int HEADS>
void score_four(const Heads & heads, const int32_t * cells, float * scores) {
    typename Machine::Floats sum[HEADS][4];
    for (auto & of_head : sum) {
        for (auto & one : of_head) {
            one = Machine::zero();
        }
    }
    const uint16_t * key[4];
    for (int c = 0; c < 4; c++) {
        key[c] = cell_of(heads.keys, heads.key_stride, cells[c]);
    }
    for (int64_t i = 0; i < heads.key_size; i += Machine::LANES) {
        typename Machine::Floats query[HEADS];
        for (int h = 0; h < HEADS; h++) {
            query[h] = Machine::floats(reinterpret_cast<const float *>(heads.query + h * heads.query_stride) + i);
        }
        for (int c = 0; c < 4; c++) {
            const auto part = Machine::halfs(key[c] + i);
            for (int h = 0; h < HEADS; h++) {
                sum[h][c] = Machine::add_product(sum[h][c], query[h], part);
            }
        }
    }
    for (int h = 0; h < HEADS; h++) {
        Machine::store_sums(scores + h * SPAN_CELLS, sum[h]);
    }
}

// Makes weights of scores, and says how they are to be understood.
template <class Machine>
Seen weigh(const Cells<Machine> & cells, float scale, float slope, float * scores) {
    auto most = Machine::all(-INFINITY);
    for (int i = 0; i < cells.filled; i += Machine::LANES) {
        const auto bias = Machine::times(Machine::floats(cells.bias + i), slope);
        const auto score = Machine::add_product(bias, Machine::floats(scores + i), Machine::all(scale));
        Machine::store(scores + i, score);
        most = Machine::larger(most, score);
    }
    const float largest = Machine::largest(most);
    auto weight = Machine::zero();
    for (int i = 0; i < cells.filled; i += Machine::LANES) {
        const auto one = Machine::exp(Machine::less(Machine::floats(scores + i), Machine::all(largest)));
        Machine::store(scores + i, one);
        weight = Machine::plus(weight, one);
    }
    return { largest, Machine::sum(weight) };
}

// PARTS vectors of the values from number `at` on.
template <class Machine, int HEADS, int PARTS>
void add_up(const Heads & heads, const Cells<Machine> & cells, const float * weights, int64_t at, float * const * to) {
    typename Machine::Floats sum[HEADS][PARTS];
    for (auto & of_head : sum) {
        for (auto & one : of_head) {
            one = Machine::zero();
        }
    }
    for (int i = 0; i < cells.count; i++) {
        const uint16_t * value = cell_of(heads.values, heads.value_stride, cells.cell[i]) + at;
        typename Machine::Floats weight[HEADS];
        for (int h = 0; h < HEADS; h++) {
            weight[h] = Machine::all(weights[h * SPAN_CELLS + i]);
        }
        for (int p = 0; p < PARTS; p++) {
            const auto part = Machine::halfs(value + p * Machine::LANES);
            for (int h = 0; h < HEADS; h++) {
                sum[h][p] = Machine::add_product(sum[h][p], weight[h], part);
            }
        }
    }
    for (int h = 0; h < HEADS; h++) {
        for (int p = 0; p < PARTS; p++) {
            Machine::store(to[h] + at + p * Machine::LANES, sum[h][p]);
        }
    }
}

template <class Machine, int HEADS>
int64_t attend(const Heads & heads, int64_t first, int64_t end, char * seen, size_t stride) {
    Cells<Machine> cells;
    const int64_t next = find<Machine>(cells, heads.mask, first, end);
    float scores[HEADS * SPAN_CELLS];
    for (int i = 0; i < cells.filled; i += 4) {
        for (int c = i; c < i + 4; c++) {
            if (c + KEYS_AHEAD < cells.filled) {
                fetch(heads.keys + cells.cell[c + KEYS_AHEAD] * heads.key_stride, heads.key_size);
            }
            fetch(heads.values + cells.cell[c] * heads.value_stride, heads.value_size);
        }
        score_four<Machine, HEADS>(heads, cells.cell + i, scores + i);
    }
    float * values[HEADS];
    for (int h = 0; h < HEADS; h++) {
        auto * of_head = reinterpret_cast<Seen *>(seen + h * stride);
        *of_head = weigh<Machine>(cells, heads.scale, heads.slope[h], scores + h * SPAN_CELLS);
        values[h] = of_head->values();
    }
    constexpr int PARTS = 4;
    int64_t at = 0;
    for (; at + PARTS * Machine::LANES <= heads.value_size; at += PARTS * Machine::LANES) {
        add_up<Machine, HEADS, PARTS>(heads, cells, scores, at, values);
    }
    for (; at < heads.value_size; at += Machine::LANES) {
        add_up<Machine, HEADS, 1>(heads, cells, scores, at, values);
    }
    return next;
}

template <class Machine>
int64_t attend(const Heads & heads, int64_t first, int64_t end, char * seen, size_t stride) {
    static_assert(MOST_HEADS == 3 && SPAN_CELLS % Machine::LANES == 0 && Machine::LANES % 4 == 0);
    switch (heads.count) {
        case 1: return attend<Machine, 1>(heads, first, end, seen, stride);
        case 2: return attend<Machine, 2>(heads, first, end, seen, stride);
        default: return attend<Machine, 3>(heads, first, end, seen, stride);
    }
}

}  // namespace attention
}  // namespace kernels
