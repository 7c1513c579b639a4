//! Definitions in the map: JSON, cut into values of at most 48 KiB, each with version, part count and checksum.

use crate::error::StoreError;
use crate::key;
use crate::medium::{Batch, View};
use crate::wire::Input;
use hornpipe_types::definition::{Definition, DefinitionKey};
use serde::Deserialize;

const VERSION: u8 = 1;
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

/// Adds the change of one definition to a batch (`None` removes it). Parts of an older, longer one are removed.
pub(crate) fn put(
    batch: &mut Batch,
    view: &dyn View,
    key: &DefinitionKey,
    definition: Option<&Definition>,
) -> Result<(), StoreError> {
    let prefix = key::definition(key);
    let old_parts = match view.get(&part_key(&prefix, 0))? {
        Some(value) => Input(value.get(1..).unwrap_or(&[])).u16().unwrap_or(1),
        None => 0,
    };
    let mut parts = 0;
    if let Some(definition) = definition {
        let json =
            serde_json::to_vec(definition).map_err(|e| StoreError::Fatal(format!("{key:?} has no JSON form: {e}")))?;
        let n = json.len().div_ceil(CHUNK);
        parts = u16::try_from(n).map_err(|_| StoreError::Fatal(format!("{key:?} is too long to be stored")))?;
        for (i, chunk) in json.chunks(CHUNK).enumerate() {
            let k = part_key(&prefix, i as u16);
            let mut v = Vec::with_capacity(HEADER + chunk.len());
            v.push(VERSION);
            v.extend_from_slice(&parts.to_be_bytes());
            v.extend_from_slice(&[0; 4]);
            v.extend_from_slice(chunk);
            let crc = checksum(&k, &v).to_be_bytes();
            v[3..HEADER].copy_from_slice(&crc);
            batch.push((k, Some(v)));
        }
    }
    batch.extend((parts..old_parts).map(|p| (part_key(&prefix, p), None)));
    Ok(())
}

/// What became of the parts of one definition.
type Collected = (Vec<u8>, u16, u16, Vec<u8>);

/// Reads all definitions. Bad ones go to `bad` with what is wrong, an error there ends the reading.
pub(crate) fn scan(
    view: &dyn View,
    visit: &mut dyn FnMut(Definition),
    bad: &mut dyn FnMut(&[u8], StoreError) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    // Prefix, parts, parts seen, JSON so far.
    let mut open: Option<Collected> = None;
    let mut finish = |open: &mut Option<Collected>,
                      bad: &mut dyn FnMut(&[u8], StoreError) -> Result<(), StoreError>| {
        let Some((prefix, parts, seen, json)) = open.take() else { return Ok(()) };
        if parts != seen {
            return bad(&prefix, damaged(&prefix, &format!("{seen} of its {parts} parts are there")));
        }
        let mut de = serde_json::Deserializer::from_slice(&json);
        // The nesting was bounded when the definition was made; the default bound here is lower.
        de.disable_recursion_limit();
        match Definition::deserialize(&mut de) {
            Ok(d) if key::definition(&d.key()) == prefix => visit(d),
            Ok(_) => return bad(&prefix, damaged(&prefix, "it is stored under another one's key")),
            Err(e) => return bad(&prefix, damaged(&prefix, &format!("its JSON can't be read: {e}"))),
        }
        Ok(())
    };
    view.scan(&[key::DEFINITIONS], &[key::LOG], &mut |k, v| {
        let Some((prefix, part)) = k.split_last_chunk::<2>() else {
            bad(k, damaged(k, "its key is too short"))?;
            return Ok(true);
        };
        let part = u16::from_be_bytes(*part);
        let continues = open.as_ref().is_some_and(|o| o.0 == prefix && o.2 == part);
        if !continues {
            finish(&mut open, bad)?;
        }
        let mut r = Input(v);
        let (Some(version), Some(parts), Some(crc)) = (r.u8(), r.u16(), r.u32()) else {
            bad(prefix, damaged(prefix, "its value is too short"))?;
            return Ok(true);
        };
        if checksum(k, v) != crc {
            bad(prefix, damaged(prefix, "its checksum does not match"))?;
            return Ok(true);
        }
        if version != VERSION {
            return Err(StoreError::Unsupported { what: "a definition".to_owned(), found: version, known: VERSION });
        }
        match &mut open {
            Some((_, p, seen, json)) if continues && *p == parts => {
                *seen += 1;
                json.extend_from_slice(r.0);
            }
            _ if part == 0 => open = Some((prefix.to_vec(), parts, 1, r.0.to_vec())),
            _ => bad(prefix, damaged(prefix, "a part without those before it"))?,
        }
        Ok(true)
    })?;
    finish(&mut open, bad)
}

fn damaged(prefix: &[u8], reason: &str) -> StoreError {
    let text: String = prefix.iter().skip(1).flat_map(|b| std::ascii::escape_default(*b)).map(char::from).collect();
    StoreError::damaged(format!("the definition {text}"), reason)
}
