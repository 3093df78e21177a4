//! Copies of sequences.

use batch_suite::{alone as safe_alone, assert_equal, prompt};
use fixtures::Family;
use llama_safe::Token;
use llama_sys::*;

use crate::child::wrong;
use crate::raw::{Arrays, alone, context, context_with, decode, family, logits, text, tiny, wrong_if_different};
use crate::row::{Group, Outcome, Row, Safe};
use crate::safe::{Setup, params, told};

pub const ROWS: &[Row] = &[
    Row {
        group: Group::Forks,
        name: "of_a_part_between_streams",
        done: "the first 3 of 5 tokens are copied to another sequence, on split KV",
        functions: &["llama_memory_seq_cp"],
        operation: "none: it is asserted that a whole buffer is copied",
        outcome: Outcome::Assertion {
            at: "llama-kv-cache.cpp:524",
            says: "GGML_ASSERT(is_full && \"seq_cp() is only supported for full KV buffers\") failed",
        },
        raw: of_a_part_between_streams,
        safe: Safe::Right {
            why: "fork_prefix copies all, and truncates the copy",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.extend(&sequence, &prompt(1, 5)).unwrap();
                context.decode(&mut batch).unwrap();
                let fork = context.fork_prefix(&sequence, 3).unwrap();
                let slot = batch.push_output(&fork, Token(7)).unwrap();
                let got = context.decode(&mut batch).unwrap().get(slot).unwrap().to_vec();
                let meant = [&prompt(1, 3)[..], &[Token(7)]].concat();
                let want = safe_alone(context.model(), &params(), &meant).pop().unwrap();
                assert_equal(&got, &want, 1e-6, "a fork of three tokens");
            },
        },
    },
    Row {
        group: Group::Forks,
        name: "of_a_part_of_a_window",
        done: "the same on a model with a sliding window",
        functions: &["llama_memory_seq_cp"],
        operation: "none: it is asserted that a whole buffer is copied",
        outcome: Outcome::Assertion {
            at: "llama-kv-cache.cpp:524",
            says: "GGML_ASSERT(is_full && \"seq_cp() is only supported for full KV buffers\") failed",
        },
        raw: of_a_part_of_a_window,
        safe: Safe::Right {
            why: "fork_prefix copies all, and truncates the copy",
            on: Setup::Of(Family::Gemma),
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.extend(&sequence, &prompt(1, 5)).unwrap();
                context.decode(&mut batch).unwrap();
                let fork = context.fork_prefix(&sequence, 3).unwrap();
                assert_eq!(context.span(&fork).unwrap(), 0..3);
            },
        },
    },
    Row {
        group: Group::Forks,
        name: "of_a_part_of_a_hybrid",
        done: "the same on a model of attention and state",
        functions: &["llama_memory_seq_cp"],
        operation: "none: it is asserted that a whole buffer is copied",
        outcome: Outcome::Assertion {
            at: "llama-kv-cache.cpp:524",
            says: "GGML_ASSERT(is_full && \"seq_cp() is only supported for full KV buffers\") failed",
        },
        raw: of_a_part_of_a_hybrid,
        safe: Safe::Refused {
            error: "MemoryError::CannotFork { id: SeqId { slot: 0, generation: 0 }, length: 3, obstacle: State { rollback: 0 } }",
            on: Setup::Of(Family::Hybrid),
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.extend(&sequence, &prompt(1, 5)).unwrap();
                context.decode(&mut batch).unwrap();
                told(context.fork_prefix(&sequence, 3).map(drop))
            },
        },
    },
    Row {
        group: Group::Forks,
        name: "of_a_part_of_a_state",
        done: "the first 3 of 5 tokens of a recurrent sequence are copied",
        functions: &["llama_memory_seq_cp"],
        operation: "none: the whole state is shared, whatever part was asked for",
        outcome: Outcome::Wrong { at: "llama-memory-recurrent.cpp:289" },
        raw: of_a_part_of_a_state,
        safe: Safe::Refused {
            error: "MemoryError::CannotFork { id: SeqId { slot: 0, generation: 0 }, length: 3, obstacle: State { rollback: 0 } }",
            on: Setup::Of(Family::Mamba),
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.extend(&sequence, &prompt(1, 5)).unwrap();
                context.decode(&mut batch).unwrap();
                told(context.fork_prefix(&sequence, 3).map(drop))
            },
        },
    },
    Row {
        group: Group::Forks,
        name: "onto_a_sequence_that_is_not_empty",
        done: "a sequence is copied onto one that holds another text, on unified KV",
        functions: &["llama_memory_seq_cp", "llama_decode"],
        operation: "none: the sequence then has two cells for each position",
        outcome: Outcome::Wrong { at: "llama-kv-cache.cpp:505" },
        raw: onto_a_sequence_that_is_not_empty,
        safe: Safe::Refused {
            error: "MemoryError::Sequence(NoFreeSlot { limit: 2 })",
            on: Setup::Unified,
            attempt: |context| {
                let (one, other) = (context.new_sequence().unwrap(), context.new_sequence().unwrap());
                let error = told(context.fork(&one).map(drop));
                drop(other);
                error
            },
        },
    },
    Row {
        group: Group::Forks,
        name: "removed_before_the_copy_is_carried_out",
        done: "a copy between streams is dropped before the next decode, and its slot filled from a saved state",
        functions: &["llama_state_seq_set_data", "llama_memory_seq_cp", "llama_memory_seq_rm"],
        operation: "the copy that still waits is made over what was restored",
        outcome: Outcome::Wrong { at: "llama-kv-cache.cpp:527" },
        raw: removed_before_the_copy_is_carried_out,
        safe: Safe::Right {
            why: "what waits is carried out before a state is restored",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.extend(&sequence, &prompt(1, 5)).unwrap();
                context.decode(&mut batch).unwrap();
                let state = context.save(&sequence).unwrap();
                context.clear(&sequence).unwrap();
                batch.extend(&sequence, &prompt(2, 9)).unwrap();
                context.decode(&mut batch).unwrap();
                drop(context.fork(&sequence).unwrap());
                let restored = context.restore(&state).unwrap();
                let slot = batch.push_output(&restored, Token(7)).unwrap();
                let got = context.decode(&mut batch).unwrap().get(slot).unwrap().to_vec();
                let meant = [&prompt(1, 5)[..], &[Token(7)]].concat();
                let want = safe_alone(context.model(), &params(), &meant).pop().unwrap();
                assert_equal(&got, &want, 1e-6, "restored after a fork was dropped");
            },
        },
    },
    Row {
        group: Group::Forks,
        name: "saved_before_the_copy_is_carried_out",
        done: "a copy between streams is saved before the next decode",
        functions: &["llama_state_seq_get_data", "llama_memory_seq_cp", "llama_state_seq_get_size"],
        operation: "cells are saved that nobody has written to yet",
        outcome: Outcome::Wrong { at: "llama-kv-cache.cpp:527" },
        raw: saved_before_the_copy_is_carried_out,
        safe: Safe::Right {
            why: "what waits is carried out before a state is saved",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.extend(&sequence, &prompt(1, 5)).unwrap();
                context.decode(&mut batch).unwrap();
                let fork = context.fork(&sequence).unwrap();
                drop(sequence);
                let state = context.save(&fork).unwrap();
                let restored = context.restore(&state).unwrap();
                let slot = batch.push_output(&restored, Token(7)).unwrap();
                let got = context.decode(&mut batch).unwrap().get(slot).unwrap().to_vec();
                let meant = [&prompt(1, 5)[..], &[Token(7)]].concat();
                let want = safe_alone(context.model(), &params(), &meant).pop().unwrap();
                assert_equal(&got, &want, 1e-6, "saved right after the fork");
            },
        },
    },
];

unsafe fn of_a_part(which: Family) {
    let context = context(family(which));
    decode(context, 0, 0, &text(1, 5));
    llama_memory_seq_cp(llama_get_memory(context), 0, 1, 0, 3);
}

unsafe fn of_a_part_between_streams() {
    of_a_part(Family::Llama);
}

unsafe fn of_a_part_of_a_window() {
    of_a_part(Family::Gemma);
}

unsafe fn of_a_part_of_a_hybrid() {
    of_a_part(Family::Hybrid);
}

unsafe fn of_a_part_of_a_state() {
    let context = context(family(Family::Mamba));
    decode(context, 0, 0, &text(1, 5));
    let memory = llama_get_memory(context);
    llama_memory_seq_cp(memory, 0, 1, 0, 3);
    let last = llama_memory_seq_pos_max(memory, 1);
    if last != 2 {
        wrong(&format!("the copy of positions 0 to 2 ends at {last}"));
    }
}

unsafe fn onto_a_sequence_that_is_not_empty() {
    let model = tiny();
    let context = context_with(model, |params| params.kv_unified = true);
    decode(context, 0, 0, &text(1, 5));
    decode(context, 1, 0, &text(2, 5));
    llama_memory_seq_cp(llama_get_memory(context), 0, 1, -1, -1);
    if llama_decode(context, Arrays::new(1, 5, &[7]).batch()) == 0 {
        let meant = [text(1, 5), vec![7]].concat();
        wrong_if_different(
            &logits(context, -1),
            &alone(model, &meant),
            "llama_decode returns 0, and the logits differ",
        );
    }
}

/// What a sequence of another context saved.
unsafe fn saved(context: *mut llama_context, sequence: i32) -> Vec<u8> {
    let mut state = vec![0_u8; llama_state_seq_get_size(context, sequence)];
    llama_state_seq_get_data(context, state.as_mut_ptr(), state.len(), sequence);
    state
}

unsafe fn removed_before_the_copy_is_carried_out() {
    let model = tiny();
    let context = context(model);
    let memory = llama_get_memory(context);
    decode(context, 0, 0, &text(1, 5));
    let state = saved(context, 0);
    llama_memory_seq_rm(memory, 0, -1, -1);
    decode(context, 0, 0, &text(2, 9));
    llama_memory_seq_cp(memory, 0, 1, -1, -1);
    llama_memory_seq_rm(memory, 1, -1, -1);
    llama_state_seq_set_data(context, state.as_ptr(), state.len(), 1);
    decode(context, 1, 5, &[7]);
    let meant = [text(1, 5), vec![7]].concat();
    wrong_if_different(&logits(context, -1), &alone(model, &meant), "the logits are not those of what was restored");
}

unsafe fn saved_before_the_copy_is_carried_out() {
    let model = tiny();
    let context = context(model);
    decode(context, 0, 0, &text(1, 5));
    let memory = llama_get_memory(context);
    llama_memory_seq_cp(memory, 0, 1, -1, -1);
    let state = saved(context, 1);
    llama_memory_clear(memory, true);
    llama_state_seq_set_data(context, state.as_ptr(), state.len(), 1);
    decode(context, 1, 5, &[7]);
    let meant = [text(1, 5), vec![7]].concat();
    wrong_if_different(&logits(context, -1), &alone(model, &meant), "the logits are not those of what was saved");
}
