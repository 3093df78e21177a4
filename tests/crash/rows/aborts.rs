//! Decodes that are stopped in the middle.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use batch_suite::prompt;
use fixtures::Family;
use llama_safe::{Context, Token};
use llama_sys::*;

use crate::child::wrong;
use crate::raw::{Arrays, context, context_with, decode, encoder, family, logits, text, tiny, wrong_if_different};
use crate::row::{Group, Outcome, Row, Safe};
use crate::safe::{Setup, params, told};

pub const ROWS: &[Row] = &[
    Row {
        group: Group::Aborts,
        name: "in_the_second_micro_batch",
        done: "a decode of 8 tokens is stopped in the second of two micro-batches, and tried again",
        functions: &["llama_decode", "llama_set_abort_callback"],
        operation: "none: the first four tokens stay in memory, and the same batch is refused",
        outcome: Outcome::Wrong { at: "llama-context.cpp:1915" },
        raw: in_the_second_micro_batch,
        safe: Safe::Refused {
            error: "DecodeError::Aborted { damaged: [] }",
            on: Setup::Tiny,
            attempt: |context| {
                let mut context = Context::new(context.model(), &params().micro_batch_tokens(4)).unwrap();
                let sequence = context.new_sequence().unwrap();
                let (mut batch, handle) = (context.new_batch(), context.abort_handle());
                batch.prompt(&sequence, &prompt(1, 8)).unwrap();
                handle.abort_after(40);
                let error = told(context.decode(&mut batch).map(drop));
                assert_eq!((sequence.len(), context.span(&sequence).unwrap(), batch.len()), (0, 0..0, 8));
                handle.reset();
                context.decode(&mut batch).unwrap();
                error
            },
        },
    },
    Row {
        group: Group::Aborts,
        name: "of_a_recurrent_state",
        done: "a decode of a recurrent model is stopped in its second micro-batch",
        functions: &["llama_decode", "llama_set_abort_callback"],
        operation: "none: the state has seen half of the batch, and cannot go back",
        outcome: Outcome::Wrong { at: "llama-context.cpp:1915" },
        raw: of_a_recurrent_state,
        safe: Safe::Refused {
            error: "DecodeError::Aborted { damaged: [SeqId { slot: 0, generation: 0 }] }",
            on: Setup::Of(Family::Mamba),
            attempt: |context| {
                let mut context = Context::new(context.model(), &params().micro_batch_tokens(4)).unwrap();
                let (sequence, other) = (context.new_sequence().unwrap(), context.new_sequence().unwrap());
                let (mut batch, handle) = (context.new_batch(), context.abort_handle());
                batch.prompt(&sequence, &prompt(1, 5)).unwrap();
                batch.prompt(&other, &prompt(2, 5)).unwrap();
                context.decode(&mut batch).unwrap();
                batch.prompt(&sequence, &prompt(3, 8)).unwrap();
                handle.abort_after(checks_of_half(&mut context));
                let error = told(context.decode(&mut batch).map(drop));
                handle.reset();
                assert!(sequence.is_damaged() && !other.is_damaged());
                batch.clear();
                assert!(batch.push(&sequence, Token(3)).is_err(), "until it is cleared");
                context.clear(&sequence).unwrap();
                batch.push(&sequence, Token(3)).unwrap();
                context.decode(&mut batch).unwrap();
                error
            },
        },
    },
    Row {
        group: Group::Aborts,
        name: "of_a_shift",
        done: "the rotation of keys that a shift has asked for is stopped between two layers, and done again at the next decode",
        functions: &["llama_decode", "llama_memory_seq_add", "llama_set_abort_callback"],
        operation: "the keys of some layers are rotated twice",
        outcome: Outcome::Wrong { at: "llama-kv-cache.cpp:890" },
        raw: of_a_shift,
        safe: Safe::Right {
            why: "an abort waits until a shift is carried out",
            on: Setup::Tiny,
            attempt: |context| {
                let shifted = |context: &mut Context, abort: bool| {
                    let sequence = context.new_sequence().unwrap();
                    let (mut batch, handle) = (context.new_batch(), context.abort_handle());
                    batch.extend(&sequence, &prompt(1, 9)).unwrap();
                    context.decode(&mut batch).unwrap();
                    context.shift(&sequence, 0..3).unwrap();
                    let slot = batch.push_output(&sequence, Token(7)).unwrap();
                    if abort {
                        handle.abort();
                    }
                    let logits = context.decode(&mut batch).unwrap().get(slot).unwrap().to_vec();
                    handle.reset();
                    logits
                };
                let want = shifted(&mut Setup::Tiny.context(), false);
                batch_suite::assert_equal(&shifted(context, true), &want, 1e-6, "shifted once");
            },
        },
    },
    Row {
        group: Group::Aborts,
        name: "of_an_encoder",
        done: "an encoding is stopped, and the vector of the text is read",
        functions: &["llama_encode", "llama_get_embeddings_ith", "llama_set_abort_callback"],
        operation: "none: what is read is zeros, or the vector of the text before",
        outcome: Outcome::Wrong { at: "llama-context.cpp:1548" },
        raw: of_an_encoder,
        safe: Safe::Refused {
            error: "DecodeError::Aborted { damaged: [] }",
            on: Setup::Encoder,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let (mut batch, handle) = (context.new_batch(), context.abort_handle());
                batch.prompt(&sequence, &prompt(1, 8)).unwrap();
                handle.abort();
                let error = told(context.encode(&mut batch).map(drop));
                handle.reset();
                assert!(context.outputs().is_none());
                error
            },
        },
    },
    Row {
        group: Group::Aborts,
        name: "two_is_taken_for_success",
        done: "a decode is stopped, and its caller looks for negative results alone",
        functions: &["llama_decode", "llama_get_logits_ith"],
        operation: "none: 2 is no error by its sign; the logits are those of the decode before, or none",
        outcome: Outcome::Segfault { at: "the caller" },
        raw: two_is_taken_for_success,
        safe: Safe::Refused {
            error: "DecodeError::Aborted { damaged: [] }",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let (mut batch, handle) = (context.new_batch(), context.abort_handle());
                batch.prompt(&sequence, &prompt(1, 8)).unwrap();
                handle.abort();
                let error = told(context.decode(&mut batch).map(drop));
                handle.reset();
                error
            },
        },
    },
];

/// Three quarters of the checks of a decode of 8 tokens: within the second of two micro-batches.
fn checks_of_half(context: &mut Context) -> u32 {
    let mut other = Context::new(context.model(), &params().micro_batch_tokens(4)).unwrap();
    let sequence = other.new_sequence().unwrap();
    let handle = other.abort_handle();
    let mut batch = other.new_batch();
    let mut checks = 1;
    loop {
        batch.clear();
        other.clear(&sequence).unwrap();
        batch.prompt(&sequence, &prompt(3, 8)).unwrap();
        handle.abort_after(checks);
        if other.decode(&mut batch).is_ok() {
            return checks / 4 * 3;
        }
        checks += 8;
    }
}

/// How often llama.cpp has asked whether to stop, and from which time on the answer is yes.
static ASKED: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(u32::MAX)];

unsafe extern "C" fn stop(_: *mut c_void) -> bool {
    ASKED[0].fetch_add(1, Relaxed) >= ASKED[1].load(Relaxed)
}

/// Counts the checks of `work`, and from then on stops at this share of them.
unsafe fn stop_at(context: *mut llama_context, quarters: u32, work: impl FnOnce()) {
    llama_set_abort_callback(context, Some(stop), std::ptr::null_mut());
    ASKED[0].store(0, Relaxed);
    work();
    ASKED[1].store(ASKED[0].load(Relaxed) * quarters / 4, Relaxed);
    ASKED[0].store(0, Relaxed);
}

unsafe fn go_on(context: *mut llama_context) {
    llama_set_abort_callback(context, None, std::ptr::null_mut());
}

unsafe fn in_the_second_micro_batch() {
    let context = context_with(tiny(), |params| params.n_ubatch = 4);
    stop_at(context, 3, || decode(context, 0, 0, &text(1, 8)));
    llama_memory_clear(llama_get_memory(context), true);
    let first = llama_decode(context, Arrays::new(0, 0, &text(1, 8)).batch());
    go_on(context);
    let held = llama_memory_seq_pos_max(llama_get_memory(context), 0) + 1;
    let again = llama_decode(context, Arrays::new(0, 0, &text(1, 8)).batch());
    if first == 2 && held != 0 {
        wrong(&format!("{first}, then {held} of 8 tokens are in memory, and the same batch again gives {again}"));
    }
}

unsafe fn of_a_recurrent_state() {
    let model = family(Family::Mamba);
    let make = || {
        let context = context_with(model, |params| params.n_ubatch = 4);
        decode(context, 0, 0, &text(1, 5));
        context
    };
    let (context, copy) = (make(), make());
    stop_at(copy, 3, || decode(copy, 0, 5, &text(3, 8)));
    llama_set_abort_callback(context, Some(stop), std::ptr::null_mut());
    let result = llama_decode(context, Arrays::new(0, 5, &text(3, 8)).batch());
    let last = llama_memory_seq_pos_max(llama_get_memory(context), 0);
    if result == 2 && last != 4 {
        wrong(&format!("2, and the sequence of 5 tokens ends at {last}"));
    }
}

unsafe fn of_a_shift() {
    let model = tiny();
    let shifted = || {
        let context = context(model);
        decode(context, 0, 0, &text(1, 9));
        let memory = llama_get_memory(context);
        llama_memory_seq_rm(memory, 0, 0, 3);
        llama_memory_seq_add(memory, 0, 3, -1, -3);
        context
    };
    let (context, other) = (shifted(), shifted());
    decode(other, 0, 6, &[7]);
    // One rotation a layer: between the first and the second.
    llama_set_abort_callback(context, Some(stop), std::ptr::null_mut());
    for checks in 0..8 {
        ASKED[0].store(0, Relaxed);
        ASKED[1].store(checks, Relaxed);
        llama_decode(context, Arrays::new(0, 6, &[7]).batch());
    }
    go_on(context);
    decode(context, 0, 6, &[7]);
    wrong_if_different(
        &logits(context, -1),
        &logits(other, -1),
        "the logits differ from those of a shift that was not stopped",
    );
}

unsafe fn of_an_encoder() {
    let model = encoder();
    let make = || {
        context_with(model, |params| {
            params.embeddings = true;
            params.pooling_type = LLAMA_POOLING_TYPE_NONE;
        })
    };
    let width = llama_model_n_embd_out(model) as usize;
    let vector = |context| std::slice::from_raw_parts(llama_get_embeddings_ith(context, 0), width).to_vec();
    let (context, other) = (make(), make());
    llama_encode(other, Arrays::new(0, 0, &text(1, 8)).batch());
    stop_at(context, 2, || {
        llama_encode(context, Arrays::new(0, 0, &text(2, 8)).batch());
    });
    if llama_encode(context, Arrays::new(0, 0, &text(1, 8)).batch()) == 2 {
        wrong_if_different(
            &vector(context),
            &vector(other),
            "llama_encode returned 2, and a vector is handed out that is another",
        );
    }
}

unsafe fn two_is_taken_for_success() {
    let context = context(tiny());
    ASKED[1].store(0, Relaxed);
    llama_set_abort_callback(context, Some(stop), std::ptr::null_mut());
    if llama_decode(context, Arrays::new(0, 0, &text(1, 8)).batch()) >= 0 {
        crate::raw::read(llama_get_logits_ith(context, 0));
    }
}
