//! The batcher between a sink's callers, a local store and a spool.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anemone_model::{AgentId, CounterWidth, MetricKind, Sample, SeriesDef, Value};
use anemone_store::matcher::{MatchOp, Matcher};
use anemone_wire::batch::Batch;
use tokio::runtime::Runtime;

use super::*;
use crate::clock;
use crate::config::{BatchBounds, ByteSize, LocalBounds, SpoolBounds};
use crate::device::{SampleSink, SinkRefusal};
use crate::local::LocalStore;
use crate::spool::Spool;

struct Bench {
    _runtime: Runtime,
    local: Arc<LocalStore>,
    spool: Arc<Spool>,
}

impl Bench {
    fn new(dir: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let agent = AgentId { pop: "ams1".parse().unwrap(), name: "a1".parse().unwrap() };
        let mib = ByteSize(1 << 20);
        let bounds = SpoolBounds { max_bytes: ByteSize(64 << 20), segment_bytes: mib, memory_bytes: ByteSize(16 << 20) };
        let (spool, _) = runtime.block_on(Spool::open(&dir.join("spool"), agent, bounds, 0)).unwrap();
        let second = Duration::from_secs(1);
        let bounds = LocalBounds { retention: second * 3600, max_bytes: mib, seal_every: second * 600, head_bytes: ByteSize(64 << 20) };
        let (local, spool) = (Arc::new(LocalStore::open(&dir.join("local"), bounds).unwrap()), Arc::new(spool));
        let (writing, handle) = (Arc::clone(&spool), runtime.handle().clone());
        std::thread::spawn(move || writing.run_writer(&handle));
        Self { _runtime: runtime, local, spool }
    }

    fn batcher(&self, queue_samples: usize) -> (Batcher, SinkHandle) {
        let bounds = BatchBounds { max_delay: Duration::from_millis(50), target_bytes: ByteSize(4 << 10), queue_samples };
        Batcher::new(bounds, Arc::clone(&self.local), Arc::clone(&self.spool))
    }

    fn batches(&self) -> Vec<Batch> {
        assert_eq!(self.spool.drain(Instant::now() + Duration::from_secs(20)), 0);
        let read = self.spool.read(1, u64::MAX).unwrap();
        read.into_iter().map(|outgoing| Batch::decode(outgoing.bytes).unwrap()).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.spool.close();
    }
}

fn def(n: u32) -> SeriesDef {
    let name = n.to_string();
    SeriesDef::new("m", [("n", name.as_str())], MetricKind::Gauge, CounterWidth::Unknown).unwrap()
}

/// One sample of each of so many series, at this many milliseconds after `from_ms`.
fn round(references: &[u32], at_ms: i64) -> Vec<(u32, Sample)> {
    references.iter().map(|reference| (*reference, Sample::new(at_ms, Value::U64(u64::from(*reference))))).collect()
}

#[test]
fn series_are_defined_once_and_before_their_first_sample() {
    let temp = tempfile::tempdir().unwrap();
    let bench = Bench::new(temp.path());
    let (batcher, sink) = bench.batcher(1_000_000);
    let running = std::thread::spawn(move || batcher.run());
    let references: Vec<u32> = (0..300).map(|n| sink.register(def(n)).unwrap()).collect();
    let from_ms = clock::now_ms() - 60_000;
    for at in 0..20 {
        sink.round("sw1", round(&references, from_ms + at * 1000)).unwrap();
    }
    sink.close();
    assert_eq!(sink.round("sw1", round(&references, 0)), Err(SinkRefusal::Closed));
    running.join().unwrap();

    let batches = bench.batches();
    assert!(batches.len() > 5, "sealed by size");
    let (mut defined, mut samples) = (std::collections::BTreeSet::new(), 0);
    for batch in &batches {
        assert_eq!(batch.header.dictionary, 1);
        for (reference, definition) in batch.definitions().unwrap() {
            assert!(defined.insert(reference), "{reference} is defined twice");
            assert_eq!(definition, def(reference));
        }
        let used = batch.samples().unwrap();
        assert!(used.iter().all(|(reference, _)| defined.contains(reference)));
        samples += used.len();
    }
    assert_eq!(samples, 6_000);
    let matcher = Matcher::new("__name__", MatchOp::Equal, "m").unwrap();
    let local: usize = bench.local.store().select(&[matcher], 0, i64::MAX).series.iter().map(|series| series.samples.len()).sum();
    assert_eq!(local, 6_000, "queries see them without a seal");
    let status = sink.status();
    assert_eq!((status.series, status.samples, status.queued_samples, status.batches), (300, 6_000, 0, batches.len() as u64));
}

#[test]
fn a_full_queue_refuses_and_counts() {
    let temp = tempfile::tempdir().unwrap();
    let bench = Bench::new(temp.path());
    let (batcher, sink) = bench.batcher(25);
    let references: Vec<u32> = (0..10).map(|n| sink.register(def(n)).unwrap()).collect();
    let now = clock::now_ms();
    let outcomes: Vec<bool> = (0..4).map(|at| sink.round("sw1", round(&references, now + at)).is_ok()).collect();
    assert_eq!(outcomes, [true, true, false, false]);
    let status = sink.status();
    assert_eq!((status.queued_samples, status.refused_rounds, status.refused_samples), (20, 2, 20));
    sink.close();
    batcher.run();
    assert_eq!(bench.batches().iter().map(|batch| batch.samples().unwrap().len()).sum::<usize>(), 20);
}

#[test]
fn rounds_that_come_too_late_and_unknown_references_are_counted() {
    let temp = tempfile::tempdir().unwrap();
    let bench = Bench::new(temp.path());
    let (batcher, sink) = bench.batcher(1_000);
    let known = sink.register(def(0)).unwrap();
    let now = clock::now_ms();
    sink.round("sw1", round(&[known, 1, u32::MAX], now)).unwrap();
    sink.close();
    assert_eq!(sink.round("sw1", round(&[known; 2], now)), Err(SinkRefusal::Closed));
    batcher.run();
    let status = sink.status();
    assert_eq!((status.rounds, status.samples, status.unknown_samples), (1, 3, 2));
    assert_eq!((status.closed_rounds, status.closed_samples, status.queued_samples), (1, 2, 0));
    assert_eq!(bench.batches()[0].samples().unwrap().len(), 1);

    // A batcher that ended without having been closed.
    let (batcher, sink) = bench.batcher(1_000);
    drop(batcher);
    assert_eq!(sink.round("sw1", round(&[0; 5], now)), Err(SinkRefusal::Closed));
    let status = sink.status();
    assert_eq!((status.closed_rounds, status.closed_samples, status.queued_samples, status.rounds), (1, 5, 0, 0));
}

#[test]
fn a_new_dictionary_defines_everything_anew() {
    let temp = tempfile::tempdir().unwrap();
    let bench = Bench::new(temp.path());
    let (batcher, sink) = bench.batcher(1_000);
    let running = std::thread::spawn(move || batcher.run());
    let references: Vec<u32> = (0..3).map(|n| sink.register(def(n)).unwrap()).collect();
    let now = clock::now_ms();
    sink.round("sw1", round(&references, now)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while bench.spool.next_sequence() < 2 {
        assert!(Instant::now() < deadline);
    }
    // The hub lacks a definition, and so does the spool: the record that held it is given up as one that never defined anything.
    bench.spool.give_up(1, "a test").unwrap();
    bench.spool.give_up(1, "a test").unwrap();
    bench.spool.want_new_dictionary();
    sink.round("sw1", round(&references, now + 1000)).unwrap();
    sink.close();
    running.join().unwrap();
    let batches = bench.batches();
    assert_eq!(batches.iter().map(|batch| batch.header.dictionary).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(batches[1].definitions().unwrap().len(), 3);
}
