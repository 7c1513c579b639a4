//! Random lists of commands, sensible and not, of several clients: see `hornpipe_testkit::script`, which checks what must hold.

use hornpipe_core::rng::Rng;
use hornpipe_testkit::script;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    /// Nothing panics, counts and octets add up after every turn, nothing is left once all is drained; and the same
    /// commands give the same effects.
    #[test]
    fn adds_up_whatever_clients_say(octets in prop::collection::vec(any::<u8>(), 0..2500)) {
        let first = script::run(&octets);
        prop_assert_eq!(script::run(&octets), first);
    }
}

/// The scripts must get somewhere, or the checks are worth nothing.
#[test]
fn scripts_get_somewhere() {
    let mut rng = Rng::new(1);
    let (mut commands, mut entered, mut effects) = (0, 0, 0);
    for _ in 0..20 {
        let octets: Vec<u8> = (0..4000).map(|_| rng.below(256) as u8).collect();
        let outcome = script::run(&octets);
        commands += outcome.commands;
        entered += outcome.entered;
        effects += outcome.effects;
    }
    assert!(commands > 2000 && entered > 500 && effects > 1000, "{commands} {entered} {effects}");
}
