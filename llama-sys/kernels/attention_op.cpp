// See attention_op.h. What is computed, and how: attention.h.

#include "attention_op.h"

#include <algorithm>

namespace kernels {
namespace {

// From so many tokens of a stream on llama.cpp computes tiles of 64 tokens and 64 cells (ops.cpp:9542). Against that, heads in
// threes are 1.0 to 1.6 times as fast on AVX2, others 0.8 to 1.1 times.
constexpr int64_t TOKENS_OF_A_TILE = 64;

// With fewer units of work for each thread, the spans of a unit are shared out as well.
constexpr int64_t ENOUGH_UNITS = 4;

// One operation, cut into units of work: up to MOST_HEADS query heads of one token.
class Work {
  public:
    explicit Work(const ggml_tensor * op)
        : op(op), query(op->src[0]), key(op->src[1]), value(op->src[2]), mask(op->src[3]),
          group(query->ne[2] / key->ne[2]), parts((group + MOST_HEADS - 1) / MOST_HEADS) {
        std::memcpy(&scale, op->op_params, sizeof(scale));
        std::memcpy(&most_bias, reinterpret_cast<const float *>(op->op_params) + 1, sizeof(most_bias));
    }

    int64_t units() const { return query->ne[1] * query->ne[3] * key->ne[2] * parts; }
    int64_t spans() const { return (key->ne[1] + SPAN_CELLS - 1) / SPAN_CELLS; }
    bool is_apart(int threads) const { return spans() > 1 && units() < ENOUGH_UNITS * threads; }

    // Bytes that a head's part of a result takes meanwhile, in whole cache lines; and those of a unit.
    size_t head_bytes() const { return (sizeof(Seen) + value->ne[0] * sizeof(float) + 63) / 64 * 64; }
    size_t unit_bytes() const { return MOST_HEADS * head_bytes(); }
    size_t bytes(int threads) const {
        // An own result for each thread, and what is to be joined with it.
        const size_t whole = 2 * threads * unit_bytes();
        return is_apart(threads) ? std::max(whole, parts_bytes() + threads * starts_bytes()) : whole;
    }
    // What all units see of all spans, and where a token's spans begin.
    size_t parts_bytes() const { return units() * spans() * unit_bytes(); }
    size_t starts_bytes() const { return (spans() * sizeof(int32_t) + 63) / 64 * 64; }

    Heads heads(int64_t unit) const;
    int64_t cells() const { return key->ne[1]; }
    // The number of a unit's token, through all streams.
    int64_t row(int64_t unit) const { return unit / parts / key->ne[2]; }
    void find_starts(const uint16_t * mask, int32_t * starts) const;
    void join(char * whole, char * part, int count) const;
    void finish(char * whole, int64_t unit, int count) const;

  private:
    struct Place {
        int64_t token, stream, first_head;
    };
    Place place(int64_t unit) const {
        const int64_t part = unit % parts, kv_head = unit / parts % key->ne[2];
        // As equal as they can be.
        return { row(unit) % query->ne[1], row(unit) / query->ne[1], kv_head * group + group * part / parts };
    }
    int count(int64_t unit) const {
        const int64_t part = unit % parts;
        return static_cast<int>(group * (part + 1) / parts - group * part / parts);
    }
    // ALiBi: heads look back less and less far (O. Press and others, arXiv:2108.12409).
    float slope(int64_t head) const {
        if (most_bias <= 0) {
            return 1;
        }
        const int64_t heads = query->ne[2];
        const float power = std::exp2(std::floor(std::log2(static_cast<float>(heads))));
        const bool is_regular = head < static_cast<int64_t>(power);
        const float base = std::exp2(-(is_regular ? most_bias : most_bias / 2) / power);
        return std::pow(base, is_regular ? head + 1.0f : 2.0f * (head - power) + 1.0f);
    }

    const ggml_tensor * op;
    const ggml_tensor * query, * key, * value, * mask;
    // Query heads to a KV head, and units that these make.
    int64_t group, parts;
    float scale, most_bias;
};

Heads Work::heads(int64_t unit) const {
    const Place at = place(unit);
    const int64_t kv_head = at.first_head / group;
    const auto from = [](const ggml_tensor * tensor, int64_t i1, int64_t i2, int64_t i3) {
        return static_cast<const char *>(tensor->data) + i1 * tensor->nb[1] + i2 * tensor->nb[2] + i3 * tensor->nb[3];
    };
    Heads heads;
    heads.count = count(unit);
    heads.key_size = key->ne[0];
    heads.value_size = value->ne[0];
    heads.query = from(query, at.token, at.first_head, at.stream);
    heads.query_stride = query->nb[2];
    heads.keys = from(key, 0, kv_head, at.stream);
    heads.key_stride = key->nb[1];
    heads.values = from(value, 0, kv_head, at.stream);
    heads.value_stride = value->nb[1];
    heads.mask = mask == nullptr ? nullptr
                                 : reinterpret_cast<const uint16_t *>(from(mask, at.token, 0, at.stream % mask->ne[3]));
    for (int h = 0; h < heads.count; h++) {
        heads.slope[h] = slope(at.first_head + h);
    }
    heads.scale = scale;
    return heads;
}

// Where each span of a token begins: at the end, where there are fewer.
void Work::find_starts(const uint16_t * mask, int32_t * starts) const {
    int64_t span = 0, count = 0;
    for (int64_t at = 0; at < cells(); at++) {
        if (mask != nullptr && mask[at] == attention::HIDDEN) {
            continue;
        }
        if (count++ % SPAN_CELLS == 0) {
            starts[span++] = static_cast<int32_t>(at);
        }
    }
    std::fill(starts + span, starts + spans(), static_cast<int32_t>(cells()));
}

// Weights are relative to the largest score: the smaller one's shrink.
void Work::join(char * whole, char * part, int count) const {
    for (int h = 0; h < count; h++) {
        auto & to = *reinterpret_cast<Seen *>(whole + h * head_bytes());
        auto & from = *reinterpret_cast<Seen *>(part + h * head_bytes());
        if (from.most == -INFINITY) {
            continue;
        }
        const float most = std::max(to.most, from.most);
        const float keep = std::exp(to.most - most), take = std::exp(from.most - most);
        to.most = most;
        to.weight = to.weight * keep + from.weight * take;
        float * sum = to.values();
        const float * more = from.values();
        for (int64_t i = 0; i < value->ne[0]; i++) {
            sum[i] = sum[i] * keep + more[i] * take;
        }
    }
}

void Work::finish(char * whole, int64_t unit, int count) const {
    const Place at = place(unit);
    for (int h = 0; h < count; h++) {
        auto & seen = *reinterpret_cast<Seen *>(whole + h * head_bytes());
        const float * sum = seen.values();
        const float share = seen.weight == 0 ? 0 : 1 / seen.weight;
        // The result's heads are its second dimension, its tokens the third.
        auto * to = reinterpret_cast<float *>(static_cast<char *>(op->data) + (at.first_head + h) * op->nb[1] +
                                              at.token * op->nb[2] + at.stream * op->nb[3]);
        for (int64_t i = 0; i < value->ne[0]; i++) {
            to[i] = sum[i] * share;
        }
    }
}

}  // namespace

bool can_attend(const ggml_tensor * op) {
    const ggml_tensor * query = op->src[0], * key = op->src[1], * value = op->src[2], * mask = op->src[3];
    float softcap;
    std::memcpy(&softcap, reinterpret_cast<const float *>(op->op_params) + 2, sizeof(softcap));
    // Vectors of any machine.
    constexpr int64_t WHOLE = 16;
    return query->type == GGML_TYPE_F32 && key->type == GGML_TYPE_F16 && value->type == GGML_TYPE_F16 &&
           (query->ne[1] < TOKENS_OF_A_TILE || query->ne[2] / key->ne[2] % MOST_HEADS == 0) &&
           key->ne[0] % WHOLE == 0 && value->ne[0] % WHOLE == 0 &&
           query->nb[0] == sizeof(float) && key->nb[0] == sizeof(uint16_t) && value->nb[0] == sizeof(uint16_t) &&
           key->ne[2] == value->ne[2] &&
           (mask == nullptr || (mask->type == GGML_TYPE_F16 && mask->ne[2] == 1)) &&
           // Sinks, and scores that are bent.
           op->src[4] == nullptr && softcap == 0;
}

size_t attention_bytes(int threads, const ggml_tensor * op) { return Work(op).bytes(threads); }

void attend(const ggml_compute_params * params, ggml_tensor * op, Attend kernel) {
    const Work work(op);
    const int64_t units = work.units(), spans = work.spans();
    const bool is_apart = work.is_apart(params->nth);
    char * scratch = static_cast<char *>(params->wdata);
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, 0);
    }
    ggml_barrier(params->threadpool);
    const auto each = [&](int64_t count, auto call) {
        for (int64_t i; (i = ggml_threadpool_chunk_add(params->threadpool, 1)) < count;) {
            call(i);
        }
    };
    if (!is_apart) {
        char * whole = scratch + 2 * params->ith * work.unit_bytes();
        char * part = whole + work.unit_bytes();
        return each(units, [&](int64_t unit) {
            const Heads heads = work.heads(unit);
            for (int64_t at = kernel(heads, 0, work.cells(), whole, work.head_bytes()); at < work.cells();) {
                at = kernel(heads, at, work.cells(), part, work.head_bytes());
                work.join(whole, part, heads.count);
            }
            work.finish(whole, unit, heads.count);
        });
    }
    auto * starts = reinterpret_cast<int32_t *>(scratch + work.parts_bytes() + params->ith * work.starts_bytes());
    int64_t of = -1;
    each(units * spans, [&](int64_t i) {
        const Heads heads = work.heads(i / spans);
        // The units of a token come one after another.
        if (const int64_t row = work.row(i / spans); row != of) {
            work.find_starts(heads.mask, starts);
            of = row;
        }
        kernel(heads, starts[i % spans], work.cells(), scratch + i * work.unit_bytes(), work.head_bytes());
    });
    ggml_barrier(params->threadpool);
    for (int64_t unit = params->ith; unit < units; unit += params->nth) {
        const int count = work.heads(unit).count;
        char * whole = scratch + unit * spans * work.unit_bytes();
        for (int64_t span = 1; span < spans; span++) {
            work.join(whole, whole + span * work.unit_bytes(), count);
        }
        work.finish(whole, unit, count);
    }
}

}  // namespace kernels
