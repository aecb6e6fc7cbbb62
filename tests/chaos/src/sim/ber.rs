//! The few BER rules SNMP needs (X.690 as restricted by RFC 3417 section 8).
//!
//! The reader accepts what real managers send: long-form lengths with leading zeros, integers with
//! redundant leading octets. It refuses indefinite lengths, lengths past the end, and numbers that do not fit.

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const NULL: u8 = 0x05;
pub(crate) const OBJECT_ID: u8 = 0x06;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const IP_ADDRESS: u8 = 0x40;
pub(crate) const COUNTER32: u8 = 0x41;
pub(crate) const GAUGE32: u8 = 0x42;
pub(crate) const TIME_TICKS: u8 = 0x43;
pub(crate) const OPAQUE: u8 = 0x44;
pub(crate) const COUNTER64: u8 = 0x46;
pub(crate) const NO_SUCH_OBJECT: u8 = 0x80;
pub(crate) const NO_SUCH_INSTANCE: u8 = 0x81;
pub(crate) const END_OF_MIB_VIEW: u8 = 0x82;

/// Most sub-identifiers an OID may have (RFC 2578 section 3.5).
const MAX_ARCS: usize = 128;

/// A datagram that is not the BER it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {what}")]
pub(crate) struct BerError {
    pub(crate) at: usize,
    pub(crate) what: &'static str,
}

/// Reads elements one after the other; positions are those of the whole datagram.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, end: bytes.len() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at >= self.end
    }

    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn error<T>(&self, what: &'static str) -> Result<T, BerError> {
        Err(BerError { at: self.at, what })
    }

    fn octet(&mut self) -> Result<u8, BerError> {
        if self.at >= self.end {
            return self.error("ends too early");
        }
        let octet = self.bytes[self.at];
        self.at += 1;
        Ok(octet)
    }

    /// The next element's tag and a reader of its contents.
    pub(crate) fn element(&mut self) -> Result<(u8, Reader<'a>), BerError> {
        let tag = self.octet()?;
        let first = self.octet()?;
        let length = if first < 0x80 {
            usize::from(first)
        } else {
            let octets = usize::from(first & 0x7f);
            if octets == 0 || octets > 4 {
                return self.error("length of an unsupported form");
            }
            let mut length = 0_usize;
            for _ in 0..octets {
                length = length << 8 | usize::from(self.octet()?);
            }
            length
        };
        if length > self.end - self.at {
            return self.error("length past the end");
        }
        let contents = Reader { bytes: self.bytes, at: self.at, end: self.at + length };
        self.at += length;
        Ok((tag, contents))
    }

    /// The next element, which must have this tag.
    pub(crate) fn expect(&mut self, tag: u8, what: &'static str) -> Result<Reader<'a>, BerError> {
        let at = self.at;
        match self.element()? {
            (found, contents) if found == tag => Ok(contents),
            _ => Err(BerError { at, what }),
        }
    }

    /// The next element, an INTEGER of 32 bits.
    pub(crate) fn integer(&mut self, what: &'static str) -> Result<i32, BerError> {
        let contents = self.expect(INTEGER, what)?;
        let octets = contents.rest();
        if octets.is_empty() || octets.len() > 8 {
            return contents.error("integer of an odd size");
        }
        let sign = if octets[0] & 0x80 == 0 { 0 } else { -1_i64 };
        let wide = octets.iter().fold(sign, |value, octet| value << 8 | i64::from(*octet));
        i32::try_from(wide).map_err(|_| BerError { at: contents.at, what: "integer beyond 32 bits" })
    }

    /// All contents not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..self.end]
    }

    /// Where the contents not read yet stand in the datagram.
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        self.at..self.end
    }

    /// Reads the contents as an OID and appends its sub-identifiers to `arcs`.
    pub(crate) fn oid(&self, arcs: &mut Vec<u32>) -> Result<(), BerError> {
        let start = arcs.len();
        let mut value = 0_u32;
        let mut open = false;
        for (offset, octet) in self.rest().iter().enumerate() {
            if value > u32::MAX >> 7 {
                return Err(BerError { at: self.at + offset, what: "sub-identifier beyond 32 bits" });
            }
            value = value << 7 | u32::from(octet & 0x7f);
            open = octet & 0x80 != 0;
            if open {
                continue;
            }
            if arcs.len() == start {
                let first = (value / 40).min(2);
                arcs.push(first);
                value -= first * 40;
            }
            if arcs.len() - start >= MAX_ARCS {
                return Err(BerError { at: self.at + offset, what: "more than 128 sub-identifiers" });
            }
            arcs.push(value);
            value = 0;
        }
        if open || arcs.len() == start {
            return self.error("oid ends too early");
        }
        Ok(())
    }
}

/// Octets a sub-identifier takes.
pub(crate) fn arc_len(arc: u32) -> usize {
    match arc {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        0x20_0000..=0xfff_ffff => 4,
        _ => 5,
    }
}

/// Appends a sub-identifier.
pub(crate) fn put_arc(arc: u32, out: &mut Vec<u8>) {
    for position in (1..arc_len(arc)).rev() {
        out.push((arc >> (7 * position)) as u8 | 0x80);
    }
    out.push(arc as u8 & 0x7f);
}

/// The contents octets of an OID; one with fewer than two sub-identifiers is padded with zero.
pub(crate) fn oid_octets(arcs: &[u32]) -> Vec<u8> {
    let first = arcs.first().copied().unwrap_or(0).min(2);
    let second = arcs.get(1).copied().unwrap_or(0);
    let mut out = Vec::with_capacity(arcs.len() + 4);
    put_arc((first * 40).saturating_add(second), &mut out);
    for arc in arcs.iter().skip(2) {
        put_arc(*arc, &mut out);
    }
    out
}

/// `1.3.6.1` (a leading dot is fine) as sub-identifiers.
pub(crate) fn parse_oid(text: &str) -> Option<Vec<u32>> {
    let arcs: Option<Vec<u32>> = text.trim().trim_start_matches('.').split('.').map(|arc| arc.parse().ok()).collect();
    arcs.filter(|arcs| (2..=MAX_ARCS).contains(&arcs.len()) && arcs[0] <= 2 && (arcs[0] == 2 || arcs[1] < 40))
}

/// Octets a length field takes.
pub(crate) fn length_len(length: usize) -> usize {
    match length {
        0..=0x7f => 1,
        0x80..=0xff => 2,
        _ => 3,
    }
}

/// Octets of a whole element with contents of this length.
pub(crate) fn element_len(contents: usize) -> usize {
    1 + length_len(contents) + contents
}

/// Appends a length field; contents here never reach 64 KiB.
pub(crate) fn put_length(length: usize, out: &mut Vec<u8>) {
    match length {
        0..=0x7f => out.push(length as u8),
        0x80..=0xff => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
}

/// Contents octets of an unsigned number: minimal, with a zero in front where the top bit is set.
pub(crate) fn unsigned_len(value: u64) -> usize {
    (64 - value.leading_zeros() as usize) / 8 + 1
}

/// Appends the contents octets of an unsigned number.
pub(crate) fn put_unsigned(value: u64, out: &mut Vec<u8>) {
    let length = unsigned_len(value);
    if length == 9 {
        out.push(0);
    }
    out.extend_from_slice(&value.to_be_bytes()[8_usize.saturating_sub(length)..]);
}

/// Contents octets of a signed number.
pub(crate) fn signed_len(value: i32) -> usize {
    let magnitude = if value < 0 { !value } else { value };
    (32 - magnitude.leading_zeros() as usize) / 8 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_oid(octets: &[u8]) -> Result<Vec<u32>, BerError> {
        let mut arcs = Vec::new();
        Reader::new(octets).oid(&mut arcs).map(|()| arcs)
    }

    #[test]
    fn oids_survive_a_round_trip() {
        for text in ["1.3.6.1.2.1.1.1.0", "0.0", "2.999.4294967295.128.16384", "1.3.6.1.4.1.2636.1.1.1.2.25"] {
            let arcs = parse_oid(text).expect("valid");
            assert_eq!(read_oid(&oid_octets(&arcs)), Ok(arcs), "{text}");
        }
        for text in ["", "1", "3.1", "1.40", "1.3.x", "1..3", "1.3.4294967296"] {
            assert_eq!(parse_oid(text), None, "{text}");
        }
    }

    #[test]
    fn unsigned_numbers_are_minimal() {
        for (value, octets) in [
            (0, vec![0]),
            (127, vec![0x7f]),
            (128, vec![0, 0x80]),
            (0xffff_ffff, vec![0, 0xff, 0xff, 0xff, 0xff]),
            (9_223_372_036_854_775_809, vec![0, 0x80, 0, 0, 0, 0, 0, 0, 1]),
            (u64::MAX, vec![0, 255, 255, 255, 255, 255, 255, 255, 255]),
        ] {
            let mut out = Vec::new();
            put_unsigned(value, &mut out);
            assert_eq!((out.len(), out), (unsigned_len(value), octets), "{value}");
        }
    }

    #[test]
    fn malformed_elements_are_refused_with_their_place() {
        for (octets, what) in [
            (&[][..], "ends too early"),
            (&[0x30], "ends too early"),
            (&[0x30, 0x80, 0, 0], "length of an unsupported form"),
            (&[0x30, 5, 0], "length past the end"),
            (&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], "length past the end"),
        ] {
            let error = Reader::new(octets).element().err().expect("refused");
            assert_eq!(error.what, what);
        }
        assert_eq!(read_oid(&[0x2b, 0x86]).unwrap_err().what, "oid ends too early");
        assert_eq!(read_oid(&[0x2b, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]).unwrap_err().what, "sub-identifier beyond 32 bits");
        assert_eq!(Reader::new(&[2, 5, 1, 0, 0, 0, 0]).integer("n").unwrap_err().what, "integer beyond 32 bits");
        assert_eq!(Reader::new(&[2, 5, 0, 0xff, 0xff, 0xff, 0xff]).integer("n").unwrap_err().what, "integer beyond 32 bits");
        assert_eq!(Reader::new(&[2, 0x82, 0, 2, 0xff, 0x7f]).integer("n"), Ok(-129));
    }
}
