//! Values that take the place of a file's own.
#![forbid(unsafe_code)]

use crate::error::OverrideError;
use crate::gguf::{Header, Kind, Value};

/// Bytes of a key or a text, without the terminator (`llama_model_kv_override`).
pub(crate) const MOST_BYTES: usize = 127;

/// A metadata value that takes the place of the file's. llama.cpp reads whole numbers as 32 bits without sign, and floats as
/// 32 bits.
#[derive(Clone, PartialEq, Debug)]
pub enum MetadataValue {
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Number(u32),
    /// A float.
    Float(f32),
    /// A text of at most 127 bytes.
    Text(String),
}

impl MetadataValue {
    fn kind(&self) -> Kind {
        match self {
            Self::Bool(_) => Kind::Bool,
            Self::Number(_) => Kind::U32,
            Self::Float(_) => Kind::F32,
            Self::Text(_) => Kind::Text,
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Bool(yes) => Value::Number(Kind::Bool, i128::from(*yes)),
            Self::Number(number) => Value::Number(Kind::U32, i128::from(*number)),
            Self::Float(number) => Value::Float(Kind::F32, f64::from(*number)),
            Self::Text(text) => Value::Text(text.clone()),
        }
    }
}

impl From<bool> for MetadataValue {
    fn from(yes: bool) -> Self {
        Self::Bool(yes)
    }
}

impl From<u32> for MetadataValue {
    fn from(number: u32) -> Self {
        Self::Number(number)
    }
}

impl From<f32> for MetadataValue {
    fn from(number: f32) -> Self {
        Self::Float(number)
    }
}

impl From<&str> for MetadataValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// Puts the overrides into what the file says, so that they go through the same checks.
pub(crate) fn apply(overrides: &[(String, MetadataValue)], header: &mut Header) -> Result<(), OverrideError> {
    for (key, value) in overrides {
        fits(key, "key", key)?;
        if key.is_empty() {
            return Err(OverrideError::EmptyKey);
        }
        if let MetadataValue::Text(text) = value {
            fits(key, "value", text)?;
        }
        match header.metadata.get(key).map(Value::kind) {
            Some(found) if found != value.kind() => {
                let (given, found) = (value.kind().name(), found.name());
                return Err(OverrideError::Type { key: key.clone(), given, found });
            }
            _ => {
                header.metadata.insert(key.clone(), value.value());
            }
        }
    }
    Ok(())
}

/// Whether a text has room where C keeps it.
fn fits(key: &str, what: &'static str, text: &str) -> Result<(), OverrideError> {
    if text.len() > MOST_BYTES {
        return Err(OverrideError::TooLong { key: key.to_owned(), what, got: text.len(), max: MOST_BYTES });
    }
    if text.contains('\0') {
        return Err(OverrideError::Nul { key: key.to_owned(), what });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(key: &str, value: impl Into<MetadataValue>) -> Result<Header, OverrideError> {
        let mut header = Header::default();
        header.metadata.insert("llama.block_count".to_owned(), Value::Number(Kind::U32, 2));
        apply(&[(key.to_owned(), value.into())], &mut header).map(|()| header)
    }

    #[test]
    fn overrides_are_bounded_and_typed() {
        assert_eq!(tried("llama.block_count", 3).unwrap().number("llama.block_count", Kind::U32), Some(3));
        assert_eq!(tried("general.name", "x").unwrap().text("general.name"), Some("x"));
        assert_eq!(tried("", 1).unwrap_err(), OverrideError::EmptyKey);
        let error = tried("llama.block_count", 3.0).unwrap_err();
        assert!(matches!(error, OverrideError::Type { given: "f32", found: "u32", .. }), "{error}");
        assert!(tried(&"k".repeat(127), "v".repeat(127).as_str()).is_ok());
        let error = tried(&"k".repeat(128), 1).unwrap_err();
        assert!(matches!(error, OverrideError::TooLong { what: "key", got: 128, max: 127, .. }), "{error}");
        let error = tried("k", "v".repeat(128).as_str()).unwrap_err();
        assert!(matches!(error, OverrideError::TooLong { what: "value", got: 128, .. }), "{error}");
        assert!(matches!(tried("a\0b", 1).unwrap_err(), OverrideError::Nul { what: "key", .. }));
        assert!(matches!(tried("a", "b\0").unwrap_err(), OverrideError::Nul { what: "value", .. }));
    }
}
