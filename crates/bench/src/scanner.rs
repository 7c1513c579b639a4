//! What a consuming connection reads: frames scanned in the read buffer, nothing allocated per message. Looks whether each message
//! is the one that is due, and whether a sample of them is what was published, octet by octet.

use anyhow::{Result, bail};

use crate::batch::{SEQUENCE_BITS, filler, properties, stamped};
use crate::client::{frame_at, refusal};
use crate::histogram::Histogram;
use crate::load::nanos;
use crate::plan::Plan;
use crate::routing::Order;
use crate::wire::{self, BODY, HEADER, METHOD, Out, be16, be64};

/// The first message that begins in a read is compared whole, and each that is so many behind the last one.
const SAMPLE: u64 = 256;
/// Bodies above that are compared whole in every message: they are more than one frame, and one read holds less than a few.
const LARGE: usize = 128 * 1024;
/// Octets compared at once.
const PIECE: usize = 4096;
/// Filler as it is anywhere in a body.
static FILLER: [u8; PIECE + 256] = {
    let mut all = [0; PIECE + 256];
    let mut at = 0;
    while at < all.len() {
        all[at] = filler(at);
        at += 1;
    }
    all
};

/// State of the scan, apart from the bytes.
#[derive(Debug)]
pub(crate) struct Scanner {
    sizes: [usize; 2],
    exchange: &'static str,
    properties: &'static [u8],
    /// Octets of a body before its filler.
    stamped: usize,
    ack_every: Option<u64>,
    /// Latencies are counted for messages due at or after this time; `None`: not at all.
    measure_from: Option<u64>,
    /// When this was made: nothing on a schedule is due earlier.
    made: u64,
    /// Answers to basic.consume that are still to come.
    subscribing: usize,
    order: Order,
    /// Several consumers share this connection: each has an order of its own.
    shared: bool,
    /// Whose delivery is under way.
    subscription: usize,
    pub(crate) received: u64,
    unacked: u64,
    tag: u64,
    /// Tag of the last message whose body is complete.
    whole: u64,
    size: usize,
    /// Body bytes still to come for the message under way.
    missing: usize,
    /// The first message with that delivery tag or a higher one is compared whole.
    sample_at: u64,
    /// From one compared message to the next.
    sample_every: u64,
    /// The message under way is compared whole.
    sampling: bool,
    /// Exchange and routing key of a sampled delivery as they came, and as they should be.
    came: Vec<u8>,
    wanted: String,
    latencies: Histogram,
    pub(crate) acks: Out,
}

impl Scanner {
    /// For a plan's consuming connection of that number.
    pub(crate) fn new(plan: &Plan, connection: usize) -> Self {
        let order = Order::new(plan, connection);
        Self {
            sizes: [plan.size(0), plan.size(1)],
            exchange: plan.exchange(),
            properties: properties(plan),
            stamped: stamped(plan),
            ack_every: plan.ack,
            measure_from: None,
            made: nanos(),
            subscribing: 0,
            shared: order.consumers() > 1,
            order,
            subscription: 0,
            received: 0,
            unacked: 0,
            tag: 0,
            whole: 0,
            size: 0,
            missing: 0,
            sample_at: 0,
            sample_every: if plan.body > LARGE { 1 } else { SAMPLE },
            sampling: false,
            came: Vec::new(),
            wanted: String::new(),
            latencies: Histogram::default(),
            acks: Out::default(),
        }
    }

    /// Expects so many answers to basic.consume.
    pub(crate) fn subscribing(mut self, answers: usize) -> Self {
        self.subscribing = answers;
        self
    }

    pub(crate) fn is_subscribing(&self) -> bool {
        self.subscribing > 0
    }

    /// Counts latencies of messages due at that time (nanoseconds) or later.
    pub(crate) fn measure_from(&mut self, nanos: Option<u64>) {
        self.measure_from = nanos;
    }

    /// Sum of the numbers of all messages, where other connections took from the same queues.
    pub(crate) fn numbers(&self) -> u64 {
        self.order.sum
    }

    pub(crate) fn into_latencies(self) -> Histogram {
        self.latencies
    }

    /// Scans all whole frames; returns the bytes used.
    pub(crate) fn scan(&mut self, bytes: &[u8], now: u64) -> Result<usize> {
        self.sample_at = 0;
        let mut used = 0;
        while let Some(frame) = frame_at(&bytes[used..])? {
            match frame.kind {
                METHOD => self.method(frame.payload)?,
                HEADER => self.header(frame.payload)?,
                BODY => self.content(frame.payload, now)?,
                other => bail!("frame of type {other}"),
            }
            used += frame.total;
        }
        Ok(used)
    }

    #[inline]
    fn method(&mut self, payload: &[u8]) -> Result<()> {
        match (be16(payload, 0), be16(payload, 2)) {
            wire::BASIC_DELIVER => {
                let after = 5 + usize::from(payload[4]);
                let tag = be64(payload, after);
                if tag != self.tag + 1 {
                    bail!("delivery tag {tag} after {}", self.tag);
                }
                if self.missing > 0 {
                    bail!("delivery {tag} begins where {} body bytes were missing", self.missing);
                }
                self.tag = tag;
                if payload[after + 8] != 0 {
                    bail!("delivery {tag} is marked redelivered");
                }
                if self.shared {
                    let digits = std::str::from_utf8(&payload[6..after]).unwrap_or_default();
                    self.subscription = digits.parse().unwrap_or(usize::MAX);
                }
                self.sampling = tag >= self.sample_at;
                if self.sampling {
                    self.sample(&payload[5..after], &payload[after + 9..])?;
                }
                Ok(())
            }
            wire::BASIC_CONSUME_OK if self.subscribing > 0 => {
                self.subscribing -= 1;
                Ok(())
            }
            id @ (wire::CONNECTION_CLOSE | wire::CHANNEL_CLOSE) => Err(refusal(id, payload)),
            id => bail!("unexpected method {id:?} on a consuming channel"),
        }
    }

    /// Looks at the consumer tag of a sampled delivery, and keeps what can only be judged with the message's number.
    #[cold]
    #[inline(never)]
    fn sample(&mut self, consumer: &[u8], routed: &[u8]) -> Result<()> {
        if consumer.first() != Some(&b'c') || (!self.shared && consumer != b"c0") {
            bail!("delivery {} is for consumer {:?}", self.tag, String::from_utf8_lossy(consumer));
        }
        self.sample_at = self.tag + self.sample_every;
        self.came.clear();
        self.came.extend_from_slice(routed);
        Ok(())
    }

    #[inline]
    fn header(&mut self, payload: &[u8]) -> Result<()> {
        let size = be64(payload, 4) as usize;
        if size != self.sizes[0] && size != self.sizes[1] {
            bail!("body of {size} bytes, {:?} were published", self.sizes);
        }
        if self.sampling {
            self.described(payload)?;
        }
        (self.size, self.missing) = (size, size);
        if self.missing == 0 {
            self.complete();
        }
        Ok(())
    }

    /// Whether a sampled delivery's header is the one that was published.
    #[cold]
    #[inline(never)]
    fn described(&self, payload: &[u8]) -> Result<()> {
        if payload[..4] != [0, 60, 0, 0] || payload[12..] != *self.properties {
            bail!(
                "properties {:02x?} of delivery {}, {:02x?} were published",
                &payload[12..],
                self.tag,
                self.properties
            );
        }
        Ok(())
    }

    #[inline]
    fn content(&mut self, payload: &[u8], now: u64) -> Result<()> {
        if payload.len() > self.missing {
            bail!("{} body bytes where {} were missing", payload.len(), self.missing);
        }
        let mut filled = 0;
        if self.missing == self.size {
            filled = self.stamped;
            if payload.len() < filled {
                bail!("the first frame of a body has {} bytes", payload.len());
            }
            if filled >= 8 {
                self.sequence(be64(payload, 0))?;
            }
            if filled >= 16 {
                self.time(be64(payload, 8), now)?;
            }
        }
        if self.sampling {
            self.compare(payload, filled)?;
        }
        self.missing -= payload.len();
        if self.missing == 0 {
            self.complete();
        }
        Ok(())
    }

    /// A channel's messages come in the order they were published [spec §4.7], and a queue has all that are routed to it.
    #[inline]
    fn sequence(&mut self, word: u64) -> Result<()> {
        let (source, number) = ((word >> SEQUENCE_BITS) as usize, word & ((1 << SEQUENCE_BITS) - 1));
        if !self.order.take(self.subscription, source, number) {
            return Err(self.order.complaint(self.subscription, source, number));
        }
        if self.sampling {
            self.routed(source, number)?;
        }
        Ok(())
    }

    /// Whether a frame of a sampled body holds the filler that was published, behind its first octets.
    #[cold]
    #[inline(never)]
    fn compare(&self, payload: &[u8], filled: usize) -> Result<()> {
        let from = self.size - self.missing + filled;
        if let Some(at) = first_wrong(&payload[filled..], from) {
            let (byte, wanted) = (payload[filled + at], filler(from + at));
            bail!("body byte {} of delivery {} is {byte}, {wanted} was published", from + at, self.tag);
        }
        Ok(())
    }

    /// Whether a sampled delivery names the exchange and routing key its message was published with, and has its size.
    #[cold]
    #[inline(never)]
    fn routed(&mut self, source: usize, number: u64) -> Result<()> {
        let (publisher, message) = self.order.routing.message(source, number);
        self.wanted.clear();
        self.order.routing.write_key(publisher, message, &mut self.wanted);
        let (exchange, key) = split(&self.came).unwrap_or_default();
        if exchange != self.exchange.as_bytes() || key != self.wanted.as_bytes() {
            let [exchange, key] = [exchange, key].map(String::from_utf8_lossy);
            let (published, wanted) = (self.exchange, &self.wanted);
            bail!("exchange {exchange:?} and key {key:?} of a message published with {published:?} and {wanted:?}");
        }
        let size = self.sizes[(message % 2) as usize];
        if self.size != size {
            bail!("body of {} bytes where {size} were published", self.size);
        }
        Ok(())
    }

    /// The time at which the message was due, in its body.
    fn time(&mut self, due: u64, now: u64) -> Result<()> {
        if due > now || due < self.made {
            bail!("a message was due at {due}, where the consumer is there since {} and it is {now}", self.made);
        }
        if self.measure_from.is_some_and(|from| due >= from) {
            self.latencies.record(now - due);
        }
        Ok(())
    }

    #[inline]
    fn complete(&mut self) {
        self.received += 1;
        self.whole = self.tag;
        if let Some(every) = self.ack_every {
            self.unacked += 1;
            if self.unacked == every {
                self.ack_rest();
            }
        }
    }

    pub(crate) fn ack_rest(&mut self) {
        if self.ack_every.is_some() && self.unacked > 0 {
            let (tag, multiple) = (self.whole, u8::from(self.unacked > 1));
            self.acks.method(1, wire::BASIC_ACK, |args| {
                args.u64(tag);
                args.u8(multiple);
            });
            self.unacked = 0;
        }
    }
}

/// Two short strings, one behind the other.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_at_checked(usize::from(*length))?;
    let (length, rest) = rest.split_first()?;
    (rest.len() == usize::from(*length)).then_some((first, rest))
}

/// Place of the first octet that isn't the filler of a body from that offset on.
fn first_wrong(bytes: &[u8], from: usize) -> Option<usize> {
    let start = from % 256;
    let wrong = bytes.chunks(PIECE).position(|piece| *piece != FILLER[start..start + piece.len()])? * PIECE;
    bytes[wrong..].iter().enumerate().position(|(at, byte)| *byte != filler(from + at)).map(|at| wrong + at)
}

#[cfg(test)]
mod tests;
