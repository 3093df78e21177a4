//! What a context is asked to be.

use fixtures::{Family, Llama, Weights};
use llama_safe::{Context, Model, ModelParams};
use llama_sys::*;

use crate::child::wrong;
use crate::raw::{Arrays, context, context_with, decode, family, logits, model_with, text, tiny, wrong_if_different};
use crate::row::{Group, Outcome, Row, Safe};
use crate::safe::{Setup, params, told};

/// A parameter is a Rust enum, and there are no others.
const NO_NUMBER: Safe = Safe::Unwritable { file: "params.rs", line: "params.pooling(77)" };

/// What llama.cpp has and the safe layer has not.
const NOT_THERE: Safe = Safe::Unwritable { file: "params.rs", line: "params.rope_freq_base(f32::NAN)" };

pub const ROWS: &[Row] = &[
    Row {
        group: Group::Contexts,
        name: "no_batch_tokens",
        done: "a context whose batch holds no token",
        functions: &["llama_init_from_model", "llama_context_default_params"],
        operation: "none: it is asserted",
        outcome: Outcome::Assertion {
            at: "llama-context.cpp:2275",
            says: "GGML_ASSERT(n_outputs_max <= cparams.n_outputs_max) failed",
        },
        raw: no_batch_tokens,
        safe: Safe::Refused {
            error: "ContextError::BatchTokensZero",
            on: Setup::Tiny,
            attempt: |context| told(Context::new(context.model(), &params().batch_tokens(0)).map(drop)),
        },
    },
    Row {
        group: Group::Contexts,
        name: "without_weights",
        done: "a model that was loaded for its vocabulary alone is computed with",
        functions: &["llama_decode", "llama_init_from_model"],
        operation: "none: it is asserted that something was reserved to compute with",
        outcome: Outcome::Assertion { at: "ggml-backend.cpp:2011", says: "GGML_ASSERT(n_backends > 0) failed" },
        raw: without_weights,
        safe: Safe::Refused {
            error: "ContextError::VocabularyOnly",
            on: Setup::Tiny,
            attempt: |_| {
                let gguf = Llama::tiny().gguf(Weights::F32, 1).unwrap();
                let model = Model::from_bytes(&gguf, &ModelParams::default().vocab_only(true)).unwrap();
                told(Context::new(&model, &params()).map(drop))
            },
        },
    },
    Row {
        group: Group::Contexts,
        name: "too_many_threads",
        done: "a context that computes with 100,000 threads",
        functions: &["llama_decode", "llama_init_from_model"],
        operation: "none: the system makes no more threads, and it is asserted that it does",
        outcome: Outcome::Assertion { at: "ggml-cpu.c:3370", says: "GGML_ASSERT(rc == 0) failed" },
        raw: too_many_threads,
        safe: threads_refused("ContextError::ThreadsOutOfRange { got: 100000, max: 512 }", |context| {
            told(Context::new(context.model(), &params().threads(100_000)).map(drop))
        }),
    },
    Row {
        group: Group::Contexts,
        name: "pooling_of_no_kind",
        done: "a pooling that is none, 77",
        functions: &["llama_init_from_model", "llama_pooling_type"],
        operation: "none: it ends the process",
        outcome: Outcome::Assertion { at: "llama-graph.cpp:3887", says: "unknown pooling type" },
        raw: pooling_of_no_kind,
        safe: NO_NUMBER,
    },
    Row {
        group: Group::Contexts,
        name: "keys_of_no_type",
        done: "a number type for keys that is none, 999",
        functions: &["llama_init_from_model"],
        operation: "none: it is asserted",
        outcome: Outcome::Assertion {
            at: "ggml.c:1774",
            says: "GGML_ASSERT(type >= 0 && type < GGML_TYPE_COUNT) failed",
        },
        raw: keys_of_no_type,
        safe: NO_NUMBER,
    },
    Row {
        group: Group::Contexts,
        name: "keys_of_integers",
        done: "keys of 32-bit integers",
        functions: &["llama_init_from_model"],
        operation: "call through NULL: no kernel turns numbers into this type",
        outcome: Outcome::Segfault { at: "ggml-cpu/ops.cpp:5505" },
        raw: keys_of_integers,
        safe: NO_NUMBER,
    },
    Row {
        group: Group::Contexts,
        name: "keys_of_wide_blocks",
        done: "keys quantised in blocks of 256, of heads of 16",
        functions: &["llama_init_from_model"],
        operation: "none: it is asserted, of a view beyond the cache",
        outcome: Outcome::Assertion {
            at: "ggml.c:1797",
            says: "GGML_ASSERT(view_src == NULL || data_size == 0 || data_size + view_offs <= ggml_nbytes(view_src)) failed",
        },
        raw: keys_of_wide_blocks,
        safe: NO_NUMBER,
    },
    Row {
        group: Group::Contexts,
        name: "flash_attention_of_no_kind",
        done: "the name of a kind of fused attention that is none, 7",
        functions: &["llama_flash_attn_type_name"],
        operation: "none: it ends the process",
        outcome: Outcome::Assertion { at: "llama.cpp:47", says: "fatal error" },
        raw: flash_attention_of_no_kind,
        safe: NO_NUMBER,
    },
    Row {
        group: Group::Contexts,
        name: "rotation_not_a_number",
        done: "a base of positions that is NaN",
        functions: &["llama_decode", "llama_init_from_model"],
        operation: "none: every angle is NaN, and llama_decode returns 0",
        outcome: Outcome::Wrong { at: "llama-context.cpp:136" },
        raw: rotation_not_a_number,
        safe: NOT_THERE,
    },
    Row {
        group: Group::Contexts,
        name: "training_without_set_up",
        done: "an epoch of training on a context that llama_opt_init has not prepared",
        functions: &["llama_opt_epoch", "llama_opt_init", "llama_opt_param_filter_all"],
        operation: "none: it is asserted",
        outcome: Outcome::Assertion { at: "llama-context.cpp:3601", says: "GGML_ASSERT(opt_ctx) failed" },
        raw: training_without_set_up,
        safe: Safe::Unwritable { file: "context.rs", line: "context.opt_epoch()" },
    },
    Row {
        group: Group::Contexts,
        name: "state_kept_for_rollback_in_a_small_batch",
        done: "a recurrent model is asked to keep 100 states for going back, with micro-batches of 8",
        functions: &["llama_decode", "llama_n_rs_seq"],
        operation: "none: it is asserted",
        outcome: Outcome::Assertion { at: "llama-batch.cpp:702", says: "GGML_ASSERT(n_ubatch > n_keep_tail) failed" },
        raw: state_kept_for_rollback,
        safe: Safe::Refused {
            error: "ContextError::RollbackOutOfRange { .. }",
            on: Setup::Of(Family::Hybrid),
            attempt: |context| {
                told(Context::new(context.model(), &params().micro_batch_tokens(8).rollback_tokens(100)).map(drop))
            },
        },
    },
    Row {
        group: Group::Contexts,
        name: "asked_for_as_much_as_it_says",
        done: "a context of 100 cells for 3 sequences, whose caller counts on 100",
        functions: &["llama_n_ctx", "llama_init_from_model"],
        operation: "none: the number is rounded, and the context has another than was asked for",
        outcome: Outcome::Wrong { at: "llama-context.cpp:305" },
        raw: asked_for_as_much_as_it_says,
        safe: Safe::Right {
            why: "Limits has what came of it, and a sequence that is full says so",
            on: Setup::Tiny,
            attempt: |context| {
                let context = Context::new(context.model(), &params().sequences(3).context_tokens(100)).unwrap();
                assert_eq!(context.limits().context_tokens(), 3 * context.limits().sequence_tokens());
            },
        },
    },
    Row {
        group: Group::Contexts,
        name: "encoder_decoder_on_split_caches",
        done: "an encoder-decoder with two sequences on split KV",
        functions: &["llama_init_from_model", "llama_encode"],
        operation: "none: it is asserted",
        outcome: Outcome::Assertion { at: "ggml.c:2072", says: "GGML_ASSERT(ggml_can_repeat(b, a)) failed" },
        raw: encoder_decoder_on_split_caches,
        safe: Safe::Right {
            why: "unified KV is taken for encoder-decoders",
            on: Setup::Of(Family::T5),
            attempt: |context| assert_eq!(context.limits().kv_layout(), llama_safe::KvLayout::Unified),
        },
    },
    Row {
        group: Group::Contexts,
        name: "encoder_decoder_pooled",
        done: "an encoder-decoder whose encoder pools",
        functions: &["llama_decode", "llama_encode"],
        operation: "none: the decoder sees one row in the place of one for each token of the text",
        outcome: Outcome::Wrong { at: "llama-context.cpp:1556" },
        raw: encoder_decoder_pooled,
        safe: Safe::Refused {
            error: "ContextError::PooledEncoder",
            on: Setup::Of(Family::T5),
            attempt: |context| {
                let params = params().embeddings(true).pooling(llama_safe::Pooling::Mean);
                told(Context::new(context.model(), &params).map(drop))
            },
        },
    },
];

const fn threads_refused(error: &'static str, attempt: fn(&mut Context) -> String) -> Safe {
    Safe::Refused { error, on: Setup::Tiny, attempt }
}

/// Makes a context and computes three tokens with it.
unsafe fn computes(context: *mut llama_context) {
    llama_decode(context, Arrays::new(0, 0, &[3, 4, 5]).batch());
}

unsafe fn no_batch_tokens() {
    context_with(tiny(), |params| params.n_batch = 0);
}

unsafe fn without_weights() {
    let gguf = Llama::tiny().gguf(Weights::F32, 1).expect("a shape that holds together");
    computes(context(model_with(&gguf, |params| params.vocab_only = true)));
}

unsafe fn too_many_threads() {
    computes(context_with(tiny(), |params| {
        params.n_threads = 100_000;
        params.n_threads_batch = 100_000;
    }));
}

unsafe fn pooling_of_no_kind() {
    let context = context_with(tiny(), |params| {
        params.pooling_type = 77;
        params.embeddings = true;
    });
    computes(context);
}

unsafe fn keys_of_no_type() {
    computes(context_with(tiny(), |params| params.type_k = 999));
}

unsafe fn keys_of_integers() {
    computes(context_with(tiny(), |params| params.type_k = GGML_TYPE_I32));
}

unsafe fn keys_of_wide_blocks() {
    computes(context_with(tiny(), |params| params.type_k = GGML_TYPE_Q4_K));
}

unsafe fn flash_attention_of_no_kind() {
    llama_flash_attn_type_name(7);
}

unsafe fn rotation_not_a_number() {
    let context = context_with(tiny(), |params| params.rope_freq_base = f32::NAN);
    decode(context, 0, 0, &text(1, 5));
    if logits(context, -1).iter().all(|logit| logit.is_nan()) {
        wrong("llama_decode returns 0, and every logit is NaN");
    }
}

unsafe fn training_without_set_up() {
    let context = context(tiny());
    let data = ggml_opt_dataset_init(GGML_TYPE_I32, GGML_TYPE_I32, 512, 512, 1, 1);
    let result = ggml_opt_result_init();
    llama_opt_epoch(context, data, result, result, 1, None, None);
}

unsafe fn state_kept_for_rollback() {
    let context = context_with(family(Family::Hybrid), |params| {
        params.n_rs_seq = 100;
        params.n_ubatch = 8;
    });
    decode(context, 0, 0, &text(1, 40));
    let memory = llama_get_memory(context);
    llama_memory_seq_rm(memory, 0, 10, -1);
    llama_decode(context, Arrays::new(0, 10, &[7]).batch());
}

unsafe fn asked_for_as_much_as_it_says() {
    let context = context_with(tiny(), |params| {
        params.n_ctx = 100;
        params.n_seq_max = 3;
    });
    let cells = llama_n_ctx(context);
    if cells != 100 {
        wrong(&format!("asked for 100, and llama_n_ctx is {cells}"));
    }
}

unsafe fn encoder_decoder_on_split_caches() {
    let context = context(family(Family::T5));
    let mut texts = Arrays::new(0, 0, &text(1, 5));
    texts.add(1, 0, &text(2, 5));
    llama_encode(context, texts.batch());
    let mut arrays = Arrays::new(0, 0, &[3]);
    arrays.add(1, 0, &[3]);
    llama_decode(context, arrays.batch());
}

unsafe fn encoder_decoder_pooled() {
    let decoded = |pooling| {
        let context = context_with(family(Family::T5), |params| {
            params.kv_unified = true;
            params.embeddings = pooling != LLAMA_POOLING_TYPE_NONE;
            params.pooling_type = pooling;
        });
        llama_encode(context, Arrays::new(0, 0, &text(1, 5)).batch());
        decode(context, 0, 0, &[3]);
        logits(context, -1)
    };
    let what = "llama_decode returns 0, and the logits differ";
    wrong_if_different(&decoded(LLAMA_POOLING_TYPE_MEAN), &decoded(LLAMA_POOLING_TYPE_NONE), what);
}
