//! Object identifiers in their encoded form (X.690, 8.19), compared and cut without being decoded.
//!
//! A poll handles an OID per varbind, nearly always only to see that it is the one expected. So the hot path works on the content
//! octets; `csnmp::ObjectIdentifier` (528 bytes) is used where OIDs are written down or read by people.

use std::cmp::Ordering;
use std::fmt;

use csnmp::ObjectIdentifier;

/// The content octets of an encoded object identifier, borrowed from a message or a table of columns.
///
/// Comparison with `==` is by octets. Order is that of the sub-identifiers ([`Oid::order`]), not of the octets.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Oid<'a>(&'a [u8]);

impl<'a> Oid<'a> {
    /// Takes content octets as they are; they are checked when they are decoded.
    #[must_use]
    pub fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    /// The content octets.
    #[must_use]
    pub fn octets(self) -> &'a [u8] {
        self.0
    }

    /// What follows `column`, if this OID is below it: the row's index. `None` for the column itself.
    #[must_use]
    pub fn index_below(self, column: &[u8]) -> Option<&'a [u8]> {
        self.0.strip_prefix(column).filter(|index| !index.is_empty())
    }

    /// Order of two OIDs by their sub-identifiers (RFC 3416, 4.2.2: "lexicographic").
    #[must_use]
    pub fn order(self, other: Self) -> Ordering {
        order(self.0, other.0)
    }

    /// Decodes all sub-identifiers, the first octet split in two.
    ///
    /// `None` if a sub-identifier is cut, padded or above 2^32-1, or there are more than 128.
    #[must_use]
    pub fn decode(self) -> Option<ObjectIdentifier> {
        let mut parts = [0_u32; csnmp::oid::MAX_SUB_IDENTIFIER_COUNT];
        let mut rest = SubIdentifiers(self.0);
        let first = rest.next()??;
        let top = (first / 40).min(2);
        (parts[0], parts[1]) = (top, first - top * 40);
        let mut count = 2;
        for part in rest {
            *parts.get_mut(count)? = part?;
            count += 1;
        }
        ObjectIdentifier::try_from(&parts[..count]).ok()
    }
}

impl fmt::Display for Oid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.decode() {
            Some(oid) => write!(f, "{oid}"),
            None => write!(f, "invalid OID {:02x?}", self.0),
        }
    }
}

impl fmt::Debug for Oid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The sub-identifiers of encoded octets; `Some(None)` once where one is cut, padded or too large.
#[derive(Clone, Debug)]
pub struct SubIdentifiers<'a>(&'a [u8]);

impl<'a> SubIdentifiers<'a> {
    /// Over the octets of an index, which has no first octet to split.
    #[must_use]
    pub fn of_index(octets: &'a [u8]) -> Self {
        Self(octets)
    }
}

impl Iterator for SubIdentifiers<'_> {
    type Item = Option<u32>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let mut value = 0_u64;
        let padded = self.0[0] == 0x80;
        for (at, octet) in self.0.iter().enumerate().take(5) {
            value = value << 7 | u64::from(octet & 0x7f);
            if octet & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                return Some(u32::try_from(value).ok().filter(|_| !padded));
            }
        }
        self.0 = &[];
        Some(None)
    }
}

/// Whether `octets` are whole, unpadded sub-identifiers below 2^32, at least one.
#[must_use]
pub fn is_valid_index(octets: &[u8]) -> bool {
    !octets.is_empty() && SubIdentifiers(octets).all(|part| part.is_some())
}

/// An index as people write it: `3` or `10.0.0.1`.
#[must_use]
pub fn index_text(octets: &[u8]) -> String {
    let parts: Vec<String> = SubIdentifiers(octets).map(|part| part.map_or_else(|| "?".to_owned(), |p| p.to_string())).collect();
    parts.join(".")
}

/// Order of two encoded OIDs, or of two indices, by sub-identifiers. Total on any octets.
///
/// Octets alone do not order: 16384 (81 80 00) is above 16383 (ff 7f). So the first difference is widened to whole sub-identifiers.
#[must_use]
pub fn order(a: &[u8], b: &[u8]) -> Ordering {
    let same = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    if same == a.len() || same == b.len() {
        return a.len().cmp(&b.len());
    }
    let start = a[..same].iter().rposition(|octet| octet & 0x80 == 0).map_or(0, |at| at + 1);
    let (left, right) = (sub_identifier(&a[start..]), sub_identifier(&b[start..]));
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

/// The octets of the first sub-identifier: up to the first octet without the continuation bit.
fn sub_identifier(octets: &[u8]) -> &[u8] {
    let end = octets.iter().position(|octet| octet & 0x80 == 0).map_or(octets.len(), |at| at + 1);
    &octets[..end]
}

/// Content octets of an OID.
#[must_use]
pub fn encode(oid: &ObjectIdentifier) -> Vec<u8> {
    let parts = oid.as_slice();
    let mut octets = Vec::with_capacity(parts.len() + 2);
    let (first, rest) = match parts {
        [] => (0, parts),
        [top] => (top.saturating_mul(40), &parts[1..]),
        [top, second, rest @ ..] => (top.saturating_mul(40).saturating_add(*second), rest),
    };
    encode_part(first, &mut octets);
    for part in rest {
        encode_part(*part, &mut octets);
    }
    octets
}

fn encode_part(part: u32, out: &mut Vec<u8>) {
    for shift in [28, 21, 14, 7] {
        if part >> shift != 0 {
            out.push(0x80 | (part >> shift & 0x7f) as u8);
        }
    }
    out.push((part & 0x7f) as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn oid(parts: &[u32]) -> ObjectIdentifier {
        ObjectIdentifier::try_from(parts).unwrap()
    }

    #[test]
    fn what_follows_a_column_is_the_index() {
        let column = encode(&oid(&[1, 3, 6, 1, 2, 1, 2, 2, 1, 10]));
        let cell = encode(&oid(&[1, 3, 6, 1, 2, 1, 2, 2, 1, 10, 70_000]));
        assert_eq!(Oid::new(&cell).index_below(&column).map(index_text), Some("70000".to_owned()));
        assert_eq!(Oid::new(&column).index_below(&column), None);
        // 1.3.6.1.2.1.2.2.1.1 is no prefix of ...2.2.1.10, though their decimal texts suggest it.
        assert_eq!(Oid::new(&cell).index_below(&encode(&oid(&[1, 3, 6, 1, 2, 1, 2, 2, 1, 1]))), None);
    }

    #[test]
    fn invalid_octets_are_not_decoded() {
        for octets in [
            &[][..],
            &[0x2b, 0x80],
            &[0x2b, 0x80, 0x01],
            &[0x2b, 0x90, 0x80, 0x80, 0x80, 0x00],
            &[0x2b, 0x81, 0x81, 0x81, 0x81, 0x81, 0x01],
        ] {
            assert_eq!(Oid::new(octets).decode(), None, "{octets:02x?}");
        }
        assert!(is_valid_index(&[0x8f, 0xff, 0xff, 0xff, 0x7f]));
        assert!(!is_valid_index(&[]));
    }

    proptest! {
        #[test]
        fn encoding_round_trips_and_keeps_order(
            a in prop::collection::vec(prop_oneof![0_u32..4, 126..130_u32, 16_380..16_390_u32, any::<u32>()], 0..6),
            b in prop::collection::vec(prop_oneof![0_u32..4, 126..130_u32, 16_380..16_390_u32, any::<u32>()], 0..6),
        ) {
            let (a, b) = ([&[1, 3][..], &a].concat(), [&[1, 3][..], &b].concat());
            let (x, y) = (encode(&oid(&a)), encode(&oid(&b)));
            prop_assert_eq!(Oid::new(&x).decode().unwrap(), oid(&a));
            prop_assert_eq!(order(&x, &y), a.cmp(&b));
        }

        #[test]
        fn order_is_total_on_any_octets(a in prop::collection::vec(any::<u8>(), 0..12), b in prop::collection::vec(any::<u8>(), 0..12)) {
            prop_assert_eq!(order(&a, &b), order(&b, &a).reverse());
            let _ = (Oid::new(&a).to_string(), index_text(&b));
        }
    }
}
