//! Files that are no models, paths that lead nowhere, and loading that is stopped: each a typed error, and a good file
//! loads afterwards.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use batch_suite::architectures::experts_by_table;
use batch_suite::{exact_params, is_leak_check, still_works};
use fixtures::{Family, Llama, Weights};
use llama_safe::{Context, GgufError, LoadError, LoadMode, MetadataValue, Model, ModelParams, OverrideError, Token};
use proptest::prelude::*;

/// A place for this test binary's files.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn gguf() -> &'static [u8] {
    static GGUF: OnceLock<Vec<u8>> = OnceLock::new();
    GGUF.get_or_init(|| Llama::tiny().gguf(Weights::F32, 1).unwrap())
}

/// What loading these bytes says, from a file and from memory: the same.
#[track_caller]
fn refused(name: &str, bytes: &[u8]) -> LoadError {
    let path = path(name);
    std::fs::write(&path, bytes).unwrap();
    let from_memory = Model::from_bytes(bytes, &ModelParams::default()).map(drop).expect_err("bytes that are no model");
    for mode in [LoadMode::Auto, LoadMode::Mmap, LoadMode::Read] {
        let from_file = Model::load(&path, &ModelParams::default().load_mode(mode)).map(drop).expect_err("no model");
        assert_eq!(
            std::mem::discriminant(&from_file),
            std::mem::discriminant(&from_memory),
            "{from_file}, {from_memory}"
        );
        assert_eq!(from_file.to_string(), from_memory.to_string());
    }
    std::fs::remove_file(path).unwrap();
    from_memory
}

/// A file at `path` loads, and a context of it works.
#[track_caller]
fn loads(path: &Path) {
    let model = Model::load(path, &ModelParams::default()).unwrap();
    still_works(&mut Context::new(&model, &exact_params()).unwrap());
}

#[test]
fn files_that_are_no_models() {
    assert!(matches!(refused("empty.gguf", b""), LoadError::Empty));
    for bytes in [&b"G"[..], b"GGU", b"ggml and so on", b"\0\0\0\0", &[0xff; 4096]] {
        let start = &bytes[..bytes.len().min(4)];
        assert!(matches!(refused("garbage.gguf", bytes), LoadError::NotGguf { found } if found == start));
    }
    // It begins well.
    for rest in [vec![], vec![0; 100], vec![0xff; 100], b" is how it begins, but it goes on as text".to_vec()] {
        let bytes = [b"GGUF".to_vec(), rest].concat();
        let error = refused("bad-rest.gguf", &bytes);
        assert!(
            matches!(error, LoadError::Malformed(GgufError::Truncated { .. } | GgufError::Version { .. })),
            "{error}"
        );
    }
    // Version 3, and counts that nothing could hold.
    let mut bytes = gguf()[..8].to_vec();
    bytes.extend([0x7f; 16]);
    let error = refused("bad-counts.gguf", &bytes);
    assert!(matches!(error, LoadError::Malformed(GgufError::Count { what: "tensors", max: 0, .. })), "{error}");

    let whole = path("after-garbage.gguf");
    std::fs::write(&whole, gguf()).unwrap();
    loads(&whole);
}

/// A table of experts is looked at before it is used: what it names is there.
#[test]
fn experts_by_table_are_there() {
    let last = Token(fixtures::ARCHITECTURE_TOKENS as i32 - 1);
    for id in [0, 3] {
        let model = Model::from_bytes(&experts_by_table(id), &ModelParams::default()).unwrap();
        let mut context = Context::new(&model, &exact_params().sequences(1)).unwrap();
        let sequence = context.new_sequence().unwrap();
        let mut batch = context.new_batch();
        let slot = batch.prompt(&sequence, &[Token(0), Token(1), last]).unwrap();
        let outputs = context.decode(&mut batch).unwrap();
        assert!(outputs.get(slot).unwrap().iter().all(|logit| logit.is_finite()));
    }
    for id in [4, 1000, i32::MAX, -1, i32::MIN] {
        let error = refused(&format!("experts-{id}.gguf"), &experts_by_table(id));
        assert!(
            matches!(&error, LoadError::Malformed(GgufError::Id { got, max: 3, .. }) if *got == i64::from(id)),
            "{error}"
        );
    }
    // As many as an override says.
    let fewer = ModelParams::default().override_metadata("deepseek4.expert_count", MetadataValue::Number(2));
    let error = Model::from_bytes(&experts_by_table(3), &fewer).map(drop).unwrap_err();
    assert!(matches!(error, LoadError::Malformed(GgufError::Id { got: 3, max: 1, .. })), "{error}");
}

#[test]
fn truncated_files() {
    let end = gguf().len();
    // Magic, version, counts, metadata, tensor names, tensor data, the last byte.
    for length in [4, 7, 8, 16, 23, 24, 25, 100, 1000, 4096, end / 4, end / 2, end - 1000, end - 1] {
        let error = refused("truncated.gguf", &gguf()[..length]);
        let as_told = match &error {
            LoadError::Malformed(GgufError::Truncated { offset, needed, left, .. }) => {
                needed > left && offset + left == length as u64
            }
            LoadError::Malformed(GgufError::Count { got, max, .. }) => got > max,
            LoadError::Malformed(GgufError::List { got, max, .. }) => got > max,
            LoadError::Malformed(GgufError::OutsideFile { size, end: last, .. }) => {
                *size == length as u64 && *last <= end as u64 && *last > *size
            }
            _ => false,
        };
        assert!(as_told, "cut at {length} of {end}: {error:?}");
    }
}

/// Raw llama.cpp loads it, gives logits that are off by a third of their size, and dies of a broken heap.
#[test]
fn heads_that_the_kernel_runs_past() {
    let key = b"rwkv7.wkv.head_size";
    for got in [4_u32, 16, 32] {
        let mut bytes = Family::Rwkv.gguf(Weights::F32, 1).unwrap();
        let value = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 4;
        bytes[value..value + 4].copy_from_slice(&got.to_le_bytes());
        let error = refused("heads.gguf", &bytes);
        match error {
            LoadError::Malformed(GgufError::NotDivisible { key: told, got: number, by: 64, .. }) => {
                assert_eq!((told.as_bytes(), number), (&key[..], i128::from(got)));
            }
            other => panic!("{other}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if is_leak_check() { 10 } else { 200 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// A model that is cut anywhere is refused; most cuts of few bytes are in its metadata.
    #[test]
    fn truncated_anywhere(cut in prop_oneof![0..gguf().len(), 0..16_384usize.min(gguf().len())]) {
        let error = Model::from_bytes(&gguf()[..cut], &ModelParams::default()).map(drop).unwrap_err();
        let as_told = match cut {
            0 => matches!(error, LoadError::Empty),
            1..4 => matches!(error, LoadError::NotGguf { .. }),
            _ => matches!(error, LoadError::Malformed(_)),
        };
        prop_assert!(as_told, "cut at {}: {}", cut, error);
    }
}

#[test]
fn paths_that_lead_nowhere() {
    let load = |path: &Path| Model::load(path, &ModelParams::default()).map(drop).unwrap_err();
    let missing = path("there is no such file.gguf");
    assert!(matches!(load(&missing), LoadError::NotFound { path } if path == missing));
    assert!(matches!(load(Path::new("")), LoadError::NotFound { .. }));
    let directory = path("directory.gguf");
    std::fs::create_dir_all(&directory).unwrap();
    assert!(matches!(load(&directory), LoadError::IsDirectory { path } if path == directory));
    let nul = path("a\0b.gguf");
    assert!(matches!(load(&nul), LoadError::PathHasNul { path } if path == nul));
    let file = path("a file.gguf");
    std::fs::write(&file, gguf()).unwrap();
    let below = file.join("model.gguf");
    match load(&below) {
        // As a folder, it cannot be read; some systems say that there is nothing.
        LoadError::Unreadable { path, .. } | LoadError::NotFound { path } => assert_eq!(path, below),
        other => panic!("{other}"),
    }
    loads(&file);
}

/// Paths need not be text. (macOS refuses such names itself.)
#[cfg(target_os = "linux")]
#[test]
fn paths_that_are_not_utf_8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(OsStr::from_bytes(b"mod\xff\xc3l.gguf"));
    let missing = Model::load(&path, &ModelParams::default()).map(drop).unwrap_err();
    assert!(matches!(missing, LoadError::NotFound { path: told } if told == path));
    std::fs::write(&path, gguf()).unwrap();
    loads(&path);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn loading_that_is_stopped() {
    let path = path("stopped.gguf");
    std::fs::write(&path, gguf()).unwrap();
    let cancelled = Model::load_with_progress(&path, &ModelParams::default(), |_| ControlFlow::Break(()));
    assert!(matches!(cancelled, Err(LoadError::Cancelled)));

    // A panic comes out as it went in, past llama.cpp.
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        Model::load_with_progress(&path, &ModelParams::default(), |_| std::panic::panic_any(42u8))
    }));
    assert_eq!(panicked.unwrap_err().downcast_ref::<u8>(), Some(&42));

    let mut seen = Vec::new();
    let model = Model::load_with_progress(&path, &ModelParams::default(), |progress| {
        seen.push(progress);
        ControlFlow::Continue(())
    });
    assert!(seen.is_sorted() && seen.first() >= Some(&0.0) && seen.last() == Some(&1.0), "{seen:?}");
    still_works(&mut Context::new(&model.unwrap(), &exact_params()).unwrap());
    loads(&path);
}

/// From memory as from a file: at any step, and a panic comes out as it went in.
#[test]
fn loading_from_memory_that_is_stopped() {
    let settings = ModelParams::default();
    let mut steps = 0;
    let model = Model::from_bytes_with_progress(gguf(), &settings, |_| {
        steps += 1;
        ControlFlow::Continue(())
    });
    still_works(&mut Context::new(&model.unwrap(), &exact_params()).unwrap());
    assert!(steps > 10, "{steps}");
    for last in [1, 2, steps / 2, steps - 1, steps] {
        let mut step = 0;
        let stopped = Model::from_bytes_with_progress(gguf(), &settings, |_| {
            step += 1;
            if step == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(stopped, Err(LoadError::Cancelled)), "stopped at {last} of {steps}");
        assert_eq!(step, last, "it is not asked again");
    }
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        Model::from_bytes_with_progress(gguf(), &settings, |progress| {
            if progress >= 1.0 { std::panic::panic_any(42u8) } else { ControlFlow::Continue(()) }
        })
    }));
    assert_eq!(panicked.unwrap_err().downcast_ref::<u8>(), Some(&42));
}

/// A mapped file that is cut ends the process; one that was read is not needed any more.
#[test]
fn a_file_that_was_read_may_change() {
    let path = path("read.gguf");
    std::fs::write(&path, gguf()).unwrap();
    let model = Model::load(&path, &ModelParams::default().load_mode(LoadMode::Read)).unwrap();
    let mut context = Context::new(&model, &exact_params()).unwrap();
    let before = batch_suite::decode_alone(&mut context, &batch_suite::prompt(1, 4));
    // Cut in place, not replaced: the same file.
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(10).unwrap();
    assert_eq!(batch_suite::decode_alone(&mut context, &batch_suite::prompt(1, 4)), before);
}

#[test]
fn values_that_take_the_place_of_the_files() {
    let load = |params: ModelParams| Model::from_bytes(gguf(), &params);
    let plain = load(ModelParams::default()).unwrap();
    let other = ModelParams::default().override_metadata("llama.context_length", 77);
    assert_eq!((plain.context_length(), load(other.clone()).unwrap().context_length()), (512, 77));
    // The last one counts.
    assert_eq!(load(other.override_metadata("llama.context_length", 78)).unwrap().context_length(), 78);
    // One of each type.
    let base = load(ModelParams::default().override_metadata("llama.rope.freq_base", 500_000.0)).unwrap();
    let tokens = batch_suite::prompt(1, 6);
    let logits = |model: &Model| batch_suite::alone(model, &exact_params(), &tokens);
    assert_ne!(logits(&base).last(), logits(&plain).last());
    let bos = load(ModelParams::default().override_metadata("tokenizer.ggml.add_bos_token", !plain.vocab().adds_bos()));
    assert_ne!(bos.unwrap().vocab().adds_bos(), plain.vocab().adds_bos());
    assert!(load(ModelParams::default().override_metadata("general.name", "another name")).is_ok());
    // Of a key that the file does not have.
    assert!(load(ModelParams::default().override_metadata("tokenizer.ggml.add_sep_token", false)).is_ok());

    // The same checks as for the file's own values.
    let refused = |params: ModelParams| load(params).map(drop).unwrap_err();
    for (key, got) in [("llama.block_count", 0), ("llama.block_count", 100_000), ("llama.expert_used_count", 3)] {
        let error = refused(ModelParams::default().override_metadata(key, got));
        let as_told = matches!(&error, LoadError::Malformed(GgufError::OutOfRange { key: told, got: value, .. })
            if told == key && *value == i128::from(got));
        assert!(as_told, "{error}");
    }
    // What llama.cpp would take for another type, or not look at.
    let error = refused(ModelParams::default().override_metadata("llama.context_length", 77.0));
    assert!(matches!(error, LoadError::Override(OverrideError::Type { given: "f32", found: "u32", .. })), "{error}");
    for key in ["llama.there_is_no_such_key", "general.author"] {
        let error = refused(ModelParams::default().override_metadata(key, "x"));
        assert!(matches!(&error, LoadError::Override(OverrideError::NotRead { key: told }) if told == key), "{error}");
    }
    let error = refused(ModelParams::default().override_metadata("tokenizer.ggml.add_sep_token", 1));
    assert!(matches!(error, LoadError::Override(OverrideError::NotRead { .. })), "{error}");
    let long = refused(ModelParams::default().override_metadata("k".repeat(128), 1));
    assert!(matches!(long, LoadError::Override(OverrideError::TooLong { got: 128, max: 127, .. })), "{long}");
    let list = refused(ModelParams::default().override_metadata("tokenizer.ggml.tokens", "x"));
    assert!(matches!(list, LoadError::Override(OverrideError::Type { found: "list", .. })), "{list}");
}

/// What the function that follows a loading does with other models does not mix with that loading.
#[test]
fn a_model_may_be_loaded_while_another_is() {
    let gguf = Llama::tiny().gguf(Weights::F16, 1).unwrap();
    let overridden = ModelParams::default().override_metadata("llama.context_length", 100);
    let mut others = 0;
    let model = Model::from_bytes_with_progress(&gguf, &overridden, |_| {
        if others < 2 {
            others += 1;
            assert_eq!(Model::from_bytes(&gguf, &ModelParams::default()).unwrap().context_length(), 512);
            assert!(Model::from_bytes(b"GGUF", &ModelParams::default()).is_err());
        }
        ControlFlow::Continue(())
    });
    assert_eq!((model.unwrap().context_length(), others), (100, 2));
}
