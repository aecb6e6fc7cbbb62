//! The root: a block's last page, which says what is in it.
//!
//! ```text
//! "ANBR" | u16 version | u16 level | u64 priority | u64 first time | u64 last time | u64 covered | u64 samples | u32 series | u32 chunks
//!        | u32 data pages | u32 index pages | u64 index bytes | u64 compressed index bytes              little-endian
//! ```
//! *Priority* is the id of the oldest block whose samples are in it: of two different values at one time the one with the lowest priority
//! counts. *Covered* is the caller's mark up to which everything is in this and earlier blocks; 0 where the block says nothing about it.
//! *Level* counts how often its samples were compacted.

use crate::backend::BlockId;
use crate::error::StoreError;
use crate::varint::Reader;

const MAGIC: &[u8; 4] = b"ANBR";
const VERSION: u16 = 1;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) level: u16,
    pub(crate) priority: u64,
    pub(crate) first_ms: i64,
    pub(crate) last_ms: i64,
    pub(crate) covered: u64,
    pub(crate) samples: u64,
    pub(crate) series: u32,
    pub(crate) chunks: u32,
    pub(crate) data_pages: u32,
    pub(crate) index_pages: u32,
    pub(crate) index_bytes: u64,
    pub(crate) packed_index_bytes: u64,
}

impl Root {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(80);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.level.to_le_bytes());
        for word in [self.priority, self.first_ms as u64, self.last_ms as u64, self.covered, self.samples] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for word in [self.series, self.chunks, self.data_pages, self.index_pages] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for word in [self.index_bytes, self.packed_index_bytes] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// Reads the root of `block` from the payload of its page `number`.
    pub(crate) fn decode(block: BlockId, number: u32, payload: &[u8]) -> Result<Self, StoreError> {
        let short = || StoreError::corrupt(block, number, "the root is cut short");
        let mut bytes = Reader::new(payload);
        if bytes.take(4) != Some(MAGIC) {
            return Err(StoreError::corrupt(block, number, "not a root: wrong magic"));
        }
        let version = bytes.u16().ok_or_else(short)?;
        if version > VERSION {
            return Err(StoreError::Version { block, found: version, supported: VERSION });
        }
        Self::decode_fields(&mut bytes).ok_or_else(short)
    }

    fn decode_fields(bytes: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            level: bytes.u16()?,
            priority: bytes.u64()?,
            first_ms: bytes.u64()? as i64,
            last_ms: bytes.u64()? as i64,
            covered: bytes.u64()?,
            samples: bytes.u64()?,
            series: bytes.u32()?,
            chunks: bytes.u32()?,
            data_pages: bytes.u32()?,
            index_pages: bytes.u32()?,
            index_bytes: bytes.u64()?,
            packed_index_bytes: bytes.u64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_round_trips_and_a_newer_version_is_not_damage() {
        let root =
            Root { level: 2, priority: 7, first_ms: -5, last_ms: i64::MAX, covered: 9, series: 3, index_bytes: 1, ..Root::default() };
        let mut bytes = root.encode();
        let id = BlockId(1);
        assert_eq!(Root::decode(id, 0, &bytes).unwrap(), root);
        for end in 0..bytes.len() {
            assert!(Root::decode(id, 0, &bytes[..end]).is_err_and(|e| e.is_corrupt()));
        }
        bytes[4] = 9;
        let error = Root::decode(id, 0, &bytes).unwrap_err();
        assert!(matches!(error, StoreError::Version { found: 9, .. }) && !error.is_corrupt());
    }
}
