//! A client made of bytes: just enough AMQP to see the driver at work.

#![allow(clippy::unwrap_used)] // helpers of tests, which clippy does not take for tests

use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A frame as it came.
#[derive(Debug, PartialEq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) channel: u16,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Class and method id of a method frame.
    pub(crate) fn method(&self) -> (u16, u16) {
        assert_eq!(self.kind, 1, "{self:?}");
        let number = |at: usize| u16::from_be_bytes([self.payload[at], self.payload[at + 1]]);
        (number(0), number(2))
    }
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

pub(crate) struct Peer {
    stream: TcpStream,
}

fn short(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes()].concat()
}

impl Peer {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap() }
    }

    /// Connects and opens the default vhost and channel 1.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let mut peer = Self::connect(address).await;
        peer.write(b"AMQP\x00\x00\x09\x01").await;
        assert_eq!(peer.read().await.method(), (10, 10));
        // The capabilities connection.blocked and authentication_failure_close.
        let mut inner = Vec::new();
        for name in ["connection.blocked", "authentication_failure_close"] {
            inner.extend([short(name), b"t\x01".to_vec()].concat());
        }
        let table = [&short("capabilities")[..], b"F", &(inner.len() as u32).to_be_bytes(), &inner].concat();
        let mut start_ok = (table.len() as u32).to_be_bytes().to_vec();
        start_ok.extend(table);
        start_ok.extend(short("PLAIN"));
        start_ok.extend(b"\x00\x00\x00\x0c\0guest\0guest");
        start_ok.extend(short("en_US"));
        peer.method(0, (10, 11), &start_ok).await;
        let tune = peer.read().await;
        assert_eq!(tune.method(), (10, 30));
        peer.method(0, (10, 31), &tune.payload[4..12]).await;
        peer.method(0, (10, 40), &[short("/"), vec![0, 0]].concat()).await;
        assert_eq!(peer.read().await.method(), (10, 41));
        peer.method(1, (20, 10), b"\0").await;
        assert_eq!(peer.read().await.method(), (20, 11));
        peer
    }

    pub(crate) async fn write(&mut self, octets: &[u8]) {
        self.stream.write_all(octets).await.unwrap();
    }

    pub(crate) async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let mut frame = vec![kind];
        frame.extend(channel.to_be_bytes());
        frame.extend((payload.len() as u32).to_be_bytes());
        frame.extend(payload);
        frame.push(0xCE);
        self.write(&frame).await;
    }

    pub(crate) async fn method(&mut self, channel: u16, (class, method): (u16, u16), arguments: &[u8]) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.frame(1, channel, &payload).await;
    }

    pub(crate) async fn try_read(&mut self) -> Option<Frame> {
        let mut head = [0; 7];
        self.stream.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize + 1];
        self.stream.read_exact(&mut payload).await.ok()?;
        assert_eq!(payload.pop(), Some(0xCE));
        Some(Frame { kind: head[0], channel: u16::from_be_bytes([head[1], head[2]]), payload })
    }

    /// The next frame that is no heartbeat.
    pub(crate) async fn read(&mut self) -> Frame {
        loop {
            let frame = self.try_read().await.expect("the broker closed the socket");
            if frame.kind != 8 {
                return frame;
            }
        }
    }

    /// All octets until the broker closes; fails on a reset.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        self.stream.read_to_end(&mut all).await.unwrap();
        all
    }

    pub(crate) async fn declare_durable(&mut self, queue: &str) {
        self.method(1, (50, 10), &[vec![0, 0], short(queue), vec![0b10], vec![0; 4]].concat()).await;
        assert_eq!(self.read().await.method(), (50, 11));
    }

    pub(crate) async fn confirm_select(&mut self) {
        self.method(1, (85, 10), b"\0").await;
        assert_eq!(self.read().await.method(), (85, 11));
    }

    pub(crate) async fn publish(&mut self, queue: &str, body: &[u8]) {
        self.method(1, (60, 40), &[vec![0, 0], short(""), short(queue), vec![0]].concat()).await;
        let size = (body.len() as u64).to_be_bytes();
        // delivery-mode 2
        self.frame(2, 1, &[&[0, 60, 0, 0][..], &size, &[0x10, 0, 2]].concat()).await;
        for piece in body.chunks(100_000) {
            self.frame(3, 1, piece).await;
        }
    }

    /// basic.get with no-ack: the body, `None` when the queue is empty.
    pub(crate) async fn get(&mut self, queue: &str) -> Option<Vec<u8>> {
        self.method(1, (60, 70), &[vec![0, 0], short(queue), vec![1]].concat()).await;
        if self.read().await.method() == (60, 72) {
            return None;
        }
        let header = self.read().await;
        let size = u64::from_be_bytes(header.payload[4..12].try_into().unwrap());
        let mut body = Vec::new();
        while (body.len() as u64) < size {
            body.extend(self.read().await.payload);
        }
        Some(body)
    }

    pub(crate) async fn close(mut self) {
        self.method(0, (10, 50), &[0, 200, 0, 0, 0, 0, 0]).await;
        while self.read().await.method() != (10, 51) {}
    }
}
