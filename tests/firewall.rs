//! C++ exceptions: each function that `llama-safe` calls is guarded, or cannot throw. A binary of its own, since its
//! children die.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use fixtures::{Llama, Weights};
use llama_sys as sys;

/// The functions that cannot throw, beside the guard that those which can go through.
const CANNOT_THROW: &str = include_str!("../llama-sys/shim/cannot_throw.txt");

/// Every function that the bindings know.
fn bound() -> BTreeSet<&'static str> {
    let functions = sys::BINDINGS.split("pub fn ").skip(1);
    functions.map(|rest| &rest[..rest.find(is_no_word).unwrap_or(rest.len())]).collect()
}

fn is_no_word(letter: char) -> bool {
    !letter.is_ascii_alphanumeric() && letter != '_'
}

/// The functions of the bindings that a source names as `sys::NAME`.
fn calls<'a>(source: &'a str, bound: &BTreeSet<&str>) -> BTreeSet<&'a str> {
    let code = source.lines().map(|line| line.split("//").next().unwrap_or_default());
    let named = code.flat_map(|line| line.split("sys::").skip(1));
    let names = named.map(|rest| &rest[..rest.find(is_no_word).unwrap_or(rest.len())]);
    names.filter(|name| bound.contains(name)).collect()
}

/// What is listed: function, where it is defined, why it cannot throw.
fn listed() -> BTreeMap<&'static str, (&'static str, &'static str)> {
    let mut listed = BTreeMap::new();
    for line in CANNOT_THROW.lines().filter(|line| !line.starts_with([' ', '#'])) {
        if let Some((function, rest)) = line.split_once("  ") {
            let (place, reason) = rest.split_once("  ").unwrap_or_else(|| panic!("no reason: {line}"));
            assert!(listed.insert(function, (place, reason)).is_none(), "{function} is listed twice");
        }
    }
    listed
}

/// Every Rust file under `folder`, with its text.
fn sources(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.display().to_string(), fs::read_to_string(&path).expect("a source")));
        }
    }
    found
}

fn llama_safe() -> Vec<(String, String)> {
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("llama-safe/src"))
}

#[test]
fn every_function_is_guarded_or_cannot_throw() {
    let (bound, listed) = (bound(), listed());
    let (mut called, mut unguarded) = (BTreeSet::new(), Vec::new());
    for (file, source) in llama_safe() {
        for name in calls(&source, &bound) {
            called.insert(name.to_owned());
            if listed.contains_key(name) || (name.starts_with("guard_llama_") || name.starts_with("guard_g")) {
                continue;
            }
            let instead = match bound.contains(format!("guard_{name}").as_str()) {
                true => format!("call guard_{name}"),
                false => "add it to llama-sys/shim/guard.h, or to cannot_throw.txt with the reason".to_owned(),
            };
            unguarded.push(format!("{file} calls {name}: {instead}"));
        }
    }
    assert!(called.len() > 80, "the calls are found: {called:?}");
    assert!(unguarded.is_empty(), "{}", unguarded.join("\n"));
    let idle: Vec<_> = listed.keys().filter(|name| !called.contains(**name)).collect();
    assert!(idle.is_empty(), "in cannot_throw.txt, but not called: {idle:?}");
}

/// A function that has a twin is guarded wherever it is called, and what is listed stands where the list says.
#[test]
fn what_cannot_throw_stands_where_it_was_read() {
    let (bound, mut wrong) = (bound(), Vec::new());
    for (function, (place, reason)) in listed() {
        if bound.contains(format!("guard_{function}").as_str()) {
            wrong.push(format!("{function} has a twin: it can throw"));
        }
        if reason.trim().is_empty() {
            wrong.push(format!("{function}: no reason"));
        }
        if function.starts_with("guard_") || function.starts_with("kernels_") {
            continue;
        }
        let (file, line) = place.split_once(':').unwrap_or_else(|| panic!("{function}: no line in {place}"));
        let text =
            fs::read_to_string(Path::new(sys::SOURCE).join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let line: usize = line.parse().expect("a line's number");
        if !text.lines().nth(line - 1).is_some_and(|text| text.contains(&format!("{function}("))) {
            wrong.push(format!("{function} is not defined at {place}: read it where it is now"));
        }
    }
    assert!(wrong.is_empty(), "cannot_throw.txt:\n{}", wrong.join("\n"));
}

/// There is no other way to C++ than `sys::`, which the tests above look for.
#[test]
fn there_is_one_way_to_c() {
    for (file, source) in llama_safe() {
        for line in source.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
            let named = ["llama_sys::", "use llama_sys"].iter().any(|name| line.contains(name));
            assert!(!named || line == "use llama_sys as sys;", "{file}: {line}");
            assert!(!line.contains("use sys::") && !line.contains("sys::{"), "{file}: {line}");
            assert!(!line.ends_with("extern \"C\" {"), "{file}: {line}");
        }
    }
}

#[test]
fn calls_are_found() {
    let bound = ["llama_a", "llama_b", "guard_llama_c", "llama_d"].into();
    let source = "let x = sys::llama_a(1) + f(sys::guard_llama_c); // sys::llama_b\nsys::llama_type;\nllama_d();";
    assert_eq!(calls(source, &bound), ["guard_llama_c", "llama_a"].into());
}

/// Something that throws: without the guard it ends the process, with it there is a text.
struct Case {
    name: &'static str,
    raw: fn(),
    guarded: fn() -> Result<(), String>,
}

/// A context of llama.cpp's own, of a model that is never freed.
fn raw_context() -> *mut sys::llama_context {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("firewall-{}.gguf", std::process::id()));
    fs::write(&path, Llama::tiny().gguf(Weights::F16, 1).expect("a model")).expect("a folder that can be written");
    let c_path = std::ffi::CString::new(path.display().to_string()).expect("a path");
    // SAFETY: the path is terminated; default parameters; a model that was loaded.
    let context = unsafe {
        let model = sys::llama_model_load_from_file(c_path.as_ptr(), sys::llama_model_default_params());
        sys::llama_init_from_model(model, sys::llama_context_default_params())
    };
    fs::remove_file(&path).expect("a file of our own");
    assert!(!context.is_null());
    context
}

const CASES: [Case; 3] = [
    Case {
        name: "the text of a token that does not exist",
        raw: || {
            // SAFETY: none but that it is to end the process; the same for all of these.
            unsafe { sys::llama_vocab_get_text(vocabulary(raw_context()), 1 << 30) };
        },
        guarded: || {
            sys::guarded(std::ptr::null(), |result, error| {
                // SAFETY: the vocabulary lives, and what is thrown is caught; the same for all of these.
                unsafe { sys::guard_llama_vocab_get_text(result, error, vocabulary(raw_context()), 1 << 30) }
            })
            .map(drop)
        },
    },
    Case {
        name: "the metadata of a key that is no text",
        raw: || {
            let key = std::ptr::null();
            // SAFETY: see above.
            unsafe { sys::llama_model_meta_val_str(sys::llama_get_model(raw_context()), key, std::ptr::null_mut(), 0) };
        },
        guarded: || {
            sys::guarded(0, |result, error| {
                let (key, to) = (std::ptr::null(), std::ptr::null_mut());
                // SAFETY: see above.
                unsafe {
                    let model = sys::llama_get_model(raw_context());
                    sys::guard_llama_model_meta_val_str(result, error, model, key, to, 0)
                }
            })
            .map(drop)
        },
    },
    Case {
        name: "the letters of a token that does not exist",
        raw: || {
            let to = std::ptr::null_mut();
            // SAFETY: see above.
            unsafe { sys::llama_token_to_piece(vocabulary(raw_context()), 1 << 30, to, 0, 0, true) };
        },
        guarded: || {
            sys::guarded(0, |result, error| {
                let to = std::ptr::null_mut();
                // SAFETY: see above.
                unsafe {
                    sys::guard_llama_token_to_piece(result, error, vocabulary(raw_context()), 1 << 30, to, 0, 0, true)
                }
            })
            .map(drop)
        },
    },
];

/// The vocabulary of a context's model.
///
/// # Safety
///
/// The context lives.
unsafe fn vocabulary(context: *mut sys::llama_context) -> *const sys::llama_vocab {
    // SAFETY: the caller's promise.
    unsafe { sys::llama_model_get_vocab(sys::llama_get_model(context)) }
}

/// Names the case that the child is to try.
const CHILD: &str = "FIREWALL_CASE";

/// Each case in a child of its own: raw, it ends the process; guarded, it is an error with a text.
#[test]
fn what_throws_ends_the_process_unless_it_is_guarded() {
    if let Ok(asked) = std::env::var(CHILD) {
        let (how, name) = asked.split_once(' ').expect("how, and which");
        let case = CASES.iter().find(|case| case.name == name).expect("a case");
        // SAFETY: called once in this process, before anything else.
        unsafe { sys::llama_backend_init() };
        match how {
            "raw" => (case.raw)(),
            _ => println!("CAUGHT {}", (case.guarded)().expect_err("an exception")),
        }
        println!("LIVES");
        return;
    }
    for case in CASES {
        for how in ["raw", "guarded"] {
            let mut command = Command::new(std::env::current_exe().expect("this binary"));
            command.args(["--exact", "what_throws_ends_the_process_unless_it_is_guarded", "--nocapture"]);
            // ggml would start a debugger to print a backtrace.
            command.env(CHILD, format!("{how} {}", case.name)).env("GGML_NO_BACKTRACE", "1");
            // What the cases make is for the process to free.
            command.env("ASAN_OPTIONS", "detect_leaks=0");
            let output = command.output().expect("a child");
            let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            let what = format!("{how}: {}: {}\n{text}\n{errors}", case.name, output.status);
            let lives = output.status.success() && text.contains("LIVES");
            match how {
                // C++'s own end, or Rust's where it notices what comes through it.
                "raw" => assert!(
                    !lives && (errors.contains("terminate called") || errors.contains("foreign exception")),
                    "it no longer throws: {what}"
                ),
                _ => assert!(
                    lives && text.lines().any(|line| line.len() > "CAUGHT ".len() && line.starts_with("CAUGHT ")),
                    "{what}"
                ),
            }
        }
    }
}
