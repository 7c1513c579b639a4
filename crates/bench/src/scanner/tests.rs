//! What publishers send comes back as a broker's deliveries, right or with one thing wrong.

use super::*;
use crate::batch::Batch;
use crate::plan::{Case, Flags};

/// A delivery under construction.
struct Delivery {
    consumer: String,
    exchange: String,
    key: String,
    header: Vec<u8>,
    frames: Vec<Vec<u8>>,
    redelivered: bool,
    /// Added to the delivery tag.
    skips: u64,
}

impl Delivery {
    /// What a broker makes of a publish.
    fn of(mut publish: &[u8]) -> Self {
        let mut payloads = Vec::new();
        while let Some(frame) = frame_at(publish).expect("sound") {
            payloads.push(frame.payload.to_vec());
            publish = &publish[frame.total..];
        }
        let method = payloads.remove(0);
        let (exchange, key) = split(&method[6..method.len() - 1]).expect("two short strings");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        let (exchange, key) = (text(exchange), text(key));
        Self {
            consumer: "c0".to_owned(),
            exchange,
            key,
            header: payloads.remove(0),
            frames: payloads,
            redelivered: false,
            skips: 0,
        }
    }

    fn write(&self, tag: u64, out: &mut Out) {
        out.method(1, wire::BASIC_DELIVER, |args| {
            args.short(&self.consumer);
            args.u64(tag + self.skips);
            args.u8(u8::from(self.redelivered));
            args.short(&self.exchange);
            args.short(&self.key);
        });
        out.frame(HEADER, 1, |args| args.bytes(&self.header));
        for frame in &self.frames {
            out.frame(BODY, 1, |args| args.bytes(frame));
        }
    }
}

/// Publishes of publisher 0 that go to queue 0, with the time 1 where there is one.
fn publishes(plan: &Plan, count: usize) -> Vec<Delivery> {
    let mut batch = Batch::new(plan, 0);
    let routing = crate::routing::Routing::new(plan);
    let mut all = Vec::new();
    for number in 0u64.. {
        let at = (number % batch.capacity() as u64) as usize;
        batch.stamp(at, 0, number, nanos());
        let channels = plan.channels as u64;
        if routing.leads((number % channels) as usize, number / channels, 0) {
            all.push(Delivery::of(batch.bytes(at, at + 1)));
        }
        if all.len() == count {
            break;
        }
    }
    all
}

/// Which delivery is changed, and how.
type Wrong<'a> = (usize, &'a dyn Fn(&mut Delivery));

/// Scans deliveries in one read, one of them changed: `None` for none.
fn scanned(plan: &Plan, count: usize, wrong: Option<Wrong<'_>>) -> Result<u64> {
    let mut scanner = Scanner::new(plan, 0);
    let mut deliveries = publishes(plan, count);
    if let Some((at, change)) = wrong {
        change(&mut deliveries[at]);
    }
    let mut out = Out::default();
    for (delivery, tag) in deliveries.iter().zip(1..) {
        delivery.write(tag, &mut out);
    }
    let used = scanner.scan(&out.0, nanos())?;
    assert_eq!(used, out.0.len());
    Ok(scanner.received)
}

fn plans() -> Vec<Plan> {
    let flags = |body| Flags { body: Some(body), ..Flags::default() };
    let plan = |case, flags: &Flags| Plan::new(Some(case), flags).expect("sound");
    let mut plans: Vec<Plan> = [Case::A, Case::B, Case::C, Case::F, Case::G, Case::H, Case::N]
        .into_iter()
        .map(|case| plan(case, &Flags::default()))
        .collect();
    plans.extend([plan(Case::B, &flags(300_000)), plan(Case::A, &flags(0)), plan(Case::A, &flags(5))]);
    plans
}

/// The first of a read is compared whole.
fn seen(plan: &Plan, change: &dyn Fn(&mut Delivery), text: &str) {
    let error = scanned(plan, 3, Some((0, change))).expect_err("seen").to_string();
    assert!(error.contains(text), "{plan:?}: {error}");
}

#[test]
fn what_was_published_passes() {
    for plan in plans() {
        assert_eq!(scanned(&plan, 600, None).expect("sound"), 600, "{plan:?}");
    }
}

#[test]
fn another_key_exchange_or_consumer_is_seen() {
    for plan in plans().into_iter().filter(|plan| plan.body >= 8) {
        seen(&plan, &|delivery| delivery.key.push('x'), "and key");
        seen(&plan, &|delivery| delivery.exchange.push('x'), "exchange");
        seen(&plan, &|delivery| delivery.consumer.push('1'), "is for consumer");
    }
}

#[test]
fn other_properties_are_seen() {
    for plan in plans() {
        seen(&plan, &|delivery| delivery.header.push(1), "properties");
        let last = |delivery: &mut Delivery| *delivery.header.last_mut().expect("flags") ^= 3;
        seen(&plan, &last, "properties");
    }
}

#[test]
fn every_octet_of_every_frame_counts() {
    for plan in plans().into_iter().filter(|plan| plan.body > 0) {
        for frame in 0..Delivery::of(Batch::new(&plan, 0).bytes(0, 1)).frames.len() {
            let change = |delivery: &mut Delivery| *delivery.frames[frame].last_mut().expect("octets") ^= 0x80;
            assert!(scanned(&plan, 3, Some((0, &change))).is_err(), "{plan:?}");
        }
        // Of a time only so much can be said: that it isn't in the future.
        let told = |at: &usize| plan.rate.is_none() || !(12..16).contains(at);
        for at in (0..plan.body.min(40)).filter(told) {
            let change = |delivery: &mut Delivery| delivery.frames[0][at] ^= 0x80;
            assert!(scanned(&plan, 3, Some((0, &change))).is_err(), "octet {at} of {plan:?}");
        }
    }
}

#[test]
fn beside_the_first_of_a_read_one_in_256_is_compared_and_a_large_one_always() {
    let plan = Plan::new(Some(Case::B), &Flags::default()).expect("sound");
    let change = |delivery: &mut Delivery| *delivery.frames[0].last_mut().expect("octets") ^= 1;
    assert!(scanned(&plan, 300, Some((256, &change))).is_err());
    assert!(scanned(&plan, 300, Some((200, &change))).is_ok(), "what docs/performance.md says isn't compared");
    let large = Plan::new(Some(Case::B), &Flags { body: Some(300_000), ..Flags::default() }).expect("sound");
    let change = |delivery: &mut Delivery| delivery.frames[1][7] ^= 1;
    assert!(scanned(&large, 3, Some((2, &change))).is_err());
}

#[test]
fn a_message_of_another_queue_is_seen_wherever_it_comes() {
    for case in [Case::D, Case::G, Case::N] {
        let plan = Plan::new(Some(case), &Flags::default()).expect("sound");
        // Number and source of the first message that isn't for queue 0.
        let foreign = match case {
            Case::D => 1u64 << SEQUENCE_BITS,
            Case::G => 2051,
            _ => (1 << SEQUENCE_BITS) | 20,
        };
        let change = |delivery: &mut Delivery| delivery.frames[0][..8].copy_from_slice(&foreign.to_be_bytes());
        let error = scanned(&plan, 210, Some((205, &change))).expect_err("seen").to_string();
        assert!(error.contains("where it doesn't belong"), "{error}");
    }
}

#[test]
fn a_frame_that_is_left_out_is_seen() {
    let plan = Plan::new(Some(Case::B), &Flags { body: Some(300_000), ..Flags::default() }).expect("sound");
    let change = |delivery: &mut Delivery| _ = delivery.frames.pop();
    assert!(scanned(&plan, 3, Some((1, &change))).is_err());
}

#[test]
fn a_delivery_out_of_turn_or_marked_redelivered_is_seen_wherever_it_comes() {
    let plan = Plan::new(Some(Case::A), &Flags::default()).expect("sound");
    let error =
        |change: &dyn Fn(&mut Delivery)| scanned(&plan, 210, Some((205, change))).expect_err("seen").to_string();
    assert_eq!(error(&|delivery| delivery.skips = 1), "delivery tag 207 after 205");
    assert_eq!(error(&|delivery| delivery.redelivered = true), "delivery 206 is marked redelivered");
}

/// Of another size than all, or of the other size where there are two.
#[test]
fn a_body_of_another_size_is_seen() {
    let cut = |delivery: &mut Delivery, by: usize| {
        let size = be64(&delivery.header, 4) - by as u64;
        delivery.header[4..12].copy_from_slice(&size.to_be_bytes());
        let last = delivery.frames.last_mut().expect("a body");
        last.truncate(last.len() - by);
    };
    // wherever it comes
    let plan = Plan::new(Some(Case::A), &Flags::default()).expect("sound");
    assert!(scanned(&plan, 210, Some((205, &|delivery| cut(delivery, 1)))).is_err());
    let mut told = 0;
    for plan in plans().into_iter().filter(|plan| plan.body > 8) {
        seen(&plan, &|delivery| cut(delivery, 1), "were published");
        let [large, small] = [plan.size(0).max(plan.size(1)), plan.size(0).min(plan.size(1))];
        if large > small {
            let mut deliveries = publishes(&plan, 8);
            let size = |delivery: &Delivery| be64(&delivery.header, 4) as usize;
            // not every queue gets both
            let Some(at) = deliveries.iter().position(|delivery| size(delivery) == large) else { continue };
            cut(&mut deliveries[at], large - small);
            // in a read of its own each is compared
            let mut scanner = Scanner::new(&plan, 0);
            let scanned = deliveries.iter().zip(1..).try_for_each(|(delivery, tag)| {
                let mut out = Out::default();
                delivery.write(tag, &mut out);
                scanner.scan(&out.0, nanos()).map(|_| ())
            });
            let error = scanned.expect_err("seen").to_string();
            assert!(error.contains(&format!("body of {small} bytes where {large} were published")), "{error}");
            told += 1;
        }
    }
    assert!(told > 0);
}

#[test]
fn the_first_wrong_octet_is_found_behind_whole_pieces() {
    let mut bytes: Vec<u8> = (0..3 * PIECE).map(|at| filler(at + 77)).collect();
    assert_eq!(first_wrong(&bytes, 77), None);
    bytes[2 * PIECE + 5] ^= 1;
    assert_eq!(first_wrong(&bytes, 77), Some(2 * PIECE + 5));
}
