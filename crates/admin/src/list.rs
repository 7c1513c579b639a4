//! Query parameters of lists: columns, sorting, pages [RabbitMQ management HTTP API, "pagination"].

use crate::http::{Query, Reply};
use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value, json};
use std::cmp::Ordering;

/// Items of a page when the request does not say, and the most it may ask for.
const PAGE_SIZE: i64 = 100;
const PAGE_SIZE_MAX: u64 = 500;
/// Bound of a compiled name pattern, octets: a peer's pattern must not eat the memory.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// Answers a list. `pagination=false` does not switch pages off: `page` alone decides, as in RabbitMQ and as KEDA expects.
pub(crate) fn reply(query: &Query, items: Vec<Value>) -> Reply {
    match page(query) {
        Err(reply) => reply,
        Ok(None) => {
            let items = columns(query, sorted(query, items));
            Reply::json(200, &Value::Array(items))
        }
        Ok(Some(page)) => paged(query, items, &page),
    }
}

/// Answers one object, cut to the asked columns.
pub(crate) fn one(query: &Query, item: Value) -> Reply {
    match columns(query, vec![item]).pop() {
        Some(item) => Reply::json(200, &item),
        None => Reply::not_found(),
    }
}

#[derive(Debug)]
struct Page {
    number: u64,
    size: u64,
    filter: Filter,
}

#[derive(Debug)]
enum Filter {
    None,
    Substring(String),
    Pattern(Regex),
}

impl Filter {
    fn takes(&self, item: &Value) -> bool {
        let name = item.get("name").and_then(Value::as_str).unwrap_or("");
        match self {
            Self::None => true,
            Self::Substring(part) => name.to_lowercase().contains(part),
            Self::Pattern(pattern) => pattern.is_match(name),
        }
    }
}

fn page(query: &Query) -> Result<Option<Page>, Reply> {
    let Some(number) = query.get("page") else { return Ok(None) };
    let size = query.get("page_size");
    let not_a_number = || Reply::bad_request("Pagination parameters are invalid");
    let invalid = |number: i64, size: &str| {
        let reason = format!("Invalid pagination parameters: page number {number}, page size {size}");
        Reply::error(400, "invalid_pagination_parameters", &reason)
    };
    let number: i64 = number.parse().map_err(|_| not_a_number())?;
    let length: i64 = match size {
        Some(size) => size.parse().map_err(|_| not_a_number())?,
        None => PAGE_SIZE,
    };
    let (Ok(page), Ok(length)) = (u64::try_from(number), u64::try_from(length)) else {
        return Err(invalid(number, size.unwrap_or("undefined")));
    };
    if page == 0 || length == 0 || length > PAGE_SIZE_MAX {
        return Err(invalid(number, size.unwrap_or("undefined")));
    }
    let filter = match query.get("name").unwrap_or("") {
        "" => Filter::None,
        name if query.flag("use_regex") => {
            let pattern = RegexBuilder::new(name).case_insensitive(true).size_limit(PATTERN_BYTES_MAX).build();
            Filter::Pattern(pattern.map_err(|e| Reply::bad_request(&format!("Invalid name pattern: {e}")))?)
        }
        name => Filter::Substring(name.to_lowercase()),
    };
    Ok(Some(Page { number: page, size: length, filter }))
}

fn paged(query: &Query, items: Vec<Value>, page: &Page) -> Reply {
    let total = items.len();
    let kept: Vec<Value> = items.into_iter().filter(|item| page.filter.takes(item)).collect();
    let filtered = kept.len() as u64;
    let pages = filtered.div_ceil(page.size);
    // The first page is there even when nothing is on it.
    if page.number > pages.max(1) {
        let reason = format!("Page out of range, page: {} page size: {}, len: {filtered}", page.number, page.size);
        return Reply::error(400, "page_out_of_range", &reason);
    }
    let skip = (page.number - 1).saturating_mul(page.size);
    let on_page: Vec<Value> = sorted(query, kept)
        .into_iter()
        .skip(usize::try_from(skip).unwrap_or(usize::MAX))
        .take(usize::try_from(page.size).unwrap_or(usize::MAX))
        .collect();
    let answer = json!({
        "total_count": total,
        "item_count": on_page.len(),
        "filtered_count": filtered,
        "page": page.number,
        "page_size": page.size,
        "page_count": pages,
        "items": columns(query, on_page),
    });
    Reply::json(200, &answer)
}

fn sorted(query: &Query, mut items: Vec<Value>) -> Vec<Value> {
    if let Some(key) = query.get("sort").filter(|key| !key.is_empty()) {
        items.sort_by(|a, b| compare(at(a, key), at(b, key)));
        if query.flag("sort_reverse") {
            items.reverse();
        }
    }
    items
}

/// The value at a dotted path.
fn at<'a>(item: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(item, |value, key| value.get(key))
}

fn compare(a: Option<&Value>, b: Option<&Value>) -> Ordering {
    fn rank(value: Option<&Value>) -> u8 {
        match value {
            None | Some(Value::Null) => 0,
            Some(Value::Bool(_)) => 1,
            Some(Value::Number(_)) => 2,
            Some(Value::String(_)) => 3,
            Some(Value::Array(_)) => 4,
            Some(Value::Object(_)) => 5,
        }
    }
    match (a, b) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => match (a.as_u64(), b.as_u64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.as_f64().unwrap_or(0.0).total_cmp(&b.as_f64().unwrap_or(0.0)),
        },
        (Some(Value::String(a)), Some(Value::String(b))) => a.cmp(b),
        (Some(Value::Bool(a)), Some(Value::Bool(b))) => a.cmp(b),
        (a, b) => rank(a).cmp(&rank(b)),
    }
}

/// Keeps only the columns asked for, each a dotted path.
fn columns(query: &Query, items: Vec<Value>) -> Vec<Value> {
    let Some(columns) = query.get("columns").filter(|c| !c.is_empty()) else { return items };
    let columns: Vec<&str> = columns.split(',').collect();
    items
        .into_iter()
        .map(|item| {
            let mut out = Map::new();
            for path in &columns {
                if let Some(value) = at(&item, path) {
                    put(&mut out, path, value.clone());
                }
            }
            Value::Object(out)
        })
        .collect()
}

fn put(out: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            out.insert(path.to_owned(), value);
        }
        Some((head, rest)) => {
            let inner = out.entry(head).or_insert_with(|| json!({}));
            if let Value::Object(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(query: &str, names: &[&str]) -> (u16, Value) {
        let items = names
            .iter()
            .enumerate()
            .map(|(n, name)| json!({"name": name, "messages": 10 - n, "message_stats": {"ack": n, "get": 7}}))
            .collect();
        let reply = reply(&Query::parse(query), items);
        (reply.status, serde_json::from_slice(&reply.body).unwrap())
    }

    #[test]
    fn a_list_is_plain_without_a_page() {
        let (status, body) = ask("pagination=false&name=b", &["a", "b"]);
        assert_eq!(status, 200);
        assert_eq!(body.as_array().unwrap().len(), 2, "`name` acts only with `page`");
    }

    #[test]
    fn pages() {
        let names = ["a", "b", "c", "d", "e"];
        let (_, body) = ask("page=2&page_size=2", &names);
        assert_eq!(body["items"][0]["name"], "c");
        for (field, value) in [
            ("total_count", 5),
            ("item_count", 2),
            ("filtered_count", 5),
            ("page", 2),
            ("page_size", 2),
            ("page_count", 3),
        ] {
            assert_eq!(body[field], value, "{field}");
        }
        let (_, body) = ask("page=1", &names);
        assert_eq!(body["page_size"], 100);
        let (_, body) = ask("page=1&name=zzz", &names);
        assert_eq!((&body["page_count"], &body["total_count"]), (&json!(0), &json!(5)));
        assert_eq!(body["items"], json!([]));
    }

    #[test]
    fn bad_pages() {
        for (query, error) in [
            ("page=0", "invalid_pagination_parameters"),
            ("page=-1", "invalid_pagination_parameters"),
            ("page=x", "bad_request"),
            ("page=1&page_size=501", "invalid_pagination_parameters"),
            ("page=1&page_size=0", "invalid_pagination_parameters"),
            ("page=1&name=(&use_regex=true", "bad_request"),
            ("page=4&page_size=2", "page_out_of_range"),
            ("page=9223372036854775807&page_size=500", "page_out_of_range"),
        ] {
            let (status, body) = ask(query, &["a", "b", "c", "d", "e"]);
            assert_eq!(status, 400, "{query}");
            assert_eq!(body["error"], error, "{query}");
        }
    }

    #[test]
    fn names() {
        let names = ["Orders", "orders.dead", "billing", "o.x"];
        for (query, count) in [
            ("page=1&name=ORDER", 2),
            ("page=1&name=o.", 1),
            ("page=1&use_regex=true&name=%5Eorders%24", 1),
            ("page=1&use_regex=true&name=%5Eo.", 3),
            ("page=1&use_regex=true&name=", 4),
        ] {
            assert_eq!(ask(query, &names).1["filtered_count"], count, "{query}");
        }
    }

    #[test]
    fn sorting_and_columns() {
        let (_, body) = ask("sort=messages&columns=name,message_stats.ack", &["a", "b"]);
        assert_eq!(
            body,
            json!([{"name": "b", "message_stats": {"ack": 1}}, {"name": "a", "message_stats": {"ack": 0}}])
        );
        let (_, body) = ask("sort=message_stats.ack&sort_reverse=true&columns=name", &["a", "b"]);
        assert_eq!(body, json!([{"name": "b"}, {"name": "a"}]));
        let (_, body) = ask("columns=missing", &["a"]);
        assert_eq!(body, json!([{}]));
    }
}
