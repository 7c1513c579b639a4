//! Messages read back from where the log says they are.

use crate::ahead::Ahead;
use crate::body;
use crate::error::StoreError;
use crate::key;
use crate::medium::View;
use crate::record::{self, At, LogOp, SLICED};
use crate::run;
use hornpipe_types::message::Batch;
use hornpipe_types::op::Place;
use std::collections::BTreeMap;
use std::sync::Arc;

fn record_error(view: &dyn View, place: &Place, reason: &str) -> StoreError {
    let (map, op) = (view.map_name(), place.index & !SLICED);
    StoreError::damaged(format!("log record {} in {map}, part {}, op {op}", place.lsn, place.part), reason)
}

/// Hands the ops of a place's part of a record to `then`.
fn with_part<T>(
    view: &dyn View,
    place: &Place,
    then: impl FnOnce(&[u8]) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let key = key::log(place.lsn, place.part);
    let value = view.get(&key)?.ok_or_else(|| record_error(view, place, "it is missing"))?;
    let (_, ops) = record::open(&key, &value).map_err(|e| match e {
        record::BadPart::Version(found) => {
            StoreError::Unsupported { what: "a log record".to_owned(), found, known: record::VERSION }
        }
        record::BadPart::Wrong(reason) => record_error(view, place, reason),
    })?;
    then(ops)
}

/// What the record of a run tells, beside where its body lies.
#[derive(Debug, Clone)]
enum Told {
    /// Which messages of its frame it is: first, count.
    Slice(u32, u32),
    /// All of it.
    Inline(Arc<Batch>),
    /// It is a whole frame.
    Frame,
}

fn told(view: &dyn View, place: &Place, op: Option<LogOp<'_>>) -> Result<Told, StoreError> {
    let Some(LogOp::Run(run)) = op else { return Err(record_error(view, place, "there is no run")) };
    match run.at {
        At::Slice(_, from) => Ok(Told::Slice(from, run.count)),
        At::Body(_) => Ok(Told::Frame),
        At::Inline(bytes) => {
            let batch = run::decode(bytes, None).map_err(|reason| record_error(view, place, reason))?;
            if batch.len() != run.count {
                return Err(record_error(view, place, "it has another number of messages than it says"));
            }
            Ok(Told::Inline(batch))
        }
    }
}

fn ask(view: &dyn View, place: &Place) -> Result<Told, StoreError> {
    with_part(view, place, |ops| told(view, place, record::nth(ops, place.index & !SLICED)))
}

/// Which messages of its frame the run at a place is: first, count.
pub(crate) fn slice(view: &dyn View, place: &Place) -> Result<(u32, u32), StoreError> {
    slice_of(view, place, ask(view, place)?)
}

fn slice_of(view: &dyn View, place: &Place, told: Told) -> Result<(u32, u32), StoreError> {
    match told {
        Told::Slice(from, count) => Ok((from, count)),
        _ => Err(record_error(view, place, "it is not part of a longer run")),
    }
}

/// Whether the record must be asked for the messages of a place.
fn needs_record(place: &Place) -> bool {
    place.body.is_none() || place.index & SLICED != 0
}

/// All messages of the run at a place.
pub(crate) fn read(view: &dyn View, place: &Place) -> Result<Arc<Batch>, StoreError> {
    read_told(view, place, || ask(view, place))
}

fn read_told(
    view: &dyn View,
    place: &Place,
    ask: impl FnOnce() -> Result<Told, StoreError>,
) -> Result<Arc<Batch>, StoreError> {
    match &place.body {
        Some(body) if !needs_record(place) => body::read(view, body, None),
        Some(body) => body::read(view, body, Some(slice_of(view, place, ask()?)?)),
        None => match ask()? {
            Told::Inline(batch) => Ok(batch),
            _ => Err(record_error(view, place, "its messages are not in it")),
        },
    }
}

/// Reads messages back.
#[derive(Debug, Clone)]
pub struct Reader {
    view: Arc<dyn View>,
}

impl Reader {
    pub(crate) fn on(view: Arc<dyn View>) -> Self {
        Self { view }
    }
    /// All messages of the run at a place. Damage is an error, never wrong bytes. Errors are not final: other runs may be
    /// sound.
    pub fn read(&self, place: &Place) -> Result<Arc<Batch>, StoreError> {
        read(&*self.view, place)
    }
    /// Makes ready for reading all of these, wherever they lie, with fewer reads than there are runs.
    pub fn ahead<'a>(&self, places: impl IntoIterator<Item = &'a Place>) -> ReadAhead<'_> {
        let places: Vec<&Place> = places.into_iter().collect();
        let view = Ahead::of(&*self.view, places.iter().filter_map(|place| place.body), body::FRAME as u64);
        let told = ask_all(&*self.view, places.into_iter().filter(|place| needs_record(place)));
        ReadAhead { view, told }
    }
}

/// What the records tell of the runs that stand in one part with others: each part is opened, and gone through, once. What
/// can't be told now is asked for again, and its error told, when it is wanted.
fn ask_all<'a>(view: &dyn View, places: impl Iterator<Item = &'a Place>) -> BTreeMap<Place, Told> {
    let mut wanted: Vec<&Place> = places.collect();
    wanted.sort_unstable_by_key(|place| (place.lsn, place.part, place.index & !SLICED));
    wanted.dedup();
    let mut all = BTreeMap::new();
    for part in wanted.chunk_by(|a, b| (a.lsn, a.part) == (b.lsn, b.part)) {
        let [first, _, ..] = part else { continue };
        // the part is let go before the next one is opened: it is much longer than most runs
        // an error is told to who asks for the run
        let _ = with_part(view, first, |ops| {
            let ops = record::ops_at(ops, part.iter().map(|place| place.index & !SLICED));
            for (place, op) in part.iter().zip(ops) {
                if let Ok(told) = told(view, place, Some(op)) {
                    all.insert(**place, told);
                }
            }
            Ok(())
        });
    }
    all
}

/// See [`Reader::ahead`].
#[derive(Debug)]
pub struct ReadAhead<'a> {
    view: Ahead<'a>,
    told: BTreeMap<Place, Told>,
}

impl ReadAhead<'_> {
    /// The same as [`Reader::read`].
    pub fn read(&self, place: &Place) -> Result<Arc<Batch>, StoreError> {
        read_told(&self.view, place, || match self.told.get(place) {
            Some(told) => Ok(told.clone()),
            None => ask(&self.view, place),
        })
    }
}
