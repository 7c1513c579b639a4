//! Cases × brokers × rounds, brokers taking turns so that what else the machine does hits all alike.

use anyhow::{Result, bail};

use crate::broker::{Broker, Running, Startable, Target};
use crate::plan::{Case, Flags, Plan};
use crate::report::{Outcome, Rounds, note, say, table};
use crate::{load, scale, start};

/// A broker in a comparison.
#[derive(Debug)]
struct Contender {
    name: String,
    target: Target,
    /// How to start another one; without it the cases about starting are left out.
    start: Option<Startable>,
    /// Keeps the broker alive.
    _broker: Option<Broker>,
}

/// What a suite does.
#[derive(Debug)]
pub(crate) struct Suite {
    pub(crate) running: Vec<Running>,
    pub(crate) startable: Vec<Startable>,
    /// `None`: one load described by the flags alone.
    pub(crate) cases: Vec<Option<Case>>,
    pub(crate) rounds: usize,
    pub(crate) flags: Flags,
}

impl Suite {
    /// Runs all and prints the table.
    ///
    /// # Errors
    /// When a broker can't be started, or at the end when a run failed its checks.
    pub(crate) fn run(self) -> Result<()> {
        let mut contenders: Vec<Contender> = Vec::new();
        for what in &self.startable {
            let mut broker = Broker::prepare(what)?;
            let (target, took) = broker.start()?;
            note(&format!("{} started in {:.2} s", what.kind.name(), took.as_secs_f64()));
            let start = Some(what.clone());
            contenders.push(Contender { name: what.kind.name().to_owned(), target, start, _broker: Some(broker) });
        }
        for Running { name, target } in self.running {
            contenders.push(Contender { name, target, start: None, _broker: None });
        }
        if contenders.is_empty() {
            bail!("no broker: give --broker name=URL,pid=N or --start hornpipe=PATH");
        }
        let mut results = Vec::new();
        let mut failures = Vec::new();
        for case in self.cases {
            let title = case.map_or("load", Case::title);
            let mut of_case = vec![Rounds::default(); contenders.len()];
            // Cases that take long even where they go fast, or that repeat well, get a third of the rounds.
            let long = matches!(case, Some(Case::E | Case::I | Case::J | Case::K | Case::L));
            let rounds = if long { self.rounds.div_ceil(3) } else { self.rounds };
            for round in 0..rounds {
                for (contender, results) in contenders.iter().zip(&mut of_case) {
                    if results.failure.is_some() {
                        continue;
                    }
                    match contender.run(case, &self.flags) {
                        Ok(Some(outcome)) => {
                            note(&format!("{title}, {}, round {}\n{}", contender.name, round + 1, outcome.lines()));
                            results.outcomes.push(outcome);
                        }
                        Ok(None) => {}
                        Err(error) => {
                            let text = format!("{error:#}");
                            note(&format!("{title}, {}: {text}", contender.name));
                            failures.push(format!("{title}, {}", contender.name));
                            results.failure = Some(text);
                        }
                    }
                }
            }
            results.push((title.to_owned(), of_case));
        }
        let names: Vec<String> = contenders.iter().map(|contender| contender.name.clone()).collect();
        say(&table(&names, &results));
        if failures.is_empty() { Ok(()) } else { bail!("failed: {}", failures.join("; ")) }
    }
}

impl Contender {
    /// One run; `None` when this broker can't take part.
    fn run(&self, case: Option<Case>, flags: &Flags) -> Result<Option<Outcome>> {
        match (case, &self.start) {
            (Some(Case::K), Some(start)) => start::fresh(start).map(Some),
            (Some(Case::L), Some(start)) => {
                start::with_backlog(start, flags.count.unwrap_or(1_000_000), flags.body.unwrap_or(100)).map(Some)
            }
            (Some(Case::K | Case::L), None) => Ok(None),
            // What grows is only seen in a process that has not grown before.
            (Some(Case::I | Case::J), Some(start)) => {
                let mut broker = Broker::prepare(start)?;
                let (target, _) = broker.start()?;
                let outcome = run_against(&target, case, flags)?;
                broker.stop()?;
                Ok(Some(outcome))
            }
            _ => run_against(&self.target, case, flags).map(Some),
        }
    }
}

/// Runs a case against a running broker.
pub(crate) fn run_against(target: &Target, case: Option<Case>, flags: &Flags) -> Result<Outcome> {
    let count = |default: usize| flags.count.map_or(default, |count| usize::try_from(count).unwrap_or(default));
    match case {
        Some(Case::I) => scale::idle_connections(target, count(2000)),
        Some(Case::J) => scale::many_queues(target, count(10_000)),
        Some(Case::M) => scale::open_and_close(target, flags.seconds.unwrap_or(2.0)),
        Some(Case::K | Case::L) => bail!("this case starts the broker itself: use suite --start"),
        _ => load::run(target, &Plan::new(case, flags)?),
    }
}
