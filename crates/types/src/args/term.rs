//! Field values as RabbitMQ prints them in its texts: Erlang terms.

use crate::table::{FieldTable, Value};
use std::fmt::Write;

/// A value as an Erlang term, the way `~tp` prints it: `1000`, `true`, `<<"text">>`, `[{<<"key">>,long,1}]`.
pub fn term(value: &Value) -> String {
    let mut out = String::new();
    write_term(&mut out, value);
    out
}

/// A value between the quotes of an equivalence text: strings bare, everything else as a term.
pub(super) fn bare(value: &Value) -> String {
    match value {
        Value::LongStr(octets) | Value::Binary(octets) => text_of(octets),
        other => term(other),
    }
}

/// Text as an Erlang string term, with quotes.
pub fn string_term(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    push_escaped(&mut out, text);
    out.push('"');
    out
}

/// UTF-8 as it is; other octets one character each, as Erlang's `~ts` does with what is no UTF-8.
fn text_of(octets: &[u8]) -> String {
    match std::str::from_utf8(octets) {
        Ok(text) => text.to_owned(),
        Err(_) => octets.iter().map(|&b| char::from(b)).collect(),
    }
}

fn push_escaped(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push(c),
        }
    }
}

fn write_term(out: &mut String, value: &Value) {
    // Writing into a String cannot fail.
    let _ = match value {
        Value::Bool(v) => write!(out, "{v}"),
        Value::I8(v) => write!(out, "{v}"),
        Value::U8(v) => write!(out, "{v}"),
        Value::I16(v) => write!(out, "{v}"),
        Value::U16(v) => write!(out, "{v}"),
        Value::I32(v) => write!(out, "{v}"),
        Value::U32(v) => write!(out, "{v}"),
        Value::I64(v) => write!(out, "{v}"),
        Value::Timestamp(v) => write!(out, "{v}"),
        Value::F32(v) => write!(out, "{}", float_term(f64::from(*v))),
        Value::F64(v) => write!(out, "{}", float_term(*v)),
        Value::Decimal(scale, v) => write!(out, "{{{scale},{v}}}"),
        Value::Void => write!(out, "undefined"),
        Value::LongStr(octets) | Value::Binary(octets) => {
            write_binary(out, octets);
            Ok(())
        }
        Value::Table(table) => {
            write_table(out, table);
            Ok(())
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push('{');
                out.push_str(item.type_name());
                out.push(',');
                write_term(out, item);
                out.push('}');
            }
            out.push(']');
            Ok(())
        }
    };
}

fn write_table(out: &mut String, table: &FieldTable) {
    out.push('[');
    for (i, (key, value)) in table.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push('{');
        write_binary(out, key.as_bytes());
        out.push(',');
        out.push_str(value.type_name());
        out.push(',');
        write_term(out, value);
        out.push('}');
    }
    out.push(']');
}

fn write_binary(out: &mut String, octets: &[u8]) {
    match std::str::from_utf8(octets) {
        Ok(text) if text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t')) => {
            out.push_str("<<");
            if !text.is_empty() {
                out.push('"');
                push_escaped(out, text);
                out.push('"');
                if !text.is_ascii() {
                    out.push_str("/utf8");
                }
            }
            out.push_str(">>");
        }
        _ => {
            out.push_str("<<");
            for (i, b) in octets.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                let _ = write!(out, "{b}");
            }
            out.push_str(">>");
        }
    }
}

/// Erlang always shows a fraction: `1.0`, `1.0e22`.
fn float_term(v: f64) -> String {
    let text = format!("{v:?}");
    match text.split_once('e') {
        Some((mantissa, exponent)) if !mantissa.contains('.') => format!("{mantissa}.0e{exponent}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms() {
        let table = FieldTable(vec![("k".into(), Value::I64(1)), ("s".into(), Value::long_str("v"))]);
        for (value, expected) in [
            (Value::I8(-1), "-1"),
            (Value::Bool(true), "true"),
            (Value::F64(1.0), "1.0"),
            (Value::F32(0.5), "0.5"),
            (Value::F64(1e22), "1.0e22"),
            (Value::Decimal(2, 314), "{2,314}"),
            (Value::Void, "undefined"),
            (Value::long_str("a\"b"), "<<\"a\\\"b\">>"),
            (Value::long_str(""), "<<>>"),
            (Value::long_str("é"), "<<\"é\"/utf8>>"),
            (Value::Binary(bytes::Bytes::from_static(&[0, 255])), "<<0,255>>"),
            (Value::Table(table), "[{<<\"k\">>,long,1},{<<\"s\">>,longstr,<<\"v\">>}]"),
            (Value::Array(vec![Value::I32(1), Value::Bool(false)]), "[{signedint,1},{bool,false}]"),
        ] {
            assert_eq!(term(&value), expected, "{value:?}");
        }
        assert_eq!(bare(&Value::long_str("text")), "text");
        assert_eq!(bare(&Value::LongStr(bytes::Bytes::from_static(&[0xe9]))), "é");
        assert_eq!(string_term("a\\\"\n"), r#""a\\\"\n""#);
    }
}
