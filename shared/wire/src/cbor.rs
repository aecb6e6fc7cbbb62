//! CBOR (RFC 8949) with limits checked before decoding.
//!
//! `serde_cbor` is unmaintained (RUSTSEC-2021-0127), so hostile bytes are first walked by a checker of our own that bounds
//! nesting, item counts and lengths and refuses what we never write: tags, indefinite lengths, reserved forms.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::WireError;
use crate::limits::{CBOR_DEPTH_MAX, CBOR_ITEMS_MAX};

/// Encodes `value`; struct fields by name, so that fields can be added later.
///
/// # Errors
/// A value that cannot be represented, such as a map with a failing serializer.
pub fn to_vec<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, WireError> {
    serde_cbor::to_vec(value).map_err(|e| WireError::Encode { what, why: e.to_string() })
}

/// Decodes one item that fills `bytes`, of at most `max` bytes.
///
/// # Errors
/// Anything over a limit, not well-formed, not of the type, or followed by more bytes.
pub fn from_slice<T: DeserializeOwned>(what: &'static str, bytes: &[u8], max: usize) -> Result<T, WireError> {
    if bytes.len() > max {
        return Err(WireError::TooLarge { what, size: bytes.len(), limit: max });
    }
    check(what, bytes, CBOR_ITEMS_MAX)?;
    decode(what, bytes)
}

/// Decodes a file of our own, whose checksum the caller has verified: well-formed, but of any number of items.
///
/// # Errors
/// Anything nested too deeply, not well-formed, not of the type, or followed by more bytes.
pub fn from_own_file<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, WireError> {
    check(what, bytes, usize::MAX)?;
    decode(what, bytes)
}

fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, WireError> {
    serde_cbor::from_slice(bytes).map_err(|e| WireError::malformed(what, usize::try_from(e.offset()).unwrap_or(0), e.to_string()))
}

/// Walks one item without allocating beyond a small stack.
fn check(what: &'static str, bytes: &[u8], items_max: usize) -> Result<(), WireError> {
    let mut open: Vec<u64> = Vec::with_capacity(CBOR_DEPTH_MAX);
    let (mut at, mut items) = (0_usize, 0_usize);
    loop {
        items += 1;
        if items > items_max {
            return Err(WireError::TooLarge { what, size: items, limit: items_max });
        }
        let start = at;
        let (major, argument) = head(what, bytes, &mut at)?;
        match major {
            0 | 1 | 7 => {}
            2 | 3 => {
                let length = usize::try_from(argument).unwrap_or(usize::MAX);
                at = at.checked_add(length).filter(|end| *end <= bytes.len()).ok_or(WireError::Truncated { what, at: start })?;
            }
            4 | 5 => {
                let members = if major == 5 { argument.saturating_mul(2) } else { argument };
                if members > (bytes.len() - at) as u64 {
                    return Err(WireError::Truncated { what, at: start });
                }
                if open.len() == CBOR_DEPTH_MAX {
                    return Err(WireError::malformed(what, start, format!("nested deeper than {CBOR_DEPTH_MAX}")));
                }
                open.push(members.saturating_add(1));
            }
            _ => return Err(WireError::malformed(what, start, "tags are not part of this protocol")),
        }
        while let Some(left) = open.last_mut() {
            *left -= 1;
            if *left > 0 {
                break;
            }
            open.pop();
        }
        if open.is_empty() {
            break;
        }
    }
    if at < bytes.len() {
        return Err(WireError::malformed(what, at, format!("{} bytes follow the item", bytes.len() - at)));
    }
    Ok(())
}

/// The major type and argument of the item head at `at`, which moves past it.
fn head(what: &'static str, bytes: &[u8], at: &mut usize) -> Result<(u8, u64), WireError> {
    let start = *at;
    let truncated = WireError::Truncated { what, at: start };
    let initial = *bytes.get(start).ok_or(truncated.clone())?;
    let (major, short) = (initial >> 5, initial & 0x1f);
    let width = match short {
        0..=23 => 0,
        24..=27 => 1_usize << (short - 24),
        _ => return Err(WireError::malformed(what, start, "indefinite lengths and reserved forms are not part of this protocol")),
    };
    let argument = bytes.get(start + 1..start + 1 + width).ok_or(truncated)?;
    *at = start + 1 + width;
    let value = if width == 0 { u64::from(short) } else { argument.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)) };
    Ok((major, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_items_are_refused_before_decoding() {
        let deep: Vec<u8> = [vec![0x81; 40], vec![0x00]].concat();
        let cases: [(&[u8], &str); 8] = [
            (&[], "message is truncated at byte 0"),
            (&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "message is truncated at byte 0"),
            (&[0x5a, 0x7f, 0xff, 0xff, 0xff], "message is truncated at byte 0"),
            (&[0x9f, 0xff], "message is malformed at byte 0: indefinite lengths and reserved forms are not part of this protocol"),
            (&[0xc0, 0x00], "message is malformed at byte 0: tags are not part of this protocol"),
            (&[0x00, 0x00], "message is malformed at byte 1: 1 bytes follow the item"),
            (&[0x82, 0x01], "message is truncated at byte 0"),
            (&deep, "message is malformed at byte 16: nested deeper than 16"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(from_slice::<Vec<u64>>("message", bytes, 100).unwrap_err().to_string(), expected, "{bytes:02x?}");
        }
        assert_eq!(from_slice::<u64>("message", &[0; 9], 8), Err(WireError::TooLarge { what: "message", size: 9, limit: 8 }));
    }

    proptest! {
        #[test]
        fn whatever_we_write_passes_the_check(value in proptest::collection::vec((any::<u64>(), any::<Option<i64>>(), ".*", any::<f64>()), 0..20)) {
            let bytes = to_vec("message", &value).unwrap();
            let back: Vec<(u64, Option<i64>, String, f64)> = from_slice("message", &bytes, 1 << 20).unwrap();
            prop_assert_eq!(format!("{back:?}"), format!("{value:?}"));
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = from_slice::<Vec<(u64, String)>>("message", &bytes, 1 << 20);
        }
    }
}
