//! JSON as Python's `json.dumps` writes it, which is what models were trained on.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// Lists and objects within each other that are followed.
const DEPTH_LIMIT: usize = 200;

/// The filter `tojson`, as transformers define it: nothing is escaped but what JSON must escape.
pub(super) fn tojson(
    state: &State<'_, '_>,
    value: &Value,
    indent: Option<Value>,
    args: Kwargs,
) -> Result<Value, Error> {
    let style = Style::of(indent, &args)?;
    args.assert_all_used()?;
    let mut writer = Writer { text: String::new(), style, state, charged: 0 };
    writer.value(value, 0)?;
    Ok(Value::from(writer.text))
}

struct Style {
    /// What a level is indented by; `None` for one line.
    indent: Option<String>,
    comma: String,
    colon: String,
    sort_keys: bool,
    ascii: bool,
}

impl Style {
    fn of(indent: Option<Value>, args: &Kwargs) -> Result<Self, Error> {
        let indent = match indent {
            Some(indent) => Some(indent),
            None => args.get::<Option<Value>>("indent")?,
        };
        let indent = match indent.filter(|indent| !indent.is_none()) {
            None => None,
            Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
            Some(number) => Some(" ".repeat(u8::try_from(number)?.into())),
        };
        let separators: Option<Vec<String>> = args.get("separators")?;
        let (comma, colon) = match separators.as_deref() {
            None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
            None => (", ".to_owned(), ": ".to_owned()),
            Some([comma, colon]) => (comma.clone(), colon.clone()),
            Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson takes two separators")),
        };
        let sort_keys = args.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
        let ascii = args.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
        Ok(Self { indent, comma, colon, sort_keys, ascii })
    }
}

struct Writer<'state, 'template, 'env> {
    text: String,
    style: Style,
    state: &'state State<'template, 'env>,
    /// Bytes that were paid for: what is written is bounded like everything else that a template does.
    charged: usize,
}

impl Writer<'_, '_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_LIMIT {
            let reason = format!("a value that is nested more than {DEPTH_LIMIT} deep has no JSON");
            return Err(Error::new(ErrorKind::BadSerialization, reason));
        }
        self.state.consume_fuel(1 + ((self.text.len() - self.charged) / 64) as u64)?;
        self.charged = self.text.len();
        match value.kind() {
            ValueKind::None => self.text.push_str("null"),
            ValueKind::Bool => self.text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.text.push_str(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.group(['[', ']'], items, depth, |writer, item| writer.value(&item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut fields = Vec::new();
                for key in value.try_iter()? {
                    let field = value.get_item(&key)?;
                    fields.push((key_text(&key)?, field));
                }
                if self.style.sort_keys {
                    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.group(['{', '}'], fields, depth, |writer, (key, field)| {
                    writer.string(&key);
                    writer.text.push_str(&writer.style.colon.clone());
                    writer.value(&field, depth + 1)
                })?;
            }
            kind => return Err(Error::new(ErrorKind::BadSerialization, format!("JSON has no {kind} value"))),
        }
        Ok(())
    }

    fn group<T>(
        &mut self,
        [open, close]: [char; 2],
        items: Vec<T>,
        depth: usize,
        mut write: impl FnMut(&mut Self, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.text.push(open);
        let empty = items.is_empty();
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.text.push_str(&self.style.comma.clone());
            }
            self.line(depth + 1);
            write(self, item)?;
        }
        if !empty {
            self.line(depth);
        }
        self.text.push(close);
        Ok(())
    }

    /// A new line at this depth, if lines are wanted.
    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.style.indent {
            self.text.push('\n');
            self.text.push_str(&indent.repeat(depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.text.push('"');
        for letter in text.chars() {
            match letter {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                letter if letter < ' ' || (self.style.ascii && letter > '\u{7e}') => {
                    for unit in letter.encode_utf16(&mut [0; 2]) {
                        self.text.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                letter => self.text.push(letter),
            }
        }
        self.text.push('"');
    }
}

/// Numbers as Python writes them: `1.0` and `1e+22` are floats.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(number) = f64::try_from(value.clone()) else { return value.to_string() };
    if !number.is_finite() {
        return if number.is_nan() {
            "NaN"
        } else if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned();
    }
    let size = number.abs();
    if number != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{number:?}")
}

/// The text of a key: JSON has no other keys.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(key.is_true().to_string()),
        ValueKind::Number => Ok(number(key)),
        kind => Err(Error::new(ErrorKind::BadSerialization, format!("a {kind} value is no key of JSON"))),
    }
}
