//! A data page: chunks of several series, so that short chunks compress well.
//!
//! ```text
//! payload := varint(chunks)
//!            per chunk: shape (1 byte), varint(samples)        shape: 0x80 same times as the chunk before | class
//!            column: first time of each chunk with times of its own
//!            column: differences of their other times
//!            column: first value of each chunk
//!            column: differences of the other values of integer and decimal chunks
//!            column: differences of the bits of the other values of float chunks
//!            varint(marks); per mark: varint(samples since the mark before), code (1 byte)
//! class   := 0 integers (u64) | 1 floats as bits | 2 + e floats that are exactly n / 10^e
//! ```
//! Differences are within a chunk, so that a jump from one series to the next costs one value in a column of its own.

use anemone_model::{Discontinuity, Sample, Value};

use super::{PAYLOAD_MAX, column};
use crate::head::value_of;
use crate::varint::{Reader, put};

/// Samples after which a page is full.
pub(crate) const PAGE_SAMPLES: usize = 2880;
/// Most samples of a chunk.
pub(crate) const CHUNK_SAMPLES: usize = 360;
/// More samples than any page has: a reader's limit.
const SAMPLES_LIMIT: usize = 8192;

const SAME_TIMES: u8 = 0x80;
const INTEGERS: u8 = 0;
const FLOATS: u8 = 1;
const DECIMALS: u8 = 2;
const POWERS: [f64; 7] = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6];

/// Collects chunks until they fill a page.
#[derive(Debug, Default)]
pub(crate) struct PageBuilder {
    shapes: Vec<u8>,
    chunks: u32,
    samples: usize,
    marks: Vec<u8>,
    mark_count: u64,
    last_mark_at: usize,
    times: Vec<i64>,
    first_times: Vec<i64>,
    time_steps: Vec<i64>,
    first_values: Vec<i64>,
    integer_steps: Vec<i64>,
    float_steps: Vec<i64>,
}

/// Splits samples into runs that can be one chunk each: integers, finite floats or other floats, of at most [`CHUNK_SAMPLES`].
pub(crate) fn split_into_chunks(samples: &[Sample]) -> impl Iterator<Item = &[Sample]> {
    let class = |s: &Sample| match s.value {
        Value::U64(_) => 0,
        Value::F64(v) if v.is_finite() => 1,
        Value::F64(_) => 2,
    };
    samples.chunk_by(move |a, b| class(a) == class(b)).flat_map(|run| {
        let parts = run.len().div_ceil(CHUNK_SAMPLES).max(1);
        run.chunks(run.len().div_ceil(parts).max(1))
    })
}

/// The samples' values as integers and the class that turns them back.
fn integers(samples: &[Sample]) -> (u8, Vec<i64>) {
    let floats = || samples.iter().map(|s| s.value.as_f64());
    let bits = |s: &Sample| match s.value {
        Value::U64(v) => v as i64,
        Value::F64(v) => v.to_bits() as i64,
    };
    if matches!(samples.first().map(|s| s.value), Some(Value::U64(_)) | None) {
        return (INTEGERS, samples.iter().map(bits).collect());
    }
    for (exponent, power) in POWERS.iter().enumerate() {
        let scaled: Option<Vec<i64>> = floats().map(|v| exact_multiple(v, *power)).collect();
        if let Some(scaled) = scaled {
            return (DECIMALS + exponent as u8, scaled);
        }
    }
    (FLOATS, samples.iter().map(bits).collect())
}

/// n, where `v` is exactly what n / power gives.
fn exact_multiple(v: f64, power: f64) -> Option<i64> {
    let scaled = (v * power).round();
    let exact = scaled.abs() < 9_007_199_254_740_992.0 && (scaled as i64 as f64 / power).to_bits() == v.to_bits();
    exact.then_some(scaled as i64)
}

impl PageBuilder {
    /// Whether a chunk of `more` samples still fits, in the worst of encodings.
    pub(crate) fn has_room(&self, more: &[Sample]) -> bool {
        let marks = more.iter().filter(|s| s.discontinuity.is_some()).count();
        let worst = (self.samples + more.len()) * 17 + (self.chunks as usize + 1) * 4 + self.marks.len() + marks * 4 + 64;
        self.chunks == 0 || (self.samples + more.len() <= PAGE_SAMPLES && worst <= PAYLOAD_MAX)
    }

    pub(crate) fn chunks(&self) -> u32 {
        self.chunks
    }

    pub(crate) fn samples(&self) -> usize {
        self.samples
    }

    /// Adds a chunk from [`split_into_chunks`], not empty.
    pub(crate) fn push(&mut self, samples: &[Sample]) {
        let (class, values) = integers(samples);
        let same_times = self.chunks > 0 && samples.iter().map(|s| s.ts_ms).eq(self.times.iter().copied());
        if !same_times {
            self.times.clear();
            self.times.extend(samples.iter().map(|s| s.ts_ms));
            self.first_times.extend(self.times.first());
            self.time_steps.extend(self.times.windows(2).map(|w| w[1].wrapping_sub(w[0])));
        }
        self.shapes.push(class | if same_times { SAME_TIMES } else { 0 });
        put(&mut self.shapes, samples.len() as u64);
        self.first_values.extend(values.first());
        let steps = if class == FLOATS { &mut self.float_steps } else { &mut self.integer_steps };
        steps.extend(values.windows(2).map(|w| w[1].wrapping_sub(w[0])));
        for (at, sample) in samples.iter().enumerate() {
            if let Some(mark) = sample.discontinuity {
                let at = self.samples + at;
                put(&mut self.marks, (at - self.last_mark_at) as u64);
                self.marks.push(mark.code());
                self.last_mark_at = at;
                self.mark_count += 1;
            }
        }
        self.samples += samples.len();
        self.chunks += 1;
    }

    /// The payload of what was pushed; the builder is empty again.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let full = std::mem::take(self);
        let mut out = Vec::with_capacity(4096);
        put(&mut out, u64::from(full.chunks));
        out.extend_from_slice(&full.shapes);
        for values in [&full.first_times, &full.time_steps, &full.first_values, &full.integer_steps, &full.float_steps] {
            column::write(&mut out, values);
        }
        put(&mut out, full.mark_count);
        out.extend_from_slice(&full.marks);
        out
    }
}

/// A page ready to be read from.
#[derive(Debug)]
pub(crate) struct DecodedPage {
    /// Where each chunk begins, and the end of the last.
    starts: Vec<u32>,
    floats: Vec<bool>,
    times: Vec<i64>,
    /// Bits of the values.
    bits: Vec<u64>,
    marks: Vec<(u32, Discontinuity)>,
}

impl DecodedPage {
    /// Decodes a payload whose checksum was right; says what is wrong where it makes no sense.
    pub(crate) fn decode(payload: &[u8]) -> Result<Self, &'static str> {
        let mut bytes = Reader::new(payload);
        let shapes = read_shapes(&mut bytes).ok_or("the chunks' sizes make no sense")?;
        let mut page = Self { starts: vec![0], floats: vec![], times: vec![], bits: vec![], marks: vec![] };
        let mut at = 0;
        for (class, count) in &shapes {
            at += count;
            page.starts.push(at as u32);
            page.floats.push(class & !SAME_TIMES != INTEGERS);
        }
        page.read_times(&mut bytes, &shapes).ok_or("the times make no sense")?;
        page.read_values(&mut bytes, &shapes).ok_or("the values make no sense")?;
        page.read_marks(&mut bytes).filter(|()| bytes.is_empty()).ok_or("the marks make no sense")?;
        Ok(page)
    }

    fn read_times(&mut self, bytes: &mut Reader<'_>, shapes: &[(u8, usize)]) -> Option<()> {
        let own = shapes.iter().filter(|(class, _)| class & SAME_TIMES == 0);
        let (firsts, steps) = own.fold((0, 0), |(f, s), (_, count)| (f + 1, s + count - 1));
        let mut firsts = column::read(bytes, firsts)?.into_iter();
        let mut steps = column::read(bytes, steps)?.into_iter();
        self.times.reserve_exact(shapes.iter().map(|(_, count)| count).sum());
        for (class, count) in shapes {
            if class & SAME_TIMES == 0 {
                accumulate(&mut self.times, firsts.next()?, steps.by_ref().take(count - 1));
            } else {
                let from = self.times.len().checked_sub(*count)?;
                self.times.extend_from_within(from..);
            }
        }
        Some(())
    }

    fn read_values(&mut self, bytes: &mut Reader<'_>, shapes: &[(u8, usize)]) -> Option<()> {
        let is_float = |class: u8| class & !SAME_TIMES == FLOATS;
        let steps_of = |floats: bool| shapes.iter().filter(|(c, _)| is_float(*c) == floats).map(|(_, count)| count - 1).sum();
        let mut firsts = column::read(bytes, shapes.len())?.into_iter();
        let mut integer_steps = column::read(bytes, steps_of(false))?.into_iter();
        let mut float_steps = column::read(bytes, steps_of(true))?.into_iter();
        let mut values = Vec::with_capacity(CHUNK_SAMPLES);
        self.bits.reserve_exact(self.times.len());
        for &(class, count) in shapes {
            let steps = if is_float(class) { &mut float_steps } else { &mut integer_steps };
            values.clear();
            accumulate(&mut values, firsts.next()?, steps.take(count - 1));
            match class & !SAME_TIMES {
                INTEGERS | FLOATS => self.bits.extend(values.iter().map(|v| *v as u64)),
                decimal => {
                    let power = POWERS.get(usize::from(decimal - DECIMALS))?;
                    self.bits.extend(values.iter().map(|v| (*v as f64 / power).to_bits()));
                }
            }
        }
        Some(())
    }

    fn read_marks(&mut self, bytes: &mut Reader<'_>) -> Option<()> {
        let mut at = 0_u32;
        for _ in 0..bytes.varint()? {
            at = at.checked_add(bytes.varint_u32()?).filter(|at| (*at as usize) < self.times.len())?;
            self.marks.push((at, Discontinuity::from_code(bytes.byte()?)?));
        }
        Some(())
    }

    /// Number of chunks.
    pub(crate) fn chunks(&self) -> usize {
        self.floats.len()
    }

    /// Memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.times.len() * 16 + self.floats.len() * 5 + self.marks.len() * 8 + 160
    }

    /// Appends a chunk's samples from `from_ms` to `to_ms`, both inclusive, to `out`.
    pub(crate) fn read_into(&self, chunk: usize, from_ms: i64, to_ms: i64, out: &mut Vec<Sample>) {
        let (Some(&start), Some(&end)) = (self.starts.get(chunk), self.starts.get(chunk + 1)) else { return };
        let times = &self.times[start as usize..end as usize];
        let first = start as usize + times.partition_point(|t| *t < from_ms);
        let last = start as usize + times.partition_point(|t| *t <= to_ms);
        let is_float = self.floats[chunk];
        let mut marks = self.marks[self.marks.partition_point(|(at, _)| (*at as usize) < first)..].iter().peekable();
        for at in first..last.max(first) {
            let discontinuity = marks.next_if(|(m, _)| *m as usize == at).map(|(_, mark)| *mark);
            out.push(Sample { ts_ms: self.times[at], value: value_of(self.bits[at], is_float), discontinuity });
        }
    }
}

/// Class and number of samples of each chunk, none empty, together within the limit.
fn read_shapes(bytes: &mut Reader<'_>) -> Option<Vec<(u8, usize)>> {
    let chunks = usize::try_from(bytes.varint()?).ok().filter(|n| *n <= SAMPLES_LIMIT)?;
    let mut total = 0;
    let mut shapes = Vec::with_capacity(chunks);
    for at in 0..chunks {
        let class = bytes.byte().filter(|c| c & !SAME_TIMES < DECIMALS + POWERS.len() as u8)?;
        let count = usize::try_from(bytes.varint()?).ok().filter(|n| (1..=CHUNK_SAMPLES).contains(n))?;
        total += count;
        if total > SAMPLES_LIMIT || (at == 0 && class & SAME_TIMES != 0) {
            return None;
        }
        shapes.push((class, count));
    }
    Some(shapes)
}

fn accumulate(out: &mut Vec<i64>, first: i64, steps: impl Iterator<Item = i64>) {
    let mut value = first;
    out.push(value);
    for step in steps {
        value = value.wrapping_add(step);
        out.push(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::same_value;

    fn round_trip(series: &[Vec<Sample>]) -> usize {
        let mut builder = PageBuilder::default();
        let chunks: Vec<&[Sample]> = series.iter().flat_map(|s| split_into_chunks(s)).collect();
        for chunk in &chunks {
            assert!(builder.has_room(chunk));
            builder.push(chunk);
        }
        let payload = builder.finish();
        let page = DecodedPage::decode(&payload).unwrap();
        assert_eq!(page.chunks(), chunks.len());
        for (at, chunk) in chunks.iter().enumerate() {
            let mut read = Vec::new();
            page.read_into(at, i64::MIN, i64::MAX, &mut read);
            assert_eq!(read.len(), chunk.len());
            for (a, b) in read.iter().zip(*chunk) {
                assert!(a.ts_ms == b.ts_ms && same_value(a.value, b.value) && a.discontinuity == b.discontinuity, "{a:?} {b:?}");
            }
        }
        for end in 0..payload.len() {
            assert!(DecodedPage::decode(&payload[..end]).is_err(), "cut at {end}");
        }
        payload.len()
    }

    #[test]
    fn values_of_every_kind_come_back_bit_by_bit() {
        let at = |n: usize, value| Sample::new(1_700_000_000_000 + n as i64 * 10_000, value);
        let counters = (0..360).map(|n| at(n, Value::U64((1 << 63) + 1 + n as u64 * 1_000_000_007))).collect();
        let decimals = (0..500).map(|n| at(n, Value::F64(f64::from(n as u32) / 10.0 - 3.3))).collect();
        let odd = [f64::NAN, f64::INFINITY, -0.0, f64::MIN_POSITIVE, 1e300, f64::from_bits(0x7ff0_0000_0000_0002), 0.1 + 0.2];
        let odd = odd.iter().enumerate().map(|(n, v)| at(n, Value::F64(*v))).collect();
        let mut mixed: Vec<Sample> = (0..20).map(|n| at(n, if n % 3 == 0 { Value::U64(n as u64) } else { Value::F64(0.5) })).collect();
        mixed[4].discontinuity = Some(Discontinuity::EngineBoots);
        mixed[19].discontinuity = Some(Discontinuity::Reassigned);
        round_trip(&[counters, decimals, odd, mixed]);
    }

    #[test]
    fn decimals_and_equal_times_are_small() {
        let gauge = |n: u64| (0..120).map(|k| Sample::new(k * 10_000, Value::F64((200 + (k as u64 * n) % 7) as f64 / 10.0))).collect();
        let bytes = round_trip(&(0..24).map(gauge).collect::<Vec<_>>());
        assert!(bytes < 2880 * 6 / 10, "{bytes} bytes for 2880 samples");
    }

    #[test]
    fn the_worst_page_is_within_the_limit() {
        // Splitmix64: nothing to compress.
        let noise = |n: u64| {
            let z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        for chunk_samples in [1, 3, 360] {
            let mut builder = PageBuilder::default();
            let mut n = 0;
            loop {
                let chunk: Vec<Sample> = (0..chunk_samples)
                    .map(|_| {
                        n += 1;
                        let time = (noise(n) >> 12) as i64;
                        Sample { ts_ms: time, value: Value::U64(noise(!n)), discontinuity: Some(Discontinuity::EngineBoots) }
                    })
                    .collect();
                if !builder.has_room(&chunk) {
                    break;
                }
                builder.push(&chunk);
            }
            let bytes = builder.finish().len();
            assert!((20_000..=PAYLOAD_MAX).contains(&bytes), "{bytes}");
        }
    }
}
