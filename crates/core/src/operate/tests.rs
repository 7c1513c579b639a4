//! A shard with a store that is a promise: groups are on disk when the test says so.

use super::*;
use crate::{Bootstrap, CoreConfig};
use hornpipe_types::command::{Command, QueueDeclare};
use hornpipe_types::definition::{PermissionDefinition, PolicyDefinition, UserDefinition};
use hornpipe_types::effect::Outbox;
use hornpipe_types::ids::QueueId;
use hornpipe_types::limits::Limits;
use hornpipe_types::op::{Committed, Group, Recovered, StoreOp};
use hornpipe_types::operate::{Password, VhostSettings};
use hornpipe_types::stats::{Answer, Request};
use hornpipe_types::table::FieldTable;
use hornpipe_types::table::Value;

struct Bench {
    shard: Shard,
    now: Now,
    next: u64,
    outcomes: Vec<(RequestId, Outcome)>,
    effects: Vec<(ConnectionId, ConnectionEffect)>,
    answers: Vec<Answer>,
    logins: usize,
    /// Groups that are not on disk yet.
    writing: Vec<Group>,
}

impl Bench {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let mut shard = Shard::new(CoreConfig { limits, seed: 7, number: 0 });
        shard.handle_recovered(Recovered::End { clean: true, orphan_files: Vec::new() });
        let now = Now::default();
        let user = UserDefinition { name: "guest".into(), ..UserDefinition::default() };
        shard.finish_recovery(now, &Bootstrap { vhost: "/".into(), user });
        let mut bench = Self {
            shard,
            now,
            next: 0,
            outcomes: Vec::new(),
            effects: Vec::new(),
            answers: Vec::new(),
            logins: 0,
            writing: Vec::new(),
        };
        bench.settle();
        bench
    }

    /// Drains output and takes groups, without putting them on disk.
    fn turn(&mut self) {
        let mut out = Outbox::default();
        self.shard.poll_effects(self.now, &mut out);
        // settlements wait for company: so much later they do no more
        let later = Now { mono: self.now.mono.plus_ms(60_000), wall: self.now.wall };
        self.writing.extend(self.shard.poll_group(later));
        self.shard.poll_effects(self.now, &mut out);
        self.outcomes.append(&mut out.outcomes);
        self.effects.extend(out.connections.into_iter().flat_map(|(id, e)| e.into_iter().map(move |e| (id, e))));
        self.answers.extend(out.answers.into_iter().map(|(_, a)| a));
        self.logins += usize::from(out.logins.is_some());
    }

    /// Puts all on disk.
    fn settle(&mut self) -> Vec<StoreOp> {
        let mut ops = Vec::new();
        self.turn();
        while !self.writing.is_empty() || self.shard.has_work() {
            for group in std::mem::take(&mut self.writing) {
                let committed = Committed { upto: group.upto, ..Committed::default() };
                ops.extend(group.ops);
                self.shard.handle_committed(self.now, committed);
            }
            self.turn();
        }
        ops
    }

    fn begin(&mut self, user: &str, operation: Operation) -> RequestId {
        self.next += 1;
        let id = RequestId(self.next);
        self.shard.handle_operation(self.now, id, &user.into(), operation);
        id
    }

    fn told(&mut self, id: RequestId) -> Option<Outcome> {
        let at = self.outcomes.iter().position(|(i, _)| *i == id)?;
        Some(self.outcomes.remove(at).1)
    }

    fn run_as(&mut self, user: &str, operation: Operation) -> Outcome {
        let id = self.begin(user, operation);
        self.settle();
        self.told(id).expect("an outcome")
    }

    fn run(&mut self, operation: Operation) -> String {
        format!("{:?}", self.run_as("guest", operation))
    }

    fn ask(&mut self, request: Request) -> String {
        self.shard.handle_request(self.now, RequestId(0), request);
        self.turn();
        format!("{:?}", self.answers.pop().expect("an answer"))
    }

    fn open(&mut self, id: u64, user: &str, vhost: &str) {
        let open = OpenConnection::without_socket("test", user, vhost);
        self.shard.handle_commands(self.now, ConnectionId(id), &mut vec![Command::Open(Box::new(open))]);
        self.settle();
    }

    /// Texts of connection.close sent to a connection.
    fn closes(&self, id: u64) -> Vec<String> {
        let of = self.effects.iter().filter(|(i, _)| i.0 == id);
        of.filter_map(|(_, e)| match e {
            ConnectionEffect::Close(error) => Some(error.reply_text()),
            _ => None,
        })
        .collect()
    }

    fn messages(&mut self, queue: &str, count: u32, mode: GetMode) -> Vec<(String, bool, u32)> {
        let operation = Operation::Get { vhost: "/".into(), queue: queue.into(), count, mode };
        let Outcome::Messages(got) = self.run_as("guest", operation) else { panic!("messages") };
        got.iter()
            .map(|m| {
                let body: Vec<u8> = m.span.batch.body(m.span.from).flatten().copied().collect();
                (String::from_utf8(body).unwrap(), m.redelivered, m.messages)
            })
            .collect()
    }
}

fn queue(vhost: &str, name: &str, durable: bool) -> Operation {
    let declare = QueueDeclare {
        queue: name.into(),
        passive: false,
        durable,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: FieldTable::default(),
    };
    Operation::DeclareQueue { vhost: vhost.into(), declare }
}

fn publish(queue: &str, body: &str) -> Operation {
    let properties = Properties { delivery_mode: Some(2), ..Properties::default() };
    Operation::Publish {
        vhost: "/".into(),
        exchange: "".into(),
        routing_key: queue.into(),
        properties: Box::new(properties),
        body: body.as_bytes().to_vec(),
    }
}

fn policy(name: &str, key: &str, value: Value) -> Operation {
    let mut definition = FieldTable::default();
    definition.set(key, value);
    Operation::PutPolicy(PolicyDefinition {
        vhost: "/".into(),
        name: name.into(),
        pattern: "^q".to_owned(),
        apply_to: "queues".to_owned(),
        definition,
        ..PolicyDefinition::default()
    })
}

fn user(name: &str) -> Operation {
    let user = UserDefinition { name: name.into(), ..UserDefinition::default() };
    Operation::PutUser { user, password: Password::Hashed }
}

fn vhost(name: &str) -> Operation {
    Operation::PutVhost { name: name.into(), settings: VhostSettings::default() }
}

#[test]
fn what_is_durable_is_told_once_it_is_on_disk() {
    for operation in [vhost("v"), user("u"), queue("/", "q", true), policy("p", "max-length", Value::I64(1))] {
        let mut bench = Bench::new();
        let what = format!("{operation:?}");
        let id = bench.begin("guest", operation);
        bench.turn();
        assert!(bench.told(id).is_none(), "{what}");
        bench.settle();
        assert!(matches!(bench.told(id), Some(Outcome::Created)), "{what}");
    }
    let mut bench = Bench::new();
    let id = bench.begin("guest", queue("/", "q", false));
    bench.turn();
    assert!(matches!(bench.told(id), Some(Outcome::Created)), "a transient queue waits for nothing");
}

#[test]
fn operations_leave_no_connection_behind() {
    let mut bench = Bench::new();
    assert_eq!(bench.run(queue("/", "q", true)), "Created");
    assert_eq!(bench.run(queue("/", "q", true)), "Exists");
    assert_eq!(bench.run(publish("q", "m")), "Routed(true)");
    assert_eq!(bench.run(publish("none", "m")), "Routed(false)");
    assert_eq!(bench.run(Operation::PurgeQueue { vhost: "/".into(), queue: "q".into() }), "Done");
    assert_eq!(bench.run(Operation::PurgeQueue { vhost: "/".into(), queue: "none".into() }), "NotFound");
    assert!(bench.shard.connections.is_empty() && bench.shard.operations.working.is_empty());
    assert!(bench.effects.is_empty(), "{:?}", bench.effects);
    assert_eq!(bench.shard.vhosts[0].connections, 0);
}

#[test]
fn messages_are_got_and_settled_as_asked() {
    let mut bench = Bench::new();
    bench.run(queue("/", "q", true));
    for body in ["a", "b"] {
        bench.run(publish("q", body));
    }
    let both = |redelivered| vec![("a".to_owned(), redelivered, 1), ("b".to_owned(), redelivered, 0)];
    assert_eq!(bench.messages("q", 5, GetMode::Requeue), both(false));
    assert_eq!(bench.messages("q", 5, GetMode::Requeue), both(true));
    assert_eq!(bench.messages("q", 1, GetMode::Reject), both(true)[..1]);
    assert_eq!(bench.messages("q", 1, GetMode::Ack), both(true)[1..]);
    assert_eq!(bench.messages("q", 1, GetMode::Ack), []);
    assert_eq!(bench.messages("q", 0, GetMode::Ack), []);
}

#[test]
fn a_user_is_refused_what_it_could_not_do_over_amqp() {
    let mut bench = Bench::new();
    bench.run(user("u"));
    let refused = |outcome: Outcome| match outcome {
        Outcome::Refused(error) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let outcome = bench.run_as("u", queue("/", "q", true));
    assert_eq!(refused(outcome), "530 NOT_ALLOWED - access to vhost '/' refused for user 'u'");
    let permission = PermissionDefinition { user: "u".into(), vhost: "/".into(), ..PermissionDefinition::default() };
    assert_eq!(bench.run(Operation::PutPermission(permission.clone())), "Created");
    assert_eq!(bench.run(Operation::PutPermission(permission)), "Exists");
    let outcome = bench.run_as("u", queue("/", "q", true));
    let text = "403 ACCESS_REFUSED - configure access to queue 'q' in vhost '/' refused for user 'u'";
    assert_eq!(refused(outcome), text);
    bench.run(queue("/", "q", true));
    let outcome = bench.run_as("guest", queue("/", "q", false));
    assert!(refused(outcome).starts_with("406 PRECONDITION_FAILED - inequivalent arg 'durable'"));
    assert_eq!(bench.run(queue("none", "q", true)), "NotFound");
}

#[test]
fn a_policy_acts_at_once_and_its_end_too() {
    let mut bench = Bench::new();
    bench.run(queue("/", "q", false));
    for body in ["a", "b", "c"] {
        bench.run(publish("q", body));
    }
    assert_eq!(bench.run(policy("p", "max-length", Value::I64(1))), "Created");
    assert_eq!(bench.messages("q", 5, GetMode::Requeue), [("c".to_owned(), false, 0)]);
    let id = *bench.shard.vhosts[0].queues.get("q").expect("it was declared");
    assert_eq!(bench.shard.queues[&id].effective.policy.as_deref(), Some("p"));
    let drop = || Operation::DeletePolicy { vhost: "/".into(), operator: false, name: "p".into() };
    assert_eq!((bench.run(drop()), bench.run(drop())), ("Done".to_owned(), "NotFound".to_owned()));
    bench.run(publish("q", "d"));
    assert_eq!(bench.messages("q", 5, GetMode::Ack).len(), 2);
    let bad = bench.run(policy("p", "no-such-key", Value::I64(1)));
    assert!(bad.contains("are not recognised policy settings"), "{bad}");
}

#[test]
fn a_vhost_goes_with_all_that_is_in_it() {
    let mut bench = Bench::new();
    assert_eq!(bench.run(vhost("v")), "Created");
    assert_eq!(bench.run(vhost("v")), "Exists");
    assert!(bench.ask(Request::Permissions).contains("vhost: \"v\""), "its maker may use it");
    bench.run(queue("v", "q", true));
    let declare = ExchangeDeclare {
        exchange: "x".into(),
        kind: "fanout".into(),
        passive: false,
        durable: true,
        auto_delete: false,
        internal: false,
        nowait: false,
        arguments: FieldTable::default(),
    };
    assert_eq!(bench.run(Operation::DeclareExchange { vhost: "v".into(), declare }), "Created");
    let bind = hornpipe_types::command::Bind {
        destination: "q".into(),
        source: "x".into(),
        routing_key: "".into(),
        nowait: false,
        arguments: FieldTable::default(),
    };
    assert_eq!(bench.run(Operation::Bind { vhost: "v".into(), to_queue: true, bind }), "Created");
    let parameter =
        ParameterDefinition { vhost: Some("v".into()), component: "c".into(), name: "n".into(), value: "1".to_owned() };
    assert_eq!(bench.run(Operation::PutParameter(parameter)), "Created");
    bench.open(1, "guest", "v");
    bench.open(2, "guest", "/");
    let id = bench.begin("guest", Operation::DeleteVhost { name: "v".into() });
    let ops = bench.settle();
    assert!(matches!(bench.told(id), Some(Outcome::Done)));
    assert_eq!(bench.closes(1), ["CONNECTION_FORCED - vhost 'v' is deleted"]);
    assert!(bench.closes(2).is_empty() && bench.shard.connections.len() == 1);
    let deleted: Vec<String> =
        ops.iter().filter(|op| matches!(op, StoreOp::Delete(_))).map(|op| format!("{op:?}")).collect();
    for kind in ["Queue", "Exchange", "Binding", "Permission", "Parameter", "Vhost"] {
        assert!(deleted.iter().any(|op| op.starts_with(&format!("Delete({kind}"))), "{kind} in {deleted:?}");
    }
    for request in [Request::Vhosts, Request::Permissions, Request::Parameters, Request::Exchanges { vhost: None }] {
        let answer = bench.ask(request);
        assert!(!answer.contains("\"v\""), "{answer}");
    }
    assert_eq!(bench.run(Operation::DeleteVhost { name: "v".into() }), "NotFound");
    // one of the same name is a new one
    assert_eq!(bench.run(vhost("v")), "Created");
    let got = Operation::Get { vhost: "v".into(), queue: "q".into(), count: 1, mode: GetMode::Ack };
    assert_eq!(bench.run(got), "NotFound");
}

#[test]
fn users_come_and_go() {
    let mut bench = Bench::new();
    let before = bench.logins;
    assert_eq!(bench.run(user("u")), "Created");
    assert_eq!(bench.logins, before + 1);
    let limit = |value| Operation::LimitUser { user: "u".into(), limit: "max-connections".into(), value };
    assert_eq!(bench.run(limit(Some(1))), "Exists");
    assert_eq!(bench.run(user("u")), "Exists");
    assert!(bench.ask(Request::Users).contains("max-connections"), "limits stay when the user is put again");
    let permission = |user: &str| {
        Operation::PutPermission(PermissionDefinition { user: user.into(), vhost: "/".into(), ..Default::default() })
    };
    bench.run(permission("u"));
    assert!(bench.run(permission("nobody")).starts_with("Invalid"));
    bench.open(1, "u", "/");
    bench.open(2, "u", "/");
    assert_eq!(
        bench.closes(2),
        ["NOT_ALLOWED - connection refused for user 'u': user connection limit (1) is reached"]
    );
    assert_eq!(bench.run(Operation::DeleteUser { name: "u".into() }), "Done");
    assert_eq!(bench.closes(1), ["CONNECTION_FORCED - user 'u' is deleted"]);
    assert!(!bench.ask(Request::Permissions).contains("\"u\""));
    assert_eq!(bench.run(Operation::DeleteUser { name: "u".into() }), "NotFound");
}

#[test]
fn definitions_are_imported_without_permissions_and_leave_what_is_there() {
    let mut bench = Bench::new();
    bench.run(user("admin"));
    let definition = |arguments: FieldTable| {
        let d = QueueDefinition { vhost: "/".into(), name: "q".into(), durable: true, arguments, ..Default::default() };
        Operation::Import(Box::new(Definition::Queue(d)))
    };
    let mut arguments = FieldTable::default();
    arguments.set("x-max-length", Value::I64(3));
    let outcome = bench.run_as("admin", definition(arguments.clone()));
    assert!(matches!(outcome, Outcome::Created), "{outcome:?}");
    assert_eq!(bench.run(definition(FieldTable::default())), "Exists");
    let id = *bench.shard.vhosts[0].queues.get("q").expect("it was declared");
    assert_eq!(bench.shard.queues[&id].definition.arguments, arguments);
    let binding = |queue: &str| {
        let d = BindingDefinition {
            vhost: "/".into(),
            source: "amq.direct".into(),
            destination: queue.into(),
            destination_is_queue: true,
            ..Default::default()
        };
        Operation::Import(Box::new(Definition::Binding(d)))
    };
    assert_eq!(bench.run(binding("q")), "Created");
    assert!(bench.run(binding("none")).contains("no queue 'none' in vhost '/'"));
}

#[test]
fn a_connection_is_closed_with_the_reason() {
    let mut bench = Bench::new();
    bench.open(1, "guest", "/");
    let close = || Operation::CloseConnection { connection: ConnectionId(1), reason: "enough".to_owned() };
    assert_eq!(bench.run(close()), "Done");
    assert_eq!(bench.closes(1), ["CONNECTION_FORCED - enough"]);
    assert_eq!(bench.run(close()), "NotFound");
}

/// Names of all queues with the policy each has, asked for in pages.
fn policies_of(bench: &mut Bench) -> Vec<(String, Option<String>)> {
    let (mut all, mut after) = (Vec::new(), QueueId(0));
    loop {
        let answer = bench.shard.answer(bench.now, Request::Queues { vhost: Some("/".into()), after, limit: 3 });
        let Answer::Queues(page) = answer else { panic!("{answer:?}") };
        let Some(last) = page.last() else { return all };
        after = last.id;
        all.extend(page.iter().map(|q| (q.name.to_string(), q.policy.as_ref().map(ToString::to_string))));
    }
}

#[test]
fn policies_reach_many_queues_in_slices_and_the_last_one_wins() {
    let mut bench = Bench::with(Limits { slice_units: 20, ..Limits::default() });
    let count = 50;
    for n in 0..count {
        bench.run(queue("/", &format!("q{n}"), n % 2 == 0));
    }
    assert_eq!(bench.run(vhost("v")), "Created");
    bench.run(queue("v", "q", true));
    let have = |bench: &mut Bench, name: &str| {
        policies_of(bench).iter().filter(|(_, policy)| policy.as_deref() == Some(name)).count()
    };
    bench.begin("guest", policy("one", "max-length", Value::I64(5)));
    let first = have(&mut bench, "one");
    assert!((1..10).contains(&first), "{first}");
    bench.turn();
    let second = have(&mut bench, "one");
    assert!(second > first && second < count, "{second}");
    // declared meanwhile: they know at once
    bench.begin("guest", queue("/", "q-late", false));
    let Operation::PutPolicy(mut d) = policy("two", "max-length", Value::I64(6)) else { panic!() };
    d.priority = 7;
    bench.begin("guest", Operation::PutPolicy(d));
    assert!((1..10).contains(&have(&mut bench, "two")));
    bench.settle();
    while bench.shard.can_work() {
        bench.turn();
    }
    assert_eq!(have(&mut bench, "two"), count + 1);
    let answer = bench.shard.answer(bench.now, Request::Queue { vhost: "v".into(), name: "q".into() });
    assert!(matches!(answer, Answer::Queue(Some(q)) if q.policy.is_none()));
}

#[test]
fn a_page_holds_the_next_queues_in_order_and_sums_add_up_over_pages() {
    let mut bench = Bench::new();
    assert_eq!(bench.run(vhost("v")), "Created");
    for n in 0..40 {
        bench.run(queue("/", &format!("q{n}"), false));
    }
    for n in 0..4 {
        bench.run(queue("v", &format!("v{n}"), false));
    }
    bench.run(publish("q7", "m"));
    for n in 10..20 {
        bench.run(Operation::DeleteQueue {
            vhost: "/".into(),
            queue: format!("q{n}").as_str().into(),
            if_unused: false,
            if_empty: false,
        });
    }
    let names: Vec<String> = policies_of(&mut bench).into_iter().map(|(name, _)| name).collect();
    let expected: Vec<String> = (0..40).filter(|n| !(10..20).contains(n)).map(|n| format!("q{n}")).collect();
    assert_eq!(names, expected);
    for (vhost, expected) in [(Some("v".into()), 4), (None, 34), (Some("none".into()), 0)] {
        let (mut after, mut found) = (QueueId(0), 0);
        while let Answer::Queues(page) =
            bench.shard.answer(bench.now, Request::Queues { vhost: vhost.clone(), after, limit: 3 })
            && let Some(last) = page.last()
        {
            assert!(page.windows(2).all(|w| w[0].id < w[1].id) && page[0].id > after);
            after = last.id;
            found += page.len();
        }
        assert_eq!(found, expected, "{vhost:?}");
    }
    let (mut next, mut total) = (Some(QueueId(0)), hornpipe_types::stats::BrokerStats::default());
    while let Some(after) = next {
        let Answer::Sums(sums) = bench.shard.answer(bench.now, Request::Sums { after, limit: 5 }) else { panic!() };
        total.add_queues(&sums);
        next = sums.next;
    }
    assert_eq!((total.queues, total.messages_ready), (34, 1));
}

/// What is there, or gone, by a change that is not on disk yet is told once it is.
#[test]
fn what_another_changed_is_told_once_it_is_on_disk() {
    let mut bench = Bench::new();
    let import = || {
        let (vhost, name, durable) = ("/".into(), "q".into(), true);
        Operation::Import(Box::new(Definition::Queue(QueueDefinition {
            vhost,
            name,
            durable,
            ..QueueDefinition::default()
        })))
    };
    let delete = || Operation::DeletePermission { vhost: "/".into(), user: "guest".into() };
    for (first, again, told) in [
        (import(), import(), Outcome::Exists),
        (queue("/", "other", true), queue("/", "other", true), Outcome::Exists),
        (delete_queue("q"), delete_queue("q"), Outcome::NotFound),
        (delete(), delete(), Outcome::NotFound),
    ] {
        let first = bench.begin("guest", first);
        bench.turn();
        let again = bench.begin("guest", again);
        bench.turn();
        assert!(bench.told(first).is_none());
        assert_eq!(bench.told(again).map(|o| format!("{o:?}")), None, "not on disk yet");
        bench.settle();
        assert!(bench.told(first).is_some());
        assert_eq!(bench.told(again).map(|o| format!("{o:?}")), Some(format!("{told:?}")));
    }
}

fn delete_queue(name: &str) -> Operation {
    Operation::DeleteQueue { vhost: "/".into(), queue: name.into(), if_unused: false, if_empty: false }
}
