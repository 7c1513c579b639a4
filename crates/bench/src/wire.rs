//! Frames by hand: just enough of AMQP 0-9-1 to publish, consume and set up topology.

/// Octet that ends every frame [spec §4.2.3].
pub(crate) const FRAME_END: u8 = 0xCE;
/// Bytes of a frame around its payload: type, channel, size and end octet.
pub(crate) const FRAME_OVERHEAD: usize = 8;

pub(crate) const METHOD: u8 = 1;
pub(crate) const HEADER: u8 = 2;
pub(crate) const BODY: u8 = 3;

/// Class and method number, as on the wire.
pub(crate) type MethodId = (u16, u16);

pub(crate) const CONNECTION_START: MethodId = (10, 10);
pub(crate) const CONNECTION_START_OK: MethodId = (10, 11);
pub(crate) const CONNECTION_TUNE: MethodId = (10, 30);
pub(crate) const CONNECTION_TUNE_OK: MethodId = (10, 31);
pub(crate) const CONNECTION_OPEN: MethodId = (10, 40);
pub(crate) const CONNECTION_OPEN_OK: MethodId = (10, 41);
pub(crate) const CONNECTION_CLOSE: MethodId = (10, 50);
pub(crate) const CONNECTION_CLOSE_OK: MethodId = (10, 51);
pub(crate) const CHANNEL_OPEN: MethodId = (20, 10);
pub(crate) const CHANNEL_OPEN_OK: MethodId = (20, 11);
pub(crate) const CHANNEL_CLOSE: MethodId = (20, 40);
pub(crate) const EXCHANGE_DECLARE: MethodId = (40, 10);
pub(crate) const EXCHANGE_DECLARE_OK: MethodId = (40, 11);
pub(crate) const EXCHANGE_DELETE: MethodId = (40, 20);
pub(crate) const EXCHANGE_DELETE_OK: MethodId = (40, 21);
pub(crate) const QUEUE_DECLARE: MethodId = (50, 10);
pub(crate) const QUEUE_DECLARE_OK: MethodId = (50, 11);
pub(crate) const QUEUE_BIND: MethodId = (50, 20);
pub(crate) const QUEUE_BIND_OK: MethodId = (50, 21);
pub(crate) const QUEUE_DELETE: MethodId = (50, 40);
pub(crate) const QUEUE_DELETE_OK: MethodId = (50, 41);
pub(crate) const BASIC_QOS: MethodId = (60, 10);
pub(crate) const BASIC_QOS_OK: MethodId = (60, 11);
pub(crate) const BASIC_CONSUME: MethodId = (60, 20);
pub(crate) const BASIC_CONSUME_OK: MethodId = (60, 21);
pub(crate) const BASIC_PUBLISH: MethodId = (60, 40);
pub(crate) const BASIC_DELIVER: MethodId = (60, 60);
pub(crate) const BASIC_ACK: MethodId = (60, 80);
pub(crate) const BASIC_NACK: MethodId = (60, 120);
pub(crate) const CONFIRM_SELECT: MethodId = (85, 10);
pub(crate) const CONFIRM_SELECT_OK: MethodId = (85, 11);

/// Bytes under construction: a sequence of whole frames.
#[derive(Debug, Default, Clone)]
pub(crate) struct Out(pub(crate) Vec<u8>);

impl Out {
    /// Appends a method frame whose arguments `fill` writes.
    pub(crate) fn method(&mut self, channel: u16, id: MethodId, fill: impl FnOnce(&mut Args<'_>)) -> &mut Self {
        self.frame(METHOD, channel, |args| {
            args.u16(id.0);
            args.u16(id.1);
            fill(args);
        })
    }

    /// Appends a frame whose payload `fill` writes, and patches its size afterwards.
    pub(crate) fn frame(&mut self, kind: u8, channel: u16, fill: impl FnOnce(&mut Args<'_>)) -> &mut Self {
        self.0.push(kind);
        self.0.extend_from_slice(&channel.to_be_bytes());
        let size_at = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        fill(&mut Args(&mut self.0));
        let size = (self.0.len() - size_at - 4) as u32;
        self.0[size_at..size_at + 4].copy_from_slice(&size.to_be_bytes());
        self.0.push(FRAME_END);
        self
    }
}

/// Argument writer of one frame.
#[derive(Debug)]
pub(crate) struct Args<'a>(&'a mut Vec<u8>);

impl Args<'_> {
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }
    pub(crate) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }
    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }
    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }
    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }
    /// A short string; what is above 255 bytes is cut, which no name of ours reaches.
    pub(crate) fn short(&mut self, value: &str) {
        let bytes = &value.as_bytes()[..value.len().min(255)];
        self.0.push(bytes.len() as u8);
        self.0.extend_from_slice(bytes);
    }
    pub(crate) fn long(&mut self, value: &[u8]) {
        self.u32(value.len() as u32);
        self.bytes(value);
    }
    /// A field table with the client's name and what it is capable of.
    pub(crate) fn client_properties(&mut self, product: &str, capability: &str) {
        let (mut capabilities, mut inner) = (Vec::new(), Vec::new());
        let mut args = Args(&mut capabilities);
        args.short(capability);
        args.bytes(b"t\x01");
        let mut args = Args(&mut inner);
        args.short("product");
        args.u8(b'S');
        args.long(product.as_bytes());
        args.short("capabilities");
        args.u8(b'F');
        args.long(&capabilities);
        self.long(&inner);
    }
    /// A field table of strings.
    pub(crate) fn table(&mut self, entries: &[(&str, &str)]) {
        let mut inner = Vec::new();
        for (name, value) in entries {
            let mut args = Args(&mut inner);
            args.short(name);
            args.u8(b'S');
            args.long(value.as_bytes());
        }
        self.long(&inner);
    }
}

/// Reads a big-endian u16; the caller has checked the length.
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Reads a big-endian u32; the caller has checked the length.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Reads a big-endian u64; the caller has checked the length.
pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    let mut wide = [0; 8];
    wide.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(wide)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_frame_carries_its_size_and_end() {
        let mut out = Out::default();
        out.method(1, BASIC_ACK, |args| {
            args.u64(7);
            args.u8(1);
        });
        assert_eq!(out.0, [1, 0, 1, 0, 0, 0, 13, 0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 7, 1, 0xCE]);
    }

    #[test]
    fn a_table_counts_its_own_bytes() {
        let mut out = Vec::new();
        Args(&mut out).table(&[("a", "bc")]);
        assert_eq!(out, [0, 0, 0, 9, 1, b'a', b'S', 0, 0, 0, 2, b'b', b'c']);
    }
}
