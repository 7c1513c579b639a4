//! Body files: append-only files of frames, each an encoded run behind a header that tells it apart.
//!
//! ```text
//! u32 length of the run, u32 crc32c of the run, u64 stamp; the run
//! ```
//! The stamp says which group wrote the frame and what was durable before it, see [`Stamp`].
//! Files are numbered; only the one with the highest number is written. So a file never gets anything new once a run in a
//! later one has been reported.

use crate::error::StoreError;
use crate::medium::{Medium, View};
use crate::run;
use crate::wire::Input;
use hornpipe_types::message::{Batch, Span};
use hornpipe_types::op::BodyPlace;
use std::sync::Arc;

/// Octets of a frame's header.
pub(crate) const FRAME: usize = 16;
/// Octets collected before they are written to the file, about.
const WRITTEN_AT_ONCE: usize = 1 << 20;
/// The buffer is given back when a group made it larger than this.
const BUFFER_KEEP: usize = 8 << 20;

/// When a frame was written: its group, and the lsn up to which everything was durable then. A log that ends before that has
/// lost its end.
///
/// In 64 bits: 12 bits of check, 4 bits for how far the group was ahead of the watermark (0 = that is not told, nor is it
/// checked: as earlier versions wrote it), 48 bits of lsn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) lsn: u64,
    pub(crate) watermark: u64,
}

impl Stamp {
    const LSN_BITS: u32 = 48;
    const AHEAD_BITS: u32 = 4;

    fn check(word: u64) -> u64 {
        u64::from(crc32c::crc32c(&word.to_be_bytes())) >> 20 << (Self::LSN_BITS + Self::AHEAD_BITS)
    }
    fn encode(self) -> u64 {
        let ahead = self.lsn.saturating_sub(self.watermark);
        if ahead == 0 || ahead >= 1 << Self::AHEAD_BITS || self.lsn >> Self::LSN_BITS != 0 {
            return self.lsn & ((1 << Self::LSN_BITS) - 1);
        }
        let word = ahead << Self::LSN_BITS | self.lsn;
        Self::check(word) | word
    }
    fn decode(stamp: u64) -> Option<Self> {
        let word = stamp & ((1 << (Self::LSN_BITS + Self::AHEAD_BITS)) - 1);
        let (ahead, lsn) = (word >> Self::LSN_BITS, word & ((1 << Self::LSN_BITS) - 1));
        let whole = ahead > 0 && Self::check(word) | word == stamp;
        whole.then(|| Self { lsn, watermark: lsn.saturating_sub(ahead) })
    }
}

#[derive(Debug)]
struct Active {
    file: u64,
    /// Where the next frame goes.
    end: u64,
    size: u64,
}

/// Writes frames.
#[derive(Debug)]
pub(crate) struct BodyWriter {
    file_bytes: u64,
    next_file: u64,
    active: Option<Active>,
    /// Frames not yet written; they end at the active file's `end`.
    buffer: Vec<u8>,
    /// Whether the active file has something to sync.
    dirty: bool,
}

impl BodyWriter {
    pub(crate) fn new(file_bytes: u64) -> Self {
        Self { file_bytes, next_file: 1, active: None, buffer: Vec::new(), dirty: false }
    }
    /// The next file gets at least this number.
    pub(crate) fn start_at(&mut self, file: u64) {
        self.next_file = self.next_file.max(file);
    }
    pub(crate) fn active_file(&self) -> Option<u64> {
        self.active.as_ref().map(|a| a.file)
    }
    /// Appends a run made of some spans; `table` is what [`run::put_table`] made of it, `frames` what that returned.
    pub(crate) fn append<'a>(
        &mut self,
        medium: &mut dyn Medium,
        stamp: Stamp,
        spans: impl Iterator<Item = &'a Span>,
        table: &[u8],
        frames: usize,
    ) -> Result<BodyPlace, StoreError> {
        let len = run::PREFIX + table.len() + frames;
        let len32 = u32::try_from(len).map_err(|_| StoreError::Fatal(format!("a run of {len} octets is too long")))?;
        let size = (FRAME + len) as u64;
        if self.active.as_ref().is_none_or(|a| a.end + size > a.size) {
            self.roll(medium)?;
            let (file, room) = (self.next_file, self.file_bytes.max(size));
            medium.create_file(file, room)?;
            self.next_file += 1;
            self.active = Some(Active { file, end: 0, size: room });
        }
        let Some(active) = &mut self.active else {
            return Err(StoreError::Fatal("no body file to write to".to_owned()));
        };
        let start = self.buffer.len();
        self.buffer.reserve(FRAME + len);
        self.buffer.resize(start + FRAME, 0);
        run::put_run(&mut self.buffer, table, spans);
        debug_assert_eq!(self.buffer.len(), start + FRAME + len);
        let crc = crc32c::crc32c(&self.buffer[start + FRAME..]);
        self.buffer[start..start + 4].copy_from_slice(&len32.to_be_bytes());
        self.buffer[start + 4..start + 8].copy_from_slice(&crc.to_be_bytes());
        self.buffer[start + 8..start + 16].copy_from_slice(&stamp.encode().to_be_bytes());
        let place = BodyPlace { file: active.file, offset: active.end, len: len32, crc };
        active.end += size;
        // a large group is not held twice
        if self.buffer.len() >= WRITTEN_AT_ONCE {
            self.write(medium)?;
        }
        Ok(place)
    }
    fn write(&mut self, medium: &mut dyn Medium) -> Result<(), StoreError> {
        if let Some(active) = &self.active
            && !self.buffer.is_empty()
        {
            medium.write_file(active.file, active.end - self.buffer.len() as u64, &self.buffer)?;
            self.buffer.clear();
            if self.buffer.capacity() > BUFFER_KEEP {
                self.buffer = Vec::new();
            }
            self.dirty = true;
        }
        Ok(())
    }
    /// Writes and fdatasyncs everything appended.
    pub(crate) fn finish(&mut self, medium: &mut dyn Medium) -> Result<(), StoreError> {
        self.write(medium)?;
        if let Some(active) = &self.active
            && self.dirty
        {
            medium.sync_file(active.file)?;
            self.dirty = false;
        }
        Ok(())
    }
    /// Finishes and closes the active file; the next append begins a new one.
    pub(crate) fn roll(&mut self, medium: &mut dyn Medium) -> Result<(), StoreError> {
        self.finish(medium)?;
        if let Some(active) = self.active.take() {
            medium.seal_file(active.file, active.end)?;
        }
        Ok(())
    }
}

fn damaged(view: &dyn View, body: &BodyPlace, reason: &str) -> StoreError {
    StoreError::damaged(view.file_name(body.file), format!("the frame at {}: {reason}", body.offset))
}

/// Checks that a frame's header is the one its record names.
pub(crate) fn check_header(view: &dyn View, body: &BodyPlace) -> Result<(), StoreError> {
    let header = view.read_file(body.file, body.offset, FRAME)?;
    match_header(view, body, &header)
}

fn match_header(view: &dyn View, body: &BodyPlace, header: &[u8]) -> Result<(), StoreError> {
    let mut r = Input(header);
    let (Some(len), Some(crc), Some(_)) = (r.u32(), r.u32(), r.u64()) else {
        return Err(damaged(view, body, "the file ends inside its header"));
    };
    if (len, crc) != (body.len, body.crc) {
        return Err(damaged(view, body, "its header is not the one the log names"));
    }
    Ok(())
}

/// The last frame of a file from `at` on, where a frame must begin: its place and stamp. `None` when nothing was written
/// there that can be told from free room.
pub(crate) fn last_frame(
    view: &dyn View,
    file: u64,
    mut at: u64,
    size: u64,
) -> Result<Option<(BodyPlace, Stamp)>, StoreError> {
    let mut last = None;
    while at < size {
        let header = view.read_file(file, at, FRAME)?;
        let mut r = Input(&header);
        let (Some(len @ 1..), Some(crc), Some(stamp)) = (r.u32(), r.u32(), r.u64()) else { break };
        let end = at + FRAME as u64 + u64::from(len);
        if end > size {
            break;
        }
        if let Some(stamp) = Stamp::decode(stamp) {
            last = Some((BodyPlace { file, offset: at, len, crc }, stamp));
        }
        at = end;
    }
    Ok(last)
}

/// Reads a frame and checks header and checksum; returns it with its header.
pub(crate) fn read_frame(view: &dyn View, body: &BodyPlace) -> Result<Vec<u8>, StoreError> {
    let len = body.len as usize;
    let frame = view.read_file(body.file, body.offset, FRAME + len)?;
    match_header(view, body, &frame[..frame.len().min(FRAME)])?;
    if frame.len() != FRAME + len {
        return Err(damaged(view, body, "the file ends inside it"));
    }
    if crc32c::crc32c(&frame[FRAME..]) != body.crc {
        return Err(damaged(view, body, "its checksum does not match"));
    }
    Ok(frame)
}

/// Reads a run, or `count` messages of it from `from` on.
pub(crate) fn read(view: &dyn View, body: &BodyPlace, slice: Option<(u32, u32)>) -> Result<Arc<Batch>, StoreError> {
    let frame = read_frame(view, body)?;
    run::decode(&frame[FRAME..], slice).map_err(|reason| damaged(view, body, reason))
}

/// Sum of body octets of some messages of a run, and how many messages it has, read from its table alone.
pub(crate) fn body_bytes(view: &dyn View, body: &BodyPlace, from: u32, count: u32) -> Result<(u64, u32), StoreError> {
    const FIRST: usize = 4096;
    let head = FRAME + run::PREFIX;
    let mut bytes = view.read_file(body.file, body.offset, FIRST.min(FRAME + body.len as usize))?;
    match_header(view, body, &bytes[..bytes.len().min(FRAME)])?;
    let (len, crc) =
        run::prefix(&bytes[FRAME..]).ok_or_else(|| damaged(view, body, "the file ends inside its prefix"))?;
    if run::PREFIX + len > body.len as usize {
        return Err(damaged(view, body, "its table is longer than itself"));
    }
    if bytes.len() < head + len {
        bytes = view.read_file(body.file, body.offset, head + len)?;
    }
    let table = bytes.get(head..head + len).ok_or_else(|| damaged(view, body, "the file ends inside its table"))?;
    if crc32c::crc32c(table) != crc {
        return Err(damaged(view, body, "its table's checksum does not match"));
    }
    let table = run::Table::decode(table).ok_or_else(|| damaged(view, body, "its table makes no sense"))?;
    if from.checked_add(count).is_none_or(|end| end > table.count) {
        return Err(damaged(view, body, "it has fewer messages than asked for"));
    }
    Ok((table.body_bytes(from, count), table.count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_says_what_was_durable_or_nothing() {
        let check = |lsn, watermark, told: bool| {
            let stamp = Stamp { lsn, watermark };
            assert_eq!(Stamp::decode(stamp.encode()), told.then_some(stamp), "{stamp:?}");
        };
        check(1, 0, true);
        check(77, 62, true);
        check(77, 61, false);
        check(77, 77, false);
        check((1 << 48) - 1, (1 << 48) - 2, true);
        check(1 << 48, (1 << 48) - 1, false);
        assert_eq!(Stamp::decode(12_345), None, "of an earlier version");
        let word = Stamp { lsn: 4711, watermark: 4710 }.encode();
        let believed = (0..64).filter(|bit| Stamp::decode(word ^ 1 << bit).is_some()).count();
        assert_eq!(believed, 0, "a flipped bit is found");
    }
}
