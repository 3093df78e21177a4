//! The Jinja engine, set up as transformers and llama.cpp set up theirs.

use jiff::ZonedDateTime;
use jiff::tz::TimeZone;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use crate::chat::options::Clock;
use crate::chat::source::{KEPT, LISTED, MADE};
use crate::chat::{bounds, json, methods};
use crate::error::ChatError;

/// The name of the one template of an environment.
const NAME: &str = "chat";

/// Bytes that a template may have; those of the best known models have 20,000 at most.
const SOURCE_LIMIT: usize = 128 << 10;

/// Names, texts and operators that a tag may have: compiling them takes the square of their number.
const TAG_LIMIT: usize = 1000;

/// Marks errors that the template itself raises.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// Compiles a template, whose longest tag has so many parts, in this line.
pub(super) fn compile(source: String, (longest, line): (usize, usize)) -> Result<Environment<'static>, ChatError> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| failed(&error, 0))?);
    environment.add_filter("tojson", json::tojson);
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", is_sequence);
    environment.add_function("raise_exception", raise_exception);
    environment.add_filter(KEPT, bounds::kept);
    environment.add_filter(LISTED, bounds::listed);
    environment.add_filter(MADE, bounds::made);
    environment.add_filter("sum", bounds::sum);
    // The engine's own, unknown to templates: they are lists that are made when they are read, of any length.
    ["chain", "zip"].into_iter().for_each(|name| environment.remove_filter(name));
    environment.set_unknown_method_callback(methods::call);
    if source.len() > SOURCE_LIMIT {
        return Err(ChatError::TooLong { bytes: source.len(), limit: SOURCE_LIMIT });
    }
    if longest > TAG_LIMIT {
        let reason = format!("a tag of {longest} names, texts and operators, at most {TAG_LIMIT} are compiled");
        return Err(ChatError::Syntax { line, reason });
    }
    let bytes = source.len();
    let compiled = bounds::compiling(bytes, || environment.add_template_owned(NAME, source))?;
    compiled.map_err(|error| ChatError::Syntax { line: error.line().unwrap_or(0), reason: reason(&error) })?;
    Ok(environment)
}

/// Renders a template with these variables, in at most `steps` steps.
pub(super) fn render(
    environment: &Environment<'static>,
    variables: Value,
    steps: u64,
    clock: Clock,
) -> Result<String, ChatError> {
    let mut environment = environment.clone();
    environment.set_fuel(Some(steps));
    environment.add_function("strftime_now", move |format: &str| strftime(clock, format));
    bounds::rendering(steps, || {
        let template = environment.get_template(NAME).map_err(|error| failed(&error, steps))?;
        template.render(variables).map_err(|error| failed(&error, steps))
    })?
}

/// In Python, texts and mappings are sequences as well.
fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map | ValueKind::String)
}

fn raise_exception(state: &State<'_, '_>, message: Rest<Value>) -> Result<Value, Error> {
    state.consume_fuel(1)?;
    let message = message.0.first().map(Value::to_string).unwrap_or_default();
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

fn strftime(clock: Clock, format: &str) -> Result<String, Error> {
    let invalid = |error: jiff::Error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}"));
    let zone = if clock.local { TimeZone::system() } else { TimeZone::UTC };
    let now = ZonedDateTime::try_from(clock.time).map_err(invalid)?.with_time_zone(zone);
    jiff::fmt::strtime::format(format, &now).map_err(invalid)
}

fn failed(error: &Error, steps: u64) -> ChatError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(this) = cause {
        if let Some(Raised(message)) = this.downcast_ref() {
            return ChatError::Refused { message: message.clone() };
        }
        if this.downcast_ref::<Error>().is_some_and(|error| error.kind() == ErrorKind::OutOfFuel) {
            return ChatError::TooMuchWork { limit: steps };
        }
        cause = this.source();
    }
    ChatError::Render { line: error.line().unwrap_or(0), reason: reason(error) }
}

fn reason(error: &Error) -> String {
    let kind = error.kind();
    error.detail().map_or_else(|| kind.to_string(), |detail| format!("{kind}: {detail}"))
}
