//! Operations on the memory of sequences.

use batch_suite::prompt;
use fixtures::Family;

use llama_sys::*;

use crate::child::wrong;
use crate::raw::{Arrays, alone, context, context_with, decode, family, logits, text, tiny, wrong_if_different};
use crate::row::{Group, Outcome, Row, Safe};
use crate::safe::{Setup, told};

/// An id cannot be made up.
const NO_IDS: Safe = Safe::Refused {
    error: "SequenceError::Foreign { id: SeqId { slot: 0, generation: 0 } }",
    on: Setup::Tiny,
    attempt: |context| {
        let mut other = Setup::Tiny.context();
        let sequence = other.new_sequence().unwrap();
        assert!(context.truncate(&sequence, 0).is_err());
        assert!(context.clear(&sequence).is_err());
        assert!(context.fork(&sequence).is_err());
        assert!(context.shift(&sequence, 0..1).is_err());
        told(context.span(&sequence))
    },
};

/// The same on another kind of memory.
const NO_IDS_RECURRENT: Safe = Safe::Refused {
    error: "SequenceError::Foreign { id: SeqId { slot: 0, generation: 0 } }",
    on: Setup::Of(Family::Mamba),
    attempt: |context| {
        let mut other = Setup::Of(Family::Mamba).context();
        let sequence = other.new_sequence().unwrap();
        assert!(context.fork(&sequence).is_err());
        told(context.span(&sequence))
    },
};

/// An assertion of the cache on an id.
const fn asserts(at: &'static str, says: &'static str) -> Outcome {
    Outcome::Assertion { at, says }
}

const RM: &str = "GGML_ASSERT(seq_id == -1 || (seq_id >= 0 && (size_t) seq_id < seq_to_stream.size())) failed";
const ID: &str = "GGML_ASSERT(seq_id >= 0 && (size_t) seq_id < seq_to_stream.size()) failed";
const SOURCE: &str = "GGML_ASSERT(seq_id_src >= 0 && (size_t) seq_id_src < seq_to_stream.size()) failed";
const TARGET: &str = "GGML_ASSERT(seq_id_dst >= 0 && (size_t) seq_id_dst < seq_to_stream.size()) failed";

/// A row about an id that is out of range.
macro_rules! out_of_range {
    ($name:ident, $function:literal, $done:literal, $at:literal, $says:expr, $memory:ident => $call:expr) => {
        Row {
            group: Group::Memory,
            name: stringify!($name),
            done: $done,
            functions: &[$function],
            operation: "none: it is asserted that the id has a stream of cells",
            outcome: asserts($at, $says),
            raw: {
                unsafe fn raw() {
                    let $memory = llama_get_memory(context(tiny()));
                    $call;
                }
                raw
            },
            safe: NO_IDS,
        }
    };
}

pub const ROWS: &[Row] = &[
    out_of_range!(remove_id_out_of_range, "llama_memory_seq_rm", "a part of sequence 300 is removed",
        "llama-kv-cache.cpp:407", RM, memory => llama_memory_seq_rm(memory, 300, 0, -1)),
    out_of_range!(remove_negative_id, "llama_memory_seq_rm", "a part of sequence -2 is removed",
        "llama-kv-cache.cpp:407", RM, memory => llama_memory_seq_rm(memory, -2, 0, -1)),
    out_of_range!(copy_from_id_out_of_range, "llama_memory_seq_cp", "sequence 300 is copied",
        "llama-kv-cache.cpp:475", SOURCE, memory => llama_memory_seq_cp(memory, 300, 0, -1, -1)),
    out_of_range!(copy_to_id_out_of_range, "llama_memory_seq_cp", "a sequence is copied to 300",
        "llama-kv-cache.cpp:476", TARGET, memory => llama_memory_seq_cp(memory, 0, 300, -1, -1)),
    out_of_range!(keep_id_out_of_range, "llama_memory_seq_keep", "all but sequence 300 is removed",
        "llama-kv-cache.cpp:567", ID, memory => llama_memory_seq_keep(memory, 300)),
    out_of_range!(shift_id_out_of_range, "llama_memory_seq_add", "sequence 300 is shifted",
        "llama-kv-cache.cpp:594", ID, memory => llama_memory_seq_add(memory, 300, 0, -1, -1)),
    out_of_range!(divide_id_out_of_range, "llama_memory_seq_div", "the positions of sequence 300 are divided",
        "llama-kv-cache.cpp:644", ID, memory => llama_memory_seq_div(memory, 300, 0, -1, 2)),
    out_of_range!(first_of_id_out_of_range, "llama_memory_seq_pos_min", "sequence 300 is asked for its first position",
        "llama-kv-cache.cpp:683", ID, memory => llama_memory_seq_pos_min(memory, 300)),
    out_of_range!(last_of_id_out_of_range, "llama_memory_seq_pos_max", "sequence 300 is asked for its last position",
        "llama-kv-cache.cpp:696", ID, memory => llama_memory_seq_pos_max(memory, 300)),
    Row {
        group: Group::Memory,
        name: "first_of_any",
        done: "the first position of all sequences is asked for, -1 as for llama_memory_seq_rm",
        functions: &["llama_memory_seq_pos_min"],
        operation: "none: -1 means any sequence in one function alone",
        outcome: asserts("llama-kv-cache.cpp:683", ID),
        raw: first_of_any,
        safe: NO_IDS,
    },
    Row {
        group: Group::Memory,
        name: "divide_by_zero",
        done: "positions are divided by 0",
        functions: &["llama_memory_seq_div"],
        operation: "division by zero",
        outcome: Outcome::Division { at: "llama-kv-cells.h:485" },
        raw: divide_by_zero,
        safe: Safe::Unwritable { file: "memory.rs", line: "context.divide(" },
    },
    Row {
        group: Group::Memory,
        name: "divide_recurrent_by_zero",
        done: "the position of a recurrent state is divided by 0",
        functions: &["llama_memory_seq_div"],
        operation: "division by zero",
        outcome: Outcome::Division { at: "llama-memory-recurrent.cpp:384" },
        raw: divide_recurrent_by_zero,
        safe: Safe::Unwritable { file: "memory.rs", line: "context.divide(" },
    },
    Row {
        group: Group::Memory,
        name: "remove_the_middle",
        done: "tokens 2 to 5 of 8 are removed, and the sequence goes on at 8",
        functions: &["llama_memory_seq_rm", "llama_decode"],
        operation: "none: a hole stays, and what follows is not what the remaining tokens give",
        outcome: Outcome::Wrong { at: "llama-kv-cache.cpp:423" },
        raw: remove_the_middle,
        safe: Safe::Right {
            why: "truncate takes from the end; shift takes from within, and closes the gap",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.extend(&sequence, &prompt(1, 8)).unwrap();
                context.decode(&mut batch).unwrap();
                context.shift(&sequence, 2..5).unwrap();
                assert_eq!(context.span(&sequence).unwrap(), 0..5);
            },
        },
    },
    Row {
        group: Group::Memory,
        name: "remove_a_part_of_a_state",
        done: "the last token of a recurrent sequence is removed, and false is overlooked",
        functions: &["llama_memory_seq_rm", "llama_decode"],
        operation: "none: nothing is removed, and the next token is refused or computed behind the old one",
        outcome: Outcome::Wrong { at: "llama-memory-recurrent.cpp:215" },
        raw: remove_a_part_of_a_state,
        safe: Safe::Refused {
            error: "MemoryError::CannotTruncate { id: SeqId { slot: 0, generation: 0 }, length: 4, obstacle: State { rollback: 0 } }",
            on: Setup::Of(Family::Mamba),
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.extend(&sequence, &prompt(1, 5)).unwrap();
                context.decode(&mut batch).unwrap();
                told(context.truncate(&sequence, 4))
            },
        },
    },
    Row {
        group: Group::Memory,
        name: "remove_a_part_of_a_hybrid",
        done: "the last token of a hybrid sequence is removed, and false is overlooked",
        functions: &["llama_memory_seq_rm", "llama_decode"],
        operation: "none: nothing is removed, and the caller's next position is refused",
        outcome: Outcome::Wrong { at: "llama-memory-hybrid.cpp:146" },
        raw: remove_a_part_of_a_hybrid,
        safe: Safe::Refused {
            error: "MemoryError::CannotTruncate { id: SeqId { slot: 0, generation: 0 }, length: 4, obstacle: State { rollback: 0 } }",
            on: Setup::Of(Family::Hybrid),
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.extend(&sequence, &prompt(1, 5)).unwrap();
                context.decode(&mut batch).unwrap();
                told(context.truncate(&sequence, 4))
            },
        },
    },
    Row {
        group: Group::Memory,
        name: "recurrent_id_out_of_range",
        done: "sequence 300 of a recurrent memory of two is copied",
        functions: &["llama_memory_seq_cp"],
        operation: "none: nothing is copied, and nothing is said",
        outcome: Outcome::Wrong { at: "llama-memory-recurrent.cpp:274" },
        raw: recurrent_id_out_of_range,
        safe: NO_IDS_RECURRENT,
    },
    Row {
        group: Group::Memory,
        name: "keep_one_on_split_caches",
        done: "all but sequence 0 is removed, on split KV",
        functions: &["llama_memory_seq_keep"],
        operation: "none: only the cells of sequence 0 are looked at, and the others stay",
        outcome: Outcome::Wrong { at: "llama-kv-cache.cpp:569" },
        raw: keep_one_on_split_caches,
        safe: Safe::Right {
            why: "a sequence goes when its lease is dropped, whatever the layout",
            on: Setup::Tiny,
            attempt: |context| {
                let (one, other) = (context.new_sequence().unwrap(), context.new_sequence().unwrap());
                let mut batch = context.new_batch();
                batch.extend(&one, &prompt(1, 5)).unwrap();
                batch.extend(&other, &prompt(2, 5)).unwrap();
                context.decode(&mut batch).unwrap();
                drop(other);
                let next = context.new_sequence().unwrap();
                assert_eq!(context.span(&next).unwrap(), 0..0);
                assert_eq!(context.span(&one).unwrap(), 0..5);
            },
        },
    },
    Row {
        group: Group::Memory,
        name: "truncate_past_the_end",
        done: "tokens from 100 on are removed of a sequence of 5, and true is taken for done",
        functions: &["llama_memory_seq_rm"],
        operation: "none: true comes back, and nothing is removed",
        outcome: Outcome::Wrong { at: "llama-kv-cache.cpp:466" },
        raw: truncate_past_the_end,
        safe: Safe::Refused {
            error: "MemoryError::OutOfRange { id: SeqId { slot: 0, generation: 0 }, asked: 0..100, length: 5 }",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.extend(&sequence, &prompt(1, 5)).unwrap();
                context.decode(&mut batch).unwrap();
                told(context.truncate(&sequence, 100))
            },
        },
    },
    Row {
        group: Group::Memory,
        name: "of_an_encoder",
        done: "a sequence of an encoder is removed: llama_get_memory returned NULL",
        functions: &["llama_memory_can_shift", "llama_get_memory"],
        operation: "none: every memory operation takes NULL and says that it is done",
        outcome: Outcome::Wrong { at: "llama-context.cpp:4170" },
        raw: of_an_encoder,
        safe: Safe::Refused {
            error: "MemoryError::NoMemory",
            on: Setup::Encoder,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                told(context.fork(&sequence).map(drop))
            },
        },
    },
    Row {
        group: Group::Memory,
        name: "cleared_under_outputs",
        done: "the memory is cleared, and the logits of the decode before are read",
        functions: &["llama_memory_clear", "llama_get_logits_ith"],
        operation: "none: they are still there, of a text that is not",
        outcome: Outcome::Wrong { at: "llama-kv-cache.cpp:387" },
        raw: cleared_under_outputs,
        safe: Safe::Unwritable { file: "memory.rs", line: "context.clear_all()" },
    },
];

unsafe fn first_of_any() {
    llama_memory_seq_pos_min(llama_get_memory(context(tiny())), -1);
}

unsafe fn divide_by_zero() {
    let context = context(tiny());
    decode(context, 0, 0, &text(1, 5));
    llama_memory_seq_div(llama_get_memory(context), 0, 0, -1, 0);
}

unsafe fn divide_recurrent_by_zero() {
    let context = context(family(Family::Mamba));
    decode(context, 0, 0, &text(1, 5));
    llama_memory_seq_div(llama_get_memory(context), 0, 0, -1, 0);
}

unsafe fn remove_the_middle() {
    let model = tiny();
    let context = context(model);
    let tokens = text(1, 8);
    decode(context, 0, 0, &tokens);
    llama_memory_seq_rm(llama_get_memory(context), 0, 2, 5);
    if llama_decode(context, Arrays::new(0, 8, &[7]).batch()) == 0 {
        let left = [&tokens[..2], &tokens[5..], &[7]].concat();
        wrong_if_different(&logits(context, -1), &alone(model, &left), "llama_decode returns 0, and the logits differ");
    }
}

unsafe fn cannot_go_back(which: Family) {
    let context = context(family(which));
    decode(context, 0, 0, &text(1, 5));
    let removed = llama_memory_seq_rm(llama_get_memory(context), 0, 4, -1);
    if !removed && llama_decode(context, Arrays::new(0, 4, &[7]).batch()) == -1 {
        wrong("llama_memory_seq_rm says false, and llama_decode refuses position 4");
    }
}

unsafe fn remove_a_part_of_a_state() {
    cannot_go_back(Family::Mamba);
}

unsafe fn remove_a_part_of_a_hybrid() {
    cannot_go_back(Family::Hybrid);
}

unsafe fn recurrent_id_out_of_range() {
    let context = context(family(Family::Mamba));
    decode(context, 0, 0, &text(1, 5));
    let memory = llama_get_memory(context);
    llama_memory_seq_cp(memory, 0, 300, -1, -1);
    if llama_memory_seq_pos_max(memory, 300) == -1 {
        wrong("llama_memory_seq_cp returned, and the copy is empty");
    }
}

unsafe fn keep_one_on_split_caches() {
    let context = context(tiny());
    decode(context, 0, 0, &text(1, 5));
    decode(context, 1, 0, &text(2, 5));
    let memory = llama_get_memory(context);
    llama_memory_seq_keep(memory, 0);
    let last = llama_memory_seq_pos_max(memory, 1);
    if last != -1 {
        wrong(&format!("sequence 1 ends at {last} after llama_memory_seq_keep of sequence 0"));
    }
}

unsafe fn truncate_past_the_end() {
    let context = context(tiny());
    decode(context, 0, 0, &text(1, 5));
    let memory = llama_get_memory(context);
    if llama_memory_seq_rm(memory, 0, 100, -1) && llama_memory_seq_pos_max(memory, 0) == 4 {
        wrong("llama_memory_seq_rm from 100 on says true of a sequence of 5");
    }
}

unsafe fn of_an_encoder() {
    let context = context_with(crate::raw::encoder(), |params| params.embeddings = true);
    let memory = llama_get_memory(context);
    if memory.is_null() && llama_memory_seq_rm(memory, 7, 3, 5) {
        wrong("llama_memory_seq_rm says true without a memory");
    }
}

unsafe fn cleared_under_outputs() {
    let context = context(tiny());
    decode(context, 0, 0, &text(1, 5));
    let before = logits(context, -1);
    llama_memory_clear(llama_get_memory(context), true);
    if logits(context, -1) == before {
        wrong("the logits of a text that is no longer in memory");
    }
}
