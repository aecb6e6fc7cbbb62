//! The bytes of a segment file. Pure: encodes into and decodes from buffers, touches no disk, never panics on bad bytes.
//!
//! ```text
//! name     <sequence:016x>-<base:020>-<id:016x>.log      base: index of the first entry; everything >= base in older
//!                                                        segments is cut. id: random, mixed into every CRC.
//! file     header | state record | records ... | footer record | trailer | (zeros while preallocated)
//!                                               `-- once sealed ------'
//! header   0 magic "anelog"  6 version u16  8 id u64  16 sequence u64  24 base u64  32 zero u32  36 crc u32     (40 bytes)
//! record   0 length u32  4 kind u8  5 zero[3]  8 index u64  16 synced u32  20 payload crc u32  24 header crc u32  28 payload
//!          padded to 4 bytes. index: the entry's own; for other kinds the next entry's.
//!          synced: bytes of this file known to be on disk when the record was written, i.e. where its group starts.
//!          Damage below the `synced` of a later record is real; damage above every `synced` is a torn tail.
//! state    floor u64, then per meta: key u8, length u32, value               what holds when the segment starts
//! footer   base u64, floor u64, count u32, offsets u32 * count, then metas as in state; offset 0: the record is lost
//! trailer  0 footer offset u64  8 magic "anef"  12 crc u32                                                    (16 bytes)
//! ```
//! All numbers are little-endian. CRCs are CRC32C, seeded with the id and the offset of what they cover.

use std::collections::BTreeMap;

use bytes::Bytes;

pub(crate) const VERSION: u16 = 1;
pub(crate) const SEGMENT_HEADER: usize = 40;
pub(crate) const RECORD_HEADER: usize = 28;
pub(crate) const TRAILER: usize = 16;
/// Offset value of a record that is lost (no record can be at 0, the header is there).
pub(crate) const LOST: u32 = 0;
/// Records start at multiples of this.
pub(crate) const ALIGN: usize = 4;
const MAGIC: &[u8; 6] = b"anelog";
const TRAILER_MAGIC: &[u8; 4] = b"anef";

/// Latest value per key.
pub(crate) type Metas = BTreeMap<u8, Bytes>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Entry,
    Meta,
    Purge,
    State,
    Footer,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Entry => 1,
            Self::Meta => 2,
            Self::Purge => 3,
            Self::State => 4,
            Self::Footer => 5,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Entry,
            2 => Self::Meta,
            3 => Self::Purge,
            4 => Self::State,
            5 => Self::Footer,
            _ => return None,
        })
    }
}

/// What the name of a segment file says; enough to read the file when its header is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentName {
    pub(crate) sequence: u64,
    pub(crate) base: u64,
    pub(crate) id: u64,
}

impl SegmentName {
    pub(crate) fn file_name(self) -> String {
        format!("{:016x}-{:020}-{:016x}.log", self.sequence, self.base, self.id)
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(".log")?.split('-');
        let (sequence, base, id) = (parts.next()?, parts.next()?, parts.next()?);
        let found =
            Self { sequence: u64::from_str_radix(sequence, 16).ok()?, base: base.parse().ok()?, id: u64::from_str_radix(id, 16).ok()? };
        (found.file_name() == name).then_some(found)
    }

    pub(crate) fn encode_header(self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.base.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        let crc = seeded(self.id, 0, &out[start..]);
        out.extend_from_slice(&crc.to_le_bytes());
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderCheck {
    Good,
    /// Intact, but of another format version.
    Version(u16),
    Bad,
}

/// Checks the first bytes of a segment against its name.
pub(crate) fn check_header(name: SegmentName, bytes: &[u8]) -> HeaderCheck {
    if bytes.len() < SEGMENT_HEADER || bytes[..6] != *MAGIC {
        return HeaderCheck::Bad;
    }
    if u32_at(bytes, 36) != seeded(name.id, 0, &bytes[..36]) {
        return HeaderCheck::Bad;
    }
    let version = u16::from_le_bytes([bytes[6], bytes[7]]);
    if version != VERSION {
        return HeaderCheck::Version(version);
    }
    let same = u64_at(bytes, 8) == name.id && u64_at(bytes, 16) == name.sequence && u64_at(bytes, 24) == name.base;
    if same { HeaderCheck::Good } else { HeaderCheck::Bad }
}

/// A record header whose own CRC was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) length: u32,
    pub(crate) kind: Kind,
    pub(crate) index: u64,
    pub(crate) synced: u32,
    payload_crc: u32,
}

impl RecordHeader {
    /// Decodes the header at `offset` of the segment `id`; `None` when it is no header of this place.
    pub(crate) fn decode(id: u64, offset: u64, bytes: &[u8]) -> Option<Self> {
        if bytes.len() < RECORD_HEADER || bytes[5..8] != [0; 3] {
            return None;
        }
        let kind = Kind::from_code(bytes[4])?;
        if u32_at(bytes, 24) != seeded(id, offset, &bytes[..24]) {
            return None;
        }
        Some(Self { length: u32_at(bytes, 0), kind, index: u64_at(bytes, 8), synced: u32_at(bytes, 16), payload_crc: u32_at(bytes, 20) })
    }

    pub(crate) fn payload_matches(&self, id: u64, offset: u64, payload: &[u8]) -> bool {
        seeded(id, offset, payload) == self.payload_crc
    }

    /// Bytes of the whole record in the file, padding included.
    pub(crate) fn size(&self) -> u64 {
        record_size(self.length as usize)
    }
}

/// Bytes a record with a payload of `length` takes.
pub(crate) fn record_size(length: usize) -> u64 {
    (RECORD_HEADER + length).next_multiple_of(ALIGN) as u64
}

/// Where and in which group a record is being encoded.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) id: u64,
    /// Offset in the file of byte 0 of the output buffer.
    pub(crate) start: u64,
    pub(crate) synced: u32,
}

impl Place {
    /// Appends one record to `out` and returns its offset in the file.
    pub(crate) fn encode(self, out: &mut Vec<u8>, kind: Kind, index: u64, payload: &[u8]) -> u64 {
        let at = out.len();
        let offset = self.start + at as u64;
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&[kind.code(), 0, 0, 0]);
        out.extend_from_slice(&index.to_le_bytes());
        out.extend_from_slice(&self.synced.to_le_bytes());
        out.extend_from_slice(&seeded(self.id, offset, payload).to_le_bytes());
        let crc = seeded(self.id, offset, &out[at..]);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(payload);
        out.resize(at + record_size(payload.len()) as usize, 0);
        offset
    }
}

/// What a segment starts from, or, in a footer, ends with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) floor: u64,
    pub(crate) metas: Metas,
}

impl State {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = self.floor.to_le_bytes().to_vec();
        encode_metas(&self.metas, &mut out);
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let mut rest = payload;
        let floor = take_u64(&mut rest)?;
        Some(Self { floor, metas: decode_metas(rest)? })
    }
}

/// Payload of a meta record: the key, then the value.
pub(crate) fn encode_meta(key: u8, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + value.len());
    out.push(key);
    out.extend_from_slice(value);
    out
}

/// The index footer of a sealed segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) base: u64,
    pub(crate) state: State,
    pub(crate) offsets: Vec<u32>,
}

impl Footer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(20 + self.offsets.len() * 4);
        out.extend_from_slice(&self.base.to_le_bytes());
        out.extend_from_slice(&self.state.floor.to_le_bytes());
        out.extend_from_slice(&(self.offsets.len() as u32).to_le_bytes());
        for offset in &self.offsets {
            out.extend_from_slice(&offset.to_le_bytes());
        }
        encode_metas(&self.state.metas, &mut out);
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let mut rest = payload;
        let base = take_u64(&mut rest)?;
        let floor = take_u64(&mut rest)?;
        let count = take_u32(&mut rest)? as usize;
        let table = take(&mut rest, count.checked_mul(4)?)?;
        let offsets = table.chunks_exact(4).map(|bytes| u32_at(bytes, 0)).collect();
        Some(Self { base, state: State { floor, metas: decode_metas(rest)? }, offsets })
    }
}

/// The last bytes of a sealed segment: where its footer is.
pub(crate) fn encode_trailer(id: u64, footer_offset: u64, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&footer_offset.to_le_bytes());
    out.extend_from_slice(TRAILER_MAGIC);
    let crc = seeded(id, footer_offset, &out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
}

/// Offset of the footer record, when `bytes` is a trailer of this segment.
pub(crate) fn decode_trailer(id: u64, bytes: &[u8]) -> Option<u64> {
    if bytes.len() != TRAILER || bytes[8..12] != *TRAILER_MAGIC {
        return None;
    }
    let offset = u64_at(bytes, 0);
    (u32_at(bytes, 12) == seeded(id, offset, &bytes[..12])).then_some(offset)
}

fn encode_metas(metas: &Metas, out: &mut Vec<u8>) {
    for (key, value) in metas {
        out.push(*key);
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(value);
    }
}

fn decode_metas(mut rest: &[u8]) -> Option<Metas> {
    let mut metas = Metas::new();
    while !rest.is_empty() {
        let key = take(&mut rest, 1)?[0];
        let length = take_u32(&mut rest)? as usize;
        metas.insert(key, Bytes::copy_from_slice(take(&mut rest, length)?));
    }
    Some(metas)
}

/// CRC32C of `bytes` as they may stand only in this segment and at this offset.
fn seeded(id: u64, offset: u64, bytes: &[u8]) -> u32 {
    let mut seed = [0; 16];
    seed[..8].copy_from_slice(&id.to_le_bytes());
    seed[8..].copy_from_slice(&offset.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&seed), bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    Some(head)
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    take(rest, 4).map(|bytes| u32_at(bytes, 0))
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    take(rest, 8).map(|bytes| u64_at(bytes, 0))
}
