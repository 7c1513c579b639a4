//! Which policy applies, how two merge, what a queue makes of them, and the texts of refusals.

use super::*;
use proptest::prelude::*;

fn s(text: &str) -> Value {
    Value::long_str(text)
}

fn table(pairs: &[(&str, Value)]) -> FieldTable {
    FieldTable(pairs.iter().map(|(k, v)| (ShortStr::new(k), v.clone())).collect())
}

fn policy(name: &str, pattern: &str, apply_to: &str, priority: i64, pairs: &[(&str, Value)]) -> PolicyDefinition {
    PolicyDefinition {
        vhost: "V".into(),
        operator: false,
        name: name.into(),
        pattern: pattern.into(),
        apply_to: apply_to.into(),
        priority,
        definition: table(pairs),
    }
}

fn operator(name: &str, pattern: &str, pairs: &[(&str, Value)]) -> PolicyDefinition {
    PolicyDefinition { operator: true, ..policy(name, pattern, "queues", 0, pairs) }
}

const CLASSIC: Target = Target::Queue(QueueKind::Classic);
const QUORUM: Target = Target::Queue(QueueKind::Quorum);

fn ttl(n: i64) -> [(&'static str, Value); 1] {
    [("message-ttl", Value::I64(n))]
}

#[test]
fn the_best_match_applies() {
    let mut policies = Policies::new();
    policies.put(policy("low", "", "all", 0, &ttl(1))).unwrap();
    policies.put(policy("high", "^a", "queues", 10, &ttl(2))).unwrap();
    policies.put(policy("exchanges", "x", "exchanges", 20, &[("alternate-exchange", s("ae"))])).unwrap();
    policies.put(policy("quorum", "b", "quorum_queues", 20, &[("delivery-limit", Value::I64(3))])).unwrap();
    policies.put(policy("unsupported", "c", "queues", 30, &[("delivery-limit", Value::I64(4))])).unwrap();
    let name = |name, target| policies.effective("V", name, target).policy.map(|p| p.to_string());
    for (queue, target, expected) in [
        ("zzz", CLASSIC, "low"),
        ("a", CLASSIC, "high"),
        ("za", CLASSIC, "low"),
        ("a", Target::Exchange, "low"),
        ("axe", Target::Exchange, "exchanges"),
        ("axe", CLASSIC, "high"),
        ("ab", QUORUM, "quorum"),
        ("ab", CLASSIC, "high"),
        ("abc", QUORUM, "unsupported"),
        // The key is not supported by classic queues: the policy is passed over entirely.
        ("abc", CLASSIC, "high"),
    ] {
        assert_eq!(name(queue, target).as_deref(), Some(expected), "{queue} {target:?}");
    }
    assert_eq!(policies.effective("other", "a", CLASSIC), Effective::default());
    assert_eq!(policies.list("V", false).next().map(|p| p.name.to_string()).as_deref(), Some("unsupported"));
}

#[test]
fn equal_priorities_are_decided_by_name() {
    for order in [["b", "a"], ["a", "b"]] {
        let mut policies = Policies::new();
        for name in order {
            policies.put(policy(name, ".*", "all", 5, &ttl(1))).unwrap();
        }
        assert_eq!(policies.effective("V", "q", CLASSIC).policy, Some("a".into()));
    }
}

#[test]
fn put_replaces_and_delete_removes() {
    let mut policies = Policies::new();
    policies.put(policy("p", "q", "all", 0, &ttl(1))).unwrap();
    let before = policies.generation();
    policies.put(policy("p", "q", "all", 0, &ttl(2))).unwrap();
    assert!(policies.generation() > before);
    assert_eq!(policies.effective("V", "q", CLASSIC).definition, table(&ttl(2)));
    assert_eq!(policies.get("V", false, "p").map(|p| p.priority), Some(0));
    assert!(policies.get("V", true, "p").is_none());
    assert!(!policies.delete("V", true, "p"));
    assert!(policies.delete("V", false, "p"));
    assert!(!policies.delete("V", false, "p"));
    assert_eq!(policies.effective("V", "q", CLASSIC), Effective::default());
    assert!(policies.put(policy("p", "(", "all", 0, &ttl(2))).is_err());
    assert!(policies.recover(policy("p", "(", "all", 0, &ttl(2))).is_some());
    assert_eq!(policies.effective("V", "q", CLASSIC), Effective::default());
    policies.delete_vhost("V");
    assert_eq!(policies.list("V", false).count(), 0);
}

#[test]
fn operator_policies_merge_on_top() {
    let rows: &[(&str, Value, Value, Value)] = &[
        ("message-ttl", Value::I64(5), Value::I64(3), Value::I64(3)),
        ("message-ttl", Value::I64(3), Value::I64(5), Value::I64(3)),
        ("expires", Value::I64(3), Value::I64(5), Value::I64(3)),
        ("max-length", Value::I64(9), Value::I64(5), Value::I64(5)),
        ("max-length-bytes", Value::I64(9), Value::I64(5), Value::I64(5)),
        ("delivery-limit", Value::I64(9), Value::I64(5), Value::I64(5)),
        ("delivery-limit", Value::I64(9), Value::I64(-1), Value::I64(9)),
        ("delivery-limit", Value::I64(-1), Value::I64(5), Value::I64(5)),
        ("overflow", s("drop-head"), s("reject-publish"), s("reject-publish")),
        ("queue-version", Value::I64(1), Value::I64(2), Value::I64(2)),
    ];
    for (key, ours, theirs, expected) in rows {
        let mut policies = Policies::new();
        policies.put(policy("p", "", "all", 0, &[(key, ours.clone()), ("dead-letter-exchange", s("d"))])).unwrap();
        policies.put(operator("o", "", &[(key, theirs.clone())])).unwrap();
        let effective = policies.effective("V", "q", QUORUM);
        assert_eq!(effective.definition.get(key), Some(expected), "{key}");
        assert_eq!(effective.definition.get("dead-letter-exchange"), Some(&s("d")));
        assert_eq!(effective.operator_policy, Some("o".into()));
        let keys: Vec<_> = effective.definition.iter().map(|(k, _)| k).collect();
        assert!(keys.is_sorted(), "{keys:?}");
    }
    let mut policies = Policies::new();
    policies.put(operator("o", "", &ttl(7))).unwrap();
    let effective = policies.effective("V", "q", CLASSIC);
    assert_eq!((effective.policy, effective.definition), (None, table(&ttl(7))));
}

fn effective(pairs: &[(&str, Value)]) -> Effective {
    Effective { policy: Some("p".into()), operator_policy: None, definition: table(pairs) }
}

#[test]
fn arguments_against_policy() {
    let policy = effective(&[
        ("message-ttl", Value::I64(10)),
        ("expires", Value::I64(10)),
        ("max-length", Value::I64(10)),
        ("max-length-bytes", Value::I64(10)),
        ("overflow", s("reject-publish")),
        ("dead-letter-exchange", s("pd")),
        ("dead-letter-routing-key", s("pk")),
        ("dead-letter-strategy", s("at-least-once")),
        ("delivery-limit", Value::I64(10)),
        ("consumer-timeout", Value::I64(10)),
        ("delayed-retry-type", s("all")),
        ("delayed-retry-min", Value::I64(10)),
        ("delayed-retry-max", Value::I64(10)),
    ]);
    let args = QueueArgs {
        kind: QueueKind::Quorum,
        message_ttl_ms: Some(5),
        expires_ms: Some(20),
        max_length: Some(5),
        max_length_bytes: Some(20),
        overflow: Some(Overflow::DropHead),
        dead_letter_exchange: Some("ad".into()),
        dead_letter_strategy: Some(DeadLetterStrategy::AtMostOnce),
        delivery_limit: Some(20),
        consumer_timeout_ms: Some(5),
        delayed_retry: DelayedRetry { kind: Some(RetryKind::Failed), min_ms: Some(5), max_ms: Some(20) },
        single_active: true,
        max_priority: Some(3),
        ..QueueArgs::default()
    };
    let quorum = QueueSettings {
        kind: QueueKind::Quorum,
        message_ttl_ms: Some(5),
        expires_ms: Some(10),
        max_length: Some(5),
        max_length_bytes: Some(10),
        overflow: Overflow::RejectPublish,
        dead_letter_exchange: Some("ad".into()),
        dead_letter_routing_key: Some("pk".into()),
        dead_letter_at_least_once: false,
        max_priority: None,
        single_active: true,
        delivery_limit: Some(10),
        consumer_timeout_ms: Some(5),
        delayed_retry: DelayedRetry { kind: Some(RetryKind::All), min_ms: Some(5), max_ms: Some(10) },
    };
    assert_eq!(QueueSettings::resolve(&args, &policy), quorum);
    let classic = QueueArgs { kind: QueueKind::Classic, ..args.clone() };
    let resolved = QueueSettings::resolve(&classic, &policy);
    assert_eq!((resolved.overflow, resolved.max_priority), (Overflow::DropHead, Some(3)));

    let only_policy = QueueSettings::resolve(&QueueArgs { kind: QueueKind::Quorum, ..QueueArgs::default() }, &policy);
    assert!(only_policy.dead_letter_at_least_once);
    assert_eq!(only_policy.dead_letter_exchange, Some("pd".into()));
    assert_eq!(only_policy.message_ttl_ms, Some(10));

    let only_args = QueueSettings::resolve(&args, &Effective::default());
    assert_eq!((only_args.overflow, only_args.message_ttl_ms), (Overflow::DropHead, Some(5)));
    assert_eq!(QueueSettings::resolve(&QueueArgs::default(), &Effective::default()), QueueSettings::default());
}

#[test]
fn overflow_of_a_quorum_queue() {
    let quorum = QueueArgs {
        kind: QueueKind::Quorum,
        overflow: Some(Overflow::RejectPublishDlx),
        dead_letter_strategy: Some(DeadLetterStrategy::AtLeastOnce),
        dead_letter_exchange: Some("d".into()),
        ..QueueArgs::default()
    };
    let settings = QueueSettings::resolve(&quorum, &Effective::default());
    assert_eq!(settings.overflow, Overflow::DropHead);
    assert!(!settings.dead_letter_at_least_once);
}

#[test]
fn defaults_of_the_broker() {
    let limits = Limits { delivery_limit: 20, consumer_timeout_ms: 1000, ..Limits::default() };
    let quorum = QueueSettings { kind: QueueKind::Quorum, ..QueueSettings::default() };
    assert_eq!(quorum.delivery_limit(&limits), Some(20));
    assert_eq!(QueueSettings { delivery_limit: Some(-1), ..quorum.clone() }.delivery_limit(&limits), None);
    assert_eq!(QueueSettings { delivery_limit: Some(0), ..quorum.clone() }.delivery_limit(&limits), Some(0));
    assert_eq!(QueueSettings::default().delivery_limit(&limits), None);
    assert_eq!(quorum.consumer_timeout(None, &limits), Some(1000));
    assert_eq!(quorum.consumer_timeout(Some(0), &limits), None);
    let set = QueueSettings { consumer_timeout_ms: Some(5), ..quorum };
    assert_eq!((set.consumer_timeout(None, &limits), set.consumer_timeout(Some(9), &limits)), (Some(5), Some(9)));
}

#[test]
fn retry_delays() {
    let with = |kind, min_ms, max_ms| QueueSettings {
        kind: QueueKind::Quorum,
        delayed_retry: DelayedRetry { kind, min_ms, max_ms },
        ..QueueSettings::default()
    };
    for (kind, count, failed, expected) in [
        (None, 3, true, 0),
        (Some(RetryKind::Disabled), 3, true, 0),
        (Some(RetryKind::All), 0, false, 10),
        (Some(RetryKind::All), 2, true, 20),
        (Some(RetryKind::All), 9, true, 35),
        (Some(RetryKind::Failed), 1, true, 10),
        (Some(RetryKind::Failed), 1, false, 0),
        (Some(RetryKind::Returned), 1, false, 10),
        (Some(RetryKind::Returned), 1, true, 0),
    ] {
        assert_eq!(with(kind, Some(10), Some(35)).retry_delay_ms(count, failed), expected, "{kind:?} {count} {failed}");
    }
    assert_eq!(with(Some(RetryKind::All), Some(u64::MAX), None).retry_delay_ms(9, true), u64::MAX);
    let classic = QueueSettings { kind: QueueKind::Classic, ..with(Some(RetryKind::All), Some(10), None) };
    assert_eq!(classic.retry_delay_ms(1, true), 0);
}

#[test]
fn alternate_exchanges() {
    let by_policy = effective(&[("alternate-exchange", s("p"))]);
    let argument = table(&[("alternate-exchange", s("a"))]);
    let none = FieldTable::default();
    assert_eq!(alternate_exchange(&none, &Effective::default()), None);
    assert_eq!(alternate_exchange(&none, &by_policy), Some("p".into()));
    assert_eq!(alternate_exchange(&argument, &by_policy), Some("a".into()));
}

#[test]
fn validation_texts() {
    let rows: &[(&str, Value, &str)] = &[
        ("alternate-exchange", Value::I64(1), "1 is not a valid alternate exchange name"),
        ("dead-letter-exchange", Value::I64(1), "1 is not a valid dead letter exchange name"),
        ("dead-letter-routing-key", Value::Bool(true), "true is not a valid dead letter routing key"),
        ("message-ttl", Value::I64(-1), "-1 is not a valid message TTL"),
        ("message-ttl", s("1"), "<<\"1\">> is not a valid message TTL"),
        ("message-ttl", Value::F64(1.5), "1.5 is not a valid message TTL"),
        ("expires", Value::I64(0), "0 is not a valid queue expiry"),
        ("max-length", s("many"), "<<\"many\">> is not a valid maximum length"),
        ("max-length-bytes", Value::I64(-1), "-1 is not a valid maximum length in bytes"),
        ("max-in-memory-length", Value::I64(-1), "-1 is not a valid maximum memory in bytes"),
        ("queue-mode", s("x"), "<<\"x\">> is not a valid queue-mode value"),
        ("queue-version", Value::I64(3), "3 is not a valid queue-version value"),
        ("overflow", s("x"), "<<\"x\">> is not a valid overflow value"),
        ("delivery-limit", s("x"), "<<\"x\">> is not a valid delivery limit"),
        ("max-age", s("x"), "<<\"x\">> is not a valid max age"),
        ("queue-leader-locator", s("x"), "<<\"x\">> is not a valid queue leader locator value"),
        ("initial-cluster-size", Value::I64(-1), "-1 is not a valid cluster size"),
        ("stream-max-segment-size-bytes", Value::I64(-1), "-1 is not a valid segment size"),
        ("k", Value::I64(1), "[{<<\"k\">>,1}] are not recognised policy settings"),
        ("ha-mode", s("all"), "[{<<\"ha-mode\">>,<<\"all\">>}] are not recognised policy settings"),
    ];
    for (key, value, text) in rows {
        let fault = validate(&policy("p", ".*", "all", 0, &[(key, value.clone())])).unwrap_err();
        assert_eq!(fault, format!("Validation failed\n\n{text}\n"));
    }
    let none = validate(&policy("p", ".*", "all", 0, &[])).unwrap_err();
    assert_eq!(none, "Validation failed\n\nno policy provided\n");
    let apply_to = validate(&policy("p", ".*", "things", 0, &ttl(1))).unwrap_err();
    assert_eq!(
        apply_to,
        "Validation failed\n\napply-to 'things' unrecognised; should be one of: 'queues', 'classic_queues',  \
         'quorum_queues', 'streams', 'exchanges', or 'all'\n"
    );
    let pattern = validate(&policy("p", "(", "all", 0, &ttl(1))).unwrap_err();
    assert_eq!(
        pattern,
        "Validation failed\n\npattern should be regular expression but is invalid: {\"unclosed group\",0}\n"
    );
    let unknown = policy("p", "", "all", 0, &[("k", Value::I64(1)), ("max-length", Value::I64(1)), ("b", s("x"))]);
    assert_eq!(
        validate(&unknown).unwrap_err(),
        "Validation failed\n\n[{<<\"b\">>,<<\"x\">>},{<<\"k\">>,1}] are not recognised policy settings\n"
    );
    let two = validate(&policy("p", "(", "all", 0, &ttl(-1))).unwrap_err();
    assert_eq!(two.lines().count(), 4);
    let in_operator = validate(&operator("o", "", &[("dead-letter-exchange", s("d"))])).unwrap_err();
    assert_eq!(
        in_operator,
        "Validation failed\n\n[{<<\"dead-letter-exchange\">>,<<\"d\">>}] are not recognised policy settings\n"
    );
}

#[test]
fn every_operator_key_is_a_policy_key() {
    for key in OPERATOR_KEYS {
        assert!(key_fault(key, &Value::Void).is_some(), "{key}");
    }
}

fn some_limit() -> impl Strategy<Value = Option<u64>> {
    prop::option::of(0u64..1000)
}

proptest! {
    #[test]
    fn settings_never_exceed_argument_policy_or_operator(arg in some_limit(), pol in some_limit(), op in some_limit()) {
        let mut policies = Policies::new();
        if let Some(n) = pol {
            policies.put(policy("p", "", "all", 0, &[("max-length", Value::I64(n as i64))])).unwrap();
        }
        if let Some(n) = op {
            policies.put(operator("o", "", &[("max-length", Value::I64(n as i64))])).unwrap();
        }
        let args = QueueArgs { max_length: arg, ..QueueArgs::default() };
        let settings = QueueSettings::resolve(&args, &policies.effective("V", "q", CLASSIC));
        prop_assert_eq!(settings.max_length, [arg, pol, op].into_iter().flatten().min());
    }
}
