//! Models of our own making, each made once in a process.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use fixtures::vocab::Tokenizer;
use fixtures::{Bert, Family, Llama, Weights};
use llama_safe::{ContextParams, LoadMode, Model, ModelParams};

/// A model of any shape.
///
/// # Panics
///
/// If the shape is none, or llama.cpp refuses it: a test that cannot go on.
#[must_use]
pub fn model(shape: &Llama, weights: Weights, seed: u64) -> Model {
    let gguf = shape.gguf(weights, seed).expect("a shape that holds together");
    Model::from_bytes(&gguf, &ModelParams::default()).expect("a model that llama.cpp loads")
}

/// The tiny decoder.
#[must_use]
pub fn tiny(weights: Weights) -> Model {
    static MODELS: [OnceLock<Model>; 4] = [const { OnceLock::new() }; 4];
    let index = match weights {
        Weights::F32 => 0,
        Weights::F16 => 1,
        Weights::Q8_0 => 2,
        Weights::Q4_0 => 3,
    };
    MODELS[index].get_or_init(|| model(&Llama::tiny(), weights, 1)).clone()
}

/// The trained model of little stories, with quantised weights.
///
/// # Panics
///
/// If llama.cpp refuses it.
#[must_use]
pub fn stories() -> Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    let load = || Model::from_bytes(fixtures::STORIES, &ModelParams::default()).expect("a model that llama.cpp loads");
    MODEL.get_or_init(load).clone()
}

/// The tiny encoder.
///
/// # Panics
///
/// If llama.cpp refuses it.
#[must_use]
pub fn encoder() -> Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL
        .get_or_init(|| {
            let gguf = Bert::tiny().gguf(Weights::F32, 1).expect("a shape that holds together");
            Model::from_bytes(&gguf, &ModelParams::default()).expect("a model that llama.cpp loads")
        })
        .clone()
}

/// The small model of a family, with weights of seed 1.
///
/// # Panics
///
/// If llama.cpp refuses it.
#[must_use]
pub fn family(family: Family, weights: Weights) -> Model {
    static MODELS: Mutex<Option<HashMap<(Family, Weights), Model>>> = Mutex::new(None);
    let mut models = MODELS.lock().unwrap_or_else(PoisonError::into_inner);
    let models = models.get_or_insert_default();
    let made = models.entry((family, weights)).or_insert_with(|| {
        let gguf = family.gguf(weights, 1).expect("a shape that holds together");
        Model::from_bytes(&gguf, &ModelParams::default()).expect("a model that llama.cpp loads")
    });
    made.clone()
}

/// A vocabulary alone, with `changes` of its metadata.
///
/// # Panics
///
/// If llama.cpp refuses it.
#[must_use]
pub fn vocabulary(tokenizer: Tokenizer, changes: &[(&str, fixtures::gguf::Value)]) -> Model {
    // A file without tensors has no place for them that could be mapped.
    let params = ModelParams::default().vocab_only(true).load_mode(LoadMode::Read);
    Model::from_bytes(&tokenizer.gguf(changes), &params).expect("a vocabulary that llama.cpp loads")
}

/// Parameters for tests on tiny models: one thread, since more only wait for each other, and cargo runs several tests.
#[must_use]
pub fn params() -> ContextParams {
    ContextParams::default().threads(1)
}
