//! Batches: how they are allocated, filled and freed.

use std::ptr;

use llama_safe::Token;
use llama_sys::*;

use crate::child::wrong;
use crate::raw::{Arrays, alone, context, context_with, family, guarded, logits, text, tiny};
use crate::row::{Group, Outcome, Row, Safe};
use crate::safe::{Setup, told};
use batch_suite::prompt;
use fixtures::Family;

/// A batch of the safe layer has no arrays to get wrong.
const NO_ARRAYS: Safe = Safe::Unwritable { file: "batch.rs", line: "batch.n_seq_id" };

pub const ROWS: &[Row] = &[
    Row {
        group: Group::Batches,
        name: "more_tokens_than_asked_for",
        done: "llama_batch_init for 4 tokens, filled with 64",
        functions: &["llama_batch_init", "llama_batch_free"],
        operation: "heap overflow: writes past each of the arrays, over the allocator's own numbers",
        outcome: Outcome::Heap,
        raw: more_tokens_than_asked_for,
        safe: Safe::Refused {
            error: "PushError::BatchFull { limit: 64, have: 64, adding: 1 }",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.extend(&sequence, &prompt(1, 64)).unwrap();
                told(batch.push(&sequence, Token(1)))
            },
        },
    },
    Row {
        group: Group::Batches,
        name: "more_ids_than_asked_for",
        done: "llama_batch_init with room for one sequence id a token, filled with 64 ids",
        functions: &["llama_batch_init", "llama_batch_free"],
        operation: "heap overflow: writes past the ids of a token, over the allocator's own numbers",
        outcome: Outcome::Heap,
        raw: more_ids_than_asked_for,
        safe: NO_ARRAYS,
    },
    Row {
        group: Group::Batches,
        name: "no_ids_asked_for",
        done: "llama_batch_init with room for no sequence id, one id written all the same",
        functions: &["llama_batch_init", "llama_decode"],
        operation: "heap overflow by one number; the allocator's rounding hides it, and llama_decode returns 0",
        outcome: Outcome::Wrong { at: "llama-batch.cpp:1076" },
        raw: no_ids_asked_for,
        safe: NO_ARRAYS,
    },
    Row {
        group: Group::Batches,
        name: "arrays_left_unfilled",
        done: "llama_batch_init, tokens and positions set, counts and lists of sequence ids left as they came",
        functions: &["llama_decode", "llama_batch_init"],
        operation: "uninitialised numbers are taken for the count of sequence ids, and that many are read",
        outcome: Outcome::Segfault { at: "llama-batch.cpp:1372" },
        raw: arrays_left_unfilled,
        safe: NO_ARRAYS,
    },
    Row {
        group: Group::Batches,
        name: "outputs_left_unfilled",
        done: "llama_batch_init, everything set but the flags of outputs",
        functions: &["llama_decode", "llama_batch_init"],
        operation: "uninitialised bytes are taken for flags: every token has an output, or none",
        outcome: Outcome::Wrong { at: "llama-batch.cpp:1406" },
        raw: outputs_left_unfilled,
        safe: NO_ARRAYS,
    },
    Row {
        group: Group::Batches,
        name: "ids_negative_count",
        done: "a token has -1 sequence ids",
        functions: &["llama_decode"],
        operation: "the token's list of ids is empty, and its first id is read all the same",
        outcome: Outcome::Segfault { at: "llama-batch.cpp:239" },
        raw: ids_negative_count,
        safe: NO_ARRAYS,
    },
    Row {
        group: Group::Batches,
        name: "ids_zero_count",
        done: "every token has 0 sequence ids",
        functions: &["llama_decode"],
        operation: "the list of all ids is empty, and its first is read through NULL",
        outcome: Outcome::Segfault { at: "llama-batch.cpp:239" },
        raw: ids_zero_count,
        safe: NO_ARRAYS,
    },
    Row {
        group: Group::Batches,
        name: "ids_count_too_large",
        done: "a token says that it has 2 sequence ids, and has one",
        functions: &["llama_decode"],
        operation: "out-of-bounds read of the second id",
        outcome: Outcome::GuardPage { array: "seq_id", at: "llama-batch.cpp:1372" },
        raw: ids_count_too_large,
        safe: NO_ARRAYS,
    },
    Row {
        group: Group::Batches,
        name: "ids_missing",
        done: "a token says that it has 300 sequence ids, and the lists of ids are NULL",
        functions: &["llama_decode"],
        operation: "the one default id is read 300 times over: whatever lies behind it in the program's data",
        outcome: Outcome::Wrong { at: "llama-batch.cpp:1366" },
        raw: ids_missing,
        safe: NO_ARRAYS,
    },
    Row {
        group: Group::Batches,
        name: "list_of_ids_is_null",
        done: "the list of ids of the second token is NULL",
        functions: &["llama_decode"],
        operation: "read through NULL",
        outcome: Outcome::Segfault { at: "llama-batch.cpp:1372" },
        raw: list_of_ids_is_null,
        safe: NO_ARRAYS,
    },
    Row {
        group: Group::Batches,
        name: "more_tokens_than_the_array",
        done: "the batch says 8 tokens, the array has 4",
        functions: &["llama_decode"],
        operation: "out-of-bounds read",
        outcome: Outcome::GuardPage { array: "token", at: "llama-batch.cpp:1393" },
        raw: more_tokens_than_the_array,
        safe: NO_ARRAYS,
    },
    Row {
        group: Group::Batches,
        name: "fewer_positions_than_tokens",
        done: "the batch has 8 tokens and 4 positions",
        functions: &["llama_decode"],
        operation: "out-of-bounds read",
        outcome: Outcome::GuardPage { array: "pos", at: "llama-batch.cpp:1379" },
        raw: fewer_positions_than_tokens,
        safe: NO_ARRAYS,
    },
    Row {
        group: Group::Batches,
        name: "fewer_outputs_than_tokens",
        done: "the batch has 8 tokens and 4 flags of outputs",
        functions: &["llama_decode"],
        operation: "out-of-bounds read",
        outcome: Outcome::GuardPage { array: "logits", at: "llama-batch.cpp:1407" },
        raw: fewer_outputs_than_tokens,
        safe: NO_ARRAYS,
    },
    Row {
        group: Group::Batches,
        name: "token_and_embedding",
        done: "a batch has tokens, and embeddings that mean something else",
        functions: &["llama_decode"],
        operation: "none: the embeddings are ignored, and nothing is said",
        outcome: Outcome::Wrong { at: "llama-batch.cpp:68" },
        raw: token_and_embedding,
        safe: Safe::Refused {
            error: "PushError::TakesTokens",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let embedding = vec![0.5; context.limits().input_width() as usize];
                let mut batch = context.new_batch();
                batch.push(&sequence, Token(1)).unwrap();
                told(batch.push_embedding(&sequence, &embedding))
            },
        },
    },
    Row {
        group: Group::Batches,
        name: "embeddings_too_narrow",
        done: "an embedding of half the model's width",
        functions: &["llama_decode"],
        operation: "out-of-bounds read: a row of the model's width is copied",
        outcome: Outcome::GuardPage { array: "embd", at: "llama-batch.cpp:1400" },
        raw: embeddings_too_narrow,
        safe: Safe::Refused {
            error: "PushError::EmbeddingWidth { got: 32, expected: 64 }",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                told(context.new_embedding_batch().push_embedding(&sequence, &[0.5; 32]))
            },
        },
    },
    Row {
        group: Group::Batches,
        name: "embedding_not_a_number",
        done: "an embedding that holds a NaN",
        functions: &["llama_decode"],
        operation: "none: the NaN spreads to every logit, and stays in the keys and values of the sequence",
        outcome: Outcome::Wrong { at: "llama-batch.cpp:1400" },
        raw: embedding_not_a_number,
        safe: Safe::Refused {
            error: "PushError::EmbeddingNotFinite { index: 7, value: NaN }",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut embedding = vec![0.5; context.limits().input_width() as usize];
                embedding[7] = f32::NAN;
                told(context.new_embedding_batch().push_embedding(&sequence, &embedding))
            },
        },
    },
    Row {
        group: Group::Batches,
        name: "one_position_for_four",
        done: "M-RoPE embeddings with one position each",
        functions: &["llama_decode"],
        operation: "out-of-bounds read: four positions of each are read",
        outcome: Outcome::GuardPage { array: "pos", at: "llama-batch.cpp:1383" },
        raw: one_position_for_four,
        safe: Safe::Right {
            why: "four positions are derived for each embedding, or given as a Place",
            on: Setup::Of(Family::Qwen2Vl),
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let embedding = vec![0.5; context.limits().input_width() as usize];
                let mut batch = context.new_embedding_batch();
                batch.push_embedding(&sequence, &embedding).unwrap();
                let slot = batch.push_embedding_output(&sequence, &embedding).unwrap();
                assert!(context.decode(&mut batch).unwrap().get(slot).unwrap().iter().all(|logit| logit.is_finite()));
            },
        },
    },
    Row {
        group: Group::Batches,
        name: "batch_of_another_context",
        done: "a batch with embeddings for a model of width 64 is run on a model of width 128",
        functions: &["llama_decode"],
        operation: "out-of-bounds read: rows of the other width are copied",
        outcome: Outcome::GuardPage { array: "embd", at: "llama-batch.cpp:1400" },
        raw: batch_of_another_context,
        safe: Safe::Refused {
            error: "DecodeError::ForeignBatch",
            on: Setup::Tiny,
            attempt: |context| {
                let mut other = Setup::Of(Family::Qwen3).context();
                let sequence = other.new_sequence().unwrap();
                let mut batch = other.new_embedding_batch();
                let embedding = vec![0.5; other.limits().input_width() as usize];
                batch.push_embedding(&sequence, &embedding).unwrap();
                told(context.decode(&mut batch).map(drop))
            },
        },
    },
    Row {
        group: Group::Batches,
        name: "free_twice",
        done: "llama_batch_free of the same batch, twice",
        functions: &["llama_batch_free"],
        operation: "double free",
        outcome: Outcome::Segfault { at: "llama-batch.cpp:1096" },
        raw: free_twice,
        safe: Safe::Unwritable { file: "batch.rs", line: "drop(batch); batch.len()" },
    },
    Row {
        group: Group::Batches,
        name: "use_after_free",
        done: "a batch is freed, and decoded",
        functions: &["llama_decode", "llama_batch_free"],
        operation: "use after free: the allocator's own numbers are taken for the lists of sequence ids",
        outcome: Outcome::Segfault { at: "llama-batch.cpp:1372" },
        raw: use_after_free,
        safe: Safe::Unwritable { file: "batch.rs", line: "drop(batch); batch.len()" },
    },
    Row {
        group: Group::Batches,
        name: "free_what_was_not_allocated",
        done: "llama_batch_free of a batch of llama_batch_get_one, whose tokens are the caller's",
        functions: &["llama_batch_free", "llama_batch_get_one"],
        operation: "free of an address that the allocator never gave",
        outcome: Outcome::Heap,
        raw: free_what_was_not_allocated,
        safe: Safe::Unwritable { file: "batch.rs", line: "drop(batch); batch.len()" },
    },
    Row {
        group: Group::Batches,
        name: "extended_positions_left_out",
        done: "a batch of the extended kind is filled with two tokens, and their positions are not set",
        functions: &["llama_process", "llama_batch_ext_add_token", "llama_batch_ext_init", "llama_batch_ext_set_pos"],
        operation: "none: both are at position 0, and it returns 0",
        outcome: Outcome::Wrong { at: "llama-batch.cpp:1165" },
        raw: extended_positions_left_out,
        safe: Safe::Unwritable { file: "batch.rs", line: "batch.pos" },
    },
    Row {
        group: Group::Batches,
        name: "extended_one_position_for_four",
        done: "an M-RoPE embedding in a batch of the extended kind is given one position",
        functions: &["llama_batch_ext_set_pos", "llama_batch_ext_add_embd"],
        operation: "out-of-bounds read: four positions are read",
        outcome: Outcome::GuardPage { array: "pos", at: "llama-batch.cpp:1248" },
        raw: extended_one_position_for_four,
        safe: NO_ARRAYS,
    },
    Row {
        group: Group::Batches,
        name: "extended_freed_twice",
        done: "a batch of the extended kind is freed twice",
        functions: &["llama_batch_ext_free"],
        operation: "double free",
        outcome: Outcome::Segfault { at: "llama-batch.cpp:1277" },
        raw: extended_freed_twice,
        safe: Safe::Unwritable { file: "batch.rs", line: "drop(batch); batch.len()" },
    },
    Row {
        group: Group::Batches,
        name: "extended_of_nothing",
        done: "a token is added to a batch of the extended kind that is NULL",
        functions: &[
            "llama_batch_ext_add",
            "llama_batch_ext_clear",
            "llama_batch_ext_add_seq",
            "llama_batch_ext_set_embd_token",
            "llama_batch_ext_set_output_embd",
            "llama_batch_ext_set_output_logits",
        ],
        operation: "read through NULL",
        outcome: Outcome::Segfault { at: "llama-batch.cpp:1158" },
        raw: extended_of_nothing,
        safe: Safe::Unwritable { file: "batch.rs", line: "drop(batch); batch.len()" },
    },
    Row {
        group: Group::Batches,
        name: "sentinel_overwritten",
        done: "one list of ids more than llama_batch_init was asked for is stored, over the NULL that ends them",
        functions: &["llama_batch_free", "llama_batch_init"],
        operation: "the walk to the NULL goes on past the array, and frees what it finds",
        outcome: Outcome::Heap,
        raw: sentinel_overwritten,
        safe: NO_ARRAYS,
    },
];

/// A batch as llama_batch_init gives it, every element set.
unsafe fn filled(tokens: i32) -> llama_batch {
    let mut batch = llama_batch_init(tokens, 0, 1);
    fill(&mut batch, tokens);
    batch
}

unsafe fn fill(batch: &mut llama_batch, tokens: i32) {
    batch.n_tokens = tokens;
    for index in 0..tokens as usize {
        *batch.token.add(index) = index as i32 + 3;
        *batch.pos.add(index) = index as i32;
        *batch.n_seq_id.add(index) = 1;
        **batch.seq_id.add(index) = 0;
        *batch.logits.add(index) = i8::from(index + 1 == tokens as usize);
    }
}

unsafe fn more_tokens_than_asked_for() {
    let batch = llama_batch_init(4, 0, 1);
    for index in 0..64 {
        *batch.token.add(index) = 3;
        *batch.pos.add(index) = index as i32;
        *batch.n_seq_id.add(index) = 1;
    }
    llama_batch_free(batch);
}

unsafe fn more_ids_than_asked_for() {
    let batch = llama_batch_init(4, 0, 1);
    for index in 0..4 {
        for id in 0..64 {
            *(*batch.seq_id.add(index)).add(id) = id as i32;
        }
    }
    llama_batch_free(batch);
}

unsafe fn no_ids_asked_for() {
    let context = context(tiny());
    let mut batch = llama_batch_init(4, 0, 0);
    let asked_for = 0;
    fill(&mut batch, 4);
    let result = llama_decode(context, batch);
    if result == 0 && asked_for < size_of::<llama_seq_id>() {
        wrong("a sequence id lies outside of an allocation of 0 bytes, and llama_decode returns 0");
    }
}

unsafe fn arrays_left_unfilled() {
    let context = context(tiny());
    let mut batch = llama_batch_init(3, 0, 1);
    batch.n_tokens = 3;
    for index in 0..3 {
        *batch.token.add(index) = index as i32 + 1;
        *batch.pos.add(index) = index as i32;
    }
    llama_decode(context, batch);
}

unsafe fn outputs_left_unfilled() {
    let context = context(tiny());
    let batch = llama_batch_init(3, 0, 1);
    let mut filled = filled(3);
    filled.logits = batch.logits;
    let batch = filled;
    if llama_decode(context, batch) == 0 && !llama_get_logits_ith(context, 0).is_null() {
        wrong("three outputs, none of which was asked for");
    }
}

unsafe fn ids_negative_count() {
    let mut arrays = Arrays::new(0, 0, &[3]);
    arrays.n_seq_id[0] = -1;
    llama_decode(context(tiny()), arrays.batch());
}

unsafe fn ids_zero_count() {
    let mut arrays = Arrays::new(0, 0, &[3, 4, 5]);
    arrays.n_seq_id.fill(0);
    llama_decode(context(tiny()), arrays.batch());
}

unsafe fn ids_count_too_large() {
    let mut arrays = Arrays::new(0, 0, &[3, 4, 5]);
    arrays.n_seq_id[2] = 2;
    let mut batch = arrays.batch();
    *batch.seq_id.add(2) = guarded("seq_id", &[0]);
    batch.pos = arrays.pos.as_mut_ptr();
    llama_decode(context(tiny()), batch);
}

unsafe fn ids_missing() {
    let mut arrays = Arrays::new(0, 0, &[3]);
    arrays.n_seq_id[0] = 2;
    let mut batch = arrays.batch();
    batch.seq_id = ptr::null_mut();
    let context = context_with(tiny(), |params| params.kv_unified = true);
    if llama_decode(context, batch) == 0 {
        wrong("two sequence ids were read from where there is one, and llama_decode returns 0");
    }
}

unsafe fn list_of_ids_is_null() {
    let mut arrays = Arrays::new(0, 0, &[3, 4]);
    arrays.seq_id[1] = ptr::null_mut();
    llama_decode(context(tiny()), arrays.batch());
}

unsafe fn more_tokens_than_the_array() {
    let mut batch = Arrays::new(0, 0, &text(1, 8)).leak();
    batch.token = guarded("token", &text(1, 4));
    llama_decode(context(tiny()), batch);
}

unsafe fn fewer_positions_than_tokens() {
    let mut batch = Arrays::new(0, 0, &text(1, 8)).leak();
    batch.pos = guarded("pos", &[0, 1, 2, 3]);
    llama_decode(context(tiny()), batch);
}

unsafe fn fewer_outputs_than_tokens() {
    let mut batch = Arrays::new(0, 0, &text(1, 8)).leak();
    batch.logits = guarded("logits", &[0_i8; 4]);
    llama_decode(context(tiny()), batch);
}

unsafe fn token_and_embedding() {
    let model = tiny();
    let context = context(model);
    let mut arrays = Arrays::new(0, 0, &[3, 4, 5]);
    let mut embeddings = vec![3.0_f32; 3 * llama_model_n_embd(model) as usize];
    let mut batch = arrays.batch();
    batch.embd = embeddings.as_mut_ptr();
    let of_tokens = alone(model, &[3, 4, 5]);
    if llama_decode(context, batch) == 0 && batch_suite::nmse(&logits(context, -1), &of_tokens) < 1e-6 {
        wrong("llama_decode returns 0, and the logits are those of the tokens alone");
    }
}

/// A batch of embeddings, all outputs.
unsafe fn of_embeddings(embeddings: *mut f32, count: usize) -> llama_batch {
    let mut batch = Arrays::new(0, 0, &text(1, count as u32)).leak();
    batch.token = ptr::null_mut();
    batch.embd = embeddings;
    batch
}

unsafe fn embeddings_too_narrow() {
    let model = tiny();
    let half = vec![0.5_f32; llama_model_n_embd(model) as usize / 2];
    llama_decode(context(model), of_embeddings(guarded("embd", &half), 1));
}

unsafe fn embedding_not_a_number() {
    let model = tiny();
    let context = context(model);
    let mut embedding = vec![0.5_f32; llama_model_n_embd(model) as usize];
    embedding[7] = f32::NAN;
    let result = llama_decode(context, of_embeddings(embedding.as_mut_ptr(), 1));
    if result == 0 && logits(context, -1).iter().all(|logit| logit.is_nan()) {
        wrong("llama_decode returns 0, and every logit is NaN");
    }
}

unsafe fn one_position_for_four() {
    let model = family(Family::Qwen2Vl);
    let mut embeddings = vec![0.5_f32; 4 * llama_model_n_embd_inp(model) as usize];
    let mut batch = of_embeddings(embeddings.as_mut_ptr(), 4);
    batch.pos = guarded("pos", &[0, 1, 2, 3]);
    llama_decode(context(model), batch);
}

unsafe fn batch_of_another_context() {
    let wide = fixtures::Llama { width: 128, ..fixtures::Llama::tiny() };
    let wide = crate::raw::model(&wide.gguf(fixtures::Weights::F32, 1).expect("a shape that holds together"));
    let narrow = vec![0.5_f32; llama_model_n_embd(tiny()) as usize];
    llama_decode(context(wide), of_embeddings(guarded("embd", &narrow), 1));
}

unsafe fn free_twice() {
    let batch = filled(4);
    llama_batch_free(batch);
    llama_batch_free(batch);
}

unsafe fn use_after_free() {
    let context = context(tiny());
    let batch = filled(4);
    llama_batch_free(batch);
    llama_decode(context, batch);
}

unsafe fn free_what_was_not_allocated() {
    static mut TOKENS: [i32; 8] = [3; 8];
    llama_batch_free(llama_batch_get_one((&raw mut TOKENS).cast(), 8));
}

unsafe fn sentinel_overwritten() {
    let batch = llama_batch_init(3, 0, 1);
    let mut ids = [0_i32; 4];
    *batch.seq_id.add(3) = ids.as_mut_ptr();
    llama_batch_free(batch);
}

unsafe fn extended_positions_left_out() {
    let context = context(tiny());
    let batch = llama_batch_ext_init(context);
    llama_batch_ext_add_token(batch, 0, 3);
    llama_batch_ext_add_token(batch, 0, 4);
    let result = llama_process(context, LLAMA_PROCESS_TYPE_DECODE, batch);
    let last = llama_memory_seq_pos_max(llama_get_memory(context), 0);
    if result == 0 && last == 0 {
        wrong("llama_process returns 0, and two tokens are at position 0");
    }
}

unsafe fn extended_one_position_for_four() {
    let model = family(Family::Qwen2Vl);
    let batch = llama_batch_ext_init(context(model));
    let width = llama_model_n_embd_inp(model) as usize;
    let row = vec![0.5_f32; width];
    let index = llama_batch_ext_add_embd(batch, 0, llama_embd { data: row.as_ptr(), n_rows: 1, n_embd: width });
    llama_batch_ext_set_pos(batch, index, guarded("pos", &[7_i32]));
}

unsafe fn extended_freed_twice() {
    let batch = llama_batch_ext_init(context(tiny()));
    llama_batch_ext_free(batch);
    llama_batch_ext_free(batch);
}

unsafe fn extended_of_nothing() {
    llama_batch_ext_add(ptr::null_mut(), 0);
}
