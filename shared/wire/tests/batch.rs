//! Batches against a model, and against hostile bytes.

#![expect(clippy::unwrap_used, reason = "a test: a panic is how it fails")]

use anemone_model::{AgentId, CounterWidth, Discontinuity, MetricKind, Sample, SeriesDef, Value};
use anemone_wire::WireError;
use anemone_wire::batch::{Batch, BatchBuilder, BatchHeader, EncodedSections, Section};
use anemone_wire::gap::{GapReason, GapRecord};
use bytes::Bytes;
use proptest::prelude::*;

fn header(sequence: u64) -> BatchHeader {
    let agent = AgentId { pop: "ams1".parse().unwrap(), name: "a1".parse().unwrap() };
    BatchHeader { agent, epoch: 0xfeed_face_cafe_beef, sequence, covers: 1, dictionary: 7, sealed_at_ms: 1_700_000_000_000 }
}

fn definition(n: u32) -> SeriesDef {
    let name = format!("eth{n}");
    SeriesDef::new("if_in_octets", [("pop", "ams1"), ("device", "sw1"), ("if_name", &*name)], MetricKind::Counter, CounterWidth::Bits64)
        .unwrap()
}

fn sealed(builder: BatchBuilder) -> Bytes {
    builder.encode().unwrap().seal(&header(42)).unwrap()
}

fn small() -> Bytes {
    let mut builder = BatchBuilder::new();
    for n in 0..3 {
        builder.define(n, definition(n));
        builder.push(n, Sample::new(1_700_000_000_000 + i64::from(n), Value::U64(9_223_372_036_854_775_809)));
    }
    builder.push_gap(GapRecord { from_sequence: 1, sequences: 2, from_ms: None, to_ms: Some(5), samples: 3, reason: GapReason::SpoolFull });
    sealed(builder)
}

fn sample() -> impl Strategy<Value = Sample> {
    let value = prop_oneof![any::<u64>().prop_map(Value::U64), any::<u64>().prop_map(|bits| Value::F64(f64::from_bits(bits)))];
    let mark = prop_oneof![9 => Just(None), 1 => (1_u8..=4).prop_map(Discontinuity::from_code)];
    (any::<i64>(), value, mark).prop_map(|(ts_ms, value, discontinuity)| Sample { ts_ms, value, discontinuity })
}

/// Bit-exact text of a row: NaN payloads count.
fn text((reference, sample): &(u32, Sample)) -> String {
    let value = match sample.value {
        Value::U64(v) => format!("u{v}"),
        Value::F64(v) => format!("f{:016x}", v.to_bits()),
    };
    format!("{reference} {} {value} {:?}", sample.ts_ms, sample.discontinuity)
}

proptest! {
    #[test]
    fn samples_come_back_bit_for_bit(rows in proptest::collection::vec((0_u32..1000, sample()), 1..500)) {
        let mut builder = BatchBuilder::new();
        rows.iter().for_each(|(reference, sample)| builder.push(*reference, *sample));
        let batch = Batch::decode(sealed(builder)).unwrap();
        let got = batch.samples().unwrap();
        prop_assert!(got.is_sorted_by_key(|(r, s)| (*r, s.ts_ms)));
        let (mut got, mut expected): (Vec<_>, Vec<_>) = (got.iter().map(text).collect(), rows.iter().map(text).collect());
        got.sort();
        expected.sort();
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_refused(at in 0_usize..400, bit in 0_u8..8) {
        let mut bytes = small().to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert!(Batch::decode(bytes.into()).is_err());
    }

    #[test]
    fn hostile_sections_never_panic(kind in 1_u16..=3, body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let sections = EncodedSections::from_sections(vec![Section { kind, body: body.into() }]);
        let batch = Batch::decode(sections.seal(&header(1)).unwrap()).unwrap();
        let _ = (batch.definitions(), batch.samples(), batch.gaps());
    }

    #[test]
    fn damaged_columns_never_panic(at in any::<usize>(), byte in any::<u8>(), cut in 0_usize..20) {
        for section in Batch::decode(small()).unwrap().sections {
            let mut body = section.body.to_vec();
            let at = at % body.len();
            body[at] = byte;
            body.truncate(body.len() - cut.min(body.len()));
            let sections = EncodedSections::from_sections(vec![Section { kind: section.kind, body: body.into() }]);
            let batch = Batch::decode(sections.seal(&header(1)).unwrap()).unwrap();
            let _ = (batch.definitions(), batch.samples(), batch.gaps());
        }
    }
}

#[test]
fn definitions_gaps_and_header_come_back() {
    let bytes = small();
    let batch = Batch::decode(bytes.clone()).unwrap();
    assert_eq!(batch.header, header(42));
    assert_eq!(BatchHeader::peek(&bytes).unwrap(), header(42));
    assert_eq!(batch.definitions().unwrap(), (0..3).map(|n| (n, definition(n))).collect::<Vec<_>>());
    assert_eq!(batch.gaps().unwrap()[0].reason, GapReason::SpoolFull);
    assert_eq!(batch.samples().unwrap()[2].1.value, Value::U64(9_223_372_036_854_775_809));
}

#[test]
fn a_batch_cut_at_any_byte_is_refused() {
    let bytes = small();
    for length in 0..bytes.len() {
        assert!(Batch::decode(bytes.slice(..length)).is_err(), "cut at {length}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let bytes = small();
    let changed = |at: usize, byte: u8| {
        let mut bytes = bytes.to_vec();
        bytes[at] = byte;
        Batch::decode(bytes.into()).unwrap_err().to_string()
    };
    assert_eq!(changed(0, b'X'), "not a batch: the first bytes are [58, 4e, 45, 42], expected \"ANEB\"");
    assert_eq!(changed(4, 9), "batch has version 9; this build reads up to version 1");
    assert!(changed(bytes.len() - 1, bytes[bytes.len() - 1] ^ 1).starts_with("checksum of the batch is"));
    let error = Batch::decode(Bytes::from(vec![0; (1 << 20) + 1])).unwrap_err();
    assert_eq!(error, WireError::TooLarge { what: "batch", size: (1 << 20) + 1, limit: 1 << 20 });
}

#[test]
fn an_unknown_section_is_kept() {
    let sections = EncodedSections::from_sections(vec![Section { kind: 999, body: Bytes::from_static(b"later") }]);
    let batch = Batch::decode(sections.seal(&header(1)).unwrap()).unwrap();
    assert_eq!(batch.unknown_sections(), 1);
    assert_eq!(EncodedSections::from_sections(batch.sections.clone()).seal(&batch.header), sections.seal(&header(1)));
}

#[test]
fn a_poll_round_of_counters_stays_within_its_target() {
    let mut builder = BatchBuilder::new();
    for reference in 0..48 * 8_u32 {
        let value = 1_u64 << (20 + reference % 24) | u64::from(reference).wrapping_mul(0x9e37_79b9) & 0xf_ffff;
        builder.push(reference, Sample::new(1_700_000_000_000 + i64::from(reference / 24), Value::U64(value)));
    }
    let bytes = sealed(builder).len();
    assert!(bytes <= 7 * 48 * 8, "{bytes} bytes for {} samples", 48 * 8);
}
