//! Sequence ids, in a batch.

use batch_suite::prompt;
use llama_safe::Token;
use llama_sys::*;

use crate::child::wrong;
use crate::raw::{Arrays, alone, context, context_with, decode, logits, text, tiny, wrong_if_different};
use crate::row::{Group, Outcome, Row, Safe};
use crate::safe::{Setup, told};

pub const ROWS: &[Row] = &[
    Row {
        group: Group::Sequences,
        name: "beyond_the_contexts_own",
        done: "sequence id 200 in a unified cache that was made for two sequences",
        functions: &["llama_memory_seq_pos_max", "llama_decode", "llama_n_seq_max"],
        operation: "none: llama_decode refuses it, the memory operations take it for one of 256",
        outcome: Outcome::Wrong { at: "llama-kv-cache.cpp:683" },
        raw: beyond_the_contexts_own,
        safe: Safe::Refused {
            error: "SequenceError::NoFreeSlot { limit: 2 }",
            on: Setup::Unified,
            attempt: |context| {
                let held = [context.new_sequence().unwrap(), context.new_sequence().unwrap()];
                let error = told(context.new_sequence().map(drop));
                drop(held);
                error
            },
        },
    },
    Row {
        group: Group::Sequences,
        name: "somebody_elses",
        done: "a sequence is given up without being removed, and its id given to the next user",
        functions: &["llama_decode"],
        operation: "none: the next user's tokens are refused, or computed behind the other's",
        outcome: Outcome::Wrong { at: "llama-batch.cpp:1361" },
        raw: somebody_elses,
        safe: Safe::Refused {
            error: "PushError::Sequence(Stale { id: SeqId { slot: 0, generation: 0 } })",
            on: Setup::Tiny,
            attempt: |context| {
                let first = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.prompt(&first, &prompt(1, 5)).unwrap();
                drop(first);
                let second = context.new_sequence().unwrap();
                let error = told(batch.push(&second, Token(1)));
                drop(second);
                error
            },
        },
    },
    Row {
        group: Group::Sequences,
        name: "of_another_context",
        done: "an id that another context gave out",
        functions: &["llama_decode"],
        operation: "none: ids are plain numbers, and whoever has this one here is computed with",
        outcome: Outcome::Wrong { at: "llama-batch.cpp:175" },
        raw: of_another_context,
        safe: Safe::Refused {
            error: "PushError::Sequence(Foreign { id: SeqId { slot: 0, generation: 0 } })",
            on: Setup::Tiny,
            attempt: |context| {
                let mut other = Setup::Tiny.context();
                let sequence = other.new_sequence().unwrap();
                told(context.new_batch().push(&sequence, Token(1)))
            },
        },
    },
    Row {
        group: Group::Sequences,
        name: "truncated_under_the_batch",
        done: "a sequence is cut short after its next tokens were put into a batch without positions",
        functions: &["llama_decode", "llama_memory_seq_rm"],
        operation: "none: the tokens are computed at other positions than they were meant for",
        outcome: Outcome::Wrong { at: "llama-batch.cpp:1388" },
        raw: truncated_under_the_batch,
        safe: Safe::Refused {
            error: "DecodeError::SequenceChanged { id: SeqId { slot: 0, generation: 0 }, expected: 5, found: 2 }",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.extend(&sequence, &prompt(1, 5)).unwrap();
                context.decode(&mut batch).unwrap();
                batch.push(&sequence, Token(1)).unwrap();
                context.truncate(&sequence, 2).unwrap();
                told(context.decode(&mut batch).map(drop))
            },
        },
    },
    Row {
        group: Group::Sequences,
        name: "coupled_on_split_caches",
        done: "one token of two sequences, on split KV",
        functions: &["llama_decode"],
        operation: "none: 1 comes back, which is said to mean that there is no room",
        outcome: Outcome::Wrong { at: "llama-kv-cache.cpp:731" },
        raw: coupled_on_split_caches,
        safe: Safe::Right {
            why: "a token is of one sequence; a fork has the same tokens without computing them again",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.extend(&sequence, &prompt(9, 5)).unwrap();
                context.decode(&mut batch).unwrap();
                let fork = context.fork(&sequence).unwrap();
                let (a, b) = (batch.push_output(&sequence, Token(7)), batch.push_output(&fork, Token(7)));
                let outputs = context.decode(&mut batch).unwrap();
                assert_eq!(outputs.get(a.unwrap()).unwrap(), outputs.get(b.unwrap()).unwrap());
            },
        },
    },
    Row {
        group: Group::Sequences,
        name: "given_twice",
        done: "a token is given the same sequence id twice",
        functions: &["llama_decode"],
        operation: "none: one of the two is dropped, and the counts of the caller no longer hold",
        outcome: Outcome::Wrong { at: "llama-batch.cpp:1372" },
        raw: given_twice,
        safe: Safe::Unwritable { file: "batch.rs", line: "batch.n_seq_id" },
    },
];

unsafe fn beyond_the_contexts_own() {
    let context = context_with(tiny(), |params| params.kv_unified = true);
    let result = llama_decode(context, Arrays::new(200, 0, &[3, 4, 5]).batch());
    let last = llama_memory_seq_pos_max(llama_get_memory(context), 200);
    if llama_n_seq_max(context) == 2 {
        wrong(&format!("of two sequences, number 200 has the last position {last}; llama_decode returned {result}"));
    }
}

unsafe fn somebody_elses() {
    let model = tiny();
    let context = context(model);
    decode(context, 0, 0, &text(1, 5));
    let mut arrays = Arrays::new(0, 0, &text(2, 5));
    let mut batch = arrays.batch();
    batch.pos = std::ptr::null_mut();
    if llama_decode(context, batch) == 0 {
        wrong_if_different(
            &logits(context, -1),
            &alone(model, &text(2, 5)),
            "the other's text is in view: the logits differ",
        );
    }
}

unsafe fn of_another_context() {
    let model = tiny();
    let (one, other) = (context(model), context(model));
    decode(one, 0, 0, &text(1, 5));
    decode(other, 0, 0, &text(2, 5));
    decode(one, 0, 5, &[7]);
    let meant = [text(2, 5), vec![7]].concat();
    wrong_if_different(&logits(one, -1), &alone(model, &meant), "another text was continued: the logits differ");
}

unsafe fn truncated_under_the_batch() {
    let model = tiny();
    let context = context(model);
    decode(context, 0, 0, &text(1, 5));
    let mut batch = Arrays::new(0, 0, &[7]).leak();
    batch.pos = std::ptr::null_mut();
    llama_memory_seq_rm(llama_get_memory(context), 0, 2, -1);
    if llama_decode(context, batch) == 0 {
        let meant = [text(1, 5), vec![7]].concat();
        wrong_if_different(
            &logits(context, -1),
            &alone(model, &meant),
            "computed at position 2 for 5: the logits differ",
        );
    }
}

/// One token with these ids.
unsafe fn of(context: *mut llama_context, ids: &[i32]) -> i32 {
    let mut arrays = Arrays::new(0, 0, &[3]);
    arrays.n_seq_id[0] = ids.len() as i32;
    arrays.ids[0] = ids.into();
    arrays.seq_id[0] = arrays.ids[0].as_mut_ptr();
    llama_decode(context, arrays.batch())
}

unsafe fn coupled_on_split_caches() {
    if of(context(tiny()), &[0, 1]) == 1 {
        wrong("llama_decode returns 1, could not find a KV slot, in an empty context of 512 cells");
    }
}

unsafe fn given_twice() {
    let context = context(tiny());
    if of(context, &[0, 0]) == 0 {
        wrong("llama_decode returns 0");
    }
}
