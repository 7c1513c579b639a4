//! A few hundred seeds, and those that once found something.

use hornpipe_sim::{LATE, QUITTING, RESTLESS, Summary, known_seeds, run};

const FRESH: u64 = 400;

#[test]
fn seeds_hold() {
    let mut failures = Vec::new();
    let mut all = Summary::default();
    let special = [RESTLESS, LATE, QUITTING].into_iter().flat_map(|first| first..first + FRESH / 4);
    for seed in known_seeds().into_iter().chain(1..=FRESH).chain(special) {
        match run(seed) {
            Ok(s) => {
                all.published += s.published;
                all.delivered += s.delivered;
                all.confirmed += s.confirmed;
                all.crashes += s.crashes;
                all.stops += s.stops;
                all.loads += s.loads;
                all.held += s.held;
            }
            Err(failure) => failures.push(format!("seed {seed}: {failure}")),
        }
    }
    assert!(failures.is_empty(), "{} seeds fail:\n{}", failures.len(), failures.join("\n"));
    // a simulation in which nothing happens would hold too
    assert!(all.published > 50_000 && all.delivered > 50_000 && all.confirmed > 10_000, "{all:?}");
    assert!(all.crashes > 300 && all.stops > 50 && all.loads > 100 && all.held > 5_000, "{all:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 1..=10 {
        assert_eq!(run(seed).map_err(|f| f.to_string()), run(seed).map_err(|f| f.to_string()));
    }
}
