//! The files of a model, looked at before llama.cpp sees them.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

use crate::error::{GgufError, LoadError, SplitError};
use crate::fingerprint::Fingerprint;
use crate::gguf::Header;
use crate::gguf::overrides;
use crate::gguf::reader::read_header;
use crate::gguf::{hparams, splits, tokens, weights};
use crate::params::ModelParams;

/// What the files of a model say together, and which they are.
pub(crate) struct ModelFiles {
    pub(crate) header: Header,
    pub(crate) paths: Vec<PathBuf>,
}

impl ModelFiles {
    /// The file, and those beside it if it is the first of several.
    pub(crate) fn find(path: &Path) -> Result<Self, LoadError> {
        let first = read_file(path)?;
        match splits::count(&first) {
            1 => Ok(Self { header: first, paths: vec![path.to_owned()] }),
            // A later part says how many there are as well, and is not named as the first.
            count => Self::given(&splits::paths(path, count)?),
        }
    }

    /// These files, in this order.
    pub(crate) fn given(paths: &[PathBuf]) -> Result<Self, LoadError> {
        let parts = paths.iter().map(|path| Ok((path.clone(), read_file(path)?)));
        let header = splits::join(parts.collect::<Result<_, LoadError>>()?)?;
        Ok(Self { header, paths: paths.to_owned() })
    }

    /// What tells the model from others, over all of its files.
    pub(crate) fn fingerprint(&self) -> Result<Fingerprint, LoadError> {
        let one =
            |path: &PathBuf| File::open(path).and_then(Fingerprint::of).map_err(|source| unreadable(path, source));
        let mut all = self.paths.iter().map(one);
        // There is a first file: the header was read from it.
        let first = all.next().unwrap_or_else(|| Ok(Fingerprint::of_bytes(&[])))?;
        all.try_fold(first, |fingerprint, part| Ok(fingerprint.with(part?.as_bytes())))
    }

    /// The paths as C takes them.
    pub(crate) fn c_paths(&self) -> Result<Vec<CString>, LoadError> {
        self.paths.iter().map(|path| c_path(path).ok_or_else(|| LoadError::PathHasNul { path: path.clone() })).collect()
    }
}

/// What bytes say before their weights.
pub(crate) fn read_bytes(gguf: &[u8]) -> Result<Header, LoadError> {
    check_start(gguf)?;
    let header = read_header(Cursor::new(gguf))?;
    match splits::count(&header) {
        1 => Ok(header),
        count => Err(SplitError::InMemory { count }.into()),
    }
}

/// Refuses what llama.cpp would take on trust, with the overrides in the place of the file's values.
pub(crate) fn check(header: &mut Header, params: &ModelParams) -> Result<(), LoadError> {
    overrides::apply(&params.overrides, header)?;
    tokens::check(header)?;
    if !params.vocab_only {
        hparams::check(header)?;
        weights::check(header)?;
    }
    Ok(())
}

/// Reads what a file says before its weights. What cannot be a model file is refused in words that say more than
/// llama.cpp's.
fn read_file(path: &Path) -> Result<Header, LoadError> {
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(LoadError::PathHasNul { path: path.to_owned() });
    }
    let unreadable = |source| unreadable(path, source);
    if path.metadata().map_err(unreadable)?.is_dir() {
        return Err(LoadError::IsDirectory { path: path.to_owned() });
    }
    let mut file = File::open(path).map_err(unreadable)?;
    let mut start = Vec::with_capacity(4);
    (&mut file).take(4).read_to_end(&mut start).map_err(unreadable)?;
    check_start(&start)?;
    match read_header(file) {
        Err(GgufError::Unreadable { source }) => Err(unreadable(source)),
        other => Ok(other?),
    }
}

fn unreadable(path: &Path, source: io::Error) -> LoadError {
    match source.kind() {
        io::ErrorKind::NotFound => LoadError::NotFound { path: path.to_owned() },
        _ => LoadError::Unreadable { path: path.to_owned(), source },
    }
}

/// Refuses what does not begin as a GGUF file does.
pub(crate) fn check_start(bytes: &[u8]) -> Result<(), LoadError> {
    if bytes.is_empty() {
        return Err(LoadError::Empty);
    }
    if !bytes.starts_with(b"GGUF") {
        return Err(LoadError::NotGguf { found: bytes[..bytes.len().min(4)].to_vec() });
    }
    Ok(())
}

/// A path as C takes it; `None` if it holds a NUL byte.
pub(crate) fn c_path(path: &Path) -> Option<CString> {
    #[cfg(unix)]
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec();
    // llama.cpp takes UTF-8 there.
    #[cfg(not(unix))]
    let bytes = path.to_string_lossy().into_owned().into_bytes();
    CString::new(bytes).ok()
}

#[cfg(test)]
mod tests {
    use llama_sys as sys;

    use super::*;

    #[test]
    fn blocks_are_ggmls() {
        for format in 0..sys::GGML_TYPE_COUNT {
            // SAFETY: both read a table that has an entry for each type below the count.
            let (values, bytes) = unsafe { (sys::ggml_blck_size(format), sys::ggml_type_size(format)) };
            let expected = (values > 0).then_some((values as u64, bytes as u64));
            assert_eq!(weights::block(format), expected, "format {format}");
        }
        assert_eq!(weights::block(sys::GGML_TYPE_COUNT), None);
    }
}
