//! Giving back the map's room while groups go on: the same contents before and after, whatever fails in between.

#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use hornpipe_store::{Call, Fault, Faulty, Memory, Store, StoreConfig, StoreError};
use hornpipe_types::ids::QueueId;
use hornpipe_types::op::{Group, Place, StoreOp};
use hornpipe_types::range::SeqRange;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Copies soon.
fn eager() -> StoreConfig {
    StoreConfig { map_min_bytes: 4 << 20, map_slack_bytes: 4 << 20, ..config() }
}

fn never() -> StoreConfig {
    StoreConfig { map_min_bytes: u64::MAX, map_slack_bytes: u64::MAX, ..config() }
}

/// Traffic that puts much through the map and leaves little in it; a second store without renewals gets the same.
struct Traffic {
    n: u64,
    live: BTreeMap<u64, Place>,
}

impl Traffic {
    fn step(&mut self, store: &mut Store, twin: &mut Store) {
        self.n += 1;
        let n = self.n;
        let b = batch(n, &[1000; 28]);
        let mut g = group(n, vec![enqueue(n, vec![target(1, n * 100)], &b)]);
        g.ops.push(StoreOp::Put(parameter(&format!("p{}", n % 40), format!("{n} ").repeat(n as usize % 3000))));
        g.ops.push(StoreOp::Settled { queue: QueueId(1), ranges: vec![SeqRange::dense(n * 100, 1)] });
        if n.is_multiple_of(7) {
            g.ops.push(StoreOp::Delete(parameter(&format!("p{}", n % 11), "").key()));
        }
        // every fiftieth stays
        if let Some(old) = n.checked_sub(20).filter(|old| !old.is_multiple_of(50))
            && let Some(place) = self.live.remove(&old)
        {
            g.remove_records.push(place.lsn);
        }
        twin.commit(&g).unwrap();
        twin.sync().unwrap();
        store.commit(&g).unwrap();
        for (id, place) in store.sync().unwrap().into_iter().flat_map(|c| c.places) {
            self.live.insert(id.0, place);
        }
    }
}

fn same(name: &str, store: &Told, twin: &Told) {
    assert_eq!(store.definitions, twin.definitions, "{name}");
    assert_eq!(format!("{:?}", store.items), format!("{:?}", twin.items), "{name}");
}

#[test]
fn a_map_that_takes_too_much_is_copied_while_groups_go_on() {
    for (name, bed) in beds() {
        let mut store = bed.open(eager()).unwrap();
        recover(&mut store).unwrap();
        let twin_memory = Memory::new();
        let mut twin = Store::with_medium(Box::new(twin_memory.clone()), never());
        recover(&mut twin).unwrap();
        let mut traffic = Traffic { n: 0, live: BTreeMap::new() };
        // All of it live at first, so that the map must grow.
        let first = batch(0, &[1000; 30]);
        let mut lsns = Vec::new();
        for k in 0..600 {
            let g = group(k, vec![enqueue(k, vec![target(9, 1 + k * 30)], &first)]);
            put(&mut twin, &g);
            lsns.push(put(&mut store, &g).lsn);
        }
        let full = store.usage();
        assert!(full.map_live_bytes > 17 << 20, "{name}: {full:?}");
        for lsns in lsns[..400].chunks(64) {
            let g = Group { remove_records: lsns.to_vec(), ..group(1000, vec![]) };
            put(&mut twin, &g);
            put(&mut store, &g);
        }
        // A reader that never lets go, on another thread, while the map is exchanged below it.
        let stop = Arc::new(AtomicBool::new(false));
        let reading = std::thread::spawn({
            let (reader, stop) = (store.reader(), stop.clone());
            let place = Place { lsn: lsns[599], part: 0, index: 0, body: None };
            move || {
                let mut reads = 0u64;
                while !stop.load(Ordering::Relaxed) || reads == 0 {
                    assert_reads(&reader, &place, &first);
                    reads += 1;
                }
            }
        });
        let (mut steps, mut rounds) = (0, 0);
        for _ in 0..400 {
            traffic.step(&mut store, &mut twin);
            while store.tend().unwrap().more {
                steps += 1;
                // in the middle of a copy, behind and before the place reached
                traffic.step(&mut store, &mut twin);
            }
            rounds += 1;
        }
        stop.store(true, Ordering::Relaxed);
        reading.join().unwrap();
        let usage = store.usage();
        assert!(usage.renewals >= 1 && steps > 4, "{name}: {usage:?} after {steps} steps and {rounds} rounds");
        assert!(usage.map_bytes < full.map_bytes, "{name}: {usage:?}");
        for (n, place) in &traffic.live {
            assert_reads(&store.reader(), place, &batch(*n, &[1000; 28]));
        }
        let live = store.usage().map_live_bytes;
        drop((store, twin));
        let mut store = bed.open(eager()).unwrap();
        let told = recover(&mut store).unwrap();
        let mut twin = Store::with_medium(Box::new(twin_memory), never());
        same(name, &told, &recover(&mut twin).unwrap());
        let found = store.usage().map_live_bytes;
        assert!(found.abs_diff(live) < 256 << 10, "{name}: {live} octets were counted, {found} are there");
        traffic.step(&mut store, &mut twin);
    }
}

/// A medium with room to give back, and what is in it.
fn roomy() -> (Memory, Told) {
    let memory = Memory::new();
    let mut store = Store::with_medium(Box::new(memory.clone()), never());
    recover(&mut store).unwrap();
    let b = batch(1, &[1000; 30]);
    let lsns: Vec<u64> =
        (0..600).map(|k| put(&mut store, &group(k, vec![enqueue(k, vec![target(1, 1 + k * 30)], &b)])).lsn).collect();
    for lsns in lsns[..500].chunks(64) {
        put(&mut store, &Group { remove_records: lsns.to_vec(), ..group(1000, vec![]) });
    }
    store.close().unwrap();
    let mut store = Store::with_medium(Box::new(memory.clone()), never());
    let told = recover(&mut store).unwrap();
    (memory, told)
}

#[test]
fn a_renewal_that_fails_is_final_and_loses_nothing() {
    let small = StoreConfig { map_min_bytes: 1 << 20, map_slack_bytes: 1 << 20, ..config() };
    for call in [Call::BeginCopy, Call::ApplyCopy, Call::FinishCopy] {
        for fault in [Fault::Error, Fault::Full, Fault::Torn, Fault::Panic] {
            for skip in [0, 1] {
                let (memory, whole) = roomy();
                let (medium, faults) = Faulty::new(memory.clone());
                let mut store = Store::with_medium(Box::new(medium), small.clone());
                recover(&mut store).unwrap();
                faults.arm(call, if call == Call::ApplyCopy { skip } else { 0 }, fault);
                let error = loop {
                    match store.tend() {
                        Ok(t) if t.more => {}
                        Ok(_) => panic!("{call:?} {fault:?} was not reported"),
                        Err(e) => break e,
                    }
                };
                assert!(matches!(error, StoreError::Fatal(_)), "{error}");
                assert!(store.commit(&group(1, vec![])).is_err() && store.tend().is_err(), "sticky");
                let after = memory.after_crash(0);
                let mut store = Store::with_medium(Box::new(after), small.clone());
                same("after the fault", &recover(&mut store).unwrap(), &whole);
                while store.tend().unwrap().more {}
                let usage = store.usage();
                assert!(usage.map_bytes < 5 << 20, "{call:?} {fault:?}: {usage:?}");
                put(&mut store, &group(2, vec![enqueue(1, vec![target(2, 1)], &batch(1, &[10]))]));
            }
        }
    }
}

#[test]
fn nothing_is_copied_while_groups_are_not_on_disk() {
    let (memory, _) = roomy();
    let (medium, faults) = Faulty::new(memory);
    let mut store = Store::with_medium(
        Box::new(medium),
        StoreConfig { map_min_bytes: 1 << 20, map_slack_bytes: 1 << 20, ..config() },
    );
    recover(&mut store).unwrap();
    store.commit(&group(1, vec![enqueue(1, vec![target(2, 1)], &batch(1, &[10]))])).unwrap();
    faults.take_calls();
    assert!(!store.tend().unwrap().more);
    assert!(faults.take_calls().is_empty());
    store.sync().unwrap();
    assert!(store.tend().unwrap().more);
    assert_eq!(faults.take_calls().last(), Some(&Call::BeginCopy));
}
