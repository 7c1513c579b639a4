//! The JSON of definitions as data folders hold it. If `written_so_far_still_opens` fails, old brokers' data opens no more: give
//! a new field a default, never rename one.

#![allow(clippy::unwrap_used)]

use hornpipe_types::definition::*;
use hornpipe_types::ids::{QueueId, VhostId};
use hornpipe_types::range::SeqRange;
use hornpipe_types::table::{FieldTable, Value};

fn table(entries: &[(&str, Value)]) -> FieldTable {
    let mut t = FieldTable::default();
    entries.iter().for_each(|(k, v)| t.set(k, v.clone()));
    t
}

fn forms() -> Vec<(&'static str, Definition)> {
    let arguments = table(&[
        ("x-max-length", Value::I32(5)),
        ("x-dead-letter-exchange", Value::long_str("dlx")),
        ("octets", Value::Binary(vec![0xff, 1].into())),
        ("more", Value::Array(vec![Value::Bool(true), Value::Void, Value::F64(0.5)])),
    ]);
    vec![
        (
            r#"{"Vhost":{"name":"/","id":1,"shard":0,"description":"Default","tags":["a"],"default_queue_type":"quorum","limits":[["max-queues",7]]}}"#,
            Definition::Vhost(VhostDefinition {
                name: "/".into(),
                id: VhostId(1),
                shard: 0,
                description: "Default".to_owned(),
                tags: vec!["a".to_owned()],
                default_queue_type: Some("quorum".into()),
                limits: vec![("max-queues".into(), 7)],
            }),
        ),
        (
            r#"{"User":{"name":"guest","password_hash":"AAAA","hashing_algorithm":"rabbit_password_hashing_sha256","tags":["administrator"],"limits":[["max-channels",-1]]}}"#,
            Definition::User(UserDefinition {
                name: "guest".into(),
                password_hash: "AAAA".to_owned(),
                hashing_algorithm: "rabbit_password_hashing_sha256".to_owned(),
                tags: vec!["administrator".to_owned()],
                limits: vec![("max-channels".into(), -1)],
            }),
        ),
        (
            r#"{"Permission":{"user":"u","vhost":"/","configure":".*","write":"^a","read":""}}"#,
            Definition::Permission(PermissionDefinition {
                user: "u".into(),
                vhost: "/".into(),
                configure: ".*".to_owned(),
                write: "^a".to_owned(),
                read: String::new(),
            }),
        ),
        (
            r#"{"TopicPermission":{"user":"u","vhost":"/","exchange":"amq.topic","write":"w","read":"r"}}"#,
            Definition::TopicPermission(TopicPermissionDefinition {
                user: "u".into(),
                vhost: "/".into(),
                exchange: "amq.topic".into(),
                write: "w".to_owned(),
                read: "r".to_owned(),
            }),
        ),
        (
            r#"{"Exchange":{"vhost":"/","name":"x","kind":"topic","durable":true,"auto_delete":false,"internal":true,"arguments":[]}}"#,
            Definition::Exchange(ExchangeDefinition {
                vhost: "/".into(),
                name: "x".into(),
                kind: "topic".into(),
                durable: true,
                internal: true,
                ..ExchangeDefinition::default()
            }),
        ),
        (
            r#"{"Queue":{"vhost":"/","name":"q","id":9,"durable":true,"exclusive":false,"auto_delete":true,"arguments":[["x-max-length",{"I32":5}],["x-dead-letter-exchange",{"LongStr":"dlx"}],["octets",{"Binary":[255,1]}],["more",{"Array":[{"Bool":true},"Void",{"F64":0.5}]}]]}}"#,
            Definition::Queue(QueueDefinition {
                vhost: "/".into(),
                name: "q".into(),
                id: QueueId(9),
                durable: true,
                auto_delete: true,
                arguments: arguments.clone(),
                ..QueueDefinition::default()
            }),
        ),
        (
            // what most queues have not is left out
            r#"{"Queue":{"vhost":"/","name":"q","id":9,"durable":true}}"#,
            Definition::Queue(QueueDefinition {
                vhost: "/".into(),
                name: "q".into(),
                id: QueueId(9),
                durable: true,
                ..QueueDefinition::default()
            }),
        ),
        (
            // what stays of a deleted queue
            r#"{"Queue":{"vhost":"/","name":"\u0001grave.9","id":9,"durable":true,"grave":{"queue":"q","exchange":"dlx","routing_key":"k","reasons":[["expired",[{"first":3,"count":2,"step":1}]]]}}}"#,
            Definition::Queue(QueueDefinition {
                vhost: "/".into(),
                name: "\u{1}grave.9".into(),
                id: QueueId(9),
                durable: true,
                grave: Some(Box::new(GraveDefinition {
                    queue: "q".into(),
                    exchange: "dlx".into(),
                    routing_key: Some("k".into()),
                    reasons: vec![("expired".into(), vec![SeqRange::dense(3, 2)])],
                })),
                ..QueueDefinition::default()
            }),
        ),
        (
            // from before the order was noted
            r#"{"Binding":{"vhost":"/","source":"x","destination":"q","destination_is_queue":true,"routing_key":"k","arguments":[["a",{"Timestamp":3}]]}}"#,
            Definition::Binding(BindingDefinition {
                vhost: "/".into(),
                source: "x".into(),
                destination: "q".into(),
                destination_is_queue: true,
                routing_key: "k".into(),
                arguments: table(&[("a", Value::Timestamp(3))]),
                order: 0,
            }),
        ),
        (
            r#"{"Policy":{"vhost":"/","operator":false,"name":"p","pattern":"^q","apply_to":"queues","priority":-3,"definition":[["max-length",{"I64":10}]]}}"#,
            Definition::Policy(PolicyDefinition {
                vhost: "/".into(),
                operator: false,
                name: "p".into(),
                pattern: "^q".to_owned(),
                apply_to: "queues".to_owned(),
                priority: -3,
                definition: table(&[("max-length", Value::I64(10))]),
            }),
        ),
        (
            r#"{"Parameter":{"vhost":null,"component":"","name":"cluster_name","value":"\"a\""}}"#,
            Definition::Parameter(ParameterDefinition {
                vhost: None,
                component: "".into(),
                name: "cluster_name".into(),
                value: "\"a\"".to_owned(),
            }),
        ),
        (r#"{"NextIds":{"queue":1000,"vhost":2}}"#, Definition::NextIds { queue: QueueId(1000), vhost: VhostId(2) }),
    ]
}

#[test]
fn written_so_far_still_opens() {
    for (json, definition) in forms() {
        assert_eq!(serde_json::from_str::<Definition>(json).unwrap(), definition, "{json}");
    }
}

/// A field that an older version did not know has its default, one that this version does not know is no hindrance.
#[test]
fn missing_and_unknown_fields_are_tolerated() {
    for (json, definition) in forms() {
        let mut value: serde_json::Value = serde_json::from_str(json).unwrap();
        let (kind, fields) = value.as_object_mut().unwrap().iter_mut().next().unwrap();
        let (kind, fields) = (kind.clone(), fields.as_object_mut().unwrap());
        fields.insert("of a later version".to_owned(), serde_json::json!({ "a": [1] }));
        let names: Vec<String> = fields.keys().cloned().collect();
        assert_eq!(serde_json::from_value::<Definition>(value.clone()).unwrap(), definition);
        for name in names {
            let mut less = value.clone();
            less[&kind].as_object_mut().unwrap().remove(&name);
            let read = serde_json::from_value::<Definition>(less);
            assert!(read.is_ok(), "{kind} without {name}: {read:?}");
        }
    }
}
