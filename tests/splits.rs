//! Models in several files: whole they load and compute the same, and whatever is wrong with the set is refused.

// Not all of it is needed here.
#[allow(dead_code)]
#[path = "gguf_fuzz/document.rs"]
mod document;

use std::path::{Path, PathBuf};

use batch_suite::{alone, exact_params, prompt};
use document::{Document, I32, Value, split};
use fixtures::{Llama, Weights};
use llama_safe::{GgufError, LoadError, Model, ModelParams, SplitError};

fn gguf() -> Vec<u8> {
    Llama::tiny().gguf(Weights::F32, 1).unwrap()
}

/// Writes parts under their usual names, into a folder of their own.
fn write(folder: &str, parts: &[Document]) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("splits").join(folder);
    std::fs::create_dir_all(&folder).unwrap();
    let name = |index| folder.join(format!("model-{:05}-of-{:05}.gguf", index + 1, parts.len()));
    let paths: Vec<PathBuf> = (0..parts.len()).map(name).collect();
    paths.iter().zip(parts).for_each(|(path, part)| std::fs::write(path, part.to_bytes()).unwrap());
    paths
}

fn logits(model: &Model) -> Vec<Vec<f32>> {
    alone(model, &exact_params(), &prompt(1, 6))
}

fn refused<T>(result: Result<T, LoadError>) -> LoadError {
    result.map(drop).expect_err("files that are no model together")
}

#[test]
fn parts_compute_what_the_whole_does() {
    let whole = logits(&Model::from_bytes(&gguf(), &ModelParams::default()).unwrap());
    let paths = write("right", &split(&gguf(), 3));
    assert_eq!(logits(&Model::load(&paths[0], &ModelParams::default()).unwrap()), whole);
    assert_eq!(logits(&Model::load_splits(&paths, &ModelParams::default()).unwrap()), whole);
    // Names of any kind, and one file that is no part.
    let renamed: Vec<PathBuf> = ["b.gguf", "a.gguf", "c.gguf"].map(|name| paths[0].with_file_name(name)).into();
    for (from, to) in paths.iter().zip(&renamed) {
        std::fs::copy(from, to).unwrap();
    }
    assert_eq!(logits(&Model::load_splits(&renamed, &ModelParams::default()).unwrap()), whole);
    let one = paths[0].with_file_name("whole.gguf");
    std::fs::write(&one, gguf()).unwrap();
    assert_eq!(logits(&Model::load_splits(&[one], &ModelParams::default()).unwrap()), whole);
}

#[test]
fn sets_that_are_none() {
    let settings = ModelParams::default();
    let paths = write("wrong", &split(&gguf(), 3));
    let [first, second, third] = &paths[..] else { unreachable!() };
    let given = |paths: &[&PathBuf]| refused(Model::load_splits(paths, &ModelParams::default()));
    assert!(matches!(given(&[]), LoadError::Split(SplitError::Given { given: 0, .. })));
    assert!(matches!(given(&[first, second]), LoadError::Split(SplitError::Given { given: 2, expected: 3 })));
    assert!(matches!(
        given(&[first, second, third, third]),
        LoadError::Split(SplitError::Given { given: 4, expected: 3 })
    ));
    let error = given(&[first, third, second]);
    assert!(matches!(error, LoadError::Split(SplitError::Number { expected: 2, found: Some(3), .. })), "{error}");
    let error = given(&[first, second, second]);
    assert!(matches!(error, LoadError::Split(SplitError::Number { expected: 3, found: Some(2), .. })), "{error}");
    let error = given(&[second, first, third]);
    assert!(matches!(error, LoadError::Split(SplitError::Number { expected: 1, found: Some(2), .. })), "{error}");
    // A later part, and a first one whose name does not lead to the others.
    let error = refused(Model::load(second, &settings));
    assert!(matches!(&error, LoadError::Split(SplitError::Name { path, count: 3 }) if path == second), "{error}");
    let renamed = first.with_file_name("renamed.gguf");
    std::fs::copy(first, &renamed).unwrap();
    assert!(matches!(refused(Model::load(&renamed, &settings)), LoadError::Split(SplitError::Name { count: 3, .. })));
    // Of another model, split otherwise.
    let other = write("other", &split(&gguf(), 2));
    let error = given(&[first, &other[1], third]);
    assert!(matches!(error, LoadError::Split(SplitError::Count { expected: 3, found: Some(2), .. })), "{error}");
    // A file that is no part, one that is cut, one that is not there.
    let error = given(&[first, second, &renamed]);
    assert!(matches!(error, LoadError::Split(SplitError::Number { expected: 3, found: Some(1), .. })), "{error}");
    let bytes = std::fs::read(third).unwrap();
    std::fs::write(third, &bytes[..bytes.len() - 40_000]).unwrap();
    for error in [given(&[first, second, third]), refused(Model::load(first, &settings))] {
        assert!(matches!(error, LoadError::Malformed(GgufError::OutsideFile { .. })), "{error}");
    }
    std::fs::remove_file(third).unwrap();
    for error in [given(&[first, second, third]), refused(Model::load(first, &settings))] {
        assert!(matches!(&error, LoadError::NotFound { path } if path == third), "{error}");
    }
    // Alone in memory it would load without the others' tensors.
    let error = refused(Model::from_bytes(&std::fs::read(first).unwrap(), &settings));
    assert!(matches!(error, LoadError::Split(SplitError::InMemory { count: 3 })), "{error}");
}

#[test]
fn parts_that_contradict_each_other() {
    let load =
        |folder: &str, parts: &[Document]| refused(Model::load(&write(folder, parts)[0], &ModelParams::default()));
    let right = split(&gguf(), 2);
    let mut twice = right.clone();
    let tensor = twice[0].tensors[0].clone();
    twice[1].tensors.push(tensor);
    twice[1].lay_out();
    let error = load("twice", &twice);
    assert!(
        matches!(&error, LoadError::Split(SplitError::TensorTwice { tensor, .. }) if tensor == "token_embd.weight"),
        "{error}"
    );
    let mut fewer = right.clone();
    fewer[1].tensors.pop();
    let error = load("fewer", &fewer);
    let all = right[0].tensors.len() + right[1].tensors.len();
    assert!(
        matches!(error, LoadError::Split(SplitError::Tensors { found, expected }) if found + 1 == all && expected == all as i128),
        "{error}"
    );
    // llama.cpp asserts on its type (gguf.cpp, gguf_get_val_u16).
    let mut wrong = right.clone();
    *wrong[1].pair(b"split.no").unwrap() = Value::Scalar(I32, 1_i32.to_le_bytes().to_vec());
    let error = load("type", &wrong);
    assert!(matches!(error, LoadError::Split(SplitError::Number { expected: 2, found: None, .. })), "{error}");
}
