//! What the store says to its callers, case by case.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::ops::ControlFlow;
use std::sync::Arc;

use anemone_model::{CounterWidth, Discontinuity, MetricKind, Sample, SeriesDef, Value};
use anemone_store::matcher::{MatchOp, Matcher};
use anemone_store::{Appended, MemoryBlocks, Refusal, SealReason, SeriesRef, Store, StoreError, StoreOptions};

const HOUR: i64 = 3_600_000;

fn def(metric: &str, pop: &str, device: &str) -> SeriesDef {
    SeriesDef::new(metric, [("pop", pop), ("device", device)], MetricKind::Counter, CounterWidth::Bits64).unwrap()
}

fn store(options: StoreOptions) -> (Arc<MemoryBlocks>, Store) {
    let place = Arc::new(MemoryBlocks::new());
    let store = Store::open(Arc::<MemoryBlocks>::clone(&place) as _, options).unwrap();
    (place, store)
}

fn equal(name: &str, value: &str) -> Matcher {
    Matcher::new(name, MatchOp::Equal, value).unwrap()
}

#[test]
fn a_counter_above_2_to_the_63_is_exact_in_head_and_block_with_its_mark() {
    let (place, store) = store(StoreOptions::default());
    let series = store.register(&def("if_in_octets", "ams1", "sw1")).unwrap();
    let mut first = Sample::new(1_700_000_000_000, Value::U64((1 << 63) + 1));
    first.discontinuity = Some(Discontinuity::CounterDiscontinuityTime);
    let second = Sample::new(1_700_000_010_000, Value::U64(u64::MAX));
    let third = Sample::new(1_700_000_020_000, Value::stale());
    for sample in [first, second, third] {
        assert_eq!(store.append(series, sample), Appended::New);
    }
    let check = |store: &Store| {
        let selection = store.select(&[equal("device", "sw1")], first.ts_ms, third.ts_ms);
        let samples = &selection.series[0].samples;
        assert_eq!(samples[..2], [first, second]);
        assert!(samples[2].value.is_stale() && selection.warnings.is_empty());
        assert_eq!(store.select(&[], first.ts_ms + 1, third.ts_ms - 1).series[0].samples, [second]);
    };
    check(&store);
    store.seal(SealReason::Shutdown).unwrap();
    assert_eq!(store.stats().head_samples, 0);
    check(&store);
    check(&Store::open(place, StoreOptions::default()).unwrap());
}

#[test]
fn refusals_are_counted_by_reason_and_depend_on_the_time_told() {
    let options = StoreOptions { retention_ms: Some(48 * HOUR), max_series: 1, ..StoreOptions::default() };
    let (_, store) = store(options);
    let series = store.register(&def("m", "a", "b")).unwrap();
    assert!(matches!(store.register(&def("m", "a", "c")), Err(StoreError::SeriesLimit { limit: 1 })));
    let at = |ts_ms| store.append(series, Sample::new(ts_ms, Value::U64(1)));
    assert_eq!(at(0), Appended::New, "nobody told the time: any is accepted");
    assert_eq!(at(i64::MAX), Appended::Refused(Refusal::TooNew));
    assert_eq!(at(i64::MIN), Appended::Refused(Refusal::TooOld));
    let now = 1_700_000_000_000;
    store.note_now(now);
    for (ts_ms, expected) in [
        (now + HOUR, Appended::New),
        (now + HOUR + 1, Appended::Refused(Refusal::TooNew)),
        (now - 48 * HOUR, Appended::New),
        (now - 48 * HOUR - 1, Appended::Refused(Refusal::TooOld)),
    ] {
        assert_eq!(at(ts_ms), expected);
    }
    assert_eq!(store.append(SeriesRef(7), Sample::new(now, Value::U64(1))), Appended::Refused(Refusal::UnknownSeries));
    assert_eq!(at(now + HOUR), Appended::Duplicate);
    assert_eq!(store.append(series, Sample::new(now + HOUR, Value::F64(1.0))), Appended::Conflict);
    let stats = store.stats();
    assert_eq!((stats.appended, stats.duplicates, stats.conflicts), (3, 1, 1));
    assert_eq!((stats.refused_too_old, stats.refused_too_new, stats.refused_unknown_series), (2, 2, 1));
}

#[test]
fn the_mark_outlives_its_blocks_and_empty_seals_move_it() {
    let (place, store) = store(StoreOptions::default());
    let series = store.register(&def("m", "a", "b")).unwrap();
    assert!(store.seal(SealReason::Interval).unwrap().blocks.is_empty());
    store.append(series, Sample::new(1, Value::U64(1)));
    store.note_applied(5);
    assert_eq!((store.covered(), store.seal(SealReason::Interval).unwrap().covered), (0, 5));
    for mark in 6..10 {
        store.note_applied(mark);
        let summary = store.seal(SealReason::Interval).unwrap();
        assert_eq!((summary.covered, summary.samples, store.stats().blocks), (mark, 0, 2), "one marker replaces the other");
    }
    store.append(series, Sample::new(2, Value::U64(1)));
    store.note_applied(10);
    store.seal(SealReason::Interval).unwrap();
    assert_eq!(store.stats().blocks, 2, "a block with samples replaces the marker");
    let dropped = store.drop_before(3).unwrap();
    assert_eq!((dropped.blocks, dropped.samples, store.stats().blocks), (2, 2, 1));
    store.note_applied(3);
    drop(store);
    let store = Store::open(place, StoreOptions::default()).unwrap();
    assert_eq!((store.covered(), store.stats().block_samples), (10, 0));
    store.seal(SealReason::Interval).unwrap();
    assert_eq!(store.covered(), 10);
}

#[test]
fn listings_follow_matchers_time_and_limit_wherever_the_samples_are() {
    let (_, store) = store(StoreOptions::default());
    for (n, (metric, pop, device)) in
        [("up", "ams1", "sw1"), ("up", "ams1", "sw2"), ("up", "nyc1", "sw1"), ("temp", "nyc1", "sw9")].iter().enumerate()
    {
        let series = store.register(&def(metric, pop, device)).unwrap();
        for k in 0..5 {
            store.append(series, Sample::new(n as i64 * 3 * HOUR + k * 60_000, Value::U64(1)));
        }
        if n % 2 == 0 {
            store.seal(SealReason::Interval).unwrap();
        }
    }
    store.register(&def("silent", "x", "y")).unwrap();
    let texts = |l: anemone_store::Listing<Arc<str>>| l.items.iter().map(|s| s.to_string()).collect::<Vec<_>>();
    let (min, max, all) = (i64::MIN, i64::MAX, usize::MAX);
    assert_eq!(texts(store.label_values("pop", &[], min, max, all)), ["ams1", "nyc1"]);
    assert_eq!(texts(store.label_values("device", &[equal("pop", "nyc1")], min, max, all)), ["sw1", "sw9"]);
    assert_eq!(texts(store.label_values("__name__", &[], 9 * HOUR, max, all)), ["temp"]);
    assert_eq!(texts(store.label_values("device", &[], 3 * HOUR, 3 * HOUR + 240_000, all)), ["sw2"]);
    assert_eq!(texts(store.label_names(&[], min, max, all)), ["__name__", "device", "pop"]);
    assert_eq!(texts(store.label_names(&[], 100 * HOUR, max, all)), Vec::<String>::new());
    let cut = store.series(&[equal("__name__", "up")], min, max, 2);
    assert_eq!((cut.items.len(), cut.truncated), (2, true));
    assert_eq!(store.series(&[equal("__name__", "silent")], min, max, all).items.len(), 0);
    assert_eq!(store.series(&[], 3 * HOUR, 6 * HOUR, all).items.len(), 2);
}

#[test]
fn a_reader_can_stop_and_blocks_in_use_are_not_deleted_under_it() {
    let (_, store) = store(StoreOptions { page_cache_bytes: 0, ..StoreOptions::default() });
    for n in 0..500 {
        let series = store.register(&def("m", "p", &format!("d{n}"))).unwrap();
        for k in 0..20 {
            store.append(series, Sample::new(k * 1000, Value::U64(k as u64)));
        }
    }
    store.seal(SealReason::Interval).unwrap();
    let mut seen = 0;
    let warnings = store.for_each_series(&[], 0, HOUR, |_, samples| {
        assert_eq!(samples.len(), 20);
        seen += 1;
        if seen == 10 {
            store.drop_before(i64::MAX).unwrap();
            store.reload().unwrap();
            assert_eq!(store.stats().block_samples, 0, "a block on its way out is not taken up again");
        }
        if seen == 400 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((seen, warnings), (400, vec![]));
    assert!(store.select(&[], 0, HOUR).series.is_empty());
}

#[test]
fn compaction_makes_one_block_of_many_and_a_backlog_of_years_stays_few_blocks() {
    let (_, store) = store(StoreOptions { compact_at: 4, ..StoreOptions::default() });
    let series = store.register(&def("m", "p", "d")).unwrap();
    for n in 0..40 {
        store.append(series, Sample::new(n * 30 * 60_000, Value::U64(n as u64)));
        store.seal(SealReason::Interval).unwrap();
        store.compact().unwrap();
    }
    assert!(store.stats().blocks < 14, "{} blocks", store.stats().blocks);
    store.append(series, Sample::new(30 * 24 * HOUR, Value::U64(1)));
    store.seal(SealReason::Interval).unwrap();
    store.compact().unwrap();
    assert_eq!(store.stats().blocks, 2);
    assert_eq!(store.select(&[], i64::MIN, i64::MAX).series[0].samples.len(), 41);

    for n in 0..5000 {
        store.append(series, Sample::new(n * 9 * HOUR + 7, Value::U64(n as u64)));
    }
    let blocks = store.seal(SealReason::Interval).unwrap().blocks.len();
    assert!(blocks <= 32, "{blocks} blocks");
    assert_eq!(store.select(&[], i64::MIN, i64::MAX).series[0].samples.len(), 5041);
}

#[test]
fn readers_and_a_writer_and_seals_at_once_miss_and_repeat_nothing() {
    let (_, store) = store(StoreOptions { compact_at: 2, ..StoreOptions::default() });
    let series: Vec<_> = (0..8).map(|n| store.register(&def("m", "p", &format!("d{n}"))).unwrap()).collect();
    let written = std::sync::atomic::AtomicI64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for k in 1..=3000 {
                for s in &series {
                    assert_eq!(store.append(*s, Sample::new(k * 10_000, Value::U64(k as u64))), Appended::New);
                }
                written.store(k, std::sync::atomic::Ordering::Release);
            }
        });
        scope.spawn(|| {
            while written.load(std::sync::atomic::Ordering::Acquire) < 3000 {
                store.seal(SealReason::Interval).unwrap();
                store.compact().unwrap();
            }
        });
        while written.load(std::sync::atomic::Ordering::Acquire) < 3000 {
            let at_least = written.load(std::sync::atomic::Ordering::Acquire);
            let selection = store.select(&[], 0, at_least * 10_000);
            assert_eq!(selection.warnings, Vec::<String>::new());
            assert!(at_least == 0 || selection.series.len() == 8);
            for s in selection.series {
                assert!(s.samples.iter().map(|s| s.ts_ms).eq((1..=at_least).map(|k| k * 10_000)));
            }
        }
    });
    store.seal(SealReason::Interval).unwrap();
    assert_eq!(store.select(&[], 0, i64::MAX).series.iter().map(|s| s.samples.len()).sum::<usize>(), 24_000);
}
