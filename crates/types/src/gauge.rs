//! How much memory batches keep, whoever holds them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Octets that batches keep in memory: of each batch from when it is counted in, once, until the last holder lets go of it. A
/// batch that is left for few of its messages shows here, and nowhere else.
#[derive(Debug, Clone, Default)]
pub struct BatchGauge(Arc<AtomicU64>);

impl BatchGauge {
    /// What they keep now.
    pub fn octets(&self) -> u64 {
        self.0.load(Relaxed)
    }
    pub(crate) fn count(&self, octets: u64) -> Counted {
        self.0.fetch_add(octets, Relaxed);
        Counted { gauge: self.clone(), octets }
    }
}

/// A batch's part of a gauge; goes with it.
#[derive(Debug)]
pub(crate) struct Counted {
    gauge: BatchGauge,
    octets: u64,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.gauge.0.fetch_sub(self.octets, Relaxed);
    }
}
