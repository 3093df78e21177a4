//! What is no context, or no longer one.

use std::ptr;

use llama_sys::*;

use crate::raw::{self, Arrays, context, decode, tiny};
use crate::row::{Group, Outcome, Row, Safe};

pub const ROWS: &[Row] = &[
    Row {
        group: Group::Handles,
        name: "another_object",
        done: "the address of an object of the wrapper's own is cast to a context, and three tokens are decoded with it",
        functions: &["llama_decode"],
        operation: "the object's bytes are read as a context's, and followed as pointers",
        outcome: Outcome::Segfault { at: "llama-batch.cpp:1128" },
        raw: another_object,
        safe: Safe::Unwritable { file: "context.rs", line: "handle.into()" },
    },
    Row {
        group: Group::Handles,
        name: "another_object_encodes",
        done: "the same with llama_encode, as a test of the wrapper did",
        functions: &["llama_encode"],
        operation: "the object's bytes are read as a context's, and followed as pointers",
        outcome: Outcome::Segfault { at: "llama-batch.cpp:1128" },
        raw: another_object_encodes,
        safe: Safe::Unwritable { file: "context.rs", line: "handle.into()" },
    },
    Row {
        group: Group::Handles,
        name: "null_context",
        done: "a batch is decoded with the NULL that a refused llama_init_from_model returned",
        functions: &["llama_decode", "llama_init_from_model"],
        operation: "read through NULL",
        outcome: Outcome::Segfault { at: "llama-batch.cpp:1123" },
        raw: null_context,
        safe: Safe::Unwritable { file: "context.rs", line: "handle.into()" },
    },
    Row {
        group: Group::Handles,
        name: "vocabulary_of_no_model",
        done: "the vocabulary of the NULL that a refused llama_model_load_from_file returned is asked for its size",
        functions: &["llama_vocab_n_tokens", "llama_model_get_vocab", "llama_n_vocab"],
        operation: "an address a little above NULL, which llama_model_get_vocab returns, is read",
        outcome: Outcome::Segfault { at: "llama-vocab.cpp:4007" },
        raw: vocabulary_of_no_model,
        safe: Safe::Unwritable { file: "model/mod.rs", line: "handle.into()" },
    },
    Row {
        group: Group::Handles,
        name: "decode_after_free",
        done: "a context is freed, and a batch decoded with it",
        functions: &["llama_decode", "llama_free"],
        operation: "use after free",
        outcome: Outcome::Segfault { at: "llama-vocab.cpp:4007" },
        raw: decode_after_free,
        safe: Safe::Unwritable { file: "context.rs", line: "drop(context);" },
    },
    Row {
        group: Group::Handles,
        name: "free_twice",
        done: "a context is freed twice",
        functions: &["llama_free"],
        operation: "double free",
        outcome: Outcome::Segfault { at: "ggml-backend.cpp:2190" },
        raw: free_twice,
        safe: Safe::Unwritable { file: "context.rs", line: "drop(context);" },
    },
    Row {
        group: Group::Handles,
        name: "free_model_twice",
        done: "a model is freed twice",
        functions: &["llama_model_free", "llama_free_model"],
        operation: "double free",
        outcome: Outcome::Segfault { at: "llama-model.cpp:2958" },
        raw: free_model_twice,
        safe: Safe::Unwritable { file: "model/mod.rs", line: "drop(model);" },
    },
];

/// What a server object of a wrapper could look like: numbers, and pointers to something else.
fn server() -> *mut llama_context {
    Box::leak(Box::new([0_u64; 4096])).as_mut_ptr().cast()
}

unsafe fn another_object() {
    llama_decode(server(), Arrays::new(0, 0, &[1, 2, 3]).batch());
}

unsafe fn another_object_encodes() {
    llama_encode(server(), Arrays::new(0, 0, &[1, 2, 3]).batch());
}

unsafe fn null_context() {
    let context = raw::try_context(tiny(), |params| params.n_seq_max = 100_000);
    llama_decode(if context.is_null() { ptr::null_mut() } else { return }, Arrays::new(0, 0, &[1, 2, 3]).batch());
}

unsafe fn vocabulary_of_no_model() {
    let model = raw::try_model(b"no model at all", |_| {});
    llama_vocab_n_tokens(llama_model_get_vocab(model));
}

unsafe fn decode_after_free() {
    let context = context(tiny());
    decode(context, 0, 0, &[1, 2, 3]);
    llama_free(context);
    llama_decode(context, Arrays::new(0, 3, &[4]).batch());
}

unsafe fn free_twice() {
    let context = context(tiny());
    llama_free(context);
    llama_free(context);
}

unsafe fn free_model_twice() {
    let model = tiny();
    llama_model_free(model);
    llama_model_free(model);
}
