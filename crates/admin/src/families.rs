//! Building metric families without a registry: each page is made new from one look at the broker.

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

/// Labels of a series.
pub(crate) type Labels = Vec<(&'static str, String)>;

/// The families of a page.
#[derive(Debug)]
pub(crate) struct Families {
    prefix: &'static str,
    list: Vec<MetricFamily>,
}

impl Families {
    /// Names that follow get `prefix`.
    pub(crate) fn new(prefix: &'static str) -> Self {
        Self { prefix, list: Vec::new() }
    }
    /// Another prefix from here on.
    pub(crate) fn prefix(&mut self, prefix: &'static str) {
        self.prefix = prefix;
    }
    /// What was built.
    pub(crate) fn take(self) -> Vec<MetricFamily> {
        self.list
    }

    fn family(&mut self, kind: MetricType, name: &str, help: &str, metrics: Vec<Metric>) {
        let full = format!("{}{name}", self.prefix);
        // A name may be asked for by several families of the detailed page, but a page must hold it once.
        if self.list.iter().any(|family| family.name() == full) {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(full);
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.list.push(family);
    }

    /// A gauge with its series.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, series: impl IntoIterator<Item = (Labels, f64)>) {
        let metrics = series.into_iter().map(gauge).collect();
        self.family(MetricType::GAUGE, name, help, metrics);
    }

    /// Facts, as RabbitMQ declares them: untyped.
    pub(crate) fn untyped(&mut self, name: &str, help: &str, series: impl IntoIterator<Item = (Labels, f64)>) {
        let metrics = series.into_iter().map(gauge).collect();
        self.family(MetricType::UNTYPED, name, help, metrics);
    }

    /// A counter with its series.
    pub(crate) fn counter(&mut self, name: &str, help: &str, series: impl IntoIterator<Item = (Labels, f64)>) {
        let metrics = series
            .into_iter()
            .map(|(labels, value)| {
                let mut counter = Counter::default();
                counter.set_value(value);
                let mut metric = Metric::from_label(pairs(labels));
                metric.set_counter(counter);
                metric
            })
            .collect();
        self.family(MetricType::COUNTER, name, help, metrics);
    }

    /// A histogram with its series; `counts` are per bucket, not cumulative, with one more than `bounds` for the open one.
    pub(crate) fn histogram<'a>(
        &mut self,
        name: &str,
        help: &str,
        bounds: &[f64],
        series: impl IntoIterator<Item = (Labels, &'a [u64], f64)>,
    ) {
        let metrics = series.into_iter().map(|(labels, counts, sum)| {
            let mut seen = 0;
            let buckets = bounds.iter().zip(counts).map(|(bound, count)| {
                seen += count;
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(*bound);
                bucket.set_cumulative_count(seen);
                bucket
            });
            let mut histogram = Histogram::default();
            histogram.set_bucket(buckets.collect());
            histogram.set_sample_count(counts.iter().sum());
            histogram.set_sample_sum(sum);
            let mut metric = Metric::from_label(pairs(labels));
            metric.set_histogram(histogram);
            metric
        });
        let metrics = metrics.collect();
        self.family(MetricType::HISTOGRAM, name, help, metrics);
    }
}

fn gauge((labels, value): (Labels, f64)) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(pairs(labels));
    metric.set_gauge(gauge);
    metric
}

fn pairs(labels: Labels) -> Vec<LabelPair> {
    labels
        .into_iter()
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value);
            pair
        })
        .collect()
}
