//! Copying bodies, which is most of what a message costs when it is large.

use bytes::{Buf, BufMut, BytesMut};

/// Octets copied by one call, at most.
///
/// From about that size on the C library copies by one instruction (`rep movsb`) where the processor says that it is fast. On AMD's
/// it is 15 times slower than a loop when the destination lies 1 to 15 octets after the source, counted from the begin of their
/// pages. Large buffers begin at a page, and what differs is a tag or a key before the body: that is met all the time.
const PIECE: usize = 2048;

/// The octets in pieces to be copied one by one.
pub fn pieces(octets: &[u8]) -> impl Iterator<Item = &[u8]> {
    octets.chunks(PIECE)
}

/// Appends the octets.
#[inline(always)]
pub fn put_octets(out: &mut BytesMut, octets: &[u8]) {
    if octets.len() <= PIECE {
        out.put_slice(octets);
    } else {
        put_pieces(out, octets);
    }
}

#[inline(never)]
fn put_pieces(out: &mut BytesMut, octets: &[u8]) {
    out.reserve(octets.len());
    pieces(octets).for_each(|piece| out.extend_from_slice(piece));
}

/// Octets left out at the begin of a buffer that a socket is read into.
///
/// A body in it is written to sockets from where it lies, and the kernel copies by that instruction. Where it begins to write, it
/// does so at the begin of a page: there the frame of a delivery comes first, which is a few octets longer than that of a publish
/// that came first here. So bodies would come to lie just as they must not; with this gap they lie behind their copies instead.
const GAP: usize = 512;

/// Moves the octets to a buffer with room for `capacity` in all and no more.
pub fn with_room(octets: &mut BytesMut, capacity: usize) -> BytesMut {
    let mut exact = BytesMut::with_capacity(GAP + capacity);
    exact.put_bytes(0, GAP);
    exact.advance(GAP);
    put_octets(&mut exact, octets);
    std::mem::replace(octets, exact)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_all_of_it_in_order() {
        for len in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7] {
            let octets: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let mut out = BytesMut::from(&b"before"[..]);
            put_octets(&mut out, &octets);
            assert_eq!(out, [b"before", &octets[..]].concat());
            assert!(pieces(&octets).all(|piece| piece.len() <= PIECE));
        }
    }

    #[test]
    fn room_is_as_large_as_said_behind_a_gap() {
        let mut octets = BytesMut::from(&b"some"[..]);
        assert_eq!(with_room(&mut octets, 5000), b"some"[..]);
        assert_eq!((&octets[..], octets.capacity()), (&b"some"[..], 5000));
        octets.clear();
        // longer than any tag
        assert!(octets.try_reclaim(5000 + 300));
    }
}
