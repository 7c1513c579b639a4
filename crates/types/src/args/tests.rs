//! A row for each text and each accepted form.

use super::*;
use crate::error::ReplyCode;
use proptest::prelude::*;

fn table(pairs: &[(&str, Value)]) -> FieldTable {
    FieldTable(pairs.iter().map(|(k, v)| (ShortStr::new(k), v.clone())).collect())
}

fn s(text: &str) -> Value {
    Value::long_str(text)
}

const PLAIN: QueueContext<'_> =
    QueueContext { queue: "Q", vhost: "V", durable: true, exclusive: false, auto_delete: false };

fn refused(pairs: &[(&str, Value)]) -> String {
    let error = QueueArgs::parse(&table(pairs), &PLAIN).expect_err("should be refused");
    assert_eq!(error.code, ReplyCode::PreconditionFailed);
    error.text
}

#[test]
fn bad_values_of_a_classic_queue() {
    let rows: &[(&str, Value, &str)] = &[
        ("x-queue-type", s("fancy"), "\"unsupported queue type 'fancy'\""),
        ("x-queue-type", Value::I32(1), "{unacceptable_type,signedint}"),
        ("x-message-ttl", Value::I32(-1), "{value_negative,-1}"),
        ("x-message-ttl", Value::I64(315_360_000_001), "{value_too_large,315360000001}"),
        ("x-message-ttl", s("1000"), "\"expected integer, got longstr\""),
        ("x-message-ttl", Value::F64(1.0), "\"expected integer, got double\""),
        ("x-message-ttl", Value::Decimal(0, 1), "\"expected integer, got decimal\""),
        ("x-expires", Value::U8(0), "{value_zero,0}"),
        ("x-expires", Value::I8(-2), "{value_negative,-2}"),
        ("x-expires", Value::I64(i64::MAX), "{value_too_large,9223372036854775807}"),
        ("x-max-length", Value::I32(-5), "{value_negative,-5}"),
        ("x-max-length", Value::Bool(true), "\"expected integer, got bool\""),
        ("x-max-length-bytes", Value::I16(-5), "{value_negative,-5}"),
        ("x-overflow", s("drop"), "invalid_overflow"),
        ("x-overflow", Value::I32(1), "{unacceptable_type,signedint}"),
        ("x-dead-letter-routing-key", s("k"), "routing_key_but_no_dlx_defined"),
        ("x-dead-letter-routing-key", Value::Void, "{unacceptable_type,void}"),
        ("x-max-priority", Value::I32(256), "{max_value_exceeded,256}"),
        ("x-max-priority", Value::I32(-1), "{value_negative,-1}"),
        ("x-single-active-consumer", s("true"), "{unacceptable_type,longstr}"),
        ("x-queue-version", Value::I32(1), "\"unsupported queue version '1'\""),
        ("x-queue-leader-locator", s("here"), "invalid_queue_locator_arg"),
    ];
    for (key, value, term) in rows {
        assert_eq!(refused(&[(key, value.clone())]), format!("invalid arg '{key}' for queue 'Q' in vhost 'V': {term}"));
    }
}

#[test]
fn bad_values_of_a_quorum_queue() {
    let rows: &[(&str, Value, &str)] = &[
        ("x-dead-letter-strategy", s("sometimes"), "invalid_dlx_strategy"),
        ("x-delivery-limit", s("3"), "\"expected integer, got longstr\""),
        ("x-consumer-timeout", Value::I32(-1), "{value_negative,-1}"),
        ("x-consumer-disconnected-timeout", Value::I32(-1), "{value_negative,-1}"),
        ("x-quorum-initial-group-size", Value::I32(0), "{value_zero,0}"),
        ("x-max-in-memory-length", Value::I32(-1), "{value_negative,-1}"),
        ("x-delayed-retry-type", s("x"), "invalid_delayed_retry_type"),
        ("x-delayed-retry-min", Value::I32(-1), "{value_negative,-1}"),
    ];
    for (key, value, term) in rows {
        let text = refused(&[("x-queue-type", s("quorum")), (key, value.clone())]);
        assert_eq!(text, format!("invalid arg '{key}' for queue 'Q' in vhost 'V': {term}"));
    }
}

#[test]
fn arguments_of_other_types() {
    let foreign = |kind: &str, key: &str, value: Value, module: &str| {
        let text = refused(&[("x-queue-type", s(kind)), (key, value)]);
        assert_eq!(text, format!("invalid arg '{key}' for queue 'Q' in vhost 'V' of queue type {module}"));
    };
    foreign("classic", "x-delivery-limit", Value::I32(3), "rabbit_classic_queue");
    foreign("classic", "x-max-age", s("1D"), "rabbit_classic_queue");
    foreign("classic", "x-consumer-timeout", Value::I32(1), "rabbit_classic_queue");
    foreign("quorum", "x-max-priority", Value::I32(3), "rabbit_quorum_queue");
    foreign("quorum", "x-queue-mode", s("lazy"), "rabbit_quorum_queue");
}

#[test]
fn order_of_the_checks() {
    let dlx = ("x-dead-letter-exchange", Value::I32(1));
    let kind = ("x-queue-type", s("fancy"));
    let ttl = ("x-message-ttl", Value::I32(-1));
    let expires = ("x-expires", Value::I32(0));
    let foreign = ("x-delivery-limit", Value::I32(1));
    let text = refused(&[foreign.clone(), ttl.clone(), kind.clone(), dlx]);
    assert_eq!(text, "invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'Q' in vhost 'V'");
    assert!(refused(&[foreign.clone(), ttl.clone(), kind]).starts_with("invalid arg 'x-queue-type'"));
    assert!(refused(&[ttl.clone(), expires]).starts_with("invalid arg 'x-expires'"));
    assert!(refused(&[foreign, ttl]).starts_with("invalid arg 'x-message-ttl'"));
}

#[test]
fn quorum_properties() {
    let quorum = table(&[("x-queue-type", s("quorum"))]);
    for (durable, exclusive, auto_delete, expected) in [
        (true, false, false, None),
        (false, false, false, Some("invalid property 'non-durable' for queue 'Q' in vhost 'V'")),
        (true, true, false, Some("invalid property 'exclusive-owner' for queue 'Q' in vhost 'V'")),
        (false, true, true, Some("invalid property 'auto-delete' for queue 'Q' in vhost 'V'")),
    ] {
        let ctx = QueueContext { durable, exclusive, auto_delete, ..PLAIN };
        assert_eq!(QueueArgs::parse(&quorum, &ctx).err().map(|e| e.text).as_deref(), expected);
        assert!(QueueArgs::parse(&FieldTable::default(), &ctx).is_ok());
    }
}

#[test]
fn streams_are_refused() {
    let error = QueueArgs::parse(&table(&[("x-queue-type", s("stream"))]), &PLAIN).unwrap_err();
    assert_eq!(error.code, ReplyCode::NotImplemented);
    assert_eq!(error.text, "queue type stream is not supported: queue 'Q' in vhost 'V'");
}

#[test]
fn everything_good() {
    let classic = QueueArgs::parse(
        &table(&[
            ("x-message-ttl", Value::I8(0)),
            ("x-expires", Value::U16(5)),
            ("x-max-length", Value::I64(10)),
            ("x-max-length-bytes", Value::U32(11)),
            ("x-overflow", s("reject-publish-dlx")),
            ("x-dead-letter-exchange", s("")),
            ("x-dead-letter-routing-key", s("k")),
            ("x-max-priority", Value::I16(10)),
            ("x-single-active-consumer", Value::Bool(true)),
            ("x-queue-mode", s("lazy")),
            ("x-queue-version", Value::I32(2)),
            ("x-queue-master-locator", s("min-masters")),
            ("x-whatever", Value::Void),
        ]),
        &PLAIN,
    )
    .unwrap();
    assert_eq!(
        classic,
        QueueArgs {
            kind: QueueKind::Classic,
            message_ttl_ms: Some(0),
            expires_ms: Some(5),
            max_length: Some(10),
            max_length_bytes: Some(11),
            overflow: Some(Overflow::RejectPublishDlx),
            dead_letter_exchange: Some("".into()),
            dead_letter_routing_key: Some("k".into()),
            max_priority: Some(10),
            single_active: true,
            ..QueueArgs::default()
        }
    );
    let quorum = table(&[
        ("x-queue-type", s("quorum")),
        ("x-dead-letter-exchange", s("d")),
        ("x-dead-letter-strategy", s("at-least-once")),
        ("x-delivery-limit", Value::I32(-1)),
        ("x-consumer-timeout", Value::I32(7)),
        ("x-delayed-retry-type", s("failed")),
        ("x-delayed-retry-min", Value::I32(1)),
        ("x-delayed-retry-max", Value::I32(2)),
        ("x-quorum-initial-group-size", Value::I32(3)),
        ("x-max-in-memory-bytes", Value::I32(3)),
    ]);
    let parsed = QueueArgs::parse(&quorum, &PLAIN).unwrap();
    assert!(parsed.dead_letter_at_least_once());
    assert_eq!(parsed.delivery_limit, Some(-1));
    assert_eq!(parsed.consumer_timeout_ms, Some(7));
    assert_eq!(parsed.delayed_retry, DelayedRetry { kind: Some(RetryKind::Failed), min_ms: Some(1), max_ms: Some(2) });
    assert_eq!(QueueArgs::trusted(&quorum), parsed);
}

#[test]
fn trusted_leaves_out_what_is_bad() {
    let args = QueueArgs::trusted(&table(&[
        ("x-message-ttl", s("soon")),
        ("x-max-length", Value::I32(3)),
        ("x-dead-letter-exchange", s("d")),
        ("x-dead-letter-routing-key", s("k")),
        ("x-delivery-limit", Value::I32(3)),
    ]));
    assert_eq!((args.message_ttl_ms, args.max_length, args.delivery_limit), (None, Some(3), None));
    assert_eq!(args.dead_letter_routing_key, Some("k".into()));
}

#[test]
fn consumers() {
    let parse = |kind, pairs: &[(&str, Value)]| {
        ConsumerArgs::parse(&table(pairs), kind, "Q", "V").map_err(|e| {
            assert_eq!(e.code, ReplyCode::PreconditionFailed);
            e.text
        })
    };
    use QueueKind::{Classic, Quorum};
    let args = |priority, consumer_timeout_ms| Ok(ConsumerArgs { priority, consumer_timeout_ms });
    assert_eq!(parse(Classic, &[]), args(0, None));
    assert_eq!(parse(Classic, &[("x-priority", Value::I8(-3))]), args(-3, None));
    assert_eq!(parse(Classic, &[("x-priority", Value::I64(5)), ("x-cancel-on-ha-failover", s("?"))]), args(5, None));
    assert_eq!(parse(Quorum, &[("x-consumer-timeout", Value::I32(9))]), args(0, Some(9)));
    for (kind, key, value, text) in [
        (Classic, "x-priority", s("5"), "queue 'Q' in vhost 'V': \"expected integer, got longstr\""),
        (Quorum, "x-consumer-timeout", Value::I32(-1), "queue 'Q' in vhost 'V': {value_negative,-1}"),
        (Classic, "x-stream-offset", s("first"), "queue 'Q' in vhost 'V' of queue type rabbit_classic_queue"),
        (Quorum, "x-stream-offset", s("first"), "queue 'Q' in vhost 'V' of queue type rabbit_quorum_queue"),
        (Classic, "x-consumer-timeout", Value::I32(1), "queue 'Q' in vhost 'V' of queue type rabbit_classic_queue"),
    ] {
        assert_eq!(parse(kind, &[(key, value)]), Err(format!("invalid arg '{key}' for {text}")));
    }
}

#[test]
fn expirations() {
    for (text, expected) in [
        ("0", Ok(0)),
        ("60000", Ok(60_000)),
        ("+5", Ok(5)),
        ("-0", Ok(0)),
        ("007", Ok(7)),
        ("315360000000", Ok(315_360_000_000)),
        ("", Err("no_integer")),
        ("ms", Err("no_integer")),
        (" 5", Err("no_integer")),
        ("-", Err("no_integer")),
        ("5ms", Err("{leftover_string,\"ms\"}")),
        ("5.0", Err("{leftover_string,\".0\"}")),
        ("5 \"", Err("{leftover_string,\" \\\"\"}")),
        ("-1", Err("{value_negative,-1}")),
        ("315360000001", Err("{value_too_large,315360000001}")),
        ("0099999999999999999999999", Err("{value_too_large,99999999999999999999999}")),
    ] {
        assert_eq!(parse_expiration(text), expected.map_err(str::to_owned), "{text:?}");
    }
}

#[test]
fn ages() {
    for (text, expected) in [
        ("1s", Some(1000)),
        ("2m", Some(120_000)),
        ("1h", Some(3_600_000)),
        ("7D", Some(604_800_000)),
        ("1M", Some(2_592_000_000)),
        ("1Y", Some(31_536_000_000)),
        ("", None),
        ("D", None),
        ("0s", None),
        ("1d", None),
        ("1.5h", None),
        ("1é", None),
        ("99999999999999999999Y", None),
    ] {
        assert_eq!(parse_max_age(text), expected, "{text:?}");
    }
}

#[test]
fn helpers_of_declare() {
    assert_eq!(dead_letter_exchange_argument(&FieldTable::default(), "Q", "V"), Ok(None));
    assert_eq!(dead_letter_exchange_argument(&table(&[("x-dead-letter-exchange", s("d"))]), "Q", "V"), Ok(Some("d")));
    assert_eq!(
        alternate_exchange_argument(&table(&[("alternate-exchange", Value::Bool(true))]), "X", "V").unwrap_err().text,
        "invalid type 'bool' for arg 'alternate-exchange' in exchange 'X' in vhost 'V'"
    );
    assert!(check_server_named(&FieldTable::default()).is_ok());
    assert_eq!(
        check_server_named(&table(&[("x-queue-type", s("quorum"))])).unwrap_err().text,
        "Cannot declare a server-named queue for type rabbit_quorum_queue"
    );
    let fill = |arguments, default, durable, exclusive, auto_delete| {
        QueueKind::of(&with_default_queue_type(arguments, default, durable, exclusive, auto_delete))
    };
    let none = FieldTable::default;
    assert_eq!(fill(none(), Some("quorum"), true, false, false), QueueKind::Quorum);
    assert_eq!(fill(none(), Some("quorum"), false, false, false), QueueKind::Classic);
    assert_eq!(fill(none(), Some("quorum"), true, true, false), QueueKind::Classic);
    assert_eq!(fill(none(), Some("quorum"), true, false, true), QueueKind::Classic);
    assert_eq!(fill(none(), None, true, false, false), QueueKind::Classic);
    let named = table(&[("x-queue-type", s("classic"))]);
    assert_eq!(fill(named, Some("quorum"), true, false, false), QueueKind::Classic);
}

proptest! {
    #[test]
    fn any_table_parses_or_is_refused(arguments in crate::table::tests::any_table(), key in 0usize..1000, value in crate::table::tests::any_value()) {
        let mut arguments = arguments;
        let keys: Vec<&str> = QueueKind::ALL.iter().flat_map(|k| k.queue_arguments()).copied().collect();
        arguments.set(keys[key % keys.len()], value);
        if let Ok(parsed) = QueueArgs::parse(&arguments, &PLAIN) {
            prop_assert_eq!(QueueArgs::trusted(&arguments), parsed);
        }
    }

    #[test]
    fn any_expiration_is_bounded(text in "[-+0-9a-z. ]{0,20}") {
        if let Ok(v) = parse_expiration(&text) {
            prop_assert!(v <= EXPIRY_MAX_MS.unsigned_abs());
            prop_assert_eq!(parse_expiration(&v.to_string()), Ok(v));
        }
    }
}
