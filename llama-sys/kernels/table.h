// An instruction set's formats as the buffer type takes them: kernels for each width of a tile, behind plain pointers.
#pragma once

#include "q4_0.h"
#include "q4_k.h"
#include "q6_k.h"
#include "q8_0.h"

namespace kernels {

template <class Machine, class Kind, int WIDTH>
void multiply(const char * group, int64_t blocks, const char * tile, float * out, size_t stride, const char * next,
              size_t lines) {
    // As many vectors of rows as a machine has registers for at this width.
    constexpr int PARTS = Machine::parts(WIDTH);
    Ahead ahead(next, lines, GROUP_ROWS / Machine::LANES * blocks * Kind::FETCHES);
    for (int row = 0; row < GROUP_ROWS; row += PARTS * Machine::LANES) {
        Kind::template multiply<WIDTH, PARTS>(group, blocks, tile, row, out, stride, ahead);
    }
}

// Calls `call` with the width as a constant.
template <int MOST, class Call>
void with_width(int width, Call call) {
    if constexpr (MOST > 1) {
        if (width < MOST) {
            return with_width<MOST - 1>(width, call);
        }
    }
    call(std::integral_constant<int, MOST>{});
}

template <class Machine, class Kind>
Format format() {
    constexpr int WIDEST = Machine::widest(Kind::TYPE);
    static_assert(WIDEST <= WIDEST_TILE);
    return {
        Kind::TYPE,
        Kind::BLOCK_WEIGHTS,
        sizeof(typename Kind::Block),
        Kind::COLUMN_BYTES,
        WIDEST,
        Kind::pack,
        Kind::unpack,
        [](const float * column, int64_t first, int64_t end, char * tile, int width, int index) {
            with_width<WIDEST>(width, [&](auto constant) {
                Kind::template arrange<constant.value>(column, first, end, tile, index);
            });
        },
        [](const char * group, int64_t blocks, const char * tile, int width, float * out, size_t stride, const char * next,
           size_t lines) {
            with_width<WIDEST>(width, [&](auto constant) {
                multiply<Machine, Kind, constant.value>(group, blocks, tile, out, stride, next, lines);
            });
        },
    };
}

// All formats, and the end of the list.
template <class Machine>
const Format * formats() {
    static const Format all[] = {
        format<Machine, Q8_0<Machine>>(), format<Machine, Q4_0<Machine>>(), format<Machine, Q4_K<Machine>>(),
        format<Machine, Q5_K<Machine>>(), format<Machine, Q6_K<Machine>>(), {},
    };
    return all;
}

}  // namespace kernels
