//! Methods of Python's texts that templates use: those that the engine's collection does not have, and what those that it has
//! cost before they are done.

use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

/// Characters that a number in a format may have: more than that many spaces nobody wants.
const WIDTH_DIGITS: usize = 4;

/// Calls a method of a value.
pub(super) fn call(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        let argument = |index: usize| args.get(index).and_then(Value::as_str);
        match (method, argument(0)) {
            ("removeprefix", Some(prefix)) => return Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text))),
            ("removesuffix", Some(suffix)) => return Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text))),
            ("isspace", None) => return Ok(Value::from(!text.is_empty() && text.chars().all(char::is_whitespace))),
            ("split", Some(separator)) if !separator.is_empty() => {
                state.consume_fuel(text.matches(separator).count() as u64)?;
            }
            ("split" | "splitlines", _) => state.consume_fuel(text.split_whitespace().count() as u64)?,
            ("format", _) => check_format(text)?,
            _ => {}
        }
    }
    pycompat::unknown_method_callback(state, value, method, args)
}

/// Refuses formats of texts without measure: a width of many digits, or one that is an argument.
fn check_format(format: &str) -> Result<(), Error> {
    let mut depth = 0;
    let mut digits = 0;
    for letter in format.chars() {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        digits = if letter.is_ascii_digit() { digits + 1 } else { 0 };
        if depth > 1 || (depth > 0 && digits > WIDTH_DIGITS) {
            return Err(Error::new(ErrorKind::InvalidOperation, "widths in formats have at most 4 digits"));
        }
        depth = depth.max(0);
    }
    Ok(())
}
