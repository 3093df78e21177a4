//! Two at once.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use llama_sys::*;

use crate::child::wrong;
use crate::raw::{Arrays, alone, context, logits, text, tiny, wrong_if_different};
use crate::row::{Group, Outcome, Row, Safe};

pub const ROWS: &[Row] = &[
    Row {
        group: Group::Threads,
        name: "two_decodes_at_once",
        done: "a second thread decodes another sequence of the context while the first is in the middle of its decode",
        functions: &["llama_decode"],
        operation: "the second builds its graph where the first one's is being computed",
        outcome: Outcome::Wrong { at: "llama-context.cpp:1463" },
        raw: two_decodes_at_once,
        safe: Safe::Unwritable { file: "context.rs", line: "can_be_shared::<llama_safe::Context>" },
    },
    Row {
        group: Group::Threads,
        name: "cleared_by_another",
        done: "a second thread clears the memory while the first is in the middle of its decode",
        functions: &["llama_decode", "llama_memory_clear"],
        operation: "none: the decode goes on, and its tokens are not in memory afterwards",
        outcome: Outcome::Wrong { at: "llama-kv-cache.cpp:387" },
        raw: cleared_by_another,
        safe: Safe::Unwritable { file: "context.rs", line: "can_be_shared::<llama_safe::Context>" },
    },
    Row {
        group: Group::Threads,
        name: "freed_by_another",
        done: "a second thread frees the context while the first is in the middle of its decode",
        functions: &["llama_decode", "llama_free"],
        operation: "use after free",
        outcome: Outcome::Segfault { at: "llama-context.cpp:1463" },
        raw: freed_by_another,
        safe: Safe::Unwritable { file: "context.rs", line: "can_be_shared::<llama_safe::Context>" },
    },
];

/// A pointer that another thread may have; whether it should is the row's business.
#[derive(Clone, Copy)]
struct Shared(*mut llama_context);
// SAFETY: it is not; the row is about that.
unsafe impl Send for Shared {}

impl Shared {
    fn get(self) -> *mut llama_context {
        self.0
    }
}

/// What a second thread does in the middle of the first one's decode, once.
struct Meanwhile {
    context: Shared,
    work: unsafe fn(*mut llama_context),
    done: AtomicBool,
}

unsafe extern "C" fn in_the_middle(data: *mut c_void) -> bool {
    let meanwhile = &*data.cast::<Meanwhile>();
    if !meanwhile.done.swap(true, SeqCst) {
        let (context, work) = (meanwhile.context, meanwhile.work);
        // SAFETY: as sound as the row.
        std::thread::spawn(move || unsafe { work(context.get()) }).join().expect("the second thread");
    }
    false
}

/// Decodes a text in sequence 0, and `work` in a second thread meanwhile.
unsafe fn decode_while(context: *mut llama_context, work: unsafe fn(*mut llama_context)) -> i32 {
    let meanwhile = Box::new(Meanwhile { context: Shared(context), work, done: AtomicBool::new(false) });
    llama_set_abort_callback(context, Some(in_the_middle), Box::into_raw(meanwhile).cast());
    llama_decode(context, Arrays::new(0, 0, &text(1, 8)).batch())
}

unsafe fn two_decodes_at_once() {
    let model = tiny();
    let context = context(model);
    let result = decode_while(context, |context| {
        llama_decode(context, Arrays::new(1, 0, &text(2, 20)).batch());
    });
    if result == 0 {
        wrong_if_different(&logits(context, -1), &alone(model, &text(1, 8)), "0, and the logits differ");
    }
}

unsafe fn cleared_by_another() {
    let context = context(tiny());
    let result = decode_while(context, |context| llama_memory_clear(llama_get_memory(context), true));
    let last = llama_memory_seq_pos_max(llama_get_memory(context), 0);
    if result == 0 && last != 7 {
        wrong(&format!("llama_decode returns 0, and the sequence of 8 tokens ends at {last}"));
    }
}

unsafe fn freed_by_another() {
    decode_while(context(tiny()), |context| llama_free(context));
}
