//! Saved states.

use batch_suite::{exact_params, model as safe_model, prompt};
use fixtures::{Family, Llama, Weights};
use llama_safe::{Context, State, StateError};
use llama_sys::*;

use crate::child::wrong;
use crate::raw::{alone, context, decode, family, file, guarded, logits, model, text, tiny, wrong_if_different};
use crate::row::{Group, Outcome, Row, Safe};
use crate::safe::{Setup, told};

pub const ROWS: &[Row] = &[
    Row {
        group: Group::States,
        name: "of_other_weights",
        done: "a sequence saved with one model is restored with another of the same shape",
        functions: &["llama_state_seq_set_data", "llama_state_seq_get_data"],
        operation: "none: it is taken, and computed on with",
        outcome: Outcome::Wrong { at: "llama-context.cpp:3456" },
        raw: of_other_weights,
        safe: Safe::Refused {
            error: "StateError::OtherModel",
            on: Setup::Tiny,
            attempt: |context| {
                let other = safe_model(&Llama::tiny(), Weights::F32, 2);
                let state = saved(&mut Context::new(&other, &exact_params()).unwrap());
                told(context.restore(&state).map(drop))
            },
        },
    },
    Row {
        group: Group::States,
        name: "of_other_rotation",
        done: "a sequence saved with one base of positions is restored with another",
        functions: &["llama_state_seq_set_data"],
        operation: "none: it is taken, and computed on with",
        outcome: Outcome::Wrong { at: "llama-context.cpp:3456" },
        raw: of_other_rotation,
        safe: Safe::Refused {
            error: "StateError::OtherModel",
            on: Setup::Tiny,
            attempt: |context| {
                let shape = Llama::tiny();
                let other = safe_model(&Llama { rope_base: 2.0 * shape.rope_base, ..shape }, Weights::F32, 1);
                let state = saved(&mut Context::new(&other, &exact_params()).unwrap());
                told(context.restore(&state).map(drop))
            },
        },
    },
    Row {
        group: Group::States,
        name: "altered",
        done: "some saved values are overwritten before the sequence is restored",
        functions: &["llama_state_seq_set_data"],
        operation: "none: the bytes are copied into the cache as they are",
        outcome: Outcome::Wrong { at: "llama-kv-cache.cpp:2529" },
        raw: altered,
        safe: Safe::Refused {
            error: "StateError::Altered",
            on: Setup::Tiny,
            attempt: |context| {
                let mut bytes = saved(context).as_bytes().to_vec();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0xff;
                told(State::from_bytes(bytes))
            },
        },
    },
    Row {
        group: Group::States,
        name: "cut_short",
        done: "half of a saved sequence is restored over one that is in use",
        functions: &["llama_state_seq_set_data"],
        operation: "none: 0 comes back, and what was there before is gone",
        outcome: Outcome::Wrong { at: "llama-context.cpp:3262" },
        raw: cut_short,
        safe: Safe::Refused {
            error: "StateError::Length { .. }",
            on: Setup::Tiny,
            attempt: |context| {
                let state = saved(context);
                told(State::from_bytes(&state.as_bytes()[..state.as_bytes().len() / 2]))
            },
        },
    },
    Row {
        group: Group::States,
        name: "not_a_number",
        done: "a saved value is made NaN, and the sequence restored beside another on unified KV",
        functions: &["llama_state_seq_set_data"],
        operation: "none: the NaN is in the cells that all sequences are computed with",
        outcome: Outcome::Wrong { at: "llama-kv-cache.cpp:2529" },
        raw: not_a_number,
        safe: Safe::Refused {
            error: "StateError::NotFinite { .. }",
            on: Setup::Unified,
            attempt: |context| {
                let mut bytes = saved(context).as_bytes().to_vec();
                let end = bytes.len() - 32;
                bytes[end - 64..end - 60].copy_from_slice(&f32::NAN.to_le_bytes());
                let checksum = blake3::hash(&bytes[..end]);
                bytes[end..].copy_from_slice(checksum.as_bytes());
                told(State::from_bytes(bytes).and_then(|state| context.restore(&state).map(drop)))
            },
        },
    },
    Row {
        group: Group::States,
        name: "garbage_extended",
        done: "bytes that are no state are restored with the extended call, to be kept on the device",
        functions: &["llama_state_seq_set_data_ext", "llama_state_seq_get_data_ext", "llama_state_seq_get_size_ext"],
        operation: "none: it throws before its handler begins",
        outcome: Outcome::Exception {
            kind: "std::runtime_error",
            says: "wrong sequence state magic",
            at: "llama-context.cpp:3235",
        },
        raw: garbage_extended,
        safe: Safe::Refused {
            error: "StateError::NotAState { .. }",
            on: Setup::Tiny,
            attempt: |_| told(State::from_bytes(vec![7_u8; 4096])),
        },
    },
    Row {
        group: Group::States,
        name: "of_a_device_that_kept_none",
        done: "a state that says that it is kept on the device is restored in a context that kept none",
        functions: &["llama_state_seq_set_data_ext"],
        operation: "none: it is asserted",
        outcome: Outcome::Assertion {
            at: "llama-context.cpp:3241",
            says: "GGML_ASSERT(mem_storage.find(seq_id_read) != mem_storage.end()) failed",
        },
        raw: of_a_device_that_kept_none,
        safe: Safe::Unwritable { file: "state.rs", line: "context.save_on_device(" },
    },
    Row {
        group: Group::States,
        name: "two_cells_of_a_state",
        done: "a recurrent state that says that it has two cells",
        functions: &["llama_state_seq_set_data"],
        operation: "none: it is asserted",
        outcome: Outcome::Assertion {
            at: "llama-memory-recurrent.cpp:1053",
            says: "GGML_ASSERT(cells[head].pos == ubatch.pos[0]) failed",
        },
        raw: two_cells_of_a_state,
        safe: Safe::Refused {
            error: "StateError::Malformed { .. }",
            on: Setup::Of(Family::Mamba),
            attempt: |context| {
                let mut bytes = saved(context).as_bytes().to_vec();
                let end = bytes.len() - 32;
                // The count of cells comes first in llama.cpp's bytes, which begin here.
                bytes[168 + CELLS..168 + CELLS + 4].copy_from_slice(&2_u32.to_le_bytes());
                let checksum = blake3::hash(&bytes[..end]);
                bytes[end..].copy_from_slice(checksum.as_bytes());
                told(State::from_bytes(bytes).and_then(|state| context.restore(&state).map(drop)))
            },
        },
    },
    Row {
        group: Group::States,
        name: "larger_than_its_buffer",
        done: "a state is written to a buffer that is said to be larger than it is",
        functions: &["llama_state_seq_get_data", "llama_state_get_data", "llama_copy_state_data"],
        operation: "out-of-bounds write",
        outcome: Outcome::GuardPage { array: "destination", at: "llama-context.cpp:2711" },
        raw: larger_than_its_buffer,
        safe: Safe::Unwritable { file: "state.rs", line: "context.save_on_device(" },
    },
    Row {
        group: Group::States,
        name: "longer_than_it_is",
        done: "a state is said to be longer than it is",
        functions: &["llama_state_set_data", "llama_set_state_data", "llama_get_state_size"],
        operation: "out-of-bounds read",
        outcome: Outcome::GuardPage { array: "state", at: "llama-context.cpp:2763" },
        raw: longer_than_it_is,
        safe: Safe::Refused {
            error: "StateError::Length { .. }",
            on: Setup::Tiny,
            attempt: |context| {
                let state = saved(context);
                told(State::from_bytes([state.as_bytes(), &[0; 100]].concat()))
            },
        },
    },
    Row {
        group: Group::States,
        name: "into_a_sequence_out_of_range",
        done: "a sequence is restored as number 300",
        functions: &["llama_state_seq_set_data"],
        operation: "none: it is asserted",
        outcome: Outcome::Assertion {
            at: "llama-kv-cache.cpp:2159",
            says: "GGML_ASSERT(seq_id == -1 || (seq_id >= 0 && (size_t) seq_id < seq_to_stream.size())) failed",
        },
        raw: into_a_sequence_out_of_range,
        safe: Safe::Refused {
            error: "StateError::NotEnoughSequences { needed: 1, free: 0 }",
            on: Setup::Tiny,
            attempt: |context| {
                let state = saved(context);
                let held = [context.new_sequence().unwrap(), context.new_sequence().unwrap()];
                let error = told(context.restore(&state).map(drop));
                drop(held);
                error
            },
        },
    },
    Row {
        group: Group::States,
        name: "half_of_a_whole_context",
        done: "half of the state of a whole context is restored",
        functions: &["llama_state_set_data", "llama_state_get_size"],
        operation: "none: 0 comes back, and what was there before is gone",
        outcome: Outcome::Wrong { at: "llama-context.cpp:3188" },
        raw: half_of_a_whole_context,
        safe: Safe::Right {
            why: "nothing is touched before all of a state is known to fit",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.extend(&sequence, &prompt(1, 5)).unwrap();
                context.decode(&mut batch).unwrap();
                let state = saved(&mut Setup::Of(Family::Qwen3).context());
                assert!(matches!(context.restore(&state).map(drop), Err(StateError::OtherModel)));
                assert_eq!(context.span(&sequence).unwrap(), 0..5);
            },
        },
    },
    Row {
        group: Group::States,
        name: "file_with_more_behind",
        done: "a sequence is loaded from a file that goes on behind it",
        functions: &["llama_state_seq_load_file", "llama_state_seq_save_file"],
        operation: "none: what is behind it is not looked at",
        outcome: Outcome::Wrong { at: "llama-context.cpp:3373" },
        raw: file_with_more_behind,
        safe: Safe::Refused {
            error: "StateError::Length { .. }",
            on: Setup::Tiny,
            attempt: |context| {
                let state = saved(context);
                told(State::from_bytes([state.as_bytes(), &[0; 8]].concat()))
            },
        },
    },
];

/// Where a recurrent state's count of cells is in llama.cpp's bytes: behind its mark and the sequence's number.
const CELLS: usize = 8;

/// The state of a sequence of five tokens.
fn saved(context: &mut Context) -> State {
    let sequence = context.new_sequence().unwrap();
    let mut batch = context.new_batch();
    batch.extend(&sequence, &prompt(1, 5)).unwrap();
    context.decode(&mut batch).unwrap();
    context.save(&sequence).unwrap()
}

/// The same in C.
unsafe fn state(context: *mut llama_context, sequence: i32) -> Vec<u8> {
    let mut bytes = vec![0_u8; llama_state_seq_get_size(context, sequence)];
    llama_state_seq_get_data(context, bytes.as_mut_ptr(), bytes.len(), sequence);
    bytes
}

unsafe fn filled(model: *mut llama_model) -> *mut llama_context {
    let context = context(model);
    decode(context, 0, 0, &text(1, 5));
    context
}

/// Restores in sequence 1 of a context of the tiny model, and compares what comes next with what should.
unsafe fn goes_on_wrong(bytes: &[u8]) {
    let model = tiny();
    let context = context(model);
    if llama_state_seq_set_data(context, bytes.as_ptr(), bytes.len(), 1) == bytes.len() {
        decode(context, 1, 5, &[7]);
        let meant = [text(1, 5), vec![7]].concat();
        wrong_if_different(&logits(context, -1), &alone(model, &meant), "it is taken, and the logits differ");
    }
}

unsafe fn of_other_weights() {
    let other = Llama::tiny().gguf(Weights::F32, 2).expect("a shape that holds together");
    goes_on_wrong(&state(filled(model(&other)), 0));
}

unsafe fn of_other_rotation() {
    let shape = Llama::tiny();
    let other = Llama { rope_base: 2.0 * shape.rope_base, ..shape }.gguf(Weights::F32, 1);
    goes_on_wrong(&state(filled(model(&other.expect("a shape that holds together"))), 0));
}

unsafe fn altered() {
    let mut bytes = state(filled(tiny()), 0);
    let end = bytes.len();
    // The last four bytes say how many states of another kind follow.
    bytes[end - 132..end - 4].fill(0x41);
    goes_on_wrong(&bytes);
}

unsafe fn cut_short() {
    let context = filled(tiny());
    let bytes = state(context, 0);
    decode(context, 1, 0, &text(2, 9));
    let read = llama_state_seq_set_data(context, bytes.as_ptr(), bytes.len() / 2, 1);
    let last = llama_memory_seq_pos_max(llama_get_memory(context), 1);
    if read == 0 && last != 8 {
        wrong(&format!("0 is returned, and the sequence of 9 tokens ends at {last}"));
    }
}

unsafe fn not_a_number() {
    let context = crate::raw::context_with(tiny(), |params| params.kv_unified = true);
    decode(context, 0, 0, &text(1, 5));
    let mut bytes = state(context, 0);
    let end = bytes.len();
    bytes[end - 64..end - 60].copy_from_slice(&f32::NAN.to_le_bytes());
    let memory = llama_get_memory(context);
    llama_memory_seq_rm(memory, 0, -1, -1);
    llama_state_seq_set_data(context, bytes.as_ptr(), bytes.len(), 1);
    llama_memory_seq_rm(memory, 1, -1, -1);
    // In other cells than those, which are empty again.
    decode(context, 0, 0, &text(2, 2));
    if logits(context, -1).iter().any(|logit| logit.is_nan()) {
        wrong("the logits of another sequence are NaN, after the restored one was removed");
    }
}

unsafe fn garbage_extended() {
    let bytes = [7_u8; 4096];
    llama_state_seq_set_data_ext(context(tiny()), bytes.as_ptr(), bytes.len(), 0, LLAMA_STATE_SEQ_FLAGS_ON_DEVICE);
}

unsafe fn of_a_device_that_kept_none() {
    let bytes = state(filled(tiny()), 0);
    llama_state_seq_set_data_ext(context(tiny()), bytes.as_ptr(), bytes.len(), 0, LLAMA_STATE_SEQ_FLAGS_ON_DEVICE);
}

unsafe fn two_cells_of_a_state() {
    let model = family(Family::Mamba);
    let mut bytes = state(filled(model), 0);
    bytes[CELLS..CELLS + 4].copy_from_slice(&2_u32.to_le_bytes());
    // A second cell behind the first, at position 5 and of no sequence by name.
    bytes.splice(CELLS + 12..CELLS + 12, [5, 0, 0, 0, 0, 0, 0, 0]);
    llama_state_seq_set_data(context(model), bytes.as_ptr(), bytes.len(), 1);
}

unsafe fn larger_than_its_buffer() {
    let context = filled(tiny());
    let buffer = guarded("destination", &[0_u8; 64]);
    llama_state_seq_get_data(context, buffer, 1 << 20, 0);
}

unsafe fn longer_than_it_is() {
    let context = filled(tiny());
    let mut bytes = vec![0_u8; llama_state_get_size(context)];
    llama_state_get_data(context, bytes.as_mut_ptr(), bytes.len());
    let half = guarded("state", &bytes[..bytes.len() / 2]);
    llama_state_set_data(context, half, bytes.len());
}

unsafe fn into_a_sequence_out_of_range() {
    let context = filled(tiny());
    let bytes = state(context, 0);
    llama_state_seq_set_data(context, bytes.as_ptr(), bytes.len(), 300);
}

unsafe fn half_of_a_whole_context() {
    let context = filled(tiny());
    let mut bytes = vec![0_u8; llama_state_get_size(context)];
    llama_state_get_data(context, bytes.as_mut_ptr(), bytes.len());
    let read = llama_state_set_data(context, bytes.as_ptr(), bytes.len() / 2);
    let last = llama_memory_seq_pos_max(llama_get_memory(context), 0);
    if read == 0 && last != 4 {
        wrong(&format!("0 is returned, and the sequence of 5 tokens ends at {last}"));
    }
}

unsafe fn file_with_more_behind() {
    let context = filled(tiny());
    let path = file(b"");
    llama_state_seq_save_file(context, path.as_ptr(), 0, text(1, 5).as_ptr(), 5);
    let mut bytes = std::fs::read(path.to_str().expect("a path")).expect("what was written");
    bytes.extend([0; 8]);
    let path = file(&bytes);
    let (mut tokens, mut count) = ([0; 8], 0);
    let read = llama_state_seq_load_file(context, path.as_ptr(), 1, tokens.as_mut_ptr(), 8, &raw mut count);
    if read != 0 {
        wrong(&format!("taken, without a word of the {} bytes behind it", bytes.len() - read));
    }
}
