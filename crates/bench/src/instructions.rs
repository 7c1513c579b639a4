//! Instructions per message, counted by valgrind and compared with a file in the repository.
//!
//! Clocks tell little on a machine that does something else too; instructions of a fixed script are the same every time.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::plan::Case;
use crate::report::say;

/// Cases that are counted.
pub(crate) const CASES: [Case; 6] = [Case::A, Case::C, Case::D, Case::F, Case::G, Case::N];
/// Messages of the two runs whose difference is counted, so that start and set-up fall out. The first is long enough for
/// buffers to have reached their size.
const COUNTS: [u64; 2] = [20_000, 60_000];
/// How far a count may be off, percent.
const TOLERANCE: f64 = 5.0;
/// What callgrind counts: everything that the first are called for, less what the medium in memory does in the place of sled
/// and the kernel. Entering either turns the count over, on or off, and leaving it back.
const TOGGLES: [&str; 2] = ["*inside*counted_*", "*memory::Memory as *Medium>::*"];

/// Counts all cases, prints them, and writes or compares the file.
///
/// # Errors
/// When valgrind can't run, or a count is further off than the tolerance.
pub(crate) fn run(file: &Path, write: bool) -> Result<()> {
    let valgrind = Command::new("valgrind").arg("--version").output();
    if !valgrind.is_ok_and(|output| output.status.success()) {
        bail!("instructions are counted by valgrind, which isn't here: apt-get install valgrind");
    }
    let known = if write { BTreeMap::new() } else { read(file)? };
    let mut counts = BTreeMap::new();
    for case in CASES {
        let [few, many] = [count(case, COUNTS[0])?, count(case, COUNTS[1])?];
        let per_message = (many as f64 - few as f64) / (COUNTS[1] - COUNTS[0]) as f64;
        counts.insert(letter(case), per_message);
    }
    if write {
        let rounded: BTreeMap<&str, f64> = counts.iter().map(|(case, count)| (case.as_str(), round(*count))).collect();
        let value = json!({
            "what": "instructions per message published, of codec, core and store on memory; make bench-counts writes this",
            "per message": rounded,
        });
        fs::write(file, format!("{value:#}\n")).with_context(|| format!("writing {}", file.display()))?;
    }
    let (text, off) = judge(&counts, &known);
    say(&text);
    if !off.is_empty() && !write {
        bail!(
            "instructions per message are off by more than {TOLERANCE} %: {}. If that is meant, `make bench-counts` writes \
             the new ones to {}; a new compiler moves them too",
            off.join(", "),
            file.display()
        );
    }
    Ok(())
}

fn letter(case: Case) -> String {
    case.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn round(count: f64) -> f64 {
    (count * 10.0).round() / 10.0
}

fn read(file: &Path) -> Result<BTreeMap<String, f64>> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let value: Value = serde_json::from_str(&text)?;
    let counts = value["per message"].as_object().with_context(|| format!("{} holds no counts", file.display()))?;
    Ok(counts.iter().filter_map(|(case, count)| Some((case.clone(), count.as_f64()?))).collect())
}

/// A table, and the cases that are off.
fn judge(counts: &BTreeMap<String, f64>, known: &BTreeMap<String, f64>) -> (String, Vec<String>) {
    let mut text = "| case | instructions per message | kept | off by |\n|---|---:|---:|---:|\n".to_owned();
    let mut off = Vec::new();
    for (case, count) in counts {
        let before = known.get(case).copied();
        let change = before.map(|before| (count / before - 1.0) * 100.0);
        let shown =
            |value: Option<f64>, unit| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.1}{unit}"));
        let _ = writeln!(text, "| {case} | {count:.1} | {} | {} |", shown(before, ""), shown(change, " %"));
        match change {
            Some(change) if change.abs() <= TOLERANCE => {}
            Some(change) => off.push(format!("{case} by {change:+.1} %")),
            None => off.push(format!("{case} is not in the file")),
        }
    }
    (text, off)
}

/// Instructions of one run of this program under callgrind.
fn count(case: Case, messages: u64) -> Result<u64> {
    let own = std::env::current_exe()?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args(TOGGLES.map(|name| format!("--toggle-collect={name}")))
        .arg(own)
        .args(["drive", &letter(case), &messages.to_string()])
        .output()
        .context("running valgrind")?;
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("case {} under valgrind: {told}", letter(case));
    }
    collected(&told).with_context(|| format!("valgrind gave no count: {told}"))
}

/// The number behind `Collected :` in what callgrind prints.
fn collected(told: &str) -> Option<u64> {
    let count = told.lines().find_map(|line| line.split_once("Collected : "))?.1.trim().parse().ok()?;
    // With nothing collected the names it was given match nothing any more.
    (count > 0).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, f64)]) -> BTreeMap<String, f64> {
        pairs.iter().map(|(case, count)| ((*case).to_owned(), *count)).collect()
    }

    #[test]
    fn what_is_off_in_either_direction_or_unknown_is_told() {
        let known = counts(&[("a", 100.0), ("c", 100.0), ("d", 100.0)]);
        let (text, off) = judge(&counts(&[("a", 104.9), ("c", 94.0), ("d", 106.0), ("n", 1.0)]), &known);
        assert_eq!(off, ["c by -6.0 %", "d by +6.0 %", "n is not in the file"]);
        assert!(text.contains("| a | 104.9 | 100.0 | 4.9 % |"), "{text}");
    }

    #[test]
    fn a_count_of_nothing_is_none() {
        assert_eq!(collected("==1== Collected : 123\n==1== "), Some(123));
        assert_eq!(collected("==1== Collected : 0\n"), None);
        assert_eq!(collected("nothing"), None);
    }
}
