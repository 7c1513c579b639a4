//! Cases × brokers × rounds, brokers taking turns so that what else the machine does hits all alike.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::broker::{Broker, Running, Startable, Target};
use crate::plan::{Case, Flags, Plan};
use crate::process::machine;
use crate::report::{Outcome, Rounds, note, say, table};
use crate::{alone, beside, churn, load, scale, start};

/// A broker in a comparison.
#[derive(Debug)]
enum Contender {
    /// One that runs already; it can't take part in the cases about starting.
    Running(Running),
    /// One that is started anew for each case, so that memory and log of one case don't weigh on the next.
    Startable(Startable),
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
    /// Where the table goes beside standard output, with the machine and the command.
    pub(crate) table: Option<PathBuf>,
}

impl Suite {
    /// Runs all and prints the table.
    ///
    /// # Errors
    /// When a broker can't be started, or at the end when a run failed its checks.
    pub(crate) fn run(self) -> Result<()> {
        let startable = self.startable.into_iter().map(Contender::Startable);
        let contenders: Vec<Contender> = startable.chain(self.running.into_iter().map(Contender::Running)).collect();
        if contenders.is_empty() {
            bail!("no broker: give --broker name=URL,pid=N or --start hornpipe=PATH");
        }
        let mut results = Vec::new();
        let mut failures = Vec::new();
        for case in self.cases {
            let title = case.map_or("load", Case::title);
            let mut of_case = vec![Rounds::default(); contenders.len()];
            let stands = contenders.iter().map(|contender| contender.stand(case)).collect::<Result<Vec<_>>>()?;
            // Cases that take long even where they go fast, or that repeat well, get a third of the rounds.
            let long = matches!(case, Some(Case::E | Case::I | Case::J | Case::K | Case::L | Case::Q | Case::R));
            let rounds = if long { self.rounds.div_ceil(3) } else { self.rounds };
            for round in 0..rounds {
                for ((contender, stand), results) in contenders.iter().zip(&stands).zip(&mut of_case) {
                    if results.failure.is_some() {
                        continue;
                    }
                    match stand.run(case, &self.flags) {
                        Ok(Some(outcome)) => {
                            note(&format!("{title}, {}, round {}\n{}", contender.name(), round + 1, outcome.lines()));
                            results.outcomes.push(outcome);
                        }
                        Ok(None) => {}
                        Err(error) => {
                            let text = format!("{error:#}");
                            note(&format!("{title}, {}: {text}", contender.name()));
                            failures.push(format!("{title}, {}", contender.name()));
                            results.failure = Some(text);
                        }
                    }
                }
            }
            results.push((title.to_owned(), of_case));
        }
        let names: Vec<String> = contenders.iter().map(|contender| contender.name().to_owned()).collect();
        let text = table(&names, &results);
        say(&text);
        if let Some(path) = &self.table {
            fs::write(path, format!("{}\n\n{text}", circumstances()))
                .with_context(|| format!("writing {}", path.display()))?;
        }
        if failures.is_empty() { Ok(()) } else { bail!("failed: {}", failures.join("; ")) }
    }
}

/// Where and how the figures of a table came about.
fn circumstances() -> String {
    let command: Vec<String> = std::env::args().skip(1).collect();
    format!("{}.\n\n```\nhornpipe-bench {}\n```", machine(), command.join(" "))
}

impl Contender {
    fn name(&self) -> &str {
        match self {
            Self::Running(running) => &running.name,
            Self::Startable(what) => &what.name,
        }
    }

    /// What the rounds of a case run against.
    fn stand(&self, case: Option<Case>) -> Result<Stand> {
        Ok(match (self, case) {
            (Self::Running(_), Some(Case::K | Case::L)) => Stand::Absent,
            (Self::Running(running), _) => Stand::Running { target: running.target.clone(), _broker: None },
            // What grows is only seen in a process that has not grown in an earlier round.
            (Self::Startable(what), Some(Case::I | Case::J | Case::K | Case::L)) => Stand::PerRound(what.clone()),
            (Self::Startable(what), _) => {
                let mut broker = Broker::prepare(what)?;
                let (target, _) = broker.start()?;
                Stand::Running { target, _broker: Some(broker) }
            }
        })
    }
}

/// A broker during one case.
#[derive(Debug)]
enum Stand {
    /// It runs; the broker, if it is ours, ends with the case.
    Running { target: Target, _broker: Option<Broker> },
    /// Every round starts one.
    PerRound(Startable),
    /// It can't take part.
    Absent,
}

impl Stand {
    /// One round; `None` when this broker can't take part.
    fn run(&self, case: Option<Case>, flags: &Flags) -> Result<Option<Outcome>> {
        let outcome = match (self, case) {
            (Self::Absent, _) => return Ok(None),
            (Self::Running { target, .. }, _) => run_against(target, case, flags)?,
            (Self::PerRound(what), Some(Case::K)) => start::fresh(what)?,
            (Self::PerRound(what), Some(Case::L)) => {
                start::with_backlog(what, flags.count.unwrap_or(1_000_000), flags.body.unwrap_or(100))?
            }
            (Self::PerRound(what), _) => {
                let mut broker = Broker::prepare(what)?;
                let (target, _) = broker.start()?;
                let outcome = run_against(&target, case, flags)?;
                broker.stop()?;
                outcome
            }
        };
        Ok(Some(outcome))
    }
}

/// Runs a case against a running broker.
pub(crate) fn run_against(target: &Target, case: Option<Case>, flags: &Flags) -> Result<Outcome> {
    let count = |default: usize| flags.count.map_or(default, |count| usize::try_from(count).unwrap_or(default));
    match case {
        Some(Case::I) => scale::idle_connections(target, count(2000)),
        Some(Case::J) => scale::many_queues(target, count(10_000)),
        Some(Case::M) => churn::open_and_close(target, flags),
        Some(Case::K | Case::L) => bail!("this case starts the broker itself: use suite --start"),
        Some(Case::Q) => beside::small_client(target, flags.seconds.unwrap_or(3.0)),
        Some(Case::R) => beside::stuck_consumer(target, flags),
        Some(Case::H | Case::S) => {
            let plan = Plan::new(case, flags)?;
            let mut outcome = Outcome::default();
            // First, while nothing else writes to the disk.
            let alone = alone::writes(plan.body, plan.rate.unwrap_or(1000.0), &mut outcome)?;
            let figures = load::run(target, &plan)?;
            let confirm = figures.get("confirm p50, ms");
            outcome.0.extend(figures.0);
            if let Some(confirm) = confirm {
                outcome.add("confirm p50 above sled alone, ms", confirm - alone.sled);
                outcome.add("confirm p50 above store alone, ms", confirm - alone.store);
            }
            Ok(outcome)
        }
        _ => load::run(target, &Plan::new(case, flags)?),
    }
}
