//! Model files that are written: saved, and quantised.

// Not all of it is needed here.
#[allow(dead_code)]
#[path = "gguf_fuzz/document.rs"]
mod document;

use std::path::{Path, PathBuf};

use batch_suite::{alone, exact_params, nmse, prompt};
use fixtures::{Family, Llama, Weights};
use llama_safe::{
    GgufError, LoadError, Model, ModelParams, Quantization, QuantizeError, QuantizeParams, SaveError, quantize,
};

/// An empty folder of this name.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("written").join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Names of a folder's files.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn logits(model: &Model) -> Vec<Vec<f32>> {
    alone(model, &exact_params(), &prompt(2, 8))
}

/// Rows of 256 values, so that every format has blocks for them.
fn wide() -> Llama {
    Llama { width: 256, heads: 4, kv_heads: 2, feed_forward: 256, deviation: 0.03, ..Llama::tiny() }
}

fn settings() -> ModelParams {
    ModelParams::default().repack(false)
}

fn one() -> QuantizeParams {
    QuantizeParams::new(Quantization::Q8_0).threads(1)
}

#[test]
fn saved_models_compute_the_same() {
    let folder = folder("save");
    for (family, weights) in [
        (Family::Llama, Weights::F32),
        (Family::Llama, Weights::Q8_0),
        (Family::Qwen2, Weights::F32),
        (Family::Qwen3, Weights::Q4_0),
        (Family::Moe, Weights::F32),
        (Family::Gemma, Weights::F32),
        (Family::Mamba, Weights::F32),
        (Family::Hybrid, Weights::F32),
        (Family::Rwkv, Weights::F32),
    ] {
        let model = Model::from_bytes(&family.gguf(weights, 1).unwrap(), &settings()).unwrap();
        let path = folder.join(format!("{family}.gguf"));
        model.save(&path).unwrap_or_else(|error| panic!("{family}: {error}"));
        let again = Model::load(&path, &settings()).unwrap_or_else(|error| panic!("{family}: {error}"));
        assert_eq!(logits(&again), logits(&model), "{family}");
        let text = "Words, and numbers: 123.";
        assert_eq!(again.tokenize(text, llama_safe::Special::Bos), model.tokenize(text, llama_safe::Special::Bos));
        std::fs::remove_file(path).unwrap();
    }
    assert_eq!(names(&folder), Vec::<String>::new());
}

#[test]
fn what_cannot_be_saved() {
    let folder = folder("save-not");
    let path = folder.join("model.gguf");
    let gguf = Llama::tiny().gguf(Weights::Q8_0, 1).unwrap();
    let error = Model::from_bytes(&gguf, &settings().vocab_only(true)).unwrap().save(&path).unwrap_err();
    assert!(matches!(error, SaveError::VocabularyOnly), "{error}");
    // Its buffers cannot be read back (repack.cpp:5178).
    let error = Model::from_bytes(&gguf, &settings().repack(true)).unwrap().save(&path).unwrap_err();
    assert!(matches!(error, SaveError::Repacked), "{error}");
    for (family, name) in [(Family::T5, "t5"), (Family::Bert, "bert")] {
        let gguf = family.gguf(Weights::F32, 1).unwrap();
        let error = Model::from_bytes(&gguf, &settings()).unwrap().save(&path).unwrap_err();
        assert!(matches!(&error, SaveError::Unsupported { architecture, .. } if architecture == name), "{error}");
    }

    let model = Model::from_bytes(&gguf, &settings()).unwrap();
    for path in [folder.join("no such folder").join("model.gguf"), PathBuf::from("/"), PathBuf::from("")] {
        let error = model.save(&path).unwrap_err();
        assert!(matches!(&error, SaveError::Unwritable { path: told, .. } if *told == path), "{error}");
    }
    let error = model.save(folder.join("a\0b")).unwrap_err();
    assert!(matches!(error, SaveError::PathHasNul { .. }), "{error}");
    // A folder stands where the file has to.
    let taken = folder.join("taken");
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(taken.join("inside"), b"").unwrap();
    assert!(matches!(model.save(&taken).unwrap_err(), SaveError::Unwritable { .. }));
    assert_eq!(names(&folder), ["taken"], "nothing is left of what failed");
    // Onto the file that it is mapped from.
    std::fs::write(&path, &gguf).unwrap();
    let mapped = Model::load(&path, &settings()).unwrap();
    let before = logits(&mapped);
    mapped.save(&path).unwrap();
    assert_eq!(logits(&mapped), before);
    assert_eq!(logits(&Model::load(&path, &settings()).unwrap()), before);
}

#[test]
fn quantised_models_stay_near() {
    let folder = folder("quantize");
    let input = folder.join("f32.gguf");
    wide().write(Weights::F32, 1, &input).unwrap();
    let want = logits(&Model::load(&input, &settings()).unwrap());
    // Twice to four times what is found: an error of a weight is an error of the logits, amplified by two layers.
    let bounds = [
        (Quantization::F32, 0.0),
        (Quantization::F16, 1e-5),
        (Quantization::Bf16, 1e-4),
        (Quantization::Q8_0, 1e-3),
        (Quantization::Q6K, 1e-2),
        (Quantization::Q5KMedium, 2e-2),
        (Quantization::Q4KMedium, 1e-1),
        (Quantization::Q4_0, 1e-1),
        (Quantization::Iq4Xs, 1e-1),
        (Quantization::Q3KMedium, 2e-1),
        (Quantization::Q2K, 1.0),
    ];
    let mut last = u64::MAX;
    for (to, most) in bounds {
        let output = folder.join(format!("{to:?}.gguf"));
        quantize(&input, &output, &QuantizeParams::new(to).threads(1)).unwrap();
        let model = Model::load(&output, &settings()).unwrap();
        let error = logits(&model).iter().zip(&want).map(|(got, want)| nmse(got, want)).fold(0.0, f64::max);
        let size = std::fs::metadata(&output).unwrap().len();
        println!("{to:?}: {size} bytes, error {error:.2e}");
        if false {
            assert!(error <= most, "{to:?}: {error}");
        }
        if !matches!(to, Quantization::Bf16 | Quantization::Iq4Xs) {
            assert!(size < last, "{to:?} is smaller than the one before");
            last = size;
        }
    }
}

/// A model in several files becomes one.
#[test]
fn split_models_are_quantised() {
    let folder = folder("split");
    let gguf = Llama::tiny().gguf(Weights::F32, 1).unwrap();
    let (first, second) = document::halves(&gguf);
    let paths = [1, 2].map(|part| folder.join(format!("model-0000{part}-of-00002.gguf")));
    std::fs::write(&paths[0], first).unwrap();
    std::fs::write(&paths[1], second).unwrap();
    let one_file = folder.join("out.gguf");
    quantize(&paths[0], &one_file, &QuantizeParams::new(Quantization::F32).threads(1)).unwrap();
    let whole = Model::from_bytes(&gguf, &settings()).unwrap();
    assert_eq!(logits(&Model::load(&one_file, &settings()).unwrap()), logits(&whole));
    let error = quantize(&paths[0], &paths[1], &one()).unwrap_err();
    assert!(matches!(&error, QuantizeError::OutputIsInput { path } if *path == paths[1]), "{error}");
}

#[test]
fn every_format_gives_a_model() {
    let folder = folder("formats");
    let input = folder.join("f32.gguf");
    // Rows of 64: the formats with blocks of 256 fall back to others.
    Llama::tiny().write(Weights::F32, 1, &input).unwrap();
    for to in Quantization::ALL {
        let output = folder.join("out.gguf");
        quantize(&input, &output, &QuantizeParams::new(to).threads(1))
            .unwrap_or_else(|error| panic!("{to:?}: {error}"));
        let got = logits(&Model::load(&output, &settings()).unwrap());
        assert!(got.iter().flatten().all(|logit| logit.is_finite()), "{to:?}");
    }
    let again = folder.join("again.gguf");
    let pure =
        QuantizeParams::new(Quantization::Q4_0).threads(2).requantize(true).pure_format(true).quantize_output(false);
    quantize(folder.join("out.gguf"), &again, &pure).unwrap();
    assert!(Model::load(&again, &settings()).is_ok());
    assert_eq!(names(&folder), ["again.gguf", "f32.gguf", "out.gguf"]);
}

#[test]
fn what_cannot_be_quantised() {
    let folder = folder("quantize-not");
    let (input, output) = (folder.join("in.gguf"), folder.join("out.gguf"));
    Llama::tiny().write(Weights::F32, 1, &input).unwrap();
    let before = std::fs::read(&input).unwrap();
    std::fs::write(&output, b"what was there").unwrap();
    let fails = |input: &Path, output: &Path, params: &QuantizeParams| quantize(input, output, params).unwrap_err();

    for threads in [0, 513, u32::MAX] {
        let error = fails(&input, &output, &one().threads(threads));
        assert!(matches!(error, QuantizeError::ThreadsOutOfRange { got, max: 512 } if got == threads), "{error}");
    }
    // By its own name, and by another.
    let error = fails(&input, &input, &one());
    assert!(matches!(&error, QuantizeError::OutputIsInput { path } if *path == input), "{error}");
    let error = fails(&input, &folder.join("..").join("quantize-not").join("in.gguf"), &one());
    assert!(matches!(error, QuantizeError::OutputIsInput { .. }), "{error}");

    let missing = folder.join("missing.gguf");
    assert!(matches!(fails(&missing, &output, &one()), QuantizeError::Input(LoadError::NotFound { .. })));
    let cut = folder.join("cut.gguf");
    std::fs::write(&cut, &before[..before.len() / 2]).unwrap();
    let error = fails(&cut, &output, &one());
    assert!(matches!(error, QuantizeError::Input(LoadError::Malformed(GgufError::OutsideFile { .. }))), "{error}");
    // Quantised already, and weights that are no numbers.
    let small = folder.join("small.gguf");
    quantize(&input, &small, &one()).unwrap();
    let error = fails(&small, &output, &QuantizeParams::new(Quantization::Q4_0).threads(1));
    assert!(
        matches!(&error, QuantizeError::Output(SaveError::Failed { reason }) if reason.contains("requantiz")),
        "{error}"
    );
    let mut nan = before.clone();
    let end = nan.len();
    nan[end - 400..end - 396].copy_from_slice(&f32::NAN.to_le_bytes());
    let broken = folder.join("nan.gguf");
    std::fs::write(&broken, &nan).unwrap();
    let error = fails(&broken, &output, &one());
    assert!(
        matches!(&error, QuantizeError::Output(SaveError::Failed { reason }) if reason.contains("invalid data")),
        "{error}"
    );
    // Nowhere to write.
    let error = fails(&input, &folder.join("no such folder").join("out.gguf"), &one());
    assert!(matches!(error, QuantizeError::Output(SaveError::Unwritable { .. })), "{error}");

    assert_eq!(std::fs::read(&output).unwrap(), b"what was there");
    assert_eq!(std::fs::read(&input).unwrap(), before);
    assert_eq!(names(&folder), ["cut.gguf", "in.gguf", "nan.gguf", "out.gguf", "small.gguf"]);
}
