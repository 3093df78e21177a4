//! Functions of the caller's that llama.cpp calls.

use std::ffi::{c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use fixtures::{Llama, Weights};
use llama_safe::{Model, ModelParams};
use llama_sys::*;

use crate::child::wrong;
use crate::raw::{Arrays, alone, context, context_with, file, logits, text, tiny, wrong_if_different};
use crate::row::{Group, Outcome, Row, Safe};
use crate::safe::Setup;

/// What Rust says where a panic would leave a function that C has called.
const CANNOT: &str = "panic in a function that cannot unwind";

/// There is no such callback.
const NO_CALLBACK: Safe = Safe::Unwritable { file: "context.rs", line: "context.set_eval_callback(" };

pub const ROWS: &[Row] = &[
    Row {
        group: Group::Callbacks,
        name: "progress_panics",
        done: "a callback that panics is told how far the loading is",
        functions: &["llama_model_load_from_file"],
        operation: "none: the process ends, as no panic may cross C",
        outcome: Outcome::Panic { says: CANNOT, at: "llama-model-loader.cpp:1632" },
        raw: progress_panics,
        safe: Safe::Right {
            why: "the panic is caught, the loading cancelled, and the panic goes on after it",
            on: Setup::Tiny,
            attempt: |_| {
                let gguf = Llama::tiny().gguf(Weights::F32, 1).unwrap();
                let load =
                    || Model::from_bytes_with_progress(&gguf, &ModelParams::default(), |_| panic!("in the middle"));
                let panic = catch_unwind(AssertUnwindSafe(load)).map(drop).unwrap_err();
                assert_eq!(panic.downcast_ref::<&str>(), Some(&"in the middle"));
            },
        },
    },
    Row {
        group: Group::Callbacks,
        name: "abort_panics",
        done: "a callback that panics is asked whether to stop",
        functions: &["llama_decode", "llama_set_abort_callback"],
        operation: "none: the process ends, as no panic may cross C",
        outcome: Outcome::Panic { says: CANNOT, at: "ggml-cpu.c:3151" },
        raw: abort_panics,
        safe: NO_CALLBACK,
    },
    Row {
        group: Group::Callbacks,
        name: "abort_unwinds",
        done: "a callback that may unwind panics, and the panic is caught above llama_decode",
        functions: &["llama_decode", "llama_set_abort_callback"],
        operation: "frames of C are left without being ended: what they had begun stays as it is",
        outcome: Outcome::Wrong { at: "llama-context.cpp:1893" },
        raw: abort_unwinds,
        safe: NO_CALLBACK,
    },
    Row {
        group: Group::Callbacks,
        name: "evaluation_panics",
        done: "a callback that panics is shown each result of the graph",
        functions: &["llama_decode", "llama_init_from_model"],
        operation: "none: the process ends, as no panic may cross C",
        outcome: Outcome::Panic { says: CANNOT, at: "ggml-backend.cpp:1965" },
        raw: evaluation_panics,
        safe: NO_CALLBACK,
    },
    Row {
        group: Group::Callbacks,
        name: "log_panics",
        done: "a callback that panics is given a line of the log",
        functions: &["llama_model_load_from_file", "llama_log_set", "llama_log_get"],
        operation: "none: the process ends, as no panic may cross C",
        outcome: Outcome::Panic { says: CANNOT, at: "llama-impl.cpp:67" },
        raw: log_panics,
        safe: Safe::Right {
            why: "lines go to `tracing`; a subscriber that panics is caught",
            on: Setup::Tiny,
            attempt: |context| {
                let panicking = tracing::subscriber::with_default(Panics, || {
                    let model = Model::from_bytes(b"GGUF and so on", &ModelParams::default());
                    model.map(drop).is_err()
                });
                assert!(panicking && context.limits().sequences() == 2);
            },
        },
    },
    Row {
        group: Group::Callbacks,
        name: "weights_panic",
        done: "the function that gives a model its weights panics",
        functions: &["llama_model_init_from_user"],
        operation: "none: the process ends, as no panic may cross C",
        outcome: Outcome::Panic { says: CANNOT, at: "llama-model-loader.cpp:1501" },
        raw: weights_panic,
        safe: Safe::Right {
            why: "the panic is caught, and goes on after the loading",
            on: Setup::Tiny,
            attempt: |_| {
                let header = metadata();
                let load = || Model::generate(&header, &ModelParams::default(), |_, _| panic!("in the middle"));
                let panic = catch_unwind(AssertUnwindSafe(load)).map(drop).unwrap_err();
                assert_eq!(panic.downcast_ref::<&str>(), Some(&"in the middle"));
            },
        },
    },
    Row {
        group: Group::Callbacks,
        name: "decodes_in_the_middle_of_a_decode",
        done: "a callback that is asked whether to stop decodes another sequence of the same context",
        functions: &["llama_decode", "llama_set_abort_callback"],
        operation: "the second builds its graph where the first one's is being computed",
        outcome: Outcome::Wrong { at: "llama-context.cpp:1463" },
        raw: decodes_in_the_middle_of_a_decode,
        safe: NO_CALLBACK,
    },
];

/// A subscriber that panics on every event.
struct Panics;

impl tracing::Subscriber for Panics {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        panic!("in a subscriber");
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// A model of one layer, as metadata alone.
fn metadata() -> Vec<u8> {
    let mut gguf = fixtures::gguf::Gguf::default();
    gguf.set("general.architecture", "llama");
    let numbers = [
        ("context_length", 64),
        ("embedding_length", 32),
        ("block_count", 1),
        ("feed_forward_length", 64),
        ("attention.head_count", 2),
        ("vocab_size", 16),
    ];
    for (key, value) in numbers {
        gguf.set(format!("llama.{key}"), value as u32);
    }
    gguf.set("llama.attention.layer_norm_rms_epsilon", 1e-5_f32);
    gguf.set("tokenizer.ggml.model", "none");
    gguf.header()
}

unsafe extern "C" fn progress(_: f32, _: *mut c_void) -> bool {
    panic!("in the middle");
}

unsafe fn progress_panics() {
    let gguf = Llama::tiny().gguf(Weights::F32, 1).expect("a shape that holds together");
    crate::raw::try_model(&gguf, |params| params.progress_callback = Some(progress));
}

unsafe extern "C" fn asked(_: *mut c_void) -> bool {
    panic!("in the middle");
}

unsafe fn abort_panics() {
    let context = context(tiny());
    llama_set_abort_callback(context, Some(asked), std::ptr::null_mut());
    llama_decode(context, Arrays::new(0, 0, &text(1, 3)).batch());
}

unsafe extern "C-unwind" fn asked_and_unwinds(_: *mut c_void) -> bool {
    std::panic::resume_unwind(Box::new("in the middle"));
}

unsafe extern "C-unwind" fn decode_that_unwinds(context: *mut llama_context, batch: llama_batch) -> i32 {
    // The binding says that it does not unwind.
    let decode = std::mem::transmute::<
        unsafe extern "C" fn(*mut llama_context, llama_batch) -> i32,
        unsafe extern "C-unwind" fn(*mut llama_context, llama_batch) -> i32,
    >(llama_decode);
    decode(context, batch)
}

unsafe fn abort_unwinds() {
    let model = tiny();
    let context = context(model);
    let asked = std::mem::transmute::<
        unsafe extern "C-unwind" fn(*mut c_void) -> bool,
        unsafe extern "C" fn(*mut c_void) -> bool,
    >(asked_and_unwinds);
    llama_set_abort_callback(context, Some(asked), std::ptr::null_mut());
    let batch = Arrays::new(0, 0, &text(1, 3)).leak();
    // SAFETY: it is not; the row is about that.
    let unwound = catch_unwind(|| unsafe { decode_that_unwinds(context, batch) });
    llama_set_abort_callback(context, None, std::ptr::null_mut());
    let held = llama_memory_seq_pos_max(llama_get_memory(context), 0) + 1;
    if unwound.is_err() && held != 0 {
        wrong(&format!("{held} tokens are in memory that were never computed"));
    }
}

unsafe extern "C" fn shown(_: *mut ggml_tensor, _: bool, _: *mut c_void) -> bool {
    panic!("in the middle");
}

unsafe fn evaluation_panics() {
    let context = context_with(tiny(), |params| params.cb_eval = Some(shown));
    llama_decode(context, Arrays::new(0, 0, &text(1, 3)).batch());
}

unsafe extern "C" fn logged(_: ggml_log_level, _: *const c_char, _: *mut c_void) {
    panic!("in the middle");
}

unsafe fn log_panics() {
    llama_log_set(Some(logged), std::ptr::null_mut());
    tiny();
}

unsafe extern "C" fn weights(_: *mut ggml_tensor, _: *mut c_void) {
    panic!("in the middle");
}

unsafe fn weights_panic() {
    let params = gguf_init_params { no_alloc: true, ctx: std::ptr::null_mut() };
    let parsed = gguf_init_from_file(file(&metadata()).as_ptr(), params);
    llama_model_init_from_user(parsed, Some(weights), std::ptr::null_mut(), llama_model_default_params());
}

unsafe extern "C" fn decodes(context: *mut c_void) -> bool {
    let context = context.cast::<llama_context>();
    llama_set_abort_callback(context, None, std::ptr::null_mut());
    llama_decode(context, Arrays::new(1, 0, &text(2, 20)).batch());
    false
}

unsafe fn decodes_in_the_middle_of_a_decode() {
    let model = tiny();
    let context = context(model);
    llama_set_abort_callback(context, Some(decodes), context.cast());
    if llama_decode(context, Arrays::new(0, 0, &text(1, 8)).batch()) == 0 {
        wrong_if_different(&logits(context, -1), &alone(model, &text(1, 8)), "0, and the logits differ");
    }
}
