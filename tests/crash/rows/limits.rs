//! More than a context was made for.

use batch_suite::prompt;
use fixtures::Family;
use llama_safe::{Context, Token};
use llama_sys::*;

use crate::child::wrong;
use crate::raw::{Arrays, context, context_with, decode, family, text, tiny};
use crate::row::{Group, Outcome, Row, Safe};
use crate::safe::{Setup, params, told};

pub const ROWS: &[Row] = &[
    Row {
        group: Group::Limits,
        name: "more_tokens_than_n_batch",
        done: "65 tokens are decoded, and the context was made for 64",
        functions: &["llama_decode", "llama_n_batch"],
        operation: "none: it is asserted",
        outcome: Outcome::Assertion {
            at: "llama-context.cpp:1787",
            says: "GGML_ASSERT(n_tokens_all <= cparams.n_batch) failed",
        },
        raw: more_tokens_than_n_batch,
        safe: Safe::Refused {
            error: "PushError::BatchFull { limit: 64, have: 0, adding: 65 }",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                told(context.new_batch().prompt(&sequence, &prompt(1, 65)))
            },
        },
    },
    Row {
        group: Group::Limits,
        name: "more_outputs_than_asked_for",
        done: "8 outputs are asked for, and the context was made for 4",
        functions: &["llama_decode"],
        operation: "none: it is asserted, after the buffer of outputs was replaced",
        outcome: Outcome::Assertion {
            at: "llama-context.cpp:2275",
            says: "GGML_ASSERT(n_outputs_max <= cparams.n_outputs_max) failed",
        },
        raw: more_outputs_than_asked_for,
        safe: Safe::Right {
            why: "every token of a batch may have an output",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                let slots: Vec<_> =
                    prompt(1, 64).into_iter().map(|token| batch.push_output(&sequence, token).unwrap()).collect();
                let outputs = context.decode(&mut batch).unwrap();
                let want = batch_suite::alone(context_model(&outputs), &params(), &prompt(1, 64));
                for (slot, want) in slots.into_iter().zip(want) {
                    batch_suite::assert_equal(outputs.get(slot).unwrap(), &want, 1e-6, "an output of 64");
                }
            },
        },
    },
    Row {
        group: Group::Limits,
        name: "longer_than_the_sequences_cells",
        done: "a sequence on split KV is fed until its cells are full, and its caller takes 1 for the next time",
        functions: &["llama_decode", "llama_n_ctx", "llama_n_ctx_seq"],
        operation: "none: llama_n_ctx says 512, the sequence has 256",
        outcome: Outcome::Wrong { at: "llama-context.cpp:1843" },
        raw: longer_than_the_sequences_cells,
        safe: Safe::Refused {
            error: "PushError::SequenceFull { id: SeqId { slot: 0, generation: 0 }, length: 256, adding: 1, limit: 256 }",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                for part in prompt(1, 256).chunks(64) {
                    batch.extend(&sequence, part).unwrap();
                    context.decode(&mut batch).unwrap();
                }
                told(batch.push(&sequence, Token(1)))
            },
        },
    },
    Row {
        group: Group::Limits,
        name: "no_tokens",
        done: "a batch of no tokens, after one that had some; its caller reads logits",
        functions: &["llama_decode", "llama_get_logits_ith"],
        operation: "none: -1 is returned, and the logits of the decode before are read",
        outcome: Outcome::Wrong { at: "llama-context.cpp:1720" },
        raw: no_tokens,
        safe: Safe::Refused {
            error: "DecodeError::EmptyBatch",
            on: Setup::Tiny,
            attempt: |context| {
                let mut batch = context.new_batch();
                told(context.decode(&mut batch).map(drop))
            },
        },
    },
    Row {
        group: Group::Limits,
        name: "negative_tokens",
        done: "a batch of -1 tokens",
        functions: &["llama_decode"],
        operation: "none: taken for an empty one; the logits of the decode before are read",
        outcome: Outcome::Wrong { at: "llama-context.cpp:1720" },
        raw: negative_tokens,
        safe: Safe::Unwritable { file: "batch.rs", line: "batch.n_seq_id" },
    },
    Row {
        group: Group::Limits,
        name: "more_sequences_than_a_batch_has_tokens",
        done: "a context for 8 sequences whose batch holds 4 tokens",
        functions: &["llama_init_from_model", "llama_new_context_with_model"],
        operation: "none: it is asserted",
        outcome: Outcome::Assertion {
            at: "llama-context.cpp:2275",
            says: "GGML_ASSERT(n_outputs_max <= cparams.n_outputs_max) failed",
        },
        raw: more_sequences_than_a_batch_has_tokens,
        safe: Safe::Refused {
            error: "ContextError::BatchSmallerThanSequences { batch_tokens: 4, sequences: 8 }",
            on: Setup::Tiny,
            attempt: |context| told(Context::new(context.model(), &params().sequences(8).batch_tokens(4)).map(drop)),
        },
    },
    Row {
        group: Group::Limits,
        name: "recurrent_states_in_one_token",
        done: "a token of two sequences on a recurrent model, whose states are one each",
        functions: &["llama_decode"],
        operation: "none: 1 comes back, which is said to mean that there is no room",
        outcome: Outcome::Wrong { at: "llama-memory-recurrent.cpp:457" },
        raw: recurrent_states_in_one_token,
        safe: Safe::Right {
            why: "a token is of one sequence",
            on: Setup::Of(Family::Mamba),
            attempt: |context| {
                let (one, other) = (context.new_sequence().unwrap(), context.new_sequence().unwrap());
                let mut batch = context.new_batch();
                let slots = [batch.push_output(&one, Token(3)).unwrap(), batch.push_output(&other, Token(3)).unwrap()];
                let outputs = context.decode(&mut batch).unwrap();
                let [a, b] = slots.map(|slot| outputs.get(slot).unwrap());
                batch_suite::assert_equal(a, b, 1e-6, "the same token");
            },
        },
    },
    Row {
        group: Group::Limits,
        name: "window_forgotten",
        done: "a model with a sliding window of 8 and a cache that keeps no more goes back to token 300 of 704",
        functions: &["llama_memory_seq_rm", "llama_decode", "llama_model_n_swa"],
        operation: "none: what was in the window before is gone, and the logits are computed without it",
        outcome: Outcome::Wrong { at: "llama-kv-cache-iswa.cpp:117" },
        raw: window_forgotten,
        safe: Safe::Refused {
            error: "MemoryError::CannotTruncate { id: SeqId { slot: 0, generation: 0 }, length: 300, obstacle: Forgotten { .. } }",
            on: Setup::Of(Family::Gemma),
            attempt: |context| {
                let params = params().keep_past_window(false).context_tokens(2048);
                let mut context = Context::new(context.model(), &params).unwrap();
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                for part in prompt(1, 704).chunks(64) {
                    batch.extend(&sequence, part).unwrap();
                    context.decode(&mut batch).unwrap();
                }
                told(context.truncate(&sequence, 300))
            },
        },
    },
];

/// The model of the context that outputs are of: the tiny one.
fn context_model<'a>(_: &llama_safe::Outputs<'a>) -> &'static llama_safe::Model {
    static MODEL: std::sync::OnceLock<llama_safe::Model> = std::sync::OnceLock::new();
    MODEL.get_or_init(|| batch_suite::tiny(fixtures::Weights::F32))
}

unsafe fn more_tokens_than_n_batch() {
    llama_decode(context(tiny()), Arrays::new(0, 0, &text(1, 65)).batch());
}

unsafe fn more_outputs_than_asked_for() {
    let context = context_with(tiny(), |params| params.n_outputs_max = 4);
    let mut arrays = Arrays::new(0, 0, &text(1, 8));
    arrays.logits.fill(1);
    llama_decode(context, arrays.batch());
}

unsafe fn longer_than_the_sequences_cells() {
    let context = context(tiny());
    let cells = llama_n_ctx(context);
    for first in (0..256).step_by(64) {
        decode(context, 0, first, &text(1, 64));
    }
    if cells == 512 && llama_decode(context, Arrays::new(0, 256, &[3]).batch()) == 1 {
        wrong("llama_n_ctx is 512, and after 256 tokens llama_decode returns 1");
    }
}

unsafe fn read_after(tokens: i32) {
    let context = context(tiny());
    decode(context, 0, 0, &[3, 4]);
    let mut batch = Arrays::new(0, 2, &[5]).leak();
    batch.n_tokens = tokens;
    if llama_decode(context, batch) == -1 && !llama_get_logits_ith(context, -1).is_null() {
        wrong("llama_decode returned -1, and index -1 has the logits of the decode before");
    }
}

unsafe fn no_tokens() {
    read_after(0);
}

unsafe fn negative_tokens() {
    read_after(-1);
}

unsafe fn more_sequences_than_a_batch_has_tokens() {
    context_with(tiny(), |params| {
        params.n_seq_max = 8;
        params.n_batch = 4;
    });
}

unsafe fn recurrent_states_in_one_token() {
    let context = context(family(Family::Mamba));
    let mut arrays = Arrays::new(0, 0, &[3]);
    arrays.n_seq_id[0] = 2;
    arrays.ids[0] = Box::new([0, 1]);
    arrays.seq_id[0] = arrays.ids[0].as_mut_ptr();
    let result = llama_decode(context, arrays.batch());
    if result == 0 {
        decode(context, 0, 1, &[4]);
        let last = llama_memory_seq_pos_max(llama_get_memory(context), 1);
        wrong(&format!("llama_decode returns 0; sequence 1 ends at {last}"));
    }
    if result == 1 {
        wrong("llama_decode returns 1, could not find a KV slot, in an empty context");
    }
}

unsafe fn window_forgotten() {
    let model = family(Family::Gemma);
    let make = |full| {
        context_with(model, |params| {
            params.n_ctx = 2048;
            params.swa_full = full;
        })
    };
    let (small, full) = (make(false), make(true));
    let tokens = text(1, 704);
    for (first, part) in (0..).step_by(64).zip(tokens.chunks(64)) {
        decode(small, 0, first, part);
        decode(full, 0, first, part);
    }
    let gone_back = |context: *mut llama_context| {
        let removed = llama_memory_seq_rm(llama_get_memory(context), 0, 300, -1);
        if !removed || llama_decode(context, Arrays::new(0, 300, &[7]).batch()) != 0 {
            std::process::exit(0);
        }
        crate::raw::logits(context, -1)
    };
    let what = "llama_memory_seq_rm says true, llama_decode returns 0, and the logits differ";
    crate::raw::wrong_if_different(&gone_back(small), &gone_back(full), what);
}
