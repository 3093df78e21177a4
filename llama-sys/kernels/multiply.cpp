// See multiply.h.

#include "multiply.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "ahead.h"
#include "ggml-cpu.h"
#include "layout.h"

namespace kernels {
namespace {

std::atomic<uint64_t> multiplication_count{ 0 };

// A column of an operand, and of the result: rows of a tensor of up to four dimensions, counted through.
char * column_of(const ggml_tensor * tensor, int64_t number) {
    const int64_t i1 = number % tensor->ne[1], i2 = number / tensor->ne[1] % tensor->ne[2];
    const int64_t i3 = number / tensor->ne[1] / tensor->ne[2];
    return static_cast<char *>(tensor->data) + i1 * tensor->nb[1] + i2 * tensor->nb[2] + i3 * tensor->nb[3];
}

size_t whole_lines(size_t bytes) { return (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE; }

// Which columns each matrix is multiplied with: all of them, or those of the tokens that chose it. Columns of a matrix have
// places side by side.
class Columns {
  public:
    // Bytes of a thread's `room`.
    static size_t bytes(const ggml_tensor * op) {
        return op->op == GGML_OP_MUL_MAT ? 0 : whole_lines((op->src[0]->ne[2] + 2 + ggml_nrows(op)) * sizeof(int32_t));
    }

    Columns(const ggml_tensor * op, char * room) : op(op) {
        if (op->op == GGML_OP_MUL_MAT) {
            alone[1] = static_cast<int32_t>(ggml_nrows(op));
        } else {
            sort(reinterpret_cast<int32_t *>(room));
        }
    }

    // It refers to itself.
    Columns(const Columns &) = delete;

    int64_t begin(int64_t matrix) const { return begins[matrix]; }
    int64_t count(int64_t matrix) const { return begins[matrix + 1] - begins[matrix]; }
    const float * input(int64_t place) const {
        // A token's columns may be as many as it chose matrices, or one for all of these.
        const int64_t chosen = op->ne[1], number = number_in(place);
        const ggml_tensor * columns = op->src[1];
        const int64_t of_token = number % chosen % columns->ne[1];
        return reinterpret_cast<const float *>(column_of(columns, number / chosen * columns->ne[1] + of_token));
    }
    float * result(int64_t place) const { return reinterpret_cast<float *>(column_of(op, number_in(place))); }

  private:
    const ggml_tensor * op;
    int32_t alone[2] = { 0, 0 };
    // Of each matrix the first place, and their end; the column in each place, or NULL where that is its number.
    const int32_t * begins = alone, * order = nullptr;

    int64_t number_in(int64_t place) const { return order == nullptr ? place : order[place]; }

    // By counting: first how many each matrix has, then which.
    void sort(int32_t * room) {
        const int64_t matrices = op->src[0]->ne[2], chosen = op->ne[1], all = chosen * op->ne[2];
        int32_t * end = room + 1, * sorted = room + matrices + 2;
        std::memset(room, 0, (matrices + 2) * sizeof(int32_t));
        const auto matrix_of = [&](int64_t number) {
            const ggml_tensor * ids = op->src[2];
            const char * at = static_cast<const char *>(ids->data) + number % chosen * ids->nb[0] + number / chosen * ids->nb[1];
            int32_t id;
            std::memcpy(&id, at, sizeof(id));
            GGML_ASSERT(id >= 0 && id < matrices);
            return id;
        };
        for (int64_t number = 0; number < all; number++) {
            end[matrix_of(number) + 1]++;
        }
        for (int64_t matrix = 0; matrix < matrices; matrix++) {
            end[matrix + 1] += end[matrix];
        }
        // Each begins where the one before it ends, and ends there when it has all of its own.
        for (int64_t number = 0; number < all; number++) {
            sorted[end[matrix_of(number)]++] = static_cast<int32_t>(number);
        }
        begins = room;
        order = sorted;
    }
};

// Columns are multiplied in tiles as wide as the kernels allow, and as equal as that can be.
struct Tiles {
    int64_t columns, count;
    Tiles(const Format & format, int64_t columns)
        : columns(columns), count((columns + format.widest - 1) / format.widest) {}
    int64_t first(int64_t tile) const { return columns * tile / count; }
    int width(int64_t tile) const { return static_cast<int>(first(tile + 1) - first(tile)); }
};

// Row groups that go through all tiles one after another: their weights stay in the second level cache, and the columns of a
// tile in the first. Four were the best of those tried on the 135M shape (one, two, four, eight), where they are 40 to 105 KiB,
// and the next chunk is fetched beside them; wider rows are to stay within what the cache has.
constexpr int64_t CHUNK_BYTES = 256 * 1024, MOST_GROUPS = 4;
// For each thread, so that a late one leaves its share to the others.
constexpr int64_t CHUNKS_A_THREAD = 8;

// Groups `first` up to `end` of a matrix.
struct Chunk {
    int64_t matrix, first, end;
};

// Chunks of all matrices that have columns, counted through.
class Chunks {
  public:
    Chunks(const Layout & layout, const Columns & columns, int64_t matrices, int threads)
        : columns(columns), matrices(matrices), groups(layout.groups) {
        int64_t used = 0;
        for (int64_t one = 0; one < matrices; one++) {
            used += columns.count(one) != 0;
        }
        const int64_t fair = groups * used / (CHUNKS_A_THREAD * threads);
        const int64_t cached = CHUNK_BYTES / static_cast<int64_t>(layout.group_bytes);
        size = std::max<int64_t>(1, std::min({ fair, cached, MOST_GROUPS }));
    }

    // One after those that were asked for before; false if there are not so many.
    bool find(int64_t number, Chunk & chunk) {
        const int64_t of_each = (groups + size - 1) / size;
        for (; matrix < matrices; matrix++) {
            if (columns.count(matrix) == 0) {
                continue;
            }
            if (number - before < of_each) {
                const int64_t first = (number - before) * size;
                chunk = { matrix, first, std::min(groups, first + size) };
                return true;
            }
            before += of_each;
        }
        return false;
    }

  private:
    const Columns & columns;
    int64_t matrices, groups, size;
    // The matrix that was found last, and chunks of those before it.
    int64_t matrix = 0, before = 0;
};

}  // namespace

bool can_compute(const ggml_tensor * op) {
    const ggml_tensor * weights = op->src[0];
    const ggml_tensor * other = op->src[1];
    if (weights == nullptr || layout_of(weights).format == nullptr) {
        return false;
    }
    const bool multiplies = other != nullptr && other->type == GGML_TYPE_F32 && other->nb[0] == sizeof(float);
    switch (op->op) {
        case GGML_OP_MUL_MAT:
            return multiplies && weights->ne[2] == 1;
        case GGML_OP_MUL_MAT_ID:
            return multiplies;
        case GGML_OP_GET_ROWS:
            return other->type == GGML_TYPE_I32 && weights->ne[2] == 1;
        default:
            return false;
    }
}

size_t work_bytes(int threads, const ggml_tensor * op) {
    if (op->op == GGML_OP_GET_ROWS) {
        return threads * ggml_row_size(op->src[0]->type, op->src[0]->ne[0]);
    }
    const Layout layout = layout_of(op->src[0]);
    return threads * Columns::bytes(op) + ggml_nrows(op) * layout.blocks * layout.format->column_bytes;
}

void multiply(const ggml_compute_params * params, ggml_tensor * result) {
    const ggml_tensor * weights = result->src[0];
    const Layout layout = layout_of(weights);
    const Format & format = *layout.format;
    const int64_t matrices = weights->ne[2];
    const size_t column_bytes = layout.blocks * format.column_bytes;
    char * room = static_cast<char *>(params->wdata);
    // Each thread sorts them for itself, which is done before it would have waited for another.
    const Columns columns(result, room + params->ith * Columns::bytes(result));
    char * arranged = room + params->nth * Columns::bytes(result);

    // All threads quantise all columns, each its part of them: that is even at any number of columns.
    const int64_t first = layout.blocks * params->ith / params->nth, end = layout.blocks * (params->ith + 1) / params->nth;
    for (int64_t matrix = 0; matrix < matrices; matrix++) {
        const Tiles tiles(format, columns.count(matrix));
        for (int64_t tile = 0; tile < tiles.count; tile++) {
            const int64_t place = columns.begin(matrix) + tiles.first(tile);
            for (int c = 0; c < tiles.width(tile); c++) {
                format.arrange(columns.input(place + c), first, end, arranged + place * column_bytes, tiles.width(tile), c);
            }
        }
    }
    if (params->ith == 0) {
        multiplication_count.fetch_add(1, std::memory_order_relaxed);
        // The first ones are given out without being asked for.
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);

    Chunks chunks(layout, columns, matrices, params->nth);
    Chunk mine, next;
    for (bool more = chunks.find(params->ith, mine); more; mine = next) {
        // Taken before it is needed, so that its weights are there when it is.
        more = chunks.find(ggml_threadpool_chunk_add(params->threadpool, 1), next);
        const char * after = more ? layout.group(weights, next.matrix, next.first) : nullptr;
        const size_t lines = more ? (next.end - next.first) * layout.group_bytes / CACHE_LINE : 0;
        const Tiles tiles(format, columns.count(mine.matrix));
        const size_t all = tiles.count * (mine.end - mine.first);
        size_t done = 0, fetched = 0;
        for (int64_t tile = 0; tile < tiles.count; tile++) {
            const int64_t place = columns.begin(mine.matrix) + tiles.first(tile);
            const int width = tiles.width(tile);
            float * to[WIDEST_TILE];
            for (int c = 0; c < width; c++) {
                to[c] = columns.result(place + c);
            }
            for (int64_t group = mine.first; group < mine.end; group++) {
                float sums[WIDEST_TILE][GROUP_ROWS];
                const size_t until = lines * ++done / all;
                format.multiply(layout.group(weights, mine.matrix, group), layout.blocks, arranged + place * column_bytes, width,
                                sums[0], GROUP_ROWS, after + fetched * CACHE_LINE, until - fetched);
                fetched = until;
                const int64_t row = group * GROUP_ROWS;
                const size_t rows = std::min<int64_t>(GROUP_ROWS, weights->ne[1] - row);
                for (int c = 0; c < width; c++) {
                    std::memcpy(to[c] + row, sums[c], rows * sizeof(float));
                }
            }
        }
    }
}

void get_rows(const ggml_compute_params * params, ggml_tensor * result) {
    const ggml_tensor * weights = result->src[0];
    const ggml_tensor * numbers = result->src[1];
    const Layout layout = layout_of(weights);
    const auto to_float = ggml_get_type_traits(weights->type)->to_float;
    char * row = static_cast<char *>(params->wdata) + params->ith * ggml_row_size(weights->type, weights->ne[0]);
    const int64_t all = ggml_nelements(numbers);
    for (int64_t i = all * params->ith / params->nth; i < all * (params->ith + 1) / params->nth; i++) {
        const int64_t i0 = i % numbers->ne[0], i1 = i / numbers->ne[0] % numbers->ne[1];
        const int64_t i2 = i / numbers->ne[0] / numbers->ne[1];
        const char * at = static_cast<const char *>(numbers->data) + i0 * numbers->nb[0] + i1 * numbers->nb[1] + i2 * numbers->nb[2];
        int32_t number;
        std::memcpy(&number, at, sizeof(number));
        GGML_ASSERT(number >= 0 && number < weights->ne[1]);
        layout.format->unpack(layout.group(weights, 0, number / GROUP_ROWS), number % GROUP_ROWS, layout.blocks, row);
        char * to = static_cast<char *>(result->data) + i0 * result->nb[1] + i1 * result->nb[2] + i2 * result->nb[3];
        to_float(row, reinterpret_cast<float *>(to), weights->ne[0]);
    }
}

uint64_t multiplications() { return multiplication_count.load(std::memory_order_relaxed); }

}  // namespace kernels
