//! The open chunk of one series: samples in order of time, each encoded against the one before.
//!
//! ```text
//! sample := varint(zigzag(delta of delta of time) << 2 | has mark << 1 | is float)  value  [mark code, 1 byte]
//! value  := integer: varint(zigzag(difference of bits))
//!           float:   byte(trailing zero bytes << 4 | length) then `length` bytes of (bits XOR bits before), little-endian
//! ```
//! "Before" is 64 bits of zero at first, whatever kind of value the bits are. Nothing is lost: integers stay integers, NaNs keep their payload.

use anemone_model::{Discontinuity, Sample, Value};

use crate::varint::{Reader, put, unzigzag, zigzag};

const IS_FLOAT: u64 = 1;
const HAS_MARK: u64 = 2;

/// See the module. The bytes are only ever written here, so decoding trusts them.
#[derive(Clone, Debug, Default)]
pub(super) struct OpenChunk {
    bytes: Vec<u8>,
    last: Before,
    count: u32,
    last_is_float: bool,
}

/// What the next sample is encoded against.
#[derive(Clone, Copy, Debug, Default)]
struct Before {
    ts_ms: i64,
    delta_ms: i64,
    bits: u64,
}

fn bits_of(value: Value) -> (u64, bool) {
    match value {
        Value::U64(v) => (v, false),
        Value::F64(v) => (v.to_bits(), true),
    }
}

/// The value with these bits.
pub(crate) fn value_of(bits: u64, is_float: bool) -> Value {
    if is_float { Value::F64(f64::from_bits(bits)) } else { Value::U64(bits) }
}

/// Whether two values are the same bit by bit.
pub(crate) fn same_value(a: Value, b: Value) -> bool {
    bits_of(a) == bits_of(b)
}

impl OpenChunk {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn last_ts(&self) -> i64 {
        self.last.ts_ms
    }

    pub(super) fn last_value(&self) -> Value {
        value_of(self.last.bits, self.last_is_float)
    }

    /// The time of the first sample; 0 where there is none.
    pub(super) fn first_ts(&self) -> i64 {
        Reader::new(&self.bytes).varint().map_or(0, |head| unzigzag(head >> 2))
    }

    /// Appends a sample later than all before. Times must be within ±2^52 ms. `scratch` is room to work in.
    pub(super) fn push(&mut self, sample: Sample, scratch: &mut Vec<u8>) {
        let (bits, is_float) = bits_of(sample.value);
        let delta_ms = sample.ts_ms - self.last.ts_ms;
        let head = (zigzag(delta_ms - self.last.delta_ms) << 2)
            | if sample.discontinuity.is_some() { HAS_MARK } else { 0 }
            | if is_float { IS_FLOAT } else { 0 };
        scratch.clear();
        put(scratch, head);
        if is_float {
            put_xor(scratch, bits ^ self.last.bits);
        } else {
            put(scratch, zigzag(bits.wrapping_sub(self.last.bits) as i64));
        }
        if let Some(mark) = sample.discontinuity {
            scratch.push(mark.code());
        }
        self.reserve(scratch.len());
        self.bytes.extend_from_slice(scratch);
        // The first delta is the time itself: kept out, or the second sample would be encoded against it.
        self.last = Before { ts_ms: sample.ts_ms, delta_ms: if self.count == 0 { 0 } else { delta_ms }, bits };
        self.last_is_float = is_float;
        self.count += 1;
    }

    /// Grows in steps that fill the allocator's size classes (16 n + 8): most series hold few samples, and there are millions of them.
    fn reserve(&mut self, more: usize) {
        let needed = self.bytes.len() + more;
        if needed > self.bytes.capacity() {
            let wanted = needed.max(self.bytes.capacity() * 5 / 4);
            let rounded = (wanted + 8).next_multiple_of(16) - 8;
            self.bytes.reserve_exact(rounded - self.bytes.len());
        }
    }

    pub(super) fn samples(&self) -> Samples<'_> {
        Samples { bytes: Reader::new(&self.bytes), before: Before::default(), first: true }
    }
}

fn put_xor(out: &mut Vec<u8>, xor: u64) {
    if xor == 0 {
        out.push(0);
        return;
    }
    let trailing = xor.trailing_zeros() / 8;
    let length = 8 - xor.leading_zeros() / 8 - trailing;
    out.push((trailing << 4 | length) as u8);
    out.extend_from_slice(&(xor >> (8 * trailing)).to_le_bytes()[..length as usize]);
}

fn read_xor(bytes: &mut Reader<'_>) -> Option<u64> {
    let shape = bytes.byte()?;
    let mut word = [0_u8; 8];
    let length = usize::from(shape & 0x0F);
    word.get_mut(..length)?.copy_from_slice(bytes.take(length)?);
    u64::from_le_bytes(word).checked_shl(8 * u32::from(shape >> 4))
}

/// The samples of an open chunk in order of time.
#[derive(Debug)]
pub(super) struct Samples<'a> {
    bytes: Reader<'a>,
    before: Before,
    first: bool,
}

impl Iterator for Samples<'_> {
    type Item = Sample;

    fn next(&mut self) -> Option<Sample> {
        let head = self.bytes.varint()?;
        let delta_ms = self.before.delta_ms + unzigzag(head >> 2);
        let ts_ms = self.before.ts_ms + delta_ms;
        let is_float = head & IS_FLOAT != 0;
        let bits = if is_float {
            self.before.bits ^ read_xor(&mut self.bytes)?
        } else {
            self.before.bits.wrapping_add(self.bytes.signed()? as u64)
        };
        let discontinuity = if head & HAS_MARK != 0 { Discontinuity::from_code(self.bytes.byte()?) } else { None };
        self.before = Before { ts_ms, delta_ms: if self.first { 0 } else { delta_ms }, bits };
        self.first = false;
        Some(Sample { ts_ms, value: value_of(bits, is_float), discontinuity })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<u64>().prop_map(Value::U64),
            (0..1000_u64).prop_map(Value::U64),
            any::<u64>().prop_map(|b| Value::F64(f64::from_bits(b))),
            (0..1000_i32).prop_map(|n| Value::F64(f64::from(n) / 10.0)),
            Just(Value::stale()),
            Just(Value::U64((1 << 63) + 1)),
        ]
    }

    proptest! {
        #[test]
        fn every_bit_comes_back(samples in prop::collection::vec((1..100_000_i64, value(), 0..8_u8), 0..60), start in -(1_i64 << 51)..(1_i64 << 51)) {
            let (mut chunk, mut scratch) = (OpenChunk::default(), Vec::new());
            let mut ts_ms = start;
            let mut pushed = Vec::new();
            for (step, value, mark) in samples {
                ts_ms += step;
                pushed.push(Sample { ts_ms, value, discontinuity: Discontinuity::from_code(mark) });
                chunk.push(pushed[pushed.len() - 1], &mut scratch);
            }
            let read: Vec<Sample> = chunk.samples().collect();
            prop_assert_eq!(read.len(), pushed.len());
            prop_assert_eq!(chunk.count() as usize, pushed.len());
            for (a, b) in read.iter().zip(&pushed) {
                prop_assert!(a.ts_ms == b.ts_ms && same_value(a.value, b.value) && a.discontinuity == b.discontinuity, "{:?} is not {:?}", a, b);
            }
            if let Some(first) = pushed.first() {
                prop_assert_eq!(chunk.first_ts(), first.ts_ms);
                prop_assert_eq!(chunk.last_ts(), ts_ms);
                prop_assert!(same_value(chunk.last_value(), pushed[pushed.len() - 1].value));
            }
        }
    }
}
