//! Load generator for AMQP 0-9-1 brokers.
//!
//! It speaks the protocol by hand over blocking sockets, publishes from pre-built buffers and scans deliveries in place, so
//! that it takes little of a machine it shares with the broker. Every run checks what it measures: each message once, in
//! the order its publisher sent it, with the body it had.
//!
//! ```text
//! hornpipe-bench run a --url amqp://guest:guest@127.0.0.1:5672/%2F --pid 4711
//! hornpipe-bench run --url … --body 4096 --confirm 500 --persistent true --ack 50 --seconds 10
//! hornpipe-bench run c --compare URL_A=PID URL_B=PID --rounds 5
//! hornpipe-bench suite --start hornpipe=target/release/hornpipe --start rabbitmq=tests/run/rabbitmq.sh --cases a,b,c
//! ```

mod alone;
mod batch;
mod beside;
mod broker;
mod churn;
mod client;
mod confirms;
mod consumer;
mod curves;
mod histogram;
mod inputs;
mod inside;
mod instructions;
mod load;
mod plan;
mod process;
mod publisher;
mod report;
mod routing;
mod scale;
mod scanner;
mod sink;
mod start;
mod suite;
mod svg;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use crate::broker::{Running, Startable, Target};
use crate::curves::Grows;
use crate::inputs::{seconds, within};
use crate::plan::{Case, Flags, Plan};
use crate::report::{note, say};
use crate::suite::{Suite, run_against};

/// Measures AMQP 0-9-1 brokers
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One case, or a load described by flags, against one broker or several in turn
    #[command(allow_negative_numbers = true)]
    Run {
        /// Letter of the case
        case: Option<Case>,
        /// The broker
        #[arg(long, required_unless_present = "compare")]
        url: Option<String>,
        /// Root of the broker's process tree, for CPU and memory
        #[arg(long)]
        pid: Option<u32>,
        /// 2 to 8 brokers to run in turn, each URL=pid
        #[arg(long, num_args = 2.., conflicts_with_all = ["url", "pid"])]
        compare: Vec<String>,
        /// Rounds of a comparison
        #[arg(long, default_value_t = 3, value_parser = within::<usize>(1..=1000), requires = "compare")]
        rounds: usize,
        #[command(flatten)]
        flags: Flags,
    },
    /// Figures over a growing number of publishing connections, queues, bindings, consumers, bytes of a body, messages waiting,
    /// clients that come and go
    #[command(allow_negative_numbers = true)]
    Curves {
        /// The broker, started anew for each point
        #[arg(long)]
        start: Startable,
        /// Which, separated by commas; all without it
        #[arg(long, value_delimiter = ',')]
        curves: Vec<Grows>,
        /// Leaves points above that out
        #[arg(long, value_parser = within::<u64>(1..=u64::MAX))]
        most: Option<u64>,
        /// How long each point publishes
        #[arg(long, default_value_t = 1.0, value_parser = seconds)]
        seconds: f64,
        /// Folder of the drawings
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// What the generator itself reaches, against a peer that costs next to nothing
    #[command(allow_negative_numbers = true)]
    Ceiling {
        /// How long each measurement takes
        #[arg(long, default_value_t = 2.0, value_parser = seconds)]
        seconds: f64,
    },
    /// The peer of `ceiling`: swallows publishes, makes deliveries up; until its standard input ends
    Sink {
        /// Body size of the deliveries
        #[arg(value_parser = within::<usize>(8..=65_536))]
        body: usize,
    },
    /// Counts instructions per message of cases driven through the broker's code in this process, under valgrind
    Instructions {
        /// What they are compared with
        #[arg(long, default_value = "crates/bench/instructions.json")]
        file: PathBuf,
        /// Write the file instead of comparing with it
        #[arg(long)]
        write: bool,
    },
    /// Moves messages of a case through the broker's code in this process; what is run under valgrind
    Drive {
        /// Letter of the case
        case: Case,
        /// Messages
        #[arg(value_parser = within::<u64>(1..=1 << 40))]
        count: u64,
    },
    /// Several cases against several brokers; prints a Markdown table of medians and ratios
    ///
    /// A flag that changes a load holds for all cases that have a use for it.
    #[command(allow_negative_numbers = true)]
    Suite {
        /// A running broker: name=URL[,pid=N]
        #[arg(long)]
        broker: Vec<Running>,
        /// A broker to start on a temporary directory: hornpipe=BINARY or rabbitmq=tests/run/rabbitmq.sh, with a name before
        /// it (`new:hornpipe=…`) where there are several builds, and arguments behind
        #[arg(long)]
        start: Vec<Startable>,
        /// Letters of the cases, separated by commas; all without it
        #[arg(long, value_delimiter = ',')]
        cases: Vec<Case>,
        /// Rounds; the table holds medians. Cases e, i, j, k, l, q and r get a third of them
        #[arg(long, default_value_t = 3, value_parser = within::<usize>(1..=1000))]
        rounds: usize,
        /// A file for the table, with machine and command
        #[arg(long)]
        table: Option<PathBuf>,
        #[command(flatten)]
        flags: Flags,
    },
}

/// What brokers of a comparison are called.
const NAMES: &str = "ABCDEFGH";

fn main() -> ExitCode {
    process::raise_open_files();
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(&format!("hornpipe-bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Run { case, url: Some(url), pid, flags, .. } => {
            flags.check(&[case])?;
            let target = Target::new(&url, pid)?;
            let outcome = run_against(&target, case, &flags)?;
            say(&format!("{}\n{}", case.map_or("load", Case::title), outcome.lines()));
            Ok(())
        }
        Command::Run { case, compare, rounds, flags, .. } => {
            flags.check(&[case])?;
            if compare.len() > NAMES.len() {
                bail!("--compare was given {} brokers; 2 to {} are allowed", compare.len(), NAMES.len());
            }
            let running = compare.iter().zip(NAMES.chars()).map(|(text, name)| contender(text, name));
            let running = running.collect::<Result<Vec<_>>>()?;
            Suite { running, startable: Vec::new(), cases: vec![case], rounds, flags, table: None }.run()
        }
        Command::Curves { start, curves, most, seconds, out } => {
            let curves = if curves.is_empty() { Grows::ALL.to_vec() } else { curves };
            curves::run(&start, &curves, most, seconds, out.as_deref())
        }
        Command::Ceiling { seconds } => {
            say(&sink::ceiling(seconds)?.lines());
            Ok(())
        }
        Command::Sink { body } => sink::serve(body),
        Command::Instructions { file, write } => instructions::run(&file, write),
        Command::Drive { case, count } => inside::drive(&Plan::new(Some(case), &Flags::default())?, count),
        Command::Suite { broker, start, cases, rounds, table, flags } => {
            let cases = if cases.is_empty() { Case::ALL.to_vec() } else { cases };
            let cases: Vec<Option<Case>> = cases.into_iter().map(Some).collect();
            flags.check(&cases)?;
            Suite { running: broker, startable: start, cases, rounds, flags, table }.run()
        }
    }
}

/// `URL=pid`; the broker is called by its place.
fn contender(text: &str, name: char) -> Result<Running> {
    let (url, pid) = text.rsplit_once('=').context("what to compare is given as URL=pid")?;
    let pid = pid.parse().with_context(|| format!("{pid:?} behind URL= is no process id"))?;
    let target = Target::new(url, Some(pid))?;
    Ok(Running { name: name.to_string(), target })
}
