//! What a request asks and what it is answered, free of sockets.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};

/// A request as the pages see it.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path segments, percent-decoded; `+` is literal here.
    pub(crate) path: Vec<String>,
    pub(crate) query: Query,
    /// User and password of basic authentication.
    pub(crate) login: Login,
    pub(crate) peer: IpAddr,
    /// The `x-reason` header: why a connection is closed.
    pub(crate) reason: Option<String>,
    /// Read only for those who have logged in, and only where it matters.
    pub(crate) body: Vec<u8>,
}

/// What the `authorization` header held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Login {
    /// No header.
    None,
    /// Basic credentials.
    Basic(String, String),
    /// Another scheme, or nonsense.
    Unusable,
}

impl Request {
    /// Takes a request apart; the error is the answer to it.
    pub(crate) fn read<B>(request: &hyper::Request<B>, peer: SocketAddr) -> Result<Self, Reply> {
        let uri = request.uri();
        let mut path = Vec::new();
        for segment in uri.path().split('/').skip(1) {
            let text = percent_decode(segment, false).ok_or_else(|| Reply::bad_request("path is not UTF-8"))?;
            path.push(text);
        }
        // `/api/queues/` is `/api/queues`.
        if path.last().is_some_and(String::is_empty) {
            path.pop();
        }
        let login = match request.headers().get("authorization") {
            None => Login::None,
            Some(value) => value.to_str().ok().and_then(basic).unwrap_or(Login::Unusable),
        };
        let reason = request.headers().get("x-reason").and_then(|v| v.to_str().ok()).map(str::to_owned);
        Ok(Self {
            method: request.method().as_str().to_owned(),
            path,
            query: Query::parse(uri.query().unwrap_or("")),
            login,
            peer: peer.ip().to_canonical(),
            reason,
            body: Vec::new(),
        })
    }

    /// Whether this only looks.
    pub(crate) fn is_read(&self) -> bool {
        self.method == "GET" || self.method == "HEAD"
    }
}

fn basic(header: &str) -> Option<Login> {
    let (scheme, rest) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let octets = STANDARD.decode(rest.trim()).ok()?;
    let text = String::from_utf8(octets).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Login::Basic(user.to_owned(), password.to_owned()))
}

/// Query parameters in order; `+` and `%20` are spaces.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let decode = |part: &str| percent_decode(part, true).unwrap_or_default();
        Self(
            text.split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(key), decode(value))
                })
                .collect(),
        )
    }
    /// The first value of `key`.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
    /// All values of `key`.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }
    /// Whether `key` is `true`.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|v| v.eq_ignore_ascii_case("true"))
    }
}

/// Undoes percent encoding (hex digits of either case). A `%` without two hex digits stays as it is; `None` when the result is
/// not UTF-8.
pub(crate) fn percent_decode(text: &str, plus_is_space: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&octet, tail)) = rest.split_first() {
        rest = tail;
        match octet {
            b'+' if plus_is_space => out.push(b' '),
            b'%' => match tail {
                [high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    out.push((hex(*high) << 4) | hex(*low));
                    rest = after;
                }
                _ => out.push(b'%'),
            },
            other => out.push(other),
        }
    }
    String::from_utf8(out).ok()
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.saturating_sub(b'A') + 10,
    }
}

/// Percent-encodes all but the unreserved characters.
pub(crate) fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for octet in text.bytes() {
        if octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(octet));
        } else {
            out.push_str(&format!("%{octet:02X}"));
        }
    }
    out
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// JSON with a status.
    pub(crate) fn json(status: u16, value: &Value) -> Self {
        let body = value.to_string().into_bytes();
        Self { status, content_type: "application/json", headers: Vec::new(), body }
    }
    /// A status and nothing else.
    pub(crate) fn empty(status: u16) -> Self {
        Self { status, content_type: "", headers: Vec::new(), body: Vec::new() }
    }
    /// Text of some type, 200.
    pub(crate) fn text(content_type: &'static str, body: String) -> Self {
        Self { status: 200, content_type, headers: Vec::new(), body: body.into_bytes() }
    }
    /// The form of the management API's errors.
    pub(crate) fn error(status: u16, error: &str, reason: &str) -> Self {
        Self::json(status, &json!({"error": error, "reason": reason}))
    }
    pub(crate) fn not_found() -> Self {
        Self::error(404, "Object Not Found", "Not Found")
    }
    pub(crate) fn bad_request(reason: &str) -> Self {
        Self::error(400, "bad_request", reason)
    }
    /// The broker did not answer: recovering, stopping or failed.
    pub(crate) fn unavailable(reason: &str) -> Self {
        Self::error(503, "service_unavailable", reason)
    }
    /// The path exists but does not take this method.
    pub(crate) fn method_not_allowed(method: &str) -> Self {
        Self::error(405, "method_not_allowed", &format!("{method} is not allowed here"))
            .with("allow", "GET, HEAD, PUT, POST, DELETE, OPTIONS")
    }
    pub(crate) fn not_implemented(reason: &str) -> Self {
        Self::error(501, "not_implemented", reason)
    }
    /// Adds a header.
    #[must_use]
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_decoding() {
        for (input, path, query) in [
            ("%2F", "/", "/"),
            ("%2f", "/", "/"),
            ("a+b", "a+b", "a b"),
            ("a%2Bb%20c", "a+b c", "a+b c"),
            ("100%", "100%", "100%"),
            ("%zz%4", "%zz%4", "%zz%4"),
            ("%C3%A4", "ä", "ä"),
        ] {
            assert_eq!(percent_decode(input, false).unwrap(), path, "{input} in a path");
            assert_eq!(percent_decode(input, true).unwrap(), query, "{input} in a query");
        }
        assert_eq!(percent_decode("%ff", false), None);
        assert_eq!(percent_encode("a/b c~ä"), "a%2Fb%20c~%C3%A4");
    }

    #[test]
    fn basic_credentials() {
        assert_eq!(basic("Basic Z3Vlc3Q6Z3U6ZXN0"), Some(Login::Basic("guest".into(), "gu:est".into())));
        assert_eq!(basic("basic Z3Vlc3Q6"), Some(Login::Basic("guest".into(), String::new())));
        assert_eq!(basic("Bearer abc"), None);
        assert_eq!(basic("Basic ???"), None);
    }
}
