// No instructions in particular: sixteen rows as an array, computed as the 512-bit kernels compute. Slow, and the same bits:
// what the others are held against, and how the paths of a processor that is not here are tried.

#include <algorithm>
#include <cmath>

#include "attention.h"
#include "table.h"

namespace kernels {
namespace {

struct Plain {
    static constexpr int LANES = 16;
    static constexpr int widest(ggml_type) { return 8; }
    static constexpr int parts(int) { return 1; }
    static constexpr int SIGNED_OFFSET = 128;

    struct Floats {
        float lane[LANES];
    };
    struct Ints {
        int32_t lane[LANES];
    };

    static constexpr int steps_before_overflow(int) { return 64; }

    template <class To, class Of>
    static To each(Of of) {
        To to;
        for (int i = 0; i < LANES; i++) {
            to.lane[i] = of(i);
        }
        return to;
    }
    static uint8_t byte(Ints from, int lane, int j) { return static_cast<uint32_t>(from.lane[lane]) >> 8 * j & 255; }
    static int16_t word(Ints from, int lane, int j) { return static_cast<int16_t>(static_cast<uint32_t>(from.lane[lane]) >> 16 * j); }
    template <class Of>
    static Ints each_byte(Of of) {
        return each<Ints>([&](int i) {
            uint32_t all = 0;
            for (int j = 0; j < 4; j++) {
                all |= static_cast<uint32_t>(of(i, j) & 255) << 8 * j;
            }
            return static_cast<int32_t>(all);
        });
    }

    static float half(uint16_t bits) { return ggml_fp16_to_fp32(bits); }
    static Floats zero() { return {}; }
    static Floats halfs(const uint16_t * from) { return each<Floats>([&](int i) { return half(from[i]); }); }
    static Floats times(Floats rows, float column) { return each<Floats>([&](int i) { return rows.lane[i] * column; }); }
    static Floats add_scaled(Floats result, Ints sum, Floats scale) {
        return each<Floats>([&](int i) { return std::fma(static_cast<float>(sum.lane[i]), scale.lane[i], result.lane[i]); });
    }
    static void store(float * to, Floats result) { std::memcpy(to, result.lane, sizeof(result.lane)); }

    static Ints start(int32_t number) { return each<Ints>([&](int) { return number; }); }
    static Ints four(const int8_t * values) {
        int32_t all;
        std::memcpy(&all, values, 4);
        return start(all);
    }
    static Ints two(const int16_t * values) {
        int32_t both;
        std::memcpy(&both, values, 4);
        return start(both);
    }
    static Ints load(const uint8_t * from) {
        Ints to;
        std::memcpy(to.lane, from, sizeof(to.lane));
        return to;
    }
    static Ints low_half(Ints bytes) { return each_byte([&](int i, int j) { return byte(bytes, i, j) & 15; }); }
    static Ints high_half(Ints bytes) { return each_byte([&](int i, int j) { return byte(bytes, i, j) >> 4; }); }
    static Ints either(Ints a, Ints b) { return each<Ints>([&](int i) { return a.lane[i] | b.lane[i]; }); }
    static Ints moved(Ints bytes, int mask, int up) {
        return each_byte([&](int i, int j) {
            const int bits = byte(bytes, i, j) & mask;
            return up >= 0 ? bits << up : bits >> -up;
        });
    }

    static Ints wide_weights(const uint8_t * from) { return load(from); }
    static Ints add_wide_products(Ints sum, Ints weights, Ints activations) {
        return add_products(sum, weights, activations);
    }
    static Ints add_products(Ints sum, Ints weights, Ints activations) {
        return each<Ints>([&](int i) {
            int32_t all = sum.lane[i];
            for (int j = 0; j < 4; j++) {
                all += byte(weights, i, j) * static_cast<int8_t>(byte(activations, i, j));
            }
            return all;
        });
    }
    static Ints add(Ints sum, Ints products) { return each<Ints>([&](int i) { return sum.lane[i] + products.lane[i]; }); }
    static Ints add_times(Ints sum, Ints products, Ints scale) {
        return each<Ints>([&](int i) { return sum.lane[i] + products.lane[i] * scale.lane[i]; });
    }

    static Ints unsigned_pairs(const uint8_t * from) {
        return each<Ints>([&](int i) { return from[2 * i] | from[2 * i + 1] << 16; });
    }
    static Ints signed_pairs(const int8_t * from) {
        return each<Ints>([&](int i) {
            const uint32_t first = static_cast<uint16_t>(from[2 * i]), second = static_cast<uint16_t>(from[2 * i + 1]);
            return static_cast<int32_t>(first | second << 16);
        });
    }
    static Ints first_of_pairs(Ints pairs) { return each<Ints>([&](int i) { return int32_t{word(pairs, i, 0)}; }); }
    static Ints second_of_pairs(Ints pairs) { return each<Ints>([&](int i) { return int32_t{word(pairs, i, 1)}; }); }
    static Ints add_pairs(Ints sum, Ints pairs, Ints two) {
        return each<Ints>([&](int i) {
            return sum.lane[i] + word(pairs, i, 0) * word(two, i, 0) + word(pairs, i, 1) * word(two, i, 1);
        });
    }
    static Ints less_32_times(Ints sum, Ints other) {
        return each<Ints>([&](int i) { return sum.lane[i] - 32 * other.lane[i]; });
    }

    static Floats floats(const float * from) { return each<Floats>([&](int i) { return from[i]; }); }
    static Floats all(float number) { return each<Floats>([&](int) { return number; }); }
    static Floats plus(Floats a, Floats b) { return each<Floats>([&](int i) { return a.lane[i] + b.lane[i]; }); }
    static Floats less(Floats a, Floats b) { return each<Floats>([&](int i) { return a.lane[i] - b.lane[i]; }); }
    static Floats larger(Floats a, Floats b) { return each<Floats>([&](int i) { return std::max(a.lane[i], b.lane[i]); }); }
    static Floats add_product(Floats sum, Floats a, Floats b) {
        return each<Floats>([&](int i) { return std::fma(a.lane[i], b.lane[i], sum.lane[i]); });
    }
    static Floats exp(Floats x) { return each<Floats>([&](int i) { return std::exp(x.lane[i]); }); }
    static float sum(Floats of) {
        float all = 0;
        for (const float one : of.lane) {
            all += one;
        }
        return all;
    }
    static float largest(Floats of) { return *std::max_element(of.lane, of.lane + LANES); }
    static void store_sums(float * to, const Floats (&of)[4]) {
        for (int i = 0; i < 4; i++) {
            to[i] = sum(of[i]);
        }
    }
};

}  // namespace

const Format * plain_formats() { return formats<Plain>(); }

Attend plain_attend() { return attention::attend<Plain>; }

}  // namespace kernels
