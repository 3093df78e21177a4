// What every kernel begins and ends with: sums of nothing, and results that go out.
#pragma once

#include <cstddef>

namespace kernels {

// Whole sums of WIDTH columns, before anything is added.
template <class Machine, int WIDTH>
inline __attribute__((always_inline)) void clear(typename Machine::Ints (&sums)[WIDTH]) {
    for (auto & one : sums) {
        one = Machine::start(0);
    }
}

// Results of PARTS vectors of rows and WIDTH columns.
template <class Machine, int PARTS, int WIDTH>
struct Results {
    typename Machine::Floats of[PARTS][WIDTH];

    inline __attribute__((always_inline)) Results() {
        for (auto & part : of) {
            for (auto & one : part) {
                one = Machine::zero();
            }
        }
    }

    // Rows from `row` on; a column's lie side by side, columns `stride` numbers apart.
    inline __attribute__((always_inline)) void store(float * out, int row, size_t stride) const {
        for (int p = 0; p < PARTS; p++) {
            for (int c = 0; c < WIDTH; c++) {
                Machine::store(out + c * stride + row + p * Machine::LANES, of[p][c]);
            }
        }
    }
};

}  // namespace kernels
