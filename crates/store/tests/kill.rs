//! kill -9 at random moments, also while the store opens: what was confirmed is there, whole groups or nothing.

#![allow(clippy::unwrap_used)]

mod common;

use common::script::Script;
use common::{Bed, on_disk};
use hornpipe_store::StoreConfig;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

const DIR: &str = "HORNPIPE_STORE_KILL_DIR";

/// The process that is killed: a test that does something only when it is started by the one below.
#[test]
#[ignore = "a process started by another test"]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let mut store = hornpipe_store::Store::open(dir.as_ref(), config()).unwrap();
    let mut script = Script::recover(&mut store).unwrap();
    let mut out = std::io::stdout();
    loop {
        let n = script.step(&mut store).unwrap();
        writeln!(out, "durable {n}").unwrap();
        store.tend().unwrap();
    }
}

/// The database is copied to a fresh one over and over, so that kills fall into that too.
fn config() -> StoreConfig {
    StoreConfig { map_min_bytes: 1, map_slack_bytes: 1, ..common::config() }
}

#[test]
fn what_was_confirmed_survives() {
    let bed = on_disk();
    let mut random = 0x2545_f491_4f6c_dd1d_u64 ^ u64::from(std::process::id());
    let mut confirmed = 0;
    for round in 0..25 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(DIR, bed.0.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let lines = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            let numbers = lines.lines().map_while(Result::ok).filter_map(|l| l.strip_prefix("durable ")?.parse().ok());
            numbers.last().unwrap_or(0u64)
        });
        // The moment is what is random here; nothing is waited for.
        std::thread::sleep(Duration::from_millis(if round % 4 == 0 { random % 25 } else { random % 160 }));
        child.kill().unwrap();
        child.wait().unwrap();
        confirmed = reader.join().unwrap().max(confirmed);

        let mut store = bed.open(config()).unwrap();
        let mut script = Script::recover(&mut store).unwrap();
        assert!(script.last >= confirmed, "round {round}: {confirmed} was confirmed, {} is there", script.last);
        script.read_all(&store).unwrap();
        if round % 3 == 0 {
            // Goes on in this process, with and without a clean stop in between.
            for _ in 0..3 {
                confirmed = script.step(&mut store).unwrap();
            }
            if round % 2 == 0 {
                store.close().unwrap();
            }
        }
    }
    assert!(confirmed > 15, "the child got something done: {confirmed}");
    assert!(bed.0.path().join("shard-0/generation").exists(), "the database was exchanged at least once");
}
