//! Dates and times of a JSON schema, exactly.
//!
//! `llguidance` takes 29 February in any year, and second 60 at any time. Patterns of ours hold the days of each year (RFC 3339,
//! appendix C), and leave leap seconds out, which are known only afterwards.

use serde_json::{Value, json};

const DATE: &str = "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)\
    |02-(?:0[1-9]|1[0-9]|2[0-8]))\
    |(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)";
const TIME: &str =
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";

/// Replaces the formats of a schema that are not exact by patterns. Recursion is as deep as JSON that serde_json reads, 128.
pub(super) fn make_exact(schema: &mut Value) {
    let members = match schema {
        Value::Object(members) => members,
        Value::Array(schemas) => return schemas.iter_mut().for_each(make_exact),
        _ => return,
    };
    let pattern = match members.get("format").and_then(Value::as_str) {
        Some("date") => Some(format!("^{DATE}$")),
        Some("time") => Some(format!("^{TIME}$")),
        Some("date-time") => Some(format!("^{DATE}T{TIME}$")),
        _ => None,
    };
    for (key, value) in members.iter_mut() {
        match (key.as_str(), value) {
            // Values, which are no schemas.
            ("const" | "enum" | "default" | "examples", _) => {}
            // Schemas by name.
            (
                "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas",
                Value::Object(named),
            ) => {
                named.values_mut().for_each(make_exact);
            }
            (_, value) => make_exact(value),
        }
    }
    let Some(pattern) = pattern else { return };
    members.remove("format");
    if !members.contains_key("pattern") {
        members.insert("pattern".to_owned(), pattern.into());
    } else if let Value::Array(all) = members.entry("allOf").or_insert_with(|| json!([])) {
        all.push(json!({ "pattern": pattern }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_date(text: &str) -> bool {
        regex::Regex::new(&format!("^{DATE}$")).expect("a pattern").is_match(text)
    }

    #[test]
    fn days_are_those_of_their_year() {
        let leap = |year: u32| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        for year in 0..=9999u32 {
            assert_eq!(is_date(&format!("{year:04}-02-29")), leap(year), "{year}");
        }
        for (month, days) in (1..=12).zip([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
            for day in 0..=32 {
                assert_eq!(is_date(&format!("2023-{month:02}-{day:02}")), (1..=days).contains(&day), "{month}-{day}");
            }
        }
    }

    #[test]
    fn schemas_are_changed_and_values_are_not() {
        let mut schema = json!({
            "properties": { "const": { "format": "date" }, "format": { "format": "time", "pattern": "Z$" } },
            "const": { "format": "date" },
            "anyOf": [{ "format": "uuid" }]
        });
        make_exact(&mut schema);
        let date = &schema["properties"]["const"];
        assert!(date["pattern"].is_string() && date.get("format").is_none());
        let time = &schema["properties"]["format"];
        assert_eq!(time["pattern"], "Z$");
        assert!(time["allOf"][0]["pattern"].is_string() && time.get("format").is_none());
        assert_eq!(
            (&schema["const"], &schema["anyOf"]),
            (&json!({ "format": "date" }), &json!([{ "format": "uuid" }]))
        );
    }
}
