//! The batcher's thread and the handle that device tasks push into.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anemone_model::{Sample, SeriesDef};
use anemone_store::SeriesRef;
use anemone_wire::batch::BatchBuilder;
use serde::Serialize;

use super::registry::{Registry, SERIES_MAX};
use crate::config::BatchBounds;
use crate::device::{SampleSink, SinkRefusal};
use crate::local::LocalStore;
use crate::spool::{Part, Spool};

/// Most definitions in one batch, so that the largest labels still fit.
const DEFINITIONS_MAX: usize = 20_000;
/// How long the thread sleeps at most while nothing comes.
const IDLE: Duration = Duration::from_millis(200);

/// What device tasks push into.
#[derive(Clone, Debug)]
pub struct SinkHandle {
    shared: Arc<Shared>,
    rounds: Sender<Vec<(u32, Sample)>>,
}

#[derive(Debug)]
struct Shared {
    registry: Registry,
    queue_samples: usize,
    queued: AtomicUsize,
    closed: AtomicBool,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    rounds: AtomicU64,
    samples: AtomicU64,
    refused_rounds: AtomicU64,
    refused_samples: AtomicU64,
    refused_series: AtomicU64,
    closed_rounds: AtomicU64,
    closed_samples: AtomicU64,
    unknown_samples: AtomicU64,
    batches: AtomicU64,
    dropped_samples: AtomicU64,
    unencodable: AtomicU64,
}

impl Counters {
    /// A round of so many samples came too late.
    fn closed(&self, samples: usize) {
        self.closed_rounds.fetch_add(1, Ordering::Relaxed);
        self.closed_samples.fetch_add(samples as u64, Ordering::Relaxed);
    }
}

/// What the batcher has counted; every drop is among it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BatcherStatus {
    /// Series registered.
    pub series: usize,
    /// Samples that wait for the batcher.
    pub queued_samples: usize,
    /// Rounds taken.
    pub rounds: u64,
    /// Samples taken.
    pub samples: u64,
    /// Rounds refused because the queue was full.
    pub refused_rounds: u64,
    /// Samples in them.
    pub refused_samples: u64,
    /// Series refused for the budget.
    pub refused_series: u64,
    /// Rounds dropped because the batcher was closed or had ended.
    pub closed_rounds: u64,
    /// Samples in them.
    pub closed_samples: u64,
    /// Samples dropped because no series has their reference.
    pub unknown_samples: u64,
    /// Parts handed to the spool.
    pub batches: u64,
    /// Samples dropped from memory because the spool's disk refused.
    pub dropped_samples: u64,
    /// Parts that did not encode, and were lost.
    pub unencodable: u64,
}

impl SinkHandle {
    /// What was counted so far.
    #[must_use]
    pub fn status(&self) -> BatcherStatus {
        let counters = &self.shared.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BatcherStatus {
            series: self.shared.registry.len(),
            queued_samples: self.shared.queued.load(Ordering::Relaxed),
            rounds: count(&counters.rounds),
            samples: count(&counters.samples),
            refused_rounds: count(&counters.refused_rounds),
            refused_samples: count(&counters.refused_samples),
            refused_series: count(&counters.refused_series),
            closed_rounds: count(&counters.closed_rounds),
            closed_samples: count(&counters.closed_samples),
            unknown_samples: count(&counters.unknown_samples),
            batches: count(&counters.batches),
            dropped_samples: count(&counters.dropped_samples),
            unencodable: count(&counters.unencodable),
        }
    }

    /// Takes no more rounds; the batcher's thread seals what it has and ends.
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
    }
}

impl SampleSink for SinkHandle {
    fn register(&self, definition: SeriesDef) -> Result<u32, SinkRefusal> {
        let registered = self.shared.registry.register(definition);
        if registered.is_err() {
            self.shared.counters.refused_series.fetch_add(1, Ordering::Relaxed);
        }
        registered
    }

    fn round(&self, _device: &str, samples: Vec<(u32, Sample)>) -> Result<(), SinkRefusal> {
        let (shared, count) = (&self.shared, samples.len());
        if count == 0 {
            return Ok(());
        }
        if shared.closed.load(Ordering::Acquire) {
            shared.counters.closed(count);
            return Err(SinkRefusal::Closed);
        }
        let queued = shared.queued.fetch_add(count, Ordering::AcqRel);
        if queued > 0 && queued + count > shared.queue_samples {
            shared.queued.fetch_sub(count, Ordering::AcqRel);
            shared.counters.refused_rounds.fetch_add(1, Ordering::Relaxed);
            shared.counters.refused_samples.fetch_add(count as u64, Ordering::Relaxed);
            return Err(SinkRefusal::Full);
        }
        if self.rounds.send(samples).is_err() {
            shared.queued.fetch_sub(count, Ordering::AcqRel);
            shared.counters.closed(count);
            return Err(SinkRefusal::Closed);
        }
        shared.counters.rounds.fetch_add(1, Ordering::Relaxed);
        shared.counters.samples.fetch_add(count as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// What a reference is in the present dictionary and in the local store.
#[derive(Clone, Copy, Debug, Default)]
enum Place {
    /// Not looked up yet.
    #[default]
    Unknown,
    /// Known; the local store may have refused it.
    Known { local: Option<SeriesRef>, defined: bool },
}

/// Fills and seals batches; runs on its own thread.
#[derive(Debug)]
pub struct Batcher {
    shared: Arc<Shared>,
    rounds: Receiver<Vec<(u32, Sample)>>,
    local: Arc<LocalStore>,
    spool: Arc<Spool>,
    bounds: BatchBounds,
    builder: BatchBuilder,
    opened_at: Option<Instant>,
    places: Vec<Place>,
    generation: u64,
}

impl Batcher {
    /// A batcher and the handle that feeds it.
    #[must_use]
    pub fn new(bounds: BatchBounds, local: Arc<LocalStore>, spool: Arc<Spool>) -> (Self, SinkHandle) {
        let shared = Arc::new(Shared {
            registry: Registry::new(SERIES_MAX),
            queue_samples: bounds.queue_samples,
            queued: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            counters: Counters::default(),
        });
        // Bounded by the count of queued samples.
        let (sender, rounds) = mpsc::channel();
        let handle = SinkHandle { shared: Arc::clone(&shared), rounds: sender };
        let generation = spool.generation_wanted();
        let batcher =
            Self { shared, rounds, local, spool, bounds, builder: BatchBuilder::new(), opened_at: None, places: Vec::new(), generation };
        (batcher, handle)
    }

    /// Takes rounds until the handle is closed and the queue empty; seals what is left. Blocks.
    pub fn run(mut self) {
        loop {
            let wait = self.opened_at.map_or(IDLE, |at| self.bounds.max_delay.saturating_sub(at.elapsed()).min(IDLE));
            match self.rounds.recv_timeout(wait) {
                Ok(round) => {
                    self.shared.queued.fetch_sub(round.len(), Ordering::AcqRel);
                    for (reference, sample) in round {
                        self.take(reference, sample);
                    }
                }
                Err(RecvTimeoutError::Timeout) if !self.shared.closed.load(Ordering::Acquire) => {}
                Err(_) => {
                    self.seal();
                    // What came between the last look and now.
                    for round in self.rounds.try_iter() {
                        self.shared.queued.fetch_sub(round.len(), Ordering::AcqRel);
                        self.shared.counters.closed(round.len());
                    }
                    return;
                }
            }
            if self.opened_at.is_some_and(|at| at.elapsed() >= self.bounds.max_delay) {
                self.seal();
            }
        }
    }

    fn take(&mut self, reference: u32, sample: Sample) {
        if self.builder.is_empty() {
            self.begin();
        }
        let index = reference as usize;
        let (local, defined) = match self.places.get(index).copied().unwrap_or_default() {
            Place::Known { local, defined } => (local, defined),
            Place::Unknown => match self.shared.registry.definition(reference) {
                Some(def) => (self.local.register(&def), false),
                // A reference that was never given: a sink's caller that invents some.
                None => {
                    self.shared.counters.unknown_samples.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            },
        };
        if index >= self.places.len() {
            self.places.resize(index + 1, Place::default());
        }
        if !defined && let Some(def) = self.shared.registry.definition(reference) {
            self.builder.define(reference, SeriesDef::clone(&def));
        }
        self.places[index] = Place::Known { local, defined: true };
        self.builder.push(reference, sample);
        if let Some(series) = local {
            self.local.append(series, sample);
        }
        let target = usize::try_from(self.bounds.target_bytes.0).unwrap_or(usize::MAX);
        if self.builder.is_full(target) || self.builder.definitions().len() >= DEFINITIONS_MAX {
            self.seal();
        }
    }

    /// Begins a batch; a new dictionary too if the spool wants one.
    fn begin(&mut self) {
        self.opened_at = Some(Instant::now());
        let wanted = self.spool.generation_wanted();
        if wanted > self.generation {
            self.generation = wanted;
            for place in &mut self.places {
                if let Place::Known { defined, .. } = place {
                    *defined = false;
                }
            }
        }
    }

    fn seal(&mut self) {
        self.opened_at = None;
        let builder = std::mem::take(&mut self.builder);
        if builder.is_empty() {
            return;
        }
        let bytes = builder.estimated_bytes();
        let times = || builder.samples().iter().map(|(_, sample)| sample.ts_ms);
        let span_ms = times().min().zip(times().max());
        let (definitions, samples) = (builder.definitions().to_vec(), builder.samples().len() as u64);
        match builder.encode() {
            Ok(sections) => {
                self.shared.counters.batches.fetch_add(1, Ordering::Relaxed);
                let part = Part { sections, definitions, generation: self.generation, samples, lost_samples: 0, span_ms, bytes };
                let dropped = self.spool.enqueue(part);
                self.shared.counters.dropped_samples.fetch_add(dropped, Ordering::Relaxed);
            }
            Err(error) => {
                self.shared.counters.unencodable.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, samples, "a batch does not encode and is lost");
                for (reference, _) in definitions {
                    if let Some(Place::Known { defined, .. }) = self.places.get_mut(reference as usize) {
                        *defined = false;
                    }
                }
            }
        }
    }
}
