//! One blocking connection: handshake, calls, and a read buffer that others scan in place.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::wire::{self, FRAME_END, FRAME_OVERHEAD, METHOD, MethodId, Out, be16, be32};

/// How long a call may take before the run is given up: a broker under load may be slow, never silent.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Read buffer of a connection that consumes; must hold two frames of the largest size asked for.
pub(crate) const BIG_BUFFER: usize = 256 * 1024;
/// Read buffer of a connection that only makes calls.
pub(crate) const SMALL_BUFFER: usize = 8 * 1024;
/// What a client says first [spec §4.2.2].
pub(crate) const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
const FRAME_MAX: u32 = 128 * 1024;
/// Octets on their way out of a publisher, by which the kernel means twice as many.
const UNSENT: usize = 128 * 1024;

/// Where a broker listens and as whom to log in.
#[derive(Debug, Clone)]
pub(crate) struct Url {
    host: String,
    port: u16,
    user: String,
    password: String,
    vhost: String,
}

impl Url {
    /// Parses `amqp://user:password@host:port/vhost`; everything but the host may be left out.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let rest = text.strip_prefix("amqp://").with_context(|| format!("not an amqp:// URL: {text}"))?;
        let (authority, vhost) = match rest.split_once('/') {
            Some((authority, vhost)) => (authority, decode(vhost)?),
            None => (rest, "/".to_owned()),
        };
        let (credentials, address) = authority.rsplit_once('@').unwrap_or(("guest:guest", authority));
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().with_context(|| format!("port of {text}"))?),
            None => (address, 5672),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port, user: decode(user)?, password: decode(password)?, vhost })
    }

    /// Answers connection.start.
    pub(crate) fn answer_start(&self, out: &mut Out) {
        start_ok(out, &self.user, &self.password);
    }

    /// What is said where a login gets no answer but an end.
    pub(crate) fn not_let_in(&self) -> String {
        format!("the broker didn't let user {:?} in, whose name and password may be wrong", self.user)
    }

    /// Answers connection.tune as it asks for, and opens the virtual host at once: there is nothing to wait for in between.
    pub(crate) fn answer_tune(&self, out: &mut Out, tune: &[u8]) {
        let (channel_max, theirs) = (be16(tune, 4), be32(tune, 6));
        let frame_max = if theirs == 0 { FRAME_MAX } else { theirs.min(FRAME_MAX) };
        tune_ok_and_open(out, channel_max, frame_max, &self.vhost);
    }
}

fn decode(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().unwrap_or(0), rest.next().unwrap_or(0)];
            let digits = std::str::from_utf8(&digits)?;
            bytes.push(u8::from_str_radix(digits, 16).with_context(|| format!("percent escape in {text}"))?);
        } else {
            bytes.push(byte);
        }
    }
    Ok(String::from_utf8(bytes)?)
}

/// What one read of the socket brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// More bytes are in the buffer.
    Data,
    /// Nothing came within the read timeout.
    Idle,
    /// The peer closed the socket.
    End,
}

/// A connection with channel 1 open.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Client {
    /// Connects, logs in, opens the virtual host and channel 1. Heartbeats are switched off.
    pub(crate) fn open(url: &Url, buffer: usize) -> Result<Self> {
        let mut client = Self::connect(url, buffer)?;
        client.stream.set_read_timeout(Some(CALL_TIMEOUT))?;
        client.stream.set_write_timeout(Some(CALL_TIMEOUT))?;
        client.write(PROTOCOL_HEADER)?;
        client.expect(wire::CONNECTION_START)?;
        let mut out = Out::default();
        url.answer_start(&mut out);
        client.write(&out.0)?;
        let tune = client.expect(wire::CONNECTION_TUNE).with_context(|| url.not_let_in())?;
        out.0.clear();
        url.answer_tune(&mut out, &tune);
        client.write(&out.0)?;
        client.expect(wire::CONNECTION_OPEN_OK)?;
        client.open_channel(1)?;
        Ok(client)
    }

    /// A socket on which nothing was said yet.
    pub(crate) fn connect(url: &Url, buffer: usize) -> Result<Self> {
        let stream = TcpStream::connect((url.host.as_str(), url.port))
            .with_context(|| format!("connecting to {}:{}", url.host, url.port))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; buffer], start: 0, end: 0 })
    }

    pub(crate) fn open_channel(&mut self, number: u16) -> Result<()> {
        let mut out = Out::default();
        channel_open(&mut out, number);
        self.write(&out.0)?;
        self.expect(wire::CHANNEL_OPEN_OK).map(|_| ())
    }

    /// Lets only so much be on its way out. What the kernel takes beyond that waits in memory instead of the processor's cache,
    /// which both ends pay for.
    pub(crate) fn keep_little_unsent(&self) -> Result<()> {
        Ok(rustix::net::sockopt::set_socket_send_buffer_size(&self.stream, UNSENT)?)
    }

    /// The socket, for a thread of its own.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self.stream.write_all(bytes) {
            Ok(()) => Ok(()),
            // The broker has probably said why before it hung up.
            Err(error) => Err(self.last_words().unwrap_or_else(|| anyhow!(error).context("writing"))),
        }
    }

    fn last_words(&mut self) -> Option<anyhow::Error> {
        self.stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        self.expect((0, 0)).err()
    }

    /// Sends a method on channel 1 and waits for its answer; the answer's payload is returned.
    pub(crate) fn call(
        &mut self,
        id: MethodId,
        answer: MethodId,
        fill: impl FnOnce(&mut wire::Args<'_>),
    ) -> Result<Vec<u8>> {
        let mut out = Out::default();
        out.method(1, id, fill);
        self.write(&out.0)?;
        self.expect(answer).with_context(|| format!("calling method {id:?}"))
    }

    /// Waits for a method, passing over everything else but a close, which is an error with the broker's text.
    pub(crate) fn expect(&mut self, answer: MethodId) -> Result<Vec<u8>> {
        loop {
            if let Some(payload) = self.received(answer)? {
                return Ok(payload);
            }
            match self.fill()? {
                Fill::Data => {}
                Fill::Idle => bail!("no {answer:?} within the timeout"),
                Fill::End => bail!("the broker closed the socket"),
            }
        }
    }

    /// That method, if it has been read already.
    pub(crate) fn received(&mut self, answer: MethodId) -> Result<Option<Vec<u8>>> {
        while let Some(frame) = frame_at(self.bytes())? {
            let id = (frame.kind == METHOD).then(|| (be16(frame.payload, 0), be16(frame.payload, 2)));
            let (total, payload) = (frame.total, frame.payload.to_vec());
            self.consume(total);
            match id {
                Some(id) if id == answer => return Ok(Some(payload)),
                Some(id @ (wire::CONNECTION_CLOSE | wire::CHANNEL_CLOSE)) => return Err(refusal(id, &payload)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Unscanned bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Marks bytes as scanned.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// One read. An unfinished frame is moved to the front first.
    pub(crate) fn fill(&mut self) -> Result<Fill> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            let grown = self.buffer.len() * 2;
            self.buffer.resize(grown, 0);
        }
        loop {
            match self.stream.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(Fill::End),
                Ok(count) => {
                    self.end += count;
                    return Ok(Fill::Data);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(Fill::Idle);
                }
                Err(error) => return Err(error).context("reading"),
            }
        }
    }

    /// Closes in order and waits for the answer, so that everything sent before has been processed.
    pub(crate) fn close(mut self) -> Result<()> {
        self.stream.set_read_timeout(Some(CALL_TIMEOUT))?;
        let mut out = Out::default();
        connection_close(&mut out);
        self.write(&out.0)?;
        self.expect(wire::CONNECTION_CLOSE_OK).map(|_| ())
    }

    /// Declares a durable queue; returns the messages waiting in it.
    pub(crate) fn declare_queue(&mut self, name: &str, kind: Option<&str>) -> Result<u32> {
        let ok =
            self.call(wire::QUEUE_DECLARE, wire::QUEUE_DECLARE_OK, |args| queue_declare(args, name, kind, false))?;
        Ok(declared_count(&ok))
    }

    /// Messages ready in an existing queue.
    pub(crate) fn queue_length(&mut self, name: &str) -> Result<u32> {
        let ok =
            self.call(wire::QUEUE_DECLARE, wire::QUEUE_DECLARE_OK, |args| queue_declare(args, name, None, true))?;
        Ok(declared_count(&ok))
    }

    /// Deletes a queue; returns the messages that were in it. A queue that isn't there counts as empty.
    pub(crate) fn delete_queue(&mut self, name: &str) -> Result<u32> {
        let ok = self.call(wire::QUEUE_DELETE, wire::QUEUE_DELETE_OK, |args| queue_delete(args, name))?;
        Ok(be32(&ok, 4))
    }

    pub(crate) fn declare_exchange(&mut self, name: &str, kind: &str) -> Result<()> {
        self.call(wire::EXCHANGE_DELETE, wire::EXCHANGE_DELETE_OK, |args| {
            args.u16(0);
            args.short(name);
            args.u8(0);
        })?;
        self.call(wire::EXCHANGE_DECLARE, wire::EXCHANGE_DECLARE_OK, |args| exchange_declare(args, name, kind))?;
        Ok(())
    }

    pub(crate) fn delete_exchange(&mut self, name: &str) -> Result<()> {
        self.call(wire::EXCHANGE_DELETE, wire::EXCHANGE_DELETE_OK, |args| {
            args.u16(0);
            args.short(name);
            args.u8(0);
        })?;
        Ok(())
    }

    /// Binds a queue with many keys, pipelined.
    pub(crate) fn bind(&mut self, queue: &str, exchange: &str, keys: &[String]) -> Result<()> {
        let mut out = Out::default();
        for key in keys {
            out.method(1, wire::QUEUE_BIND, |args| queue_bind(args, queue, exchange, key));
        }
        self.write(&out.0)?;
        for _ in keys {
            self.expect(wire::QUEUE_BIND_OK)?;
        }
        Ok(())
    }
}

/// Answers connection.start.
pub(crate) fn start_ok(out: &mut Out, user: &str, password: &str) {
    let response = [b"\0", user.as_bytes(), b"\0", password.as_bytes()].concat();
    out.method(0, wire::CONNECTION_START_OK, |args| {
        // Without the capability a broker only hangs up where it refuses a login.
        args.client_properties("hornpipe-bench", "authentication_failure_close");
        args.short("PLAIN");
        args.long(&response);
        args.short("en_US");
    });
}

/// Answers connection.tune, heartbeats off, and asks for the virtual host.
pub(crate) fn tune_ok_and_open(out: &mut Out, channel_max: u16, frame_max: u32, vhost: &str) {
    out.method(0, wire::CONNECTION_TUNE_OK, |args| {
        args.u16(channel_max);
        args.u32(frame_max);
        args.u16(0);
    });
    out.method(0, wire::CONNECTION_OPEN, |args| {
        args.short(vhost);
        args.short("");
        args.u8(0);
    });
}

pub(crate) fn channel_open(out: &mut Out, number: u16) {
    out.method(number, wire::CHANNEL_OPEN, |args| args.short(""));
}

pub(crate) fn connection_close(out: &mut Out) {
    out.method(0, wire::CONNECTION_CLOSE, |args| {
        args.u16(200);
        args.short("bye");
        args.u16(0);
        args.u16(0);
    });
}

/// Arguments of basic.qos for each consumer.
pub(crate) fn qos(args: &mut wire::Args<'_>, prefetch: u16) {
    args.u32(0);
    args.u16(prefetch);
    args.u8(0);
}

/// Arguments of basic.consume.
pub(crate) fn consume(args: &mut wire::Args<'_>, queue: &str, tag: &str, no_ack: bool) {
    args.u16(0);
    args.short(queue);
    args.short(tag);
    args.u8(if no_ack { 0b10 } else { 0 });
    args.table(&[]);
}

/// Arguments of exchange.declare for a durable exchange.
pub(crate) fn exchange_declare(args: &mut wire::Args<'_>, name: &str, kind: &str) {
    args.u16(0);
    args.short(name);
    args.short(kind);
    args.u8(0b10);
    args.table(&[]);
}

/// Arguments of queue.bind.
pub(crate) fn queue_bind(args: &mut wire::Args<'_>, queue: &str, exchange: &str, key: &str) {
    args.u16(0);
    args.short(queue);
    args.short(exchange);
    args.short(key);
    args.u8(0);
    args.table(&[]);
}

/// Arguments of queue.declare for a durable queue.
pub(crate) fn queue_declare(args: &mut wire::Args<'_>, name: &str, kind: Option<&str>, passive: bool) {
    args.u16(0);
    args.short(name);
    args.u8(if passive { 0b11 } else { 0b10 });
    match kind {
        Some(kind) => args.table(&[("x-queue-type", kind)]),
        None => args.table(&[]),
    }
}

/// Arguments of queue.delete, whatever the queue holds.
pub(crate) fn queue_delete(args: &mut wire::Args<'_>, name: &str) {
    args.u16(0);
    args.short(name);
    args.u8(0);
}

fn declared_count(ok: &[u8]) -> u32 {
    be32(ok, 5 + usize::from(ok[4]))
}

/// The broker's own words from a connection.close or channel.close.
pub(crate) fn refusal(id: MethodId, payload: &[u8]) -> anyhow::Error {
    let text = payload.get(7..).and_then(|rest| rest.get(..usize::from(*payload.get(6)?))).unwrap_or(b"");
    let scope = if id == wire::CONNECTION_CLOSE { "connection" } else { "channel" };
    anyhow!("the broker closed the {scope}: {}", String::from_utf8_lossy(text))
}

/// A whole frame at the front of some bytes.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) payload: &'a [u8],
    pub(crate) total: usize,
}

/// The frame at the front, if it is complete.
///
/// # Errors
/// When the bytes can't be a frame: a wrong end octet or an absurd size.
#[inline]
pub(crate) fn frame_at(bytes: &[u8]) -> Result<Option<Frame<'_>>> {
    if bytes.len() < FRAME_OVERHEAD {
        return Ok(None);
    }
    let size = be32(bytes, 3) as usize;
    let total = size + FRAME_OVERHEAD;
    if bytes.len() < total {
        if size > 64 << 20 {
            bail!("frame of {size} bytes");
        }
        return Ok(None);
    }
    if bytes[total - 1] != FRAME_END {
        bail!("frame of type {} and {size} bytes without its end octet", bytes[0]);
    }
    Ok(Some(Frame { kind: bytes[0], payload: &bytes[7..total - 1], total }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let url = Url::parse("amqp://us%40er:pw@127.0.0.1:1234/%2F").expect("valid");
        assert_eq!((url.user.as_str(), url.port, url.vhost.as_str()), ("us@er", 1234, "/"));
        let url = Url::parse("amqp://localhost").expect("valid");
        assert_eq!((url.user.as_str(), url.port, url.vhost.as_str()), ("guest", 5672, "/"));
        assert!(Url::parse("http://x").is_err());
    }

    #[test]
    fn frames_are_cut_only_when_whole() {
        let whole = [3, 0, 1, 0, 0, 0, 2, 9, 9, FRAME_END, 7];
        assert_eq!(frame_at(&whole).expect("sound").expect("whole").total, 10);
        assert!(frame_at(&whole[..9]).expect("sound").is_none());
        let broken = [3, 0, 1, 0, 0, 0, 2, 9, 9, 0];
        assert!(frame_at(&broken).is_err());
    }
}
