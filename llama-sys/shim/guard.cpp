// See guard.h.

#include "guard.h"

#include <atomic>
#include <cstdio>
#include <exception>
#include <initializer_list>
#include <mutex>
#include <stdexcept>
#include <string_view>

#include "ggml-backend.h"
#include "ggml.h"
#include "llama-ext.h"

namespace {

// The functions that make or write something, or only read: a failed GGML_ASSERT in them becomes an exception, since what
// they leave half-done is thrown away. In the others it ends the process, as it does without the guard: they change
// something that exists, and would leave it in pieces.
constexpr bool starts_afresh(std::string_view name) {
    for (std::string_view one : {
             "llama_model_load_from_file",
             "llama_model_load_from_file_ptr",
             "llama_model_load_from_splits",
             "llama_model_init_from_user",
             "llama_model_save_to_file",
             "llama_model_quantize",
             "llama_adapter_lora_init",
             "llama_init_from_model",
             "llama_tokenize",
             "llama_token_to_piece",
             "llama_detokenize",
         }) {
        if (one == name) {
            return true;
        }
    }
    return false;
}

// Whether this thread is in such a function.
thread_local bool fresh = false;
ggml_abort_callback_t previous = nullptr;
std::atomic<bool> logs_aborts = false;

// Whoever reads the log learns what ended the process. Nothing may throw here: there may be nobody to catch it.
void log_abort(const char * message) noexcept {
    ggml_log_callback log = nullptr;
    void * user_data = nullptr;
    ggml_log_get(&log, &user_data);
    if (log == nullptr) {
        return;
    }
    log(GGML_LOG_LEVEL_ERROR, message, user_data);
    log(GGML_LOG_LEVEL_CONT, "\n", user_data);
}

// Called by a failed GGML_ASSERT, just before it ends the process. Throwing from here passes through C functions, for
// which GCC and Clang keep unwind tables on the platforms of this crate; where there are none, std::terminate ends the
// process as ggml would have.
void on_abort(const char * message) {
#ifndef _MSC_VER
    if (fresh) {
        throw std::runtime_error(message);
    }
#endif
    if (logs_aborts) {
        log_abort(message);
    }
    if (previous != nullptr) {
        previous(message);
    } else {
        std::fprintf(stderr, "%s\n", message);
    }
}

// Has ggml call `on_abort`, once.
void install() {
    static std::once_flag once;
    std::call_once(once, [] { previous = ggml_set_abort_callback(on_abort); });
}

// Marks this thread for as long as it lives.
class Fresh {
public:
    explicit Fresh(bool yes) : before(fresh) {
        if (yes) {
            install();
        }
        fresh = yes;
    }
    ~Fresh() { fresh = before; }
    Fresh(const Fresh &) = delete;
    Fresh & operator=(const Fresh &) = delete;

private:
    bool before;
};

// Runs `call`; keeps the text of whatever it throws.
template <typename Call> bool guarded(guard_error * error, bool starts_afresh, Call call) noexcept {
    try {
        const Fresh mark(starts_afresh);
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
        return guarded(error, starts_afresh(#NAME), [&] { *result = NAME ARGUMENTS; });                                \
    }
#define GUARD_DEFINE_VOID(NAME, ARGUMENTS, ...)                                                                        \
    bool guard_##NAME(struct guard_error * error, __VA_ARGS__) {                                                       \
        return guarded(error, starts_afresh(#NAME), [&] { NAME ARGUMENTS; });                                          \
    }
#define GUARD_DEFINE_BARE_VALUE(TYPE, NAME)                                                                            \
    bool guard_##NAME(TYPE * result, struct guard_error * error) {                                                     \
        return guarded(error, starts_afresh(#NAME), [&] { *result = NAME(); });                                        \
    }
#define GUARD_DEFINE_BARE_VOID(NAME)                                                                                   \
    bool guard_##NAME(struct guard_error * error) {                                                                    \
        return guarded(error, starts_afresh(#NAME), [&] { NAME(); });                                                  \
    }

GUARDED_FUNCTIONS(GUARD_DEFINE_VALUE, GUARD_DEFINE_VOID)
GUARDED_WITHOUT_PARAMETERS(GUARD_DEFINE_BARE_VALUE, GUARD_DEFINE_BARE_VOID)

bool guard_llama_get_memory_breakdown(guard_memory * result, guard_error * error, const llama_context * ctx) {
    return guarded(error, false, [&] {
        guard_memory sums = {};
        for (const auto & [type, bytes] : llama_get_memory_breakdown(ctx)) {
            // A mapped range has a type of its own, which only its name tells (ggml-backend.cpp:2646).
            const std::string_view name = ggml_backend_buft_name(type);
            const bool plain = type == ggml_backend_cpu_buffer_type() || name == "CPU_Mapped";
            (plain ? sums.plain : sums.changed) += bytes.model;
            sums.cache += bytes.context;
            sums.compute += bytes.compute;
        }
        *result = sums;
    });
}

void guard_log_aborts(void) {
    logs_aborts = true;
    install();
}

bool guard_self_test(int32_t * result, struct guard_error * error, const char * what) {
    return guarded(error, false, [&] {
        *result = 0;
        throw std::runtime_error(what);
    });
}
