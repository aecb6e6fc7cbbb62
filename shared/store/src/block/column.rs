//! A column of integers: whichever of four encodings is shortest.
//!
//! ```text
//! column := 0                              no values, or all 0
//!         | 1  varint(zigzag)              all the same
//!         | 2  varint(length)  pco         classic mode, differences already taken by the caller
//!         | 3  varint(zigzag) each         for few values
//!         | 4  8 bytes each                where nothing helps
//! ```
//! The number of values is not stored: the reader knows it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pco::standalone::{simple_compress, simple_decompress_into};
use pco::{ChunkConfig, DeltaSpec, ModeSpec};

use crate::varint::{Reader, put, put_bytes, zigzag};

const ZERO: u8 = 0;
const SAME: u8 = 1;
const PCO: u8 = 2;
const VARINT: u8 = 3;
const PLAIN: u8 = 4;

/// Fewer values than this are not worth pco's own header.
const PCO_MIN: usize = 16;
/// Best ratio for the cost on interface counters; higher levels gain under 1%.
const PCO_LEVEL: usize = 4;

/// Appends a column.
pub(super) fn write(out: &mut Vec<u8>, values: &[i64]) {
    let first = values.first().copied().unwrap_or(0);
    if values.iter().all(|v| *v == first) {
        if first == 0 {
            out.push(ZERO);
        } else {
            out.push(SAME);
            put(out, zigzag(first));
        }
        return;
    }
    let varint_len: usize = values.iter().map(|v| (64 - (zigzag(*v) | 1).leading_zeros() as usize).div_ceil(7)).sum();
    let plain_len = values.len() * 8;
    let packed = if values.len() >= PCO_MIN { compress(values) } else { None };
    match packed {
        Some(packed) if packed.len() + 3 < varint_len.min(plain_len) => {
            out.push(PCO);
            put_bytes(out, &packed);
        }
        _ if varint_len < plain_len => {
            out.push(VARINT);
            values.iter().for_each(|v| put(out, zigzag(*v)));
        }
        _ => {
            out.push(PLAIN);
            values.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
        }
    }
}

fn compress(values: &[i64]) -> Option<Vec<u8>> {
    let config =
        ChunkConfig::default().with_compression_level(PCO_LEVEL).with_mode_spec(ModeSpec::Classic).with_delta_spec(DeltaSpec::NoOp);
    simple_compress(values, &config).ok()
}

/// Reads a column of `count` values; the caller has checked `count` against a limit.
pub(super) fn read(bytes: &mut Reader<'_>, count: usize) -> Option<Vec<i64>> {
    match bytes.byte()? {
        ZERO => Some(vec![0; count]),
        SAME => Some(vec![bytes.signed()?; count]),
        PCO => decompress(bytes.bytes()?, count),
        VARINT => (0..count).map(|_| bytes.signed()).collect(),
        PLAIN => (0..count).map(|_| bytes.u64().map(|v| v as i64)).collect(),
        _ => None,
    }
}

/// The checksum has been checked, so this is what a writer wrote; a decoder's panic over bytes that were wrong before they were
/// summed must still not end the process.
fn decompress(packed: &[u8], count: usize) -> Option<Vec<i64>> {
    let decode = || {
        let mut values = vec![0_i64; count];
        let progress = simple_decompress_into(packed, &mut values).ok()?;
        (progress.finished && progress.n_processed == count).then_some(values)
    };
    catch_unwind(AssertUnwindSafe(decode)).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_gives_back_what_went_in() {
        let noise = |n: i64| n.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        for (tag, values) in [
            (ZERO, vec![]),
            (ZERO, vec![0; 50]),
            (SAME, vec![i64::MIN; 7]),
            (VARINT, vec![1, -2, 300]),
            (PLAIN, (0..10).map(noise).map(noise).collect()),
            (PCO, (0..2000).map(|n| 10_000 + noise(n) % 7).collect()),
        ] {
            let mut out = Vec::new();
            write(&mut out, &values);
            assert_eq!(out[0], tag, "{values:?}");
            let mut reader = Reader::new(&out);
            assert_eq!(read(&mut reader, values.len()), Some(values));
            assert!(reader.is_empty());
            for end in 1..out.len().min(50) {
                assert_eq!(read(&mut Reader::new(&out[..end]), 2000), None, "cut at {end}");
            }
        }
    }
}
