//! Which rows cover each function of `llama.h`: the last column of `MISSING_FEATURES.md`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::rows;

/// More rows than these are told by their groups.
const NAMED: usize = 2;

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("MISSING_FEATURES.md")
}

/// Writes the column anew.
///
/// # Errors
///
/// Where the file cannot be read or written.
pub fn write() -> Result<(), String> {
    let text = fs::read_to_string(path()).map_err(|error| error.to_string())?;
    fs::write(path(), with_column(&text)).map_err(|error| error.to_string())
}

/// Whether the column is right, titles are unique, and every function of a row exists.
///
/// # Errors
///
/// What is wrong, and what to do about it.
pub fn check() -> Result<(), String> {
    let mut titles: Vec<String> = rows::all().map(crate::row::Row::title).collect();
    titles.sort();
    if let Some(twice) = titles.windows(2).find(|two| two[0] == two[1]) {
        return Err(format!("two rows are named {}", twice[0]));
    }
    for row in rows::all() {
        for function in row.functions {
            if !llama_sys::BINDINGS.contains(&format!("pub fn {function}(")) {
                return Err(format!("{}: there is no {function} in the bindings", row.title()));
            }
        }
    }
    let text = fs::read_to_string(path()).map_err(|error| error.to_string())?;
    let want = with_column(&text);
    match text.lines().zip(want.lines()).find(|(got, want)| got != want) {
        Some((got, want)) => Err(format!(
            "MISSING_FEATURES.md is behind: cargo xtask crash-report writes\n{want}\nwhere there is\n{got}"
        )),
        None => Ok(()),
    }
}

/// The tables with the column as it should be, whether they had one or not.
fn with_column(text: &str) -> String {
    let mut changed = String::new();
    let mut in_table = false;
    for line in text.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        in_table = line.starts_with('|') && (in_table || cells[0] == "function");
        let last = match cells[0] {
            "function" => "rows of `tests/crash.rs`".to_owned(),
            _ if line.starts_with("|--") => "---".to_owned(),
            name => rows_of(name.trim_matches('`')),
        };
        match cells[..] {
            [first, second, third, ..] if in_table && line.starts_with("|--") => {
                changed.push_str(&format!("|{first}|{second}|{third}|{last}|\n"));
            }
            [first, second, third, ..] if in_table => {
                changed.push_str(&format!("| {first} | {second} | {third} | {last} |\n"));
            }
            _ => {
                changed.push_str(line);
                changed.push('\n');
            }
        }
    }
    changed
}

/// The rows that misuse `function`: by name if they are few, else how many of each group.
fn rows_of(function: &str) -> String {
    let rows: Vec<_> = rows::all().filter(|row| row.functions.contains(&function)).collect();
    match rows.len() {
        0 => "none".to_owned(),
        1..=NAMED => rows.iter().map(|row| row.title()).collect::<Vec<_>>().join(", "),
        _ => {
            let mut groups: BTreeMap<&str, usize> = BTreeMap::new();
            for row in rows {
                *groups.entry(row.group.name()).or_default() += 1;
            }
            groups.iter().map(|(group, count)| format!("{group} {count}")).collect::<Vec<_>>().join(", ")
        }
    }
}
