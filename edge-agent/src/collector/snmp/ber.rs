//! A lazy reader of SNMP messages: no allocation, no recursion, no panic, whatever the bytes are.
//!
//! ```text
//! 30 len                          Message (RFC 1901, 3)
//!    02 len version               0 = v1, 1 = v2c
//!    04 len community
//!    a2 len                       PDU (RFC 3416, 3); a2 = Response
//!       02 len request-id
//!       02 len error-status
//!       02 len error-index
//!       30 len                    variable-bindings
//!          30 len  06 len name  tag len value   ...
//! ```
//!
//! [`read`] checks everything down to the list of varbinds; [`Varbinds`] checks each varbind when it is reached, so that a bad one
//! costs only itself. Refused: indefinite lengths, lengths of more than four octets, bytes after an element's end, wrong tags,
//! integers out of range. Each error names the element and its byte offset. Accepted, because devices do it: long-form lengths with
//! leading zeros, integers that are empty or padded, unsigned integers without the leading zero that would keep them from looking
//! negative, and exception values with the constructed bit set.

use std::fmt;

use super::oid::Oid;

/// Why bytes are not a message: what was being read, where, and what is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {offset}: {fault}")]
pub struct BerError {
    /// The element being read.
    pub what: &'static str,
    /// Offset of the element (for trailing bytes: of the first of them) from the start of the message.
    pub offset: usize,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What can be wrong with an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Tag, length or content run past the end of what encloses it.
    #[error("cut short: {missing} bytes are missing")]
    Truncated {
        /// How many bytes more it would need.
        missing: usize,
    },
    /// Another tag than the one due.
    #[error("tag {found:#04x} where {expected:#04x} is due")]
    Tag {
        /// Tag due.
        expected: u8,
        /// Tag found.
        found: u8,
    },
    /// A tag that is no SNMP value or PDU.
    #[error("unknown tag {0:#04x}")]
    UnknownTag(u8),
    /// The length octet 0x80 (RFC 3417, 8 forbids the form).
    #[error("indefinite length")]
    IndefiniteLength,
    /// A length of more than four octets.
    #[error("a length of {0} octets")]
    LengthTooLong(u8),
    /// An element ends before what encloses it does.
    #[error("{0} bytes too many")]
    TrailingBytes(usize),
    /// More octets than an integer of this type may have.
    #[error("an integer of {0} octets")]
    IntegerTooLong(usize),
    /// An integer outside its type's range.
    #[error("integer out of range")]
    IntegerOutOfRange,
    /// Content of another size than the type has.
    #[error("{found} octets where {expected} are due")]
    Size {
        /// Octets due.
        expected: usize,
        /// Octets found.
        found: usize,
    },
    /// An object identifier that is empty or ends within a sub-identifier.
    #[error("not an object identifier")]
    ObjectIdentifier,
    /// Neither v1 nor v2c.
    #[error("SNMP version number {0} is neither 0 (v1) nor 1 (v2c)")]
    Version(i32),
}

/// SNMP version of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// SNMPv1 (RFC 1157), number 0.
    V1,
    /// SNMPv2c (RFC 1901), number 1.
    V2c,
}

/// Type of a PDU by its tag (RFC 3416, 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the standard's")]
pub enum PduType {
    Get,
    GetNext,
    Response,
    Set,
    GetBulk,
    Inform,
    Trap,
    Report,
}

/// A message whose header has been read. Everything is borrowed from the datagram.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    /// SNMP version.
    pub version: Version,
    /// Community string.
    pub community: &'a [u8],
    /// PDU type.
    pub pdu: PduType,
    /// Request id.
    pub request_id: i32,
    /// Error status; 0 = noError. In a GetBulk: non-repeaters.
    pub error_status: u32,
    /// Error index, counted from 1. In a GetBulk: max-repetitions.
    pub error_index: u32,
    request_id_at: usize,
    request_id_octets: usize,
    varbinds: Reader<'a>,
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, pdu, request_id, error_status, error_index, .. } = self;
        write!(
            f,
            "{version:?} {pdu:?} request {request_id} status {error_status} index {error_index}, {} bytes of varbinds",
            self.varbinds_len()
        )
    }
}

impl<'a> Message<'a> {
    /// The varbinds, read as they are asked for.
    #[must_use]
    pub fn varbinds(&self) -> Varbinds<'a> {
        Varbinds { list: self.varbinds }
    }

    /// Octets of the list of varbinds.
    #[must_use]
    pub fn varbinds_len(&self) -> usize {
        self.varbinds.end - self.varbinds.at
    }

    /// Where the request id's content octets are in the message, and how many there are.
    #[must_use]
    pub fn request_id_octets(&self) -> (usize, usize) {
        (self.request_id_at, self.request_id_octets)
    }
}

/// Reads a message's header and checks that its outer frames fit the datagram exactly.
///
/// # Errors
/// [`BerError`] as the module says; the varbinds themselves are not looked at.
pub fn read(datagram: &[u8]) -> Result<Message<'_>, BerError> {
    let mut outer = Reader { bytes: datagram, at: 0, end: datagram.len() };
    let mut message = outer.constructed(0x30, "message")?;
    outer.finish("message")?;
    let version = message.signed("version")?;
    let version = match version {
        0 => Version::V1,
        1 => Version::V2c,
        other => return Err(BerError { what: "version", offset: message.at, fault: Fault::Version(other) }),
    };
    let community = message.expect(0x04, "community")?.content;
    let pdu_at = message.at;
    let element = message.element("PDU")?;
    message.finish("message")?;
    let pdu = match element.tag {
        0xa0 => PduType::Get,
        0xa1 => PduType::GetNext,
        0xa2 => PduType::Response,
        0xa3 => PduType::Set,
        0xa5 => PduType::GetBulk,
        0xa6 => PduType::Inform,
        0xa7 => PduType::Trap,
        0xa8 => PduType::Report,
        found => return Err(BerError { what: "PDU", offset: pdu_at, fault: Fault::UnknownTag(found) }),
    };
    let mut body = element.reader(datagram);
    let request_id = body.expect(0x02, "request id")?;
    let error_status = body.non_negative("error status")?;
    let error_index = body.non_negative("error index")?;
    let varbinds = body.constructed(0x30, "list of varbinds")?;
    body.finish("PDU")?;
    Ok(Message {
        version,
        community,
        pdu,
        request_id: signed(&request_id, "request id")?,
        error_status,
        error_index,
        request_id_at: request_id.at,
        request_id_octets: request_id.content.len(),
        varbinds,
    })
}

/// Iterator over the varbinds of a message.
///
/// An `Err` is one bad varbind; the iterator goes on with the next, unless its frame itself is broken, which ends the list.
#[derive(Clone, Copy)]
pub struct Varbinds<'a> {
    list: Reader<'a>,
}

impl<'a> Iterator for Varbinds<'a> {
    type Item = Result<Varbind<'a>, BerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.list.at == self.list.end {
            return None;
        }
        let frame = match self.list.expect(0x30, "varbind") {
            Ok(frame) => frame,
            Err(error) => {
                self.list.at = self.list.end;
                return Some(Err(error));
            }
        };
        Some(varbind(frame.reader(self.list.bytes)))
    }
}

fn varbind(mut frame: Reader<'_>) -> Result<Varbind<'_>, BerError> {
    let name = frame.expect(0x06, "varbind name")?;
    if name.content.last().is_none_or(|octet| octet & 0x80 != 0) {
        return Err(BerError { what: "varbind name", offset: name.at, fault: Fault::ObjectIdentifier });
    }
    let value = frame.element("varbind value")?;
    frame.finish("varbind")?;
    Ok(Varbind { name: Oid::new(name.content), value })
}

/// A varbind whose name and frame are good; its value is decoded by [`Varbind::value`].
#[derive(Clone, Copy)]
pub struct Varbind<'a> {
    /// Its name.
    pub name: Oid<'a>,
    value: Element<'a>,
}

/// A value of RFC 2578's `ObjectSyntax`, or an exception (RFC 3416, 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the standard's")]
pub enum ValueView<'a> {
    Integer(i32),
    OctetString(&'a [u8]),
    ObjectIdentifier(Oid<'a>),
    IpAddress([u8; 4]),
    Counter32(u32),
    Unsigned32(u32),
    TimeTicks(u32),
    Opaque(&'a [u8]),
    Counter64(u64),
    Null,
    NoSuchObject,
    NoSuchInstance,
    EndOfMibView,
}

impl ValueView<'_> {
    /// The value as an unsigned number, if it is one and not negative.
    #[must_use]
    pub fn as_u64(self) -> Option<u64> {
        match self {
            Self::Integer(v) => u64::try_from(v).ok(),
            Self::Counter32(v) | Self::Unsigned32(v) | Self::TimeTicks(v) => Some(u64::from(v)),
            Self::Counter64(v) => Some(v),
            _ => None,
        }
    }

    /// The value as a float, if it is a number.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "asked for by gauges, which are floats")]
    pub fn as_f64(self) -> Option<f64> {
        match self {
            Self::Integer(v) => Some(f64::from(v)),
            other => other.as_u64().map(|v| v as f64),
        }
    }

    /// Whether it is noSuchObject, noSuchInstance or endOfMibView.
    #[must_use]
    pub fn is_exception(self) -> bool {
        matches!(self, Self::NoSuchObject | Self::NoSuchInstance | Self::EndOfMibView)
    }
}

impl<'a> Varbind<'a> {
    /// Decodes the value.
    ///
    /// # Errors
    /// An unknown tag, an integer out of its type's range, or content of a wrong size.
    pub fn value(&self) -> Result<ValueView<'a>, BerError> {
        let element = &self.value;
        let what = "varbind value";
        let sized = |expected: usize, value: ValueView<'a>| match element.content.len() {
            found if found == expected => Ok(value),
            found => Err(BerError { what, offset: element.at, fault: Fault::Size { expected, found } }),
        };
        Ok(match element.tag {
            0x46 => ValueView::Counter64(unsigned(element, what)?),
            0x41 => ValueView::Counter32(unsigned_32(element, what)?),
            0x02 => ValueView::Integer(signed(element, what)?),
            0x42 | 0x47 => ValueView::Unsigned32(unsigned_32(element, what)?),
            0x43 => ValueView::TimeTicks(unsigned_32(element, what)?),
            0x04 => ValueView::OctetString(element.content),
            0x06 => {
                if element.content.last().is_none_or(|octet| octet & 0x80 != 0) {
                    return Err(BerError { what, offset: element.at, fault: Fault::ObjectIdentifier });
                }
                ValueView::ObjectIdentifier(Oid::new(element.content))
            }
            0x40 => {
                let octets = element.content.try_into().unwrap_or_default();
                return sized(4, ValueView::IpAddress(octets));
            }
            0x44 => ValueView::Opaque(element.content),
            0x05 => return sized(0, ValueView::Null),
            0x80 | 0xa0 => return sized(0, ValueView::NoSuchObject),
            0x81 | 0xa1 => return sized(0, ValueView::NoSuchInstance),
            0x82 | 0xa2 => return sized(0, ValueView::EndOfMibView),
            found => return Err(BerError { what, offset: element.at, fault: Fault::UnknownTag(found) }),
        })
    }
}

/// A tag and its content; `at` is the content's offset in the message.
#[derive(Clone, Copy)]
struct Element<'a> {
    tag: u8,
    at: usize,
    content: &'a [u8],
}

impl<'a> Element<'a> {
    fn reader(&self, bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: self.at, end: self.at + self.content.len() }
    }
}

/// A window into the message; offsets stay those of the message. `at <= end <= bytes.len()` always.
#[derive(Clone, Copy)]
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    #[inline]
    fn element(&mut self, what: &'static str) -> Result<Element<'a>, BerError> {
        let start = self.at;
        let window = &self.bytes[start..self.end];
        let fail = |fault| Err(BerError { what, offset: start, fault });
        let [tag, first, rest @ ..] = window else {
            return fail(Fault::Truncated { missing: 2 - window.len() });
        };
        let (length, octets) = if *first < 0x80 {
            (usize::from(*first), 0)
        } else {
            match *first & 0x7f {
                0 => return fail(Fault::IndefiniteLength),
                octets @ 1..=4 => {
                    let octets = usize::from(octets);
                    let Some(digits) = rest.get(..octets) else {
                        return fail(Fault::Truncated { missing: octets - rest.len() });
                    };
                    (digits.iter().fold(0_usize, |sum, digit| sum << 8 | usize::from(*digit)), octets)
                }
                octets => return fail(Fault::LengthTooLong(octets)),
            }
        };
        let rest = &rest[octets..];
        let Some(content) = rest.get(..length) else {
            return fail(Fault::Truncated { missing: length - rest.len() });
        };
        let at = start + 2 + octets;
        self.at = at + length;
        Ok(Element { tag: *tag, at, content })
    }

    #[inline]
    fn expect(&mut self, expected: u8, what: &'static str) -> Result<Element<'a>, BerError> {
        let start = self.at;
        // The tag is looked at first: a wrong tag explains more than the wrong length that tends to follow it.
        match self.bytes[start..self.end].first() {
            Some(found) if *found != expected => Err(BerError { what, offset: start, fault: Fault::Tag { expected, found: *found } }),
            _ => self.element(what),
        }
    }

    fn constructed(&mut self, tag: u8, what: &'static str) -> Result<Reader<'a>, BerError> {
        Ok(self.expect(tag, what)?.reader(self.bytes))
    }

    fn signed(&mut self, what: &'static str) -> Result<i32, BerError> {
        signed(&self.expect(0x02, what)?, what)
    }

    fn non_negative(&mut self, what: &'static str) -> Result<u32, BerError> {
        let offset = self.at;
        u32::try_from(self.signed(what)?).map_err(|_| BerError { what, offset, fault: Fault::IntegerOutOfRange })
    }

    #[inline]
    fn finish(&self, what: &'static str) -> Result<(), BerError> {
        if self.at == self.end { Ok(()) } else { Err(BerError { what, offset: self.at, fault: Fault::TrailingBytes(self.end - self.at) }) }
    }
}

/// Two's complement, empty as 0, padded up to eight octets.
#[inline]
fn signed(element: &Element<'_>, what: &'static str) -> Result<i32, BerError> {
    let octets = element.content;
    let fail = |fault| BerError { what, offset: element.at, fault };
    if octets.len() > 8 {
        return Err(fail(Fault::IntegerTooLong(octets.len())));
    }
    let start = if octets.first().is_some_and(|octet| octet & 0x80 != 0) { -1_i64 } else { 0 };
    let value = octets.iter().fold(start, |sum, octet| sum << 8 | i64::from(*octet));
    i32::try_from(value).map_err(|_| fail(Fault::IntegerOutOfRange))
}

/// All octets taken as magnitude, empty as 0; at most nine, of which the first is then 0.
#[inline]
fn unsigned(element: &Element<'_>, what: &'static str) -> Result<u64, BerError> {
    let octets = match element.content {
        [0, rest @ ..] if rest.len() == 8 => rest,
        octets if octets.len() > 8 => return Err(BerError { what, offset: element.at, fault: Fault::IntegerTooLong(octets.len()) }),
        octets => octets,
    };
    Ok(octets.iter().fold(0, |sum, octet| sum << 8 | u64::from(*octet)))
}

#[inline]
fn unsigned_32(element: &Element<'_>, what: &'static str) -> Result<u32, BerError> {
    u32::try_from(unsigned(element, what)?).map_err(|_| BerError { what, offset: element.at, fault: Fault::IntegerOutOfRange })
}

#[cfg(test)]
#[path = "ber_tests.rs"]
mod tests;
