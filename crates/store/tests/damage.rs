//! Damaged files: refused, or everything is there that was; never wrong bytes, never a silent loss.

#![allow(clippy::unwrap_used)]

mod common;

use common::script::Script;
use common::*;
use hornpipe_store::{Call, Fault, Faulty, Medium, Memory, Store, StoreConfig, StoreError};
use hornpipe_types::ids::QueueId;
use hornpipe_types::op::{Group, StoreOp};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const DIR: &str = "HORNPIPE_STORE_DAMAGED_DIR";
const GROUPS: u64 = 60;

/// Looks at a damaged folder in a process of its own: a panic of sled's may leave its process unusable.
#[test]
#[ignore = "a process started by another test"]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let opened =
        Store::open(dir.as_ref(), config()).and_then(|mut s| Script::recover(&mut s).map(|script| (s, script)));
    let (store, script) = match opened {
        Ok(opened) => opened,
        Err(e @ StoreError::Damaged { .. }) => return println!("\nanswer: refused: {e}"),
        Err(e) => return println!("\nanswer: wrong error: {e:?}"),
    };
    if script.last != GROUPS {
        return println!("\nanswer: SILENTLY LOST all behind {}", script.last);
    }
    let reader = store.reader();
    let bad = script.runs.iter().filter(|(n, place)| match reader.read(place) {
        Ok(back) => {
            assert_same(&hornpipe_types::message::Span::whole(common::script::messages(**n)), &back);
            false
        }
        Err(_) => true,
    });
    let hurt = if script.hurt.is_empty() { String::new() } else { format!(", told: {}", script.hurt.join("; ")) };
    println!("\nanswer: whole, {} runs unreadable{hurt}", bad.count());
}

fn look(dir: &Path) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let answer = text.lines().find_map(|l| l.strip_prefix("answer: "));
    answer.map_or_else(|| format!("NO ANSWER: {text} {}", String::from_utf8_lossy(&output.stderr)), str::to_owned)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Harm {
    Cut(u64),
    Flip(u64),
    Remove,
}

fn harm(file: &Path, harm: Harm) {
    let f = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let len = f.metadata().unwrap().len();
    match harm {
        Harm::Cut(octets) => f.set_len(len.saturating_sub(octets)).unwrap(),
        Harm::Flip(at) => {
            let at = at.min(len.saturating_sub(16));
            let mut bytes = vec![0; (len - at).min(16) as usize];
            f.read_exact_at(&mut bytes, at).unwrap();
            bytes.iter_mut().for_each(|b| *b = !*b);
            f.write_all_at(&bytes, at).unwrap();
        }
        Harm::Remove => fs::remove_file(file).unwrap(),
    }
}

/// A folder of the script as a stop in order leaves it, or as a kill does: the mark is synced now and then only.
fn written(dir: &Path, clean: bool) {
    let exchanging =
        StoreConfig { map_min_bytes: 1, map_slack_bytes: 1, mark_every: StoreConfig::default().mark_every, ..config() };
    let live = if clean { dir.to_owned() } else { dir.with_extension("live") };
    let mut store = Store::open(&live, exchanging).unwrap();
    let mut script = Script::recover(&mut store).unwrap();
    while script.last < GROUPS {
        script.step(&mut store).unwrap();
        // The database is exchanged once, so that there is a file that says so.
        while script.last == 20 && store.tend().unwrap().more {}
    }
    assert_eq!(store.usage().renewals, 1);
    if clean {
        store.close().unwrap();
    } else {
        copy(&live, dir);
        drop(store);
        fs::remove_dir_all(&live).unwrap();
    }
}

#[test]
fn the_matrix_after_a_stop() {
    the_matrix(true);
}

#[test]
fn the_matrix_after_a_kill() {
    the_matrix(false);
}

/// Every file of the folder cut, flipped and removed.
fn the_matrix(clean: bool) {
    let bed = on_disk();
    let whole = bed.0.path().join("whole");
    written(&whole, clean);
    assert_eq!(look(&copied(&whole, "look")), "whole, 0 runs unreadable");
    let shard = whole.join("shard-0");
    let db = fs::read(shard.join("db-2/db")).unwrap();
    let len = db.len() as u64;
    // A segment is larger than what was written.
    let used = db.iter().rposition(|b| *b != 0).unwrap() as u64 + 1;
    assert!(used > 100_000, "{used}");
    let mut cases: Vec<(PathBuf, Harm)> = Vec::new();
    for left in [len - 1, used - 1, used - 100, used - 1000, used - 64_000, used / 2, 1000, 0] {
        cases.push(("db-2/db".into(), Harm::Cut(len - left)));
    }
    cases.push(("db-2/db".into(), Harm::Remove));
    for i in 0..40 {
        cases.push(("db-2/db".into(), Harm::Flip(used * i / 40 + i * 37)));
    }
    // The end, which a database that falls back to an older state drops without a word.
    for back in [10, 40, 100, 300, 1000, 3000, 10_000, 30_000] {
        cases.push(("db-2/db".into(), Harm::Flip(used - back)));
    }
    let mut bodies: Vec<_> = fs::read_dir(shard.join("bodies")).unwrap().map(|e| e.unwrap().file_name()).collect();
    bodies.sort();
    assert!(bodies.len() >= 3, "several body files");
    let mut others = vec![PathBuf::from("generation"), "mark".into(), "lock".into(), "db-2/conf".into()];
    for entry in fs::read_dir(shard.join("db-2")).unwrap() {
        let name = entry.unwrap().file_name();
        if name.to_string_lossy().starts_with("snap.") {
            others.push(Path::new("db-2").join(name));
        }
    }
    for name in &bodies {
        let file = Path::new("bodies").join(name);
        let len = fs::metadata(shard.join(&file)).unwrap().len();
        for h in
            [Harm::Cut(1), Harm::Cut(len / 2), Harm::Cut(len), Harm::Flip(0), Harm::Flip(len / 2), Harm::Flip(len - 16)]
        {
            cases.push((file.clone(), h));
        }
        cases.push((file, Harm::Remove));
    }
    for file in others {
        let len = fs::metadata(shard.join(&file)).unwrap().len();
        for h in
            [Harm::Cut(1), Harm::Cut(len / 2), Harm::Cut(len), Harm::Flip(0), Harm::Flip(4096), Harm::Flip(len / 2)]
        {
            cases.push((file.clone(), h));
        }
        cases.push((file.clone(), Harm::Flip(3)));
        cases.push((file, Harm::Remove));
    }
    let (mut refused, mut unreadable) = (0, 0);
    for (i, (file, h)) in cases.iter().enumerate() {
        let dir = copied(&whole, &format!("case-{i}"));
        harm(&dir.join("shard-0").join(file), *h);
        let answer = look(&dir);
        let is_body = file.starts_with("bodies");
        match &answer[..] {
            a if a.starts_with("refused: ") => {
                refused += 1;
                let told = dir.join("shard-0").join(file).display().to_string();
                // A database that is gone, or has fallen back far, is missed by its mark; the rest is blamed by name.
                assert!(a.contains(&told), "{file:?} {h:?}: {answer}");
            }
            "whole, 0 runs unreadable" => {
                // A dead area or the room behind the last record; a slot of the mark that the other one stands in for.
                let must_show = is_body && matches!(h, Harm::Remove)
                    || file.starts_with("generation") && !matches!(h, Harm::Cut(0))
                    || matches!(h, Harm::Cut(n) if file.ends_with("db-2/db") && len - n <= used / 2);
                // The oldest body file begins with frames that nothing names any more; the newest has room at its end.
                let dead = is_body && (file.ends_with(&bodies[0]) || file.ends_with(bodies.last().unwrap()));
                assert!((!is_body || dead) && !must_show, "{file:?} {h:?}: {answer}");
            }
            a if a.starts_with("whole, ") => {
                unreadable += 1;
                // What is missing is told at the start, with its file; what was changed at the latest when it is read.
                let told = a.contains(&dir.join("shard-0").join(file).display().to_string());
                assert!(is_body && (told || matches!(h, Harm::Flip(_))), "{file:?} {h:?}: {answer}");
            }
            _ => panic!("{file:?} {h:?}: {answer}"),
        }
        fs::remove_dir_all(&dir).unwrap();
    }
    assert!(refused > 10 && unreadable > 0, "{refused} refused, {unreadable} with unreadable runs");
}

fn copied(whole: &Path, name: &str) -> PathBuf {
    let dir = whole.with_file_name(name);
    copy(whole, &dir);
    dir
}

/// The mark as a cut of power may leave it: as it was synced last, some time ago. What was confirmed since shows by the
/// bodies that were written for it.
#[test]
fn a_lost_end_shows_by_the_bodies_behind_it() {
    let memory = Memory::new();
    let (mut store, _) = reopen(&memory, StoreConfig { mark_every: std::time::Duration::MAX, ..config() });
    let b = batch(1, &[900; 150]);
    let mut mark = None;
    for n in 1..=6 {
        put(&mut store, &group(n, vec![enqueue(n, vec![target(1, n * 1000)], &b)]));
        mark = mark.or(memory.read_mark().unwrap());
    }
    drop(store);
    // Whole groups vanish from the end of the map.
    for lost in 1..=5u64 {
        let mut m = fork(&memory);
        m.write_mark(mark.as_ref().unwrap()).unwrap();
        let gone = |k: &[u8]| k[0] == 1 && u64::from_be_bytes(k[1..9].try_into().unwrap()) > 6 - lost;
        for key in m.keys().into_iter().filter(|k| gone(k)) {
            m.tamper(&key, |_| None);
        }
        let (_, told) = reopen(&m, config());
        if lost == 1 {
            // That looks like a group that was under way: nothing says that it was reported.
            assert_eq!(told.unwrap().runs().len(), 5);
            continue;
        }
        let error = told.unwrap_err().to_string();
        assert!(error.contains("everything up to 5 was on disk") && error.contains("body file"), "{error}");
        let (store, told) = reopen(&m, StoreConfig { accept_data_loss: true, ..config() });
        assert_eq!(told.unwrap().runs().len(), 6 - lost as usize);
        assert_eq!(store.losses().len(), 1);
        let (mut store, told) = reopen(&m, config());
        assert_eq!(told.unwrap().runs().len(), 6 - lost as usize, "accepted is accepted");
        let c = put(&mut store, &group(9, vec![enqueue(9, vec![target(1, 1)], &b)]));
        assert_reads(&store.reader(), &c.places[0].1, &b);
        assert!(reopen(&m, config()).1.is_ok());
    }
}

/// Who has nothing to do learns when the mark should be synced, so that a cut of power hides little.
#[test]
fn the_mark_is_due_as_long_as_it_lags() {
    let (medium, faults) = Faulty::new(Memory::new());
    let every = std::time::Duration::from_millis(50);
    let mut store = Store::with_medium(Box::new(medium), StoreConfig { mark_every: every, ..config() });
    recover(&mut store).unwrap();
    let b = batch(1, &[10]);
    assert_eq!(store.mark_due(), None);
    put(&mut store, &group(1, vec![enqueue(1, vec![target(1, 1)], &b)]));
    assert_eq!(store.mark_due(), None, "the first group has one of its own");
    faults.take_calls();
    put(&mut store, &group(2, vec![enqueue(2, vec![target(1, 2)], &b)]));
    // Written once it is due, by nothing but waiting as long as is told.
    while let Some(due) = store.mark_due() {
        assert!(due <= every);
        std::thread::sleep(due);
        store.tend().unwrap();
    }
    assert_eq!(faults.take_calls(), [Call::Apply, Call::Sync, Call::NoteMark, Call::WriteMark]);
}

/// A memory store with the script in it, and its medium.
fn scripted(groups: u64) -> Memory {
    let memory = Memory::new();
    let mut store = Store::with_medium(Box::new(memory.clone()), config());
    let mut script = Script::recover(&mut store).unwrap();
    while script.last < groups {
        script.step(&mut store).unwrap();
    }
    memory
}

fn reopen(memory: &Memory, config: StoreConfig) -> (Store, Result<Told, StoreError>) {
    let mut store = Store::with_medium(Box::new(memory.clone()), config);
    let told = recover(&mut store);
    (store, told)
}

/// A copy that shares nothing.
fn fork(memory: &Memory) -> Memory {
    memory.after_crash(usize::MAX)
}

#[test]
fn any_record_gone_or_changed_is_refused_unless_loss_is_accepted() {
    let memory = scripted(30);
    let (_, told) = reopen(&fork(&memory), config());
    let whole = told.unwrap();
    for key in memory.keys().into_iter().filter(|k| k[0] <= 1) {
        for change in ["remove", "flip", "cut"] {
            let m = fork(&memory);
            m.tamper(&key, |mut v| match change {
                "remove" => None,
                "flip" => {
                    let at = v.len() * 2 / 3;
                    v[at] ^= 4;
                    Some(v)
                }
                _ => {
                    v.pop();
                    Some(v)
                }
            });
            let (_, told) = reopen(&m, config());
            let error = told.expect_err(change);
            assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
            let (store, told) = reopen(&m, StoreConfig { accept_data_loss: true, ..config() });
            let told = told.unwrap();
            assert!(!store.losses().is_empty() && !told.clean);
            assert!(told.items.len() + 2 >= whole.items.len() && told.items.len() <= whole.items.len());
            // Once accepted it is settled: the next start needs no flag, and everything works.
            let (mut store, again) = reopen(&m, config());
            assert_eq!(again.unwrap().items.len(), told.items.len());
            let b = batch(9, &[100; 900]);
            let c = put(&mut store, &group(1, vec![enqueue(1, vec![target(5, 1)], &b)]));
            assert_reads(&store.reader(), &c.places[0].1, &b);
        }
    }
}

/// What a database that skips a part of its file does to definitions: each part sound by itself.
#[test]
fn definitions_that_vanish_fall_back_or_return_are_refused() {
    let memory = Memory::new();
    let (mut store, _) = reopen(&memory, config());
    let set = |name: &str, value: String| StoreOp::Put(parameter(name, value));
    put(&mut store, &group(1, vec![set("a", "1".into()), set("b", "1".repeat(100_000)), set("c", "1".into())]));
    let old = fork(&memory);
    let gone = StoreOp::Delete(parameter("c", "").key());
    put(&mut store, &group(2, vec![set("a", "2".into()), set("b", "2".repeat(100_000)), gone]));
    // Records without anything else in them say it too, and go as before.
    put(&mut store, &group(3, vec![set("d", "1".into())]));
    put(&mut store, &group(4, vec![StoreOp::Delete(parameter("d", "").key())]));
    assert_eq!(memory.keys().iter().filter(|k| k[0] == 1).count(), 1);
    drop(store);
    let definitions = |m: &Memory| m.keys().into_iter().filter(|k| k[0] == 0).collect::<Vec<_>>();
    let old_value = |key: &[u8]| {
        let mut value = None;
        old.tamper(key, |v| {
            value = Some(v.clone());
            Some(v)
        });
        value
    };
    let mut cases = Vec::new();
    for key in definitions(&memory) {
        let whole = key[key.len() - 2..] == [0, 0] && key.contains(&b'a');
        cases.push((key.clone(), None, if whole { "definitions are missing" } else { "" }));
        cases.push((key.clone(), old_value(&key), if whole { "definitions are older" } else { "" }));
    }
    let deleted = definitions(&old).into_iter().find(|k| !memory.keys().contains(k)).unwrap();
    cases.push((deleted.clone(), old_value(&deleted), "definitions that were deleted are back"));
    for (key, value, words) in cases {
        let mut m = fork(&memory);
        m.apply(vec![(key.clone(), value)]).unwrap();
        m.sync().unwrap();
        let error = reopen(&m, config()).1.unwrap_err().to_string();
        assert!(error.contains("in the map") && error.contains(words), "{error}");
        let (mut store, told) = reopen(&m, StoreConfig { accept_data_loss: true, ..config() });
        let told = told.unwrap().definitions;
        assert!(!store.losses().is_empty());
        put(&mut store, &group(5, vec![set("e", "1".into())]));
        assert_eq!(reopen(&m, config()).1.unwrap().definitions.len(), told.len() + 1, "accepted is accepted");
    }
}

#[test]
fn a_flipped_octet_in_a_body_is_never_served() {
    let memory = Memory::new();
    let (mut store, _) = reopen(&memory, config());
    let b = batch(3, &[500; 80]);
    let place = put(&mut store, &group(1, vec![enqueue(1, vec![target(1, 1)], &b)])).places[0].1;
    put(&mut store, &group(2, vec![]));
    let body = place.body.unwrap();
    for at in (0..u64::from(body.len) + 16).step_by(97) {
        if (8..16).contains(&at) {
            continue;
        }
        memory.tamper_file(body.file, |f| f[(body.offset + at) as usize] ^= 1);
        let error = store.reader().read(&place).unwrap_err().to_string();
        assert!(error.contains(&format!("body file {}", body.file)) && error.contains("frame at 0"), "{error}");
        memory.tamper_file(body.file, |f| f[(body.offset + at) as usize] ^= 1);
    }
    assert_reads(&store.reader(), &place, &b);
}

/// Records go on naming files that are missing: new messages must not come under their numbers, where they'd go with them.
#[test]
fn the_number_of_a_missing_file_is_not_given_out_again() {
    let b = batch(1, &[900; 250]);
    let memory = Memory::new();
    let (mut store, _) = reopen(&memory, config());
    for n in 1..=4 {
        put(&mut store, &group(n, vec![enqueue(n, vec![target(1, n * 1000)], &b)]));
    }
    drop(store);
    let named: Vec<u64> = memory.files().unwrap().iter().map(|f| f.0).collect();
    assert!(named.len() > 1, "{named:?}");
    // The last record above the watermark: its body is missing, so it is cut off.
    for (accept_data_loss, cut) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut m = fork(&memory);
        for file in &named {
            m.remove_file(*file).unwrap();
        }
        if cut {
            for key in m.keys().into_iter().filter(|k| k[0] == 1 && k[8] < 4) {
                m.tamper(&key, |_| None);
            }
            let mut mark = m.read_mark().unwrap().unwrap();
            mark[2..10].copy_from_slice(&3u64.to_be_bytes());
            m.write_mark(&mark).unwrap();
        }
        let (mut store, told) = reopen(&m, StoreConfig { accept_data_loss, ..config() });
        let told = told.unwrap();
        assert_eq!(told.runs().len(), if cut { 0 } else { 4 });
        // The records stay, as they do when they hold other things too.
        let purge = StoreOp::Purge { queue: QueueId(1), upto: 5000, except: Vec::new() };
        put(&mut store, &Group { remove_files: named.clone(), ..group(5, vec![purge]) });
        let new = |n| enqueue(n, vec![target(2, n * 1000)], &b);
        let mut places: Vec<_> = (6..9).map(|n| put(&mut store, &group(n, vec![new(n)])).places[0].1).collect();
        drop(store);
        for round in 9..12 {
            let (mut store, told) = reopen(&m, config());
            told.unwrap();
            places.iter().for_each(|place| assert_reads(&store.reader(), place, &b));
            places.push(put(&mut store, &group(round, vec![new(round)])).places[0].1);
        }
        assert!(places.iter().all(|p| p.body.is_some_and(|b| !named.contains(&b.file))));
    }
}

#[test]
fn after_a_cut_any_prefix_of_what_was_not_synced_is_there() {
    let memory = scripted(25);
    let mut store = Store::with_medium(Box::new(memory.clone()), config());
    let script = Script::recover(&mut store).unwrap();
    let durable = told_lsns(&fork(&memory));
    let b = batch(1, &[700; 60]);
    for n in 0..4 {
        let g = Group {
            remove_records: vec![script.runs[&(script.last - n)].lsn],
            ..group(100 + n, vec![enqueue(n, vec![target(2, 1 + n * 60)], &b)])
        };
        store.commit(&g).unwrap();
    }
    assert_eq!(memory.unsynced(), 4);
    for keep in 0..=4 {
        let after = memory.after_crash(keep);
        let lsns = told_lsns(&after);
        assert_eq!(lsns.len(), durable.len(), "one more and one less with each group");
        let kept = lsns.iter().filter(|l| durable.contains(l)).count();
        assert_eq!(kept, durable.len() - keep);
        // And the store that comes after can go on, and is whole.
        let (mut store, told) = reopen(&after, config());
        for run in told.unwrap().runs() {
            store.reader().read(&run.4).unwrap();
        }
        let c = put(&mut store, &group(1, vec![enqueue(1, vec![target(3, 1)], &b)]));
        assert!(c.lsn > *lsns.iter().max().unwrap());
        assert!(told_lsns(&after).contains(&c.lsn));
    }
}

fn told_lsns(memory: &Memory) -> Vec<u64> {
    reopen(memory, config()).1.unwrap().runs().iter().map(|r| r.4.lsn).collect()
}

#[test]
fn a_torn_end_is_cut_off_and_what_follows_works() {
    for (call, fault) in [
        (Call::Apply, Fault::Torn),
        (Call::Apply, Fault::Error),
        (Call::Apply, Fault::Panic),
        (Call::WriteFile, Fault::Torn),
        (Call::WriteFile, Fault::Full),
        (Call::SyncFile, Fault::Error),
        (Call::Sync, Fault::Error),
        (Call::Sync, Fault::Panic),
        (Call::CreateFile, Fault::Full),
        (Call::CreateFile, Fault::Torn),
        (Call::WriteMark, Fault::Error),
    ] {
        let memory = Memory::new();
        let (medium, faults) = Faulty::new(memory.clone());
        let mut store = Store::with_medium(Box::new(medium), config());
        recover(&mut store).unwrap();
        let b = batch(1, &[900; 150]);
        let first = put(&mut store, &group(1, vec![enqueue(1, vec![target(1, 1)], &b)]));
        faults.arm(call, 0, fault);
        // Many ops, so that the record has several parts and can be torn between them.
        let mut ops = vec![enqueue(2, vec![target(1, 151)], &b), enqueue(3, vec![target(1, 301)], &b)];
        ops.extend(
            (0..9000)
                .map(|q| hornpipe_types::op::StoreOp::DropQueue(hornpipe_types::ids::QueueId(1000 + q * 999_999_999))),
        );
        // The mark is renewed behind the report.
        let result = store.commit(&group(2, ops)).and_then(|_| store.sync()).and_then(|_| store.tend());
        let error = result.expect_err("the fault is reported");
        assert!(matches!(error, StoreError::Fatal(_)), "{call:?} {fault:?}: {error}");
        // Sticky: nothing is accepted any more, and nothing is confirmed.
        for _ in 0..2 {
            assert!(matches!(store.commit(&group(3, vec![])), Err(StoreError::Fatal(_))));
            assert!(store.sync().is_err());
        }
        assert!(store.close().is_err());
        let unsynced = if call == Call::WriteMark { 0 } else { memory.unsynced() };
        for keep in 0..=unsynced {
            let after = memory.after_crash(keep);
            let (mut store, told) = reopen(&after, config());
            let told = told.unwrap_or_else(|e| panic!("{call:?} {fault:?} {keep}: {e}"));
            assert!(!told.clean);
            assert_eq!(told.runs()[0].4, first.places[0].1);
            assert!([1, 3].contains(&told.runs().len()), "{call:?} {fault:?}: all of a group or nothing");
            let next = put(&mut store, &group(4, vec![enqueue(4, vec![target(2, 1)], &b)]));
            let (store, told) = reopen(&after, config());
            let runs = told.unwrap().runs();
            assert_eq!(runs.last().unwrap().4, next.places[0].1);
            for r in runs {
                assert_reads(&store.reader(), &r.4, &b);
            }
        }
    }
}

#[test]
fn bodies_are_on_disk_before_they_are_named_and_files_go_last() {
    let (medium, faults) = Faulty::new(Memory::new());
    let mut store =
        Store::with_medium(Box::new(medium), StoreConfig { mark_every: std::time::Duration::MAX, ..config() });
    recover(&mut store).unwrap();
    let b = batch(1, &[900; 150]);
    faults.take_calls();
    let c = put(&mut store, &group(1, vec![enqueue(1, vec![target(1, 1)], &b)]));
    let bodies = [Call::CreateFile, Call::WriteFile, Call::SyncFile];
    let log = [Call::Apply, Call::Sync, Call::NoteMark];
    // The first group ever is worth a mark that outlives a cut of power.
    assert_eq!(faults.take_calls(), [&bodies[..], &log, &[Call::WriteMark]].concat());
    put(&mut store, &group(2, vec![enqueue(2, vec![target(1, 200)], &batch(1, &[10]))]));
    assert_eq!(faults.take_calls(), log, "a small group needs one sync");
    let g =
        Group { remove_records: vec![c.lsn], remove_files: vec![c.places[0].1.body.unwrap().file], ..group(3, vec![]) };
    put(&mut store, &g);
    assert_eq!(faults.take_calls(), [&[Call::SealFile], &log[..], &[Call::RemoveFile]].concat());
    put(&mut store, &group(4, vec![]));
    assert_eq!(faults.take_calls(), [], "nothing to do");
}

#[test]
fn a_database_that_does_not_open_is_moved_aside_only_when_loss_is_accepted() {
    let bed = on_disk();
    let (mut store, _) = open(&bed);
    put(&mut store, &group(1, vec![enqueue(1, vec![target(1, 1)], &batch(1, &[10; 3000]))]));
    store.close().unwrap();
    let shard = bed.0.path().join("shard-0");
    // sled's parameters are always the same: they are blamed by name, and nothing is lost with them.
    fs::write(shard.join("db/conf"), b"no such thing at all").unwrap();
    let error = bed.open(config()).unwrap_err().to_string();
    assert!(error.contains("db/conf is damaged"), "{error}");
    let mut store = bed.open(StoreConfig { accept_data_loss: true, ..config() }).unwrap();
    assert_eq!(recover(&mut store).unwrap().runs().len(), 1);
    store.close().unwrap();
    fs::remove_file(shard.join("db/db")).unwrap();
    fs::write(shard.join("generation"), b"none of them").unwrap();
    fs::remove_dir_all(shard.join("db")).unwrap();
    assert!(bed.open(config()).is_err());
    assert!(shard.join("bodies").exists(), "nothing was touched");
    let mut store = bed.open(StoreConfig { accept_data_loss: true, ..config() }).unwrap();
    let told = recover(&mut store).unwrap();
    assert!(told.items.is_empty());
    assert!(bed.0.path().join("shard-0.damaged-1/bodies").exists());
}

/// What is there of a store without its database or its mark is no new store.
#[test]
fn a_store_without_its_database_or_mark_is_not_taken_for_a_new_one() {
    let accepting = || StoreConfig { accept_data_loss: true, ..config() };
    let bed = on_disk();
    let (mut store, _) = open(&bed);
    put(&mut store, &group(1, vec![enqueue(1, vec![target(1, 1)], &batch(1, &[10; 3000]))]));
    store.close().unwrap();
    let shard = bed.0.path().join("shard-0");
    for gone in ["db/db", "db", "bodies and db"] {
        let bed = OnDisk(tempfile::tempdir().unwrap());
        copy(&shard, &bed.0.path().join("shard-0"));
        let shard = bed.0.path().join("shard-0");
        match gone {
            "db/db" => fs::remove_file(shard.join(gone)).unwrap(),
            _ => fs::remove_dir_all(shard.join("db")).unwrap(),
        }
        if gone.starts_with("bodies") {
            fs::remove_dir_all(shard.join("bodies")).unwrap();
        }
        let error = bed.open(config()).unwrap_err().to_string();
        assert!(error.contains("db/db is damaged: it is missing"), "{gone}: {error}");
        assert!(!shard.join("db/db").exists(), "nothing was made");
        let mut store = bed.open(accepting()).unwrap();
        assert!(recover(&mut store).unwrap().items.is_empty());
        assert!(store.losses()[0].contains("shard-0.damaged-1"), "{:?}", store.losses());
    }
    fs::remove_file(shard.join("mark")).unwrap();
    let error = bed.open(config()).unwrap_err().to_string();
    assert!(error.contains("mark is damaged: it is missing"), "{error}");
    assert!(!shard.join("mark").exists(), "nothing was made");
    let mut store = bed.open(accepting()).unwrap();
    assert_eq!(recover(&mut store).unwrap().runs().len(), 1);
    assert!(store.losses()[0].contains("mark is damaged"), "{:?}", store.losses());
    assert!(store.unchecked()[0].contains("groups at its end may be missing unseen"), "{:?}", store.unchecked());
    store.close().unwrap();
    let (store, told) = open(&bed);
    assert!(told.clean && store.losses().is_empty() && store.unchecked().is_empty(), "accepted is accepted");
}

/// The last record counts definitions even if it is of a group that was under way, and when other damage is accepted.
#[test]
fn definitions_are_checked_behind_a_cut_and_beside_accepted_damage() {
    let memory = Memory::new();
    let (mut store, _) = reopen(&memory, config());
    let set = |name: &str, value: &str| StoreOp::Put(parameter(name, value));
    put(&mut store, &group(1, vec![set("a", "1"), set("b", "1")]));
    put(&mut store, &group(2, vec![enqueue(1, vec![target(1, 1)], &batch(1, &[10]))]));
    put(&mut store, &group(3, vec![enqueue(2, vec![target(1, 2)], &batch(1, &[10]))]));
    let drops = (0..9000).map(|q| StoreOp::DropQueue(QueueId(1000 + q * 999_999_999)));
    store.commit(&group(4, drops.chain([set("a", "2"), set("c", "2")]).collect())).unwrap();
    // The batch is there by chance, and its record has lost a part: a cut.
    let cut = memory.after_crash(1);
    let records = |m: &Memory| m.keys().into_iter().filter(|k| k[0] == 1).collect::<Vec<_>>();
    let last: Vec<_> = records(&cut).into_iter().filter(|k| k[1..9] == 4u64.to_be_bytes()).collect();
    assert!(last.len() > 1, "several parts");
    cut.tamper(&last[0], |_| None);
    let (store, told) = reopen(&fork(&cut), config());
    assert_eq!(told.unwrap().definitions.len(), 3);
    assert!(store.unchecked().is_empty() && store.losses().is_empty());
    let definition = |m: &Memory| m.keys().into_iter().find(|k| k[0] == 0).unwrap();
    let less = fork(&cut);
    less.tamper(&definition(&less), |_| None);
    let error = reopen(&less, config()).1.unwrap_err().to_string();
    assert!(error.contains("definitions are missing: 2 parts of definitions are there, 3 must be"), "{error}");
    let (store, told) = reopen(&less, StoreConfig { accept_data_loss: true, ..config() });
    assert_eq!((told.unwrap().definitions.len(), store.losses().len()), (2, 1));
    assert!(reopen(&less, config()).1.is_ok(), "accepted is accepted");
    // Without the part that counts it is said that nothing was compared.
    let blind = fork(&cut);
    blind.tamper(last.last().unwrap(), |mut v| {
        v[20] ^= 1;
        Some(v)
    });
    blind.tamper(&definition(&blind), |_| None);
    let (store, told) = reopen(&blind, config());
    assert_eq!(told.unwrap().definitions.len(), 2);
    assert!(store.unchecked()[0].contains("whether the 2 parts of definitions"), "{:?}", store.unchecked());
    // Beside a record that is lost below the watermark.
    let hurt = memory.after_crash(0);
    hurt.tamper(&records(&hurt)[1], |_| None);
    hurt.tamper(&definition(&hurt), |_| None);
    let (store, told) = reopen(&hurt, StoreConfig { accept_data_loss: true, ..config() });
    assert_eq!(told.unwrap().definitions.len(), 1);
    assert!(store.losses().iter().any(|l| l.contains("definitions are missing")), "{:?}", store.losses());
}

/// sled writes its parameters in two steps; a kill may leave any beginning of them.
#[test]
fn parameters_that_were_only_begun_are_made_anew() {
    let bed = on_disk();
    let (mut store, _) = open(&bed);
    put(&mut store, &group(1, vec![enqueue(1, vec![target(1, 1)], &batch(1, &[10; 3]))]));
    store.close().unwrap();
    let conf = bed.0.path().join("shard-0/db/conf");
    let whole = fs::read(&conf).unwrap();
    for len in [0, 1, 8, 9, whole.len() / 2, whole.len() - 5, whole.len() - 4, whole.len() - 3, whole.len() - 1] {
        fs::write(&conf, &whole[..len]).unwrap();
        let (store, told) = open(&bed);
        assert_eq!(told.runs().len(), 1, "{len}");
        store.close().unwrap();
        assert_eq!(fs::read(&conf).unwrap(), whole, "{len}");
    }
    // What isn't a beginning is another file.
    for other in [[&whole[..], b"0"].concat(), [&whole[..20], b"x"].concat()] {
        fs::write(&conf, &other).unwrap();
        assert!(open_alone(&bed).unwrap_err().to_string().contains("db/conf is damaged"));
    }
}
