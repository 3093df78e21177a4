//! Adapters and control vectors.

use std::ptr;

use batch_suite::tiny as safe_tiny;
use fixtures::{Llama, Lora, Weights};
use llama_safe::{Adapter, Model, ModelParams};
use llama_sys::*;

use crate::child::wrong;
use crate::raw::{Arrays, context, decode, file, guarded, logits, model, text, tiny, wrong_if_different};
use crate::row::{Group, Outcome, Row, Safe};
use crate::safe::{Setup, told};

pub const ROWS: &[Row] = &[
    Row {
        group: Group::Adapters,
        name: "freed_while_set",
        done: "an adapter is freed while a context computes with it",
        functions: &["llama_decode", "llama_adapter_lora_free", "llama_set_adapters_lora"],
        operation: "use after free",
        outcome: Outcome::Segfault { at: "llama-adapter.cpp:141" },
        raw: freed_while_set,
        safe: Safe::Right {
            why: "the context keeps the adapter",
            on: Setup::Tiny,
            attempt: |context| {
                let adapter = Adapter::from_bytes(context.model(), &lora()).unwrap();
                context.set_adapters(&[(&adapter, 1.0)]).unwrap();
                drop(adapter);
                let with = crate::safe::compute(context);
                context.set_adapters(&[]).unwrap();
                assert!(batch_suite::nmse(&with, &crate::safe::compute(context)) > 1e-3);
            },
        },
    },
    Row {
        group: Group::Adapters,
        name: "freed_after_its_model",
        done: "a model is freed, then an adapter of it",
        functions: &["llama_adapter_lora_free", "llama_model_free"],
        operation: "double free: the model has freed its adapters",
        outcome: Outcome::Segfault { at: "llama-adapter.cpp:505" },
        raw: freed_after_its_model,
        safe: Safe::Right {
            why: "the adapter keeps its model",
            on: Setup::Tiny,
            attempt: |_| {
                let gguf = Llama::tiny().gguf(Weights::F32, 1).unwrap();
                let model = Model::from_bytes(&gguf, &ModelParams::default()).unwrap();
                let adapter = Adapter::from_bytes(&model, &lora()).unwrap();
                drop(model);
                assert_eq!(adapter.model().width(), 64);
            },
        },
    },
    Row {
        group: Group::Adapters,
        name: "set_twice",
        done: "the same adapter is set twice in one call, with scales 1 and 2",
        functions: &["llama_set_adapters_lora", "llama_adapter_lora_init"],
        operation: "none: the second is left out",
        outcome: Outcome::Wrong { at: "llama-context.cpp:1352" },
        raw: set_twice,
        safe: Safe::Refused {
            error: "AdapterError::Twice { first: 0, second: 1 }",
            on: Setup::Tiny,
            attempt: |context| {
                let adapter = Adapter::from_bytes(context.model(), &lora()).unwrap();
                told(context.set_adapters(&[(&adapter, 1.0), (&adapter, 2.0)]))
            },
        },
    },
    Row {
        group: Group::Adapters,
        name: "scale_not_a_number",
        done: "an adapter is set with a scale of NaN",
        functions: &["llama_decode", "llama_set_adapters_lora"],
        operation: "none: every logit is NaN, and llama_decode returns 0",
        outcome: Outcome::Wrong { at: "llama-context.cpp:1351" },
        raw: scale_not_a_number,
        safe: Safe::Refused {
            error: "AdapterError::Scale { index: 0, scale: NaN }",
            on: Setup::Tiny,
            attempt: |context| {
                let adapter = Adapter::from_bytes(context.model(), &lora()).unwrap();
                told(context.set_adapters(&[(&adapter, f32::NAN)]))
            },
        },
    },
    Row {
        group: Group::Adapters,
        name: "of_another_model",
        done: "an adapter of a model of width 128 is set on a context of width 64",
        functions: &["llama_decode", "llama_set_adapters_lora"],
        operation: "none: it is asserted that the shapes can be multiplied",
        outcome: Outcome::Assertion { at: "ggml.c:3354", says: "GGML_ASSERT(ggml_can_mul_mat(a, b)) failed" },
        raw: of_another_model,
        safe: Safe::Refused {
            error: "AdapterError::OtherModel { index: 0 }",
            on: Setup::Tiny,
            attempt: |context| {
                let wide = Llama { width: 128, ..Llama::tiny() };
                let model = batch_suite::model(&wide, Weights::F32, 1);
                let adapter = Adapter::from_bytes(&model, &Lora::tiny().gguf(&wide, 7).unwrap()).unwrap();
                told(context.set_adapters(&[(&adapter, 1.0)]))
            },
        },
    },
    Row {
        group: Group::Adapters,
        name: "of_an_embedding_that_is_the_head",
        done: "an adapter for the token embedding of a model whose head is the same matrix",
        functions: &["llama_decode", "llama_adapter_lora_init"],
        operation: "none: it is asserted that the shapes can be multiplied",
        outcome: Outcome::Assertion { at: "ggml.c:3354", says: "GGML_ASSERT(ggml_can_mul_mat(a, b)) failed" },
        raw: of_an_embedding_that_is_the_head,
        safe: Safe::Refused {
            error: "AdapterError::TiedEmbedding",
            on: Setup::Tiny,
            attempt: |_| {
                let model = batch_suite::model(&TIED, Weights::F32, 1);
                told(Adapter::from_bytes(&model, &Lora { embedding: true, ..Lora::tiny() }.gguf(&TIED, 7).unwrap()))
            },
        },
    },
    Row {
        group: Group::Adapters,
        name: "without_scales",
        done: "adapters are set with NULL for their scales",
        functions: &["llama_set_adapters_lora"],
        operation: "none: it is asserted",
        outcome: Outcome::Assertion {
            at: "llama-context.cpp:4141",
            says: "GGML_ASSERT(n_adapters == 0 && \"invalid llama_set_adapters_lora call\") failed",
        },
        raw: without_scales,
        safe: Safe::Unwritable { file: "steering.rs", line: "context.set_adapters(&[adapter])" },
    },
    Row {
        group: Group::Adapters,
        name: "no_adapter",
        done: "the NULL that a refused llama_adapter_lora_init returned is set",
        functions: &["llama_decode", "llama_set_adapters_lora", "llama_adapter_lora_init_from_file_ptr"],
        operation: "read through NULL",
        outcome: Outcome::Segfault { at: "llama-adapter.cpp:141" },
        raw: no_adapter,
        safe: Safe::Refused {
            error: "AdapterError::File(NotGguf { .. })",
            on: Setup::Tiny,
            attempt: |_| told(Adapter::from_bytes(&safe_tiny(Weights::F32), b"no adapter")),
        },
    },
    Row {
        group: Group::Adapters,
        name: "control_vector_shorter_than_it_is_said",
        done: "a control vector of 8 numbers is said to have 64",
        functions: &["llama_set_adapter_cvec"],
        operation: "out-of-bounds read",
        outcome: Outcome::GuardPage { array: "embd", at: "llama-adapter.cpp:131" },
        raw: control_vector_shorter_than_it_is_said,
        safe: Safe::Refused {
            error: "ControlVectorError::Length { got: 8, expected: 64, width: 64, last_layer: 1 }",
            on: Setup::Tiny,
            attempt: |context| told(context.set_control_vector(&[0.5; 8], 1..=1)),
        },
    },
    Row {
        group: Group::Adapters,
        name: "control_vector_too_short",
        done: "a control vector that is too short is set after another one",
        functions: &["llama_set_adapter_cvec"],
        operation: "none: 0 is returned, and the directions of the one before are still there",
        outcome: Outcome::Wrong { at: "llama-adapter.cpp:130" },
        raw: control_vector_too_short,
        safe: Safe::Refused {
            error: "ControlVectorError::Length { got: 63, expected: 64, width: 64, last_layer: 1 }",
            on: Setup::Tiny,
            attempt: |context| told(context.set_control_vector(&[0.5; 63], 1..=1)),
        },
    },
    Row {
        group: Group::Adapters,
        name: "control_vector_of_layers_that_are_not_there",
        done: "a control vector for layers 5 to 9 of a model of two layers",
        functions: &["llama_set_adapter_cvec"],
        operation: "none: 0 is returned, and nothing is added",
        outcome: Outcome::Wrong { at: "llama-adapter.cpp:123" },
        raw: control_vector_of_layers_that_are_not_there,
        safe: Safe::Refused {
            error: "ControlVectorError::Layers { first: 5, last: 9, last_layer: 1 }",
            on: Setup::Tiny,
            attempt: |context| told(context.set_control_vector(&[0.5; 64], 5..=9)),
        },
    },
    Row {
        group: Group::Adapters,
        name: "control_vector_not_a_number",
        done: "a control vector that holds a NaN",
        functions: &["llama_decode", "llama_set_adapter_cvec"],
        operation: "none: every logit is NaN, and llama_decode returns 0",
        outcome: Outcome::Wrong { at: "llama-adapter.cpp:131" },
        raw: control_vector_not_a_number,
        safe: Safe::Refused {
            error: "ControlVectorError::NotFinite { index: 9, value: NaN }",
            on: Setup::Tiny,
            attempt: |context| {
                let mut directions = [0.5; 64];
                directions[9] = f32::NAN;
                told(context.set_control_vector(&directions, 1..=1))
            },
        },
    },
];

const TIED: Llama = Llama { tied_head: true, ..Llama::tiny() };

fn lora() -> Vec<u8> {
    Lora::tiny().gguf(&Llama::tiny(), 7).expect("a shape that holds together")
}

unsafe fn adapter(model: *mut llama_model) -> *mut llama_adapter_lora {
    llama_adapter_lora_init(model, file(&lora()).as_ptr())
}

unsafe fn set(context: *mut llama_context, adapters: &mut [*mut llama_adapter_lora], scales: &mut [f32]) {
    llama_set_adapters_lora(context, adapters.as_mut_ptr(), adapters.len(), scales.as_mut_ptr());
}

unsafe fn freed_while_set() {
    let model = tiny();
    let (context, adapter) = (context(model), adapter(model));
    set(context, &mut [adapter], &mut [1.0]);
    llama_adapter_lora_free(adapter);
    llama_decode(context, Arrays::new(0, 0, &[3, 4, 5]).batch());
}

unsafe fn freed_after_its_model() {
    let model = tiny();
    let adapter = adapter(model);
    llama_model_free(model);
    llama_adapter_lora_free(adapter);
}

unsafe fn set_twice() {
    let model = tiny();
    let adapter = adapter(model);
    let with = |adapters: &mut [*mut llama_adapter_lora], scales: &mut [f32]| {
        let context = context(model);
        set(context, adapters, scales);
        decode(context, 0, 0, &[3, 4, 5]);
        logits(context, -1)
    };
    let (twice, once) = (with(&mut [adapter, adapter], &mut [1.0, 2.0]), with(&mut [adapter], &mut [1.0]));
    if batch_suite::nmse(&twice, &once) < 1e-9 {
        wrong("the logits are those of scale 1 alone");
    }
}

unsafe fn scale_not_a_number() {
    let model = tiny();
    let context = context(model);
    set(context, &mut [adapter(model)], &mut [f32::NAN]);
    decode(context, 0, 0, &[3, 4, 5]);
    if logits(context, -1).iter().all(|logit| logit.is_nan()) {
        wrong("llama_decode returns 0, and every logit is NaN");
    }
}

unsafe fn of_another_model() {
    let wide = Llama { width: 128, ..Llama::tiny() };
    let gguf = Lora::tiny().gguf(&wide, 7).expect("a shape that holds together");
    let other = model(&wide.gguf(Weights::F32, 1).expect("a shape that holds together"));
    let adapter = llama_adapter_lora_init(other, file(&gguf).as_ptr());
    let context = context(tiny());
    set(context, &mut [adapter], &mut [1.0]);
    llama_decode(context, Arrays::new(0, 0, &[3, 4, 5]).batch());
}

unsafe fn of_an_embedding_that_is_the_head() {
    let model = model(&TIED.gguf(Weights::F32, 1).expect("a shape that holds together"));
    let gguf = Lora { embedding: true, ..Lora::tiny() }.gguf(&TIED, 7).expect("a shape that holds together");
    let adapter = llama_adapter_lora_init(model, file(&gguf).as_ptr());
    let context = context(model);
    set(context, &mut [adapter], &mut [1.0]);
    llama_decode(context, Arrays::new(0, 0, &[3, 4, 5]).batch());
}

unsafe fn without_scales() {
    let model = tiny();
    let mut adapter = adapter(model);
    llama_set_adapters_lora(context(model), &raw mut adapter, 1, ptr::null_mut());
}

unsafe fn no_adapter() {
    let model = tiny();
    let context = context(model);
    let adapter = llama_adapter_lora_init(model, file(b"no adapter").as_ptr());
    set(context, &mut [adapter], &mut [1.0]);
    llama_decode(context, Arrays::new(0, 0, &[3, 4, 5]).batch());
}

unsafe fn control_vector_shorter_than_it_is_said() {
    let directions = guarded("embd", &[0.5_f32; 8]);
    llama_set_adapter_cvec(context(tiny()), directions, 64, 64, 1, 1);
}

/// The logits of a context with these control vectors set one after the other.
unsafe fn steered(vectors: &[(&[f32], i32, i32)]) -> Vec<f32> {
    let context = context(tiny());
    for (directions, first, last) in vectors {
        assert_eq!(llama_set_adapter_cvec(context, directions.as_ptr(), directions.len(), 64, *first, *last), 0);
    }
    decode(context, 0, 0, &text(1, 5));
    logits(context, -1)
}

unsafe fn control_vector_too_short() {
    let (one, other) = ([0.5_f32; 64], [-3.0_f32; 63]);
    let both = steered(&[(&one, 1, 1), (&other, 1, 1)]);
    if batch_suite::nmse(&both, &steered(&[(&one, 1, 1)])) < 1e-9 {
        wrong_if_different(
            &both,
            &steered(&[]),
            "0 is returned, and the logits are those of the vector before, not of none",
        );
    }
}

unsafe fn control_vector_of_layers_that_are_not_there() {
    if batch_suite::nmse(&steered(&[(&[3.0; 64], 5, 9)]), &steered(&[])) < 1e-9 {
        wrong("0 is returned, and the logits are those without a control vector");
    }
}

unsafe fn control_vector_not_a_number() {
    let mut directions = [0.5; 64];
    directions[9] = f32::NAN;
    if steered(&[(&directions, 1, 1)]).iter().all(|logit| logit.is_nan()) {
        wrong("llama_decode returns 0, and every logit is NaN");
    }
}
