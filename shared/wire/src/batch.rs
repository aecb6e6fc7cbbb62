//! Batches: sealed once at the edge, the same bytes in the spool, on the wire and in the Raft log.
//!
//! ```text
//! "ANEB" | u8 version | u16 BE header bytes | header (CBOR) | section bodies, end to end | u32 BE CRC32C of all before
//! ```
//!
//! The header holds the identity and a table of (kind, bytes) for the sections. A section of an unknown kind is kept and
//! passed on untouched, so that an older hub forwards what a newer agent says.

use anemone_model::{AgentId, Sample, SeriesDef};
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::error::WireError;
use crate::gap::GapRecord;
use crate::limits::{BATCH_MAX, SAMPLES_MAX, SECTIONS_MAX};
use crate::{cbor, columns, definitions};

const MAGIC: [u8; 4] = *b"ANEB";
/// Version of the batch format written by this build.
pub const BATCH_VERSION: u8 = 1;
const PREFIX: usize = 7;
const CHECKSUM: usize = 4;

/// Numbers of the section kinds.
pub mod kind {
    /// Series definitions.
    pub const DEFINITIONS: u16 = 1;
    /// Samples.
    pub const SAMPLES: u16 = 2;
    /// Gap records.
    pub const GAPS: u16 = 3;
}

/// Who sealed a batch, and where it stands among the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchHeader {
    /// The agent.
    pub agent: AgentId,
    /// Spool epoch: random, new with each new or wiped spool.
    pub epoch: u64,
    /// Sequence in the spool.
    pub sequence: u64,
    /// How many sequences it accounts for: 1, or more for a gap batch.
    pub covers: u64,
    /// The dictionary its references belong to.
    pub dictionary: u64,
    /// When it was sealed, in milliseconds since 1970 UTC.
    pub sealed_at_ms: i64,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    header: BatchHeader,
    sections: Vec<(u16, u32)>,
}

/// One section as it stands in the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// See [`kind`].
    pub kind: u16,
    /// The encoded body.
    pub body: Bytes,
}

/// Collects what goes into one batch.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    definitions: Vec<(u32, SeriesDef)>,
    samples: Vec<(u32, Sample)>,
    gaps: Vec<GapRecord>,
    definition_bytes: usize,
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what `reference` stands for; must be in this batch or an earlier one of the dictionary before its first sample.
    pub fn define(&mut self, reference: u32, def: SeriesDef) {
        self.definition_bytes += 8 + def.labels.iter().map(|(n, v)| 4 + (n.len() + v.len()) / 4).sum::<usize>();
        self.definitions.push((reference, def));
    }

    /// Adds a sample.
    pub fn push(&mut self, reference: u32, sample: Sample) {
        self.samples.push((reference, sample));
    }

    /// Adds a gap record.
    pub fn push_gap(&mut self, gap: GapRecord) {
        self.gaps.push(gap);
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.definitions.is_empty() && self.samples.is_empty() && self.gaps.is_empty()
    }

    /// How many samples it holds.
    #[must_use]
    pub fn samples(&self) -> &[(u32, Sample)] {
        &self.samples
    }

    /// The definitions it holds.
    #[must_use]
    pub fn definitions(&self) -> &[(u32, SeriesDef)] {
        &self.definitions
    }

    /// About how many bytes it will have once encoded; an upper estimate for ordinary counters.
    #[must_use]
    pub fn estimated_bytes(&self) -> usize {
        128 + self.definition_bytes + self.samples.len() * 9 + self.gaps.len() * 128
    }

    /// Whether it should be sealed before more is added: by size or number of samples.
    #[must_use]
    pub fn is_full(&self, target_bytes: usize) -> bool {
        self.estimated_bytes() >= target_bytes || self.samples.len() >= SAMPLES_MAX / 2
    }

    /// Encodes the sections: the part that costs.
    ///
    /// # Errors
    /// A section over its limit.
    pub fn encode(mut self) -> Result<EncodedSections, WireError> {
        let mut sections = Vec::with_capacity(3);
        if !self.definitions.is_empty() {
            sections.push(Section { kind: kind::DEFINITIONS, body: definitions::encode(&self.definitions)?.into() });
        }
        if !self.samples.is_empty() {
            sections.push(Section { kind: kind::SAMPLES, body: columns::encode(&mut self.samples)?.into() });
        }
        if !self.gaps.is_empty() {
            sections.push(Section { kind: kind::GAPS, body: cbor::to_vec("gap records", &self.gaps)?.into() });
        }
        Ok(EncodedSections { sections })
    }
}

/// Sections ready to be given an identity.
#[derive(Clone, Debug, Default)]
pub struct EncodedSections {
    sections: Vec<Section>,
}

impl EncodedSections {
    /// Puts together sections that were encoded elsewhere, such as those of a batch received.
    #[must_use]
    pub fn from_sections(sections: Vec<Section>) -> Self {
        Self { sections }
    }

    /// The finished batch.
    ///
    /// # Errors
    /// More than [`BATCH_MAX`] bytes, or a header that does not encode.
    pub fn seal(&self, header: &BatchHeader) -> Result<Bytes, WireError> {
        let too_large = |size| WireError::TooLarge { what: "batch", size, limit: BATCH_MAX };
        let table = self.sections.iter().map(|s| Ok((s.kind, u32::try_from(s.body.len()).map_err(|_| too_large(s.body.len()))?)));
        let envelope = Envelope { header: header.clone(), sections: table.collect::<Result<_, WireError>>()? };
        let head = cbor::to_vec("batch header", &envelope)?;
        let head_bytes = u16::try_from(head.len()).map_err(|_| too_large(head.len()))?;
        let bodies: usize = self.sections.iter().map(|s| s.body.len()).sum();
        let size = PREFIX + head.len() + bodies + CHECKSUM;
        if size > BATCH_MAX {
            return Err(too_large(size));
        }
        let mut out = BytesMut::with_capacity(size);
        out.put_slice(&MAGIC);
        out.put_u8(BATCH_VERSION);
        out.put_u16(head_bytes);
        out.put_slice(&head);
        for section in &self.sections {
            out.put_slice(&section.body);
        }
        let checksum = crc32c::crc32c(&out);
        out.put_u32(checksum);
        Ok(out.freeze())
    }
}

/// A batch taken apart, bodies still encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Identity.
    pub header: BatchHeader,
    /// The sections, in order, unknown kinds among them.
    pub sections: Vec<Section>,
}

impl BatchHeader {
    /// Reads only the header of a sealed batch, without checking the checksum.
    ///
    /// # Errors
    /// As [`Batch::decode`], the checksum aside.
    pub fn peek(bytes: &[u8]) -> Result<Self, WireError> {
        Ok(envelope(bytes)?.0.header)
    }
}

fn envelope(bytes: &[u8]) -> Result<(Envelope, usize), WireError> {
    const WHAT: &str = "batch";
    if bytes.len() > BATCH_MAX {
        return Err(WireError::TooLarge { what: WHAT, size: bytes.len(), limit: BATCH_MAX });
    }
    let [m0, m1, m2, m3, version, h0, h1] = *bytes.first_chunk::<PREFIX>().ok_or(WireError::Truncated { what: WHAT, at: bytes.len() })?;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(WireError::Magic { found: [m0, m1, m2, m3] });
    }
    if version == 0 || version > BATCH_VERSION {
        return Err(WireError::Version { what: WHAT, found: version, known: BATCH_VERSION });
    }
    let bodies = PREFIX + usize::from(u16::from_be_bytes([h0, h1]));
    let head = bytes.get(PREFIX..bodies).ok_or(WireError::Truncated { what: WHAT, at: bytes.len() })?;
    let envelope: Envelope = cbor::from_slice("batch header", head, head.len())?;
    if envelope.header.covers == 0 || envelope.header.sequence.checked_add(envelope.header.covers).is_none() {
        return Err(WireError::malformed(WHAT, PREFIX, "it covers no sequence or more than there are"));
    }
    Ok((envelope, bodies))
}

impl Batch {
    /// Takes a sealed batch apart, sharing its bytes.
    ///
    /// # Errors
    /// Over a limit, damaged, of an unknown version or not a batch at all.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        let (envelope, mut at) = envelope(&bytes)?;
        let end =
            bytes.len().checked_sub(CHECKSUM).filter(|end| *end >= at).ok_or(WireError::Truncated { what: "batch", at: bytes.len() })?;
        let expected = bytes[end..].iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
        let found = crc32c::crc32c(&bytes[..end]);
        if found != expected {
            return Err(WireError::Checksum { found, expected });
        }
        if envelope.sections.len() > SECTIONS_MAX {
            return Err(WireError::TooLarge { what: "section table", size: envelope.sections.len(), limit: SECTIONS_MAX });
        }
        let mut sections = Vec::with_capacity(envelope.sections.len());
        for (kind, length) in envelope.sections {
            let stop = at.checked_add(length as usize).filter(|stop| *stop <= end).ok_or(WireError::Truncated { what: "section", at })?;
            sections.push(Section { kind, body: bytes.slice(at..stop) });
            at = stop;
        }
        if at != end {
            return Err(WireError::malformed("batch", at, "bytes follow the last section"));
        }
        Ok(Self { header: envelope.header, sections })
    }

    fn bodies(&self, kind: u16) -> impl Iterator<Item = &Bytes> {
        self.sections.iter().filter(move |s| s.kind == kind).map(|s| &s.body)
    }

    /// All series definitions.
    ///
    /// # Errors
    /// A definitions section that is malformed or over a limit.
    pub fn definitions(&self) -> Result<Vec<(u32, SeriesDef)>, WireError> {
        collect(self.bodies(kind::DEFINITIONS).map(|b| definitions::decode(b)))
    }

    /// All samples, each section sorted by (reference, time).
    ///
    /// # Errors
    /// A samples section that is malformed or over a limit.
    pub fn samples(&self) -> Result<Vec<(u32, Sample)>, WireError> {
        collect(self.bodies(kind::SAMPLES).map(|b| columns::decode(b)))
    }

    /// All gap records.
    ///
    /// # Errors
    /// A gap section that is malformed or over a limit.
    pub fn gaps(&self) -> Result<Vec<GapRecord>, WireError> {
        collect(self.bodies(kind::GAPS).map(|b| cbor::from_slice("gap records", b, BATCH_MAX)))
    }

    /// How many sections are of a kind this build does not know.
    #[must_use]
    pub fn unknown_sections(&self) -> usize {
        self.sections.iter().filter(|s| !matches!(s.kind, kind::DEFINITIONS | kind::SAMPLES | kind::GAPS)).count()
    }
}

fn collect<T>(parts: impl Iterator<Item = Result<Vec<T>, WireError>>) -> Result<Vec<T>, WireError> {
    let mut all = Vec::new();
    for part in parts {
        let mut part = part?;
        if all.is_empty() { all = part } else { all.append(&mut part) }
    }
    Ok(all)
}
