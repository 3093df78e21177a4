//! Positions that are renumbered.

use batch_suite::prompt;
use fixtures::Family;
use llama_sys::*;

use crate::child::wrong;
use crate::raw::{Arrays, alone, context, context_with, decode, family, logits, text, tiny, wrong_if_different};
use crate::row::{Group, Outcome, Row, Safe};
use crate::safe::{Setup, told};

pub const ROWS: &[Row] = &[
    Row {
        group: Group::Shifts,
        name: "m_rope",
        done: "positions of four numbers are shifted",
        functions: &["llama_memory_seq_add"],
        operation: "none: it is asserted",
        outcome: Outcome::Assertion {
            at: "llama-kv-cache.cpp:595",
            says: "GGML_ASSERT(hparams.n_pos_per_embd() == 1 && \"seq_add() is only supported for n_pos_per_embd() == 1\") failed",
        },
        raw: m_rope,
        safe: cannot_shift("Positions", Setup::Of(Family::Qwen2Vl)),
    },
    Row {
        group: Group::Shifts,
        name: "m_rope_divided",
        done: "positions of four numbers are divided",
        functions: &["llama_memory_seq_div"],
        operation: "none: it is asserted",
        outcome: Outcome::Assertion {
            at: "llama-kv-cache.cpp:645",
            says: "GGML_ASSERT(hparams.n_pos_per_embd() == 1 && \"seq_div() is only supported for n_pos_per_embd() == 1\") failed",
        },
        raw: m_rope_divided,
        safe: Safe::Unwritable { file: "memory.rs", line: "context.divide(" },
    },
    Row {
        group: Group::Shifts,
        name: "recurrent",
        done: "the first 2 of 5 tokens of a recurrent sequence are taken out by a shift",
        functions: &["llama_memory_seq_add", "llama_memory_seq_rm", "llama_memory_can_shift"],
        operation: "none: the number of the state changes, and what it remembers does not",
        outcome: Outcome::Wrong { at: "llama-memory-recurrent.cpp:354" },
        raw: recurrent,
        safe: cannot_shift("State { rollback: 0 }", Setup::Of(Family::Mamba)),
    },
    Row {
        group: Group::Shifts,
        name: "shared_with_a_fork",
        done: "a sequence is shifted that shares its cells with a fork, on unified KV",
        functions: &["llama_memory_seq_add", "llama_memory_seq_cp"],
        operation: "none: the cells of the fork move as well",
        outcome: Outcome::Wrong { at: "llama-kv-cache.cpp:625" },
        raw: shared_with_a_fork,
        safe: Safe::Refused {
            error: "MemoryError::SharedCells { id: SeqId { slot: 0, generation: 0 } }",
            on: Setup::Unified,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.extend(&sequence, &prompt(1, 5)).unwrap();
                context.decode(&mut batch).unwrap();
                let fork = context.fork(&sequence).unwrap();
                let error = told(context.shift(&sequence, 0..2));
                drop(fork);
                error
            },
        },
    },
    Row {
        group: Group::Shifts,
        name: "onto_others",
        done: "the second half of a sequence is shifted onto the first",
        functions: &["llama_memory_seq_add"],
        operation: "none: two cells have each position",
        outcome: Outcome::Wrong { at: "llama-kv-cache.cpp:625" },
        raw: onto_others,
        safe: Safe::Unwritable { file: "memory.rs", line: "context.shift(sequence, 4.., -4)" },
    },
    Row {
        group: Group::Shifts,
        name: "below_zero",
        done: "all positions are shifted by -3, without having removed the first three tokens",
        functions: &["llama_memory_seq_add"],
        operation: "none: the cells that would be below 0 are freed",
        outcome: Outcome::Wrong { at: "llama-kv-cells.h:448" },
        raw: below_zero,
        safe: Safe::Refused {
            error: "MemoryError::OutOfRange { id: SeqId { slot: 0, generation: 0 }, asked: 3..9, length: 5 }",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.extend(&sequence, &prompt(1, 5)).unwrap();
                context.decode(&mut batch).unwrap();
                told(context.shift(&sequence, 3..9))
            },
        },
    },
    Row {
        group: Group::Shifts,
        name: "quantised_keys",
        done: "the first token of a sequence with keys of 4 bits is taken out by a shift",
        functions: &["llama_decode", "llama_memory_seq_add"],
        operation: "read through NULL: a rotation of the keys is undone and redone that this model does not have",
        outcome: Outcome::Segfault { at: "llama-kv-cache.cpp:1972" },
        raw: quantised_keys,
        safe: Safe::Right {
            why: "keys are of 16 or 32 bits",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.extend(&sequence, &prompt(1, 50)).unwrap();
                context.decode(&mut batch).unwrap();
                context.shift(&sequence, 0..1).unwrap();
                batch.push(&sequence, llama_safe::Token(7)).unwrap();
                context.decode(&mut batch).unwrap();
                assert_eq!(context.span(&sequence).unwrap(), 0..50);
            },
        },
    },
    Row {
        group: Group::Shifts,
        name: "saved_before_it_is_carried_out",
        done: "a sequence is saved between a shift and the next decode",
        functions: &["llama_state_seq_get_data", "llama_memory_seq_add"],
        operation: "keys are saved at their old angles, with their new positions",
        outcome: Outcome::Wrong { at: "llama-kv-cache.cpp:2071" },
        raw: saved_before_it_is_carried_out,
        safe: Safe::Right {
            why: "what waits is carried out before a state is saved",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.extend(&sequence, &prompt(1, 9)).unwrap();
                context.decode(&mut batch).unwrap();
                context.shift(&sequence, 0..3).unwrap();
                let state = context.save(&sequence).unwrap();
                let restored = context.restore(&state).unwrap();
                let a = batch.push_output(&sequence, llama_safe::Token(7)).unwrap();
                let b = batch.push_output(&restored, llama_safe::Token(7)).unwrap();
                let outputs = context.decode(&mut batch).unwrap();
                batch_suite::assert_equal(outputs.get(b).unwrap(), outputs.get(a).unwrap(), 1e-6, "restored");
            },
        },
    },
];

/// A shift that the memory refuses.
const fn cannot_shift(obstacle: &'static str, on: Setup) -> Safe {
    let error = match obstacle.as_bytes()[0] {
        b'P' => "MemoryError::CannotShift { id: SeqId { slot: 0, generation: 0 }, obstacle: Positions }",
        _ => "MemoryError::CannotShift { id: SeqId { slot: 0, generation: 0 }, obstacle: State { .. } }",
    };
    Safe::Refused {
        error,
        on,
        attempt: |context| {
            let sequence = context.new_sequence().unwrap();
            let mut batch = context.new_batch();
            batch.extend(&sequence, &prompt(1, 5)).unwrap();
            context.decode(&mut batch).unwrap();
            told(context.shift(&sequence, 0..2))
        },
    }
}

unsafe fn m_rope() {
    let context = context(family(Family::Qwen2Vl));
    decode(context, 0, 0, &text(1, 5));
    llama_memory_seq_add(llama_get_memory(context), 0, 2, -1, -2);
}

unsafe fn m_rope_divided() {
    let context = context(family(Family::Qwen2Vl));
    decode(context, 0, 0, &text(1, 5));
    llama_memory_seq_div(llama_get_memory(context), 0, 2, -1, 2);
}

unsafe fn recurrent() {
    let context = context(family(Family::Mamba));
    let tokens = text(1, 5);
    decode(context, 0, 0, &tokens);
    let memory = llama_get_memory(context);
    if llama_memory_can_shift(memory) {
        llama_memory_seq_rm(memory, 0, 0, 2);
        llama_memory_seq_add(memory, 0, 2, -1, -2);
        let last = llama_memory_seq_pos_max(memory, 0);
        if llama_decode(context, Arrays::new(0, last + 1, &[7]).batch()) == 0 {
            let got = logits(context, -1);
            llama_memory_clear(memory, true);
            decode(context, 0, 0, &[&tokens[2..], &[7]].concat());
            wrong_if_different(&got, &logits(context, -1), "llama_memory_can_shift says true, and the logits differ");
        }
    }
}

unsafe fn shared_with_a_fork() {
    let context = context_with(tiny(), |params| params.kv_unified = true);
    decode(context, 0, 0, &text(1, 5));
    let memory = llama_get_memory(context);
    llama_memory_seq_cp(memory, 0, 1, -1, -1);
    llama_memory_seq_add(memory, 0, 0, -1, 3);
    let first = llama_memory_seq_pos_min(memory, 1);
    if first != 0 {
        wrong(&format!("sequence 1 begins at {first} after a shift of sequence 0"));
    }
}

unsafe fn onto_others() {
    let model = tiny();
    let context = context(model);
    let tokens = text(1, 8);
    decode(context, 0, 0, &tokens);
    llama_memory_seq_add(llama_get_memory(context), 0, 4, -1, -4);
    if llama_decode(context, Arrays::new(0, 4, &[7]).batch()) == 0 {
        let meant = [&tokens[4..], &[7]].concat();
        wrong_if_different(
            &logits(context, -1),
            &alone(model, &meant),
            "llama_decode returns 0, and the logits differ",
        );
    }
}

unsafe fn below_zero() {
    let context = context(tiny());
    decode(context, 0, 0, &text(1, 5));
    let memory = llama_get_memory(context);
    llama_memory_seq_add(memory, 0, 0, -1, -9);
    let last = llama_memory_seq_pos_max(memory, 0);
    if last == -1 {
        wrong("a shift by -9 emptied a sequence of 5");
    }
}

unsafe fn quantised_keys() {
    let context = context_with(tiny(), |params| params.type_k = GGML_TYPE_Q4_0);
    decode(context, 0, 0, &text(1, 50));
    let memory = llama_get_memory(context);
    llama_memory_seq_rm(memory, 0, 0, 1);
    llama_memory_seq_add(memory, 0, 1, -1, -1);
    llama_decode(context, Arrays::new(0, 49, &[7]).batch());
}

unsafe fn saved_before_it_is_carried_out() {
    let model = tiny();
    let context = context(model);
    decode(context, 0, 0, &text(1, 9));
    let memory = llama_get_memory(context);
    llama_memory_seq_rm(memory, 0, 0, 3);
    llama_memory_seq_add(memory, 0, 3, -1, -3);
    let mut state = vec![0_u8; llama_state_seq_get_size(context, 0)];
    llama_state_seq_get_data(context, state.as_mut_ptr(), state.len(), 0);
    llama_state_seq_set_data(context, state.as_ptr(), state.len(), 1);
    let mut arrays = Arrays::new(0, 6, &[7]);
    arrays.add(1, 6, &[7]);
    llama_decode(context, arrays.batch());
    wrong_if_different(
        &logits(context, 1),
        &logits(context, 0),
        "what was restored has other logits than what was saved",
    );
}
