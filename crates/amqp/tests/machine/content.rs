use crate::client::*;
use amq_protocol::frame::{AMQPFrame, parse_frame};
use amq_protocol::protocol::{AMQPClass, basic};
use amq_protocol::types::{AMQPValue, FieldTable};
use hornpipe_amqp::MachineConfig;
use hornpipe_types::command::{ChannelCommand, Command, Settle};
use hornpipe_types::effect::{ChannelEffect, Delivery, span_cost};
use hornpipe_types::error::ReplyCode;
use hornpipe_types::header;
use hornpipe_types::message::{BatchBuilder, MULTI_FRAME, MessageMeta, Span};
use proptest::prelude::*;
use std::sync::Arc;

/// What a stream of commands comes to, however it was cut into runs and batches.
#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
    Message { channel: u16, exchange: String, key: String, mandatory: bool, flags: u8, header: Vec<u8>, body: Vec<u8> },
    Settled(u16, Settle, u64, bool),
    Other(String),
}

pub(crate) fn flatten(commands: &[Command]) -> Vec<Seen> {
    let mut seen = Vec::new();
    for c in commands {
        match c {
            Command::Publishes(publishes) => {
                assert!(publishes.runs.len() > 1);
                let each = publishes.runs.iter().map(|head| publishes.run(*head));
                seen.extend(flatten(&each.map(|(n, publish)| Command::Channel(n, publish)).collect::<Vec<_>>()));
            }
            Command::Channel(n, ChannelCommand::Publish(run)) => {
                let batch = &run.batch;
                for i in run.from..run.from + run.count {
                    let meta = batch.meta(i);
                    let body = batch.body(i).collect::<Vec<_>>().concat();
                    assert_eq!(meta.body as usize, body.len());
                    assert_eq!(meta.flags & MULTI_FRAME != 0, batch.body(i).count() > 1);
                    assert_eq!(batch.route_bytes(i), batch.route_bytes(run.from));
                    seen.push(Seen::Message {
                        channel: *n,
                        exchange: batch.exchange(i).into(),
                        key: batch.routing_key(i).into(),
                        mandatory: run.mandatory,
                        // crumbs may be joined
                        flags: meta.flags & !MULTI_FRAME,
                        header: batch.header(i).to_vec(),
                        body,
                    });
                }
            }
            Command::Channel(n, ChannelCommand::Settle { how, tag, count, multiple }) => {
                for k in 0..u64::from(*count) {
                    seen.push(Seen::Settled(*n, *how, tag + k, *multiple));
                }
            }
            other => seen.push(Seen::Other(format!("{other:?}"))),
        }
    }
    seen
}

#[derive(Debug, Clone)]
enum Act {
    Publish {
        channel: u16,
        key: &'static str,
        mandatory: bool,
        properties: u8,
        body: Vec<u8>,
        piece: usize,
    },
    /// A publish on one channel with a heartbeat and a settlement of another channel between its frames.
    Interleaved {
        body: Vec<u8>,
    },
    Settle(u16, u8, u64, bool),
    Get(u16),
    Reopen(u16),
}

pub(crate) fn properties(kind: u8) -> basic::AMQPProperties {
    let p = basic::AMQPProperties::default();
    match kind {
        0 => p,
        1 => p.with_delivery_mode(2),
        // as long as the one before
        2 => p.with_delivery_mode(1),
        3 => p.with_priority(7).with_expiration("60000".into()),
        _ => {
            let mut headers = FieldTable::default();
            headers.insert("n".into(), AMQPValue::LongInt(kind.into()));
            p.with_headers(headers).with_message_id(format!("id-{kind}").as_str().into())
        }
    }
}

impl Act {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Publish { channel, key, mandatory, properties: p, body, piece } => {
                let mut out = method(*channel, publish_method("ex", key, *mandatory, false));
                out.extend(content(*channel, &properties(*p), body, *piece));
                out
            }
            Self::Interleaved { body } => {
                let mut frames = vec![method(1, publish_method("", "i", false, false))];
                let content = content(1, &properties(1), body, 50);
                let mut rest = &content[..];
                while !rest.is_empty() {
                    let (after, f) = parse_frame(rest).unwrap();
                    frames.push(frame(&f));
                    frames.push(raw(8, 0, &[]));
                    frames.push(Self::Settle(2, 0, 5, false).bytes());
                    frames.push(publish(2, "other", b"between"));
                    rest = after;
                }
                frames.concat()
            }
            Self::Settle(channel, how, tag, bit) => {
                let (delivery_tag, multiple) = (*tag, *bit);
                method(
                    *channel,
                    AMQPClass::Basic(match how {
                        0 => basic::AMQPMethod::Ack(basic::Ack { delivery_tag, multiple }),
                        1 => basic::AMQPMethod::Reject(basic::Reject { delivery_tag, requeue: *bit }),
                        2 => basic::AMQPMethod::Nack(basic::Nack { delivery_tag, multiple, requeue: true }),
                        _ => basic::AMQPMethod::Nack(basic::Nack { delivery_tag, multiple, requeue: false }),
                    }),
                )
            }
            Self::Get(channel) => method(
                *channel,
                AMQPClass::Basic(basic::AMQPMethod::Get(basic::Get { queue: "q".into(), no_ack: true })),
            ),
            Self::Reopen(channel) => method(*channel, channel_close()),
        }
    }

    /// What the core must see of it, straight from the act.
    fn expected(&self, out: &mut Vec<Seen>) {
        let message = |channel, exchange: &str, key: &str, mandatory, properties: &_, body: &[u8]| {
            let frame = content(channel, properties, body, usize::MAX);
            let (_, header_frame) = parse_frame(&frame[..]).unwrap();
            let bytes = crate::client::frame(&header_frame);
            let header = bytes[7..bytes.len() - 1].to_vec();
            Seen::Message {
                channel,
                exchange: exchange.into(),
                key: key.into(),
                mandatory,
                flags: header::scan(&header).unwrap().flags,
                header,
                body: body.to_vec(),
            }
        };
        match self {
            Self::Publish { channel, key, mandatory, properties: p, body, .. } => {
                out.push(message(*channel, "ex", key, *mandatory, &properties(*p), body));
            }
            Self::Interleaved { body } => {
                let frames = 1 + body.len().div_ceil(50);
                for k in 0..frames {
                    if k + 1 == frames {
                        out.push(message(1, "", "i", false, &properties(1), body));
                    }
                    out.push(Seen::Settled(2, Settle::Ack, 5, false));
                    out.push(message(2, "", "other", false, &properties(0), b"between"));
                }
            }
            Self::Settle(channel, how, tag, bit) => {
                let (settle, multiple) = match how {
                    0 => (Settle::Ack, *bit),
                    1 => (Settle::Reject { requeue: *bit }, false),
                    2 => (Settle::Nack { requeue: true }, *bit),
                    _ => (Settle::Nack { requeue: false }, *bit),
                };
                out.push(Seen::Settled(*channel, settle, *tag, multiple));
            }
            Self::Get(n) => out.push(Seen::Other(format!("Channel({n}, Get {{ queue: \"q\", no_ack: true }})"))),
            Self::Reopen(n) => out.push(Seen::Other(format!("Channel({n}, Close)"))),
        }
    }
}

fn any_body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (any::<u8>(), 0usize..9000).prop_map(|(b, n)| vec![b; n]),
    ]
}

fn any_act() -> impl Strategy<Value = Act> {
    let publish =
        (1u16..3, prop_oneof![Just("a"), Just("b"), Just("")], any::<bool>(), 0u8..6, any_body(), 1usize..4088)
            .prop_map(|(channel, key, mandatory, properties, body, piece)| Act::Publish {
                channel,
                key,
                mandatory: mandatory && key == "a",
                properties,
                body,
                piece,
            });
    prop_oneof![
        8 => publish,
        1 => any_body().prop_map(|body| Act::Interleaved { body }),
        4 => (1u16..3, 0u8..4, 0u64..6, any::<bool>()).prop_map(|(c, h, t, b)| Act::Settle(c, h, t, b && t > 2)),
        1 => (1u16..3).prop_map(Act::Get),
    ]
}

fn peer() -> Peer {
    let mut p = Peer::opened_with(MachineConfig::default(), 9, 4096, 0);
    p.open_channels(&[1, 2, 3]);
    p
}

proptest! {
    #[test]
    fn any_split_gives_the_same_commands(
        acts in prop::collection::vec(any_act(), 1..14),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        let mut acts = acts;
        acts.push(Act::Reopen(3));
        let bytes: Vec<u8> = acts.iter().flat_map(Act::bytes).collect();
        let mut expected = Vec::new();
        acts.iter().for_each(|a| a.expected(&mut expected));

        let mut whole = peer();
        whole.send(&bytes);
        prop_assert_eq!(flatten(&whole.take()), &expected[..]);

        let mut at: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        let mut split = peer();
        for w in at.windows(2) {
            split.send(&bytes[w[0]..w[1]]);
        }
        prop_assert_eq!(flatten(&split.take()), &expected[..]);
    }

    #[test]
    fn octet_by_octet_gives_the_same_commands(acts in prop::collection::vec(any_act(), 1..4)) {
        let bytes: Vec<u8> = acts.iter().flat_map(Act::bytes).collect();
        let mut expected = Vec::new();
        acts.iter().for_each(|a| a.expected(&mut expected));
        let mut p = peer();
        for b in bytes {
            p.send(&[b]);
        }
        prop_assert_eq!(flatten(&p.take()), expected);
    }

    #[test]
    fn any_bytes_at_any_time(
        acts in prop::collection::vec(any_act(), 0..4),
        noise in prop::collection::vec(any::<u8>(), 0..400),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        stage in 0usize..6,
    ) {
        let stages = [
            HEADER.to_vec(), start_ok("PLAIN", b"\0a\0b", &[]), tune_ok(9, 4096, 3), open("/"), channel_open(1), channel_open(2),
        ];
        let mut p = Peer::new(MachineConfig::default());
        for s in &stages[..stage] {
            p.send(s);
            if p.machine.poll_auth().is_some() {
                p.machine.handle_auth(p.now, hornpipe_amqp::AuthOutcome::Ok("a".into()));
            }
            p.effect(hornpipe_types::effect::ConnectionEffect::Opened);
        }
        let mut bytes: Vec<u8> = acts.iter().flat_map(Act::bytes).collect();
        for (i, b) in flips {
            if !bytes.is_empty() {
                let i = i.index(bytes.len());
                bytes[i] = b;
            }
        }
        p.send(&bytes);
        p.send(&noise);
        for _ in 0..5 {
            p.advance(5000);
        }
        p.received_bytes();
        flatten(&p.take());
    }

    /// Frames with every valid envelope and any payload.
    #[test]
    fn any_method_payload(
        class in prop::sample::select(vec![10u16, 20, 30, 40, 50, 60, 85, 90, 7]), id in 0u16..130,
        rest in prop::collection::vec(any::<u8>(), 0..40), channel in 0u16..3,
    ) {
        let mut p = peer();
        let mut payload = class.to_be_bytes().to_vec();
        payload.extend(id.to_be_bytes());
        payload.extend(rest);
        p.send(&raw(1, channel, &payload));
        p.received();
        flatten(&p.take());
    }

    #[test]
    fn deliveries_read_back(
        bodies in prop::collection::vec(any_body(), 1..8),
        first_tag in 1u64..1 << 60, redelivered in any::<bool>(), consumer in "[a-z.]{0,20}", step in 1u32..3,
        built_for in prop::sample::select(vec![0usize, 64, 4096, 131_072]),
    ) {
        let (span, expected) = span_of(&bodies, step, built_for);
        let mut p = peer();
        p.channel_effect(2, ChannelEffect::Deliver(Delivery {
            consumer_tag: consumer.as_str().into(), first_tag, redelivered, span: span.clone(),
        }));
        let bytes = p.received_bytes();
        let mut want = Vec::new();
        for (k, (key, body)) in expected.iter().enumerate() {
            let deliver = basic::AMQPMethod::Deliver(basic::Deliver {
                consumer_tag: consumer.as_str().into(),
                delivery_tag: first_tag + k as u64,
                redelivered,
                exchange: "ex".into(),
                routing_key: key.as_str().into(),
            });
            want.push((method(2, AMQPClass::Basic(deliver)), body.clone()));
        }
        check_contents(&bytes, &want, 4096);
        let commands = p.take();
        match &commands[..] {
            [Command::Written(n)] => prop_assert_eq!(*n, span_cost(&span)),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn get_ok_and_return_read_back(body in any_body(), tag in any::<u64>(), redelivered in any::<bool>(), messages in any::<u32>()) {
        let (span, expected) = span_of(&[body], 1, 100);
        let (key, body) = &expected[0];
        let mut p = peer();
        p.channel_effect(1, ChannelEffect::GetOk { tag, redelivered, messages, span: span.clone() });
        let get_ok = basic::AMQPMethod::GetOk(basic::GetOk {
            delivery_tag: tag, redelivered, exchange: "ex".into(), routing_key: key.as_str().into(), message_count: messages,
        });
        check_contents(&p.received_bytes(), &[(method(1, AMQPClass::Basic(get_ok)), body.clone())], 4096);
        p.channel_effect(1, ChannelEffect::Return { code: ReplyCode::NoRoute, text: "NO_ROUTE".into(), span });
        let returned = basic::AMQPMethod::Return(basic::Return {
            reply_code: 312, reply_text: "NO_ROUTE".into(), exchange: "ex".into(), routing_key: key.as_str().into(),
        });
        check_contents(&p.received_bytes(), &[(method(1, AMQPClass::Basic(returned)), body.clone())], 4096);
    }

    #[test]
    fn confirms_read_back(tag in 1u64..1 << 60, count in 1u32..5, multiple in any::<bool>(), ack in any::<bool>()) {
        let count = if multiple { 1 } else { count };
        let mut p = peer();
        p.channel_effect(1, ChannelEffect::Confirm { tag, count, multiple, ack });
        let expected: Vec<u8> = (0..u64::from(count))
            .flat_map(|k| {
                let delivery_tag = tag + k;
                method(1, AMQPClass::Basic(if ack {
                    basic::AMQPMethod::Ack(basic::Ack { delivery_tag, multiple })
                } else {
                    basic::AMQPMethod::Nack(basic::Nack { delivery_tag, multiple, requeue: true })
                }))
            })
            .collect();
        prop_assert_eq!(p.received_bytes(), expected);
    }
}

/// A span over a batch of these bodies under two keys, and the keys and bodies that are in it.
fn span_of(bodies: &[Vec<u8>], step: u32, built_for: usize) -> (Span, Vec<(String, Vec<u8>)>) {
    let mut b = BatchBuilder::default();
    let routes = [b.push_route("ex", "a"), b.push_route("ex", "bb")];
    let header = frame_payload(&content(0, &properties(1), b"", 1));
    for (i, body) in bodies.iter().enumerate() {
        let meta = MessageMeta { route: routes[i / 2 % 2], ..MessageMeta::default() };
        b.push_message(&header, [&body[..]], meta, built_for);
    }
    let batch = b.finish();
    let span = Span { count: batch.len().div_ceil(step), from: 0, step, batch };
    let expected =
        span.indexes().map(|i| (["a", "bb"][i as usize / 2 % 2].to_owned(), bodies[i as usize].clone())).collect();
    (span, expected)
}

fn frame_payload(bytes: &[u8]) -> Vec<u8> {
    let size = u32::from_be_bytes([bytes[3], bytes[4], bytes[5], bytes[6]]) as usize;
    bytes[7..7 + size].to_vec()
}

/// `bytes` must be these method frames, to the octet, each followed by its content in frames of at most `frame_max`.
fn check_contents(bytes: &[u8], expected: &[(Vec<u8>, Vec<u8>)], frame_max: usize) {
    let mut rest = bytes;
    for (method, body) in expected {
        assert_eq!(&rest[..method.len()], &method[..]);
        let channel = [method[1], method[2]];
        rest = &rest[method.len()..];
        let mut got = Vec::new();
        let mut header = true;
        while header || got.len() < body.len() {
            let (after, f) = parse_frame(rest).unwrap();
            assert_eq!(rest[1..3], channel);
            assert!(rest.len() - after.len() <= frame_max);
            match f {
                AMQPFrame::Header(_, h) if header => {
                    assert_eq!(h.body_size, body.len() as u64);
                    assert_eq!(h.properties, properties(1));
                }
                AMQPFrame::Body(_, piece) if !header => got.extend(piece),
                other => panic!("{other:?}"),
            }
            header = false;
            rest = after;
        }
        assert_eq!(&got, body);
    }
    assert!(rest.is_empty());
}

/// Numbers of messages per run of a stream of commands.
pub(crate) fn runs(commands: &[Command]) -> Vec<u32> {
    commands
        .iter()
        .flat_map(|c| match c {
            Command::Channel(_, ChannelCommand::Publish(run)) => vec![run.count],
            Command::Publishes(publishes) => publishes.runs.iter().map(|run| run.count).collect(),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn identical_publishes_are_one_run_and_one_read_one_batch() {
    let mut p = peer();
    let mut bytes = publish(1, "a", b"0123456789").repeat(100);
    bytes.extend(publish(1, "b", b"x").repeat(3));
    bytes.extend(publish(2, "b", b"x").repeat(2));
    bytes.extend(publish(1, "a", b"y"));
    p.send(&bytes);
    match &p.take()[..] {
        [Command::Publishes(all)] => {
            let heads: Vec<_> = all.runs.iter().map(|run| (run.channel, run.from, run.count)).collect();
            assert_eq!(heads, [(1, 0, 100), (1, 100, 3), (2, 103, 2), (1, 105, 1)]);
            assert_eq!((all.batch.len(), Arc::strong_count(&all.batch)), (106, 1));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_comes_between_publishes_parts_them() {
    let mut p = peer();
    let mut bytes = publish(1, "a", b"1");
    bytes.extend(publish(2, "b", b"2"));
    bytes.extend(method(1, AMQPClass::Basic(basic::AMQPMethod::Recover(basic::Recover { requeue: true }))));
    bytes.extend(publish(1, "a", b"3"));
    bytes.extend(publish(1, "a", b"4"));
    p.send(&bytes);
    match &p.take()[..] {
        [
            Command::Publishes(first),
            Command::Channel(1, ChannelCommand::Recover { .. }),
            Command::Channel(1, ChannelCommand::Publish(second)),
        ] => {
            assert!(Arc::ptr_eq(&first.batch, &second.batch));
            assert_eq!((first.runs.len(), second.from, second.count), (2, 2, 2));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_split_over_reads_stays_in_its_run() {
    let mut p = peer();
    let one = publish(1, "a", &[5; 300]);
    let bytes = one.repeat(10);
    p.send(&bytes[..one.len() * 3 + 200]);
    assert_eq!(runs(&p.take()), [3]);
    p.send(&bytes[one.len() * 3 + 200..]);
    assert_eq!(runs(&p.take()), [7]);
    // the same with another publish right behind it
    p.send(&one[..100]);
    p.send(&[&one[100..], &publish(1, "b", b"x"), &one].concat());
    assert_eq!(runs(&p.take()), [1, 1, 1]);
}

#[test]
fn consecutive_settlements_are_joined() {
    let mut p = peer();
    let acks = |tags: &[u64]| -> Vec<u8> { tags.iter().flat_map(|&t| Act::Settle(1, 0, t, false).bytes()).collect() };
    p.send(&[acks(&[0, 1, 2, 3, 7, 8]), Act::Settle(1, 0, 9, true).bytes(), acks(&[10]), acks(&[11])].concat());
    let got: Vec<_> = p
        .take()
        .iter()
        .map(|c| match c {
            Command::Channel(1, ChannelCommand::Settle { how: Settle::Ack, tag, count, multiple }) => {
                (*tag, *count, *multiple)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(got, [(0, 1, false), (1, 3, false), (7, 2, false), (9, 1, true), (10, 2, false)]);
}

#[test]
fn what_is_never_written_is_reported_too() {
    let (span, _) = span_of(&[b"abc".to_vec()], 1, 0);
    let deliver = || {
        ChannelEffect::Deliver(Delivery {
            consumer_tag: "c".into(),
            first_tag: 1,
            redelivered: false,
            span: span.clone(),
        })
    };
    let mut p = peer();
    p.channel_effect(7, deliver());
    assert!(matches!(p.take()[..], [Command::Written(n)] if n == span_cost(&span)));
    assert!(p.received_bytes().is_empty());
    // what is written is reported once it is, and all of it at once
    p.channel_effect(1, deliver());
    p.channel_effect(2, deliver());
    assert!(p.take().is_empty());
    p.received_bytes();
    assert!(matches!(p.take()[..], [Command::Written(n)] if n == 2 * span_cost(&span)));
}

/// More routes than a batch has room for, the last ones while it is full, and one that was there before.
#[test]
fn a_full_batch_gives_way_to_the_next() {
    let check = |routes: usize| {
        let wanted: Vec<String> =
            (0..routes).map(|i| i.to_string()).chain(["7".into(), "i".into(), "7".into()]).collect();
        let mut bytes: Vec<u8> = Vec::new();
        for key in &wanted[..=routes] {
            bytes.extend(publish(1, key, b"x"));
        }
        bytes.extend(Act::Interleaved { body: b"slow".to_vec() }.bytes());
        bytes.extend(publish(1, "7", b"y"));
        let mut p = peer();
        p.send(&bytes);
        let commands = p.take();
        let keys: Vec<String> = flatten(&commands)
            .into_iter()
            .filter_map(|s| match s {
                Seen::Message { channel: 1, key, .. } => Some(key),
                _ => None,
            })
            .collect();
        assert!(keys == wanted, "{routes}");
    };
    for routes in 65_530..65_537 {
        check(routes);
    }
}
