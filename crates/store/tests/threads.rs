//! Where sled's threads run: one test alone in its process, since they are the process's.

#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use hornpipe_store::Store;
use std::collections::BTreeSet;
use std::fs;

/// The processors that a thread may run on, by its folder in `/proc`.
fn processors(task: &std::path::Path) -> Option<String> {
    let status = fs::read_to_string(task.join("status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).map(|l| l.trim().to_owned())
}

/// The same of sled's lasting threads, each different set once.
fn of_sled() -> BTreeSet<String> {
    let tasks: Vec<_> = fs::read_dir("/proc/self/task").unwrap().map(|t| t.unwrap().path()).collect();
    let name = |t: &std::path::PathBuf| fs::read_to_string(t.join("comm")).unwrap_or_default().trim().to_owned();
    let lasting: Vec<_> = tasks.iter().filter(|t| (0..7).any(|n| name(t) == format!("sled-io-{n}"))).collect();
    assert_eq!(lasting.len(), 7, "as many threads as are known to be in sled's pool");
    lasting.into_iter().filter_map(|t| processors(t)).collect()
}

fn write(store: &mut Store, n: u64, bytes: usize) {
    put(store, &group(n, vec![enqueue(n, vec![target(1, n)], &batch(n, &[bytes]))]));
}

#[test]
fn sled_threads_follow_who_writes_little_and_are_let_go_by_who_writes_much() {
    let everywhere = BTreeSet::from([processors("/proc/self".as_ref()).unwrap()]);
    let is_one = |set: &BTreeSet<String>| set.len() == 1 && set.first().unwrap().parse::<u32>().is_ok();
    let (bed, other) = (on_disk(), on_disk());
    let (mut store, _) = open(&bed);
    let mut n = 0;
    let mut little = |store: &mut Store| {
        for _ in 0..200 {
            n += 1;
            write(store, n, 100);
        }
        n
    };
    little(&mut store);
    assert!(is_one(&of_sled()), "{:?}", of_sled());

    write(&mut store, 1000, 200_000);
    assert_eq!(of_sled(), everywhere);
    write(&mut store, 1001, 100);
    assert_eq!(of_sled(), everywhere, "not at once again");
    little(&mut store);
    assert!(is_one(&of_sled()));

    let (mut second, _) = open(&other);
    assert_eq!(of_sled(), everywhere);
    little(&mut store);
    write(&mut second, 1, 100);
    assert_eq!(of_sled(), everywhere, "two would pull them back and forth");
    second.close().unwrap();
    little(&mut store);
    assert!(is_one(&of_sled()));
    store.close().unwrap();
    assert_eq!(of_sled(), everywhere);
}
