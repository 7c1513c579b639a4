//! The content header: the bytes as received stay what is relayed; a view of them is decoded only where routing,
//! expiry, priority or dead-lettering asks [spec §2.3.5.2, §4.2.6.1].

use crate::message::{HAS_EXPIRATION, HAS_HEADERS, HAS_PRIORITY, HAS_REPLY_TO, HAS_USER_ID, MessageMeta, PERSISTENT};
use crate::names::ShortStr;
use crate::table::{FieldTable, Reader, TableError};
use bytes::BufMut;

/// The 14 properties of class basic.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs)]
pub struct Properties {
    pub content_type: Option<ShortStr>,
    pub content_encoding: Option<ShortStr>,
    pub headers: Option<FieldTable>,
    pub delivery_mode: Option<u8>,
    pub priority: Option<u8>,
    pub correlation_id: Option<ShortStr>,
    pub reply_to: Option<ShortStr>,
    pub expiration: Option<ShortStr>,
    pub message_id: Option<ShortStr>,
    /// Seconds since 1970.
    pub timestamp: Option<u64>,
    pub kind: Option<ShortStr>,
    pub user_id: Option<ShortStr>,
    pub app_id: Option<ShortStr>,
    pub cluster_id: Option<ShortStr>,
}

const CONTENT_TYPE: u16 = 1 << 15;
const CONTENT_ENCODING: u16 = 1 << 14;
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const PRIORITY: u16 = 1 << 11;
const CORRELATION_ID: u16 = 1 << 10;
const REPLY_TO: u16 = 1 << 9;
const EXPIRATION: u16 = 1 << 8;
const MESSAGE_ID: u16 = 1 << 7;
const TIMESTAMP: u16 = 1 << 6;
const TYPE: u16 = 1 << 5;
const USER_ID: u16 = 1 << 4;
const APP_ID: u16 = 1 << 3;
const CLUSTER_ID: u16 = 1 << 2;

/// Reads the property flags: the first word counts; further words (bit 0 set) carry nothing for class basic.
fn flags(r: &mut Reader<'_>) -> Result<u16, TableError> {
    let first = r.u16()?;
    let mut more = first & 1 != 0;
    while more {
        more = r.u16()? & 1 != 0;
    }
    Ok(first)
}

/// Checks a content header payload (class, weight, body size, flags, properties) from front to back without building
/// anything and notes what routing and persistence must know. `body` is taken from the header, `offset`, `len` and
/// `route` stay 0.
pub fn scan(payload: &[u8]) -> Result<MessageMeta, TableError> {
    let mut r = Reader(payload);
    r.u32()?;
    let body = r.u64()?;
    let mut meta = MessageMeta { body: u32::try_from(body).unwrap_or(u32::MAX), ..MessageMeta::default() };
    let f = flags(&mut r)?;
    let skip_short = |r: &mut Reader<'_>| -> Result<(), TableError> {
        std::str::from_utf8(r.short_octets()?).map(|_| ()).map_err(|_| TableError::NotUtf8)
    };
    for bit in [CONTENT_TYPE, CONTENT_ENCODING] {
        if f & bit != 0 {
            skip_short(&mut r)?;
        }
    }
    if f & HEADERS != 0 {
        let rest = r.0;
        let len = r.u32()? as usize;
        r.take(len)?;
        // decoded once to be sure that consumers get a well-formed table
        FieldTable::decode(rest)?;
        meta.flags |= HAS_HEADERS;
    }
    if f & DELIVERY_MODE != 0 && r.u8()? == 2 {
        meta.flags |= PERSISTENT;
    }
    if f & PRIORITY != 0 {
        meta.priority = r.u8()?;
        meta.flags |= HAS_PRIORITY;
    }
    for (bit, flag) in [(CORRELATION_ID, 0), (REPLY_TO, HAS_REPLY_TO), (EXPIRATION, HAS_EXPIRATION), (MESSAGE_ID, 0)] {
        if f & bit != 0 {
            skip_short(&mut r)?;
            meta.flags |= flag;
        }
    }
    if f & TIMESTAMP != 0 {
        r.u64()?;
    }
    for (bit, flag) in [(TYPE, 0), (USER_ID, HAS_USER_ID), (APP_ID, 0), (CLUSTER_ID, 0)] {
        if f & bit != 0 {
            skip_short(&mut r)?;
            meta.flags |= flag;
        }
    }
    Ok(meta)
}

impl Properties {
    /// Decodes the properties of a content header payload (class, weight, body size, flags, properties).
    pub fn decode(payload: &[u8]) -> Result<Self, TableError> {
        let mut r = Reader(payload);
        r.u32()?;
        r.u64()?;
        let f = flags(&mut r)?;
        let mut p = Self::default();
        let short = |r: &mut Reader<'_>, bit| if f & bit != 0 { r.short().map(Some) } else { Ok(None) };
        p.content_type = short(&mut r, CONTENT_TYPE)?;
        p.content_encoding = short(&mut r, CONTENT_ENCODING)?;
        if f & HEADERS != 0 {
            let (table, rest) = FieldTable::decode(r.0)?;
            p.headers = Some(table);
            r.0 = rest;
        }
        if f & DELIVERY_MODE != 0 {
            p.delivery_mode = Some(r.u8()?);
        }
        if f & PRIORITY != 0 {
            p.priority = Some(r.u8()?);
        }
        p.correlation_id = short(&mut r, CORRELATION_ID)?;
        p.reply_to = short(&mut r, REPLY_TO)?;
        p.expiration = short(&mut r, EXPIRATION)?;
        p.message_id = short(&mut r, MESSAGE_ID)?;
        if f & TIMESTAMP != 0 {
            p.timestamp = Some(r.u64()?);
        }
        p.kind = short(&mut r, TYPE)?;
        p.user_id = short(&mut r, USER_ID)?;
        p.app_id = short(&mut r, APP_ID)?;
        p.cluster_id = short(&mut r, CLUSTER_ID)?;
        Ok(p)
    }

    /// Encodes a whole content header payload for a body of `body_size` octets.
    pub fn encode(&self, body_size: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.put_u16(60);
        out.put_u16(0);
        out.put_u64(body_size);
        let mut f = 0u16;
        let mut set = |present: bool, bit: u16| {
            if present {
                f |= bit;
            }
        };
        set(self.content_type.is_some(), CONTENT_TYPE);
        set(self.content_encoding.is_some(), CONTENT_ENCODING);
        set(self.headers.is_some(), HEADERS);
        set(self.delivery_mode.is_some(), DELIVERY_MODE);
        set(self.priority.is_some(), PRIORITY);
        set(self.correlation_id.is_some(), CORRELATION_ID);
        set(self.reply_to.is_some(), REPLY_TO);
        set(self.expiration.is_some(), EXPIRATION);
        set(self.message_id.is_some(), MESSAGE_ID);
        set(self.timestamp.is_some(), TIMESTAMP);
        set(self.kind.is_some(), TYPE);
        set(self.user_id.is_some(), USER_ID);
        set(self.app_id.is_some(), APP_ID);
        set(self.cluster_id.is_some(), CLUSTER_ID);
        out.put_u16(f);
        let short = |out: &mut Vec<u8>, s: &Option<ShortStr>| {
            if let Some(s) = s {
                out.put_u8(s.len() as u8);
                out.put_slice(s.as_bytes());
            }
        };
        short(&mut out, &self.content_type);
        short(&mut out, &self.content_encoding);
        if let Some(h) = &self.headers {
            h.encode(&mut out);
        }
        if let Some(v) = self.delivery_mode {
            out.put_u8(v);
        }
        if let Some(v) = self.priority {
            out.put_u8(v);
        }
        short(&mut out, &self.correlation_id);
        short(&mut out, &self.reply_to);
        short(&mut out, &self.expiration);
        short(&mut out, &self.message_id);
        if let Some(v) = self.timestamp {
            out.put_u64(v);
        }
        short(&mut out, &self.kind);
        short(&mut out, &self.user_id);
        short(&mut out, &self.app_id);
        short(&mut out, &self.cluster_id);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::any_table;
    use proptest::prelude::*;

    fn short() -> impl Strategy<Value = Option<ShortStr>> {
        prop::option::of("[a-zé]{0,12}".prop_map(ShortStr::from))
    }

    prop_compose! {
        fn any_properties()(
            s in prop::array::uniform10(short()),
            headers in prop::option::of(any_table()),
            delivery_mode in prop::option::of(any::<u8>()),
            priority in prop::option::of(any::<u8>()),
            timestamp in prop::option::of(any::<u64>()),
        ) -> Properties {
            let [content_type, content_encoding, correlation_id, reply_to, expiration, message_id, kind, user_id, app_id,
                cluster_id] = s;
            Properties { content_type, content_encoding, headers, delivery_mode, priority, correlation_id, reply_to,
                expiration, message_id, timestamp, kind, user_id, app_id, cluster_id }
        }
    }

    proptest! {
        #[test]
        fn round_trip_and_scan(p in any_properties(), body in any::<u32>()) {
            let bytes = p.encode(body.into());
            prop_assert_eq!(&Properties::decode(&bytes).unwrap(), &p);
            let m = scan(&bytes).unwrap();
            prop_assert_eq!(m.body, body);
            prop_assert_eq!(m.flags & PERSISTENT != 0, p.delivery_mode == Some(2));
            prop_assert_eq!(m.flags & HAS_HEADERS != 0, p.headers.is_some());
            prop_assert_eq!(m.flags & HAS_EXPIRATION != 0, p.expiration.is_some());
            prop_assert_eq!(m.flags & HAS_USER_ID != 0, p.user_id.is_some());
            prop_assert_eq!(m.flags & HAS_REPLY_TO != 0, p.reply_to.is_some());
            prop_assert_eq!(m.priority, p.priority.unwrap_or(0));
        }

        #[test]
        fn scan_accepts_what_decode_accepts(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            prop_assert_eq!(scan(&bytes).is_ok(), Properties::decode(&bytes).is_ok());
        }
    }
}
