//! The prompts: from the command line, from a file, or those that come along.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// As many sequences as one llama.cpp context can have. Counted here too, so that one prompt too many is not found out only after
/// a large model was loaded.
pub const MOST: usize = 256;

/// What a model of the user's continues where no prompts are given.
pub const ANY_MODEL: [&str; 8] = [
    "Once upon a time",
    "The cat sat on the mat and",
    "In the middle of the night, the old clock",
    "Rust is a language that",
    "Dear diary, today",
    "The recipe is simple: take",
    "Two ships met at sea.",
    "Why is the sky blue?",
];

/// All prompts: those given one by one, then those of the file; where neither was asked for, those that come along.
///
/// # Errors
/// Where the file cannot be read, is not text, or has no prompt in it, and where there are too many.
pub fn gather(given: &[String], file: Option<&Path>, along: [&str; 8]) -> Result<Vec<String>> {
    let mut prompts = given.to_vec();
    if let Some(path) = file {
        let from_file = in_text(&read(path)?).with_context(|| name(path))?;
        prompts.extend(from_file);
        if prompts.is_empty() {
            bail!("{} has no prompts in it: one a line is expected", name(path));
        }
    }
    if prompts.is_empty() {
        prompts = along.map(String::from).to_vec();
    }
    if prompts.len() > MOST {
        bail!("{} prompts were given, one context has room for {MOST} sequences", prompts.len());
    }
    Ok(prompts)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).context("reading standard input")?;
        return Ok(bytes);
    }
    fs::read(path).with_context(|| format!("reading the prompts in {}", path.display()))
}

fn name(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_string() } else { path.display().to_string() }
}

/// One prompt a line; empty lines are skipped.
fn in_text(bytes: &[u8]) -> Result<Vec<String>> {
    let mut prompts = Vec::new();
    // Some editors begin a file with a byte order mark.
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let text = std::str::from_utf8(line).with_context(|| format!("line {} is not UTF-8", index + 1))?;
        let text = text.strip_suffix('\r').unwrap_or(text);
        if !text.trim().is_empty() {
            prompts.push(text.to_string());
        }
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_prompt_a_line() {
        let prompts = in_text("\u{feff}one\r\n\n  \n two\nthree é".as_bytes()).unwrap();
        assert_eq!(prompts, ["one", " two", "three é"]);
        assert!(in_text(b"").unwrap().is_empty());
    }

    #[test]
    fn what_is_not_text_is_named_by_line() {
        let error = in_text(b"one\ntwo\n\xff\xfe").unwrap_err().to_string();
        assert!(error.contains("line 3"), "{error}");
    }

    #[test]
    fn those_that_come_along_only_where_none_are_given() {
        assert_eq!(gather(&[], None, ANY_MODEL).unwrap(), ANY_MODEL);
        assert_eq!(gather(&["mine".to_string()], None, ANY_MODEL).unwrap(), ["mine"]);
    }

    #[test]
    fn too_many_and_no_file_are_errors() {
        assert!(gather(&vec!["x".to_string(); MOST], None, ANY_MODEL).is_ok());
        let error = gather(&vec!["x".to_string(); MOST + 1], None, ANY_MODEL).unwrap_err().to_string();
        assert!(error.contains("257") && error.contains("256"), "{error}");
        assert!(gather(&[], Some(Path::new("there/is/no/such/file")), ANY_MODEL).is_err());
    }
}
