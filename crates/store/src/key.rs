//! Keys of the map. The first octet tells what is stored, so that one atomic batch covers all:
//! 0 = definitions, 1 = log, 2 = checkpoints (reserved), 3 = body files that were removed.

use hornpipe_types::definition::DefinitionKey;
use sha2::{Digest, Sha256};

pub(crate) const DEFINITIONS: u8 = 0;
pub(crate) const LOG: u8 = 1;
pub(crate) const CHECKPOINTS: u8 = 2;
pub(crate) const REMOVED_FILES: u8 = 3;
/// No key begins with this or more.
pub(crate) const END: u8 = 255;

/// Longer definition keys are replaced by their hash.
const KEY_MAX: usize = 240;
/// Marks a hashed definition key.
const HASHED: u8 = 0x80;

/// Key of a log part: 1, lsn, part, so that the map's order is the log's.
pub(crate) fn log(lsn: u64, part: u16) -> [u8; 11] {
    let mut key = [0; 11];
    key[0] = LOG;
    key[1..9].copy_from_slice(&lsn.to_be_bytes());
    key[9..].copy_from_slice(&part.to_be_bytes());
    key
}

/// The inverse of [`log`].
pub(crate) fn parse_log(key: &[u8]) -> Option<(u64, u16)> {
    match key {
        [LOG, lsn @ .., p1, p0] => Some((u64::from_be_bytes(lsn.try_into().ok()?), u16::from_be_bytes([*p1, *p0]))),
        _ => None,
    }
}

/// Key that says that a body file was removed on purpose: records may go on naming it.
pub(crate) fn removed_file(file: u64) -> [u8; 9] {
    let mut key = [REMOVED_FILES; 9];
    key[1..].copy_from_slice(&file.to_be_bytes());
    key
}

/// The inverse of [`removed_file`].
pub(crate) fn parse_removed_file(key: &[u8]) -> Option<u64> {
    match key {
        [REMOVED_FILES, file @ ..] => Some(u64::from_be_bytes(file.try_into().ok()?)),
        _ => None,
    }
}

/// Key of a definition without its part: 0, a tag, its names each behind their length. No key is the beginning of
/// another one.
pub(crate) fn definition(key: &DefinitionKey) -> Vec<u8> {
    let mut k = vec![DEFINITIONS];
    let (tag, names): (u8, Vec<&[u8]>) = match key {
        DefinitionKey::Vhost { name } => (1, vec![name.as_bytes()]),
        DefinitionKey::User { name } => (2, vec![name.as_bytes()]),
        DefinitionKey::Permission { user, vhost } => (3, vec![user.as_bytes(), vhost.as_bytes()]),
        DefinitionKey::TopicPermission { user, vhost, exchange } => {
            (4, vec![user.as_bytes(), vhost.as_bytes(), exchange.as_bytes()])
        }
        DefinitionKey::Exchange { vhost, name } => (5, vec![vhost.as_bytes(), name.as_bytes()]),
        DefinitionKey::Queue { vhost, name } => (6, vec![vhost.as_bytes(), name.as_bytes()]),
        DefinitionKey::Binding { vhost, source, destination_is_queue, destination, routing_key, arguments } => (
            7,
            vec![
                vhost.as_bytes(),
                source.as_bytes(),
                if *destination_is_queue { b"q" } else { b"e" },
                destination.as_bytes(),
                routing_key.as_bytes(),
                arguments,
            ],
        ),
        DefinitionKey::Policy { vhost, operator, name } => {
            (8, vec![vhost.as_bytes(), if *operator { b"o" } else { b"p" }, name.as_bytes()])
        }
        DefinitionKey::Parameter { vhost, component, name } => (
            9,
            vec![
                if vhost.is_some() { b"v" } else { b"g" },
                vhost.as_ref().map_or(&b""[..], |v| v.as_bytes()),
                component.as_bytes(),
                name.as_bytes(),
            ],
        ),
        DefinitionKey::NextIds => (10, vec![]),
    };
    k.push(tag);
    for name in names {
        crate::wire::put_varint(&mut k, name.len() as u64);
        k.extend_from_slice(name);
    }
    if k.len() > KEY_MAX {
        let hash = Sha256::digest(&k);
        k.truncate(1);
        k.push(tag | HASHED);
        k.extend_from_slice(&hash);
    }
    k
}

#[cfg(test)]
mod tests {
    use super::*;
    use hornpipe_types::names::ShortStr;

    #[test]
    fn log_keys_sort_by_lsn_and_part() {
        let keys = [log(1, 0), log(1, 1), log(2, 0), log(255, 65535), log(256, 0)];
        assert!(keys.is_sorted());
        assert_eq!(keys.map(|k| parse_log(&k)).map(Option::unwrap), [(1, 0), (1, 1), (2, 0), (255, 65535), (256, 0)]);
        assert_eq!(parse_log(&[LOG, 1, 2]), None);
    }

    #[test]
    fn definition_keys_are_told_apart_by_where_names_end() {
        let queue = |v: &str, n: &str| definition(&DefinitionKey::Queue { vhost: v.into(), name: n.into() });
        assert_ne!(queue("a", "bc"), queue("ab", "c"));
        assert_eq!(queue("/", "q"), [0, 6, 1, b'/', 1, b'q']);
        let long = ShortStr::from("x".repeat(255));
        let binding = |arguments: Vec<u8>| {
            definition(&DefinitionKey::Binding {
                vhost: "/".into(),
                source: long.clone(),
                destination_is_queue: true,
                destination: "q".into(),
                routing_key: "k".into(),
                arguments,
            })
        };
        assert_eq!(binding(vec![1]).len(), 34);
        assert_ne!(binding(vec![1]), binding(vec![2]));
        let global = DefinitionKey::Parameter { vhost: None, component: "".into(), name: "n".into() };
        let empty = DefinitionKey::Parameter { vhost: Some("".into()), component: "".into(), name: "n".into() };
        assert_ne!(definition(&global), definition(&empty));
    }
}
