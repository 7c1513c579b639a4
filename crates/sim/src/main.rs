//! `hornpipe-sim --seeds N --seed S`: N seeds from S on; without a seed the known ones and N from 1 on, and a quarter as many restless and as many late ones.

use std::io::Write;
use std::process::ExitCode;

struct Args {
    seeds: u64,
    seed: Option<u64>,
    verbose: bool,
    trace: bool,
}

fn args() -> Result<Args, String> {
    let mut args = Args { seeds: 200, seed: None, verbose: false, trace: false };
    let mut counted = false;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().ok_or(format!("{word} wants a number"))?;
            value.parse().map_err(|_| format!("{word} wants a number, not '{value}'"))
        };
        match word.as_str() {
            "--seeds" => (args.seeds, counted) = (number()?, true),
            "--seed" => args.seed = Some(number()?),
            "--trace" => args.trace = true,
            "--verbose" => args.verbose = true,
            _ => {
                return Err(format!("unknown argument '{word}'; there are --seeds N, --seed S, --verbose and --trace"));
            }
        }
    }
    if args.seed.is_some() && !counted {
        args.seeds = 1;
    }
    Ok(args)
}

fn main() -> ExitCode {
    let mut out = std::io::stdout().lock();
    let args = match args() {
        Ok(args) => args,
        Err(text) => {
            let _ = writeln!(out, "{text}");
            return ExitCode::FAILURE;
        }
    };
    // a panic is reported with its seed
    if !args.verbose {
        std::panic::set_hook(Box::new(|_| {}));
    }
    let first = args.seed.unwrap_or(1);
    let mut seeds = if args.seed.is_none() { hornpipe_sim::known_seeds() } else { Vec::new() };
    seeds.extend(first..first + args.seeds);
    if args.seed.is_none() {
        for special in [hornpipe_sim::RESTLESS, hornpipe_sim::LATE, hornpipe_sim::QUITTING] {
            seeds.extend(special..special + args.seeds / 4);
        }
    }
    let (mut failed, mut turns, mut crashes) = (0u64, 0, 0);
    for seed in &seeds {
        match hornpipe_sim::run_traced(*seed, args.trace) {
            Ok(summary) => {
                turns += summary.turns;
                crashes += summary.crashes;
                if args.verbose {
                    let _ = writeln!(out, "seed {seed}: {summary:?}");
                }
            }
            Err(failure) => {
                failed += 1;
                let _ = writeln!(out, "seed {seed}: {failure}");
                if args.verbose {
                    let _ = writeln!(out, "{}", failure.context);
                }
            }
        }
    }
    let _ = writeln!(out, "{} seeds, {turns} turns, {crashes} crashes, {failed} failures", seeds.len());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
