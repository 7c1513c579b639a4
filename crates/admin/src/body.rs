//! Request bodies: JSON objects, and JSON as AMQP field values.

use crate::http::Reply;
use hornpipe_types::names::ShortStr;
use hornpipe_types::table::{FieldTable, Value as Field};
use serde_json::{Map, Value};

/// The JSON object of a request; an empty body is an empty object.
#[derive(Debug, Clone, Default)]
pub(crate) struct Body(pub(crate) Map<String, Value>);

impl Body {
    pub(crate) fn read(octets: &[u8]) -> Result<Self, Reply> {
        if octets.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        match serde_json::from_slice(octets) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(Value::String(_)) => Err(Reply::bad_request(
                "invalid payload: the request body JSON-decoded to a string. Is the input doubly-JSON-encoded?",
            )),
            _ => Err(Reply::bad_request("not_json")),
        }
    }

    /// A value that is there and not null.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    pub(crate) fn required(&self, key: &str) -> Result<&Value, Reply> {
        self.get(key).ok_or_else(|| Reply::bad_request(&format!("{{key_missing,{key}}}")))
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, Reply> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Reply::bad_request(&format!("{key} must be a string"))),
        }
    }

    pub(crate) fn required_text(&self, key: &str) -> Result<&str, Reply> {
        self.required(key)?;
        Ok(self.text(key)?.unwrap_or_default())
    }

    pub(crate) fn short(&self, key: &str) -> Result<ShortStr, Reply> {
        short(self.text(key)?.unwrap_or_default())
    }

    /// A boolean, also as a string; absent is false.
    pub(crate) fn flag(&self, key: &str) -> Result<bool, Reply> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(b)) => Ok(*b),
            Some(Value::String(text)) if text == "true" => Ok(true),
            Some(Value::String(text)) if text == "false" => Ok(false),
            Some(other) => Err(Reply::bad_request(&format!("{{not_boolean,{other}}}"))),
        }
    }

    /// An integer, also as a string.
    pub(crate) fn int(&self, key: &str) -> Result<Option<i64>, Reply> {
        let bad = || Reply::bad_request(&format!("{key} must be an integer"));
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => text.parse().map(Some).map_err(|_| bad()),
            Some(value) => value.as_i64().map(Some).ok_or_else(bad),
        }
    }

    /// An object as a field table; absent is empty. Old clients send `[]` for an empty one.
    pub(crate) fn table(&self, key: &str) -> Result<FieldTable, Reply> {
        match self.get(key) {
            None => Ok(FieldTable::default()),
            Some(Value::Array(items)) if items.is_empty() => Ok(FieldTable::default()),
            Some(Value::Object(map)) => table(map),
            Some(_) => Err(Reply::bad_request(&format!("{key} must be an object"))),
        }
    }

    /// Tags: a list, or a string with commas.
    pub(crate) fn tags(&self, key: &str) -> Result<Option<Vec<String>>, Reply> {
        let bad = || Reply::bad_request(&format!("{key} must be a list of strings or a string with commas"));
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => {
                let tags = text.split(',').map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
                Ok(Some(tags.collect()))
            }
            Some(Value::Array(items)) => {
                let tags: Option<Vec<String>> = items.iter().map(|v| v.as_str().map(str::to_owned)).collect();
                tags.map(Some).ok_or_else(bad)
            }
            Some(_) => Err(bad()),
        }
    }
}

/// A name; longer ones than AMQP can carry are refused.
pub(crate) fn short(text: &str) -> Result<ShortStr, Reply> {
    if text.len() > ShortStr::MAX {
        return Err(Reply::bad_request("a name of more than 255 octets"));
    }
    Ok(ShortStr::new(text))
}

/// A JSON object as a field table.
pub(crate) fn table(map: &Map<String, Value>) -> Result<FieldTable, Reply> {
    let mut out = FieldTable::default();
    for (key, value) in map {
        out.0.push((short(key)?, field(value)?));
    }
    Ok(out)
}

fn field(value: &Value) -> Result<Field, Reply> {
    Ok(match value {
        Value::Null => Field::Void,
        Value::Bool(b) => Field::Bool(*b),
        Value::Number(n) => match n.as_i64() {
            Some(int) => Field::I64(int),
            None => Field::F64(n.as_f64().unwrap_or(0.0)),
        },
        Value::String(text) => Field::long_str(text),
        Value::Array(items) => Field::Array(items.iter().map(field).collect::<Result<_, _>>()?),
        Value::Object(map) => Field::Table(table(map)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bodies() {
        for (body, ok) in [("", true), (" ", true), ("{}", true), ("[]", false), ("{", false), ("\"{}\"", false)] {
            assert_eq!(Body::read(body.as_bytes()).is_ok(), ok, "{body}");
        }
        let body = Body::read(br#"{"a":"true","b":1,"c":null,"n":"7","tags":"x, y","list":["x"],"args":[]}"#).unwrap();
        assert!(body.flag("a").unwrap() && !body.flag("c").unwrap() && body.flag("b").is_err());
        assert_eq!((body.int("n").unwrap(), body.int("b").unwrap(), body.int("z").unwrap()), (Some(7), Some(1), None));
        assert_eq!(body.tags("tags").unwrap().unwrap(), ["x", "y"]);
        assert_eq!(body.tags("list").unwrap().unwrap(), ["x"]);
        assert!(body.table("args").unwrap().is_empty() && body.table("a").is_err());
        assert!(body.required("c").is_err());
        assert!(short(&"x".repeat(256)).is_err());
    }

    #[test]
    fn numbers_become_longs() {
        let Value::Object(map) = json!({"x-max-length": 5, "f": 1.5, "t": true, "s": "a", "o": {"k": [1]}}) else {
            panic!("an object");
        };
        let table = table(&map).unwrap();
        assert_eq!(table.get("x-max-length"), Some(&Field::I64(5)));
        assert_eq!(table.get("f"), Some(&Field::F64(1.5)));
        assert_eq!(table.get("s"), Some(&Field::long_str("a")));
    }
}
