//! Tools for stopped stores, and snapshots of running ones: what comes out is what went in, and damage is named.

#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use hornpipe_store::{Call, Fault, Faulty, Memory, Store, StoreError, tools};
use hornpipe_types::definition::{Definition, GraveDefinition, QueueDefinition};
use hornpipe_types::header::Properties;
use hornpipe_types::ids::{EnqueueId, QueueId};
use hornpipe_types::message::{BatchBuilder, MessageMeta, Span};
use hornpipe_types::op::{Enqueue, PLACES, RunMeta, StoreOp};
use hornpipe_types::range::SeqRange;
use hornpipe_types::table::{FieldTable, Value};
use hornpipe_types::time::UnixMillis;
use std::fs;
use std::path::Path;
use std::sync::Arc;

fn queue(id: u64, name: &str) -> StoreOp {
    let queue = QueueDefinition {
        vhost: "/".into(),
        name: name.into(),
        id: QueueId(id),
        durable: true,
        ..QueueDefinition::default()
    };
    StoreOp::Put(Definition::Queue(queue))
}

/// Messages with properties, bodies of `size` octets.
fn letters(salt: u64, count: u32, size: usize) -> Arc<hornpipe_types::message::Batch> {
    let mut b = BatchBuilder::default();
    let route = b.push_route_beside("ex", "a.key", true, &["hidden", "too"]);
    for i in 0..count {
        let mut headers = FieldTable::default();
        headers.set("n", Value::I64(i64::from(i)));
        headers.set("octets", Value::Binary(bytes::Bytes::from_static(&[0, 255, 10])));
        let properties = Properties {
            headers: Some(headers),
            delivery_mode: Some(2),
            message_id: Some(format!("{salt}-{i}").as_str().into()),
            kind: Some("letter".into()),
            ..Properties::default()
        };
        let header = properties.encode(0);
        let body: Vec<u8> = (0..size).map(|k| (k as u64 * 7 + salt + u64::from(i)) as u8).collect();
        let meta = MessageMeta { route, ..hornpipe_types::header::scan(&header).unwrap() };
        b.push_message(&header, [&body[..]], meta, 4096);
    }
    b.finish()
}

/// A message of queue 2 waits for its retry, or has a place among the returned ones.
fn came_back(seq: u64, hold_until: u64) -> StoreOp {
    let (queue, hold_until) = (QueueId(2), UnixMillis(hold_until));
    StoreOp::State { queue, seq, delivery_count: 2, acquired_count: 3, hold_until }
}

/// A store with small and large runs, settled parts, a fan-out, counters and messages of a queue that is no more.
fn fill(store: &mut Store) {
    let meta = RunMeta { deadline: UnixMillis(1 << 60), priority: 3, ..RunMeta::default() };
    let (small, large) = (letters(1, 20, 30), letters(2, 60, 3000));
    put(store, &group(1, vec![queue(1, "one"), queue(2, "two"), StoreOp::Put(parameter("p", "v"))]));
    put(store, &group(2, vec![enqueue(1, vec![target(1, 1)], &small)]));
    put(store, &group(3, vec![enqueue(2, vec![target(1, 21), target(2, 1)], &large)]));
    let span = Span { batch: small.clone(), from: 5, count: 10, step: 1 };
    let run = Enqueue { id: EnqueueId(3), targets: vec![target(2, 61), target(9, 1)], meta, span, more: Vec::new() };
    put(store, &group(4, vec![StoreOp::Enqueue(run)]));
    let ops = vec![
        StoreOp::Settled { queue: QueueId(1), ranges: vec![SeqRange { first: 2, count: 30, step: 2 }] },
        came_back(62, PLACES + 77),
        came_back(63, 7),
        StoreOp::Purge { queue: QueueId(2), upto: 10, except: vec![SeqRange::dense(4, 2)] },
    ];
    put(store, &group(5, ops));
}

/// Vhost, queue, messages and body octets, as a check tells them.
fn counts(report: &tools::Report) -> Vec<(String, u64, u64)> {
    report.queues.iter().map(|q| (q.name.clone(), q.messages, q.body_bytes)).collect()
}

fn filled() -> OnDisk {
    let bed = on_disk();
    let (mut store, _) = open(&bed);
    fill(&mut store);
    store.close().unwrap();
    bed
}

fn exported(dir: &Path) -> (tools::Ported, String) {
    let mut out = Vec::new();
    let ported = tools::export(dir, &config(), &mut out).unwrap();
    (ported, String::from_utf8(out).unwrap())
}

/// Without the counts of definitions and order of no meaning.
fn messages(export: &str) -> Vec<&str> {
    export.lines().filter(|l| l.starts_with("{\"message\"")).collect()
}

/// A grave is a queue like others to the tools, and an import, which counts positions anew, still says what died of what.
#[test]
fn a_grave_comes_through_all_tools() {
    let bed = on_disk();
    let (mut store, _) = open(&bed);
    let reasons = vec![("expired".into(), vec![SeqRange { first: 12, count: 3, step: 4 }])];
    let grave = GraveDefinition { queue: "one".into(), exchange: "dlx".into(), routing_key: None, reasons };
    let grave = QueueDefinition {
        vhost: "/".into(),
        name: "\u{1}grave.1".into(),
        id: QueueId(1),
        durable: true,
        grave: Some(Box::new(grave)),
        ..QueueDefinition::default()
    };
    put(&mut store, &group(1, vec![enqueue(1, vec![target(1, 1)], &letters(1, 20, 30))]));
    // 11 to 20 stay, of which 13 and 14 leave
    let ops = vec![
        StoreOp::Purge { queue: QueueId(1), upto: 20, except: vec![SeqRange::dense(11, 10)] },
        StoreOp::Put(Definition::Queue(grave)),
        StoreOp::Settled { queue: QueueId(1), ranges: vec![SeqRange::dense(13, 2)] },
        queue(2, "one"),
    ];
    put(&mut store, &group(2, ops));
    store.close().unwrap();
    let dir = bed.0.path();
    tools::compact(dir, &config()).unwrap();
    let report = tools::verify(dir, &config()).unwrap();
    assert!(report.is_whole(), "{report:?}");
    let queues: Vec<_> = report.queues.iter().map(|q| (&*q.name, q.deleted, q.messages)).collect();
    assert_eq!((report.homeless, queues), (0, vec![("one", true, 8), ("one", false, 0)]));
    let (ported, text) = exported(dir);
    assert_eq!((ported.definitions, ported.messages), (2, 8));
    let second = tempfile::tempdir().unwrap();
    assert_eq!(tools::import(&mut text.as_bytes(), second.path(), &config(), 1).unwrap(), ported);
    // 12, 16 and 20 of 11, 12, 15 to 20
    let (_, again) = exported(second.path());
    let reasons = r#""reasons":[["expired",[{"first":2,"count":2,"step":2},{"first":8,"count":1,"step":1}]]]"#;
    assert!(again.contains(reasons), "{again}");
}

#[test]
fn what_is_exported_comes_back_the_same() {
    let bed = filled();
    let report = tools::verify(bed.0.path(), &config()).unwrap();
    assert!(report.is_whole() && report.clean && report.cut.is_none(), "{report:?}");
    assert_eq!(
        counts(&report),
        [("one".to_owned(), 50, 50 * 3000 - 10 * 2970), ("two".to_owned(), 62, 52 * 3000 + 300)]
    );
    assert_eq!((report.homeless, report.definitions), (10, 3));
    let (ported, text) = exported(bed.0.path());
    assert_eq!((ported.definitions, ported.messages), (3, 112));
    for part in [
        "\"delivery_count\":2",
        "\"level\":3",
        "\"held_until\":1099511627853",
        "\"returned\":7",
        "\"hidden_keys\":[\"hidden\",\"too\"],\"cc_spent\":true",
    ] {
        assert!(text.contains(part), "{part}");
    }

    let second = tempfile::tempdir().unwrap();
    assert_eq!(tools::import(&mut text.as_bytes(), second.path(), &config(), 1).unwrap(), ported);
    let (again, text_again) = exported(second.path());
    assert_eq!((again, messages(&text_again)), (ported, messages(&text)));
    assert!(tools::import(&mut text.as_bytes(), second.path(), &config(), 1).is_err(), "there is one already");

    // A file that is not whole is refused and leaves nothing.
    let third = tempfile::tempdir().unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let newer = text.replace("\"version\":1", "\"version\":7");
    let broken = text.replacen("\"routing_key\":\"a.key\"", "\"routing_key\":7", 1);
    let stranger = text.replacen("\"queue\":\"one\"", "\"queue\":\"none\"", 1);
    for (bad, says) in [
        (lines[..lines.len() - 1].join("\n"), "breaks off after line"),
        (lines[1..].join("\n"), "the first line must name the format"),
        ([&lines[..10], &lines[11..]].concat().join("\n"), "messages"),
        (newer, "format version 7"),
        (broken, "line "),
        (stranger, "is not defined before it"),
        (String::new(), "breaks off after line 0"),
    ] {
        let error = tools::import(&mut bad.as_bytes(), third.path(), &config(), 1).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert!(!third.path().join("shard-0").exists(), "{error}");
    }
}

#[test]
fn after_an_unclean_stop_all_is_exported_as_redelivered() {
    let bed = on_disk();
    let (mut store, _) = open(&bed);
    fill(&mut store);
    drop(store);
    let (ported, text) = exported(bed.0.path());
    assert_eq!(text.matches("\"redelivered\":true").count() as u64, ported.messages);
}

#[test]
fn a_compacted_store_is_smaller_and_holds_the_same() {
    let bed = filled();
    let (mut store, _) = open(&bed);
    let large = letters(8, 200, 3000);
    for n in 0..20 {
        put(&mut store, &group(10 + n, vec![enqueue(n, vec![target(1, 1000 + n * 200)], &large)]));
    }
    put(
        &mut store,
        &group(90, vec![StoreOp::Purge { queue: QueueId(1), upto: 4900, except: vec![SeqRange::dense(21, 20)] }]),
    );
    // the same messages with a deadline of each run's own
    let span = Span { batch: large.clone(), from: 0, count: 200, step: 1 };
    let with_deadline = |n: u64| {
        let meta = RunMeta { deadline: UnixMillis(1 << 45 | n), ..RunMeta::default() };
        let targets = vec![target(1, 5000 + n * 200)];
        StoreOp::Enqueue(Enqueue { id: EnqueueId(50 + n), targets, meta, span: span.clone(), more: Vec::new() })
    };
    put(&mut store, &group(91, (0..20).map(with_deadline).collect()));
    store.close().unwrap();
    let before = exported(bed.0.path());
    let done = tools::compact(bed.0.path(), &config()).unwrap();
    assert_eq!(done.messages, before.0.messages);
    assert!(done.after + (10 << 20) < done.before, "{done:?}");
    assert!(!bed.0.path().join("compacting").exists());
    let after = exported(bed.0.path());
    assert_eq!((after.0, messages(&after.1)), (before.0, messages(&before.1)));
    let report = tools::verify(bed.0.path(), &config()).unwrap();
    assert!(report.is_whole() && report.homeless == 0);
    assert!(report.body_files.1 < (62 + 109 + 200) * 3000 + (64 << 10), "shared messages are there once: {report:?}");
    assert_eq!(done.after, report.body_files.1 + report.map_bytes.0, "what is left is what is there");
    // And it is a store like any other.
    let (mut store, _) = open(&bed);
    put(&mut store, &group(1, vec![enqueue(1, vec![target(1, 9000)], &large)]));
}

/// The copy of a compaction that was interrupted takes room: a start removes its own store's. Who only looks leaves it.
#[test]
fn a_start_removes_what_an_interrupted_compaction_left() {
    let bed = filled();
    let copies = bed.0.path().join("compacting");
    let make = |shard: &str| fs::create_dir_all(copies.join(shard).join("bodies")).unwrap();
    make("shard-0");
    assert!(tools::verify(bed.0.path(), &config()).unwrap().is_whole());
    assert!(copies.join("shard-0").exists());
    drop(open(&bed));
    assert!(!copies.exists());
    make("shard-0");
    make("shard-1");
    drop(open(&bed));
    assert!(!copies.join("shard-0").exists() && copies.join("shard-1").exists());
}

#[test]
fn a_store_in_use_and_a_folder_without_one_are_refused() {
    let bed = filled();
    let (store, _) = open(&bed);
    let dir = bed.0.path();
    for error in [
        tools::verify(dir, &config()).unwrap_err(),
        tools::export(dir, &config(), &mut Vec::new()).unwrap_err(),
        tools::compact(dir, &config()).unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    }
    drop(store);
    let empty = tempfile::tempdir().unwrap();
    let error = tools::verify(empty.path(), &config()).unwrap_err().to_string();
    assert!(error.contains("is no data folder"), "{error}");
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn a_check_misses_a_definition() {
    let bed = filled();
    let db = bed.0.path().join("shard-0/db");
    // sled's threads keep its lock for a moment.
    let map = loop {
        match sled::Config::new().path(&db).segment_size(8 << 20).flush_every_ms(None).open() {
            Ok(map) => break map,
            Err(_) => std::thread::yield_now(),
        }
    };
    let (key, _) = map.first().unwrap().unwrap();
    assert_eq!(key[0], 0, "a definition");
    map.remove(&key).unwrap();
    map.flush().unwrap();
    drop(map);
    let report = tools::verify(bed.0.path(), &config()).unwrap();
    assert!(!report.is_whole());
    let told = report.damage.join("; ");
    assert!(told.contains("2 parts of definitions are there, 3 must be"), "{told}");
    assert!(told.contains(&db.join("db").display().to_string()), "{told}");
}

#[test]
fn a_check_names_the_queue_and_the_file_that_are_hurt() {
    let bed = filled();
    let bodies = bed.0.path().join("shard-0/bodies");
    let file = fs::read_dir(&bodies).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&file).unwrap();
    let flip = |at: usize| {
        let mut bad = whole.clone();
        bad[at] ^= 1;
        bad
    };
    for (bytes, says) in [
        (Some(flip(whole.len() / 2)), "checksum does not match"),
        (Some(whole[..whole.len() - 1].to_vec()), "ends"),
        (None, "missing"),
    ] {
        match bytes {
            Some(bytes) => fs::write(&file, bytes).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        let report = tools::verify(bed.0.path(), &config()).unwrap();
        assert!(!report.is_whole());
        // Both queues share the run: 40 of it wait in the first one, 52 in the second; what lies in records is sound.
        let hurt: Vec<u64> = report.queues.iter().map(|q| q.hurt.iter().map(|h| h.count).sum()).collect();
        assert_eq!(hurt, [40, 52], "{report:?}");
        assert!(report.queues.iter().flat_map(|q| &q.hurt).all(|h| h.reason.contains(says)), "{report:?}");
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(report.queues[0].hurt[0].reason.contains(name), "{report:?}");
        assert!(tools::export(bed.0.path(), &config(), &mut Vec::new()).is_err());
        assert!(tools::compact(bed.0.path(), &config()).is_err());
        assert!(!bed.0.path().join("compacting").exists(), "half a copy");
        fs::write(&file, &whole).unwrap();
    }
    assert!(tools::verify(bed.0.path(), &config()).unwrap().is_whole());
}

/// Tends until the snapshot is told, with traffic in between.
fn snapshot(store: &mut Store, to: &Path, mut meanwhile: impl FnMut(&mut Store)) -> Result<u64, StoreError> {
    store.snapshot(to)?;
    assert!(store.snapshot(to).is_err(), "one at a time");
    loop {
        match store.tend()?.snapshot {
            Some(done) => return done.and_then(hornpipe_store::Snapshot::finish),
            None => meanwhile(store),
        }
    }
}

#[test]
fn a_snapshot_is_a_moment_between_two_groups_while_traffic_goes_on() {
    for on_disk_too in [true, false] {
        let bed = on_disk();
        let memory = Memory::new();
        let mut store = if on_disk_too {
            bed.open(config()).unwrap()
        } else {
            Store::with_medium(Box::new(memory.clone()), config())
        };
        recover(&mut store).unwrap();
        fill(&mut store);
        // 200 inline groups, so that the copy takes several slices; each group moves a counter in a definition.
        let small = letters(5, 30, 900);
        let mut n = 0;
        let mut step = |store: &mut Store, old: Option<u64>| {
            n += 1;
            let mut g = group(100 + n, vec![enqueue(100 + n, vec![target(1, 1000 * n)], &small)]);
            g.ops.push(StoreOp::Put(parameter("n", n.to_string())));
            g.remove_records.extend(old);
            let large = letters(n, 60, 2000);
            g.ops.push(enqueue(5000 + n, vec![target(2, 1000 * n)], &large));
            (put(store, &g), n)
        };
        let mut records = std::collections::VecDeque::new();
        for _ in 0..60 {
            records.push_back(step(&mut store, None).0.lsn);
        }
        for k in 0..200 {
            put(&mut store, &group(20 + k, vec![enqueue(20 + k, vec![target(2, 500_000 + 30 * k)], &small)]));
        }
        let to = bed.0.path().join("snap");
        let (mut during, mut last) = (0, 0);
        snapshot(&mut store, &to, |store| {
            // enqueues, and removals of what may be in the snapshot already
            let (c, n) = step(store, records.pop_front());
            records.push_back(c.lsn);
            (during, last) = (during + 1, n);
        })
        .unwrap();
        assert!(during > 3, "several slices");
        for _ in 0..30 {
            let old = records.pop_front();
            step(&mut store, old);
        }
        // Body files that the store no longer needs go; the snapshot keeps them.
        let mut copy = if on_disk_too {
            let report = tools::verify(&to, &config()).unwrap();
            assert!(report.is_whole() && !report.clean, "{report:?}");
            Store::open(&to, config()).unwrap()
        } else {
            Store::with_medium(Box::new(memory.snapshot(&to).unwrap()), config())
        };
        let told = recover(&mut copy).unwrap();
        assert!(!told.clean, "messages may have been delivered since");
        let value = |d: &Definition| match d {
            Definition::Parameter(p) if &*p.name == "n" => Some(p.value.clone()),
            _ => None,
        };
        assert_eq!(told.definitions.iter().find_map(value), Some(last.to_string()), "all that came before its end");
        for run in told.runs() {
            copy.reader().read(&run.4).unwrap();
        }
        put(&mut copy, &group(9000, vec![enqueue(1, vec![target(1, 900_000)], &small)]));
        copy.close().unwrap();
        store.close().unwrap();
        if on_disk_too {
            // The original comes up too: neither has cut what the other one needs.
            let (store, told) = open(&bed);
            for run in told.runs() {
                store.reader().read(&run.4).unwrap();
            }
            assert!(tools::verify(&to, &config()).unwrap().is_whole());
        }
    }
}

#[test]
fn a_snapshot_that_fails_harms_nobody() {
    for call in [Call::BeginCopy, Call::ApplyCopy, Call::FinishCopy] {
        for fault in [Fault::Error, Fault::Full, Fault::Torn, Fault::Panic] {
            let (medium, faults) = Faulty::new(Memory::new());
            let mut store = Store::with_medium(Box::new(medium), config());
            recover(&mut store).unwrap();
            fill(&mut store);
            faults.arm(call, 0, fault);
            let error = snapshot(&mut store, Path::new("/s"), |_| {}).unwrap_err().to_string();
            assert!(error.contains("no snapshot was made in /s"), "{error}");
            put(&mut store, &group(9, vec![enqueue(1, vec![target(1, 900_000)], &letters(1, 1, 1))]));
            snapshot(&mut store, Path::new("/s"), |_| {}).unwrap();
        }
    }
    // On disk: what was begun is removed.
    let bed = filled();
    let (mut store, _) = open(&bed);
    let to = bed.0.path().join("snap");
    fs::create_dir(&to).unwrap();
    fs::write(to.join("shard-0"), "in the way").unwrap();
    assert!(snapshot(&mut store, &to, |_| {}).is_err());
    put(&mut store, &group(9, vec![enqueue(1, vec![target(1, 900_000)], &letters(1, 1, 1))]));
    fs::remove_file(to.join("shard-0")).unwrap();
    snapshot(&mut store, &to, |_| {}).unwrap();
}

/// What can't be opened is damage with words, not a reason to say nothing about the rest.
#[test]
fn stores_that_do_not_open_are_damage_and_the_others_are_checked() {
    let harms: [(&str, &[u8], &str); 6] = [
        ("shard-0/db/conf", b"no such thing at all", "shard-0/db/conf is damaged"),
        ("shard-0/db/db", b"", "shard-0/db/db is damaged"),
        ("shard-0/db/db", b"remove", "shard-0/db/db is damaged: it is missing"),
        ("shard-0/mark", b"none", "shard-0/mark is damaged"),
        ("shard-0/mark", b"remove", "shard-0/mark is damaged"),
        ("shard-0/generation", b"generation 7", "shard-0/generation is damaged"),
    ];
    for (file, content, told) in harms {
        let bed = filled();
        let (second, _) = Store::open(bed.0.path(), hornpipe_store::StoreConfig { shard: 1, ..config() })
            .and_then(|mut s| recover(&mut s).map(|t| (s, t)))
            .unwrap();
        second.close().unwrap();
        hornpipe_store::set_shard_count(bed.0.path(), 2).unwrap();
        let path = bed.0.path().join(file);
        if content == b"remove" { fs::remove_file(&path) } else { fs::write(&path, content) }.unwrap();
        let before = names(&bed.0.path().join("shard-0"));
        let report = tools::verify(bed.0.path(), &config()).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(!report.is_whole() && !report.clean, "{file}: {report:?}");
        assert!(report.damage[0].contains(told), "{file}: {:?}", report.damage);
        if path.file_name().is_some_and(|n| n != "db") {
            assert_eq!(names(&bed.0.path().join("shard-0")), before, "{file}: nothing of ours is made");
        }
        for (tool, refused) in [
            ("export", tools::export(bed.0.path(), &config(), &mut Vec::new()).err()),
            ("compact", tools::compact(bed.0.path(), &config()).err()),
        ] {
            assert!(matches!(refused, Some(StoreError::Damaged { .. })), "{tool} {file}: {refused:?}");
        }
    }
    let bed = filled();
    hornpipe_store::set_shard_count(bed.0.path(), 2).unwrap();
    let report = tools::verify(bed.0.path(), &config()).unwrap();
    assert!(report.damage[0].contains("shard-1") && report.queues.len() == 2, "{report:?}");
}

/// Names of all files.
fn names(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(names(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A kill at any moment of an import leaves a folder that is refused until the import is made again.
#[test]
fn an_import_that_was_interrupted_is_told_from_a_store() {
    let bed = filled();
    let (ported, text) = exported(bed.0.path());
    let to = tempfile::tempdir().unwrap();
    let dir = to.path();
    // What is there when its input is read: nothing yet that counts as a store.
    struct Watched<'a>(&'a [u8], &'a Path, u32);
    impl std::io::Read for Watched<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.2 += 1;
            let error = hornpipe_store::shard_count(self.1, None).unwrap_err().to_string();
            assert!(error.contains("an import was not finished"), "{error}");
            let some = buffer.len().min(1000);
            self.0.read(&mut buffer[..some])
        }
    }
    let mut input = std::io::BufReader::new(Watched(text.as_bytes(), dir, 0));
    tools::import(&mut input, dir, &config(), 2).unwrap();
    assert!(input.get_ref().2 > 3);
    assert_eq!(names_of(dir), ["shard-0", "shard-1", "shards"]);
    // As a kill leaves it between two shards.
    fs::create_dir(dir.join("importing")).unwrap();
    fs::rename(dir.join("shard-1"), dir.join("importing/shard-1")).unwrap();
    fs::remove_file(dir.join("shards")).unwrap();
    assert!(hornpipe_store::shard_count(dir, None).is_err());
    assert!(!tools::verify(dir, &config()).unwrap().is_whole());
    assert!(tools::import(&mut &text.as_bytes()[..text.len() / 2], dir, &config(), 2).is_err());
    assert_eq!(names_of(dir), [""; 0], "a failed one leaves nothing");
    assert_eq!(tools::import(&mut text.as_bytes(), dir, &config(), 2).unwrap(), ported);
    assert!(tools::verify(dir, &config()).unwrap().is_whole());
    let error = tools::import(&mut text.as_bytes(), dir, &config(), 2).unwrap_err().to_string();
    assert!(error.contains("is there already"), "{error}");
    assert_eq!(names_of(dir), ["shard-0", "shard-1", "shards"]);
}

fn names_of(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
