//! How far a start is, for who asks whether the broker is ready, and for the log when it takes long.

use crate::Shared;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// How often a long start says in the log how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(2);

/// What a shard is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Others are before it: the data folder as a whole is looked at.
    Waiting,
    /// The database is opened, which reads what was written to it since the last time.
    Opening,
    /// Definitions and log are read, and where loss is accepted all bodies.
    Reading,
    /// Messages are put into their queues.
    Filling,
    /// It waits for the others, and is made like them.
    Done,
}

/// How far the start of a shard is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    phase: AtomicU8,
    entries: AtomicU64,
}

impl Progress {
    /// The next phase begins.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// So many entries were read.
    pub(crate) fn note(&self, entries: u64) {
        self.entries.store(entries, Ordering::Relaxed);
    }

    /// In words.
    pub(crate) fn text(&self) -> String {
        let entries = self.entries.load(Ordering::Relaxed);
        match self.phase.load(Ordering::Relaxed) {
            p if p == Phase::Waiting as u8 => "looking at the data folder".to_owned(),
            p if p == Phase::Opening as u8 => "opening the database".to_owned(),
            p if p == Phase::Reading as u8 => format!("recovering: {entries} log entries read"),
            p if p == Phase::Filling as u8 => format!("recovering: putting {entries} log entries into queues"),
            _ => "recovered".to_owned(),
        }
    }
}

/// Says in the log how far the start is, as long as this lives.
#[derive(Debug)]
pub(crate) struct Teller(tokio::task::JoinHandle<()>);

impl Teller {
    /// The first word comes when the start has become a long one.
    pub(crate) fn start(shared: Arc<Shared>) -> Self {
        Self(tokio::spawn(async move {
            let began = shared.clock.mono();
            loop {
                tokio::time::sleep(TOLD_EVERY).await;
                let seconds = shared.clock.mono().ms_since(began) / 1000;
                tracing::info!("starting for {seconds} s: {}", shared.homes.progress());
            }
        }))
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_has_words() {
        let progress = Progress::default();
        assert_eq!(progress.text(), "looking at the data folder");
        progress.enter(Phase::Opening);
        assert_eq!(progress.text(), "opening the database");
        progress.enter(Phase::Reading);
        progress.note(12);
        assert_eq!(progress.text(), "recovering: 12 log entries read");
        progress.enter(Phase::Filling);
        assert_eq!(progress.text(), "recovering: putting 12 log entries into queues");
        progress.enter(Phase::Done);
        assert_eq!(progress.text(), "recovered");
    }
}
