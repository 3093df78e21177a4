//! `docs/assertions.md` against llama.cpp's source: every assertion is there, with what keeps it from failing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const DOCUMENT: &str = include_str!("../docs/assertions.md");

/// Assertions by file, function and text, and how often each stands there.
type Counts = BTreeMap<(String, String, String), u32>;

/// The text without comments; lines stay where they are.
fn without_comments(text: &str) -> String {
    let (mut code, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(['"', '\'', '/']) {
        code.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = match rest.as_bytes() {
            [b'/', b'/', ..] => {
                rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
                continue;
            }
            [b'/', b'*', ..] => {
                let end = rest.find("*/").map_or(rest.len(), |end| end + 2);
                code.extend(rest[..end].chars().filter(|letter| *letter == '\n'));
                rest = &rest[end..];
                continue;
            }
            [b'/', ..] => 1,
            _ => quoted(rest),
        };
        code.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    code + rest
}

/// Bytes of the text or letter that begins here, quotes included.
fn quoted(text: &str) -> usize {
    let quote = text.as_bytes()[0];
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            byte if byte == quote => return index + 1,
            _ => {}
        }
    }
    text.len()
}

/// What stands in the parentheses that begin here, with them.
fn in_parentheses(text: &str) -> &str {
    let (mut depth, mut at) = (0, 0);
    while let Some(byte) = text.as_bytes().get(at) {
        match byte {
            b'"' | b'\'' => at += quoted(&text[at..]) - 1,
            b'(' => depth += 1,
            b')' if depth == 1 => return &text[..=at],
            b')' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    text
}

/// The function or type that a line defines, if it begins one: those stand at the beginning of a line.
fn defines(line: &str) -> Option<&str> {
    let word = |letter: char| letter.is_alphanumeric() || "_:~".contains(letter);
    if !line.starts_with(|letter: char| letter.is_alphabetic() || letter == '_') || line.starts_with("static_assert") {
        return None;
    }
    if let Some(at) = line.find('(') {
        let before = line[..at].trim_end();
        let name = &before[before.rfind(|letter| !word(letter)).map_or(0, |at| at + 1)..];
        return (!name.is_empty() && !name.starts_with("GGML_")).then_some(name);
    }
    let rest = ["struct ", "class ", "enum class ", "enum "].iter().find_map(|kind| line.strip_prefix(kind))?;
    Some(&rest[..rest.find(|letter| !word(letter)).unwrap_or(rest.len())])
}

/// The assertions of a source, with the function that each is in.
fn assertions(file: &str, source: &str) -> Vec<(String, String, String)> {
    let code = without_comments(source);
    let (mut found, mut scope, mut start) = (Vec::new(), "", 0);
    for line in code.split_inclusive('\n') {
        scope = defines(line).unwrap_or(scope);
        for (at, _) in line.match_indices("GGML_A") {
            let rest = &code[start + at..];
            let Some(macro_end) = ["GGML_ASSERT(", "GGML_ABORT("].iter().find(|name| rest.starts_with(**name)) else {
                continue;
            };
            let name = macro_end.len() - 1;
            let text = format!("{}{}", &rest[..name], in_parentheses(&rest[name..]));
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            found.push((file.to_owned(), scope.to_owned(), text));
        }
        start += line.len();
    }
    found
}

fn count(all: impl IntoIterator<Item = (String, String, String)>) -> Counts {
    let mut counts = Counts::new();
    all.into_iter().for_each(|one| *counts.entry(one).or_default() += 1);
    counts
}

/// Those of the source that is built.
fn of_source() -> Counts {
    let folder = Path::new(llama_sys::SOURCE).join("src");
    let mut all = Vec::new();
    for entry in fs::read_dir(&folder).expect("llama.cpp's source") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_file() && (name.starts_with("llama") || name.starts_with("unicode")) {
            all.extend(assertions(&name, &fs::read_to_string(&path).expect("a source")));
        }
    }
    count(all)
}

/// Those of the document, and what is wrong with it.
fn of_document(document: &str) -> (Counts, Vec<String>) {
    let (mut all, mut wrong) = (Vec::new(), Vec::new());
    let (mut file, mut scope, mut waiting) = ("", "", Vec::new());
    for line in document.lines().chain(["## "]) {
        if let Some(text) = line.strip_prefix("- `").and_then(|text| text.strip_suffix('`')) {
            waiting.push(text);
        } else if line.starts_with('#') {
            // A group of assertions ends with the reason, and so never before a heading.
            wrong.extend(waiting.drain(..).map(|text| format!("{file}, {scope}: no reason for {text}")));
            if let Some(name) = line.strip_prefix("## ") {
                file = name;
            } else if let Some(name) = line.strip_prefix("### `").and_then(|name| name.strip_suffix('`')) {
                scope = name;
            }
        } else if !line.trim().is_empty() {
            all.extend(waiting.drain(..).map(|text| (file.to_owned(), scope.to_owned(), text.to_owned())));
        }
    }
    (count(all), wrong)
}

#[test]
fn every_assertion_is_answered() {
    let source = of_source();
    let (document, mut wrong) = of_document(DOCUMENT);
    assert!(source.values().sum::<u32>() > 400, "they are found: {}", source.len());
    for (one @ (file, scope, text), count) in &source {
        let listed = document.get(one).copied().unwrap_or(0);
        if listed < *count {
            wrong.push(format!(
                "{file}, {scope}: {text} stands there {count} times, listed {listed}: read it, and say why"
            ));
        }
    }
    for (one @ (file, scope, text), listed) in &document {
        if source.get(one).copied().unwrap_or(0) < *listed {
            wrong.push(format!("{file}, {scope}: {text} is not there (any more)"));
        }
    }
    assert!(wrong.is_empty(), "docs/assertions.md:\n{}", wrong.join("\n"));
}

/// What the answers name exists: in the safe layer, in the shim, or in llama.cpp.
#[test]
fn what_the_answers_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    for folder in [root.join("llama-safe/src"), root.join("llama-sys/shim"), Path::new(llama_sys::SOURCE).join("src")] {
        read(&folder, &mut text);
    }
    let mut wrong = Vec::new();
    for line in DOCUMENT.lines().filter(|line| !line.starts_with(['-', '#'])) {
        for name in line.split('`').skip(1).step_by(2) {
            let known = match name.rsplit_once('/') {
                Some((_, file)) => {
                    ["llama-safe/src", "."].iter().any(|from| root.join(from).join(name).exists())
                        || file.ends_with('*')
                        || name.ends_with('/')
                }
                None => name.split("::").all(|part| text.contains(part)),
            };
            if !known {
                wrong.push(format!("`{name}` in: {line}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Appends every file under `folder`.
fn read(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read(&path, text);
        } else {
            text.push_str(&fs::read_to_string(&path).unwrap_or_default());
        }
    }
}

#[test]
fn assertions_are_found_where_they_are() {
    let source = "static int f(int a) {\n    GGML_ASSERT(a > 0 && \"it's (not)\"); // GGML_ABORT(\"no\")\n}\n\
                  struct s {\n    void g() { GGML_ABORT(\n        \"%d\", h('\\'')); }\n/* GGML_ASSERT(no) */ };\n\
                  void s::k() {\n    GGML_ASSERTION(x); GGML_ASSERT(a); GGML_ASSERT(a);\n}\n";
    let found = assertions("x.cpp", source);
    let found: Vec<_> = found.iter().map(|(_, scope, text)| (scope.as_str(), text.as_str())).collect();
    let k = ("s::k", "GGML_ASSERT(a)");
    assert_eq!(found, [("f", "GGML_ASSERT(a > 0 && \"it's (not)\")"), ("s", "GGML_ABORT( \"%d\", h('\\''))"), k, k]);
}

#[test]
fn an_answer_is_asked_of_each() {
    let document =
        "## x.cpp\n\n### `f`\n\n- `GGML_ASSERT(a)`\n- `GGML_ASSERT(b)`\n\nBoth are.\n\n- `GGML_ASSERT(c)`\n\n### `g`\n";
    let (counts, wrong) = of_document(document);
    assert_eq!(counts.len(), 2);
    assert_eq!(wrong, ["x.cpp, f: no reason for GGML_ASSERT(c)"]);
}
