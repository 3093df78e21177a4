//! `MISSING_FEATURES.md` against the generated bindings and the sources of `llama-safe`: it cannot go stale.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

const TABLE: &str = include_str!("../MISSING_FEATURES.md");
const STATES: [&str; 4] = ["covered", "replaced", "planned", "not offered"];

#[test]
fn every_function_of_the_header_is_accounted_for() {
    let mut sources = String::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("llama-safe/src"), &mut sources);
    let problems = problems(TABLE, llama_sys::BINDINGS, &sources);
    assert!(problems.is_empty(), "MISSING_FEATURES.md:\n- {}", problems.join("\n- "));
}

/// Appends every Rust file under `folder`.
fn read(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("an entry of the folder").path();
        if path.is_dir() {
            read(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
            text.push('\n');
        }
    }
}

/// One row of the tables: function, state, and where it is or why not.
struct Row<'a> {
    function: &'a str,
    state: &'a str,
    text: &'a str,
}

/// What is wrong with `table`, each with what to write instead.
fn problems(table: &str, bindings: &str, sources: &str) -> Vec<String> {
    let mut found = Vec::new();
    let rows = rows(table, &mut found);
    let exist = functions(bindings);
    let items = items(sources);
    let calls = calls(sources);

    let mut seen = BTreeSet::new();
    for Row { function, state, text } in &rows {
        if !seen.insert(*function) {
            found.push(format!("{function} has two rows: keep one"));
        }
        if !exist.contains(function) {
            found.push(format!("{function} is not in the bindings: remove its row"));
        }
        if !STATES.contains(state) {
            found.push(format!("{function}: unknown state '{state}': write one of {}", STATES.join(", ")));
        }
        let called = calls.contains(function);
        if *state == "covered" && !called {
            found.push(format!("{function} is not called by llama-safe: write 'replaced', or why not yet"));
        }
        if *state != "covered" && called {
            found.push(format!("{function} is called by llama-safe: write 'covered' and the item that uses it"));
        }
        // A successor or a relative of the same header may be named too.
        let named: Vec<&str> = paths(text).filter(|path| !exist.contains(path)).collect();
        if named.is_empty() && ["covered", "replaced"].contains(state) {
            found.push(format!("{function} is {state}: name the item, such as `Context::decode`"));
        }
        for path in named {
            for segment in path.split("::").filter(|segment| !items.contains(segment)) {
                found.push(format!("{function} names `{path}`, but llama-safe has no public `{segment}`"));
            }
        }
    }
    for function in exist.iter().filter(|function| !seen.contains(*function)) {
        found.push(format!("{function} has no row: write | `{function}` | planned | why not yet |"));
    }
    let totals = totals(&rows);
    if !table.lines().any(|line| line == totals) {
        found.push(format!("the totals are wrong: write {totals}"));
    }
    found
}

/// The rows of all tables. A line that starts like a row and is none goes to `found`.
fn rows<'a>(table: &'a str, found: &mut Vec<String>) -> Vec<Row<'a>> {
    let mut rows = Vec::new();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        match cells[..] {
            // What `tests/crash.rs` says of it comes last, and is held against its rows there.
            [function, state, text] | [function, state, text, _] if !text.is_empty() => {
                rows.push(Row { function: function.trim_matches('`'), state, text });
            }
            _ => found.push(format!("not a row of three filled cells: {line}")),
        }
    }
    rows
}

/// The line that tells how many rows there are of each state.
fn totals(rows: &[Row]) -> String {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(row.state).or_insert(0) += 1;
    }
    let parts: Vec<String> =
        STATES.iter().map(|state| format!("{} {state}", counts.get(state).copied().unwrap_or(0))).collect();
    format!("Totals: {} functions: {}.", rows.len(), parts.join(", "))
}

/// The names of all `llama_*` functions that bindgen declared.
fn functions(bindings: &str) -> BTreeSet<&str> {
    bindings.split("pub fn ").skip(1).map(name).filter(|name| name.starts_with("llama_")).collect()
}

/// The code spans of `text` that are paths.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    let spans = text.split('`').skip(1).step_by(2);
    spans.filter(|span| span.split("::").all(|part| !part.is_empty() && name(part) == part))
}

/// The names of all public functions, types, constants and modules of Rust source.
fn items(sources: &str) -> BTreeSet<&str> {
    let mut items = BTreeSet::new();
    for line in sources.lines().map(str::trim_start) {
        // A macro that makes a method of each line: `bos = llama_vocab_bos;`.
        if let Some((method, function)) = line.split_once(" = ")
            && function.starts_with("llama_")
            && name(method) == method
        {
            items.insert(method);
        }
        let Some(rest) = line.strip_prefix("pub ") else { continue };
        let mut words = rest.split_whitespace().peekable();
        // `const` begins a function as well as a constant.
        while words.next_if(|word| ["const", "unsafe", "async"].contains(word)).is_some() {}
        if words.next_if(|word| ["fn", "struct", "enum", "trait", "type", "mod", "union"].contains(word)).is_some()
            || rest.starts_with("const ")
        {
            items.extend(words.next().map(name));
        }
    }
    items
}

/// The C functions that Rust source names in its code: comments and strings do not count, a guarded twin does.
fn calls(sources: &str) -> BTreeSet<&str> {
    let mut calls = BTreeSet::new();
    for line in sources.lines() {
        let code = line.split("//").next().unwrap_or_default();
        for part in code.split('"').step_by(2) {
            let words = part.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
            calls.extend(
                words.map(|word| word.strip_prefix("guard_").unwrap_or(word)).filter(|word| word.starts_with("llama_")),
            );
        }
    }
    calls
}

/// The identifier that `text` begins with.
fn name(text: &str) -> &str {
    let end = text.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(text.len());
    &text[..end]
}

// The check itself can fail: each case is a file that would be accepted but for one thing.

const SMALL_BINDINGS: &str = "unsafe extern \"C\" { pub fn llama_a(); pub fn llama_b() -> i32; pub fn ggml_c(); }";
const SMALL_SOURCES: &str = "pub struct Context;\nimpl Context {\n    pub fn new() { unsafe { guard_llama_a() } }\n}\n";

fn small(rows: &str, totals: &str) -> Vec<String> {
    problems(
        &format!("# Title\n\n{totals}\n\n| function | state | where |\n|---|---|---|\n{rows}\n"),
        SMALL_BINDINGS,
        SMALL_SOURCES,
    )
}

const A: &str = "| `llama_a` | covered | `Context::new` |";
const B: &str = "| `llama_b` | planned | later |";
const ONE_AND_ONE: &str = "Totals: 2 functions: 1 covered, 0 replaced, 1 planned, 0 not offered.";

#[test]
fn a_right_table_is_accepted() {
    assert_eq!(small(&format!("{A}\n{B}"), ONE_AND_ONE), [""; 0]);
}

#[test]
fn each_mistake_is_named() {
    let cases = [
        (A.to_owned(), "Totals: 1 functions: 1 covered, 0 replaced, 0 planned, 0 not offered.", "llama_b has no row"),
        (
            format!("{A}\n{B}\n{B}"),
            "Totals: 3 functions: 1 covered, 0 replaced, 2 planned, 0 not offered.",
            "llama_b has two rows",
        ),
        (
            format!("{A}\n{B}\n| `llama_z` | planned | later |"),
            "Totals: 3 functions: 1 covered, 0 replaced, 2 planned, 0 not offered.",
            "llama_z is not in the bindings",
        ),
        (
            format!("{A}\n| `llama_b` | perhaps | later |"),
            "Totals: 2 functions: 1 covered, 0 replaced, 0 planned, 0 not offered.",
            "unknown state 'perhaps'",
        ),
        (format!("{A}\n{B}"), "Totals: 9 functions", "write Totals: 2 functions: 1 covered"),
        (
            format!("{A}\n| `llama_b` | planned |  |"),
            "Totals: 1 functions: 1 covered, 0 replaced, 0 planned, 0 not offered.",
            "not a row of three filled cells",
        ),
        (
            format!("{A}\n| `llama_b` | replaced | Rust |"),
            "Totals: 2 functions: 1 covered, 1 replaced, 0 planned, 0 not offered.",
            "llama_b is replaced: name the item",
        ),
        (
            format!("{A}\n| `llama_b` | replaced | `Context::gone` |"),
            "Totals: 2 functions: 1 covered, 1 replaced, 0 planned, 0 not offered.",
            "no public `gone`",
        ),
        (
            format!("{A}\n| `llama_b` | covered | `Context::new` |"),
            "Totals: 2 functions: 2 covered, 0 replaced, 0 planned, 0 not offered.",
            "llama_b is not called by llama-safe",
        ),
        (
            format!("| `llama_a` | planned | later |\n{B}"),
            "Totals: 2 functions: 0 covered, 0 replaced, 2 planned, 0 not offered.",
            "llama_a is called by llama-safe",
        ),
    ];
    for (rows, totals, expected) in cases {
        let found = small(&rows, totals);
        assert!(found.iter().any(|problem| problem.contains(expected)), "{expected:?} is not among {found:?}");
    }
}

#[test]
fn comments_and_strings_are_no_calls() {
    let sources = "/// see llama_a\nlet text = \"llama_b\"; // llama_c\nuse llama_sys::{llama_d, guard_llama_e};\n";
    let found = calls(sources);
    assert!(["llama_d", "llama_e"].iter().all(|name| found.contains(name)));
    assert!(["llama_a", "llama_b", "llama_c"].iter().all(|name| !found.contains(name)));
}

#[test]
fn only_public_items_count() {
    let found = items(
        "pub const fn one() {}\npub(crate) fn two() {}\nfn three() {}\n    pub const FOUR: u8 = 4;\npub enum Five {}\nsix = llama_six;\nlet seven = 7;\n",
    );
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["FOUR", "Five", "one", "six"]);
}
