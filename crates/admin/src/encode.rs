//! Prometheus text, format 0.0.4.
//!
//! Not the `prometheus` crate's own encoder: RabbitMQ's dashboards ask for buckets by the literal text of their bound, `100.0` and
//! `1e+06`, where that one writes `100` and `1000000`.

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};
use std::fmt::Write;

/// Content type of the page.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Writes families in the order given.
pub(crate) fn text(families: &[MetricFamily]) -> String {
    let mut out = String::new();
    for family in families {
        // Writing to a String can't fail.
        let _ = family_text(&mut out, family);
    }
    out
}

fn family_text(out: &mut String, family: &MetricFamily) -> std::fmt::Result {
    let name = family.name();
    let kind = family.get_field_type();
    writeln!(out, "# TYPE {name} {}", kind_name(kind))?;
    writeln!(out, "# HELP {name} {}", help(family.help()))?;
    for metric in family.get_metric() {
        let labels = metric.get_label();
        match kind {
            MetricType::COUNTER => sample(out, name, "", labels, None, metric.get_counter().get_value())?,
            MetricType::HISTOGRAM => histogram(out, name, metric)?,
            // The crate marks its untyped values as deprecated, so `families` keeps those as gauges too.
            _ => sample(out, name, "", labels, None, metric.get_gauge().get_value())?,
        }
    }
    Ok(())
}

fn histogram(out: &mut String, name: &str, metric: &Metric) -> std::fmt::Result {
    let histogram = metric.get_histogram();
    let labels = metric.get_label();
    for bucket in histogram.get_bucket() {
        let bound = bound(bucket.upper_bound());
        sample(out, name, "_bucket", labels, Some(&bound), bucket.cumulative_count() as f64)?;
    }
    let count = histogram.get_sample_count() as f64;
    sample(out, name, "_bucket", labels, Some("+Inf"), count)?;
    sample(out, name, "_count", labels, None, count)?;
    sample(out, name, "_sum", labels, None, histogram.get_sample_sum())
}

fn sample(
    out: &mut String,
    name: &str,
    suffix: &str,
    labels: &[LabelPair],
    le: Option<&str>,
    value: f64,
) -> std::fmt::Result {
    write!(out, "{name}{suffix}")?;
    let mut open = '{';
    for pair in labels {
        write!(out, "{open}{}=\"{}\"", pair.name(), escape(pair.value()))?;
        open = ',';
    }
    if let Some(le) = le {
        write!(out, "{open}le=\"{le}\"")?;
        open = ',';
    }
    if open == ',' {
        out.push('}');
    }
    if value.is_nan() {
        writeln!(out, " NaN")
    } else if value.is_infinite() {
        writeln!(out, " {}Inf", if value > 0.0 { '+' } else { '-' })
    } else {
        writeln!(out, " {value}")
    }
}

fn kind_name(kind: MetricType) -> &'static str {
    match kind {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::SUMMARY => "summary",
        MetricType::UNTYPED => "untyped",
        MetricType::HISTOGRAM => "histogram",
    }
}

/// A bucket's bound as Erlang prints floats and the dashboards ask for it: `100.0`, `1e+06`.
fn bound(value: f64) -> String {
    if value < 1e6 {
        return format!("{value:?}");
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => format!("{mantissa}e+{exponent:0>2}"),
        None => text,
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn help(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::Families;

    #[test]
    fn bounds_are_literal() {
        let texts: Vec<String> = hornpipe_types::stats::SIZE_BUCKETS.iter().map(|b| bound(*b as f64)).collect();
        assert_eq!(texts, ["100.0", "1000.0", "10000.0", "100000.0", "1e+06", "1e+07", "5e+07", "1e+08"]);
    }

    #[test]
    fn label_values_are_escaped() {
        let mut families = Families::new("rabbitmq_");
        families.gauge("queue_messages", "All.\nOf them.", [(vec![("queue", "a\\b\"c\nd".to_owned())], 3.0)]);
        assert_eq!(
            text(&families.take()),
            "# TYPE rabbitmq_queue_messages gauge\n# HELP rabbitmq_queue_messages All.\\nOf them.\n\
             rabbitmq_queue_messages{queue=\"a\\\\b\\\"c\\nd\"} 3\n"
        );
    }

    #[test]
    fn large_and_broken_numbers() {
        let mut families = Families::new("");
        families.counter("c", "C.", [(vec![], 9_007_199_254_740_991.0), (vec![], f64::NAN), (vec![], f64::INFINITY)]);
        let text = text(&families.take());
        assert!(text.ends_with("c 9007199254740991\nc NaN\nc +Inf\n"), "{text}");
    }
}
