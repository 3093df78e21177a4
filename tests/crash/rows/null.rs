//! Functions that are asked about nothing: the NULL that a refused load or a refused context returned.

use std::ptr;

use llama_sys::*;

use crate::row::{Group, Outcome, Row, Safe};

/// A function that reads through the NULL that it is given.
macro_rules! of_null {
    ($name:ident $(, $twin:literal)*; $file:literal, $argument:ty $(, $more:expr)*) => {
        Row {
            group: Group::Handles,
            name: concat!("null_", stringify!($name)),
            done: concat!("the NULL that a refused call returned is given to ", stringify!($name)),
            functions: &[stringify!($name) $(, $twin)*],
            operation: "read through NULL, or a little above it",
            outcome: Outcome::Segfault { at: "its own first lines" },
            raw: {
                unsafe fn raw() {
                    $name(ptr::null_mut::<$argument>().cast() $(, $more)*);
                }
                raw
            },
            safe: Safe::Unwritable { file: $file, line: "handle.into()" },
        }
    };
}

pub const ROWS: &[Row] = &[
    of_null!(llama_model_n_ctx_train, "llama_n_ctx_train"; "model/mod.rs", llama_model),
    of_null!(llama_model_n_embd, "llama_n_embd"; "model/mod.rs", llama_model),
    of_null!(llama_model_n_embd_inp; "model/mod.rs", llama_model),
    of_null!(llama_model_n_embd_out; "model/mod.rs", llama_model),
    of_null!(llama_model_n_layer, "llama_n_layer"; "model/mod.rs", llama_model),
    of_null!(llama_model_n_layer_nextn; "model/mod.rs", llama_model),
    of_null!(llama_model_n_head, "llama_n_head"; "model/mod.rs", llama_model),
    of_null!(llama_model_n_head_kv; "model/mod.rs", llama_model),
    of_null!(llama_model_rope_type; "model/mod.rs", llama_model),
    of_null!(llama_model_rope_freq_scale_train; "model/mod.rs", llama_model),
    of_null!(llama_model_meta_count; "model/mod.rs", llama_model),
    of_null!(llama_model_ftype; "model/mod.rs", llama_model),
    of_null!(llama_model_size; "model/mod.rs", llama_model),
    of_null!(llama_model_n_params; "model/mod.rs", llama_model),
    of_null!(llama_model_is_diffusion; "model/mod.rs", llama_model),
    of_null!(llama_get_model; "context.rs", llama_context),
    of_null!(llama_n_threads; "context.rs", llama_context),
    of_null!(llama_n_threads_batch; "context.rs", llama_context),
    of_null!(llama_synchronize; "context.rs", llama_context),
    of_null!(llama_get_sampled_probs_count_ith; "context.rs", llama_context, 0),
    of_null!(llama_get_sampled_logits_count_ith; "context.rs", llama_context, 0),
    of_null!(llama_get_sampled_candidates_count_ith; "context.rs", llama_context, 0),
    of_null!(llama_set_warmup; "context.rs", llama_context, true),
    of_null!(llama_vocab_is_eog, "llama_token_is_eog"; "model/mod.rs", llama_vocab, 3),
    of_null!(llama_vocab_eos, "llama_token_eos"; "model/mod.rs", llama_vocab),
    of_null!(llama_vocab_eot, "llama_token_eot"; "model/mod.rs", llama_vocab),
    of_null!(llama_vocab_sep, "llama_token_sep"; "model/mod.rs", llama_vocab),
    of_null!(llama_vocab_nl, "llama_token_nl"; "model/mod.rs", llama_vocab),
    of_null!(llama_vocab_pad, "llama_token_pad"; "model/mod.rs", llama_vocab),
    of_null!(llama_vocab_mask; "model/mod.rs", llama_vocab),
    of_null!(llama_vocab_cls, "llama_token_cls"; "model/mod.rs", llama_vocab),
    of_null!(llama_vocab_get_add_eos, "llama_add_eos_token"; "model/mod.rs", llama_vocab),
    of_null!(llama_vocab_get_add_sep; "model/mod.rs", llama_vocab),
    of_null!(llama_vocab_fim_pre, "llama_token_fim_pre"; "model/mod.rs", llama_vocab),
    of_null!(llama_vocab_fim_suf, "llama_token_fim_suf"; "model/mod.rs", llama_vocab),
    of_null!(llama_vocab_fim_mid, "llama_token_fim_mid"; "model/mod.rs", llama_vocab),
    of_null!(llama_vocab_fim_pad, "llama_token_fim_pad"; "model/mod.rs", llama_vocab),
    of_null!(llama_vocab_fim_rep, "llama_token_fim_rep"; "model/mod.rs", llama_vocab),
    of_null!(llama_vocab_fim_sep, "llama_token_fim_sep"; "model/mod.rs", llama_vocab),
];
