//! The script on media that fail: on the disk and in memory, at every call, in every way. What was reported is there
//! afterwards, whole groups and nothing else, and the store goes on.

#![allow(clippy::unwrap_used)]

mod common;

use common::script::Script;
use common::*;
use hornpipe_store::{Call, Fault, Faults, Faulty, Memory, Store, StoreConfig, StoreError};
use std::path::Path;

const GROUPS: u64 = 34;

/// The database is exchanged, and body files change all the time.
fn restless() -> StoreConfig {
    StoreConfig { map_min_bytes: 1, map_slack_bytes: 1, body_file_bytes: 64 << 10, ..config() }
}

/// Writes the script until something fails; the last group that was reported, whether anything failed.
fn write(mut store: Store, faults: &Faults, arm: impl FnOnce(&Faults)) -> (u64, Option<StoreError>) {
    let mut script = Script::recover(&mut store).unwrap();
    arm(faults);
    let mut step = || -> Result<(), StoreError> {
        while script.last < GROUPS {
            script.step(&mut store)?;
            if script.last == 12 {
                while store.tend()?.more {}
            }
        }
        Ok(())
    };
    let failed = step().err();
    if failed.is_some() {
        assert!(store.commit(&group(1, vec![])).is_err() && store.sync().is_err(), "sticky");
    }
    let closed = store.close().err();
    (script.last, failed.or(closed))
}

/// What a failure left: reported groups, perhaps the one under way, and nothing is in the way of the next ones.
fn check(mut store: Store, reported: u64, what: &str) {
    let mut script = Script::recover(&mut store).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!((reported..=reported + 1).contains(&script.last), "{what}: {reported} reported, {} there", script.last);
    assert!(script.hurt.is_empty(), "{what}: {:?}", script.hurt);
    script.read_all(&store).unwrap_or_else(|e| panic!("{what}: {e}"));
    for _ in 0..3 {
        script.step(&mut store).unwrap();
    }
    store.close().unwrap();
}

fn cases() -> Vec<(Call, Fault, u32)> {
    let mut all = Vec::new();
    for call in Call::ALL {
        for fault in [Fault::Error, Fault::Full, Fault::Torn, Fault::Panic] {
            let often = matches!(call, Call::Apply | Call::Sync | Call::NoteMark | Call::WriteFile | Call::SyncFile);
            let skips: &[u32] = if often { &[0, 5, 15] } else { &[0] };
            all.extend(skips.iter().map(|skip| (call, fault, *skip)));
        }
    }
    // A batch is never cut between two keys; what happens if one were is tried with the damaged files.
    all.retain(|c| (c.0, c.1) != (Call::Apply, Fault::Torn));
    all
}

#[test]
fn in_memory() {
    // Maps in memory take no more than they hold, so they are not exchanged.
    let copying = [Call::BeginCopy, Call::ApplyCopy, Call::FinishCopy];
    for (call, fault, skip) in cases().into_iter().filter(|c| !copying.contains(&c.0)) {
        let memory = Memory::new();
        let (medium, faults) = Faulty::new(memory.clone());
        let store = Store::with_medium(Box::new(medium), restless());
        let (reported, failed) = write(store, &faults, |f| f.arm(call, skip, fault));
        assert!(failed.is_some(), "{call:?} {fault:?} {skip} was not met");
        for keep in 0..=memory.unsynced() {
            let after = memory.after_crash(keep);
            let what = format!("{call:?} {fault:?} {skip} {keep}");
            check(Store::with_medium(Box::new(after), restless()), reported, &what);
        }
    }
}

#[test]
fn on_disk_as_well() {
    for (call, fault, skip) in cases() {
        let bed = on_disk();
        let open = |dir: &Path| Store::open_faulty(dir, restless()).unwrap();
        let (store, faults) = open(bed.0.path());
        let (reported, failed) = write(store, &faults, |f| f.arm(call, skip, fault));
        assert!(failed.is_some(), "{call:?} {fault:?} {skip} was not met");
        check(bed.open(restless()).unwrap(), reported, &format!("{call:?} {fault:?} {skip}"));
    }
}
