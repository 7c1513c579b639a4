//! What the command line may hold: ranges of values, and which flags a case has a use for.

use std::ops::RangeInclusive;

use anyhow::{Result, bail};

use crate::plan::{Case, Flags, Plan};

/// Seconds of a day.
const DAY: f64 = 86_400.0;

/// Whole numbers of a range.
pub(crate) fn within<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync {
    move |text| {
        let value = text.parse().ok().filter(|value| range.contains(value)).and_then(|value| T::try_from(value).ok());
        value.ok_or_else(|| format!("allowed are whole numbers from {} to {}", range.start(), range.end()))
    }
}

/// How long something takes.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    positive(text, DAY, "seconds, above 0 and up to 86400")
}

/// Messages a second.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    positive(text, 1e7, "messages a second, above 0 and up to 10000000")
}

fn positive(text: &str, most: f64, allowed: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| *value > 0.0 && *value <= most);
    value.ok_or_else(|| format!("allowed are {allowed}"))
}

impl Flags {
    /// Names of the flags that were given.
    fn given(&self) -> Vec<&'static str> {
        let all = [
            ("body", self.body.is_some()),
            ("persistent", self.persistent.is_some()),
            ("confirm", self.confirm.is_some()),
            ("ack", self.ack.is_some()),
            ("prefetch", self.prefetch.is_some()),
            ("publishers", self.publishers.is_some()),
            ("queues", self.queues.is_some()),
            ("consumers", self.consumers.is_some()),
            ("fanout", self.fanout.is_some()),
            ("topic", self.topic.is_some()),
            ("count", self.count.is_some()),
            ("seconds", self.seconds.is_some()),
            ("rate", self.rate.is_some()),
            ("drain", self.drain.is_some()),
            ("write", self.write.is_some()),
            ("channels", self.channels.is_some()),
            ("spread", self.spread.is_some()),
            ("uneven", self.uneven.is_some()),
            ("threads", self.threads.is_some()),
            ("subscriptions", self.subscriptions.is_some()),
            ("clients", self.clients.is_some()),
            ("channel", self.channel.is_some()),
            ("queue-type", self.queue_type.is_some()),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }

    /// Fails if a case can't be with these flags, or one of them changes none of the cases.
    ///
    /// # Errors
    /// As said; the text names the flag.
    pub(crate) fn check(&self, cases: &[Option<Case>]) -> Result<()> {
        let uses = cases.iter().map(|case| Use::new(*case, self)).collect::<Result<Vec<_>>>()?;
        for flag in self.given() {
            if !uses.iter().any(|of_case| of_case.takes(flag)) {
                let names: Vec<&str> = cases.iter().map(|case| case.map_or("the load", Case::title)).collect();
                bail!("--{flag} changes nothing in {}", names.join("; "));
            }
        }
        Ok(())
    }
}

/// What a case makes of flags.
struct Use {
    case: Option<Case>,
    /// Of a message load.
    plan: Option<Plan>,
}

impl Use {
    fn new(case: Option<Case>, flags: &Flags) -> Result<Self> {
        let other = matches!(case, Some(Case::I | Case::J | Case::K | Case::L | Case::M | Case::Q | Case::R));
        Ok(Self { case, plan: if other { None } else { Some(Plan::new(case, flags)?) } })
    }

    fn takes(&self, flag: &str) -> bool {
        match (&self.plan, self.case) {
            (Some(plan), _) => match flag {
                "clients" | "channel" => false,
                "prefetch" => plan.consumers > 0 && plan.ack.is_some(),
                "ack" | "subscriptions" => plan.consumers > 0,
                _ => true,
            },
            (None, Some(Case::I | Case::J)) => flag == "count",
            (None, Some(Case::L)) => matches!(flag, "count" | "body"),
            (None, Some(Case::M)) => matches!(flag, "seconds" | "clients" | "channel"),
            (None, Some(Case::Q)) => flag == "seconds",
            (None, Some(Case::R)) => matches!(
                flag,
                "body"
                    | "persistent"
                    | "confirm"
                    | "publishers"
                    | "count"
                    | "seconds"
                    | "write"
                    | "threads"
                    | "queue-type"
            ),
            (None, _) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::Cli;

    /// What a command line is refused with.
    fn refusal(line: &str) -> String {
        match Cli::try_parse_from(std::iter::once("hornpipe-bench").chain(line.split_whitespace())) {
            Ok(_) => panic!("{line}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        for (flags, allowed) in [
            ("--count 0", "from 1 to"),
            ("--count -5", "from 1 to"),
            ("--seconds 0", "above 0"),
            ("--seconds -1", "above 0"),
            ("--seconds=-1", "above 0"),
            ("--seconds nan", "above 0"),
            ("--seconds inf", "above 0"),
            ("--seconds 1e300", "86400"),
            ("--rate 0", "above 0"),
            ("--topic 0", "from 1 to"),
            ("--fanout 0", "from 1 to"),
            ("--queues 0", "from 1 to"),
            ("--publishers 0", "from 1 to"),
            ("--confirm 99999999999", "1000000"),
            ("--clients 0", "from 1 to"),
            ("--write 0", "from 1 to"),
            ("--channels 1001", "1000"),
            ("--threads 0", "from 1 to"),
            ("--subscriptions 0", "from 1 to"),
        ] {
            let text = refusal(&format!("run --url amqp://x {flags}"));
            let (flag, value) = flags.split_once([' ', '=']).expect("flag and value");
            for part in [flag, value, allowed] {
                assert!(text.contains(part), "{flags}: {text}");
            }
        }
        for line in ["suite --rounds 0", "ceiling --seconds=-1", "curves --start hornpipe=/bin/true --seconds 0"] {
            let text = refusal(line);
            assert!(text.contains("invalid value"), "{line}: {text}");
        }
    }

    #[test]
    fn a_flag_without_effect_is_refused() {
        let check = |cases: &[Case], flags: Flags| {
            let cases: Vec<Option<Case>> = cases.iter().copied().map(Some).collect();
            flags.check(&cases).map_err(|error| error.to_string())
        };
        let body = || Flags { body: Some(7), ..Flags::default() };
        let text = check(&[Case::M], body()).expect_err("no bodies in m");
        assert!(text.contains("--body") && text.contains("m. "), "{text}");
        assert_eq!(check(&[Case::M, Case::A], body()), Ok(()), "one of them takes it");
        assert_eq!(check(&[Case::L], body()), Ok(()));
        let seconds = || Flags { seconds: Some(0.5), ..Flags::default() };
        assert_eq!(check(&Case::ALL, seconds()), Ok(()));
        assert!(check(&[Case::I, Case::K], seconds()).is_err());
        let prefetch = || Flags { prefetch: Some(200), ..Flags::default() };
        assert!(check(&[Case::A], prefetch()).is_err(), "auto-ack");
        assert_eq!(check(&[Case::C], prefetch()), Ok(()));
        assert!(check(&[Case::R], Flags { queues: Some(2), ..Flags::default() }).is_err());
        assert!(check(&[Case::A, Case::C], Flags { channels: Some(2), ..Flags::default() }).is_err(), "c confirms");
    }
}
