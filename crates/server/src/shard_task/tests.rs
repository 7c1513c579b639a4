//! Turns taken by hand, without sockets.

use super::*;
use crate::{Broker, ServerConfig, Storage};
use hornpipe_types::command::{OpenConnection, QueueDeclare};
use hornpipe_types::effect::{ChannelEffect, ConnectionEffect};
use hornpipe_types::limits::Limits;
use hornpipe_types::stats::Request;
use std::task::{Context, Waker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

fn method(payload: &[u8]) -> Vec<u8> {
    [&[1, 0, 0], &(payload.len() as u32).to_be_bytes()[..], payload, &[0xCE]].concat()
}

/// Logs in and asks for the vhost.
async fn open(stream: &mut TcpStream) {
    let start_ok = b"\0\x0a\0\x0b\0\0\0\0\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US";
    let tune_ok = b"\0\x0a\0\x1f\0\x09\0\x02\0\0\0\0";
    let open = b"\0\x0a\0\x28\x01/\0\0";
    for sent in [b"AMQP\0\0\x09\x01".to_vec(), method(start_ok)] {
        stream.write_all(&sent).await.unwrap();
        // The answer is small, so it comes whole.
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
    }
    stream.write_all(&[method(tune_ok), method(open)].concat()).await.unwrap();
}

fn on(command: ChannelCommand) -> Command {
    Command::Channel(1, command)
}

/// Declares queues of these names; each counts as much as a quarter of a slice.
fn ask(names: Vec<String>) -> Vec<Command> {
    let declare = |queue: String| QueueDeclare { queue: queue.as_str().into(), ..QueueDeclare::default() };
    names.into_iter().map(|queue| on(ChannelCommand::QueueDeclare(Box::new(declare(queue))))).collect()
}

/// The queues a connection was told about since it was looked at last.
fn told(link: &Link) -> Vec<String> {
    let mut effects = Vec::new();
    link.take(&Context::from_waker(Waker::noop()), &mut effects);
    let name = |effect| match effect {
        ConnectionEffect::Channel(1, ChannelEffect::QueueDeclareOk { queue, .. }) => Some(queue.to_string()),
        ConnectionEffect::Opened | ConnectionEffect::Channel(1, ChannelEffect::OpenOk) => None,
        other => panic!("{other:?}"),
    };
    effects.into_iter().filter_map(name).collect()
}

/// A broker whose owner's task is there.
async fn broker(limits: Limits) -> crate::Handle {
    let config = ServerConfig { storage: Storage::Memory, limits, ..ServerConfig::local(std::env::temp_dir()) };
    let handle = Broker::new(config).start().await.unwrap();
    // answered by the task
    handle.shared.homes.first().ask(Request::Totals).await.unwrap();
    handle
}

fn say(home: &Home, (id, link): &(ConnectionId, Arc<Link>), commands: Vec<Command>) {
    link.spend();
    home.inbox.push(Item::Commands(*id, commands));
}

/// Connections with a channel each, without sockets.
struct Stage<const N: usize> {
    home: Arc<Home>,
    links: [(ConnectionId, Arc<Link>); N],
}

impl<const N: usize> Stage<N> {
    fn set(owner: &mut Owner, ids: [u64; N]) -> Self {
        let home = owner.home.clone();
        let links = ids.map(|id| (ConnectionId(id), Arc::new(Link::default())));
        for one in &links {
            home.inbox.push(Item::Connected(one.0, one.1.clone()));
            let open = OpenConnection::without_socket("peer", "guest", "/");
            say(&home, one, vec![Command::Open(Box::new(open)), on(ChannelCommand::Open)]);
        }
        while let Next::Turn = owner.step() {}
        links.iter().for_each(|(_, link)| assert!(told(link).is_empty()));
        Self { home, links }
    }
}

fn names(of: char, range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("{of}{n}")).collect()
}

/// What a read brought beyond a slice goes on in later turns, in its order and before what its connection said since; the others
/// come to their turns between.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_slice_cut_goes_on_in_order_while_others_are_served() {
    let handle = broker(Limits { slice_units: 32, ..Limits::default() }).await;
    let owner = handle.shared.homes.first().desk.0.get().and_then(Weak::upgrade).unwrap();
    // it takes no turns of its own while this is held
    let mut owner = lock(&owner);
    let Stage { home, links } = Stage::set(&mut owner, [1001, 1002, 1003]);
    let say = |who: usize, commands: Vec<Command>| say(&home, &links[who], commands);

    let (long, other, short) = (0, 1, 2);
    say(long, ask(names('a', 0..60)));
    say(other, ask(names('c', 0..60)));
    say(long, ask(names('a', 60..62)));
    say(short, ask(names('b', 0..1)));
    say(long, ask(names('a', 62..63)));
    home.inbox.push(Item::Gone(links[other].0));
    let mut all: [Vec<String>; 3] = Default::default();
    for turn in 1.. {
        let next = owner.step();
        let now = links.each_ref().map(|(_, link)| told(link));
        // what goes on has a slice, and so have all others
        assert!(now.iter().map(Vec::len).sum::<usize>() <= 10, "{now:?} in one turn");
        if turn == 1 {
            assert!(!now[long].is_empty() && now[other].is_empty() && now[short].is_empty(), "{now:?}");
        }
        let has_begun = [long, other].map(|who| !all[who].is_empty() || !now[who].is_empty());
        if !now[short].is_empty() {
            assert!(all[long].len() < 60 && all[other].len() < 60 && has_begun == [true; 2], "{all:?}");
        }
        all.iter_mut().zip(now).for_each(|(all, now)| all.extend(now));
        // they take turns
        assert!(all[long].len().abs_diff(all[other].len()) <= 10 || all[long].len() >= 60, "{all:?}");
        if let Next::Rest(_) = next {
            break;
        }
    }
    assert_eq!((&all[long], &all[short]), (&names('a', 0..63), &names('b', 0..1)));
    // who is gone is told the last no more, but what it said is done
    assert!(!all[other].is_empty() && names('c', 0..60).starts_with(&all[other]), "{all:?}");
    assert!(!owner.links.contains_key(&links[other].0));
    let passive = |queue: &str| QueueDeclare { queue: queue.into(), passive: true, ..QueueDeclare::default() };
    say(short, vec![on(ChannelCommand::QueueDeclare(Box::new(passive("c59"))))]);
    while let Next::Turn = owner.step() {}
    assert_eq!(told(&links[short].1), ["c59"]);
}

/// However much others have brought, who brings little waits for one turn of theirs, and they for one of the little ones.
#[tokio::test(flavor = "multi_thread")]
async fn who_brings_little_has_every_other_turn() {
    let handle = broker(Limits { slice_units: 32, ..Limits::default() }).await;
    let owner = handle.shared.homes.first().desk.0.get().and_then(Weak::upgrade).unwrap();
    let mut owner = lock(&owner);
    let Stage { home, links } = Stage::set(&mut owner, [1001, 1002, 1003, 1004]);
    let told = || links.each_ref().map(|(_, link)| told(link));
    let mut all: [Vec<String>; 4] = Default::default();
    let long = [(0, 'a'), (1, 'b'), (2, 'c')];
    long.iter().for_each(|(who, of)| say(&home, &links[*who], ask(names(*of, 0..300))));
    let short = 3;
    let (mut turns_of_others, mut interrupted) = (0, false);
    for n in 0..40 {
        say(&home, &links[short], ask(names('d', n..n + 1)));
        let begun = Begun::now();
        assert!(matches!(owner.step(), Next::Turn));
        // a turn may take less when its time was somebody else's
        interrupted |= begun.us() >= TURN_US;
        let now = told();
        let theirs = now[..short].iter().filter(|told| !told.is_empty()).count();
        // what it is told waits for no slice of theirs
        assert_eq!(theirs, usize::from(now[short].is_empty()), "{now:?}");
        turns_of_others += theirs;
        all.iter_mut().zip(now).for_each(|(all, now)| all.extend(now));
        assert!(interrupted || all[short].len() >= n, "after {n}: {:?}", all[short]);
    }
    assert!((19..=21).contains(&turns_of_others), "{turns_of_others}");
    assert!(long.iter().all(|(who, _)| (1..300).contains(&all[*who].len())), "{all:?}");
    while let Next::Turn = owner.step() {}
    all.iter_mut().zip(told()).for_each(|(all, now)| all.extend(now));
    long.iter().for_each(|(who, of)| assert_eq!(all[*who], names(*of, 0..300)));
}

/// Who has begun goes on however many others begin, and what comes behind one's own takes no turn. The owner ends when all is done.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_begun_and_who_has_not_take_turns_until_the_end() {
    let handle = broker(Limits { slice_units: 32, ..Limits::default() }).await;
    let owner = handle.shared.homes.first().desk.0.get().and_then(Weak::upgrade).unwrap();
    let mut owner = lock(&owner);
    let Stage { home, links } = Stage::set(&mut owner, std::array::from_fn::<_, 20, _>(|n| 1001 + n as u64));
    let mut all: [Vec<String>; 20] = Default::default();
    let mut step = |owner: &mut Owner| {
        let next = owner.step();
        all.iter_mut().zip(&links).for_each(|(all, (_, link))| all.extend(told(link)));
        (next, all.iter().filter(|all| !all.is_empty()).count(), all[0].len())
    };
    for (who, link) in links.iter().enumerate() {
        say(&home, link, ask(names(char::from(b'a' + who as u8), 0..300)));
        say(&home, link, ask(names(char::from(b'a' + who as u8), 300..600)));
    }
    let after: Vec<_> = (1..=45).map(|_| step(&mut owner)).collect();
    assert!(after[4].2 > after[0].2, "the first goes on while others begin");
    assert_eq!(after[44].1, 20, "all have begun");
    let (done, mut is_done) = oneshot::channel();
    home.inbox.push(Item::Finish(done));
    while !matches!(step(&mut owner).0, Next::End) {
        assert!(is_done.try_recv().is_err());
    }
    for (who, all) in all.iter().enumerate() {
        assert_eq!(*all, names(char::from(b'a' + who as u8), 0..600));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_waits_for_those_who_bring_much() {
    let handle = broker(Limits::default()).await;
    let owner = handle.shared.homes.first().desk.0.get().and_then(Weak::upgrade).unwrap();
    let mut owner = lock(&owner);
    let Stage { home, links } = Stage::set(&mut owner, [1001]);
    say(&home, &links[0], (0..300).map(|_| Command::Written(0)).collect());
    let (done, _is_done) = oneshot::channel();
    home.inbox.push(Item::Finish(done));
    while !matches!(owner.step(), Next::End) {}
    assert!(links[0].1.is_idle());
}

/// Whatever is long, short or cut, and whenever it comes: each connection gets all its answers, in their order.
#[tokio::test(flavor = "multi_thread")]
async fn no_two_things_a_connection_says_change_places() {
    let handle = broker(Limits { slice_units: 64, ..Limits::default() }).await;
    let owner = handle.shared.homes.first().desk.0.get().and_then(Weak::upgrade).unwrap();
    let mut owner = lock(&owner);
    let mut rng = 0x9E37_79B9_7F4A_7C15_u64;
    let mut below = |n: u64| {
        for by in [13, -7, 17] {
            rng ^= if by > 0 { rng << by } else { rng >> -by };
        }
        (rng % n) as usize
    };
    for round in 0..10 {
        let Stage { home, links } = Stage::set(&mut owner, [1, 2, 3, 4, 5].map(|n| 1000 + 10 * round + n));
        let (mut said, mut all): ([usize; 5], [Vec<String>; 5]) = Default::default();
        let step = |owner: &mut Owner, all: &mut [Vec<String>; 5]| {
            let next = owner.step();
            all.iter_mut().zip(&links).for_each(|(all, (_, link))| all.extend(told(link)));
            matches!(next, Next::Turn)
        };
        let of = |who: usize| char::from(b'a' + who as u8);
        for _ in 0..60 {
            for _ in 0..below(7) {
                let who = below(5);
                let n = match below(8) {
                    0 => 257 + below(40),
                    1 | 2 => 5 + below(60),
                    3 => 0,
                    _ => 1 + below(3),
                };
                let commands = match n {
                    0 => vec![Command::Written(0)],
                    n => ask(names(of(who), said[who]..said[who] + n)),
                };
                said[who] += n;
                say(&home, &links[who], commands);
            }
            for _ in 0..below(3) {
                step(&mut owner, &mut all);
            }
        }
        let gone = below(5);
        home.inbox.push(Item::Gone(links[gone].0));
        while step(&mut owner, &mut all) {}
        assert!(owner.lines.is_empty() && owner.unfinished.is_empty());
        for (who, (id, link)) in links.iter().enumerate() {
            let due = names(of(who), 0..said[who]);
            // who is gone is told the last no more
            let same = if who == gone { due.starts_with(&all[who]) } else { due == all[who] };
            assert!(same, "round {round}, {who}: {:?}", all[who]);
            assert!((who == gone) != owner.links.contains_key(id) && (who == gone || link.is_idle()));
            home.inbox.push(Item::Gone(*id));
        }
        while let Next::Turn = owner.step() {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_turn_taken_for_the_owner_ends_the_process() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let on_fatal = move |text: &str| {
        let thread = std::thread::current().name().map(str::to_owned);
        tell.send((text.to_owned(), thread)).unwrap();
    };
    let config = ServerConfig {
        storage: Storage::Memory,
        on_fatal: Some(Arc::new(on_fatal)),
        ..ServerConfig::local(std::env::temp_dir())
    };
    let handle = Broker::new(config).start().await.unwrap();
    let (text, thread) = loop {
        handle.shared.homes.first().inbox.push_quietly(Item::PanicOnFront);
        let mut stream = TcpStream::connect(handle.amqp_addresses()[0]).await.unwrap();
        open(&mut stream).await;
        tokio::select! {
            biased;
            told = told.recv() => break told.unwrap(),
            // Answered when the owner was awake and took the turn itself.
            answer = stream.read_u8() => assert!(answer.is_ok(), "only the connection ended"),
        }
    };
    assert_eq!((text.as_str(), thread.as_deref()), (PANICKED, Some("front")));
}
