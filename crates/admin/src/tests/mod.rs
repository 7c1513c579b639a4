//! The admin side over real loopback sockets, with a broker that is made up.

mod api;
mod autoscalers;
mod changes;
mod fake;
mod prometheus;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fake::Fake;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crate::{AdminConfig, AdminHandle, start};

/// A running admin side with its made-up broker.
pub(super) struct World {
    pub(super) broker: Arc<Fake>,
    pub(super) handle: AdminHandle,
}

/// An answer as it came over the socket.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Got {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }
    /// A header's value.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(AdminConfig { sample_interval: Duration::from_millis(20), ..AdminConfig::default() })
    }
    pub(super) fn with(config: AdminConfig) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let broker = Arc::new(Fake::default());
        let config = AdminConfig { http: vec![any], metrics: vec![any], ..config };
        let handle = start(config, broker.clone()).unwrap();
        Self { broker, handle }
    }
    /// GET as the administrator.
    pub(super) fn get(&self, path: &str) -> Got {
        self.get_as("admin:secret", path)
    }
    pub(super) fn get_as(&self, login: &str, path: &str) -> Got {
        let header = format!("authorization: Basic {}\r\n", STANDARD.encode(login));
        send(self.handle.http_addrs()[0], "GET", path, &header)
    }
    pub(super) fn send(&self, method: &str, path: &str, headers: &str) -> Got {
        send(self.handle.http_addrs()[0], method, path, headers)
    }
    pub(super) fn metrics(&self, path: &str) -> Got {
        send(self.handle.metrics_addrs()[0], "GET", path, "")
    }
    /// Asks until the answer is as wished.
    pub(super) fn wait(&self, path: &str, mut wished: impl FnMut(&Value) -> bool) -> Value {
        loop {
            let got = self.get(path).json();
            if wished(&got) {
                return got;
            }
            std::thread::yield_now();
        }
    }
}

pub(super) fn send(addr: SocketAddr, method: &str, path: &str, headers: &str) -> Got {
    send_body(addr, method, path, headers, "")
}

pub(super) fn send_body(addr: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Got {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\r\n{body}").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Got { status, head: head.to_owned(), body: body.to_owned() }
}
