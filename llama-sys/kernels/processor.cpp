// See processor.h. The bits are those of Intel's manual, volume 2, CPUID and XGETBV.

#include "processor.h"

#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace kernels {
namespace {

#if defined(__x86_64__)

struct Registers {
    uint32_t a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(uint32_t leaf) {
    Registers registers;
    __get_cpuid_count(leaf, 0, &registers.a, &registers.b, &registers.c, &registers.d);
    return registers;
}

constexpr bool has(uint32_t bits, uint32_t wanted) { return (bits & wanted) == wanted; }

// Whether the system saves these parts of the registers when it switches threads.
bool saves(uint32_t parts) {
    constexpr uint32_t OSXSAVE = 1 << 27;
    if (!has(cpuid(1).c, OSXSAVE)) {
        return false;
    }
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return has(low, parts);
}

#endif

}  // namespace

bool has_avx2() {
#if defined(__x86_64__)
    constexpr uint32_t FMA = 1 << 12, AVX = 1 << 28, F16C = 1 << 29, AVX2 = 1 << 5, XMM_AND_YMM = 0x06;
    return has(cpuid(1).c, FMA | AVX | F16C) && has(cpuid(7).b, AVX2) && saves(XMM_AND_YMM);
#else
    return false;
#endif
}

bool has_avx512vnni() {
#if defined(__x86_64__)
    constexpr uint32_t F = 1u << 16, BW = 1u << 30, VL = 1u << 31, VNNI = 1 << 11, ALL_VECTORS = 0xe6;
    return has_avx2() && has(cpuid(7).b, F | BW | VL) && has(cpuid(7).c, VNNI) && saves(ALL_VECTORS);
#else
    return false;
#endif
}

}  // namespace kernels
