// AVX-512 with VNNI: sixteen rows to a vector of 512 bits, four products and their sum in one instruction. Compiled for
// processors that have AVX-512 F, BW, VL and VNNI.

#include <immintrin.h>

#include "table.h"

namespace kernels {
namespace {

struct Avx512Vnni {
    static constexpr int LANES = 16;
    // Eight columns' sums and results leave half of the 32 registers for what is loaded.
    static constexpr int widest(ggml_type) { return 8; }
    static constexpr int parts(int) { return 1; }
    // One factor is unsigned.
    static constexpr int SIGNED_OFFSET = 128;

    using Floats = __m512;
    using Ints = __m512i;

    // Products are added up in 32 bits.
    static constexpr int steps_before_overflow(int) { return 64; }

    static float half(uint16_t bits) { return _cvtsh_ss(bits); }
    static Floats zero() { return _mm512_setzero_ps(); }
    static Floats halfs(const uint16_t * from) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from))); }
    static Floats times(Floats rows, float column) { return _mm512_mul_ps(rows, _mm512_set1_ps(column)); }
    static Floats add_scaled(Floats result, Ints sum, Floats scale) { return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, result); }
    static void store(float * to, Floats result) { _mm512_storeu_ps(to, result); }

    static Ints start(int32_t number) { return _mm512_set1_epi32(number); }
    static Ints four(const int8_t * values) {
        int32_t all;
        std::memcpy(&all, values, 4);
        return _mm512_set1_epi32(all);
    }
    static Ints two(const int16_t * values) {
        int32_t both;
        std::memcpy(&both, values, 4);
        return _mm512_set1_epi32(both);
    }
    static Ints load(const uint8_t * from) { return _mm512_loadu_si512(from); }
    static Ints low_half(Ints bytes) { return _mm512_and_si512(bytes, _mm512_set1_epi8(15)); }
    static Ints high_half(Ints bytes) { return low_half(_mm512_srli_epi16(bytes, 4)); }
    static Ints either(Ints a, Ints b) { return _mm512_or_si512(a, b); }
    // The bits of each byte that `mask` has, moved up, or down by a negative number.
    static Ints moved(Ints bytes, int mask, int up) {
        const Ints bits = _mm512_and_si512(bytes, _mm512_set1_epi8(static_cast<char>(mask)));
        return up >= 0 ? _mm512_slli_epi16(bits, static_cast<unsigned>(up)) : _mm512_srli_epi16(bits, static_cast<unsigned>(-up));
    }

    static Ints wide_weights(const uint8_t * from) { return load(from); }
    static Ints add_wide_products(Ints sum, Ints weights, Ints activations) {
        return add_products(sum, weights, activations);
    }
    static Ints add_products(Ints sum, Ints weights, Ints activations) {
        return _mm512_dpbusd_epi32(sum, weights, activations);
    }
    static Ints add(Ints sum, Ints products) { return _mm512_add_epi32(sum, products); }
    static Ints add_times(Ints sum, Ints products, Ints scale) { return add(sum, _mm512_mullo_epi32(products, scale)); }

    static Ints unsigned_pairs(const uint8_t * from) {
        return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
    }
    static Ints signed_pairs(const int8_t * from) {
        return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
    }
    // One of a pair, in 32 bits.
    static Ints first_of_pairs(Ints pairs) { return _mm512_srai_epi32(_mm512_slli_epi32(pairs, 16), 16); }
    static Ints second_of_pairs(Ints pairs) { return _mm512_srai_epi32(pairs, 16); }
    static Ints add_pairs(Ints sum, Ints pairs, Ints two) { return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, two)); }
    static Ints less_32_times(Ints sum, Ints other) { return _mm512_sub_epi32(sum, _mm512_slli_epi32(other, 5)); }
};

}  // namespace

const Format * avx512vnni_formats() { return formats<Avx512Vnni>(); }

}  // namespace kernels
