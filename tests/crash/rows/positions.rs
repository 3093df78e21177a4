//! Positions in a batch.

use std::ptr;

use batch_suite::{assert_equal, prompt};
use fixtures::Family;
use llama_safe::{Place, Token};
use llama_sys::*;

use crate::child::wrong;
use crate::raw::{Arrays, alone, context, decode, family, logits, text, tiny, wrong_if_different};
use crate::row::{Group, Outcome, Row, Safe};
use crate::safe::{Setup, told};

/// Positions are nobody's to give.
const NO_POSITIONS: Safe = Safe::Unwritable { file: "batch.rs", line: "batch.pos" };

pub const ROWS: &[Row] = &[
    Row {
        group: Group::Positions,
        name: "given_twice",
        done: "two tokens of a batch have the same position",
        functions: &["llama_decode"],
        operation: "none: both are kept, and both are seen at that position",
        outcome: Outcome::Wrong { at: "llama-batch.cpp:407" },
        raw: given_twice,
        safe: NO_POSITIONS,
    },
    Row {
        group: Group::Positions,
        name: "minus_one",
        done: "the first token of a batch has position -1",
        functions: &["llama_decode"],
        operation: "a cell gets the number that says that it is empty",
        outcome: Outcome::Wrong { at: "llama-batch.cpp:386" },
        raw: minus_one,
        safe: NO_POSITIONS,
    },
    Row {
        group: Group::Positions,
        name: "beginning_anywhere",
        done: "a fresh sequence begins at position 1,000,000 of a model trained on 2,048",
        functions: &["llama_decode"],
        operation: "none: angles are computed that the model has never seen",
        outcome: Outcome::Wrong { at: "llama-batch.cpp:388" },
        raw: beginning_anywhere,
        safe: NO_POSITIONS,
    },
    Row {
        group: Group::Positions,
        name: "null_with_an_id_out_of_range",
        done: "no positions, and sequence id 1,000,000 in a context of two sequences",
        functions: &["llama_decode"],
        operation: "out-of-bounds write: the next position of each sequence is counted up before ids are checked",
        outcome: Outcome::Segfault { at: "llama-batch.cpp:1388" },
        raw: null_with_an_id_out_of_range,
        safe: NO_POSITIONS,
    },
    Row {
        group: Group::Positions,
        name: "null_with_a_negative_id",
        done: "no positions, and sequence id -1,000,000",
        functions: &["llama_decode"],
        operation: "out-of-bounds write before the array",
        outcome: Outcome::Segfault { at: "llama-batch.cpp:1388" },
        raw: null_with_a_negative_id,
        safe: NO_POSITIONS,
    },
    Row {
        group: Group::Positions,
        name: "more_than_a_learned_table",
        done: "513 tokens for an encoder that has learned 512 positions",
        functions: &["llama_encode"],
        operation: "a row past the end of the table of positions is asked for",
        outcome: Outcome::Assertion { at: "ops.cpp:5363", says: "GGML_ASSERT(i01 >= 0 && i01 < ne01) failed" },
        raw: more_than_a_learned_table,
        safe: Safe::Refused {
            error: "PushError::SequenceFull { id: SeqId { slot: 0, generation: 0 }, length: 0, adding: 513, limit: 512 }",
            on: Setup::Encoder,
            attempt: |_| {
                let params = batch_suite::params().context_tokens(1024).batch_tokens(1024).micro_batch_tokens(1024);
                let model = batch_suite::encoder();
                let mut context = llama_safe::Context::new(&model, &params.embeddings(true)).unwrap();
                let sequence = context.new_sequence().unwrap();
                told(context.new_batch().prompt(&sequence, &prompt(1, 513)))
            },
        },
    },
    Row {
        group: Group::Positions,
        name: "jump_of_m_rope",
        done: "the next token of an M-RoPE sequence is given a position far ahead",
        functions: &["llama_decode"],
        operation: "none: any later position is taken, and the logits are other ones",
        outcome: Outcome::Wrong { at: "llama-batch.cpp:347" },
        raw: jump_of_m_rope,
        safe: Safe::Refused {
            error: "PushError::PlaceBeyondContext { .. }",
            on: Setup::Of(Family::Qwen2Vl),
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let embedding = vec![0.5; context.limits().input_width() as usize];
                let mut batch = context.new_embedding_batch();
                batch.push_embedding(&sequence, &embedding).unwrap();
                told(batch.push_embedding_at(
                    &sequence,
                    &embedding,
                    Place { time: 1_000_000, height: 0, width: 0, fourth: 0 },
                ))
            },
        },
    },
    Row {
        group: Group::Positions,
        name: "m_rope_place_in_the_past",
        done: "an M-RoPE embedding at the last position once more",
        functions: &["llama_decode"],
        operation: "none: it is taken, and two inputs are at one place",
        outcome: Outcome::Wrong { at: "llama-batch.cpp:368" },
        raw: m_rope_place_in_the_past,
        safe: Safe::Refused {
            error: "PushError::PlaceOutOfOrder { .. }",
            on: Setup::Of(Family::Qwen2Vl),
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let embedding = vec![0.5; context.limits().input_width() as usize];
                let mut batch = context.new_embedding_batch();
                batch.push_embedding(&sequence, &embedding).unwrap();
                let place = Place { time: 0, height: 0, width: 0, fourth: 0 };
                told(batch.push_embedding_at(&sequence, &embedding, place))
            },
        },
    },
    Row {
        group: Group::Positions,
        name: "overflow",
        done: "the first token of a batch has the largest position there is",
        functions: &["llama_decode"],
        operation: "the next position is a negative number",
        outcome: Outcome::Wrong { at: "llama-batch.cpp:407" },
        raw: overflow,
        safe: Safe::Right {
            why: "positions count from 0, and no sequence is longer than its context",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                let slot = batch.push_output(&sequence, Token(3)).unwrap();
                assert_eq!(batch.position(0), Some(0));
                let got = context.decode(&mut batch).unwrap().get(slot).unwrap().to_vec();
                let want = batch_suite::alone(context.model(), &crate::safe::params(), &[Token(3)]);
                assert_equal(&got, &want[0], 1e-6, "the first position");
            },
        },
    },
];

unsafe fn given_twice() {
    let model = tiny();
    let context = context(model);
    let mut arrays = Arrays::new(0, 0, &[3, 4, 5, 6]);
    arrays.pos = vec![0, 1, 1, 2];
    if llama_decode(context, arrays.batch()) == 0 {
        wrong_if_different(
            &logits(context, -1),
            &alone(model, &[3, 5, 6]),
            "0, and neither of the two replaced the other",
        );
    }
}

unsafe fn minus_one() {
    let context = context(tiny());
    let mut arrays = Arrays::new(0, -1, &[3, 4, 5]);
    let result = llama_decode(context, arrays.batch());
    let first = llama_memory_seq_pos_min(llama_get_memory(context), 0);
    if result == 0 {
        wrong(&format!("llama_decode returns 0, the first of the positions is {first} and 2 of 3 tokens are left"));
    }
}

unsafe fn beginning_anywhere() {
    let model = tiny();
    let context = context(model);
    let tokens = text(1, 5);
    if llama_decode(context, Arrays::new(0, 1_000_000, &tokens).batch()) == 0 {
        wrong_if_different(&logits(context, -1), &alone(model, &tokens), "0, and the logits differ");
    }
}

unsafe fn null_positions(id: i32) {
    let context = context(tiny());
    let mut batch = Arrays::new(id, 0, &[3]).leak();
    batch.pos = ptr::null_mut();
    llama_decode(context, batch);
}

unsafe fn null_with_an_id_out_of_range() {
    null_positions(1_000_000_000);
}

unsafe fn null_with_a_negative_id() {
    null_positions(-1_000_000_000);
}

unsafe fn more_than_a_learned_table() {
    let context = crate::raw::context_with(crate::raw::encoder(), |params| {
        params.n_ctx = 1024;
        params.n_batch = 1024;
        params.n_ubatch = 1024;
        params.embeddings = true;
    });
    llama_encode(context, Arrays::new(0, 0, &text(1, 513)).batch());
}

unsafe fn jump_of_m_rope() {
    let model = family(Family::Qwen2Vl);
    let context = context(model);
    decode(context, 0, 0, &[3, 4]);
    if llama_decode(context, Arrays::new(0, 1_000_000, &[5]).batch()) == 0 {
        wrong_if_different(
            &logits(context, -1),
            &alone(model, &[3, 4, 5]),
            "llama_decode returns 0, and the logits differ",
        );
    }
}

unsafe fn m_rope_place_in_the_past() {
    let model = family(Family::Qwen2Vl);
    let context = context(model);
    let mut embedding = vec![0.5_f32; llama_model_n_embd_inp(model) as usize];
    let mut pos = [0_i32; 4];
    for _ in 0..2 {
        let mut batch = Arrays::new(0, 0, &[3]).leak();
        batch.token = ptr::null_mut();
        batch.embd = embedding.as_mut_ptr();
        batch.pos = pos.as_mut_ptr();
        if llama_decode(context, batch) != 0 {
            return;
        }
    }
    wrong("llama_decode returns 0 both times: two inputs are at place 0");
}

unsafe fn overflow() {
    let context = context(tiny());
    let result = llama_decode(context, Arrays::new(0, i32::MAX, &[3]).batch());
    let last = llama_memory_seq_pos_max(llama_get_memory(context), 0);
    if result == 0 {
        wrong(&format!("llama_decode returns 0, the last position is {last}, and no token can follow"));
    }
}
