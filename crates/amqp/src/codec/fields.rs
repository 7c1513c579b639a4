//! Method arguments taken one by one [spec §4.2.5], for the methods that carry a table: `amq-protocol` reads tables into a
//! sorted map, we keep them as sent.

use super::frame::cannot_decode;
use hornpipe_types::error::{AmqpError, ReplyCode};
use hornpipe_types::names::ShortStr;
use hornpipe_types::table::{FieldTable, TableError};

/// Reads the arguments of one method payload.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    whole: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The arguments after class and method id of a method payload of at least 4 octets.
    pub(crate) fn of_method(payload: &'a [u8]) -> Self {
        let rest = payload.get(4..).unwrap_or_default();
        Self { whole: rest, rest }
    }

    fn fail<T>(&self) -> Result<T, AmqpError> {
        Err(cannot_decode(self.whole))
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], AmqpError> {
        match self.rest.split_at_checked(n) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => self.fail(),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], AmqpError> {
        match self.rest.split_first_chunk::<N>() {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(*head)
            }
            None => self.fail(),
        }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, AmqpError> {
        self.array::<1>().map(|[b]| b)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, AmqpError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, AmqpError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn short(&mut self) -> Result<ShortStr, AmqpError> {
        self.text().map(ShortStr::new)
    }

    /// A short string that is not kept.
    pub(crate) fn text(&mut self) -> Result<&'a str, AmqpError> {
        let len = self.u8()?;
        let octets = self.take(len.into())?;
        std::str::from_utf8(octets).map_err(|_| not_utf8())
    }

    pub(crate) fn long(&mut self) -> Result<Vec<u8>, AmqpError> {
        let len = self.u32()? as usize;
        self.take(len).map(<[u8]>::to_vec)
    }

    pub(crate) fn table(&mut self) -> Result<FieldTable, AmqpError> {
        match FieldTable::decode(self.rest) {
            Ok((table, rest)) => {
                self.rest = rest;
                Ok(table)
            }
            Err(TableError::NotUtf8) => Err(not_utf8()),
            Err(_) => self.fail(),
        }
    }

    /// The arguments must end here.
    pub(crate) fn end(self) -> Result<(), AmqpError> {
        if self.rest.is_empty() { Ok(()) } else { self.fail() }
    }
}

/// 501 for a short string that is not UTF-8.
pub(crate) fn not_utf8() -> AmqpError {
    AmqpError::new(ReplyCode::FrameError, TableError::NotUtf8.to_string())
}
