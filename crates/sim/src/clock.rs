//! Time as the simulation tells it: one clock that never goes back, one that an operator may set.

use hornpipe_types::time::{Instant, Now, UnixMillis};

/// Where the wall clock begins, milliseconds since 1970.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// Both clocks.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    micros: u64,
    /// What jumps have added to the wall clock, milliseconds.
    skew_ms: i64,
}

impl Clock {
    pub(crate) fn now(&self) -> Now {
        let wall = EPOCH_MS.saturating_add_signed(self.skew_ms) + self.micros / 1000;
        Now { mono: Instant(self.micros), wall: UnixMillis(wall) }
    }
    /// Moves on to a moment; one that has passed already leaves the clock where it is.
    pub(crate) fn advance_to(&mut self, micros: u64) {
        self.micros = self.micros.max(micros);
    }
    pub(crate) fn micros(&self) -> u64 {
        self.micros
    }
    /// Somebody sets the wall clock.
    pub(crate) fn jump_ms(&mut self, by: i64) {
        self.skew_ms += by;
    }
}
