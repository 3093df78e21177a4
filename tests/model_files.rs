//! Files that are no models, paths that lead nowhere, and loading that is stopped: each a typed error, and a good file
//! loads afterwards.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use batch_suite::{exact_params, is_leak_check, still_works};
use fixtures::{Llama, Weights};
use llama_safe::{Context, GgufError, LoadError, LoadMode, Model, ModelParams};
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
