//! How figures change as one thing grows: connections, queues, bindings, consumers, sizes, backlogs.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::broker::{Broker, Startable};
use crate::plan::{Case, Flags};
use crate::report::{Outcome, figure, note, say};
use crate::suite::run_against;
use crate::svg;

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Grows {
    /// Publishing connections to one queue
    Connections,
    /// Queues that one publisher addresses in turn, 8 messages each
    Queues,
    /// Bindings of one topic exchange, each message another key
    Bindings,
    /// Consumers of one queue, on 1 to 10 connections
    Consumers,
    /// Body size
    Size,
    /// Messages waiting in one queue, put there and taken out again
    Backlog,
    /// Clients side by side that only connect, log in and leave
    Clients,
}

/// How a curve is made.
struct Made {
    title: &'static str,
    x_name: &'static str,
    xs: &'static [u64],
}

impl Grows {
    pub(crate) const ALL: [Self; 7] =
        [Self::Connections, Self::Queues, Self::Bindings, Self::Consumers, Self::Size, Self::Backlog, Self::Clients];

    fn made(self) -> Made {
        let (title, x_name, xs): (_, _, &[u64]) = match self {
            Self::Connections => ("16 B transient from many connections", "connections", &[1, 10, 100, 1000, 5000]),
            Self::Queues => ("16 B transient over many queues", "queues", &[1, 10, 100, 1000, 10_000, 100_000]),
            Self::Bindings => ("16 B through a topic exchange", "bindings", &[1, 10, 100, 1000, 10_000, 100_000]),
            Self::Consumers => ("16 B transient to many consumers of a queue", "consumers", &[1, 10, 100, 1000]),
            Self::Size => (
                "transient bodies of many sizes",
                "body, bytes",
                &[16, 128, 1 << 10, 8 << 10, 64 << 10, 512 << 10, 4 << 20, 16 << 20],
            ),
            Self::Clients => ("connections that come and go", "clients", &[1, 2, 4, 16, 64, 256, 1000]),
            Self::Backlog => (
                "100 B persistent, confirmed, put in and taken out",
                "messages waiting",
                &[1000, 10_000, 100_000, 1_000_000, 10_000_000],
            ),
        };
        Made { title, x_name, xs }
    }

    /// The load at a point: a case and what differs from it.
    fn load(self, x: u64, seconds: f64) -> Result<(Option<Case>, Flags)> {
        let n = usize::try_from(x)?;
        let flags = Flags { seconds: Some(seconds), ..Flags::default() };
        let flags = match self {
            // A thread for each would measure the machine's scheduler.
            Self::Connections => Flags { publishers: Some(n), threads: Some(1), write: Some(1024), ..flags },
            Self::Queues => Flags { queues: Some(n), consumers: Some(1), spread: Some(8), ..flags },
            Self::Bindings => {
                let queues = if n < 10 { 1 } else { 10 };
                Flags { topic: Some(n), queues: Some(queues), ..flags }
            }
            Self::Consumers => {
                let connections = n.min(10);
                Flags { consumers: Some(connections), subscriptions: Some(n / connections), ..flags }
            }
            Self::Size => Flags { body: Some(n), ..flags },
            Self::Backlog => return Ok((Some(Case::E), Flags { count: Some(x), ..Flags::default() })),
            Self::Clients => return Ok((Some(Case::M), Flags { clients: Some(n), ..flags })),
        };
        Ok((None, flags))
    }
}

/// Figures that are drawn, panel by panel.
const PANELS: [&[&str]; 3] = [
    &["in, messages/s", "out, messages/s", "opened and closed/s"],
    &["broker CPU s per M", "broker CPU s per M in", "broker CPU s per M out"],
    &["broker CPU ms per connection"],
];

/// Makes the curves, prints a table for each, and draws it to a folder.
///
/// # Errors
/// When a broker can't be started or a run fails its checks.
pub(crate) fn run(
    what: &Startable,
    curves: &[Grows],
    most: Option<u64>,
    seconds: f64,
    out: Option<&Path>,
) -> Result<()> {
    for curve in curves {
        let made = curve.made();
        let mut points: Vec<(u64, Outcome)> = Vec::new();
        for &x in made.xs.iter().filter(|x| most.is_none_or(|most| **x <= most)) {
            let (case, flags) = curve.load(x, seconds)?;
            let mut broker = Broker::prepare(what)?;
            let (target, _) = broker.start()?;
            let outcome = run_against(&target, case, &flags).with_context(|| format!("{x} {}", made.x_name))?;
            broker.stop()?;
            note(&format!("{}: {x} {}\n{}", what.name, made.x_name, outcome.lines()));
            points.push((x, outcome));
        }
        if points.is_empty() {
            bail!("no point of {curve:?} is within --most");
        }
        say(&table(&made, &points));
        if let Some(folder) = out {
            fs::create_dir_all(folder)?;
            let name = curve.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
            let path = folder.join(format!("curve-{name}.svg"));
            fs::write(&path, draw(&made, &points)).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    Ok(())
}

fn table(made: &Made, points: &[(u64, Outcome)]) -> String {
    let mut names: Vec<&'static str> = Vec::new();
    for metric in points.iter().flat_map(|(_, outcome)| &outcome.0) {
        if !names.contains(&metric.name) {
            names.push(metric.name);
        }
    }
    let mut text = format!("{}\n\n| {} |", made.title, made.x_name);
    for name in &names {
        let _ = write!(text, " {name} |");
    }
    let _ = writeln!(text, "\n|---:|{}", "---:|".repeat(names.len()));
    for (x, outcome) in points {
        let _ = write!(text, "| {} |", figure(*x as f64));
        for name in &names {
            let _ = write!(text, " {} |", outcome.get(name).map_or_else(|| "–".to_owned(), figure));
        }
        text.push('\n');
    }
    text
}

fn draw(made: &Made, points: &[(u64, Outcome)]) -> String {
    let curve = |name: &&'static str| {
        let of = |(x, outcome): &(u64, Outcome)| Some((*x as f64, outcome.get(name).filter(|value| *value > 0.0)?));
        let drawn: Vec<(f64, f64)> = points.iter().filter_map(of).collect();
        (!drawn.is_empty()).then_some((*name, drawn))
    };
    let panels: Vec<Vec<svg::Curve>> = PANELS.iter().map(|names| names.iter().filter_map(curve).collect()).collect();
    let panels: Vec<_> = panels.into_iter().filter(|curves: &Vec<svg::Curve>| !curves.is_empty()).collect();
    svg::plot(made.title, made.x_name, &panels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    #[test]
    fn every_point_is_a_sound_load() {
        for curve in Grows::ALL {
            for x in curve.made().xs {
                match curve.load(*x, 1.0).expect("a size") {
                    (Some(Case::M), flags) => assert_eq!(flags.clients, usize::try_from(*x).ok()),
                    (case, flags) => assert!(Plan::new(case, &flags).is_ok(), "{curve:?} {x}"),
                }
            }
        }
    }

    #[test]
    fn what_was_not_measured_is_not_drawn() {
        let mut outcome = Outcome::default();
        outcome.add("in, messages/s", 10.0);
        let points = [(1, outcome), (10, Outcome::default())];
        assert!(table(&Grows::Size.made(), &points).contains("| 1.00 | 10.0 |\n| 10.0 | – |"));
        assert_eq!(draw(&Grows::Size.made(), &points).matches("<circle").count(), 1);
    }
}
