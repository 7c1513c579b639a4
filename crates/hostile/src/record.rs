//! A store whose map was damaged behind its back: recovery and reading may refuse, they may not panic. With the leave to
//! lose data the store opens whatever is in it.

use hornpipe_store::{Memory, Store, StoreConfig};
use hornpipe_testkit::message;
use hornpipe_types::header::Properties;
use hornpipe_types::ids::{CommitSeq, EnqueueId, QueueId};
use hornpipe_types::message::{BatchBuilder, Span};
use hornpipe_types::op::{Enqueue, Group, Recovered, RunMeta, StoreOp, Target};
use hornpipe_types::range::SeqRange;
use hornpipe_types::time::UnixMillis;

fn written() -> Memory {
    let medium = Memory::new();
    let config = StoreConfig { inline_bytes_max: 300, body_file_bytes: 4096, ..StoreConfig::default() };
    let mut store = Store::with_medium(Box::new(medium.clone()), config);
    store.recover(&mut |_| {}).expect("an empty medium");
    for n in 1..6u64 {
        let mut b = BatchBuilder::default();
        let route = b.push_route("x", "key");
        (0..n).for_each(|i| message::push(&mut b, route, &Properties::default(), i, 40));
        let queue = QueueId(n % 2);
        let ops = vec![
            StoreOp::Enqueue(Enqueue {
                id: EnqueueId(n),
                targets: vec![Target { queue, first_seq: n * 10 }],
                meta: RunMeta { deadline: UnixMillis(n), priority: 1, ..RunMeta::default() },
                span: Span::whole(b.finish()),
                more: Vec::new(),
            }),
            StoreOp::Settled { queue, ranges: vec![SeqRange { first: n * 10 - 9, count: 2, step: 3 }] },
            StoreOp::State { queue, seq: n * 10, delivery_count: 1, acquired_count: 2, hold_until: UnixMillis(0) },
            StoreOp::Purge { queue, upto: n, except: vec![SeqRange::dense(1, 1)] },
        ];
        store.commit(&Group { upto: CommitSeq(n), ops, ..Group::default() }).expect("memory does not fail");
        store.sync().expect("memory does not fail");
    }
    medium
}

fn look(medium: &Memory, accept_data_loss: bool) -> bool {
    let config = StoreConfig { accept_data_loss, ..StoreConfig::default() };
    let mut store = Store::with_medium(Box::new(medium.after_crash(0)), config);
    let mut places = Vec::new();
    let opened = store.recover(&mut |item| {
        if let Recovered::Run { place, .. } = item {
            places.push(place);
        }
    });
    let reader = store.reader();
    for place in places {
        // either it is what it was or it is refused
        if let Ok(batch) = reader.read(&place) {
            (0..batch.len()).for_each(|i| {
                message::id_of(&batch, i);
            });
        }
    }
    opened.is_ok()
}

/// The first three octets say which record is damaged, how and where; the others are put there.
///
/// # Panics
/// Where recovery or reading does.
pub fn run(octets: &[u8]) {
    let [key, kind, at, change @ ..] = octets else { return };
    let medium = written();
    let keys = medium.keys();
    let at = usize::from(*at);
    medium.tamper(&keys[usize::from(*key) % keys.len()], |mut value| {
        match kind % 4 {
            0 => value.truncate(at),
            1 => value = change.to_vec(),
            2 => value.iter_mut().skip(at).zip(change).for_each(|(v, c)| *v ^= c),
            _ => return None,
        }
        Some(value)
    });
    look(&medium, false);
    look(&medium, true);
}
