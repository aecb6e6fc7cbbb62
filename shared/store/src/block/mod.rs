//! Sealed blocks: immutable, in pages that each carry a kind and a checksum.
//!
//! ```text
//! page  := kind (1 byte)  payload  CRC32C of (page number, kind, payload), 4 bytes little-endian       at most 64 KiB
//! block := data page ...  index page ...  root page
//! ```
//! Data pages hold the chunks of several series (see [`page`]), the index pages together hold one zstd frame (see [`index`]), the root says
//! what is in the block (see [`root`]). The number of a page is in its checksum, so that a page in the wrong place is seen.

mod column;
pub(crate) mod index;
pub(crate) mod page;
pub(crate) mod reader;
pub(crate) mod root;
pub(crate) mod writer;

use bytes::Bytes;

use crate::backend::{BlockId, PAGE_MAX};
use crate::error::StoreError;

const CRC: usize = 4;
/// Most bytes of a page's payload.
pub(crate) const PAYLOAD_MAX: usize = PAGE_MAX - CRC - 1;

/// What is in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageKind {
    Data = 1,
    Index = 2,
    Root = 3,
}

/// Frames a payload as page `number`.
pub(crate) fn frame(number: u32, kind: PageKind, payload: &[u8]) -> Bytes {
    let mut page = Vec::with_capacity(payload.len() + CRC + 1);
    page.push(kind as u8);
    page.extend_from_slice(payload);
    let crc = checksum(number, &page);
    page.extend_from_slice(&crc.to_le_bytes());
    page.into()
}

/// Checks page `number` and gives its payload.
pub(crate) fn unframe(block: BlockId, number: u32, kind: PageKind, page: &Bytes) -> Result<Bytes, StoreError> {
    let bad = |what: &str| StoreError::corrupt(block, number, what);
    let end = page.len().checked_sub(CRC).filter(|end| *end >= 1).ok_or_else(|| bad("too short to be a page"))?;
    let stored = page[end..].try_into().map(u32::from_le_bytes).map_err(|_| bad("too short to be a page"))?;
    if checksum(number, &page[..end]) != stored {
        return Err(bad("wrong checksum"));
    }
    if page[0] != kind as u8 {
        return Err(bad("not the kind of page that belongs there"));
    }
    Ok(page.slice(1..end))
}

fn checksum(number: u32, page: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), page)
}
