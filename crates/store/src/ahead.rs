//! Many runs read at once: those that lie side by side in a body file come with one read.

use crate::error::StoreError;
use crate::medium::{Entry, View, Visit};
use hornpipe_types::op::BodyPlace;

/// Frames with so much between them are read together: that costs less than another read.
const GAP: u64 = 4 << 10;
/// Octets of one read; what is longer is read by itself. Larger blocks of many sizes cost the allocator more than reads cost.
const AT_ONCE: u64 = 32 << 10;

/// Octets of a body file.
#[derive(Debug)]
struct Stretch {
    file: u64,
    from: u64,
    bytes: Vec<u8>,
}

/// A view that has read parts of the body files already.
#[derive(Debug)]
pub(crate) struct Ahead<'a> {
    view: &'a dyn View,
    /// In the order of files and offsets.
    stretches: Vec<Stretch>,
}

impl<'a> Ahead<'a> {
    /// Reads what several of the frames have in common; `header` is what stands before each. What can't be read now is tried
    /// again, and its error told, when it is asked for.
    pub(crate) fn of(view: &'a dyn View, frames: impl Iterator<Item = BodyPlace>, header: u64) -> Self {
        let mut frames: Vec<(u64, u64, u64)> =
            frames.map(|b| (b.file, b.offset, b.offset.saturating_add(header + u64::from(b.len)))).collect();
        frames.sort_unstable();
        let mut wanted: Vec<((u64, u64, u64), usize)> = Vec::new();
        for (file, from, end) in frames {
            match wanted.last_mut() {
                Some(((f, begun, reached), n))
                    if *f == file && from <= reached.saturating_add(GAP) && end.saturating_sub(*begun) <= AT_ONCE =>
                {
                    *reached = end.max(*reached);
                    *n += 1;
                }
                _ => wanted.push(((file, from, end), 1)),
            }
        }
        let several = wanted.into_iter().filter(|(_, n)| *n > 1);
        let stretches = several.filter_map(|((file, from, end), _)| {
            let bytes = view.read_file(file, from, (end - from) as usize).ok()?;
            Some(Stretch { file, from, bytes })
        });
        Self { view, stretches: stretches.collect() }
    }
}

impl View for Ahead<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.view.get(key)
    }
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.view.scan(from, to, visit)
    }
    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Entry>, StoreError> {
        self.view.last(from, to)
    }
    fn read_file(&self, file: u64, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        let behind = self.stretches.partition_point(|s| (s.file, s.from) <= (file, offset));
        let found = self.stretches.get(behind.wrapping_sub(1)).filter(|s| s.file == file).and_then(|s| {
            let from = (offset - s.from) as usize;
            s.bytes.get(from..from.checked_add(len)?)
        });
        match found {
            Some(bytes) => Ok(bytes.to_vec()),
            None => self.view.read_file(file, offset, len),
        }
    }
    fn file_name(&self, file: u64) -> String {
        self.view.file_name(file)
    }
    fn map_name(&self) -> String {
        self.view.map_name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Files of which each octet tells its place; file 9 can't be read.
    #[derive(Debug, Default)]
    struct Files {
        reads: Mutex<Vec<(u64, u64, usize)>>,
    }

    fn octets(file: u64, offset: u64, len: usize) -> Vec<u8> {
        (offset..offset + len as u64).map(|at| (at * 7 + at / 256 + file) as u8).collect()
    }

    impl View for Files {
        fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            Ok(None)
        }
        fn scan(&self, _: &[u8], _: &[u8], _: &mut Visit<'_>) -> Result<(), StoreError> {
            Ok(())
        }
        fn last(&self, _: &[u8], _: &[u8]) -> Result<Option<Entry>, StoreError> {
            Ok(None)
        }
        fn read_file(&self, file: u64, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
            self.reads.lock().unwrap().push((file, offset, len));
            if file == 9 { Err(StoreError::Fatal("no such file".to_owned())) } else { Ok(octets(file, offset, len)) }
        }
        fn file_name(&self, file: u64) -> String {
            file.to_string()
        }
        fn map_name(&self) -> String {
            String::new()
        }
    }

    #[test]
    fn frames_side_by_side_come_with_one_read_and_as_they_are() {
        let place = |(file, offset, len)| BodyPlace { file, offset, len, crc: 0 };
        let beside = (0..100).map(|k| (3, 1000 + k * 200, 184));
        let apart = [(3, 90_000, 50), (4, 1000, 184), (9, 0, 10), (9, 26, 10), (5, 0, 300_000), (5, 300_016, 20)];
        let mut all: Vec<(u64, u64, u32)> = beside.chain(apart).collect();
        // in whatever order they are asked for
        all.reverse();
        let files = Files::default();
        let ahead = Ahead::of(&files, all.iter().copied().map(place), 16);
        let reads = std::mem::take(&mut *files.reads.lock().unwrap());
        assert_eq!(reads, [(3, 1000, 20_000), (9, 0, 52)]);
        for (file, offset, len) in all {
            let len = 16 + len as usize;
            let read = ahead.read_file(file, offset, len);
            assert!(
                if file == 9 { read.is_err() } else { read.unwrap() == octets(file, offset, len) },
                "{file}, {offset}"
            );
        }
        let reads = files.reads.lock().unwrap();
        assert!(reads.iter().all(|(file, from, _)| *file != 3 || *from == 90_000), "{reads:?}");
    }
}
