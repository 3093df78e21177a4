//! What is read after a decode.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use batch_suite::prompt;
use llama_safe::{Context, DecodeError, Pooling, Token};
use llama_sys::*;

use crate::child::wrong;
use crate::raw::{Arrays, alone, context, context_with, decode, encoder, logits, read, text, tiny, wrong_if_different};
use crate::row::{Group, Outcome, Row, Safe};
use crate::safe::{Setup, params, told};

pub const ROWS: &[Row] = &[
    Row {
        group: Group::Outputs,
        name: "after_a_failed_decode",
        done: "logits are read after a decode that returned -1",
        functions: &["llama_get_logits_ith", "llama_decode"],
        operation: "none: the buffer still holds the numbers of the decode before",
        outcome: Outcome::Wrong { at: "llama-context.cpp:1770" },
        raw: after_a_failed_decode,
        safe: Safe::Refused {
            error: "None",
            on: Setup::Unified,
            attempt: |context| {
                let (one, other) = (context.new_sequence().unwrap(), context.new_sequence().unwrap());
                let mut batch = context.new_batch();
                for _ in 0..8 {
                    batch.prompt(&one, &prompt(1, 60)).unwrap();
                    context.decode(&mut batch).unwrap();
                }
                batch.prompt(&other, &prompt(2, 60)).unwrap();
                assert_eq!(
                    context.decode(&mut batch).unwrap_err(),
                    DecodeError::NoSlot { tokens: 60, context_tokens: 512 }
                );
                format!("{:?}", context.outputs().map(drop))
            },
        },
    },
    Row {
        group: Group::Outputs,
        name: "through_an_old_index",
        done: "the index of an output is kept over the next decode",
        functions: &["llama_get_logits_ith"],
        operation: "none: the index means another token now",
        outcome: Outcome::Wrong { at: "llama-context.cpp:2102" },
        raw: through_an_old_index,
        safe: Safe::Refused {
            error: "OutputError::OtherDecode",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                let old = batch.push_output(&sequence, Token(1)).unwrap();
                context.decode(&mut batch).unwrap();
                batch.push_output(&sequence, Token(2)).unwrap();
                told(context.decode(&mut batch).unwrap().get(old))
            },
        },
    },
    Row {
        group: Group::Outputs,
        name: "pointer_kept_over_a_larger_decode",
        done: "the pointer to logits is kept over a decode with more outputs",
        functions: &["llama_get_logits", "llama_decode"],
        operation: "use after free: the buffer is replaced by a larger one",
        outcome: Outcome::Wrong { at: "llama-context.cpp:2187" },
        raw: pointer_kept_over_a_larger_decode,
        safe: Safe::Unwritable { file: "outputs.rs", line: "first.len();" },
    },
    Row {
        group: Group::Outputs,
        name: "pointer_kept_over_the_next_decode",
        done: "the pointer to logits is kept over a decode of the same size",
        functions: &["llama_get_logits_ith", "llama_decode"],
        operation: "none: the numbers behind it are those of the next decode",
        outcome: Outcome::Wrong { at: "llama-context.cpp:2216" },
        raw: pointer_kept_over_the_next_decode,
        safe: Safe::Unwritable { file: "outputs.rs", line: "first.len();" },
    },
    Row {
        group: Group::Outputs,
        name: "pointer_kept_past_the_context",
        done: "the pointer to logits is read after llama_free",
        functions: &["llama_get_logits_ith", "llama_free"],
        operation: "use after free",
        outcome: Outcome::Wrong { at: "llama-context.cpp:2203" },
        raw: pointer_kept_past_the_context,
        safe: Safe::Unwritable { file: "outputs.rs", line: "drop(context);" },
    },
    Row {
        group: Group::Outputs,
        name: "without_output",
        done: "the logits of a token that has no output are read",
        functions: &["llama_get_logits_ith"],
        operation: "read through the NULL that llama_get_logits_ith returns",
        outcome: Outcome::Segfault { at: "the caller" },
        raw: without_output,
        safe: Safe::Unwritable { file: "outputs.rs", line: "outputs.get(0)" },
    },
    Row {
        group: Group::Outputs,
        name: "before_any_decode",
        done: "logits are read of a fresh context",
        functions: &["llama_get_logits_ith"],
        operation: "read through the NULL that llama_get_logits_ith returns",
        outcome: Outcome::Segfault { at: "the caller" },
        raw: before_any_decode,
        safe: Safe::Refused {
            error: "None",
            on: Setup::Tiny,
            attempt: |context| format!("{:?}", context.outputs().map(drop)),
        },
    },
    Row {
        group: Group::Outputs,
        name: "all_rows_by_the_batchs_index",
        done: "llama_get_logits is indexed by the token's place in the batch, where only the last token has an output",
        functions: &["llama_get_logits"],
        operation: "out-of-bounds read: there is one row, and the eighth is read",
        outcome: Outcome::Wrong { at: "llama-context.cpp:2102" },
        raw: all_rows_by_the_batchs_index,
        safe: Safe::Unwritable { file: "outputs.rs", line: "outputs.get(0)" },
    },
    Row {
        group: Group::Outputs,
        name: "last_after_an_abort",
        done: "index -1 is read after a decode that was stopped in its second micro-batch",
        functions: &["llama_get_logits_ith", "llama_decode", "llama_set_abort_callback"],
        operation: "none: index -1 is a token of the first micro-batch",
        outcome: Outcome::Wrong { at: "llama-context.cpp:1919" },
        raw: last_after_an_abort,
        safe: Safe::Refused {
            error: "DecodeError::Aborted { damaged: [] }",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.prompt(&sequence, &prompt(1, 8)).unwrap();
                let handle = context.abort_handle();
                handle.abort();
                let error = told(context.decode(&mut batch).map(drop));
                assert!(context.outputs().is_none(), "none are handed out");
                handle.reset();
                error
            },
        },
    },
    Row {
        group: Group::Outputs,
        name: "embeddings_of_a_context_without",
        done: "embeddings are read of a context that was not asked for any",
        functions: &["llama_get_embeddings_ith", "llama_get_embeddings"],
        operation: "read through NULL",
        outcome: Outcome::Segfault { at: "the caller" },
        raw: embeddings_of_a_context_without,
        safe: Safe::Refused {
            error: "OutputError::NoEmbeddings",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                let slot = batch.push_output(&sequence, Token(1)).unwrap();
                told(context.decode(&mut batch).unwrap().embedding(slot))
            },
        },
    },
    Row {
        group: Group::Outputs,
        name: "pooled_of_a_sequence_not_in_the_batch",
        done: "the pooled embedding of a sequence that the batch did not hold is read",
        functions: &["llama_get_embeddings_seq"],
        operation: "read through NULL",
        outcome: Outcome::Segfault { at: "the caller" },
        raw: pooled_of_a_sequence_not_in_the_batch,
        safe: Safe::Refused {
            error: "OutputError::SequenceNotInBatch { id: SeqId { slot: 1, generation: 0 } }",
            on: Setup::Encoder,
            attempt: |context| {
                let (held, idle) = (context.new_sequence().unwrap(), context.new_sequence().unwrap());
                let mut batch = context.new_batch();
                batch.prompt(&held, &prompt(1, 4)).unwrap();
                told(context.encode(&mut batch).unwrap().sequence_embedding(&idle))
            },
        },
    },
    Row {
        group: Group::Outputs,
        name: "pooled_over_two_micro_batches",
        done: "a text of 8 tokens is pooled by its mean, in micro-batches of 4",
        functions: &["llama_get_embeddings_seq", "llama_decode", "llama_set_embeddings"],
        operation: "none: what comes out is the mean of the last 4",
        outcome: Outcome::Wrong { at: "llama-context.cpp:1973" },
        raw: pooled_over_two_micro_batches,
        safe: Safe::Refused {
            error: "PushError::BatchFull { limit: 4, have: 0, adding: 8 }",
            on: Setup::Tiny,
            attempt: |context| {
                let pooled = params().embeddings(true).pooling(Pooling::Mean).micro_batch_tokens(4);
                let mut context = Context::new(context.model(), &pooled).unwrap();
                let sequence = context.new_sequence().unwrap();
                told(context.new_batch().prompt(&sequence, &prompt(1, 8)))
            },
        },
    },
    Row {
        group: Group::Outputs,
        name: "pooled_over_two_decodes",
        done: "a text is pooled by its mean, half of it computed before",
        functions: &["llama_get_embeddings_seq", "llama_decode"],
        operation: "none: what comes out is the mean of the second half",
        outcome: Outcome::Wrong { at: "llama-context.cpp:1973" },
        raw: pooled_over_two_decodes,
        safe: Safe::Refused {
            error: "PushError::PooledAcrossDecodes { id: SeqId { slot: 0, generation: 0 }, length: 4 }",
            on: Setup::Tiny,
            attempt: |context| {
                let pooled = params().embeddings(true).pooling(Pooling::Mean);
                let mut context = Context::new(context.model(), &pooled).unwrap();
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.prompt(&sequence, &prompt(1, 4)).unwrap();
                context.decode(&mut batch).unwrap();
                told(batch.push(&sequence, Token(1)))
            },
        },
    },
    Row {
        group: Group::Outputs,
        name: "scores_of_no_reranker",
        done: "a decoder without a head for scores is asked for the scores of two texts",
        functions: &["llama_get_embeddings_seq", "llama_model_n_cls_out", "llama_model_cls_label"],
        operation: "none: rows of the model's width are taken for rows of one number, the second score from the first row",
        outcome: Outcome::Wrong { at: "llama-context.cpp:1992" },
        raw: scores_of_no_reranker,
        safe: Safe::Refused {
            error: "ContextError::NotReranker",
            on: Setup::Tiny,
            attempt: |context| {
                let params = params().embeddings(true).pooling(Pooling::Rank);
                told(Context::new(context.model(), &params).map(drop))
            },
        },
    },
    Row {
        group: Group::Outputs,
        name: "pointer_over_set_embeddings",
        done: "llama_set_embeddings is switched off, and the embeddings of the next decode are read through the old pointer",
        functions: &["llama_set_embeddings", "llama_get_embeddings_ith"],
        operation: "none: the numbers of the decode before are still there",
        outcome: Outcome::Wrong { at: "llama-context.cpp:1932" },
        raw: pointer_over_set_embeddings,
        safe: Safe::Unwritable { file: "outputs.rs", line: "first.len();" },
    },
];

unsafe fn after_a_failed_decode() {
    let context = context(tiny());
    decode(context, 0, 0, &[3, 4, 5]);
    let before = logits(context, -1);
    if llama_decode(context, Arrays::new(0, 9, &[6]).batch()) == -1 && logits(context, -1) == before {
        wrong("llama_decode returned -1, and index -1 has the logits of the decode before");
    }
}

unsafe fn through_an_old_index() {
    let context = context(tiny());
    decode(context, 0, 0, &[3, 4, 5]);
    let before = logits(context, 2);
    decode(context, 0, 3, &[6, 7, 8]);
    wrong_if_different(&logits(context, 2), &before, "index 2 has other logits now");
}

unsafe fn pointer_kept_over_a_larger_decode() {
    // Large enough for the allocator to give the buffer back to the system would be a crash; smaller, it is reused.
    let context = context(tiny());
    decode(context, 0, 0, &[3, 4, 5]);
    let kept = llama_get_logits(context);
    let before = logits(context, -1);
    let mut arrays = Arrays::new(0, 3, &text(1, 60));
    arrays.logits.fill(1);
    llama_decode(context, arrays.batch());
    let now = std::slice::from_raw_parts(black_box(kept), before.len());
    if kept != llama_get_logits(context) || now != before {
        wrong("the pointer is that of a buffer that has been freed");
    }
}

unsafe fn pointer_kept_over_the_next_decode() {
    let context = context(tiny());
    decode(context, 0, 0, &[3, 4, 5]);
    let kept = llama_get_logits_ith(context, -1);
    let before = logits(context, -1);
    decode(context, 0, 3, &[6]);
    let now = std::slice::from_raw_parts(black_box(kept), before.len());
    wrong_if_different(now, &before, "other logits are behind the same pointer");
}

unsafe fn pointer_kept_past_the_context() {
    let context = context(tiny());
    decode(context, 0, 0, &[3, 4, 5]);
    let kept = llama_get_logits_ith(context, -1);
    let before = logits(context, -1);
    llama_free(context);
    let now = std::slice::from_raw_parts(black_box(kept), before.len());
    if now != before {
        wrong("other numbers are behind the pointer");
    }
}

unsafe fn without_output() {
    let context = context(tiny());
    decode(context, 0, 0, &[3, 4, 5]);
    read(llama_get_logits_ith(context, 0));
}

unsafe fn before_any_decode() {
    read(llama_get_logits_ith(context(tiny()), -1));
}

unsafe fn all_rows_by_the_batchs_index() {
    let context = context(tiny());
    decode(context, 0, 0, &text(1, 8));
    let right = logits(context, -1);
    let row = llama_get_logits(context).add(7 * right.len());
    if llama_get_logits(context) == llama_get_logits_ith(context, 7) {
        wrong_if_different(std::slice::from_raw_parts(row, right.len()), &right, "there is one row, not eight");
    }
}

/// How often llama.cpp has asked whether to stop, and the answer to which it is told to.
static ASKED: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(u32::MAX)];

unsafe extern "C" fn stop(_: *mut std::ffi::c_void) -> bool {
    ASKED[0].fetch_add(1, Relaxed) >= ASKED[1].load(Relaxed)
}

unsafe fn last_after_an_abort() {
    let model = tiny();
    let context = context_with(model, |params| params.n_ubatch = 4);
    llama_set_abort_callback(context, Some(stop), std::ptr::null_mut());
    let mut arrays = Arrays::new(0, 0, &text(1, 8));
    arrays.logits.fill(1);
    llama_decode(context, arrays.batch());
    llama_memory_clear(llama_get_memory(context), true);
    // Three quarters of the way: in the second of two micro-batches.
    ASKED[1].store(ASKED[0].load(Relaxed) / 4 * 3, Relaxed);
    ASKED[0].store(0, Relaxed);
    let result = llama_decode(context, arrays.batch());
    let held = llama_memory_seq_pos_max(llama_get_memory(context), 0) + 1;
    if result == 2 && held == 4 {
        wrong_if_different(
            &logits(context, -1),
            &alone(model, &text(1, 8)),
            "llama_decode returned 2, 4 of 8 tokens are in memory, and index -1 is not the last token",
        );
    }
}

unsafe fn embeddings_of_a_context_without() {
    let context = context(tiny());
    decode(context, 0, 0, &[3, 4, 5]);
    read(llama_get_embeddings_ith(context, -1));
}

unsafe fn pooled_of_a_sequence_not_in_the_batch() {
    let context = context_with(encoder(), |params| params.embeddings = true);
    llama_encode(context, Arrays::new(0, 0, &[3, 4, 5]).batch());
    read(llama_get_embeddings_seq(context, 1));
}

/// A context that pools by the mean, in micro-batches of this size.
unsafe fn pooling(model: *mut llama_model, micro_batch: u32) -> *mut llama_context {
    context_with(model, |params| {
        params.n_ubatch = micro_batch;
        params.embeddings = true;
        params.pooling_type = LLAMA_POOLING_TYPE_MEAN;
    })
}

/// Decodes, and reads the pooled embedding.
unsafe fn pooled(model: *mut llama_model, context: *mut llama_context, first: i32, tokens: &[i32]) -> Vec<f32> {
    decode(context, 0, first, tokens);
    let row = llama_get_embeddings_seq(context, 0);
    std::slice::from_raw_parts(row, llama_model_n_embd_out(model) as usize).to_vec()
}

unsafe fn pooled_over_two_micro_batches() {
    let model = tiny();
    let want = pooled(model, pooling(model, 64), 0, &text(1, 8));
    let got = pooled(model, pooling(model, 4), 0, &text(1, 8));
    wrong_if_different(&got, &want, "the mean differs from that of one pass");
}

unsafe fn pooled_over_two_decodes() {
    let model = tiny();
    let want = pooled(model, pooling(model, 64), 0, &text(1, 8));
    let context = pooling(model, 64);
    pooled(model, context, 0, &text(1, 8)[..4]);
    let got = pooled(model, context, 4, &text(1, 8)[4..]);
    wrong_if_different(&got, &want, "the mean differs from that of one decode");
}

unsafe fn scores_of_no_reranker() {
    let score = |others: &[i32]| {
        let context = context_with(tiny(), |params| {
            params.embeddings = true;
            params.pooling_type = LLAMA_POOLING_TYPE_RANK;
        });
        let mut arrays = Arrays::new(1, 0, &text(2, 5));
        if !others.is_empty() {
            arrays = Arrays::new(0, 0, others);
            arrays.add(1, 0, &text(2, 5));
        }
        arrays.logits.fill(1);
        llama_decode(context, arrays.batch());
        *llama_get_embeddings_seq(context, 1)
    };
    wrong_if_different(
        &[score(&text(1, 5))],
        &[score(&[])],
        "the score of the second text differs from its score alone",
    );
}

unsafe fn pointer_over_set_embeddings() {
    let model = tiny();
    let context = context_with(model, |params| {
        params.embeddings = true;
        params.pooling_type = LLAMA_POOLING_TYPE_NONE;
    });
    decode(context, 0, 0, &[3, 4, 5]);
    let width = llama_model_n_embd_out(model) as usize;
    let kept = llama_get_embeddings_ith(context, -1);
    let before = std::slice::from_raw_parts(kept, width).to_vec();
    llama_set_embeddings(context, false);
    decode(context, 0, 3, &[6]);
    if std::slice::from_raw_parts(black_box(kept), width) == before {
        wrong("the embedding of the decode before is behind the pointer");
    }
}
