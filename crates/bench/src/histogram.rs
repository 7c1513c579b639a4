//! Latencies in nanoseconds with a relative error under 1 %, without allocation per value.

const SUB_BITS: u32 = 7;
const SUB: usize = 1 << SUB_BITS;

/// Log-linear histogram: 128 buckets for each power of two.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; SUB * (65 - SUB_BITS as usize)], total: 0, max: 0 }
    }
}

impl Histogram {
    #[inline]
    pub(crate) fn record(&mut self, nanos: u64) {
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.max = self.max.max(nanos);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Milliseconds below which that share (0 to 1) of the values lies.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        let wanted = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return middle(index).min(self.max as f64) / 1e6;
            }
        }
        self.max as f64 / 1e6
    }

    pub(crate) fn max_ms(&self) -> f64 {
        self.max as f64 / 1e6
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < SUB as u64 {
        return nanos as usize;
    }
    let shift = 63 - nanos.leading_zeros() - SUB_BITS;
    ((shift as usize + 1) << SUB_BITS) + ((nanos >> shift) as usize - SUB)
}

fn middle(index: usize) -> f64 {
    if index < SUB {
        return index as f64;
    }
    let shift = (index >> SUB_BITS) - 1;
    ((SUB + (index & (SUB - 1))) as f64 + 0.5) * (1u64 << shift) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_stay_within_a_percent() {
        let mut histogram = Histogram::default();
        for value in 1..=1_000_000u64 {
            histogram.record(value);
        }
        for share in [0.5, 0.9, 0.99, 0.999] {
            let found = histogram.quantile_ms(share) * 1e6;
            assert!((found / (share * 1e6) - 1.0).abs() < 0.01, "{share}: {found}");
        }
        assert_eq!(histogram.max_ms(), 1.0);
        histogram.record(u64::MAX);
        assert!((histogram.quantile_ms(1.0) / (u64::MAX as f64 / 1e6) - 1.0).abs() < 0.01);
    }
}
