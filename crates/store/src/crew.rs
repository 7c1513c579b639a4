//! Where sled's own threads run.
//!
//! sled gives each write to a pool of seven threads, wakes all of them for it, one after the other, and has no option about that
//! (its `threadpool.rs`). While other processors sleep, waking those takes longer than what the threads do. So when a small group
//! is written, they are kept on the processor of the thread that writes, which is about to wait for them
//! ([ADR 0028](../../../docs/adr/0028-where-sled-threads-run.md)).

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use std::fs;
use std::sync::{Mutex, PoisonError};

/// Those of sled's threads that never end; others come and go, and what has their number later may be anybody.
const LASTING: u32 = 7;
/// How often they are looked for.
const LOOKS: u32 = 5;
/// Small groups between two looks: the threads begin with the first write, and name themselves.
const BETWEEN: u32 = 16;
/// Small groups after a big one that are written as it was: who writes big ones is busy, and alternating costs more than it saves.
const BUSY: u32 = 16;

/// The pool is the process's, whatever databases there are.
static POOL: Mutex<Pool> = Mutex::new(Pool { databases: 0, threads: Vec::new(), at: None, groups: 0 });

struct Pool {
    databases: u32,
    /// None until they were found, and again when it isn't permitted to say where they run.
    threads: Vec<Pid>,
    /// Where they are kept.
    at: Option<usize>,
    /// Small groups that were written, until there are threads or no more looks.
    groups: u32,
}

impl Pool {
    fn look(&mut self) {
        let threads = lasting_threads();
        if threads.len() as u32 == LASTING {
            self.threads = threads;
            self.groups = LOOKS * BETWEEN;
        }
    }

    fn follow(&mut self) {
        if self.groups < LOOKS * BETWEEN {
            self.groups += 1;
            if self.groups.is_multiple_of(BETWEEN) {
                self.look();
            }
        }
        let at = sched_getcpu();
        if self.databases != 1 || self.threads.is_empty() || self.at == Some(at) || at >= CpuSet::MAX_CPU {
            return;
        }
        let mut here = CpuSet::new();
        here.set(at);
        self.at = Some(at);
        if !self.keep_on(&here) {
            self.release();
            self.threads.clear();
        }
    }

    /// Lets them run where the calling thread may, which nobody here limits.
    fn release(&mut self) {
        if self.at.take().is_some()
            && let Ok(anywhere) = sched_getaffinity(None)
        {
            self.keep_on(&anywhere);
        }
    }

    fn keep_on(&self, set: &CpuSet) -> bool {
        // All of them, also when one can't be.
        self.threads.iter().filter(|thread| sched_setaffinity(Some(**thread), set).is_err()).count() == 0
    }
}

fn lasting_threads() -> Vec<Pid> {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let is_lasting = |path: &std::path::Path| {
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        name.trim().strip_prefix("sled-io-").and_then(|n| n.parse().ok()).is_some_and(|n: u32| n < LASTING)
    };
    let number = |name: &std::ffi::OsStr| name.to_str()?.parse().ok().and_then(Pid::from_raw);
    tasks.flatten().filter(|t| is_lasting(&t.path())).filter_map(|t| number(&t.file_name())).collect()
}

fn pool() -> std::sync::MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One database's say in where sled's threads run. With several of them in the process nobody has one.
#[derive(Debug)]
pub(crate) struct Crew {
    /// Small groups until they are followed again.
    busy: u32,
}

impl Crew {
    pub(crate) fn new() -> Self {
        let mut pool = pool();
        pool.databases += 1;
        pool.release();
        Self { busy: 0 }
    }

    /// A group is about to be written by this thread, which has written messages to body files for it or not.
    pub(crate) fn write(&mut self, big: bool) {
        if big {
            if self.busy == 0 {
                pool().release();
            }
            self.busy = BUSY;
        } else if self.busy > 0 {
            self.busy -= 1;
        } else {
            pool().follow();
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        let mut pool = pool();
        pool.databases -= 1;
        pool.release();
    }
}
