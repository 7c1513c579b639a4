//! Messages whose bodies tell which they are.

use hornpipe_types::header::{Properties, scan};
use hornpipe_types::message::{Batch, BatchBuilder, MessageMeta};

/// Octets of a body that name its message.
pub const NAME: usize = 8;

/// Adds a message named `id` with a body of `NAME + padding` octets.
pub fn push(b: &mut BatchBuilder, route: u16, properties: &Properties, id: u64, padding: usize) {
    let mut body = id.to_be_bytes().to_vec();
    body.resize(NAME + padding, id as u8);
    let header = properties.encode(body.len() as u64);
    let meta = scan(&header).expect("a header that was just encoded");
    // small frames, so that bodies of several are seen too
    b.push_message(&header, [&body[..]], MessageMeta { route, ..meta }, 64);
}

/// Which message this is. Panics when its body is not the one it was given.
pub fn id_of(batch: &Batch, i: u32) -> u64 {
    let body: Vec<u8> = batch.body(i).flatten().copied().collect();
    let (name, padding) = body.split_at(NAME);
    let id = u64::from_be_bytes(name.try_into().expect("eight octets"));
    assert!(padding.iter().all(|o| *o == id as u8), "the body of message {id} is not its own: {body:?}");
    assert_eq!(batch.meta(i).body as usize, body.len(), "size of message {id}");
    id
}

/// The properties of a message.
pub fn properties(batch: &Batch, i: u32) -> Properties {
    Properties::decode(batch.header(i)).expect("a header the core has passed on")
}
