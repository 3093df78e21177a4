// AVX2: eight rows to a vector of 256 bits. Compiled for processors that have AVX2, FMA and F16C.

#include <immintrin.h>

#include <initializer_list>

#include "attention.h"
#include "table.h"

namespace kernels {
namespace {

struct Avx2 {
    static constexpr int LANES = 8;
    // Sums, weights and what meets them of eight columns are what sixteen registers hold, with results in memory meanwhile; of six
    // also the results. Which is better was measured on 135M shapes: eight by 10 to 20 % at eight columns, or six by 5 %.
    static constexpr int widest(ggml_type type) { return type == GGML_TYPE_Q4_0 || type == GGML_TYPE_Q6_K ? 6 : 8; }
    // Up to three columns, both halves of a group share what is loaded of the columns: measured on 135M shapes, 5 to 15 %.
    static constexpr int parts(int width) { return width <= 3 ? 2 : 1; }
    // Signed weights are multiplied by their size, and their sign goes to the activations.
    static constexpr int SIGNED_OFFSET = 0;

    using Floats = __m256;
    using Ints = __m256i;
    struct Wide {
        __m256i sign, size;
    };

    // Products are added up in signed 16 bits, two at a time; activations are at most 127.
    static constexpr int steps_before_overflow(int largest) { return 32767 / (2 * 127 * largest); }

    static float half(uint16_t bits) { return _cvtsh_ss(bits); }
    static Floats zero() { return _mm256_setzero_ps(); }
    static Floats halfs(const uint16_t * from) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from))); }
    static Floats times(Floats rows, float column) { return _mm256_mul_ps(rows, _mm256_set1_ps(column)); }
    static Floats add_scaled(Floats result, Ints sum, Floats scale) { return _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, result); }
    static void store(float * to, Floats result) { _mm256_storeu_ps(to, result); }

    static Ints start(int32_t number) { return _mm256_set1_epi32(number); }
    static Ints four(const int8_t * values) {
        int32_t all;
        std::memcpy(&all, values, 4);
        return _mm256_set1_epi32(all);
    }
    static Ints two(const int16_t * values) {
        int32_t both;
        std::memcpy(&both, values, 4);
        return _mm256_set1_epi32(both);
    }
    static Ints load(const uint8_t * from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)); }
    static Ints low_half(Ints bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi8(15)); }
    static Ints high_half(Ints bytes) { return low_half(_mm256_srli_epi16(bytes, 4)); }
    static Ints either(Ints a, Ints b) { return _mm256_or_si256(a, b); }
    // The bits of each byte that `mask` has, moved up, or down by a negative number.
    static Ints moved(Ints bytes, int mask, int up) {
        const Ints bits = _mm256_and_si256(bytes, _mm256_set1_epi8(static_cast<char>(mask)));
        return up >= 0 ? _mm256_slli_epi16(bits, up) : _mm256_srli_epi16(bits, -up);
    }

    static Wide wide_weights(const uint8_t * from) {
        const Ints weights = load(from);
        return { weights, _mm256_abs_epi8(weights) };
    }
    static Ints add_wide_products(Ints sum, Wide weights, Ints activations) {
        const Ints products = _mm256_maddubs_epi16(weights.size, _mm256_sign_epi8(activations, weights.sign));
        return add(sum, products);
    }
    static Ints add_products(Ints sum, Ints weights, Ints activations) {
        return _mm256_add_epi16(sum, _mm256_maddubs_epi16(weights, activations));
    }
    // To a sum in 32 bits, one of products.
    static Ints add(Ints sum, Ints products) { return add_times(sum, products, _mm256_set1_epi16(1)); }
    static Ints add_times(Ints sum, Ints products, Ints scale) {
        return _mm256_add_epi32(sum, _mm256_madd_epi16(products, scale));
    }

    static Ints unsigned_pairs(const uint8_t * from) {
        return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
    }
    static Ints signed_pairs(const int8_t * from) {
        return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
    }
    // One of a pair for both products of a sum.
    static Ints first_of_pairs(Ints pairs) {
        return _mm256_shuffle_epi8(pairs, _mm256_set_epi32(0x0d0c0d0c, 0x09080908, 0x05040504, 0x01000100,
                                                           0x0d0c0d0c, 0x09080908, 0x05040504, 0x01000100));
    }
    static Ints second_of_pairs(Ints pairs) {
        return _mm256_shuffle_epi8(pairs, _mm256_set_epi32(0x0f0e0f0e, 0x0b0a0b0a, 0x07060706, 0x03020302,
                                                           0x0f0e0f0e, 0x0b0a0b0a, 0x07060706, 0x03020302));
    }
    static Ints add_pairs(Ints sum, Ints pairs, Ints two) { return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, two)); }
    static Ints less_32_times(Ints sum, Ints other) { return _mm256_sub_epi32(sum, _mm256_slli_epi32(other, 5)); }

    static Floats floats(const float * from) { return _mm256_loadu_ps(from); }
    static Floats all(float number) { return _mm256_set1_ps(number); }
    static Floats plus(Floats a, Floats b) { return _mm256_add_ps(a, b); }
    static Floats less(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
    static Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
    static Floats add_product(Floats sum, Floats a, Floats b) { return _mm256_fmadd_ps(a, b, sum); }
    // Of numbers up to 0: e^x = 2^n e^r, with the polynomial of Cephes' expf for e^r. Below -87, where that ends, it is 0.
    static Floats exp(Floats x) {
        constexpr int TO_NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        const Floats n = _mm256_round_ps(_mm256_mul_ps(x, all(1.44269504f)), TO_NEAREST);
        Floats r = _mm256_fnmadd_ps(n, all(0.693359375f), x);
        r = _mm256_fnmadd_ps(n, all(-2.12194440e-4f), r);
        Floats sum = all(1.9875691500e-4f);
        for (const float next : { 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f }) {
            sum = _mm256_fmadd_ps(sum, r, all(next));
        }
        sum = plus(_mm256_fmadd_ps(sum, _mm256_mul_ps(r, r), r), all(1));
        const Ints power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
        // What is not a number stays so.
        return _mm256_and_ps(_mm256_mul_ps(sum, _mm256_castsi256_ps(power)), _mm256_cmp_ps(x, all(-87), _CMP_NLT_UQ));
    }
    static float sum(Floats of) {
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(of), _mm256_extractf128_ps(of, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
    static float largest(Floats of) {
        const __m128 four = _mm_max_ps(_mm256_castps256_ps128(of), _mm256_extractf128_ps(of, 1));
        const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
    }
    static void store_sums(float * to, const Floats (&of)[4]) {
        const Floats all_four = _mm256_hadd_ps(_mm256_hadd_ps(of[0], of[1]), _mm256_hadd_ps(of[2], of[3]));
        _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(all_four), _mm256_extractf128_ps(all_four, 1)));
    }
};

}  // namespace

const Format * avx2_formats() { return formats<Avx2>(); }

Attend avx2_attend() { return attention::attend<Avx2>; }

}  // namespace kernels
