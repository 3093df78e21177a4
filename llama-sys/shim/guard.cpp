// See guard.h.

#include "guard.h"

// By way of the folder of llama.h: the sources are no include path of their own.
#include "../src/llama-model.h"

#include <cstdio>
#include <exception>
#include <stdexcept>

namespace {

// Runs `call`; keeps the text of whatever it throws.
template <typename Call> bool guarded(guard_error * error, Call call) noexcept {
    try {
        call();
        return true;
    } catch (const std::exception & exception) {
        std::snprintf(error->text, sizeof(error->text), "%s", exception.what());
    } catch (...) {
        std::snprintf(error->text, sizeof(error->text), "an exception that is not a std::exception");
    }
    return false;
}

}  // namespace

#define GUARD_DEFINE_VALUE(TYPE, NAME, ARGUMENTS, ...)                                                                 \
    bool guard_##NAME(TYPE * result, struct guard_error * error, __VA_ARGS__) {                                        \
        return guarded(error, [&] { *result = NAME ARGUMENTS; });                                                      \
    }
#define GUARD_DEFINE_VOID(NAME, ARGUMENTS, ...)                                                                        \
    bool guard_##NAME(struct guard_error * error, __VA_ARGS__) {                                                       \
        return guarded(error, [&] { NAME ARGUMENTS; });                                                                \
    }

GUARDED_FUNCTIONS(GUARD_DEFINE_VALUE, GUARD_DEFINE_VOID)

bool guard_rank_width(int64_t * result, struct guard_error * error, const struct llama_model * model) {
    return guarded(error, [&] {
        const ggml_tensor * head = model->cls_out ? model->cls_out : model->cls;
        *result = head ? head->ne[1] : model->hparams.n_embd;
    });
}

bool guard_self_test(int32_t * result, struct guard_error * error, const char * what) {
    return guarded(error, [&] {
        *result = 0;
        throw std::runtime_error(what);
    });
}
