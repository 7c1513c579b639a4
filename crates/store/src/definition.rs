//! Definitions in the map: JSON, cut into values of at most 48 KiB, each with version, part count and checksum.

use crate::error::StoreError;
use crate::key;
use crate::medium::{Batch, View};
use crate::record::Live;
use crate::wire::Input;
use hornpipe_types::definition::{Definition, DefinitionKey};
use serde::Deserialize;

const VERSION: u8 = 2;
const FIRST_VERSION: u8 = 1;
/// u8 version, u16 parts, u32 crc32c of key, parts and JSON.
const HEADER: usize = 7;
const CHUNK: usize = 48 << 10;

fn part_key(prefix: &[u8], part: u16) -> Vec<u8> {
    let mut k = prefix.to_vec();
    k.extend_from_slice(&part.to_be_bytes());
    k
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(key), &value[1..3]), &value[HEADER..])
}

/// What a reader must know. Versions before took the grave of a queue for a queue that anybody may use.
fn version_of(definition: &Definition) -> u8 {
    match definition {
        Definition::Queue(d) if d.grave.is_some() => VERSION,
        _ => FIRST_VERSION,
    }
}

/// What a part counts as in the sum of all.
fn hash(key: &[u8], value: &[u8]) -> u64 {
    u64::from(crc32c::crc32c(key)) << 32 | u64::from(crc32c::crc32c(value))
}

/// Adds the change of one definition to a batch (`None` removes it). Parts of an older, longer one are removed. `all` becomes
/// what is there with it. Returns how many octets come and how many go.
pub(crate) fn put(
    batch: &mut Batch,
    view: &dyn View,
    key: &DefinitionKey,
    definition: Option<&Definition>,
    all: &mut Live,
) -> Result<(u64, u64), StoreError> {
    let prefix = key::definition(key);
    let (mut old_parts, mut old_bytes) = (0, 0);
    loop {
        let k = part_key(&prefix, old_parts);
        let Some(value) = view.get(&k)? else { break };
        all.remove(hash(&k, &value));
        old_bytes += (k.len() + value.len()) as u64;
        old_parts += 1;
        if old_parts >= Input(value.get(1..).unwrap_or(&[])).u16().unwrap_or(1) {
            break;
        }
    }
    let (mut parts, mut bytes) = (0, 0);
    if let Some(definition) = definition {
        let json =
            serde_json::to_vec(definition).map_err(|e| StoreError::Fatal(format!("{key:?} has no JSON form: {e}")))?;
        let n = json.len().div_ceil(CHUNK);
        parts = u16::try_from(n).map_err(|_| StoreError::Fatal(format!("{key:?} is too long to be stored")))?;
        for (i, chunk) in json.chunks(CHUNK).enumerate() {
            let k = part_key(&prefix, i as u16);
            let mut v = Vec::with_capacity(HEADER + chunk.len());
            v.push(version_of(definition));
            v.extend_from_slice(&parts.to_be_bytes());
            v.extend_from_slice(&[0; 4]);
            v.extend_from_slice(chunk);
            let crc = checksum(&k, &v).to_be_bytes();
            v[3..HEADER].copy_from_slice(&crc);
            all.add(hash(&k, &v));
            bytes += (k.len() + v.len()) as u64;
            batch.push((k, Some(v)));
        }
    }
    batch.extend((parts..old_parts).map(|p| (part_key(&prefix, p), None)));
    Ok((bytes, old_bytes))
}

/// Told of what can't be read: its keys, what is wrong. An error ends the reading.
pub(crate) type Bad<'a> = dyn FnMut(Vec<Vec<u8>>, StoreError) -> Result<(), StoreError> + 'a;

/// The parts of one definition read so far.
#[derive(Debug)]
struct Collected {
    prefix: Vec<u8>,
    parts: u16,
    seen: u16,
    hashes: Vec<u64>,
    json: Vec<u8>,
}

/// Reads all definitions; returns how many octets they take, and what is there, without what can't be read.
pub(crate) fn scan(
    view: &dyn View,
    visit: &mut dyn FnMut(Definition),
    bad: &mut Bad<'_>,
) -> Result<(u64, Live), StoreError> {
    let mut open: Option<Collected> = None;
    let (mut bytes, mut all) = (0, Live::default());
    view.scan(&[key::DEFINITIONS], &[key::LOG], &mut |k, v| {
        bytes += (k.len() + v.len()) as u64;
        let mut reject = |prefix: &[u8], reason: &str| {
            bad(vec![k.to_vec()], damaged(prefix, reason))?;
            Ok(true)
        };
        let Some((prefix, part)) = k.split_last_chunk::<2>() else {
            return reject(k, "its key is too short");
        };
        let mut r = Input(v);
        let (Some(version), Some(parts), Some(crc)) = (r.u8(), r.u16(), r.u32()) else {
            return reject(prefix, "its value is too short");
        };
        if checksum(k, v) != crc {
            return reject(prefix, "its checksum does not match");
        }
        if !(FIRST_VERSION..=VERSION).contains(&version) {
            return Err(StoreError::Unsupported { what: "a definition".to_owned(), found: version, known: VERSION });
        }
        let part = u16::from_be_bytes(*part);
        match &mut open {
            Some(o) if o.prefix == prefix && o.seen == part && o.parts == parts => {
                o.seen += 1;
                o.hashes.push(hash(k, v));
                o.json.extend_from_slice(r.0);
            }
            _ if part == 0 => {
                let (prefix, hashes) = (prefix.to_vec(), vec![hash(k, v)]);
                let next = Collected { prefix, parts, seen: 1, hashes, json: r.0.to_vec() };
                finish(open.replace(next), &mut all, visit, bad)?;
            }
            _ => return reject(prefix, "a part without the one before it"),
        }
        Ok(true)
    })?;
    finish(open, &mut all, visit, bad)?;
    Ok((bytes, all))
}

fn finish(
    collected: Option<Collected>,
    all: &mut Live,
    visit: &mut dyn FnMut(Definition),
    bad: &mut Bad<'_>,
) -> Result<(), StoreError> {
    let Some(Collected { prefix, parts, seen, hashes, json }) = collected else { return Ok(()) };
    let reason = if parts != seen {
        format!("{seen} of its {parts} parts are there")
    } else {
        let mut de = serde_json::Deserializer::from_slice(&json);
        // The nesting was bounded when the definition was made; the default bound here is lower.
        de.disable_recursion_limit();
        match Definition::deserialize(&mut de) {
            Ok(d) if key::definition(&d.key()) == prefix => {
                hashes.into_iter().for_each(|h| all.add(h));
                visit(d);
                return Ok(());
            }
            Ok(_) => "it is stored under another one's key".to_owned(),
            Err(e) => format!("its JSON can't be read: {e}"),
        }
    };
    bad((0..seen).map(|p| part_key(&prefix, p)).collect(), damaged(&prefix, &reason))
}

fn damaged(prefix: &[u8], reason: &str) -> StoreError {
    let text: String = prefix.iter().skip(1).flat_map(|b| std::ascii::escape_default(*b)).map(char::from).collect();
    StoreError::damaged(format!("the definition {text}"), reason)
}
