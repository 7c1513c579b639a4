//! Small pieces of JSON the objects share.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hornpipe_types::table::{FieldTable, Value as Field};
use serde_json::{Map, Value, json};

/// A field table as a JSON object; of equal keys the first counts.
pub(crate) fn table(table: &FieldTable) -> Value {
    let mut out = Map::new();
    for (key, value) in table.iter() {
        out.entry(key).or_insert_with(|| field(value));
    }
    Value::Object(out)
}

fn field(value: &Field) -> Value {
    if let Some(int) = value.as_int() {
        return int.into();
    }
    match value {
        Field::Bool(b) => (*b).into(),
        Field::F32(f) => f64::from(*f).into(),
        Field::F64(f) => (*f).into(),
        Field::Decimal(scale, unscaled) => (f64::from(*unscaled) / 10f64.powi(i32::from(*scale))).into(),
        Field::LongStr(octets) | Field::Binary(octets) => match std::str::from_utf8(octets) {
            Ok(text) => text.into(),
            Err(_) => STANDARD.encode(octets).into(),
        },
        Field::Timestamp(seconds) => (*seconds).into(),
        Field::Table(inner) => table(inner),
        Field::Array(items) => items.iter().map(field).collect(),
        _ => Value::Null,
    }
}

/// Name, host and port of a connection's peer, out of `peer:port -> local:port`.
pub(crate) fn connection_details(name: &str) -> Value {
    let peer = name.split(" -> ").next().unwrap_or(name);
    let (host, port) = peer.rsplit_once(':').unwrap_or((peer, ""));
    json!({"name": name, "peer_host": host, "peer_port": port.parse::<u16>().unwrap_or(0)})
}

/// A wall clock time in the API's form, `2024-01-31T10:00:00.000+00:00`.
pub(crate) fn timestamp(unix_ms: u64) -> String {
    let (ms, seconds) = (unix_ms % 1000, unix_ms / 1000);
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Days to a civil date: years of 400 repeat; a year begins in March, so that the leap day is its last.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}+00:00")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000+00:00"),
            (951_782_400_123, "2000-02-29T00:00:00.123+00:00"),
            (1_706_695_200_000, "2024-01-31T10:00:00.000+00:00"),
            (1_735_689_599_999, "2024-12-31T23:59:59.999+00:00"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000+00:00"),
        ] {
            assert_eq!(timestamp(ms), text);
        }
    }

    #[test]
    fn tables() {
        let mut args = FieldTable::default();
        args.set("x-max-length", Field::I32(5));
        args.set("x-queue-mode", Field::long_str("lazy"));
        args.0.push(("x-max-length".into(), Field::I64(9)));
        args.set("bytes", Field::Binary(vec![0xff, 0].into()));
        args.set("list", Field::Array(vec![Field::Bool(true), Field::Void]));
        let expected = json!({"x-max-length": 5, "x-queue-mode": "lazy", "bytes": "/wA=", "list": [true, null]});
        assert_eq!(table(&args), expected);
    }

    #[test]
    fn peers() {
        let details = connection_details("[::1]:4000 -> [::1]:5672");
        assert_eq!(details["peer_host"], "[::1]");
        assert_eq!(details["peer_port"], 4000);
    }
}
