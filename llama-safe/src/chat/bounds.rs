//! What keeps a template from taking all memory, stack or time: the engine counts its steps, and here is what those
//! leave out.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

use crate::error::ChatError;
use crate::panics;

/// Lists and mappings within each other that a namespace may hold.
const DEPTH_LIMIT: usize = 200;

/// Values that are gone through in a step.
const VALUES_OF_STEP: u64 = 4;

/// Stack for each step of a rendering. A step nests values by less than one level; going through them takes a stack frame each,
/// of at most this many bytes without optimisation. Stacks are mapped, not filled: what is not used costs nothing.
const STACK_OF_STEP: u64 = 512;

/// Stack for each byte of a source: every one may be an operator, which is compiled within the one before.
const STACK_OF_SOURCE: u64 = 8192;

/// Runs what may recurse `steps` deep on a stack that is large enough, and makes an error of a panic.
pub(super) fn rendering<T: Send>(steps: u64, run: impl FnOnce() -> T + Send) -> Result<T, ChatError> {
    on_stack(steps.saturating_mul(STACK_OF_STEP), run)
}

/// Compiles a source of this many bytes on a stack that is large enough.
pub(super) fn compiling<T: Send>(bytes: usize, run: impl FnOnce() -> T + Send) -> Result<T, ChatError> {
    on_stack((bytes as u64).saturating_mul(STACK_OF_SOURCE), run)
}

fn on_stack<T: Send>(bytes: u64, run: impl FnOnce() -> T + Send) -> Result<T, ChatError> {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).saturating_add(4 << 20);
    let failed = |reason: String| ChatError::Failed { reason };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(bytes).spawn_scoped(scope, run);
        let thread = thread.map_err(|error| failed(format!("no thread with a stack of {bytes} bytes: {error}")))?;
        thread.join().map_err(|panic| failed(panics::message(panic)))
    })
}

/// What a namespace may hold: no namespace, which could be itself, and nothing that is nested without end. Lists that are
/// made when they are read become lists.
pub(super) fn kept(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    let refuse = |reason: String| Err(Error::new(ErrorKind::InvalidOperation, reason));
    let value = listed(state, value)?;
    walk(state, &value, |value, depth| {
        let Some(object) = value.as_object() else { return Ok(()) };
        if depth > DEPTH_LIMIT {
            return refuse(format!("a namespace takes values that are nested {DEPTH_LIMIT} deep at most"));
        }
        if object.type_name().ends_with("::Namespace") {
            return refuse("a namespace cannot hold a namespace".to_owned());
        }
        Ok(())
    })?;
    Ok(value)
}

/// A value with all that it holds paid for, as often as it holds it.
pub(super) fn made(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    walk(state, &value, |_, _| Ok(()))?;
    Ok(value)
}

/// Goes through all values within a value, each with its depth, without recursion.
fn walk(
    state: &State<'_, '_>,
    value: &Value,
    mut visit: impl FnMut(&Value, usize) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut left = vec![(value.clone(), 0)];
    let mut seen = 0u64;
    while let Some((value, depth)) = left.pop() {
        visit(&value, depth)?;
        let keys: Vec<Value> = match value.kind() {
            ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => value.try_iter()?.collect(),
            _ => continue,
        };
        seen += keys.len() as u64;
        state.consume_fuel(seen / VALUES_OF_STEP)?;
        seen %= VALUES_OF_STEP;
        if value.kind() == ValueKind::Map {
            for key in keys {
                left.push((value.get_item(&key)?, depth + 1));
            }
        } else {
            left.extend(keys.into_iter().map(|item| (item, depth + 1)));
        }
    }
    Ok(())
}

/// A list with its items paid for; anything else as it is.
pub(super) fn listed(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    let Some(object) = value.as_object() else { return Ok(value) };
    if let Some(list) = object.downcast_ref::<Vec<Value>>() {
        state.consume_fuel(1 + list.len() as u64 / 2)?;
        return Ok(value);
    }
    if value.is_tuple() || !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return Ok(value);
    }
    let mut items = Vec::new();
    for item in value.try_iter()? {
        state.consume_fuel(1)?;
        items.push(item);
    }
    Ok(Value::from(items))
}

/// The filter `sum`, of numbers: the engine's adds lists as well, without paying for their items.
pub(super) fn sum(state: &State<'_, '_>, values: &Value) -> Result<Value, Error> {
    let not_numbers = || Error::new(ErrorKind::InvalidOperation, "only numbers are summed");
    let (mut whole, mut broken, mut is_whole) = (0i64, 0.0, true);
    for value in values.try_iter()? {
        state.consume_fuel(1)?;
        match value.as_i64().filter(|_| value.is_integer()) {
            Some(number) => whole = whole.checked_add(number).ok_or_else(not_numbers)?,
            None if value.kind() == ValueKind::Number => {
                broken += f64::try_from(value)?;
                is_whole = false;
            }
            None => return Err(not_numbers()),
        }
    }
    Ok(if is_whole { Value::from(whole) } else { Value::from(whole as f64 + broken) })
}
