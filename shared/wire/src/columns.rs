//! The samples section: columns of references, times and values.
//!
//! ```text
//! u32 BE rows of integers | u32 BE rows of floats
//! integers: refs | times | values     each column: u32 BE bytes, then a pco stream
//! floats:   refs | times | values     (absent when there are no rows)
//! u32 BE marks | marks x (u32 BE row, u8 code); rows of integers first, then of floats
//! ```
//!
//! Rows are sorted by (reference, time). References are dense small numbers and times cluster by answer, so both shrink to
//! almost nothing with one order of delta; values keep their full width.

use anemone_model::{Discontinuity, Sample, Value};
use pco::data_types::Number;
use pco::standalone::{simple_compress, simple_decompress_into};
use pco::{ChunkConfig, DeltaSpec, ModeSpec};

use crate::error::WireError;
use crate::limits::SAMPLES_MAX;

const WHAT: &str = "samples section";

/// A reference and its sample.
pub(crate) type Row = (u32, Sample);

fn config(delta: DeltaSpec) -> ChunkConfig {
    ChunkConfig::default().with_compression_level(2).with_mode_spec(ModeSpec::Classic).with_delta_spec(delta)
}

/// Encodes `rows`, which it sorts.
pub(crate) fn encode(rows: &mut [Row]) -> Result<Vec<u8>, WireError> {
    rows.sort_by_key(|(reference, sample)| (*reference, sample.ts_ms));
    let (integers, floats): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|(_, s)| matches!(s.value, Value::U64(_)));
    let mut out = Vec::with_capacity(rows.len() * 8 + 64);
    put_count(&mut out, integers.len())?;
    put_count(&mut out, floats.len())?;
    for group in [&integers, &floats] {
        if group.is_empty() {
            continue;
        }
        put_column(&mut out, &group.iter().map(|(r, _)| *r).collect::<Vec<u32>>(), DeltaSpec::TryConsecutive(1))?;
        put_column(&mut out, &group.iter().map(|(_, s)| s.ts_ms).collect::<Vec<i64>>(), DeltaSpec::TryConsecutive(1))?;
        let bits: Vec<u64> = group.iter().map(|(_, s)| bits_of(s.value)).collect();
        put_column(&mut out, &bits, DeltaSpec::NoOp)?;
    }
    let marked = integers.iter().chain(&floats).zip(0_u32..).filter_map(|((_, s), row)| Some((row, s.discontinuity?)));
    let marked: Vec<(u32, Discontinuity)> = marked.collect();
    put_count(&mut out, marked.len())?;
    for (row, mark) in marked {
        out.extend_from_slice(&row.to_be_bytes());
        out.push(mark.code());
    }
    Ok(out)
}

fn bits_of(value: Value) -> u64 {
    match value {
        Value::U64(v) => v,
        Value::F64(v) => v.to_bits(),
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) -> Result<(), WireError> {
    let count = u32::try_from(count).map_err(|_| WireError::TooLarge { what: WHAT, size: count, limit: SAMPLES_MAX })?;
    out.extend_from_slice(&count.to_be_bytes());
    Ok(())
}

fn put_column<T: Number>(out: &mut Vec<u8>, values: &[T], delta: DeltaSpec) -> Result<(), WireError> {
    let column = simple_compress(values, &config(delta)).map_err(|e| WireError::Encode { what: WHAT, why: e.to_string() })?;
    put_count(out, column.len())?;
    out.extend_from_slice(&column);
    Ok(())
}

/// Decodes a section; rows come sorted by (reference, time).
pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<Row>, WireError> {
    let mut reader = Reader { bytes, at: 0 };
    let (integers, floats) = (reader.count()?, reader.count()?);
    let total = integers.saturating_add(floats);
    if total > SAMPLES_MAX {
        return Err(WireError::TooLarge { what: WHAT, size: total, limit: SAMPLES_MAX });
    }
    let mut rows: Vec<Row> = Vec::with_capacity(total);
    for (count, float) in [(integers, false), (floats, true)] {
        if count == 0 {
            continue;
        }
        let refs: Vec<u32> = reader.column(count)?;
        let times: Vec<i64> = reader.column(count)?;
        let bits: Vec<u64> = reader.column(count)?;
        rows.extend(refs.into_iter().zip(times).zip(bits).map(|((reference, ts_ms), bits)| {
            let value = if float { Value::F64(f64::from_bits(bits)) } else { Value::U64(bits) };
            (reference, Sample::new(ts_ms, value))
        }));
    }
    for _ in 0..reader.count()? {
        let at = reader.at;
        let row = reader.count()?;
        let code = reader.take(1)?[0];
        let mark = Discontinuity::from_code(code).ok_or_else(|| WireError::malformed(WHAT, at, format!("unknown discontinuity {code}")))?;
        let sample = rows.get_mut(row).ok_or_else(|| WireError::malformed(WHAT, at, format!("mark on row {row} of {total}")))?;
        sample.1.discontinuity = Some(mark);
    }
    if reader.at < bytes.len() {
        return Err(WireError::malformed(WHAT, reader.at, "bytes follow the last column"));
    }
    if integers > 0 && floats > 0 {
        rows.sort_by_key(|(reference, sample)| (*reference, sample.ts_ms));
    }
    Ok(rows)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(WireError::Truncated { what: WHAT, at: self.at })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn count(&mut self) -> Result<usize, WireError> {
        let four = self.take(4)?;
        Ok(four.iter().fold(0_usize, |n, byte| n << 8 | usize::from(*byte)))
    }

    fn column<T: Number + Default>(&mut self, count: usize) -> Result<Vec<T>, WireError> {
        let length = self.count()?;
        let at = self.at;
        let column = self.take(length)?;
        let mut values = vec![T::default(); count];
        let progress = simple_decompress_into(column, &mut values).map_err(|e| WireError::malformed(WHAT, at, e.to_string()))?;
        if progress.n_processed != count || !progress.finished {
            return Err(WireError::malformed(WHAT, at, format!("a column does not hold {count} rows")));
        }
        Ok(values)
    }
}
