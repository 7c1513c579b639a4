//! Whether the sums the log keeps are those of what it lists.

use super::{At, Log};
use std::collections::BTreeMap;

impl Log {
    /// Adds everything up anew; for tests, as it goes through all runs.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut by_record: BTreeMap<u64, u32> = BTreeMap::new();
        let mut by_file: BTreeMap<u64, u32> = BTreeMap::new();
        let stored = self.runs.iter().filter_map(|(_, run)| match run.at {
            At::Stored(place) => Some(place),
            _ => None,
        });
        // what was copied from holds its place until the copy is on disk
        let left = self.copied.iter().flatten().chain(&self.copied_next).map(|(place, _)| *place);
        for place in stored.chain(left) {
            *by_record.entry(place.lsn).or_default() += 1;
            if let Some(body) = place.body {
                *by_file.entry(body.file).or_default() += 1;
            }
        }
        let (mut entries, mut live_records) = (0, 0);
        for (lsn, record) in &self.records {
            let lives = by_record.remove(lsn).unwrap_or(0);
            if record.live != lives {
                return Err(format!("record {lsn} counts {} live runs, there are {lives}", record.live));
            }
            if u64::from(lives) > record.runs.count() {
                return Err(format!("record {lsn} lists {} runs, {lives} live", record.runs.count()));
            }
            if lives > 0 {
                live_records += 1;
                entries += record.runs.count();
            }
        }
        for (file, state) in &self.files {
            let lives = by_file.remove(file).unwrap_or(0);
            if state.live != lives {
                return Err(format!("file {file} counts {} live runs, there are {lives}", state.live));
            }
        }
        if !by_record.is_empty() || !by_file.is_empty() {
            return Err(format!("live runs in unknown records {by_record:?} or files {by_file:?}"));
        }
        if (self.entries, self.live_records) != (entries, live_records) {
            let (e, r) = (self.entries, self.live_records);
            return Err(format!("{e} entries in {r} live records are counted, there are {entries} in {live_records}"));
        }
        Ok(())
    }
}
