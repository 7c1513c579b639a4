//! Pre-built publishes: one buffer of many messages in which only sequence numbers and times change.

use crate::plan::Plan;
use crate::routing::Routing;
use crate::wire::{self, FRAME_OVERHEAD, Out};

/// Bits of the first body word that count messages; the rest names the publisher.
pub(crate) const SEQUENCE_BITS: u32 = 48;

/// Largest body frame: frame-max as negotiated is 128 KiB or less, and never under the 4 KiB of the specification.
const BODY_FRAME: usize = 128 * 1024 - FRAME_OVERHEAD;

/// Upper bound of messages in a buffer, so that tiny bodies don't make one write last long.
const MOST: usize = 4096;

/// Fill byte of a body at that offset; they come again after 256.
pub(crate) const fn filler(at: usize) -> u8 {
    (at as u8).wrapping_mul(31).wrapping_add(7)
}

/// Octets at the start of a body that are no filler: the number, and the time where the load follows a schedule.
pub(crate) fn stamped(plan: &Plan) -> usize {
    match plan.body {
        0..8 => 0,
        8.. if plan.rate.is_some() => 16,
        _ => 8,
    }
}

/// Property flags and properties of a content header.
pub(crate) fn properties(plan: &Plan) -> &'static [u8] {
    // Delivery-mode is bit 12.
    if plan.persistent { &[0x10, 0, 2] } else { &[0, 0] }
}

/// Publishes ready for the socket.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// Where each message ends.
    ends: Vec<usize>,
    /// Where each body starts.
    bodies: Vec<usize>,
    stamped: usize,
    channels: usize,
    /// Messages that go out in one write.
    per_write: usize,
}

impl Batch {
    pub(crate) fn new(plan: &Plan, publisher: usize) -> Self {
        let (bytes, ends, bodies) = Default::default();
        let (stamped, channels) = (stamped(plan), plan.channels);
        let mut batch = Self { bytes, ends, bodies, stamped, channels, per_write: 1 };
        let body: Vec<u8> = (0..plan.size(1)).map(filler).collect();
        let routing = Routing::new(plan);
        let cycle = routing.cycle() * if plan.uneven { 2 } else { 1 };
        let mut out = Out::default();
        let mut key = String::new();
        loop {
            for index in 0..cycle {
                key.clear();
                routing.write_key(publisher, index as u64, &mut key);
                batch.push(&mut out, plan, &key, &body[..plan.size(index)], (1 + index % plan.channels) as u16);
            }
            let rounds = batch.ends.len() / cycle;
            if out.0.len() / rounds * (rounds + 1) > plan.write || batch.ends.len() >= MOST {
                break;
            }
        }
        // Evenly, so that no write is the crumb that the others left of the buffer: it would cost as much as they do.
        let writes = out.0.len().div_ceil(plan.write.max(1)).clamp(1, batch.ends.len());
        batch.per_write = batch.ends.len().div_ceil(writes);
        batch.bytes = out.0;
        batch
    }

    fn push(&mut self, out: &mut Out, plan: &Plan, key: &str, body: &[u8], channel: u16) {
        out.method(channel, wire::BASIC_PUBLISH, |args| {
            args.u16(0);
            args.short(plan.exchange());
            args.short(key);
            args.u8(0);
        });
        out.frame(wire::HEADER, channel, |args| {
            args.u16(60);
            args.u16(0);
            args.u64(body.len() as u64);
            args.bytes(properties(plan));
        });
        self.bodies.push(out.0.len() + 7);
        for chunk in body.chunks(BODY_FRAME) {
            out.frame(wire::BODY, channel, |args| args.bytes(chunk));
        }
        self.ends.push(out.0.len());
    }

    /// Messages in the buffer.
    pub(crate) fn capacity(&self) -> usize {
        self.ends.len()
    }

    /// Messages of one write that begins at that one.
    pub(crate) fn write_from(&self, index: usize) -> usize {
        self.per_write.min(self.capacity() - index)
    }

    /// Writes publisher and sequence number into a message, and where a schedule is followed the time it was due (nanoseconds).
    /// Each channel counts for itself, since a broker may let channels overtake each other.
    #[inline]
    pub(crate) fn stamp(&mut self, index: usize, publisher: usize, sequence: u64, nanos: u64) {
        let at = self.bodies[index];
        if self.stamped >= 8 {
            let channels = self.channels as u64;
            let source = publisher as u64 * channels + sequence % channels;
            let word = (source << SEQUENCE_BITS) | (sequence / channels);
            self.bytes[at..at + 8].copy_from_slice(&word.to_be_bytes());
        }
        if self.stamped >= 16 {
            self.bytes[at + 8..at + 16].copy_from_slice(&nanos.to_be_bytes());
        }
    }

    /// Wire bytes of messages `from..to`.
    pub(crate) fn bytes(&self, from: usize, to: usize) -> &[u8] {
        let start = if from == 0 { 0 } else { self.ends[from - 1] };
        &self.bytes[start..self.ends[to - 1]]
    }
}

/// The binding that only this key matches.
pub(crate) fn topic_binding(index: usize) -> String {
    format!("site{index}.*.x")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::frame_at;
    use crate::plan::{Case, Flags};

    #[test]
    fn every_message_is_three_frames_and_carries_its_stamp() {
        let plan = Plan::new(Some(Case::B), &Flags::default()).expect("sound");
        let mut batch = Batch::new(&plan, 3);
        assert!(batch.capacity() > 10);
        batch.stamp(2, 3, 77, 99);
        let mut rest = batch.bytes(2, 3);
        let mut kinds = Vec::new();
        let mut body = Vec::new();
        while let Some(frame) = frame_at(rest).expect("sound") {
            kinds.push(frame.kind);
            body = frame.payload.to_vec();
            rest = &rest[frame.total..];
        }
        assert_eq!(kinds, [wire::METHOD, wire::HEADER, wire::BODY]);
        assert_eq!(wire::be64(&body, 0), (3 << SEQUENCE_BITS) | 77);
        assert!(
            body[8..].iter().enumerate().all(|(at, byte)| *byte == filler(8 + at)),
            "without a schedule there is no time"
        );
        assert_eq!(body.len(), 1024);
    }

    #[test]
    fn on_a_schedule_a_message_carries_the_time_it_was_due() {
        let plan = Plan::new(Some(Case::O), &Flags::default()).expect("sound");
        let mut batch = Batch::new(&plan, 0);
        batch.stamp(1, 0, 1, 99);
        let message = batch.bytes(1, 2);
        assert_eq!(wire::be64(message, message.len() - 1 - 1024 + 8), 99);
    }

    #[test]
    fn in_mixed_traffic_neighbours_differ_and_channels_count_for_themselves() {
        let plan = Plan::new(Some(Case::N), &Flags::default()).expect("sound");
        let mut batch = Batch::new(&plan, 1);
        assert!(batch.capacity().is_multiple_of(2 * 4 * 8));
        assert!(batch.write_from(0) < 16, "writes are small");
        let publish = |batch: &Batch, index| {
            let bytes = batch.bytes(index, index + 1);
            let frame = frame_at(bytes).expect("sound").expect("whole");
            (wire::be16(bytes, 1), frame.payload.to_vec())
        };
        for index in 1..batch.capacity() {
            let (before, after) = (publish(&batch, index - 1), publish(&batch, index));
            assert!(before.0 != after.0 && before.1 != after.1);
        }
        // The second message of channel 2 of publisher 1.
        batch.stamp(9, 1, 9, 0);
        let message = batch.bytes(9, 10);
        assert_eq!(wire::be64(message, message.len() - 1 - plan.size(9)), (9 << SEQUENCE_BITS) | 1);
        assert!(batch.bytes(0, 1).len() + 8 == batch.bytes(1, 2).len());
    }

    #[test]
    fn a_topic_batch_holds_whole_cycles_of_keys() {
        let plan = Plan::new(Some(Case::G), &Flags::default()).expect("sound");
        assert!(Batch::new(&plan, 0).capacity().is_multiple_of(1000));
    }
}
