//! Opening: epoch, progress, gaps, and what is unaccounted for.

use std::path::Path;
use std::str::FromStr as _;
use std::sync::atomic::AtomicU64;
use std::sync::{Condvar, Mutex};

use anemone_log::{Log, LogError, LogOptions, OpenReport};
use anemone_model::{AgentId, Name};
use anemone_wire::batch::BatchHeader;
use anemone_wire::cbor;
use anemone_wire::gap::GapReason;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::dictionary::Dictionaries;
use super::error::SpoolError;
use super::gaps::{self, Gaps};
use super::pending::Pending;
use super::{Counters, Spool, State};
use crate::config::{ByteSize, SpoolBounds};

/// The spool's own metas in the log.
pub(super) mod meta {
    pub(crate) const BIRTH: u8 = 1;
    pub(crate) const PROGRESS: u8 = 2;
    pub(crate) const STARTS: u8 = 3;
}

/// The first sequence of an epoch.
pub(super) const FIRST: u64 = 1;

/// How the log is opened: [`Log::open`], or in tests on a disk that loses power.
pub(super) type OpenLog = dyn Fn(&Path, LogOptions) -> Result<(Log, OpenReport), LogError> + Send + Sync;

#[derive(Debug, Serialize, Deserialize)]
struct Birth {
    epoch: u64,
    base: u64,
}

/// What is saved now and then.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) acked_below: u64,
    pub(super) dropped_batches: u64,
}

/// What opening found.
#[derive(Clone, Debug, Default)]
pub struct SpoolReport {
    /// What the log found.
    pub log: OpenReport,
    /// Whether a new epoch began.
    pub new_epoch: bool,
    /// Where a log without an epoch was put aside, if there was one.
    pub set_aside: Option<std::path::PathBuf>,
    /// What was wrong with the sidecar of gaps.
    pub gaps_damage: Option<String>,
}

fn decode<T: DeserializeOwned>(log: &Log, key: u8) -> Option<T> {
    let bytes = log.meta(key)?;
    cbor::from_slice("spool meta", &bytes, bytes.len())
        .map_err(|error| tracing::error!(key, %error, "a meta record of the spool is not readable"))
        .ok()
}

/// Stores one of the spool's metas; durable on return.
pub(super) async fn save<T: Serialize>(log: &Log, key: u8, value: &T) -> Result<(), SpoolError> {
    let bytes = Bytes::from(cbor::to_vec("spool meta", value)?);
    Ok(log.write_meta(key, bytes).await?)
}

/// The log, and its epoch if it has one. A log that holds records but no epoch is of no use and is put aside.
async fn open_log(open: &OpenLog, dir: &Path, bounds: &SpoolBounds, report: &mut SpoolReport) -> Result<(Log, Option<Birth>), SpoolError> {
    let path = dir.join("log");
    let options = LogOptions { segment_bytes: bounds.segment_bytes.0, max_record_bytes: 2 << 20, sync: true };
    let (log, found) = open(&path, options.clone())?;
    report.log = found;
    let birth: Option<Birth> = decode(&log, meta::BIRTH);
    if birth.is_some() || log.next_index() <= FIRST {
        return Ok((log, birth));
    }
    tracing::error!(path = %path.display(), next = log.next_index(), "the spool's log holds batches but no epoch: put aside, a new epoch begins");
    log.close().await;
    let aside = dir.join(format!("log.damaged-{:016x}", rand::random::<u64>()));
    std::fs::rename(&path, &aside).map_err(|source| SpoolError::File { what: "put aside", path: path.clone(), source })?;
    report.set_aside = Some(aside);
    Ok((open(&path, options)?.0, None))
}

impl Spool {
    /// Opens the spool in `dir`, or begins one. `store_covered` is the mark of the local store. Blocks on the disk.
    ///
    /// # Errors
    /// The directory is in use by another process, or the disk refuses.
    pub async fn open(dir: &Path, agent: AgentId, bounds: SpoolBounds, store_covered: u64) -> Result<(Self, SpoolReport), SpoolError> {
        Self::open_with(&Log::open, dir, agent, bounds, store_covered).await
    }

    /// As [`Spool::open`], with the log opened by `open`.
    pub(super) async fn open_with(
        open: &OpenLog,
        dir: &Path,
        agent: AgentId,
        bounds: SpoolBounds,
        store_covered: u64,
    ) -> Result<(Self, SpoolReport), SpoolError> {
        let (spool, report) = Self::load(open, dir, agent, bounds, store_covered).await?;
        spool.account_for_missing()?;
        Ok((spool, report))
    }

    /// Opens the spool in `dir` to look at it; makes no gaps.
    ///
    /// # Errors
    /// The directory is in use by another process, or the disk refuses.
    pub async fn inspect(dir: &Path) -> Result<(Self, SpoolReport), SpoolError> {
        let name = || Name::from_str("inspection").expect("a valid name");
        let bounds = SpoolBounds { max_bytes: ByteSize(u64::MAX), segment_bytes: ByteSize(64 << 20), memory_bytes: ByteSize(0) };
        Self::load(&Log::open, dir, AgentId { pop: name(), name: name() }, bounds, 0).await
    }

    async fn load(
        open: &OpenLog,
        dir: &Path,
        agent: AgentId,
        bounds: SpoolBounds,
        store_covered: u64,
    ) -> Result<(Self, SpoolReport), SpoolError> {
        let mut report = SpoolReport::default();
        std::fs::create_dir_all(dir).map_err(|source| SpoolError::File { what: "create", path: dir.to_owned(), source })?;
        let dictionaries = Dictionaries::new(dir);
        let (log, birth) = open_log(open, dir, &bounds, &mut report).await?;
        let birth = match birth {
            Some(birth) => birth,
            None => {
                report.new_epoch = true;
                dictionaries.clear()?;
                log.reset(FIRST).await?;
                let birth = Birth { epoch: rand::random(), base: store_covered };
                save(&log, meta::BIRTH, &birth).await?;
                birth
            }
        };
        let progress: Progress = decode(&log, meta::PROGRESS).unwrap_or_default();
        let starts: Vec<u64> = decode(&log, meta::STARTS).unwrap_or_default();
        let (mut gaps, gaps_damage) = Gaps::load(&dir.join("gaps.cbor"), birth.epoch)?;
        report.gaps_damage = gaps_damage;
        let acked_below = progress.acked_below.clamp(FIRST, log.next_index());
        gaps.acknowledge(acked_below);
        let covered_below = (store_covered.saturating_sub(birth.base) + 1).min(log.next_index());
        let state = State {
            acked_below,
            covered_below,
            gaps,
            starts,
            generation: None,
            amended: std::collections::BTreeMap::new(),
            dropped_batches: progress.dropped_batches,
            saved_progress: (progress.acked_below, progress.dropped_batches),
            saved_at: None,
            oldest_unacknowledged: None,
            oldest_sought_at: None,
            trim_failing: false,
            closing: false,
        };
        let spool = Self {
            log,
            agent,
            epoch: birth.epoch,
            base: birth.base,
            pending: Mutex::new(Pending::new(usize::try_from(bounds.memory_bytes.0).unwrap_or(usize::MAX))),
            bounds,
            dictionaries,
            state: Mutex::new(state),
            wake: Condvar::new(),
            generation_wanted: AtomicU64::new(0),
            counters: Counters::default(),
        };
        Ok((spool, report))
    }

    /// Makes gaps for sequences that the hub has not got, the log has let go of, and no gap stands for: the sidecar was damaged.
    fn account_for_missing(&self) -> Result<(), SpoolError> {
        let mut state = super::lock(&self.state);
        let (mut at, first, mut missing) = (state.acked_below, self.log.first_index(), Vec::new());
        while at < first {
            if let Some(gap) = state.gaps.covering(at) {
                at = gap.end();
                continue;
            }
            let end = state.gaps.iter().map(|gap| gap.header.sequence).find(|start| *start > at).unwrap_or(first).min(first);
            tracing::error!(from = at, to = end, "batches are gone from the spool without a gap on record; a gap is made for them");
            missing.push(gaps::unknown(self.header(&state, at, end - at), GapReason::SpoolCorrupt));
            at = end;
        }
        if missing.is_empty() { Ok(()) } else { state.gaps.add(missing) }
    }

    /// A header for sequences of which no batch is left.
    pub(super) fn header(&self, state: &State, sequence: u64, covers: u64) -> BatchHeader {
        let dictionary = state.starts.iter().rev().find(|start| **start <= sequence).copied().unwrap_or(FIRST);
        BatchHeader { agent: self.agent.clone(), epoch: self.epoch, sequence, covers, dictionary, sealed_at_ms: crate::clock::now_ms() }
    }
}
