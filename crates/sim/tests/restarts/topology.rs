//! Exchanges and bindings.

use crate::rig::{Rig, persistent, text};

/// The buckets of a consistent hash are numbered in the order of the bindings, also after a restart brought these in
/// another order.
#[test]
fn consistent_hash_sends_each_key_where_it_went_before() {
    let mut rig = Rig::new();
    rig.exchange("hash", "x-consistent-hash", &[]);
    // neither the order of names nor that of weights
    for (queue, weight) in [("m", "3"), ("z", "1"), ("a", "2"), ("k", "10"), ("b", "2")] {
        rig.declare(queue, true, &[]);
        rig.bind(queue, "hash", weight);
    }
    let keys: Vec<String> = (0..60).map(|n| format!("key {n}")).collect();
    let spread = |rig: &mut Rig| {
        for key in &keys {
            rig.publish("hash", key, &persistent(), &[key]);
        }
        ["m", "z", "a", "k", "b", "c"].map(|queue| {
            rig.declare(queue, true, &[]);
            rig.drain(queue)
        })
    };
    let before = spread(&mut rig);
    assert!(before.iter().filter(|keys| !keys.is_empty()).count() >= 4, "{before:?}");
    rig.crash();
    assert_eq!(spread(&mut rig), before);
    // a new binding comes after those that were recovered
    rig.bind("c", "hash", "4");
    let with_c = spread(&mut rig);
    assert_ne!(with_c, before);
    for stop in [Rig::restart, Rig::crash] {
        stop(&mut rig);
        assert_eq!(spread(&mut rig), with_c);
    }
}

/// A dead letter, a fan-out and a policy go on as before.
#[test]
fn bindings_of_all_kinds_are_back() {
    let mut rig = Rig::new();
    rig.exchange("first", "fanout", &[]);
    rig.exchange("aside", "fanout", &[]);
    rig.exchange("last", "direct", &[("alternate-exchange", text("aside"))]);
    rig.declare("a", true, &[]);
    rig.declare("b", true, &[]);
    rig.bind("a", "first", "");
    rig.bind("a", "last", "k");
    rig.bind("b", "aside", "");
    for stop in [Rig::crash, Rig::restart] {
        stop(&mut rig);
        rig.publish("first", "", &persistent(), &["1"]);
        rig.publish("last", "k", &persistent(), &["2"]);
        rig.publish("last", "other", &persistent(), &["3"]);
        assert_eq!((rig.drain("a"), rig.drain("b")), (vec!["1".to_owned(), "2".to_owned()], vec!["3".to_owned()]));
    }
}
