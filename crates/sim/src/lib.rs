//! A seeded world: the real shard and the real store, against crashes, slow disks, vanishing peers and jumping clocks.
//!
//! A plain loop without threads, tasks or real time: the same seed gives the same run, to the last effect. Peers speak in
//! commands, an oracle rebuilds from commands and effects what must be true, and each file below `invariants/` is one
//! property of it. It must not look inside the shard. Read first: [`run`], `world` (the loop), `oracle` (the books).

mod client;
mod clock;
mod invariants;
mod oracle;
mod store;
mod workload;
mod world;

pub use invariants::Violation;
pub use world::Summary;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A run that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What makes it happen again.
    pub seed: u64,
    /// What did not hold.
    pub violation: Violation,
    /// Turn and plan.
    pub context: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (again with: make sim SEED={})", self.violation, self.seed)
    }
}

/// Runs one seed from an empty disk to the last drained queue.
pub fn run(seed: u64) -> Result<Summary, Box<Failure>> {
    run_traced(seed, false)
}

/// The same; `traced` writes every command and effect to standard error.
pub fn run_traced(seed: u64, traced: bool) -> Result<Summary, Box<Failure>> {
    let fail = |violation, context| Box::new(Failure { seed, violation, context });
    let mut world = world::World::new(seed, traced).map_err(|v| fail(v, String::new()))?;
    match catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(Ok(())) => Ok(world.summary),
        Ok(Err(violation)) => Err(fail(violation, world.describe())),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
            Err(fail(Violation::new("panic", text), world.describe()))
        }
    }
}

/// Seeds from here on have a plan with more expiry, dead-lettering, transactions and crashes than others.
pub const RESTLESS: u64 = 1 << 40;

/// Seeds from here on have a plan with messages that a delayed exchange holds; every second one is restless too.
pub const LATE: u64 = 1 << 41;

/// Seeds from here on have a plan whose consumers delete their queues right after rejecting; every second one is restless too.
pub const QUITTING: u64 = 1 << 42;

/// Seeds that once found a bug, from the text of `seeds.txt`: a number a line, then what it found.
pub fn known_seeds() -> Vec<u64> {
    include_str!("../seeds.txt")
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter_map(|word| word.parse().ok())
        .collect()
}
