//! The store against a map: whatever is appended, sealed, compacted, dropped and reopened, both hold the same.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::sync::Arc;

use anemone_model::{CounterWidth, Discontinuity, MetricKind, Sample, SeriesDef, Value};
use anemone_store::{Appended, BlockStore, FileBlocks, MemoryBlocks, SealReason, SeriesRef, Store, StoreOptions};
use proptest::prelude::*;

const HOUR: i64 = 3_600_000;
const SERIES: usize = 6;

#[derive(Clone, Debug)]
enum Step {
    Append {
        series: usize,
        ts_ms: i64,
        value: Value,
        mark: Option<Discontinuity>,
    },
    /// A run of samples in order.
    Run {
        series: usize,
        from_ms: i64,
        count: u16,
        value: u64,
    },
    Seal,
    Compact,
    Reopen,
    DropBefore(i64),
    ShrinkTo(u64),
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => any::<u64>().prop_map(Value::U64),
        3 => (0..50_u64).prop_map(Value::U64),
        1 => Just(Value::U64((1 << 63) + 1)),
        1 => any::<u64>().prop_map(|b| Value::F64(f64::from_bits(b))),
        2 => (-500..500_i32).prop_map(|n| Value::F64(f64::from(n) / 100.0)),
        1 => prop_oneof![Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(-0.0)].prop_map(Value::F64),
        1 => Just(Value::stale()),
    ]
}

/// Few distinct times near each other, so that duplicates happen, over a day and a half.
fn time() -> impl Strategy<Value = i64> {
    prop_oneof![(0..40_i64).prop_map(|n| n * 7_000), (0..36 * 6_i64).prop_map(|n| n * 600_000), -10_000..36 * HOUR]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0..SERIES, time(), value(), 0..40_u8).prop_map(|(series, ts_ms, value, mark)| Step::Append {
            series, ts_ms, value, mark: Discontinuity::from_code(mark),
        }),
        6 => (0..SERIES, time(), 1..500_u16, any::<u64>()).prop_map(|(series, from_ms, count, value)| Step::Run { series, from_ms, count, value }),
        4 => Just(Step::Seal),
        2 => Just(Step::Compact),
        2 => Just(Step::Reopen),
        1 => time().prop_map(Step::DropBefore),
        1 => (0..20_000_u64).prop_map(Step::ShrinkTo),
    ]
}

fn def(series: usize) -> SeriesDef {
    let metric = if series.is_multiple_of(2) { "even" } else { "odd" };
    let number = series.to_string();
    SeriesDef::new(metric, [("number", number.as_str())], MetricKind::Counter, CounterWidth::Bits64).unwrap()
}

fn key(value: Value) -> (bool, u64) {
    match value {
        Value::U64(v) => (false, v),
        Value::F64(v) => (true, v.to_bits()),
    }
}

type Kept = BTreeMap<(usize, i64), ((bool, u64), Option<Discontinuity>)>;

/// The store and what it must hold. Samples that are both sealed and appended again are in the map once, with the first value.
struct Pair {
    place: Arc<dyn BlockStore>,
    store: Store,
    refs: Vec<SeriesRef>,
    kept: Kept,
    /// What is in the head and would be replayed after a crash.
    unsealed: Vec<(usize, Sample)>,
    applied: u64,
    covered: u64,
}

fn options() -> StoreOptions {
    StoreOptions { compact_at: 3, page_cache_bytes: 100_000, index_cache_bytes: 2_000, ..StoreOptions::default() }
}

impl Pair {
    fn new(place: Arc<dyn BlockStore>) -> Self {
        let store = Store::open(Arc::clone(&place), options()).unwrap();
        let refs = (0..SERIES).map(|s| store.register(&def(s)).unwrap()).collect();
        Self { place, store, refs, kept: Kept::new(), unsealed: Vec::new(), applied: 0, covered: 0 }
    }

    fn append(&mut self, series: usize, sample: Sample) {
        let outcome = self.store.append(self.refs[series], sample);
        let there = self.kept.get(&(series, sample.ts_ms)).map(|(v, _)| *v);
        let in_head = self.unsealed.iter().any(|(s, k)| *s == series && k.ts_ms == sample.ts_ms);
        let expected = match there {
            Some(v) if in_head => {
                // Against the head's own value, which may differ from the one that counts.
                let head = self.unsealed.iter().find(|(s, k)| *s == series && k.ts_ms == sample.ts_ms).map(|(_, k)| key(k.value));
                if head.unwrap_or(v) == key(sample.value) { Appended::Duplicate } else { Appended::Conflict }
            }
            _ => Appended::New,
        };
        assert_eq!(outcome, expected, "series {series} {sample:?}");
        if !in_head {
            self.unsealed.push((series, sample));
        }
        self.kept.entry((series, sample.ts_ms)).or_insert((key(sample.value), sample.discontinuity));
        self.applied += 1;
        self.store.note_applied(self.applied);
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Append { series, ts_ms, value, mark } => self.append(series, Sample { ts_ms, value, discontinuity: mark }),
            Step::Run { series, from_ms, count, value } => {
                for n in 0..i64::from(count) {
                    self.append(series, Sample::new(from_ms + n * 10_000, Value::U64(value.wrapping_add(n as u64 * 1_000))));
                }
            }
            Step::Seal => {
                let summary = self.store.seal(SealReason::Interval).unwrap();
                assert_eq!(summary.samples, self.unsealed.len() as u64);
                self.unsealed.clear();
                self.covered = self.applied;
            }
            Step::Compact => assert_eq!(self.store.compact().unwrap().warnings, Vec::<String>::new()),
            Step::Reopen => self.reopen(),
            Step::DropBefore(ms) => {
                self.store.drop_before(ms).unwrap();
                self.forget_dropped(i64::MIN..ms);
            }
            Step::ShrinkTo(bytes) => {
                self.store.shrink_to(bytes).unwrap();
                self.forget_dropped(i64::MIN..i64::MAX);
                let markers = 1_000;
                assert!(self.store.stats().block_bytes <= bytes + markers);
            }
        }
        assert_eq!(self.store.covered(), self.covered);
    }

    /// Retention drops whole blocks: what may go is taken over from the store, and must be in the range.
    fn forget_dropped(&mut self, range: std::ops::Range<i64>) {
        let held = self.held();
        let unsealed = &self.unsealed;
        self.kept.retain(|k, _| held.contains_key(k) || !range.contains(&k.1));
        // A value that was second to a dropped one counts now.
        for (series, sample) in unsealed {
            if let (Some(kept), Some(held)) = (self.kept.get_mut(&(*series, sample.ts_ms)), held.get(&(*series, sample.ts_ms))) {
                *kept = *held;
            }
        }
        for (k, v) in &mut self.kept {
            if let Some(held) = held.get(k) {
                *v = *held;
            }
        }
    }

    /// As after a kill: the head is gone and what is above the mark is replayed.
    fn reopen(&mut self) {
        assert_eq!(self.store.covered(), self.covered);
        self.store = Store::open(Arc::clone(&self.place), options()).unwrap();
        assert_eq!(self.store.covered(), self.covered);
        self.refs = (0..SERIES).map(|s| self.store.register(&def(s)).unwrap()).collect();
        for (series, sample) in &self.unsealed {
            assert_eq!(self.store.append(self.refs[*series], *sample), Appended::New);
        }
        self.store.note_applied(self.applied);
    }

    fn held(&self) -> Kept {
        let selection = self.store.select(&[], i64::MIN, i64::MAX);
        assert_eq!(selection.warnings, Vec::<String>::new());
        let mut held = Kept::new();
        for series in selection.series {
            let number: usize = series.def.labels.value("number").unwrap().parse().unwrap();
            assert_eq!(*series.def, def(number));
            assert!(series.samples.windows(2).all(|w| w[0].ts_ms < w[1].ts_ms));
            held.extend(series.samples.iter().map(|s| ((number, s.ts_ms), (key(s.value), s.discontinuity))));
        }
        held
    }

    fn check(&self, from_ms: i64, to_ms: i64) {
        let held = self.held();
        assert_eq!(held.len(), self.kept.len(), "number of samples");
        assert_eq!(held, self.kept);
        let selection = self.store.select(&[], from_ms, to_ms);
        let selected: usize = selection.series.iter().map(|s| s.samples.len()).sum();
        assert_eq!(selected, self.kept.keys().filter(|(_, ts)| (from_ms..=to_ms).contains(ts)).count(), "from {from_ms} to {to_ms}");
        let listed = self.store.series(&[], from_ms, to_ms, usize::MAX).items.len();
        assert!(listed >= selection.series.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_store_holds_what_a_map_holds(steps in prop::collection::vec(step(), 1..60), from in time(), length in time()) {
        let mut pair = Pair::new(Arc::new(MemoryBlocks::new()));
        for step in steps {
            pair.run(step);
        }
        pair.check(from, from + length);
        pair.run(Step::Seal);
        pair.run(Step::Compact);
        pair.reopen();
        pair.check(from, from + length);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn and_so_it_does_in_files(steps in prop::collection::vec(step(), 1..40), from in time(), length in time()) {
        let dir = tempfile::tempdir().unwrap();
        let mut pair = Pair::new(Arc::new(FileBlocks::open(dir.path()).unwrap()));
        for step in steps {
            if matches!(step, Step::Reopen) {
                pair.place = Arc::new(FileBlocks::open(dir.path()).unwrap());
            }
            pair.run(step);
        }
        pair.check(from, from + length);
    }
}
