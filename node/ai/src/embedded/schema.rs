//! The least JSON that satisfies a JSON schema's required properties.
//!
//! Understood: `const`, `enum`, `type`, `required`, `properties`, `items` with `minItems`,
//! `minLength`, `minimum`, `exclusiveMinimum`, `maximum`, `$ref` within the schema, and the first
//! possibility of `anyOf`, `oneOf` and `allOf`. Other keywords are not looked at.
//!
//! Limits: [`DEPTH_MAX`] levels, [`VALUES_MAX`] values, [`BYTES_MAX`] bytes written. A schema that
//! requires itself meets the first.

use serde_json::{Number, Value};
use thiserror::Error;

const DEPTH_MAX: usize = 32;
const VALUES_MAX: usize = 4096;
const BYTES_MAX: usize = 64 << 10;

const TEXT: &str = "text";

/// Why no JSON could be made.
#[derive(Debug, Error)]
pub(crate) enum SchemaError {
    #[error("needs a value that is too deep or too large for the embedded model")]
    TooLarge,
    #[error("refers to `{0}`, which is not in the schema")]
    Unresolved(String),
}

struct Writer<'a> {
    root: &'a Value,
    out: String,
    values: usize,
}

// === free functions ===

/// The least value of `schema`, as JSON.
pub(crate) fn least(schema: &Value) -> Result<String, SchemaError> {
    let mut writer = Writer {
        root: schema,
        out: String::new(),
        values: 0,
    };
    writer.value(schema, 0)?;
    Ok(writer.out)
}

/// The first type that is not `null`.
fn type_of(schema: &Value) -> Option<&str> {
    match schema.get("type")? {
        Value::String(name) => Some(name),
        Value::Array(names) => {
            let mut names = names.iter().filter_map(Value::as_str);
            names
                .clone()
                .find(|name| *name != "null")
                .or_else(|| names.next())
        }
        _ => None,
    }
}

fn count(schema: &Value, key: &str) -> usize {
    let count = schema.get(key).and_then(Value::as_u64).unwrap_or(0);
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// 0, unless the bounds say otherwise. A bound with a fraction keeps its digits.
fn number(schema: &Value) -> String {
    let bound = |key| schema.get(key).and_then(Value::as_number);
    if let Some(below) = bound("exclusiveMinimum") {
        let text = below.to_string();
        let whole = text
            .split(['.', 'e'])
            .next()
            .and_then(|digits| digits.parse::<i64>().ok());
        let next = whole.unwrap_or(0).saturating_add(1);
        if next > 0 {
            return next.to_string();
        }
    }
    if let Some(least) = bound("minimum").filter(|least| is_positive(least)) {
        return least.to_string();
    }
    match bound("maximum") {
        Some(most) if most.to_string().starts_with('-') => most.to_string(),
        _ => "0".to_owned(),
    }
}

fn is_positive(number: &Number) -> bool {
    !number.to_string().starts_with('-')
}

// === impl Writer ===

impl Writer<'_> {
    fn value(&mut self, schema: &Value, depth: usize) -> Result<(), SchemaError> {
        self.values += 1;
        if depth > DEPTH_MAX || self.values > VALUES_MAX {
            return Err(SchemaError::TooLarge);
        }
        if let Some(fixed) = fixed(schema) {
            return self.write(&fixed.to_string());
        }
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            let target = reference
                .strip_prefix('#')
                .and_then(|path| self.root.pointer(path));
            let unresolved = || SchemaError::Unresolved(reference.chars().take(128).collect());
            return self.value(target.ok_or_else(unresolved)?, depth + 1);
        }
        if let Some(possibility) = first_possibility(schema) {
            return self.value(possibility, depth + 1);
        }
        let structured = schema.get("properties").is_some() || schema.get("required").is_some();
        match type_of(schema) {
            Some("object") => self.object(schema, depth),
            None if structured => self.object(schema, depth),
            Some("array") => self.array(schema, depth),
            Some("integer" | "number") => self.write(&number(schema)),
            Some("boolean") => self.write("false"),
            Some("null") => self.write("null"),
            Some(_) | None => self.string(count(schema, "minLength")),
        }
    }

    fn object(&mut self, schema: &Value, depth: usize) -> Result<(), SchemaError> {
        let required = schema.get("required").and_then(Value::as_array);
        let mut names: Vec<&str> = Vec::new();
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if names.len() > VALUES_MAX {
                return Err(SchemaError::TooLarge);
            }
            names.push(name);
        }
        names.sort_unstable();
        names.dedup();
        self.write("{")?;
        for (nth, name) in names.into_iter().enumerate() {
            self.write(if nth > 0 { "," } else { "" })?;
            self.write(&Value::from(name).to_string())?;
            self.write(":")?;
            let property = schema.get("properties").and_then(|all| all.get(name));
            self.value(property.unwrap_or(&Value::Bool(true)), depth + 1)?;
        }
        self.write("}")
    }

    fn array(&mut self, schema: &Value, depth: usize) -> Result<(), SchemaError> {
        let item = schema.get("items").unwrap_or(&Value::Bool(true));
        self.write("[")?;
        for nth in 0..count(schema, "minItems") {
            self.write(if nth > 0 { "," } else { "" })?;
            self.value(item, depth + 1)?;
        }
        self.write("]")
    }

    fn string(&mut self, length: usize) -> Result<(), SchemaError> {
        if length > BYTES_MAX {
            return Err(SchemaError::TooLarge);
        }
        let padding = ".".repeat(length.saturating_sub(TEXT.len()));
        self.write(&format!("\"{TEXT}{padding}\""))
    }

    fn write(&mut self, text: &str) -> Result<(), SchemaError> {
        if self.out.len() + text.len() > BYTES_MAX {
            return Err(SchemaError::TooLarge);
        }
        self.out.push_str(text);
        Ok(())
    }
}

fn fixed(schema: &Value) -> Option<&Value> {
    let listed = || schema.get("enum")?.as_array()?.first();
    schema.get("const").or_else(listed)
}

fn first_possibility(schema: &Value) -> Option<&Value> {
    let possibilities = ["anyOf", "oneOf", "allOf"]
        .iter()
        .find_map(|key| schema.get(key)?.as_array())?;
    let is_null = |schema: &&Value| type_of(schema) == Some("null");
    let some = possibilities.iter().find(|schema| !is_null(schema));
    some.or_else(|| possibilities.first())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn made(schema: &Value) -> Value {
        serde_json::from_str(&least(schema).unwrap()).unwrap()
    }

    #[test]
    fn required_properties_are_there_and_others_are_not() {
        let schema = json!({
            "type": "object",
            "required": ["city", "days", "unit", "exact", "tags", "where"],
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 2},
                "unit": {"enum": ["c", "f"]},
                "exact": {"type": "boolean"},
                "tags": {"type": "array", "minItems": 2, "items": {"type": ["null", "number"]}},
                "where": {"$ref": "#/$defs/place"},
                "optional": {"type": "string"},
            },
            "$defs": {"place": {"type": "object", "required": ["lat"], "properties": {"lat": {"type": "number", "maximum": -1.5}}}},
        });
        assert_eq!(
            made(&schema),
            json!({"city": "text", "days": 2, "unit": "c", "exact": false, "tags": [0, 0], "where": {"lat": -1.5}})
        );
    }

    #[test]
    fn bounds_and_possibilities_are_kept() {
        assert_eq!(
            made(&json!({"type": "string", "minLength": 6})),
            json!("text..")
        );
        assert_eq!(
            made(&json!({"type": "number", "exclusiveMinimum": 0.5})),
            json!(1)
        );
        assert_eq!(
            made(&json!({"type": "integer", "exclusiveMinimum": -7})),
            json!(0)
        );
        assert_eq!(
            made(&json!({"anyOf": [{"type": "null"}, {"const": {"a": 1}}]})),
            json!({"a": 1})
        );
        assert_eq!(made(&json!({"required": ["a", "a"]})), json!({"a": "text"}));
        assert_eq!(made(&json!(true)), json!("text"));
    }

    #[test]
    fn a_schema_without_end_is_refused() {
        let endless =
            json!({"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}});
        assert!(matches!(least(&endless), Err(SchemaError::TooLarge)));
        let circle = json!({"$ref": "#"});
        assert!(matches!(least(&circle), Err(SchemaError::TooLarge)));
        let many = json!({"type": "array", "minItems": 1_000_000_000_u64});
        assert!(matches!(least(&many), Err(SchemaError::TooLarge)));
        let long = json!({"type": "string", "minLength": u64::MAX});
        assert!(matches!(least(&long), Err(SchemaError::TooLarge)));
        let nowhere = json!({"$ref": "#/$defs/x"});
        assert!(matches!(least(&nowhere), Err(SchemaError::Unresolved(_))));
    }
}
