//! Figures of a run, and tables of several.

use std::fmt::Write as _;
use std::io::Write as _;

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
}

/// The figures of one run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome(pub(crate) Vec<Metric>);

impl Outcome {
    pub(crate) fn add(&mut self, name: &'static str, value: f64) {
        self.0.push(Metric { name, value });
    }

    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|metric| metric.name == name).map(|metric| metric.value)
    }

    /// One line per figure.
    pub(crate) fn lines(&self) -> String {
        let mut text = String::new();
        for Metric { name, value } in &self.0 {
            let _ = writeln!(text, "  {name:<34} {}", figure(*value));
        }
        text
    }
}

/// A broker's rounds of one case: figures by metric, or why a round failed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rounds {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) failure: Option<String>,
}

impl Rounds {
    fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<&'static str> = Vec::new();
        for metric in self.outcomes.iter().flat_map(|outcome| &outcome.0) {
            if !names.contains(&metric.name) {
                names.push(metric.name);
            }
        }
        names
    }

    fn median(&self, name: &str) -> Option<f64> {
        let mut values: Vec<f64> = self.outcomes.iter().filter_map(|outcome| outcome.get(name)).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => None,
            count if count % 2 == 1 => Some(values[middle]),
            _ => Some((values[middle - 1] + values[middle]) / 2.0),
        }
    }
}

/// What the first broker's median is in units of another's, and the lowest and highest of the rounds side by side.
fn ratio(first: &Rounds, other: &Rounds, name: &str) -> Option<String> {
    let of = |first: Option<f64>, other: Option<f64>| Some(first? / other.filter(|value| *value > 0.0)?);
    let median = of(first.median(name), other.median(name))?;
    let pairs = first.outcomes.iter().zip(&other.outcomes);
    let rounds: Vec<f64> = pairs.filter_map(|(first, other)| of(first.get(name), other.get(name))).collect();
    let mut text = format!("{} ×", figure(median));
    if rounds.len() > 1 {
        let (low, high) = rounds.iter().fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
        let _ = write!(text, " ({}–{})", figure(low), figure(high));
    }
    Some(text)
}

/// A Markdown table of medians; the ratio columns say what the first broker's figure is in units of another's.
pub(crate) fn table(brokers: &[String], cases: &[(String, Vec<Rounds>)]) -> String {
    let mut text = String::from("| case | figure |");
    for name in brokers {
        let _ = write!(text, " {name} |");
    }
    for other in brokers.iter().skip(1) {
        let _ = write!(text, " {} / {other} |", brokers[0]);
    }
    text.push('\n');
    text.push_str("|---|---|");
    text.push_str(&"---:|".repeat(brokers.len() * 2 - 1));
    text.push('\n');
    for (title, rounds) in cases {
        let mut names: Vec<&'static str> = Vec::new();
        for name in rounds.iter().flat_map(Rounds::names) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let mut title = title.as_str();
        for name in names {
            let medians: Vec<Option<f64>> = rounds.iter().map(|of_broker| of_broker.median(name)).collect();
            let _ = write!(text, "| {title} | {name} |");
            title = "";
            for median in &medians {
                let _ = write!(text, " {} |", median.map_or_else(|| "–".to_owned(), figure));
            }
            for other in rounds.iter().skip(1) {
                let _ = write!(text, " {} |", ratio(&rounds[0], other, name).unwrap_or_else(|| "–".to_owned()));
            }
            text.push('\n');
        }
        for (broker, failure) in brokers.iter().zip(rounds.iter().map(|of_broker| &of_broker.failure)) {
            if let Some(failure) = failure {
                let _ = writeln!(text, "| {title} | failed: {broker} | {failure} |");
                title = "";
            }
        }
    }
    text
}

/// A number with three significant digits, thousands set apart.
pub(crate) fn figure(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 1000.0 {
        let digits = format!("{value:.0}");
        let mut text = String::new();
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) && digit.is_ascii_digit() && !text.ends_with('-') {
                text.push(' ');
            }
            text.push(digit);
        }
        text
    } else if magnitude >= 100.0 {
        format!("{value:.0}")
    } else if magnitude >= 10.0 {
        format!("{value:.1}")
    } else if magnitude >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

/// Text for standard output, where results go.
pub(crate) fn say(text: &str) {
    // Nobody reads any more, then: nothing left to do about it.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Text for standard error, where progress goes.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        let check = |value, text| assert_eq!(figure(value), text);
        check(1_234_567.0, "1 234 567");
        check(0.0625, "0.062");
        check(12.34, "12.3");
        check(123.4, "123");
        check(-1234.0, "-1 234");
    }

    #[test]
    fn the_table_holds_medians_and_ratios() {
        let outcome = |value| Outcome(vec![Metric { name: "x", value }]);
        let rounds = |values: &[f64]| Rounds { outcomes: values.iter().map(|v| outcome(*v)).collect(), failure: None };
        let cases = [("a".to_owned(), vec![rounds(&[1.0, 9.0, 4.0]), rounds(&[2.0, 2.0])])];
        let text = table(&["ours".to_owned(), "theirs".to_owned()], &cases);
        // The third round has no partner: it counts in the median alone.
        assert!(text.contains("| a | x | 4.00 | 2.00 | 2.00 × (0.500–4.50) |"), "{text}");
        let single = [("a".to_owned(), vec![rounds(&[4.0]), rounds(&[2.0])])];
        assert!(table(&["ours".to_owned(), "theirs".to_owned()], &single).contains("| 4.00 | 2.00 | 2.00 × |"));
    }
}
