//! What every backend must do, run on all of them.

#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use hornpipe_store::{StoreConfig, StoreError};
use hornpipe_types::definition::{BindingDefinition, Definition, QueueDefinition};
use hornpipe_types::ids::{EnqueueId, QueueId};
use hornpipe_types::message::{Batch, Span};
use hornpipe_types::op::{Enqueue, Group, Place, Recovered, RunMeta, StoreOp};
use hornpipe_types::range::SeqRange;
use hornpipe_types::table::{FieldTable, Value};
use hornpipe_types::time::UnixMillis;
use std::sync::Arc;

fn on_all(test: impl Fn(&str, &dyn Bed)) {
    for (name, bed) in beds() {
        test(name, &*bed);
    }
}

#[test]
fn a_new_store_is_empty_and_clean() {
    on_all(|name, bed| {
        let (store, told) = open(bed);
        assert!(told.definitions.is_empty() && told.items.is_empty() && told.clean, "{name}");
        store.close().unwrap();
        let (_store, told) = open(bed);
        assert!(told.items.is_empty() && told.clean, "{name}");
    });
}

#[test]
fn every_op_comes_back() {
    on_all(|name, bed| {
        let small = batch(1, &[0, 10, 200]);
        let large = batch(2, &[1000; 100]);
        let meta = RunMeta {
            deadline: UnixMillis(77),
            priority: 3,
            redelivered: true,
            delivery_count: 4,
            acquired_count: 5,
            transient: true,
        };
        let ops = vec![
            enqueue(1, vec![target(1, 1), target(2, 50)], &small),
            StoreOp::Settled { queue: QueueId(1), ranges: vec![SeqRange { first: 1, count: 2, step: 2 }] },
            StoreOp::State {
                queue: QueueId(2),
                seq: 51,
                delivery_count: 2,
                acquired_count: 9,
                hold_until: UnixMillis(5),
            },
            StoreOp::Purge { queue: QueueId(2), upto: 52, except: vec![SeqRange::dense(51, 1)] },
            StoreOp::DropQueue(QueueId(3)),
        ];
        let (mut store, _) = open(bed);
        let first = put(&mut store, &group(10, ops));
        assert_eq!(first.upto.0, 10);
        let span = Span { batch: large.clone(), from: 10, count: 80, step: 1 };
        let run =
            Enqueue { id: EnqueueId(2), targets: vec![target(1, 100)], meta, span: span.clone(), more: Vec::new() };
        let second = put(&mut store, &group(11, vec![StoreOp::Enqueue(run)]));
        assert!(second.lsn > first.lsn, "{name}");
        let (inline, out) = (first.places[0].1, second.places[0].1);
        assert!(inline.body.is_none() && out.body.is_some(), "{name}: small inline, large out of line");
        let settled = StoreOp::Settled { queue: QueueId(1), ranges: vec![SeqRange::dense(100, 1)] };
        let third = put(&mut store, &group(12, vec![settled]));
        for clean in [false, true] {
            if clean {
                store.close().unwrap();
            } else {
                drop(store);
            }
            let told;
            (store, told) = open(bed);
            assert_eq!(told.clean, clean, "{name}");
            assert!(told.orphans.is_empty());
            let reader = store.reader();
            match &told.items[..] {
                [
                    Recovered::Run { targets, meta: m1, count: 3, body_bytes: 210, place: p1 },
                    Recovered::Settled { queue: QueueId(1), ranges },
                    Recovered::State { queue: QueueId(2), seq: 51, delivery_count: 2, acquired_count: 9, hold_until },
                    Recovered::Purge { queue: QueueId(2), upto: 52, except },
                    Recovered::DropQueue(QueueId(3)),
                    Recovered::Run { targets: t2, meta: m2, count: 80, body_bytes: 80_000, place: p2 },
                    Recovered::Settled { .. },
                    Recovered::Record { lsn },
                ] => {
                    assert_eq!(targets[..], [target(1, 1), target(2, 50)]);
                    assert_eq!(*m1, RunMeta::default());
                    assert_eq!(ranges[..], [SeqRange { first: 1, count: 2, step: 2 }]);
                    assert_eq!(*hold_until, UnixMillis(5));
                    assert_eq!(except[..], [SeqRange::dense(51, 1)]);
                    assert_eq!((&t2[..], *m2), (&[target(1, 100)][..], meta));
                    assert_eq!((*p1, *p2), (inline, out), "{name}: places are the same after a restart");
                    assert_eq!(*lsn, third.lsn);
                }
                other => panic!("{name}: {other:#?}"),
            }
            assert_reads(&reader, &inline, &small);
            assert_same(&span, &reader.read(&out).unwrap());
        }
    });
}

#[test]
fn definitions_come_back_as_last_put() {
    on_all(|name, bed| {
        let (mut store, _) = open(bed);
        let mut arguments = FieldTable::default();
        let floats = [Value::F64(f64::NAN), Value::F32(0.1), Value::F64(0.1 + 0.2), Value::F32(f32::INFINITY)];
        for (i, v) in floats.into_iter().chain([Value::Void]).enumerate() {
            arguments.set(&format!("x{i}"), v);
        }
        let mut deep = FieldTable::default();
        for _ in 0..60 {
            let mut outer = FieldTable::default();
            outer.set("t", Value::Array(vec![Value::Table(deep)]));
            deep = outer;
        }
        let queue = QueueDefinition {
            vhost: "/".into(),
            name: "q".into(),
            id: QueueId(7),
            durable: true,
            arguments: arguments.clone(),
            ..QueueDefinition::default()
        };
        let binding = BindingDefinition {
            vhost: "/".into(),
            source: "x".repeat(255).into(),
            destination: "q".into(),
            destination_is_queue: true,
            arguments: deep,
            ..BindingDefinition::default()
        };
        let long = parameter("long", "v".repeat(200_000));
        let c = put(
            &mut store,
            &group(
                1,
                vec![
                    StoreOp::Put(parameter("gone", "1")),
                    StoreOp::Put(Definition::Queue(queue.clone())),
                    StoreOp::Put(long.clone()),
                    StoreOp::Put(Definition::Binding(binding.clone())),
                    StoreOp::Put(parameter("twice", "1")),
                    StoreOp::Delete(parameter("twice", "1").key()),
                    StoreOp::Put(parameter("twice", "2")),
                ],
            ),
        );
        assert_eq!(c.lsn, 0, "{name}: no record to keep account of");
        put(&mut store, &group(2, vec![StoreOp::Delete(parameter("gone", "").key())]));
        drop(store);
        let (mut store, told) = open(bed);
        assert!(told.items.is_empty(), "{name}: {:?}", told.items);
        let mut defs = told.definitions;
        assert_eq!(defs.len(), 4, "{name}");
        // NaN is not equal to itself: compare what goes over the wire.
        defs.retain(|d| match d {
            Definition::Queue(q) => {
                let (mut a, mut b) = (vec![], vec![]);
                q.arguments.encode_pairs(&mut a);
                arguments.encode_pairs(&mut b);
                assert_eq!(a, b, "{name}");
                false
            }
            _ => true,
        });
        for d in [&long, &Definition::Binding(binding.clone()), &parameter("twice", "2")] {
            assert!(defs.contains(d), "{name}");
        }
        // A shorter value leaves no part of the longer one behind.
        put(&mut store, &group(3, vec![StoreOp::Put(parameter("long", "short"))]));
        drop(store);
        let (_store, told) = open(bed);
        assert!(told.definitions.contains(&parameter("long", "short")), "{name}");
        assert_eq!(told.definitions.len(), 4, "{name}");
    });
}

#[test]
fn references_outlive_what_they_refer_to() {
    on_all(|name, bed| {
        let (mut store, _) = open(bed);
        let small = batch(1, &[10, 20, 30, 40]);
        let large = batch(2, &[2000; 50]);
        let c = put(&mut store, &group(1, vec![enqueue(1, vec![target(1, 1)], &small)]));
        let d = put(&mut store, &group(2, vec![enqueue(2, vec![target(1, 5)], &large)]));
        let refer = |id, place: Place, from, count| StoreOp::Refer {
            id: EnqueueId(id),
            targets: vec![target(9, id)],
            meta: RunMeta::default(),
            place,
            from,
            count,
        };
        let e = put(
            &mut store,
            &group(
                3,
                vec![refer(3, c.places[0].1, 1, 2), refer(4, d.places[0].1, 10, 20), refer(5, d.places[0].1, 0, 50)],
            ),
        );
        // References of references, in the group that removes what they refer to.
        let g = Group {
            remove_records: vec![c.lsn, d.lsn, e.lsn, 999],
            ..group(
                4,
                vec![refer(6, e.places[0].1, 1, 1), refer(7, e.places[1].1, 5, 3), refer(8, e.places[2].1, 0, 50)],
            )
        };
        let f = put(&mut store, &g);
        for _ in 0..2 {
            let reader = store.reader();
            let at = |i: usize| f.places[i].1;
            assert_same(&Span { batch: small.clone(), from: 2, count: 1, step: 1 }, &reader.read(&at(0)).unwrap());
            assert_same(&Span { batch: large.clone(), from: 15, count: 3, step: 1 }, &reader.read(&at(1)).unwrap());
            assert_eq!(at(1).body.map(|b| b.file), d.places[0].1.body.map(|b| b.file), "{name}: not rewritten");
            assert!(reader.read(&c.places[0].1).is_err(), "{name}: removed");
            // where a part of a frame lies is told by the record alone; of a whole frame nobody asks it
            assert!(reader.read(&e.places[1].1).is_err(), "{name}: removed");
            assert_reads(&reader, &e.places[2].1, &large);
            assert_reads(&reader, &at(2), &large);
            drop((store, reader));
            let told;
            (store, told) = open(bed);
            let runs: Vec<_> = told.runs().into_iter().map(|r| (r.0, r.2, r.3, r.4)).collect();
            let expected = [
                (vec![target(9, 6)], 1, 30, at(0)),
                (vec![target(9, 7)], 3, 6000, at(1)),
                (vec![target(9, 8)], 50, 100_000, at(2)),
            ];
            assert_eq!(runs, expected, "{name}");
        }
    });
}

#[test]
fn removed_records_and_files_stay_away() {
    on_all(|name, bed| {
        let (mut store, _) = open(bed);
        let large = batch(3, &[1000; 100]);
        let mut all = vec![];
        for i in 0..10 {
            all.push(put(&mut store, &group(i, vec![enqueue(i, vec![target(1, i * 100 + 1)], &large)])));
        }
        let file = |i: usize| all[i].places[0].1.body.unwrap().file;
        assert!(file(9) > file(0), "{name}: files roll over");
        let before = store.usage().body_bytes;
        let gone: Vec<usize> = (0..10).filter(|i| file(*i) != file(5)).collect();
        let mut files: Vec<u64> = gone.iter().map(|i| file(*i)).collect();
        files.dedup();
        // The last one is the active file.
        assert!(files.contains(&file(9)) && files.len() >= 2);
        let records: Vec<u64> = gone.iter().map(|i| all[*i].lsn).collect();
        let c = put(&mut store, &Group { remove_records: records, remove_files: files, ..group(20, vec![]) });
        assert_eq!(c.lsn, 0);
        assert!(store.usage().body_bytes < before, "{name}");
        let new = put(&mut store, &group(21, vec![enqueue(50, vec![target(1, 5000)], &large)]));
        assert!(new.places[0].1.body.unwrap().file > file(9), "{name}: numbers are not used again");
        assert!(new.lsn > all[9].lsn);
        for _ in 0..2 {
            drop(store);
            let told;
            (store, told) = open(bed);
            let lsns: Vec<u64> = told.runs().iter().map(|r| r.4.lsn).collect();
            let kept: Vec<u64> = (0..10).filter(|i| !gone.contains(i)).map(|i| all[i].lsn).chain([new.lsn]).collect();
            assert_eq!(lsns, kept, "{name}");
            assert!(told.orphans.is_empty(), "{name}");
            for r in told.runs() {
                assert_reads(&store.reader(), &r.4, &large);
            }
        }
        let next = put(&mut store, &group(22, vec![enqueue(51, vec![target(1, 6000)], &large)]));
        assert!(next.lsn > new.lsn && next.places[0].1.body.unwrap().file > new.places[0].1.body.unwrap().file);
    });
}

#[test]
fn a_record_may_name_a_file_that_was_removed() {
    on_all(|name, bed| {
        let (mut store, _) = open(bed);
        let large: Vec<_> = (0..3).map(|i| batch(i, &[1000; 200])).collect();
        let ops = |n: u64| {
            let op = |(i, b)| enqueue(n * 3 + i, vec![target(1, (n * 3 + i) * 200 + 1)], b);
            (0..).zip(&large).map(op).collect()
        };
        let a = put(&mut store, &group(1, ops(0)));
        put(&mut store, &group(2, ops(1)));
        let file = |i: usize| a.places[i].1.body.unwrap().file;
        assert!(file(0) < file(2), "{name}: the group lies in more than one file");
        put(&mut store, &Group { remove_files: vec![file(0)], ..group(3, vec![]) });
        for _ in 0..2 {
            assert!(store.reader().read(&a.places[0].1).is_err(), "{name}");
            assert_reads(&store.reader(), &a.places[2].1, &large[2]);
            drop(store);
            let told;
            (store, told) = open(bed);
            assert_eq!(told.runs().len(), 6, "{name}: replayed as it was written");
            assert!(told.orphans.is_empty(), "{name}");
        }
        put(&mut store, &Group { remove_records: vec![a.lsn], ..group(4, vec![]) });
        drop(store);
        let (_store, told) = open(bed);
        assert_eq!(told.runs().len(), 3, "{name}");
    });
}

#[test]
fn files_that_no_record_names_are_orphans() {
    on_all(|name, bed| {
        let (mut store, _) = open(bed);
        let large = batch(3, &[1000; 100]);
        let a = put(&mut store, &group(1, vec![enqueue(1, vec![target(1, 1)], &large)]));
        put(&mut store, &Group { remove_records: vec![a.lsn], ..group(2, vec![]) });
        let file = a.places[0].1.body.unwrap().file;
        drop(store);
        let (mut store, told) = open(bed);
        assert_eq!(told.orphans, [file], "{name}");
        put(&mut store, &Group { remove_files: told.orphans, ..group(3, vec![]) });
        assert_eq!(store.usage().body_bytes, 0, "{name}");
        drop(store);
        let (_store, told) = open(bed);
        assert!(told.orphans.is_empty(), "{name}");
    });
}

#[test]
fn a_file_written_by_untold_groups_is_kept() {
    on_all(|name, bed| {
        let (mut store, _) = open(bed);
        let large = batch(3, &[1000; 50]);
        let a = put(&mut store, &group(1, vec![enqueue(1, vec![target(1, 1)], &large)]));
        let file = a.places[0].1.body.unwrap().file;
        store.commit(&group(2, vec![enqueue(2, vec![target(1, 51)], &large)])).unwrap();
        store.commit(&Group { remove_records: vec![a.lsn], remove_files: vec![file], ..group(3, vec![]) }).unwrap();
        let told = store.sync().unwrap();
        assert_eq!(told.iter().map(|c| c.upto.0).collect::<Vec<_>>(), [2, 3]);
        let place = told[0].places[0].1;
        assert_eq!(place.body.unwrap().file, file);
        assert_reads(&store.reader(), &place, &large);
        drop(store);
        let (store, _) = open(bed);
        assert_reads(&store.reader(), &place, &large);
        let _ = name;
    });
}

#[test]
fn sizes_at_the_edges() {
    on_all(|name, bed| {
        let (mut store, _) = open(bed);
        let mut written = vec![];
        let mut seq = 1;
        // Around the bound of inline groups, a run larger than a body file, one message above it, none with a body.
        let cases: Vec<Vec<usize>> = vec![
            vec![0; 3000],
            vec![32_600],
            vec![32_700],
            vec![32_768],
            vec![40_000, 1],
            vec![300_000],
            vec![700_000, 3],
            vec![1; 20_000],
        ];
        for (i, sizes) in cases.iter().enumerate() {
            let b = batch(i as u64, sizes);
            let c = put(&mut store, &group(i as u64, vec![enqueue(i as u64, vec![target(1, seq)], &b)]));
            seq += u64::from(b.len());
            written.push((c.places[0].1, b));
        }
        // Many runs of one message in one group; many targets; long lists of ranges.
        let small: Vec<_> = (0..3000).map(|i| batch(i, &[i as usize % 50])).collect();
        let ops = small.iter().enumerate().map(|(i, b)| enqueue(100 + i as u64, vec![target(2, 1 + i as u64)], b));
        let c = put(&mut store, &group(50, ops.collect()));
        written.extend(c.places.iter().zip(&small).map(|(p, b)| (p.1, b.clone())));
        let wide = batch(7, &[5]);
        let targets: Vec<_> = (0..10_000).map(|q| target(u64::MAX - q, u64::MAX)).collect();
        let c = put(&mut store, &group(51, vec![enqueue(5000, targets.clone(), &wide)]));
        written.push((c.places[0].1, wide));
        let ranges: Vec<_> = (0..50_000).map(|i| SeqRange { first: i * 7, count: 1, step: 1 }).collect();
        put(
            &mut store,
            &group(
                52,
                vec![
                    StoreOp::Settled { queue: QueueId(1), ranges: ranges.clone() },
                    StoreOp::Purge { queue: QueueId(1), upto: 9, except: ranges.clone() },
                ],
            ),
        );
        for _ in 0..2 {
            let reader = store.reader();
            for (place, b) in &written {
                assert_reads(&reader, place, b);
            }
            drop((store, reader));
            let told;
            (store, told) = open(bed);
            let wide_targets: Vec<_> =
                told.runs().into_iter().filter(|r| r.0[0].first_seq == u64::MAX).flat_map(|r| r.0).collect();
            assert_eq!(wide_targets, targets, "{name}");
            let settled: Vec<_> = told
                .items
                .iter()
                .filter_map(|i| match i {
                    Recovered::Settled { ranges, .. } => Some(ranges.clone()),
                    _ => None,
                })
                .flatten()
                .collect();
            assert_eq!(settled, ranges, "{name}");
            assert!(
                told.items.iter().any(|i| matches!(i, Recovered::Purge { except, upto: 9, .. } if *except == ranges)),
                "{name}: one purge, put together again"
            );
        }
    });
}

#[test]
fn groups_are_reported_in_order_and_only_once() {
    on_all(|name, bed| {
        let (mut store, _) = open(bed);
        let b = batch(1, &[10]);
        let lsn = store.commit(&group(1, vec![enqueue(1, vec![target(1, 1)], &b)])).unwrap();
        assert_eq!(store.commit(&group(2, vec![])).unwrap(), 0);
        store.commit(&group(3, vec![StoreOp::Put(parameter("p", "1"))])).unwrap();
        let told: Vec<_> = store.sync().unwrap().into_iter().map(|c| (c.upto.0, c.lsn)).collect();
        assert_eq!(told, [(1, lsn), (2, 0), (3, 0)], "{name}");
        assert!(store.sync().unwrap().is_empty(), "{name}");
    });
}

#[test]
fn misuse_is_refused() {
    on_all(|_, bed| {
        let mut store = bed.open(config()).unwrap();
        assert!(matches!(store.commit(&group(1, vec![])), Err(StoreError::Fatal(_))));
        let (mut store, _) = {
            drop(store);
            open(bed)
        };
        assert!(store.recover(&mut |_| {}).is_err());
    });
}

#[test]
fn a_second_process_is_refused_in_words() {
    let bed = on_disk();
    let (store, _) = open(&bed);
    let error = bed.open(StoreConfig::default()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("in use by another process"));
    // A reader keeps the folder locked, too.
    let reader = store.reader();
    drop(store);
    assert!(matches!(bed.open(config()), Err(StoreError::Locked { .. })));
    drop(reader);
    open(&bed);
}

#[test]
fn runs_of_the_same_messages_share_a_body() {
    on_all(|name, bed| {
        let (mut store, _) = open(bed);
        let (large, alike) = (batch(1, &[50_000; 4]), batch(1, &[50_000; 4]));
        let run = |id, queue, batch: &Arc<Batch>, (from, count), deadline| {
            let meta = RunMeta { deadline: UnixMillis(deadline), ..RunMeta::default() };
            let span = Span { batch: batch.clone(), from, count, step: 1 };
            StoreOp::Enqueue(Enqueue {
                id: EnqueueId(id),
                targets: vec![target(queue, 1)],
                meta,
                span,
                more: Vec::new(),
            })
        };
        let ops = vec![
            run(1, 1, &large, (0, 4), 7),
            run(2, 2, &large, (0, 4), 8),
            run(3, 3, &large, (0, 3), 9),
            run(4, 4, &alike, (0, 3), 10),
        ];
        let committed = put(&mut store, &group(1, ops));
        let bodies: Vec<_> = committed.places.iter().map(|(_, place)| place.body.unwrap()).collect();
        assert_eq!(bodies[0], bodies[1], "{name}: nothing but the deadline differs");
        assert!(bodies[1] != bodies[2] && bodies[2] != bodies[3], "{name}: part of a batch, another batch");
        store.close().unwrap();
        let (store, told) = open(bed);
        assert_eq!(told.runs().len(), 4, "{name}");
        for (_, place) in &committed.places[..2] {
            assert_reads(&store.reader(), place, &large);
        }
    });
}

/// Runs that stand in one part with others are found in one walk through it, whichever of them are wanted and in whatever order.
#[test]
fn what_is_read_ahead_is_what_is_read_alone() {
    on_all(|name, bed| {
        let (mut store, _) = open(bed);
        let mut places = Vec::new();
        // inline, with ops of other kinds between
        let small: Vec<_> = (0..6).map(|n| batch(n, &vec![20; n as usize + 1])).collect();
        let settled = || StoreOp::Settled { queue: QueueId(1), ranges: vec![SeqRange::dense(900, 1)] };
        let ops = small.iter().enumerate().flat_map(|(n, b)| {
            let n = n as u64;
            [enqueue(n + 1, vec![target(1, n * 10 + 1)], b), settled()]
        });
        places.extend(put(&mut store, &group(1, ops.collect())).places);
        // with a body of their own, and parts of it
        let large = batch(9, &[3000; 40]);
        places.extend(put(&mut store, &group(2, vec![enqueue(7, vec![target(2, 1)], &large)])).places);
        let frame = places[6].1;
        let part = |n: u64| StoreOp::Refer {
            id: EnqueueId(n),
            targets: vec![target(3, n * 10)],
            meta: RunMeta::default(),
            place: frame,
            from: n as u32,
            count: 5,
        };
        let gone = put(&mut store, &group(3, vec![part(8), part(9)]));
        places.extend(put(&mut store, &group(4, (10..16).flat_map(|n| [settled(), part(n)]).collect())).places);
        put(&mut store, &Group { remove_records: vec![gone.lsn], ..group(5, vec![]) });

        let reader = store.reader();
        let alone: Vec<_> = places.iter().map(|(_, place)| reader.read(place).unwrap()).collect();
        for wanted in 1..1u32 << places.len() {
            // a stride that visits all of them, another for each choice
            let order = (0..places.len()).map(|k| (k * 5 + wanted as usize) % places.len());
            let chosen: Vec<usize> = order.filter(|k| wanted >> k & 1 == 1).collect();
            if wanted % 11 > 1 && chosen.len() > 2 {
                continue;
            }
            let lost = &gone.places[wanted as usize % 2].1;
            let ahead = reader.ahead(chosen.iter().map(|k| &places[*k].1).chain([lost]));
            for k in &chosen {
                assert_same(&Span::whole(alone[*k].clone()), &ahead.read(&places[*k].1).unwrap());
            }
            assert!(ahead.read(lost).is_err(), "{name}: the record is gone");
            // what nobody announced is read all the same
            assert_same(&Span::whole(alone[0].clone()), &ahead.read(&places[0].1).unwrap());
        }
    });
}
