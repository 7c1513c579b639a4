//! A run of messages as octets: a table of what is known of each, then their frames as received.
//!
//! ```text
//! u32 table length, u32 crc32c of the table
//! table:  routes (count, each length + octets: exchange and routing key as short strings, then, where there are any, an
//!         octet of marks and hidden routing keys as short strings), message count, then until all are told:
//!         repeat, route, flags, priority, body octets, frame octets    (messages alike in all of these share one entry)
//! frames
//! ```
//! Lengths and counts are varints; flags and priority are octets. The table has a crc of its own so that it can be read
//! alone.

use crate::wire::{Input, put_varint};
use hornpipe_types::Map;
use hornpipe_types::copy::pieces;
use hornpipe_types::message::{Batch, BatchBuilder, MessageMeta, Span, is_full_route};
use std::sync::Arc;

/// Octets before the table.
pub(crate) const PREFIX: usize = 8;

/// Appends the table of some spans, told as one run; returns how many octets their frames take.
pub(crate) fn put_table<'a>(out: &mut Vec<u8>, spans: impl Iterator<Item = &'a Span> + Clone) -> usize {
    // A batch may have routes that its span does not use, and another one may have the same: number those used in order of
    // appearance, and note which begins wherever a message has another route than the one before.
    let (mut routes, mut numbers): (Vec<&[u8]>, Map<&[u8], u16>) = (Vec::new(), Map::default());
    let mut changes: Vec<u16> = Vec::new();
    for span in spans.clone() {
        let mut last = None;
        for i in span.indexes() {
            let route = span.batch.meta(i).route;
            if last == Some(route) {
                continue;
            }
            last = Some(route);
            let bytes = span.batch.full_route(i);
            // a few are found faster by looking at each
            let known = match routes.len() {
                0..=8 => routes.iter().position(|r| *r == bytes).map(|k| k as u16),
                _ => numbers.get(bytes).copied(),
            };
            changes.push(known.unwrap_or_else(|| {
                let number = routes.len() as u16;
                routes.push(bytes);
                if routes.len() == 9 {
                    numbers.extend(routes.iter().zip(0..).map(|(r, n)| (*r, n)));
                } else if routes.len() > 9 {
                    numbers.insert(bytes, number);
                }
                number
            }));
        }
    }
    put_varint(out, routes.len() as u64);
    for bytes in routes {
        put_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
    let count: u64 = spans.clone().map(|s| u64::from(s.count)).sum();
    put_varint(out, count);
    let mut frames = 0;
    let mut entry: Option<(u64, MessageMeta)> = None;
    let mut put = |(repeat, m): (u64, MessageMeta)| {
        put_varint(out, repeat);
        put_varint(out, u64::from(m.route));
        out.push(m.flags);
        out.push(m.priority);
        put_varint(out, u64::from(m.body));
        put_varint(out, u64::from(m.len));
    };
    let mut changes = changes.into_iter();
    let mut number = 0;
    for span in spans {
        let mut last = None;
        for i in span.indexes() {
            let theirs = span.batch.meta(i);
            if last != Some(theirs.route) {
                last = Some(theirs.route);
                number = changes.next().unwrap_or(number);
            }
            let m = MessageMeta { offset: 0, route: number, ..theirs };
            frames += m.len as usize;
            entry = Some(match entry {
                Some((repeat, same)) if same == m => (repeat + 1, same),
                Some(other) => {
                    put(other);
                    (1, m)
                }
                None => (1, m),
            });
        }
    }
    if let Some(entry) = entry {
        put(entry);
    }
    frames
}

/// Appends the whole run; `table` is what [`put_table`] made of the same spans.
pub(crate) fn put_run<'a>(out: &mut Vec<u8>, table: &[u8], spans: impl Iterator<Item = &'a Span>) {
    out.extend_from_slice(&(table.len() as u32).to_be_bytes());
    out.extend_from_slice(&crc32c::crc32c(table).to_be_bytes());
    out.extend_from_slice(table);
    for span in spans {
        for i in span.indexes() {
            pieces(span.batch.frames(i)).for_each(|piece| out.extend_from_slice(piece));
        }
    }
}

/// Table length and its crc from the first [`PREFIX`] octets of a run.
pub(crate) fn prefix(run: &[u8]) -> Option<(usize, u32)> {
    let mut r = Input(run);
    Some((r.u32()? as usize, r.u32()?))
}

/// A decoded table.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    routes: Vec<&'a [u8]>,
    entries: Vec<(u32, MessageMeta)>,
    pub(crate) count: u32,
    frames: usize,
}

impl<'a> Table<'a> {
    /// Reads a table whose crc was checked, or will be.
    pub(crate) fn decode(table: &'a [u8]) -> Option<Self> {
        let mut r = Input(table);
        let n = r.varint()? as usize;
        let mut routes = Vec::with_capacity(n.min(table.len()));
        for _ in 0..n {
            let len = r.varint()? as usize;
            let route = r.bytes(len)?;
            // The accessors of Batch rely on a well-formed one.
            if !is_full_route(route) {
                return None;
            }
            routes.push(route);
        }
        let count = r.varint32()?;
        let (mut entries, mut told, mut frames) = (Vec::new(), 0u32, 0usize);
        while told < count {
            let repeat = r.varint32()?;
            let route = u16::try_from(r.varint()?).ok()?;
            let (flags, priority) = (r.u8()?, r.u8()?);
            let (body, len) = (r.varint32()?, r.varint32()?);
            told = told.checked_add(repeat)?;
            if repeat == 0 || told > count || usize::from(route) >= routes.len() {
                return None;
            }
            frames = frames.checked_add((len as usize).checked_mul(repeat as usize)?)?;
            entries.push((repeat, MessageMeta { offset: 0, len, body, route, flags, priority }));
        }
        r.is_empty().then_some(Self { routes, entries, count, frames })
    }
    fn metas(&self) -> impl Iterator<Item = &MessageMeta> {
        self.entries.iter().flat_map(|(n, m)| std::iter::repeat_n(m, *n as usize))
    }
    /// Sum of body octets of `count` messages from `from` on.
    pub(crate) fn body_bytes(&self, from: u32, count: u32) -> u64 {
        self.metas().skip(from as usize).take(count as usize).map(|m| u64::from(m.body)).sum()
    }
}

/// Rebuilds messages `from..from + count` of a run (all when `slice` is `None`); `Err` says what is wrong with the octets.
pub(crate) fn decode(run: &[u8], slice: Option<(u32, u32)>) -> Result<Arc<Batch>, &'static str> {
    let (len, crc) = prefix(run).ok_or("the run ends inside its prefix")?;
    let table = run.get(PREFIX..PREFIX + len).ok_or("the run ends inside its table")?;
    if crc32c::crc32c(table) != crc {
        return Err("the table's checksum does not match");
    }
    let frames = &run[PREFIX + len..];
    let table = Table::decode(table).ok_or("the table makes no sense")?;
    if table.frames != frames.len() {
        return Err("the table does not fit the frames");
    }
    let (from, count) = slice.unwrap_or((0, table.count));
    if from.checked_add(count).is_none_or(|end| end > table.count) {
        return Err("the run has fewer messages than the record says");
    }
    let mut b = BatchBuilder::with_capacity(frames.len() + table.routes.iter().map(|r| r.len()).sum::<usize>());
    for route in &table.routes {
        b.push_full_route(route);
    }
    let mut rest = frames;
    for (i, m) in table.metas().enumerate() {
        let (message, tail) = rest.split_at(m.len as usize);
        rest = tail;
        if i >= from as usize && i < (from + count) as usize {
            // The header frame must lie within: Batch reads its size without asking.
            let size = Input(message.get(3..).unwrap_or(&[])).u32().ok_or("a message without a header frame")?;
            if message.len() < size as usize + 8 {
                return Err("a header frame longer than its message");
            }
            b.push_frames(message, *m);
        }
    }
    Ok(b.finish())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A batch of messages given as (route number, body octets, priority).
    pub(crate) fn batch(messages: &[(u16, usize, u8)]) -> Arc<Batch> {
        let mut b = BatchBuilder::default();
        let routes = messages.iter().map(|m| m.0 + 1).max().unwrap_or(0);
        for r in 0..routes {
            let hidden = ["hidden.a", "hidden.b"];
            b.push_route_beside("exchange", &format!("key.{r}"), r % 7 == 6, &hidden[..usize::from(r % 5 / 2)]);
        }
        for (i, &(route, size, priority)) in messages.iter().enumerate() {
            let header = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 2];
            let body: Vec<u8> = (0..size).map(|k| (k * 7 + i) as u8).collect();
            let meta = MessageMeta { route, flags: 1, priority, ..MessageMeta::default() };
            b.push_message(&header, [&body[..]], meta, 4096);
        }
        b.finish()
    }

    pub(crate) fn assert_same(span: &Span, back: &Batch) {
        assert_eq!(span.count, back.len());
        for (k, i) in span.indexes().enumerate() {
            let k = k as u32;
            assert_eq!(span.batch.frames(i), back.frames(k));
            assert_eq!(span.batch.full_route(i), back.full_route(k));
            let (a, b) = (span.batch.meta(i), back.meta(k));
            assert_eq!((a.len, a.body, a.flags, a.priority), (b.len, b.body, b.flags, b.priority));
        }
    }

    pub(crate) fn encode(span: &Span) -> Vec<u8> {
        let (mut table, mut run) = (vec![], vec![]);
        let frames = put_table(&mut table, [span].into_iter());
        // cut in two it is the same run
        let cut = span.count / 2;
        if cut > 0 {
            let back = Span { from: span.from + cut * span.step, count: span.count - cut, ..span.clone() };
            let halves = [Span { count: cut, ..span.clone() }, back];
            let (mut again, mut same) = (Vec::new(), Vec::new());
            assert_eq!(put_table(&mut again, halves.iter()), frames);
            put_run(&mut same, &again, halves.iter());
            put_run(&mut run, &table, [span].into_iter());
            assert!(same == std::mem::take(&mut run));
        }
        put_run(&mut run, &table, [span].into_iter());
        assert_eq!(run.len(), PREFIX + table.len() + frames);
        run
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn a_run_reads_back(
            messages in prop::collection::vec((0u16..20, prop_oneof![0usize..40, Just(100), 4000usize..9000], 0u8..3), 1..60),
            a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>(), step in 1u32..4,
        ) {
            let batch = batch(&messages);
            let from = a.index(messages.len()) as u32;
            let count = 1 + b.index(((messages.len() as u32 - from - 1) / step + 1) as usize) as u32;
            let span = Span { batch, from, count, step };
            let run = encode(&span);
            let back = decode(&run, None).unwrap();
            assert_same(&span, &back);
            let half = Span { from: from + step * (count / 2), count: count - count / 2, ..span.clone() };
            assert_same(&half, &decode(&run, Some((count / 2, count - count / 2))).unwrap());
            let (len, _) = prefix(&run).unwrap();
            let table = Table::decode(&run[PREFIX..PREFIX + len]).unwrap();
            prop_assert_eq!(table.body_bytes(count / 2, count - count / 2), half.body_bytes());
            for cut in [0, 5, PREFIX + 1, run.len() - 1] {
                prop_assert!(decode(&run[..cut], None).is_err());
            }
        }
        #[test]
        fn garbage_is_refused_without_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Table::decode(&bytes);
            if bytes.len() > PREFIX {
                // With a right checksum, so that the table itself is read.
                let crc = crc32c::crc32c(&bytes[PREFIX..]).to_be_bytes();
                let len = ((bytes.len() - PREFIX) as u32).to_be_bytes();
                bytes[..4].copy_from_slice(&len);
                bytes[4..8].copy_from_slice(&crc);
            }
            let _ = decode(&bytes, None);
        }
    }

    #[test]
    fn messages_alike_share_an_entry() {
        let span = Span::whole(batch(&[(0, 100, 0); 256]));
        let mut table = vec![];
        put_table(&mut table, [&span].into_iter());
        assert!(table.len() < 40, "{}", table.len());
    }
}
