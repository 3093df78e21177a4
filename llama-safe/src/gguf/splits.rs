//! A model in several files: which they are, and whether they belong together.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::error::SplitError;
use crate::gguf::{Header, Kind};

const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// How many files a model is in, as its first file says.
pub(crate) fn count(first: &Header) -> u32 {
    // llama.cpp takes 0 for 1.
    first.number(COUNT, Kind::U16).map_or(1, |count| (count as u32).max(1))
}

/// The files of a model whose first file is `first`: `NAME-00001-of-00003.gguf` and so on.
pub(crate) fn paths(first: &Path, count: u32) -> Result<Vec<PathBuf>, SplitError> {
    let wrong = || SplitError::Name { path: first.to_owned(), count };
    let name = first.file_name().and_then(|name| name.to_str()).ok_or_else(wrong)?;
    let stem = name.strip_suffix(&ending(0, count)).filter(|stem| !stem.is_empty()).ok_or_else(wrong)?;
    Ok((0..count).map(|index| first.with_file_name(format!("{stem}{}", ending(index, count)))).collect())
}

fn ending(index: u32, count: u32) -> String {
    format!("-{:05}-of-{count:05}.gguf", index + 1)
}

/// Refuses files that are not the parts of one model, in their order. Gives what they say together.
pub(crate) fn join(parts: Vec<(PathBuf, Header)>) -> Result<Header, SplitError> {
    let mut parts = parts.into_iter();
    let Some((path, mut whole)) = parts.next() else { return Err(SplitError::Given { given: 0, expected: 1 }) };
    let expected = count(&whole);
    let given = parts.len() as u32 + 1;
    if given != expected {
        return Err(SplitError::Given { given, expected });
    }
    check(&path, &whole, 0, expected)?;
    let mut names: HashSet<String> = whole.tensors.iter().map(|tensor| tensor.name.clone()).collect();
    for (index, (path, part)) in (1..).zip(parts) {
        check(&path, &part, index, expected)?;
        for tensor in part.tensors {
            if !names.insert(tensor.name.clone()) {
                return Err(SplitError::TensorTwice { path, tensor: tensor.name });
            }
            whole.tensors.push(tensor);
        }
    }
    let found = whole.tensors.len();
    match whole.number(TENSORS, Kind::I32) {
        Some(expected) if expected != found as i128 => Err(SplitError::Tensors { found, expected }),
        _ => Ok(whole),
    }
}

/// Whether a part says that it is number `index` of `count`.
fn check(path: &Path, part: &Header, index: u32, count: u32) -> Result<(), SplitError> {
    if count == 1 {
        return Ok(());
    }
    let says = |key| part.number(key, Kind::U16).and_then(|number| u32::try_from(number).ok());
    if says(NUMBER) != Some(index) {
        let found = says(NUMBER).map(|number| number + 1);
        return Err(SplitError::Number { path: path.to_owned(), expected: index + 1, found });
    }
    if says(COUNT) != Some(count) {
        return Err(SplitError::Count { path: path.to_owned(), expected: count, found: says(COUNT) });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Value;

    fn part(number: i128, count: i128) -> Header {
        let mut part = Header::default();
        part.metadata.insert(NUMBER.to_owned(), Value::Number(Kind::U16, number));
        part.metadata.insert(COUNT.to_owned(), Value::Number(Kind::U16, count));
        part
    }

    fn joined(parts: Vec<Header>) -> Result<Header, SplitError> {
        join(parts.into_iter().enumerate().map(|(index, part)| (PathBuf::from(format!("{index}")), part)).collect())
    }

    #[test]
    fn names() {
        let found = paths(Path::new("/a/b-00001-of-00002.gguf"), 2).unwrap();
        assert_eq!(found, ["/a/b-00001-of-00002.gguf", "/a/b-00002-of-00002.gguf"].map(PathBuf::from));
        for wrong in ["/a/b.gguf", "/a/b-00002-of-00002.gguf", "/a/b-00001-of-00003.gguf", "-00001-of-00002.gguf", "/"]
        {
            assert!(matches!(paths(Path::new(wrong), 2), Err(SplitError::Name { count: 2, .. })), "{wrong}");
        }
    }

    #[test]
    fn parts_belong_together() {
        assert!(joined(vec![part(0, 2), part(1, 2)]).is_ok());
        assert!(joined(vec![Header::default()]).is_ok());
        assert!(matches!(joined(vec![]), Err(SplitError::Given { given: 0, .. })));
        assert!(matches!(joined(vec![part(0, 2)]), Err(SplitError::Given { given: 1, expected: 2 })));
        assert!(matches!(joined(vec![Header::default(); 2]), Err(SplitError::Given { given: 2, expected: 1 })));
        let error = joined(vec![part(1, 2), part(0, 2)]).unwrap_err();
        assert!(matches!(error, SplitError::Number { expected: 1, found: Some(2), .. }), "{error}");
        let error = joined(vec![part(0, 2), part(0, 2)]).unwrap_err();
        assert!(matches!(error, SplitError::Number { expected: 2, found: Some(1), .. }), "{error}");
        let error = joined(vec![part(0, 2), part(1, 3)]).unwrap_err();
        assert!(matches!(error, SplitError::Count { expected: 2, found: Some(3), .. }), "{error}");
        let error = joined(vec![part(0, 2), Header::default()]).unwrap_err();
        assert!(matches!(error, SplitError::Number { expected: 2, found: None, .. }), "{error}");
    }
}
