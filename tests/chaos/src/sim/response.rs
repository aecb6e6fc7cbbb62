//! Writes responses: bindings forward into one reused buffer, the header backward in front of them.
//!
//! ```text
//! | headroom ......... header | binding | binding | ... |
//!                      ^ written last, when the lengths are known
//! ```

use super::{
    ber::{self, element_len, put_length},
    request::{Request, Version},
};

/// Room for the largest header: a community of 255 octets and lengths of three octets each.
const HEADROOM: usize = 320;
const GET_RESPONSE: u8 = 0xa2;

/// A value about to be written, borrowed from the device where it is a string.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Integer(i32),
    /// Counter32, Gauge32, TimeTicks or Counter64, by tag.
    Unsigned(u8, u64),
    /// Octet string, IP address, opaque or OID contents, by tag.
    Octets(u8, &'a [u8]),
    /// A physical address (IEEE 802).
    Mac([u8; 6]),
    /// Null, or one of the v2 exceptions, by tag.
    Empty(u8),
}

impl Value<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Integer(value) => ber::signed_len(*value),
            Self::Unsigned(_, value) => ber::unsigned_len(*value),
            Self::Octets(_, octets) => octets.len(),
            Self::Mac(_) => 6,
            Self::Empty(_) => 0,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        let tag = match self {
            Self::Integer(_) => ber::INTEGER,
            Self::Unsigned(tag, _) | Self::Octets(tag, _) | Self::Empty(tag) => *tag,
            Self::Mac(_) => ber::OCTET_STRING,
        };
        out.push(tag);
        put_length(self.len(), out);
        match self {
            Self::Integer(value) => out.extend_from_slice(&value.to_be_bytes()[4 - ber::signed_len(*value)..]),
            Self::Unsigned(_, value) => ber::put_unsigned(*value, out),
            Self::Octets(_, octets) => out.extend_from_slice(octets),
            Self::Mac(octets) => out.extend_from_slice(octets),
            Self::Empty(_) => {}
        }
    }

    /// The value as the ledger keeps it; negative integers as their 32-bit pattern.
    pub(crate) fn number(&self) -> Option<u64> {
        match self {
            Self::Integer(value) => Some(u64::from(*value as u32)),
            Self::Unsigned(_, value) => Some(*value),
            _ => None,
        }
    }
}

/// Error status of a response (RFC 3416 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    NoError = 0,
    TooBig = 1,
    NoSuchName = 2,
    NoAccess = 6,
}

/// The buffer a response grows in.
#[derive(Debug)]
pub(crate) struct ResponseBuffer {
    bytes: Vec<u8>,
    limit: usize,
    start: usize,
}

impl Default for ResponseBuffer {
    fn default() -> Self {
        Self { bytes: vec![0; HEADROOM], limit: HEADROOM, start: HEADROOM }
    }
}

impl ResponseBuffer {
    /// Empties the buffer; the message will not grow beyond `max_size` octets.
    pub(crate) fn begin(&mut self, max_size: usize, community: usize) {
        let header = 4 + 3 + element_len(community) + 4 + 6 + 3 + 4 + 4;
        self.limit = HEADROOM + max_size.saturating_sub(header);
        self.clear();
    }

    /// Drops the bindings written so far.
    pub(crate) fn clear(&mut self) {
        self.bytes.truncate(HEADROOM);
    }

    /// Appends a binding; false, and nothing written, if it does not fit.
    #[inline]
    pub(crate) fn binding(&mut self, oid_len: usize, put_oid: impl FnOnce(&mut Vec<u8>), value: &Value<'_>) -> bool {
        let inner = element_len(oid_len) + element_len(value.len());
        if self.bytes.len() + element_len(inner) > self.limit {
            return false;
        }
        let out = &mut self.bytes;
        out.push(ber::SEQUENCE);
        put_length(inner, out);
        out.push(ber::OBJECT_ID);
        put_length(oid_len, out);
        put_oid(out);
        value.put(out);
        true
    }

    /// Writes the header; the message is then in [`Self::message`].
    pub(crate) fn finish(&mut self, request: &Request, community: &[u8], status: Status, index: usize) {
        self.start = HEADROOM;
        self.wrap(ber::SEQUENCE);
        self.prepend_integer(i32::try_from(index).unwrap_or(i32::MAX));
        self.prepend_integer(status as i32);
        self.prepend_integer(request.request_id);
        self.wrap(GET_RESPONSE);
        self.prepend(community);
        self.prepend_length(ber::OCTET_STRING, community.len());
        self.prepend_integer(match request.version {
            Version::V1 => 0,
            Version::V2c => 1,
        });
        self.wrap(ber::SEQUENCE);
    }

    /// The finished message.
    pub(crate) fn message(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Replaces the finished message, for replies that are meant to be wrong.
    pub(crate) fn replace(&mut self, message: &[u8]) {
        self.start = HEADROOM;
        self.bytes.truncate(HEADROOM);
        self.bytes.extend_from_slice(message);
    }

    fn prepend(&mut self, octets: &[u8]) {
        self.start -= octets.len();
        self.bytes[self.start..self.start + octets.len()].copy_from_slice(octets);
    }

    fn prepend_length(&mut self, tag: u8, length: usize) {
        match length {
            0..=0x7f => self.prepend(&[tag, length as u8]),
            0x80..=0xff => self.prepend(&[tag, 0x81, length as u8]),
            _ => self.prepend(&[tag, 0x82, (length >> 8) as u8, length as u8]),
        }
    }

    /// Turns everything written so far into the contents of an element.
    fn wrap(&mut self, tag: u8) {
        self.prepend_length(tag, self.bytes.len() - self.start);
    }

    fn prepend_integer(&mut self, value: i32) {
        let length = ber::signed_len(value);
        self.prepend(&value.to_be_bytes()[4 - length..]);
        self.prepend(&[ber::INTEGER, length as u8]);
    }
}
