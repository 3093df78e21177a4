// Fetching what is multiplied next into the cache, while the processor multiplies: memory and arithmetic at the same time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kernels {

constexpr size_t CACHE_LINE = 64;

// Lines to be fetched, spread evenly over so many calls.
class Ahead {
  public:
    inline __attribute__((always_inline)) Ahead(const char * from, size_t lines, size_t calls)
        : at(from), lines(lines), calls(calls) {}

    inline __attribute__((always_inline)) void fetch() {
        for (due += lines; due >= calls; due -= calls, at += CACHE_LINE) {
            __builtin_prefetch(at, 0, LOCALITY);
        }
    }

  private:
    // The second level: the first has what is being multiplied.
    static constexpr int LOCALITY = 2;

    const char * at;
    size_t lines, calls, due = 0;
};

}  // namespace kernels
