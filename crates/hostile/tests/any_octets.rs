//! The fuzz targets on any Rust: random octets, octets near those kept in `crates/fuzz/corpus`, and those themselves.

use hornpipe_hostile::{commands, connection, frame, record};
use proptest::prelude::*;
use std::path::Path;

/// The kept inputs of a target, in the order of their names.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.expect("a name in the folder").path())
        .collect();
    paths.sort();
    let found: Vec<_> = paths.iter().map(|path| std::fs::read(path).expect("a file of the corpus")).collect();
    assert!(!found.is_empty(), "nothing in {}", folder.display());
    found
}

/// A kept input with some octets changed, cut or repeated.
fn near(target: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0u8..4);
    (prop::sample::select(corpus(target)), prop::collection::vec(change, 1..8)).prop_map(|(mut octets, changes)| {
        for (at, value, kind) in changes {
            let at = at.index(octets.len() + 1);
            match kind {
                0 => octets.truncate(at.max(octets.len() / 2)),
                1 => octets.insert(at, value),
                2 => octets.extend_from_within(at..),
                _ => octets.iter_mut().skip(at).take(1).for_each(|o| *o = value),
            }
            octets.truncate(4096);
        }
        octets
    })
}

fn any_or_near(target: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    prop_oneof![1 => prop::collection::vec(any::<u8>(), 0..600), 3 => near(target)]
}

#[test]
fn kept_inputs_keep_the_promises() {
    corpus("frame").iter().for_each(|octets| frame::run(octets));
    corpus("connection").iter().for_each(|octets| connection::run(octets));
    corpus("record").iter().for_each(|octets| record::run(octets));
    corpus("commands").iter().for_each(|octets| commands(octets));
}

proptest! {
    #[test]
    fn frames_say_the_same_however_they_are_cut(octets in any_or_near("frame")) {
        frame::run(&octets);
    }

    #[test]
    fn a_connection_answers_any_octets(octets in any_or_near("connection")) {
        connection::run(&octets);
    }

    #[test]
    fn a_damaged_record_is_refused_or_read(octets in any_or_near("record")) {
        record::run(&octets);
    }

    #[test]
    fn commands_near_those_kept_add_up(octets in near("commands")) {
        commands(&octets);
    }
}
