//! The frame envelope: type, channel, size, payload, end octet [spec §4.2.3].

use bytes::{BufMut, BytesMut};
use hornpipe_types::copy::put_octets;
use hornpipe_types::error::{AmqpError, ReplyCode};
use std::fmt::Write as _;

/// A method.
pub(crate) const METHOD: u8 = 1;
/// A content header.
pub(crate) const HEADER: u8 = 2;
/// A piece of a body.
pub(crate) const BODY: u8 = 3;
/// A heartbeat.
pub(crate) const HEARTBEAT: u8 = 8;
/// The last octet of each frame.
pub(crate) const END: u8 = 0xCE;
/// Octets before the payload.
pub(crate) const PREFIX: usize = 7;
/// Octets around the payload.
pub(crate) const OVERHEAD: usize = 8;

/// A whole frame, borrowed from the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) channel: u16,
    pub(crate) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Class and method id of a method frame; `None` when the payload is too short to have them.
    pub(crate) fn method(&self) -> Option<(u16, u16)> {
        let [a, b, c, d] = *self.payload.first_chunk::<4>()?;
        Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
    }

    /// Octets of the whole frame.
    pub(crate) fn len(&self) -> usize {
        self.payload.len() + OVERHEAD
    }
}

/// Takes the frame at the front of `bytes`; `None` when it is not complete yet.
///
/// A payload may be as large as `frame_max` itself, 8 octets more than the spec allows: RabbitMQ is as lenient. A fault
/// here is fatal, since what follows can no longer be told apart.
pub(crate) fn first(bytes: &[u8], frame_max: u32) -> Result<Option<Frame<'_>>, AmqpError> {
    let Some(&[kind, c0, c1, s0, s1, s2, s3]) = bytes.first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let channel = u16::from_be_bytes([c0, c1]);
    let size = u32::from_be_bytes([s0, s1, s2, s3]);
    if size > frame_max {
        let max = frame_max.saturating_sub(OVERHEAD as u32);
        return Err(frame_error(kind, &[], &format!("{{frame_too_large,{size},{max}}}")));
    }
    let rest = &bytes[PREFIX..];
    let Some((payload, rest)) = rest.split_at_checked(size as usize) else {
        return Ok(None);
    };
    match rest.first() {
        None => Ok(None),
        Some(&END) => Ok(Some(Frame { kind, channel, payload })),
        Some(other) => Err(frame_error(kind, payload, &format!("{{invalid_frame_end_marker,{other}}}"))),
    }
}

/// 501 in RabbitMQ's words: frame type, the first octets of the payload, what is wrong.
pub(crate) fn frame_error(kind: u8, payload: &[u8], what: &str) -> AmqpError {
    AmqpError::new(ReplyCode::FrameError, format!("type {kind}, {}: {what}", snippet(payload)))
}

/// 505 for a frame that makes no sense where it stands.
pub(crate) fn unexpected_frame(kind: u8, payload: &[u8]) -> AmqpError {
    AmqpError::new(ReplyCode::UnexpectedFrame, format!("type {kind}, {}", snippet(payload)))
}

/// 501 for a method or property list that does not decode.
pub(crate) fn cannot_decode(octets: &[u8]) -> AmqpError {
    // the reply text is cut at 255 octets, so more than the first 128 would never be seen
    AmqpError::new(ReplyCode::FrameError, format!("cannot decode {}", numbers(&octets[..octets.len().min(128)])))
}

fn snippet(payload: &[u8]) -> String {
    match payload.split_at_checked(16) {
        Some((first, rest)) if !rest.is_empty() => format!("first 16 octets = {}", binary(first)),
        _ => format!("all octets = {}", binary(payload)),
    }
}

/// Octets the way Erlang prints a binary: as text when all are printable, else as numbers.
fn binary(octets: &[u8]) -> String {
    let printable = |b: &u8| matches!(b, 0x20..=0x7e | b'\n' | b'\r' | b'\t');
    if !octets.is_empty() && octets.iter().all(printable) {
        let text: String = octets.iter().map(|&b| char::from(b)).collect();
        return format!("<<{text:?}>>");
    }
    numbers(octets)
}

fn numbers(octets: &[u8]) -> String {
    let mut out = String::from("<<");
    for (i, b) in octets.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(out, "{comma}{b}");
    }
    out.push_str(">>");
    out
}

/// Appends a frame.
pub(crate) fn put(out: &mut BytesMut, kind: u8, channel: u16, payload: &[u8]) {
    out.reserve(payload.len() + OVERHEAD);
    put_prefix(out, kind, channel, payload.len());
    put_octets(out, payload);
    out.put_u8(END);
}

/// Appends what comes before `size` octets of payload; [`END`] is due behind them.
pub(crate) fn put_prefix(out: &mut BytesMut, kind: u8, channel: u16, size: usize) {
    out.put_u8(kind);
    out.put_u16(channel);
    out.put_u32(size as u32);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], frame_max: u32, expected: &str) {
        let got = match first(bytes, frame_max) {
            Ok(None) => "incomplete".to_owned(),
            Ok(Some(f)) => format!("{} {} {:?}", f.kind, f.channel, f.payload),
            Err(e) => e.reply_text(),
        };
        assert_eq!(got, expected);
    }

    #[test]
    fn frames_and_faults() {
        check(&[], 4096, "incomplete");
        check(&[8, 0, 0, 0, 0, 0], 4096, "incomplete");
        check(&[8, 0, 0, 0, 0, 0, 0], 4096, "incomplete");
        check(&[8, 0, 0, 0, 0, 0, 0, END], 4096, "8 0 []");
        check(&[3, 1, 2, 0, 0, 0, 2, 7, 9, END, 1], 4096, "3 258 [7, 9]");
        check(&[3, 0, 1, 0, 0, 16, 0], 4096, "incomplete");
        check(&[3, 0, 1, 0, 0, 16, 1], 4096, "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,4097,4088}");
        check(
            &[1, 0, 1, 0, 0, 0, 2, 7, 9, 0],
            4096,
            "FRAME_ERROR - type 1, all octets = <<7,9>>: {invalid_frame_end_marker,0}",
        );
        check(
            b"\x03\x00\x01\x00\x00\x00\x12abcdefghijklmnopqr!",
            4096,
            "FRAME_ERROR - type 3, first 16 octets = <<\"abcdefghijklmnop\">>: {invalid_frame_end_marker,33}",
        );
    }
}
