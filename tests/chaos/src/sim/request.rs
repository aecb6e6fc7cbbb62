//! Reads a request (RFC 1157 section 4, RFC 3416 section 3): community, PDU, and the names asked for.
//!
//! One `Request` is reused for all datagrams so that reading allocates nothing. Values sent along are
//! skipped unread. Anything that is not a complete v1 or v2c request is refused.

use std::ops::Range;

use super::ber::{self, BerError, Reader};

/// Most variable bindings a request may carry; a datagram of 64 KiB holds fewer.
const MAX_ASKED: usize = 4096;

/// The message version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    #[default]
    V2c,
}

/// What a manager may ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Pdu {
    #[default]
    Get,
    GetNext,
    GetBulk,
    Set,
}

#[derive(Clone, Debug, Default)]
struct Asked {
    arcs: Range<usize>,
    octets: Range<usize>,
}

/// One request, as ranges into its datagram.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) version: Version,
    pub(crate) pdu: Pdu,
    pub(crate) request_id: i32,
    pub(crate) non_repeaters: usize,
    pub(crate) max_repetitions: usize,
    community: Range<usize>,
    arcs: Vec<u32>,
    asked: Vec<Asked>,
}

impl Request {
    /// Reads a datagram, replacing what was here before.
    pub(crate) fn read(&mut self, datagram: &[u8]) -> Result<(), BerError> {
        self.arcs.clear();
        self.asked.clear();
        let mut message = Reader::new(datagram).expect(ber::SEQUENCE, "not a message")?;
        self.version = match message.integer("no version")? {
            0 => Version::V1,
            1 => Version::V2c,
            _ => return message.error("version is neither v1 nor v2c"),
        };
        self.community = message.expect(ber::OCTET_STRING, "no community")?.range();
        if self.community.len() > 255 {
            return message.error("community longer than 255 octets");
        }
        let (tag, mut pdu) = message.element()?;
        self.pdu = match (tag, self.version) {
            (0xa0, _) => Pdu::Get,
            (0xa1, _) => Pdu::GetNext,
            (0xa3, _) => Pdu::Set,
            (0xa5, Version::V2c) => Pdu::GetBulk,
            _ => return message.error("pdu is not a request"),
        };
        self.request_id = pdu.integer("no request id")?;
        // RFC 3416 section 4.2.3: negative counts are taken as zero.
        self.non_repeaters = usize::try_from(pdu.integer("no error status or non-repeaters")?).unwrap_or(0);
        self.max_repetitions = usize::try_from(pdu.integer("no error index or max-repetitions")?).unwrap_or(0);
        let mut bindings = pdu.expect(ber::SEQUENCE, "no variable bindings")?;
        if !pdu.is_empty() || !message.is_empty() {
            return pdu.error("bytes after the variable bindings");
        }
        while !bindings.is_empty() {
            let mut binding = bindings.expect(ber::SEQUENCE, "not a variable binding")?;
            let name = binding.expect(ber::OBJECT_ID, "variable binding without a name")?;
            binding.element()?;
            if !binding.is_empty() || self.asked.len() == MAX_ASKED {
                return Err(BerError { at: binding.position(), what: "too much in a variable binding or too many of them" });
            }
            let start = self.arcs.len();
            name.oid(&mut self.arcs)?;
            self.asked.push(Asked { arcs: start..self.arcs.len(), octets: name.range() });
        }
        Ok(())
    }

    pub(crate) fn community<'a>(&self, datagram: &'a [u8]) -> &'a [u8] {
        &datagram[self.community.clone()]
    }

    /// How many names are asked for.
    pub(crate) fn len(&self) -> usize {
        self.asked.len()
    }

    /// Sub-identifiers of the name at this position.
    pub(crate) fn arcs(&self, position: usize) -> &[u32] {
        &self.arcs[self.asked[position].arcs.clone()]
    }

    /// The same name as it was encoded.
    pub(crate) fn octets<'a>(&self, position: usize, datagram: &'a [u8]) -> &'a [u8] {
        &datagram[self.asked[position].octets.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// GetBulk, v2c, community `public`, 1.3.6.1.2.1.2.2.1.10, with net-snmp's long lengths.
    const BULK: &[u8] = &[
        0x30, 0x82, 0x00, 0x27, 0x02, 0x01, 0x01, 0x04, 0x06, b'p', b'u', b'b', b'l', b'i', b'c', 0xa5, 0x1a, 0x02, 0x02, 0x12, 0x34, 0x02,
        0x01, 0x01, 0x02, 0x01, 0x19, 0x30, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x2b, 6, 1, 2, 1, 2, 2, 1, 10, 0x05, 0x00,
    ];

    #[test]
    fn a_bulk_request_is_read() {
        let mut request = Request::default();
        // The sample carries one octet less than its outer length says; mend it here to keep the literal readable.
        let mut datagram = BULK.to_vec();
        datagram[3] = (datagram.len() - 4) as u8;
        datagram[16] = (datagram.len() - 17) as u8;
        request.read(&datagram).expect("valid");
        assert_eq!((request.version, request.pdu, request.request_id), (Version::V2c, Pdu::GetBulk, 0x1234));
        assert_eq!((request.non_repeaters, request.max_repetitions, request.len()), (1, 25, 1));
        assert_eq!(request.community(&datagram), b"public");
        assert_eq!(request.arcs(0), [1, 3, 6, 1, 2, 1, 2, 2, 1, 10]);
        datagram[6] = 3;
        assert_eq!(request.read(&datagram).unwrap_err().what, "version is neither v1 nor v2c");
        datagram[6] = 0;
        assert_eq!(request.read(&datagram).unwrap_err().what, "pdu is not a request");
    }

    proptest! {
        #[test]
        fn no_datagram_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::default().read(&bytes);
        }

        #[test]
        fn no_mutilated_request_panics(at in 0..BULK.len(), with in any::<u8>(), cut in 0..=BULK.len()) {
            let mut bytes = BULK.to_vec();
            bytes[at] = with;
            bytes.truncate(cut);
            let _ = Request::default().read(&bytes);
        }
    }
}
