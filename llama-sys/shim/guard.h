/*
 * The guard: llama.cpp's functions that can throw, each callable from a language that cannot catch.
 *
 * A C++ exception that leaves a function called from Rust ends the process. Each function of the list below has a
 * twin, `guard_NAME`, that takes where to put the result, where to put the error's text, and then NAME's arguments:
 *
 *     bool guard_llama_decode(int32_t * result, struct guard_error * error,
 *                             struct llama_context * ctx, struct llama_batch batch);
 *
 * It returns true and sets *result if NAME returned; it returns false, sets error->text and leaves *result alone if
 * NAME threw. A failed GGML_ASSERT is an exception as well in the functions that load or make something (guard.cpp has
 * the list), where the compiler keeps unwind tables for C; in the others it ends the process.
 */
#pragma once

#include "llama.h"

#ifdef __cplusplus
extern "C" {
#endif

/* An exception's text, shortened to fit, always terminated. */
struct guard_error {
    char text[512];
};

/* VALUE(type of the result, function, (arguments), parameters...) */
#define GUARDED_FUNCTIONS(VALUE, VOID)                                                                                 \
    /* models */                                                                                                       \
    VALUE(struct llama_model *, llama_model_load_from_file, (path, params),                                            \
          const char * path, struct llama_model_params params)                                                         \
    VALUE(struct llama_model *, llama_model_load_from_file_ptr, (file, params),                                        \
          FILE * file, struct llama_model_params params)                                                               \
    VALUE(struct llama_model *, llama_model_load_from_splits, (paths, n_paths, params),                                \
          const char ** paths, size_t n_paths, struct llama_model_params params)                                       \
    VALUE(struct llama_model *, llama_model_init_from_user, (metadata, set_tensor_data, user_data, params),            \
          struct gguf_context * metadata, llama_model_set_tensor_data_t set_tensor_data, void * user_data,             \
          struct llama_model_params params)                                                                            \
    VOID(llama_model_save_to_file, (model, path), const struct llama_model * model, const char * path)                 \
    VOID(llama_model_free, (model), struct llama_model * model)                                                        \
    VALUE(uint32_t, llama_model_quantize, (input, output, params),                                                     \
          const char * input, const char * output, const llama_model_quantize_params * params)                         \
    VALUE(int32_t, llama_model_meta_val_str, (model, key, buf, size),                                                  \
          const struct llama_model * model, const char * key, char * buf, size_t size)                                 \
    VALUE(int32_t, llama_model_meta_key_by_index, (model, i, buf, size),                                               \
          const struct llama_model * model, int32_t i, char * buf, size_t size)                                        \
    VALUE(int32_t, llama_model_meta_val_str_by_index, (model, i, buf, size),                                           \
          const struct llama_model * model, int32_t i, char * buf, size_t size)                                        \
    VALUE(int32_t, llama_model_desc, (model, buf, size), const struct llama_model * model, char * buf, size_t size)    \
    VALUE(const char *, llama_model_chat_template, (model, name), const struct llama_model * model, const char * name) \
    VALUE(struct llama_adapter_lora *, llama_adapter_lora_init_from_file_ptr, (model, file),                           \
          struct llama_model * model, FILE * file)                                                                     \
    VOID(llama_adapter_lora_free, (adapter), struct llama_adapter_lora * adapter)                                      \
    VALUE(int32_t, llama_set_adapters_lora, (ctx, adapters, n_adapters, scales),                                       \
          struct llama_context * ctx, struct llama_adapter_lora ** adapters, size_t n_adapters, float * scales)        \
    VALUE(int32_t, llama_set_adapter_cvec, (ctx, data, len, n_embd, il_start, il_end),                                 \
          struct llama_context * ctx, const float * data, size_t len, int32_t n_embd, int32_t il_start,                \
          int32_t il_end)                                                                                              \
    /* contexts */                                                                                                     \
    VALUE(struct llama_context *, llama_init_from_model, (model, params),                                              \
          struct llama_model * model, struct llama_context_params params)                                              \
    VOID(llama_free, (ctx), struct llama_context * ctx)                                                                \
    VALUE(int32_t, llama_encode, (ctx, batch), struct llama_context * ctx, struct llama_batch batch)                   \
    VALUE(int32_t, llama_decode, (ctx, batch), struct llama_context * ctx, struct llama_batch batch)                   \
    VALUE(int32_t, llama_process, (ctx, type, batch),                                                                  \
          struct llama_context * ctx, enum llama_process_type type, struct llama_batch_ext * batch)                    \
    VOID(llama_synchronize, (ctx), struct llama_context * ctx)                                                         \
    VALUE(float *, llama_get_logits_ith, (ctx, i), struct llama_context * ctx, int32_t i)                              \
    VALUE(float *, llama_get_embeddings_ith, (ctx, i), struct llama_context * ctx, int32_t i)                          \
    VALUE(llama_token, llama_get_sampled_token_ith, (ctx, i), struct llama_context * ctx, int32_t i)                   \
    VALUE(float *, llama_get_sampled_probs_ith, (ctx, i), struct llama_context * ctx, int32_t i)                       \
    VALUE(uint32_t, llama_get_sampled_probs_count_ith, (ctx, i), struct llama_context * ctx, int32_t i)                \
    VALUE(float *, llama_get_sampled_logits_ith, (ctx, i), struct llama_context * ctx, int32_t i)                      \
    VALUE(uint32_t, llama_get_sampled_logits_count_ith, (ctx, i), struct llama_context * ctx, int32_t i)               \
    VALUE(llama_token *, llama_get_sampled_candidates_ith, (ctx, i), struct llama_context * ctx, int32_t i)            \
    VALUE(uint32_t, llama_get_sampled_candidates_count_ith, (ctx, i), struct llama_context * ctx, int32_t i)           \
    VALUE(float *, llama_get_embeddings_seq, (ctx, seq_id), struct llama_context * ctx, llama_seq_id seq_id)           \
    /* memory */                                                                                                       \
    VOID(llama_memory_clear, (mem, data), llama_memory_t mem, bool data)                                               \
    VALUE(bool, llama_memory_seq_rm, (mem, seq_id, p0, p1),                                                            \
          llama_memory_t mem, llama_seq_id seq_id, llama_pos p0, llama_pos p1)                                         \
    VOID(llama_memory_seq_cp, (mem, src, dst, p0, p1),                                                                 \
         llama_memory_t mem, llama_seq_id src, llama_seq_id dst, llama_pos p0, llama_pos p1)                           \
    VOID(llama_memory_seq_keep, (mem, seq_id), llama_memory_t mem, llama_seq_id seq_id)                                \
    VOID(llama_memory_seq_add, (mem, seq_id, p0, p1, delta),                                                           \
         llama_memory_t mem, llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos delta)                         \
    VOID(llama_memory_seq_div, (mem, seq_id, p0, p1, d),                                                               \
         llama_memory_t mem, llama_seq_id seq_id, llama_pos p0, llama_pos p1, int d)                                   \
    VALUE(llama_pos, llama_memory_seq_pos_min, (mem, seq_id), llama_memory_t mem, llama_seq_id seq_id)                 \
    VALUE(llama_pos, llama_memory_seq_pos_max, (mem, seq_id), llama_memory_t mem, llama_seq_id seq_id)                 \
    /* state */                                                                                                        \
    VALUE(size_t, llama_state_get_size, (ctx), struct llama_context * ctx)                                             \
    VALUE(size_t, llama_state_get_data, (ctx, dst, size), struct llama_context * ctx, uint8_t * dst, size_t size)      \
    VALUE(size_t, llama_state_set_data, (ctx, src, size), struct llama_context * ctx, const uint8_t * src, size_t size)\
    VALUE(size_t, llama_state_seq_get_size_ext, (ctx, seq_id, flags),                                                  \
          struct llama_context * ctx, llama_seq_id seq_id, llama_state_seq_flags flags)                                \
    VALUE(size_t, llama_state_seq_get_data_ext, (ctx, dst, size, seq_id, flags),                                       \
          struct llama_context * ctx, uint8_t * dst, size_t size, llama_seq_id seq_id, llama_state_seq_flags flags)    \
    VALUE(size_t, llama_state_seq_set_data_ext, (ctx, src, size, seq_id, flags),                                       \
          struct llama_context * ctx, const uint8_t * src, size_t size, llama_seq_id seq_id,                           \
          llama_state_seq_flags flags)                                                                                 \
    /* vocabulary and text */                                                                                          \
    VALUE(const char *, llama_vocab_get_text, (vocab, token), const struct llama_vocab * vocab, llama_token token)     \
    VALUE(float, llama_vocab_get_score, (vocab, token), const struct llama_vocab * vocab, llama_token token)           \
    VALUE(enum llama_token_attr, llama_vocab_get_attr, (vocab, token),                                                 \
          const struct llama_vocab * vocab, llama_token token)                                                         \
    VALUE(int32_t, llama_tokenize, (vocab, text, text_len, tokens, n_tokens_max, add_special, parse_special),          \
          const struct llama_vocab * vocab, const char * text, int32_t text_len, llama_token * tokens,                 \
          int32_t n_tokens_max, bool add_special, bool parse_special)                                                  \
    VALUE(int32_t, llama_token_to_piece, (vocab, token, buf, length, lstrip, special),                                 \
          const struct llama_vocab * vocab, llama_token token, char * buf, int32_t length, int32_t lstrip,             \
          bool special)                                                                                                \
    VALUE(int32_t, llama_detokenize, (vocab, tokens, n_tokens, text, text_len_max, remove_special, unparse_special),   \
          const struct llama_vocab * vocab, const llama_token * tokens, int32_t n_tokens, char * text,                 \
          int32_t text_len_max, bool remove_special, bool unparse_special)                                             \
    VALUE(int32_t, llama_chat_apply_template, (tmpl, chat, n_msg, add_ass, buf, length),                               \
          const char * tmpl, const struct llama_chat_message * chat, size_t n_msg, bool add_ass, char * buf,           \
          int32_t length)                                                                                              \
    /* sampling */                                                                                                     \
    VALUE(bool, llama_set_sampler, (ctx, seq_id, sampler),                                                             \
          struct llama_context * ctx, llama_seq_id seq_id, struct llama_sampler * sampler)                             \
    VALUE(struct llama_sampler *, llama_sampler_init, (iface, data),                                                   \
          struct llama_sampler_i * iface, llama_sampler_context_t data)                                                \
    VALUE(const char *, llama_sampler_name, (sampler), const struct llama_sampler * sampler)                           \
    VOID(llama_sampler_copy, (src, dst), const struct llama_sampler * src, struct llama_sampler * dst)                 \
    VALUE(struct llama_sampler *, llama_sampler_chain_init, (params), struct llama_sampler_chain_params params)        \
    VOID(llama_sampler_chain_add, (chain, sampler), struct llama_sampler * chain, struct llama_sampler * sampler)      \
    VALUE(struct llama_sampler *, llama_sampler_init_dist, (seed), uint32_t seed)                                      \
    VALUE(struct llama_sampler *, llama_sampler_init_top_k, (k), int32_t k)                                            \
    VALUE(struct llama_sampler *, llama_sampler_init_top_p, (p, min_keep), float p, size_t min_keep)                   \
    VALUE(struct llama_sampler *, llama_sampler_init_min_p, (p, min_keep), float p, size_t min_keep)                   \
    VALUE(struct llama_sampler *, llama_sampler_init_temp, (temperature), float temperature)                           \
    VALUE(struct llama_sampler *, llama_sampler_init_logit_bias, (n_vocab, n_biases, biases),                          \
          int32_t n_vocab, int32_t n_biases, const llama_logit_bias * biases)                                          \
    VALUE(struct llama_sampler *, llama_sampler_init_grammar, (vocab, grammar, root),                                  \
          const struct llama_vocab * vocab, const char * grammar, const char * root)                                   \
    VALUE(struct llama_sampler *, llama_sampler_init_grammar_lazy_patterns,                                            \
          (vocab, grammar, root, patterns, n_patterns, tokens, n_tokens),                                              \
          const struct llama_vocab * vocab, const char * grammar, const char * root, const char ** patterns,           \
          size_t n_patterns, const llama_token * tokens, size_t n_tokens)                                              \
    VALUE(struct llama_sampler *, llama_sampler_init_penalties, (n_vocab, last_n, repeat, freq, present),              \
          int32_t n_vocab, int32_t last_n, float repeat, float freq, float present)                                    \
    VALUE(struct llama_sampler *, llama_sampler_init_dry,                                                              \
          (vocab, multiplier, base, allowed_length, last_n, breakers, n_breakers),                                     \
          const struct llama_vocab * vocab, float multiplier, float base, int32_t allowed_length, int32_t last_n,      \
          const char ** breakers, size_t n_breakers)                                                                   \
    VOID(llama_sampler_accept, (sampler, token), struct llama_sampler * sampler, llama_token token)                    \
    VOID(llama_sampler_apply, (sampler, candidates),                                                                   \
         struct llama_sampler * sampler, llama_token_data_array * candidates)                                          \
    VOID(llama_sampler_reset, (sampler), struct llama_sampler * sampler)                                               \
    VALUE(struct llama_sampler *, llama_sampler_clone, (sampler), const struct llama_sampler * sampler)                \
    VALUE(llama_token, llama_sampler_sample, (sampler, ctx, i),                                                        \
          struct llama_sampler * sampler, struct llama_context * ctx, int32_t i)                                       \
    /* ggml */                                                                                                         \
    VOID(ggml_backend_dev_memory, (device, free, total), ggml_backend_dev_t device, size_t * free, size_t * total)     \
    VOID(ggml_backend_tensor_set, (tensor, data, offset, size),                                                        \
         struct ggml_tensor * tensor, const void * data, size_t offset, size_t size)                                   \
    /* GGUF files */                                                                                                   \
    VALUE(struct gguf_context *, gguf_init_from_file, (path, params), const char * path, struct gguf_init_params params)\
    VALUE(struct gguf_context *, gguf_init_from_file_ptr, (file, params), FILE * file, struct gguf_init_params params)

/* The same of functions without parameters, which a list of parameters cannot be empty for. */
#define GUARDED_WITHOUT_PARAMETERS(VALUE, VOID)                                                                        \
    VOID(llama_backend_init)                                                                                           \
    VALUE(const char *, llama_print_system_info)                                                                       \
    VALUE(size_t, ggml_backend_dev_count)

#define GUARD_DECLARE_VALUE(TYPE, NAME, ARGUMENTS, ...)                                                                \
    bool guard_##NAME(TYPE * result, struct guard_error * error, __VA_ARGS__);
#define GUARD_DECLARE_VOID(NAME, ARGUMENTS, ...) bool guard_##NAME(struct guard_error * error, __VA_ARGS__);
#define GUARD_DECLARE_BARE_VALUE(TYPE, NAME) bool guard_##NAME(TYPE * result, struct guard_error * error);
#define GUARD_DECLARE_BARE_VOID(NAME) bool guard_##NAME(struct guard_error * error);

GUARDED_FUNCTIONS(GUARD_DECLARE_VALUE, GUARD_DECLARE_VOID)
GUARDED_WITHOUT_PARAMETERS(GUARD_DECLARE_BARE_VALUE, GUARD_DECLARE_BARE_VOID)

/* What a context holds, bytes over all devices. */
struct guard_memory {
    uint64_t plain;   /* the model's tensors as its file has them, mapped or in memory */
    uint64_t changed; /* those that were rearranged, and those on other devices */
    uint64_t cache;   /* keys, values and states of sequences */
    uint64_t compute; /* what a computation keeps between its steps */
};

/* The sums of llama_get_memory_breakdown, which returns a C++ map. */
bool guard_llama_get_memory_breakdown(struct guard_memory * result, struct guard_error * error,
                                      const struct llama_context * ctx);

/* From now on the text of what ends the process (GGML_ASSERT, GGML_ABORT) goes to ggml's log as an error, besides to
 * standard error, before it does. */
void guard_log_aborts(void);

/* Throws on purpose, below the guard: lets a test see that an exception arrives as an error. */
bool guard_self_test(int32_t * result, struct guard_error * error, const char * what);

#ifdef __cplusplus
}
#endif
