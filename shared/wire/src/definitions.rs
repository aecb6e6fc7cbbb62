//! The series-definitions section: what the references of a dictionary stand for.
//!
//! ```text
//! u32 BE bytes uncompressed | zstd of:
//!   varint symbols | symbols x (varint bytes, UTF-8)
//!   varint rows    | rows x (varint ref, u8 kind, u8 bits, varint labels, labels x (varint name, varint value))
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use anemone_model::{CounterWidth, Labels, MetricKind, SeriesDef};

use crate::error::WireError;
use crate::limits::{DEFINITIONS_BYTES_MAX, DEFINITIONS_MAX, REFERENCES_MAX};

const WHAT: &str = "definitions section";

/// A reference and the series it stands for.
pub(crate) type Row = (u32, SeriesDef);

pub(crate) fn encode(rows: &[Row]) -> Result<Vec<u8>, WireError> {
    let mut symbols: Vec<&str> = Vec::new();
    let mut numbers: HashMap<&str, u64> = HashMap::new();
    let mut body = Vec::with_capacity(rows.len() * 16);
    put(&mut body, rows.len() as u64);
    for (reference, def) in rows {
        put(&mut body, u64::from(*reference));
        body.extend_from_slice(&[def.kind.code(), def.width.bits()]);
        put(&mut body, def.labels.len() as u64);
        for text in def.labels.iter().flat_map(|(name, value)| [name, value]) {
            let number = *numbers.entry(text).or_insert_with(|| {
                symbols.push(text);
                symbols.len() as u64 - 1
            });
            put(&mut body, number);
        }
    }
    let mut plain = Vec::with_capacity(body.len() * 2);
    put(&mut plain, symbols.len() as u64);
    for symbol in symbols {
        put(&mut plain, symbol.len() as u64);
        plain.extend_from_slice(symbol.as_bytes());
    }
    plain.extend_from_slice(&body);
    if plain.len() > DEFINITIONS_BYTES_MAX {
        return Err(WireError::TooLarge { what: WHAT, size: plain.len(), limit: DEFINITIONS_BYTES_MAX });
    }
    let length =
        u32::try_from(plain.len()).map_err(|_| WireError::TooLarge { what: WHAT, size: plain.len(), limit: DEFINITIONS_BYTES_MAX })?;
    let packed = zstd::bulk::compress(&plain, 3).map_err(|e| WireError::Encode { what: WHAT, why: e.to_string() })?;
    Ok([&length.to_be_bytes()[..], &packed].concat())
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<Row>, WireError> {
    let (length, packed) = bytes.split_first_chunk::<4>().ok_or(WireError::Truncated { what: WHAT, at: 0 })?;
    let length = u32::from_be_bytes(*length) as usize;
    if length > DEFINITIONS_BYTES_MAX {
        return Err(WireError::TooLarge { what: WHAT, size: length, limit: DEFINITIONS_BYTES_MAX });
    }
    let plain = zstd::bulk::decompress(packed, length).map_err(|e| WireError::malformed(WHAT, 4, e.to_string()))?;
    let mut reader = Reader { bytes: &plain, at: 0 };
    let symbols = reader.count(plain.len())?;
    let mut texts: Vec<Arc<str>> = Vec::with_capacity(symbols);
    for _ in 0..symbols {
        texts.push(reader.text()?.into());
    }
    let rows = reader.count(DEFINITIONS_MAX)?;
    let mut out = Vec::with_capacity(rows);
    for _ in 0..rows {
        out.push(reader.row(&texts)?);
    }
    if reader.at < plain.len() {
        return Err(WireError::malformed(WHAT, reader.at, "bytes follow the last definition"));
    }
    Ok(out)
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, WireError> {
        let byte = *self.bytes.get(self.at).ok_or(WireError::Truncated { what: WHAT, at: self.at })?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let start = self.at;
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::malformed(WHAT, start, "a number of more than 64 bits"))
    }

    /// A count that the rest of the bytes can at all hold and that is within `limit`.
    fn count(&mut self, limit: usize) -> Result<usize, WireError> {
        let count = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
        if count > limit {
            return Err(WireError::TooLarge { what: WHAT, size: count, limit });
        }
        if count > self.bytes.len() - self.at {
            return Err(WireError::Truncated { what: WHAT, at: self.at });
        }
        Ok(count)
    }

    fn text(&mut self) -> Result<&str, WireError> {
        let length = self.count(self.bytes.len())?;
        let start = self.at;
        self.at += length;
        std::str::from_utf8(&self.bytes[start..self.at]).map_err(|e| WireError::malformed(WHAT, start, e.to_string()))
    }

    fn row(&mut self, texts: &[Arc<str>]) -> Result<Row, WireError> {
        let start = self.at;
        let bad = |why: String| WireError::malformed(WHAT, start, why);
        let reference = u32::try_from(self.varint()?).ok().filter(|r| *r < REFERENCES_MAX);
        let reference = reference.ok_or_else(|| bad(format!("a reference of {REFERENCES_MAX} or more")))?;
        let (kind, bits) = (self.byte()?, self.byte()?);
        let kind = MetricKind::from_code(kind).ok_or_else(|| bad(format!("unknown metric kind {kind}")))?;
        let width = CounterWidth::from_bits(bits).ok_or_else(|| bad(format!("a counter of {bits} bits")))?;
        let count = self.count(anemone_model::label::LABELS_MAX)?;
        let mut pairs = Vec::with_capacity(count);
        for _ in 0..count {
            let (name, value) = (self.symbol(texts)?, self.symbol(texts)?);
            pairs.push((name, value));
        }
        let labels = Labels::new(pairs).map_err(|e| bad(e.to_string()))?;
        Ok((reference, SeriesDef { labels, kind, width }))
    }

    fn symbol(&mut self, texts: &[Arc<str>]) -> Result<Arc<str>, WireError> {
        let start = self.at;
        let number = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
        texts.get(number).cloned().ok_or_else(|| WireError::malformed(WHAT, start, format!("symbol {number} of {}", texts.len())))
    }
}
