//! `docs/crash-patterns.md`, from the table and from what its raw sides come to here.

use std::fmt::Write;
use std::{fs, io};

use crate::causes::{Approach, approach};
use crate::observed::{self, Observed};
use crate::row::{Group, Outcome, Row, Safe};
use crate::rows;

/// Runs every raw side, and writes the report to `path`.
///
/// # Errors
///
/// Where a child cannot be started, one comes to something else than its row says, or the file cannot be written.
pub fn write(path: &str) -> Result<(), String> {
    let told = |error: io::Error| error.to_string();
    let mut text = HEAD.to_owned();
    let all: Vec<&Row> = rows::all().collect();
    table(&mut text, &all);
    text.push_str(THE_THREE_TESTS);
    let mut group = None;
    for row in all {
        let observed = observed::run(row).map_err(told)?;
        observed.check(row).map_err(|problem| format!("{}: {problem}", row.title()))?;
        if group != Some(row.group) {
            group = Some(row.group);
            heading(&mut text, row.group);
        }
        pattern(&mut text, row, &observed);
    }
    fs::write(path, text).map_err(told)
}

const HEAD: &str = "\
# Crash patterns

Every way to break llama.cpp's C API that is known here: what is done, what it comes to, and what stands in its way in `llama-safe`. **Generated** by
`cargo xtask crash-report` from the rows in `tests/crash/`, of which each is also a test: its raw side runs in a child process and has to fail as written here; its safe side
gets the error that is named here, and then computes a known text on the same context to the known result. `cargo test --test crash` runs them.

Lines are of the pinned source. Traces are of an optimised build on Linux, from the function where the process died to the raw side of the row, without the system's
own; what was inlined is not in them.

";

const THE_THREE_TESTS: &str = "\
## What was wrong with the three disabled tests

`encode_context`, `decode_tokens` and `multiple_sequences` of the wrapper for another language took the process down, in the code that clears llama.cpp's batch allocator. llama.cpp was
blamed. Two mistakes on the wrapper's side explain it, and both are rows here:

1. **The handle was no context.** An integer was cast to `llama_context *`; it was the address of the wrapper's own server object. `handles::another_object` and
   `handles::another_object_encodes` do the same: the object's bytes are followed as pointers, and where that ends is chance.
2. **The arrays were not filled.** `llama_batch_init` leaves them as they are; what was not set was read all the same. `batches::arrays_left_unfilled` does the same with
   counts of sequence ids, `batches::outputs_left_unfilled` with flags of outputs.

One is llama.cpp's own: `llama_encode` on a model without encoder follows NULL, whoever calls it (`routing::encode_without_encoder`). `encode_context` would have ended there
even with the right handle.

The three tests, with the same tokens, positions, sequences and outputs, pass on the native path: `tests/batch.rs` has them under these names, and
`again_and_again` there has run all three 1,000 times in one process, each time with results that are right, when this report was written
(`BATCH_REPETITIONS=1000 cargo test --test batch again_and_again`).

";

fn table(text: &mut String, all: &[&Row]) {
    text.push_str(
        "| group | rows | crash | assertion | exception | wrong result | no end |\n|---|---|---|---|---|---|---|\n",
    );
    let line = |text: &mut String, name: &str, rows: &[&Row]| {
        let count = |wanted: &[&str]| rows.iter().filter(|row| wanted.contains(&kind(&row.outcome))).count();
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {} | {} |",
            rows.len(),
            count(&["crash"]),
            count(&["assertion"]),
            count(&["exception"]),
            count(&["wrong"]),
            count(&["endless"])
        );
    };
    let mut groups: Vec<Group> = all.iter().map(|row| row.group).collect();
    groups.dedup();
    for group in groups {
        let rows: Vec<&Row> = all.iter().copied().filter(|row| row.group == group).collect();
        line(text, &format!("[{}](#{})", group.name().replace('_', " "), anchor(group)), &rows);
    }
    line(text, "all", all);
    text.push('\n');
}

fn kind(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Assertion { .. } => "assertion",
        Outcome::Exception { .. } => "exception",
        Outcome::Wrong { .. } => "wrong",
        Outcome::Endless { .. } => "endless",
        _ => "crash",
    }
}

fn anchor(group: Group) -> String {
    approach(group).title.to_lowercase().replace([',', ':', '\''], "").replace(' ', "-")
}

fn heading(text: &mut String, group: Group) {
    let Approach { title, cause, native, fallback, hybrid, taken } = approach(group);
    let _ = write!(
        text,
        "## {title}\n\n{cause}\n\n| approach | what it would be, and what it costs |\n|---|---|\n| native check | {native} |\n\
         | fallback in Rust | {fallback} |\n| hybrid | {hybrid} |\n\n**Taken:** {taken}\n\n"
    );
}

fn pattern(text: &mut String, row: &Row, observed: &Observed) {
    let _ = writeln!(text, "### {}\n", row.title());
    let _ = writeln!(text, "- Done: {}.", row.done);
    let _ = writeln!(text, "- Comes to: {}.", comes_to(row, observed));
    let _ = writeln!(text, "- Fails in: `{}`{}.", row.functions[0], place(&row.outcome));
    let _ = writeln!(text, "- Memory: {}.", row.operation);
    let _ = writeln!(text, "- Prevented: {}.", prevented(&row.safe));
    if observed.trace.is_empty() || matches!(row.outcome, Outcome::Wrong { .. }) {
        text.push('\n');
        return;
    }
    text.push_str("\n```text\n");
    for function in &observed.trace {
        let _ = writeln!(text, "{function}");
    }
    text.push_str("```\n\n");
}

fn comes_to(row: &Row, observed: &Observed) -> String {
    match row.outcome {
        Outcome::Segfault { .. } => "SIGSEGV".to_owned(),
        Outcome::GuardPage { array, .. } => format!("SIGSEGV on the page behind the array `{array}`"),
        Outcome::Bus { .. } => "SIGBUS".to_owned(),
        Outcome::Panic { says, .. } => format!("SIGABRT by Rust: `{says}`"),
        Outcome::Division { .. } => "SIGFPE".to_owned(),
        Outcome::StackOverflow { .. } => "SIGSEGV, the stack is used up".to_owned(),
        Outcome::Heap => "SIGABRT by the allocator, whose own numbers are damaged".to_owned(),
        Outcome::Assertion { says, .. } => format!("SIGABRT: `{says}`"),
        Outcome::Exception { kind, says, .. } => format!("a C++ exception that nobody catches, `{kind}`: `{says}`"),
        Outcome::Wrong { .. } => observed.wrong.clone().unwrap_or_default(),
        Outcome::Endless { .. } => "no end within the time of the child".to_owned(),
    }
}

fn place(outcome: &Outcome) -> String {
    let at = match outcome {
        Outcome::Segfault { at }
        | Outcome::GuardPage { at, .. }
        | Outcome::Bus { at }
        | Outcome::Panic { at, .. }
        | Outcome::Division { at }
        | Outcome::StackOverflow { at }
        | Outcome::Assertion { at, .. }
        | Outcome::Exception { at, .. }
        | Outcome::Wrong { at }
        | Outcome::Endless { at } => at,
        Outcome::Heap => return String::new(),
    };
    format!(", {at}")
}

fn prevented(safe: &Safe) -> String {
    match safe {
        Safe::Refused { error: "None", .. } => "there is nothing to read: `Context::outputs` is `None`".to_owned(),
        Safe::Refused { error, .. } => format!("`{error}`"),
        Safe::Right { why, .. } => format!("it does what was meant: {why}"),
        Safe::Unwritable { file, line } => format!("it does not compile: the doctest with `{line}` in `{file}`"),
    }
}
