use super::*;
use crate::rng::Rng;
use hornpipe_types::table::Value;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn s(text: &str) -> Value {
    Value::long_str(text)
}

fn table(pairs: &[(&str, Value)]) -> FieldTable {
    FieldTable(pairs.iter().map(|(k, v)| ((*k).into(), v.clone())).collect())
}

fn request(name: &str, kind: &str, arguments: &[(&str, Value)]) -> ExchangeDeclare {
    ExchangeDeclare {
        exchange: name.into(),
        kind: kind.into(),
        passive: false,
        durable: true,
        auto_delete: false,
        internal: false,
        nowait: false,
        arguments: table(arguments),
    }
}

fn definition(d: &ExchangeDeclare) -> ExchangeDefinition {
    ExchangeDefinition {
        vhost: "/".into(),
        name: d.exchange.clone(),
        kind: d.kind.clone(),
        durable: d.durable,
        auto_delete: d.auto_delete,
        internal: d.internal,
        arguments: d.arguments.clone(),
    }
}

struct Bench {
    t: Topology,
    rng: Rng,
    out: Routed,
}

impl Bench {
    fn new() -> Self {
        Self { t: Topology::new("/".into()), rng: Rng::new(1), out: Routed::default() }
    }
    fn declare(&mut self, name: &str, kind: &str, arguments: &[(&str, Value)]) -> ExchangeId {
        let d = request(name, kind, arguments);
        assert_eq!(self.t.check_declare(&d), Ok(None), "{name}");
        self.t.declare(definition(&d)).unwrap()
    }
    fn auto_delete(&mut self, name: &str, kind: &str) -> ExchangeId {
        let mut d = definition(&request(name, kind, &[]));
        d.auto_delete = true;
        self.t.declare(d).unwrap()
    }
    fn to_queue(source: &str, queue: u64, key: &str, arguments: &[(&str, Value)]) -> BindingDefinition {
        BindingDefinition {
            vhost: "/".into(),
            source: source.into(),
            destination: format!("q{queue}").into(),
            destination_is_queue: true,
            routing_key: key.into(),
            arguments: table(arguments),
            ..BindingDefinition::default()
        }
    }
    fn bind_with(&mut self, source: &str, queue: u64, key: &str, arguments: &[(&str, Value)]) -> Result<bool, String> {
        let b = Self::to_queue(source, queue, key, arguments);
        self.t
            .bind(&b, Destination::Queue(QueueId(queue)), QueueTraits::classic(true))
            .map(|o| o.added)
            .map_err(|e| e.reply_text())
    }
    fn bind(&mut self, source: &str, queue: u64, key: &str) {
        assert_eq!(self.bind_with(source, queue, key, &[]), Ok(true));
    }
    fn unbind(&mut self, source: &str, queue: u64, key: &str) -> Changes {
        self.t.unbind(&Self::to_queue(source, queue, key, &[]), Destination::Queue(QueueId(queue)))
    }
    fn to_exchange(source: &str, destination: &str, key: &str) -> BindingDefinition {
        BindingDefinition {
            destination: destination.into(),
            destination_is_queue: false,
            ..Self::to_queue(source, 0, key, &[])
        }
    }
    fn chain(&mut self, source: &str, destination: &str, key: &str) {
        let to = Destination::Exchange(self.t.find(destination).unwrap());
        let b = Self::to_exchange(source, destination, key);
        assert!(self.t.bind(&b, to, QueueTraits::classic(false)).unwrap().added);
    }
    fn route_input(&mut self, exchange: &str, input: &RouteInput<'_>) -> Vec<u64> {
        let id = self.t.find(exchange).unwrap();
        self.t.route(id, input, &mut self.rng, &mut self.out);
        let mut queues: Vec<u64> = self.out.queues.iter().map(|q| q.0).collect();
        queues.sort_unstable();
        let n = queues.len();
        queues.dedup();
        assert_eq!(n, queues.len(), "each queue once");
        queues
    }
    fn route(&mut self, exchange: &str, key: &str) -> Vec<u64> {
        self.route_input(exchange, &RouteInput { keys: &[key], ..RouteInput::default() })
    }
    fn route_headers(&mut self, exchange: &str, headers: &[(&str, Value)]) -> Vec<u64> {
        let headers = table(headers);
        self.route_input(exchange, &RouteInput { keys: &["k"], headers: Some(&headers), ..RouteInput::default() })
    }
}

#[test]
fn predeclared_exchanges() {
    let b = Bench::new();
    let listed: Vec<(String, String, bool, bool)> =
        b.t.exchanges()
            .map(|(_, x)| {
                let d = &x.definition;
                (d.name.to_string(), d.kind.to_string(), d.durable, d.internal)
            })
            .collect();
    let expected = [
        ("", "direct", false),
        ("amq.direct", "direct", false),
        ("amq.fanout", "fanout", false),
        ("amq.headers", "headers", false),
        ("amq.match", "headers", false),
        ("amq.rabbitmq.trace", "topic", true),
        ("amq.topic", "topic", false),
    ];
    assert_eq!(listed, expected.map(|(n, k, i)| (n.to_string(), k.to_string(), true, i)));
    let after: Vec<&str> = b.t.exchanges_after("amq.headers").map(|(_, x)| x.definition.name.as_str()).collect();
    assert_eq!(after, ["amq.match", "amq.rabbitmq.trace", "amq.topic"]);
}

#[test]
fn declare_checks() {
    let mut b = Bench::new();
    b.declare("x", "direct", &[]);
    b.declare("ae", "fanout", &[("alternate-exchange", s("other")), ("more", Value::I32(1))]);
    let check = |d: &ExchangeDeclare| b.t.check_declare(d).map_err(|e| e.reply_text());
    let x = b.t.find("x");
    let arg = |field: &str, name: &str, received: &str, current: &str| {
        Err(format!(
            "PRECONDITION_FAILED - inequivalent arg '{field}' for exchange '{name}' in vhost '/': received {received} but \
             current is {current}"
        ))
    };
    let base = request("x", "direct", &[]);
    let with = |f: &dyn Fn(&mut ExchangeDeclare)| {
        let mut d = base.clone();
        f(&mut d);
        check(&d)
    };
    assert_eq!(check(&base), Ok(x));
    assert_eq!(with(&|d| d.arguments = table(&[("ignored", s("y"))])), Ok(x));
    assert_eq!(with(&|d| d.kind = "topic".into()), arg("type", "x", "'topic'", "'direct'"));
    assert_eq!(with(&|d| d.durable = false), arg("durable", "x", "'false'", "'true'"));
    assert_eq!(with(&|d| d.auto_delete = true), arg("auto_delete", "x", "'true'", "'false'"));
    assert_eq!(with(&|d| d.internal = true), arg("internal", "x", "'true'", "'false'"));
    let ae = "alternate-exchange";
    assert_eq!(
        with(&|d| d.arguments = table(&[(ae, s("a"))])),
        arg(ae, "x", "the value 'a' of type 'longstr'", "none")
    );
    assert_eq!(check(&request("ae", "fanout", &[])), arg(ae, "ae", "none", "the value 'other' of type 'longstr'"));
    assert_eq!(check(&request("ae", "fanout", &[(ae, s("b"))])), arg(ae, "ae", "'b'", "'other'"));
    assert_eq!(check(&request("ae", "fanout", &[(ae, Value::I32(5))])), arg(ae, "ae", "'5'", "'other'"));
    assert_eq!(check(&request("ae", "fanout", &[(ae, s("other"))])), Ok(b.t.find("ae")));

    // passive: nothing but existence counts
    let passive = |name: &str, kind: &str| check(&ExchangeDeclare { passive: true, ..request(name, kind, &[]) });
    assert_eq!(passive("x", "nonsense"), Ok(x));
    assert_eq!(passive("no", "direct"), Err("NOT_FOUND - no exchange 'no' in vhost '/'".into()));
    let default = "ACCESS_REFUSED - operation not permitted on the default exchange".to_string();
    assert_eq!(passive("", "direct"), Err(default.clone()));
    assert_eq!(check(&request("", "direct", &[])), Err(default));

    assert_eq!(
        check(&request("new", "nonsense", &[])),
        Err("PRECONDITION_FAILED - unknown exchange type 'nonsense'".into())
    );
    assert_eq!(
        check(&request("amq.new", "direct", &[])),
        Err("ACCESS_REFUSED - exchange name 'amq.new' contains reserved prefix 'amq.*'".into())
    );
    assert_eq!(check(&request("amq.topic", "topic", &[])), Ok(b.t.find("amq.topic")));
    assert_eq!(
        check(&request("new", "direct", &[(ae, Value::I32(1))])),
        Err("PRECONDITION_FAILED - invalid type 'signedint' for arg 'alternate-exchange' in exchange 'new' in vhost '/'"
            .into())
    );
    assert_eq!(
        check(&request("new", "x-recent-history", &[("x-recent-history-length", Value::I32(0))])),
        Err("PRECONDITION_FAILED - Invalid argument 0, 'x-recent-history-length' must be a positive integer".into())
    );
    assert_eq!(
        check(&request("new", "x-delayed-message", &[])),
        Err("PRECONDITION_FAILED - Invalid argument, 'x-delayed-type' must be an existing exchange type".into())
    );
}

#[test]
fn delete_checks() {
    let mut b = Bench::new();
    b.declare("x", "direct", &[]);
    b.bind("x", 1, "k");
    let check = |n: &str, if_unused| b.t.check_delete(n, if_unused).map_err(|e| e.reply_text());
    assert_eq!(check("no", true), Ok(None));
    assert_eq!(check("x", false), Ok(b.t.find("x")));
    assert_eq!(check("x", true), Err("PRECONDITION_FAILED - exchange 'x' in vhost '/' in use".into()));
    assert_eq!(
        check("amq.direct", false),
        Err("ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed".into())
    );
    assert_eq!(check("", false), Err("ACCESS_REFUSED - operation not permitted on the default exchange".into()));
}

#[test]
fn direct_fanout_topic_and_several_keys() {
    let mut b = Bench::new();
    b.bind("amq.direct", 1, "a");
    b.bind("amq.direct", 2, "a");
    b.bind("amq.direct", 2, "b");
    b.bind("amq.fanout", 3, "");
    b.bind("amq.fanout", 3, "again");
    b.bind("amq.topic", 4, "a.*");
    b.bind("amq.topic", 4, "#");
    b.bind("amq.topic", 5, "a.b");
    assert_eq!(b.route("amq.direct", "a"), [1, 2]);
    assert_eq!(b.route("amq.direct", "none"), [0u64; 0]);
    assert_eq!(b.route_input("amq.direct", &RouteInput { keys: &["b", "a"], ..RouteInput::default() }), [1, 2]);
    assert_eq!(b.route("amq.fanout", "x"), [3]);
    assert_eq!(b.route("amq.topic", "a.b"), [4, 5]);
    assert_eq!(b.route_input("amq.topic", &RouteInput { keys: &["x", "a.b"], ..RouteInput::default() }), [4, 5]);
    assert_eq!(b.t.binding_count(), 8);
}

#[test]
fn refusals_of_binding() {
    let mut b = Bench::new();
    b.declare("hash", "x-consistent-hash", &[]);
    b.declare("local", "x-local-random", &[]);
    b.declare("late", "x-delayed-message", &[("x-delayed-type", s("topic"))]);
    let default = Err("ACCESS_REFUSED - operation not permitted on the default exchange".to_string());
    assert_eq!(b.bind_with("", 1, "k", &[]), default);
    assert_eq!(b.bind_with("no", 1, "k", &[]), Err("NOT_FOUND - no exchange 'no' in vhost '/'".into()));
    assert_eq!(
        b.bind_with("hash", 1, "k", &[]),
        Err("PRECONDITION_FAILED - The binding key must be an integer: <<\"k\">>".into())
    );
    assert_eq!(
        b.bind_with("local", 1, "k", &[]),
        Err("PRECONDITION_FAILED - Non empty binding 'k' key not permitted".into())
    );
    let three = "PRECONDITION_FAILED - Topic binding key '#.a.#.#' uses 3 '#' wildcards, at most 2 are allowed";
    assert_eq!(b.bind_with("amq.topic", 1, "#.a.#.#", &[]), Err(three.into()));
    assert_eq!(b.bind_with("late", 1, "#.a.#.#", &[]), Err(three.into()));
    assert!(b.bind_with("amq.headers", 1, "", &[("x-match", s("odd"))]).is_err());
    let to_default = Bench::to_exchange("amq.direct", "", "k");
    let id = b.t.find("").unwrap();
    assert!(b.t.bind(&to_default, Destination::Exchange(id), QueueTraits::classic(true)).is_err());
    assert_eq!(b.t.binding_count(), 0);
    let quorum = QueueTraits { durable: true, kind: "quorum" };
    let refused = b.t.bind(&Bench::to_queue("local", 1, "", &[]), Destination::Queue(QueueId(1)), quorum);
    assert_eq!(refused.unwrap_err().text, "Queue type rabbit_quorum_queue not valid for this exchange type");
}

#[test]
fn identity_and_durability_of_bindings() {
    let mut b = Bench::new();
    b.declare("t", "direct", &[]);
    assert_eq!(b.bind_with("t", 1, "k", &[]), Ok(true));
    let generation = b.t.generation();
    assert_eq!(b.bind_with("t", 1, "k", &[]), Ok(false));
    assert_eq!(b.t.generation(), generation);
    assert_eq!(b.bind_with("t", 1, "k", &[("a", s("1")), ("b", s("2"))]), Ok(true));
    assert_eq!(b.bind_with("t", 1, "k", &[("b", s("2")), ("a", s("1"))]), Ok(false));
    assert_eq!(b.bind_with("t", 1, "k", &[("a", s("1"))]), Ok(true));
    assert_eq!(b.t.bindings_of_queue(QueueId(1)).count(), 3);
    assert_eq!(b.route("t", "k"), [1]);
    assert_eq!(b.unbind("t", 1, "k").removed_bindings.len(), 1);
    assert!(b.unbind("t", 1, "k").is_empty());
    assert!(b.unbind("missing", 1, "k").is_empty());
    assert_eq!(b.route("t", "k"), [1]);
    assert_eq!(b.t.remove_queue(QueueId(1)).removed_bindings.len(), 2);
    assert!(b.route("t", "k").is_empty());

    let mut transient = definition(&request("transient", "direct", &[]));
    transient.durable = false;
    b.t.declare(transient).unwrap();
    for (source, queue_durable, durable) in [("t", true, true), ("t", false, false), ("transient", true, false)] {
        let binding = Bench::to_queue(source, 2, if queue_durable { "d" } else { "n" }, &[]);
        let made = b.t.bind(&binding, Destination::Queue(QueueId(2)), QueueTraits::classic(queue_durable)).unwrap();
        assert_eq!((made.added, made.durable), (true, durable));
        let gone = b.t.unbind(&binding, Destination::Queue(QueueId(2)));
        assert_eq!(gone.removed_bindings[0].durable, durable);
    }
    b.chain("t", "transient", "e");
    assert_eq!(b.t.bindings().count(), 1);
    assert!(!b.t.delete(b.t.find("transient").unwrap()).removed_bindings[0].durable);
}

#[test]
fn exchange_to_exchange_with_a_cycle() {
    let mut b = Bench::new();
    for x in ["a", "b", "c"] {
        b.declare(x, "fanout", &[]);
    }
    b.chain("a", "b", "");
    b.chain("b", "c", "");
    b.chain("c", "a", "");
    b.chain("a", "c", "");
    b.bind("b", 1, "");
    b.bind("c", 1, "");
    b.bind("c", 2, "");
    for x in ["a", "b", "c"] {
        assert_eq!(b.route(x, "k"), [1, 2]);
    }
    assert!(b.t.route_depends_on_key_only(b.t.find("a").unwrap()));
    let r = b.declare("r", "x-random", &[]);
    b.chain("c", "r", "");
    b.chain("c", "r", "twice");
    for key in ["", "twice"] {
        assert!(!b.t.route_depends_on_key_only(b.t.find("a").unwrap()));
        let gone = b.t.unbind(&Bench::to_exchange("c", "r", key), Destination::Exchange(r));
        assert_eq!(gone.removed_bindings.len(), 1);
    }
    assert!(b.t.route_depends_on_key_only(b.t.find("a").unwrap()));
}

#[test]
fn alternate_exchanges() {
    let mut b = Bench::new();
    let ae = |name: &str| [("alternate-exchange", s(name))];
    b.declare("one", "direct", &ae("two"));
    b.declare("two", "direct", &ae("one"));
    b.declare("three", "direct", &[]);
    b.bind("one", 1, "a");
    b.bind("two", 2, "b");
    b.bind("three", 3, "c");
    assert_eq!(b.route("one", "a"), [1]);
    assert_eq!(b.route("one", "b"), [2]);
    assert!(b.route("one", "none").is_empty());
    // a policy fills in where there is no argument, and loses against one
    let (two, three) = (b.t.find("two").unwrap(), b.t.find("three").unwrap());
    b.t.set_policy_alternate(three, Some("one".into()));
    b.t.set_policy_alternate(two, Some("three".into()));
    assert_eq!(b.route("three", "b"), [2]);
    assert!(b.route("two", "c").is_empty());
    b.t.set_policy_alternate(three, None);
    assert!(b.route("three", "b").is_empty());
    // missing, and the default exchange
    b.declare("lost", "fanout", &ae("nowhere"));
    assert!(b.route("lost", "k").is_empty() && !b.out.to_default);
    b.declare("by name", "direct", &ae(""));
    b.bind("by name", 4, "a");
    assert!(b.route("by name", "k").is_empty() && b.out.to_default);
    assert!(b.route("by name", "a") == [4] && !b.out.to_default);
    // an exchange that selected something visited already has selected something
    b.declare("loop", "fanout", &ae("amq.fanout"));
    b.chain("loop", "loop", "");
    b.bind("amq.fanout", 9, "");
    assert!(b.route("loop", "k").is_empty());
    // a random exchange as alternate is not cacheable
    b.declare("r", "x-random", &[]);
    b.declare("to r", "direct", &ae("r"));
    assert!(!b.t.route_depends_on_key_only(b.t.find("to r").unwrap()));
    assert!(b.t.route_depends_on_key_only(b.t.find("one").unwrap()));
}

#[test]
fn the_default_exchange_is_the_callers() {
    let mut b = Bench::new();
    assert!(b.route("", "q").is_empty());
    assert!(b.out.to_default);
}

#[test]
fn auto_delete_cascades() {
    let mut b = Bench::new();
    b.auto_delete("a", "fanout");
    b.auto_delete("b", "fanout");
    b.auto_delete("never", "fanout");
    b.auto_delete("kept", "fanout");
    b.chain("a", "b", "");
    b.bind("b", 1, "");
    b.bind("kept", 1, "");
    b.bind("kept", 2, "");
    let gone = b.t.remove_queue(QueueId(1));
    let names: Vec<&str> = gone.removed_exchanges.iter().map(|x| x.definition.name.as_str()).collect();
    assert_eq!(names, ["b", "a"]);
    assert_eq!(gone.removed_bindings.len(), 3);
    assert!(b.t.find("never").is_some() && b.t.find("kept").is_some());
    assert_eq!(b.unbind("kept", 2, "").removed_exchanges.len(), 1);
    assert_eq!(b.t.binding_count(), 0);

    // deleting a destination exchange takes its sources along; ids are used again
    let a = b.auto_delete("a", "fanout");
    let d = b.declare("d", "fanout", &[]);
    b.chain("a", "d", "");
    b.chain("a", "a", "self");
    assert!(b.unbind("a", 7, "").is_empty());
    assert_eq!(b.t.delete(d).removed_exchanges.iter().map(|x| x.id).collect::<Vec<_>>(), [d]);
    assert_eq!(b.t.bindings_from(a).count(), 1);
    assert_eq!(b.t.delete(a).removed_exchanges.len(), 1);
    assert!(b.t.get(a).is_none() && !b.t.in_use(a));
    assert!(b.t.delete(a).is_empty());
    assert!([a, d].contains(&b.declare("e", "topic", &[])));
}

#[test]
fn hashes_stick_and_spread() {
    for kind in ["x-consistent-hash", "x-modulus-hash"] {
        let mut b = Bench::new();
        b.declare("h", kind, &[]);
        for q in 1..=3 {
            b.bind("h", q, if q == 3 { "2" } else { "1" });
        }
        let mut hits = BTreeMap::new();
        for i in 0..4000 {
            let key = format!("key{i}");
            let to = b.route("h", &key);
            assert_eq!(to.len(), 1);
            assert_eq!(b.route("h", &key), to);
            *hits.entry(to[0]).or_insert(0) += 1;
        }
        let double: i32 = if kind == "x-consistent-hash" { 2000 } else { 1333 };
        assert!((hits[&3] - double).abs() < 200, "{kind} {hits:?}");
        assert!((hits[&1] - hits[&2]).abs() < 300, "{kind} {hits:?}");
        assert_eq!(b.t.remove_queue(QueueId(2)).removed_bindings.len(), 1);
        assert_eq!(b.t.remove_queue(QueueId(3)).removed_bindings.len(), 1);
        assert_eq!(b.route("h", "k"), [1]);
        assert_eq!(b.t.remove_queue(QueueId(1)).removed_bindings.len(), 1);
        assert!(b.route("h", "k").is_empty());
        assert!(!b.t.route_depends_on_key_only(b.t.find("h").unwrap()));
    }
}

#[test]
fn a_second_binding_of_a_queue_adds_no_buckets() {
    let mut b = Bench::new();
    b.declare("h", "x-consistent-hash", &[]);
    b.bind("h", 1, "1");
    b.bind("h", 2, "1");
    b.bind("h", 2, "1000");
    let hits = (0..1000).filter(|i| b.route("h", &format!("key{i}")) == [2]).count();
    assert!((350..650).contains(&hits), "{hits}");
    // the first one gone, the other takes its place
    assert_eq!(b.unbind("h", 2, "1").removed_bindings.len(), 1);
    let hits = (0..1000).filter(|i| b.route("h", &format!("key{i}")) == [2]).count();
    assert!(hits > 950, "{hits}");
}

#[test]
fn hash_on_header_or_property() {
    let mut b = Bench::new();
    b.declare("by header", "x-consistent-hash", &[("hash-header", s("h"))]);
    b.declare("by id", "x-consistent-hash", &[("hash-property", s("message_id"))]);
    b.declare("by time", "x-consistent-hash", &[("hash-property", s("timestamp"))]);
    b.declare("by correlation", "x-consistent-hash", &[("hash-property", s("correlation_id"))]);
    for x in ["by header", "by id", "by time", "by correlation"] {
        (1..=20).for_each(|q| b.bind(x, q, "1"));
        let mut fixed = BTreeSet::new();
        let mut varied = BTreeSet::new();
        for i in 0..200u64 {
            let (key, text) = (format!("k{i}"), format!("v{i}"));
            fixed.insert(b.route(x, &key));
            let headers = table(&[("h", s(&text))]);
            let input = RouteInput {
                keys: &["same"],
                headers: Some(&headers),
                message_id: Some(&text),
                correlation_id: Some(&text),
                timestamp: Some(i),
            };
            varied.insert(b.route_input(x, &input));
        }
        assert_eq!(fixed.len(), 1, "{x}: the key plays no part");
        assert_eq!(varied.len(), 20, "{x}");
    }
}

#[test]
fn random_takes_one() {
    for kind in ["x-random", "x-local-random"] {
        let mut b = Bench::new();
        b.declare("r", kind, &[]);
        (1..=4).for_each(|q| b.bind("r", q, ""));
        let mut hits = [0; 5];
        for _ in 0..4000 {
            let to = b.route("r", "ignored");
            assert_eq!(to.len(), 1);
            hits[to[0] as usize] += 1;
        }
        assert!(hits[1..].iter().all(|n| (800..1200).contains(n)), "{hits:?}");
    }
}

#[test]
fn recent_history_is_fanout_and_asks_to_remember() {
    let mut b = Bench::new();
    let x = b.declare("h", "x-recent-history", &[("x-recent-history-length", Value::I32(2))]);
    b.declare("source", "fanout", &[]);
    b.chain("source", "h", "");
    b.bind("h", 1, "a");
    assert_eq!(b.route("source", "k"), [1]);
    assert_eq!(b.out.recent, [x]);
    assert_eq!(b.route_headers("h", &[("x-recent-history-no-store", Value::Bool(true))]), [1]);
    assert!(b.out.recent.is_empty());
    let mut builder = hornpipe_types::message::BatchBuilder::default();
    let route = builder.push_route("h", "k");
    let meta = hornpipe_types::message::MessageMeta { route, ..Default::default() };
    for body in [&b"1"[..], b"2", b"3"] {
        builder.push_message(&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], [body], meta, 0);
    }
    b.t.remember(x, &Span::whole(builder.finish()));
    let bodies: Vec<Vec<u8>> =
        b.t.replay(x).iter().map(|s| s.batch.body(s.from).collect::<Vec<_>>().concat()).collect();
    assert_eq!(bodies, [b"2", b"3"]);
    assert!(b.t.replay(b.t.find("source").unwrap()).is_empty());
}

#[test]
fn delayed_holds_and_lets_go() {
    let mut b = Bench::new();
    let x = b.declare(
        "late",
        "x-delayed-message",
        &[("x-delayed-type", s("topic")), ("alternate-exchange", s("amq.fanout"))],
    );
    b.declare("later", "x-delayed-message", &[("x-delayed-type", s("fanout"))]);
    b.bind("late", 1, "a.*");
    b.bind("later", 2, "");
    b.bind("amq.fanout", 3, "");
    b.chain("late", "later", "#");
    let held = table(&[("x-delay", Value::I32(500))]);
    let input = RouteInput { keys: &["a.b"], headers: Some(&held), ..RouteInput::default() };
    assert!(b.route_input("late", &input).is_empty());
    assert_eq!(b.out.delayed, [(x, 500)]);
    b.t.route_released(x, &input, &mut b.rng, &mut b.out);
    assert_eq!(b.out.queues, [QueueId(1), QueueId(2)]);
    assert!(b.out.delayed.is_empty());
    assert_eq!(b.route("late", "a.b"), [1, 2]);
    assert_eq!(b.route_headers("late", &[("x-delay", Value::I32(-500))]), [2]);
    assert_eq!(b.t.exchange(x).routing_kind(), Kind::Topic);
    assert!(!b.t.route_depends_on_key_only(x));
    // two delayed exchanges on one way both hold
    b.declare("both", "fanout", &[]);
    b.chain("both", "late", "");
    b.chain("both", "later", "");
    b.route_input("both", &input);
    assert_eq!(b.out.delayed.len(), 2);
}

#[test]
fn many_bindings_come_and_go_quickly() {
    // with a search on each removal these loops would take 10^10 steps
    let n = 100_000u64;
    for kind in ["direct", "fanout", "topic", "headers"] {
        let mut b = Bench::new();
        b.declare("x", kind, &[]);
        for q in 0..n {
            // half of them share one key
            let key = if q % 2 == 0 { "same".into() } else { format!("a.{}.{}", q % 100, q) };
            b.bind("x", q, &key);
        }
        assert_eq!(b.t.binding_count() as u64, n);
        let generation = b.t.generation();
        for q in 0..n {
            let changes = if q % 4 == 0 { b.unbind("x", q, "same") } else { b.t.remove_queue(QueueId(q)) };
            assert_eq!(changes.removed_bindings.len(), 1);
        }
        assert_eq!(b.t.generation(), generation + n);
        assert!(b.route("x", "same").is_empty());
    }
}

#[test]
fn listing_in_slices() {
    let mut b = Bench::new();
    (0..10).for_each(|q| b.bind("amq.direct", q, "k"));
    assert_eq!(b.unbind("amq.direct", 3, "k").removed_bindings.len(), 1);
    let (mut from, mut seen) = (Some(0), 0);
    while let Some(at) = from {
        let (next, slice) = b.t.bindings_slice(at, 4);
        seen += slice.count();
        from = next;
    }
    assert_eq!(seen, 9);
    assert_eq!(b.t.bindings_slice(100, 4).1.count(), 0);
    let direct = b.t.find("amq.direct").unwrap();
    assert_eq!((b.t.bindings_from(direct).count(), b.t.bindings_to(direct).count()), (9, 0));
}

// --- the whole topology against a naive model ---

#[derive(Debug, Clone)]
enum Op {
    Declare { name: usize, kind: usize, auto_delete: bool, alternate: Option<usize> },
    Delete { name: usize },
    Bind { source: usize, to: To, key: usize, arguments: usize },
    Unbind { source: usize, to: To, key: usize, arguments: usize },
    RemoveQueue { queue: u64 },
    Route { name: usize, keys: Vec<usize>, headers: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum To {
    Queue(u64),
    Exchange(usize),
}

const NAMES: [&str; 6] = ["amq.fanout", "v", "w", "x", "y", "z"];
const KINDS: [&str; 4] = ["direct", "fanout", "topic", "headers"];
const KEYS: [&str; 6] = ["a", "a.b", "*", "a.#", "#", "b"];

fn arguments(i: usize) -> Vec<(&'static str, Value)> {
    match i {
        0 => vec![],
        1 => vec![("h", Value::I32(1))],
        _ => vec![("x-match", s("any")), ("h", s("v")), ("g", Value::Void)],
    }
}
fn message_headers(i: usize) -> Vec<(&'static str, Value)> {
    match i {
        0 => vec![],
        1 => vec![("h", Value::I64(1))],
        _ => vec![("g", s("anything"))],
    }
}
/// By hand, which of [`arguments`] matches which of [`message_headers`].
const HEADERS_MATCH: [[bool; 3]; 3] = [[true, true, true], [false, true, false], [false, false, true]];

/// Exchanges by name with kind, auto-delete and alternate; bindings as a plain list. All rules by full scans.
#[derive(Debug, Default)]
struct Model {
    exchanges: BTreeMap<usize, (usize, bool, Option<usize>)>,
    bindings: Vec<(usize, To, usize, usize)>,
}

impl Model {
    fn remove_where(&mut self, gone: impl Fn(&(usize, To, usize, usize)) -> bool) {
        let sources: BTreeSet<usize> = self.bindings.iter().filter(|b| gone(b)).map(|b| b.0).collect();
        self.bindings.retain(|b| !gone(b));
        for x in sources {
            let auto_delete = self.exchanges.get(&x).is_some_and(|e| e.1);
            if auto_delete && !self.bindings.iter().any(|b| b.0 == x) {
                self.delete(x);
            }
        }
    }
    fn delete(&mut self, x: usize) {
        self.exchanges.remove(&x);
        self.bindings.retain(|b| b.0 != x);
        self.remove_where(|b| b.1 == To::Exchange(x));
    }
    fn matches(&self, b: &(usize, To, usize, usize), keys: &[usize], headers: usize) -> bool {
        let binding_key = KEYS[b.2];
        match KINDS[self.exchanges[&b.0].0] {
            "direct" => keys.iter().any(|k| KEYS[*k] == binding_key),
            "fanout" => true,
            "headers" => HEADERS_MATCH[b.3][headers],
            _ => keys.iter().any(|k| {
                let words: Vec<&str> = KEYS[*k].split('.').collect();
                match binding_key {
                    "a" | "b" => words == [binding_key],
                    "a.b" => words == ["a", "b"],
                    "*" => words.len() == 1,
                    "a.#" => words[0] == "a",
                    _ => true,
                }
            }),
        }
    }
    fn route(&self, start: usize, keys: &[usize], headers: usize) -> BTreeSet<u64> {
        let (mut seen, mut todo, mut out) = (BTreeSet::new(), vec![start], BTreeSet::new());
        while let Some(x) = todo.pop() {
            if !self.exchanges.contains_key(&x) || !seen.insert(x) {
                continue;
            }
            let selected: Vec<To> =
                self.bindings.iter().filter(|b| b.0 == x && self.matches(b, keys, headers)).map(|b| b.1).collect();
            if selected.is_empty() {
                todo.extend(self.exchanges[&x].2);
            }
            for to in selected {
                match to {
                    To::Queue(q) => {
                        out.insert(q);
                    }
                    To::Exchange(x) => todo.push(x),
                }
            }
        }
        out
    }
}

fn op() -> impl Strategy<Value = Op> {
    let to = || prop_oneof![(0u64..6).prop_map(To::Queue), (0usize..6).prop_map(To::Exchange)];
    let name = || 0usize..6;
    let binding = || (name(), to(), 0usize..6, 0usize..3);
    prop_oneof![
        4 => (1usize..6, 0usize..4, any::<bool>(), prop::option::of(name()))
            .prop_map(|(name, kind, auto_delete, alternate)| Op::Declare { name, kind, auto_delete, alternate }),
        1 => (1usize..6).prop_map(|name| Op::Delete { name }),
        10 => binding().prop_map(|(source, to, key, arguments)| Op::Bind { source, to, key, arguments }),
        4 => binding().prop_map(|(source, to, key, arguments)| Op::Unbind { source, to, key, arguments }),
        1 => (0u64..6).prop_map(|queue| Op::RemoveQueue { queue }),
        6 => (name(), prop::collection::vec(0usize..6, 1..3), 0usize..3)
            .prop_map(|(name, keys, headers)| Op::Route { name, keys, headers }),
    ]
}

/// A binding but for the place in the order of all.
fn shown(d: &BindingDefinition) -> String {
    format!("{:?}", BindingDefinition { order: 0, ..d.clone() })
}

fn as_binding(source: usize, to: To, key: usize, args: usize) -> BindingDefinition {
    let mut b = Bench::to_queue(NAMES[source], 0, KEYS[key], &arguments(args));
    match to {
        To::Queue(q) => b.destination = format!("q{q}").into(),
        To::Exchange(x) => {
            b.destination = NAMES[x].into();
            b.destination_is_queue = false;
        }
    }
    b
}

fn destination(t: &Topology, to: To) -> Option<Destination> {
    match to {
        To::Queue(q) => Some(Destination::Queue(QueueId(q))),
        To::Exchange(x) => t.find(NAMES[x]).map(Destination::Exchange),
    }
}

/// Applies what was removed to a mirror of all bindings and exchanges: changes must tell exactly what is gone.
fn apply(mirror: &mut (BTreeSet<String>, BTreeSet<String>), changes: &Changes) -> Result<(), TestCaseError> {
    for b in &changes.removed_bindings {
        prop_assert!(mirror.0.remove(&shown(&b.definition)), "removed but not there: {:?}", b.definition);
    }
    for x in &changes.removed_exchanges {
        prop_assert!(mirror.1.remove(x.definition.name.as_str()), "removed but not there: {:?}", x.definition);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn agrees_with_the_naive_model(ops in prop::collection::vec(op(), 1..120)) {
        let mut b = Bench::new();
        let mut model = Model::default();
        model.exchanges.insert(0, (1, false, None));
        let mut mirror = (BTreeSet::new(), BTreeSet::new());
        mirror.1.extend(b.t.exchanges().map(|(_, x)| x.definition.name.to_string()));
        for op in ops {
            let before = b.t.generation();
            match op.clone() {
                Op::Declare { name, kind, auto_delete, alternate } => {
                    let arguments: Vec<(&str, Value)> =
                        alternate.map(|a| ("alternate-exchange", s(NAMES[a]))).into_iter().collect();
                    let mut d = request(NAMES[name], KINDS[kind], &arguments);
                    d.auto_delete = auto_delete;
                    let is_new = !model.exchanges.contains_key(&name);
                    if is_new {
                        prop_assert_eq!(b.t.check_declare(&d), Ok(None));
                        b.t.declare(definition(&d)).unwrap();
                        model.exchanges.insert(name, (kind, auto_delete, alternate));
                        mirror.1.insert(NAMES[name].to_string());
                    } else {
                        let same = model.exchanges[&name] == (kind, auto_delete, alternate);
                        prop_assert_eq!(b.t.check_declare(&d).is_ok(), same);
                    }
                    prop_assert_eq!(b.t.generation() != before, is_new);
                }
                Op::Delete { name } => {
                    if let Some(id) = b.t.find(NAMES[name]) {
                        let changes = b.t.delete(id);
                        prop_assert!(b.t.generation() != before);
                        prop_assert_eq!(changes.removed_exchanges[0].id, id);
                        apply(&mut mirror, &changes)?;
                        model.delete(name);
                    }
                }
                Op::Bind { source, to, key, arguments } => {
                    let d = as_binding(source, to, key, arguments);
                    let entry = (source, to, key, arguments);
                    match destination(&b.t, to) {
                        Some(to) if model.exchanges.contains_key(&source) => {
                            let added = b.t.bind(&d, to, QueueTraits::classic(true)).unwrap().added;
                            prop_assert_eq!(added, !model.bindings.contains(&entry));
                            if added {
                                model.bindings.push(entry);
                                mirror.0.insert(shown(&d));
                            }
                            prop_assert_eq!(b.t.generation() != before, added);
                        }
                        Some(to) => prop_assert!(b.t.bind(&d, to, QueueTraits::classic(true)).is_err()),
                        None => {}
                    }
                }
                Op::Unbind { source, to, key, arguments } => {
                    if let Some(destination) = destination(&b.t, to) {
                        let changes = b.t.unbind(&as_binding(source, to, key, arguments), destination);
                        let entry = (source, to, key, arguments);
                        prop_assert_eq!(changes.is_empty(), !model.bindings.contains(&entry));
                        prop_assert_eq!(changes.is_empty(), b.t.generation() == before);
                        apply(&mut mirror, &changes)?;
                        model.remove_where(|b| *b == entry);
                    }
                }
                Op::RemoveQueue { queue } => {
                    apply(&mut mirror, &b.t.remove_queue(QueueId(queue)))?;
                    model.remove_where(|b| b.1 == To::Queue(queue));
                }
                Op::Route { name, keys, headers } => {
                    if model.exchanges.contains_key(&name) {
                        let texts: Vec<&str> = keys.iter().map(|k| KEYS[*k]).collect();
                        let table = table(&message_headers(headers));
                        let input = RouteInput { keys: &texts, headers: Some(&table), ..RouteInput::default() };
                        let got: BTreeSet<u64> = b.route_input(NAMES[name], &input).into_iter().collect();
                        prop_assert_eq!(got, model.route(name, &keys, headers));
                    }
                }
            }
            let listed: BTreeSet<String> = b.t.bindings().map(|(d, _)| shown(d)).collect();
            let expected: BTreeSet<String> =
                model.bindings.iter().map(|(s, t, k, a)| shown(&as_binding(*s, *t, *k, *a))).collect();
            prop_assert_eq!(&listed, &expected, "after {:?}", op);
            prop_assert_eq!(&mirror.0, &listed, "after {:?}", op);
            prop_assert_eq!(b.t.binding_count(), listed.len());
            let names: BTreeSet<String> = b.t.exchanges().map(|(_, x)| x.definition.name.to_string()).collect();
            prop_assert_eq!(&mirror.1, &names, "after {:?}", op);
            for (i, name) in NAMES.iter().enumerate() {
                match b.t.find(name) {
                    Some(id) => {
                        let out = model.bindings.iter().filter(|b| b.0 == i).count();
                        let into = model.bindings.iter().filter(|b| b.1 == To::Exchange(i)).count();
                        prop_assert_eq!(b.t.in_use(id), out > 0);
                        prop_assert_eq!((b.t.bindings_from(id).count(), b.t.bindings_to(id).count()), (out, into));
                        prop_assert!(model.exchanges.contains_key(&i));
                    }
                    None => prop_assert!(!model.exchanges.contains_key(&i)),
                }
            }
            for q in 0..6 {
                let n = model.bindings.iter().filter(|b| b.1 == To::Queue(q)).count();
                prop_assert_eq!(b.t.bindings_of_queue(QueueId(q)).count(), n);
            }
        }
    }
}

/// Keys of three bindings with one hash, which the hasher's arithmetic allows: each can still be found and removed, in any order.
#[test]
fn bindings_with_the_same_hash_are_told_apart() {
    const FACTOR: u64 = 0xf135_7aea_2e62_a9c5;
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut b = Bench::new();
        let names = ["a", "b", "c"];
        let bindings = names.map(|name| {
            let id = b.declare(name, "fanout", &[]);
            let queue = 0u64.wrapping_sub(u64::from(id.0).wrapping_mul(FACTOR).wrapping_mul(FACTOR));
            b.bind(name, queue, "");
            (name, queue)
        });
        assert_eq!((b.t.by_key.counts(), b.t.binding_count()), ((3, 1), 3), "the hasher's factor is another one");
        let mut left = vec![0, 1, 2];
        for gone in order {
            for (at, (name, queue)) in bindings.iter().enumerate() {
                let is_new = !left.contains(&at);
                assert_eq!(b.bind_with(name, *queue, "", &[]), Ok(is_new), "{name}");
                if is_new {
                    assert!(!b.unbind(name, *queue, "").is_empty());
                }
            }
            let (name, queue) = bindings[gone];
            assert!(!b.unbind(name, queue, "").is_empty());
            left.retain(|at| *at != gone);
            assert_eq!(b.t.binding_count(), left.len());
        }
        assert_eq!(b.t.by_key.counts(), (0, 0));
    }
}
