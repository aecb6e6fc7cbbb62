//! [`HubState`]: the replicated state as Raft drives it and as readers see it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use anemone_model::{AgentId, SeriesDef};
use anemone_raft::{Entry, Export, ExportFile, RemoveOnDrop, StateError, StateMachine};
use anemone_store::{FileBlocks, SealReason, Store, StoreOptions};
use bytes::Bytes;
use tokio::sync::watch;

use super::ControlState;
use super::apply::{self, SeriesTable};
use super::disk::{self, StateFile};

/// The state of one generation: what was there at start, or came with the last snapshot installed.
struct Generation {
    path: PathBuf,
    store: Arc<Store>,
    blocks: Arc<FileBlocks>,
    control: ControlState,
    series: SeriesTable,
    sealed: Sealed,
}

/// What is on disk of the control state.
#[derive(Default)]
struct Sealed {
    raft_meta: Option<Bytes>,
    state_file: Option<String>,
    series_files: Vec<String>,
    /// How many series the series files hold.
    series: usize,
}

/// The replicated state of this node.
pub struct HubState {
    dir: PathBuf,
    options: StoreOptions,
    current: RwLock<Generation>,
    applied: watch::Sender<u64>,
}

impl HubState {
    /// Opens the state in `dir`, empty where there is none.
    ///
    /// # Errors
    /// A directory that cannot be used, or a state file that does not read well.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, StateError> {
        let path = disk::current_generation(dir)?;
        remove_leftovers(dir, &path);
        let generation = Generation::open(path, options.clone())?;
        let applied = watch::Sender::new(generation.control.applied);
        Ok(Self { dir: dir.to_owned(), options, current: RwLock::new(generation), applied })
    }

    fn read(&self) -> RwLockReadGuard<'_, Generation> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Generation> {
        self.current.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the control state; apply waits meanwhile, so be brief.
    pub fn with_control<T>(&self, look: impl FnOnce(&ControlState) -> T) -> T {
        look(&self.read().control)
    }

    /// The store of samples.
    #[must_use]
    pub fn store(&self) -> Arc<Store> {
        Arc::clone(&self.read().store)
    }

    /// Told the index of the last applied entry each time it grows.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Below which sequence everything of a spool epoch is applied; 0 for an epoch never seen.
    #[must_use]
    pub fn applied_below(&self, agent: &AgentId, epoch: u64) -> u64 {
        self.with_control(|control| control.agents.get(agent).map_or(0, |a| a.applied_below(epoch)))
    }
}

/// Removes what a crash left of exports, imports and older generations.
fn remove_leftovers(dir: &Path, current: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if (name.starts_with("export-") || name.starts_with("gen-")) && entry.path() != current {
            remove_directory(&entry.path());
        }
    }
}

fn remove_directory(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        tracing::warn!(path = %path.display(), %error, "cannot remove a directory that is no longer needed");
    }
}

impl Generation {
    fn open(path: PathBuf, options: StoreOptions) -> Result<Self, StateError> {
        let block_dir = path.join("blocks");
        let blocks = FileBlocks::open(&block_dir).map_err(|e| StateError::at("open the blocks in", &block_dir, e))?;
        let blocks = Arc::new(blocks);
        let place: Arc<dyn anemone_store::BlockStore> = Arc::clone(&blocks) as _;
        let store = Store::open(place, options).map_err(|e| StateError::at("open the store in", &block_dir, e))?;
        for block in store.stats().quarantined {
            tracing::error!(block = %block.block, reason = block.reason, "a damaged block is not used");
        }
        let mut generation = Self {
            path,
            store: Arc::new(store),
            blocks,
            control: ControlState::default(),
            series: SeriesTable::default(),
            sealed: Sealed::default(),
        };
        if let Some((name, file)) = disk::read_newest_state(&generation.path)? {
            generation.restore(name, file)?;
        }
        Ok(generation)
    }

    fn restore(&mut self, name: String, file: StateFile) -> Result<(), StateError> {
        for series_file in &file.series_files {
            for def in disk::read_series(&self.path, series_file)? {
                let registered =
                    self.store.register(&def).map_err(|e| StateError::at("register the series of", self.path.join(series_file), e))?;
                self.series.number(registered);
            }
        }
        let series = self.series.references().len();
        if series != file.state.series as usize {
            let why = format!("the series files hold {series} series, the state has {}", file.state.series);
            return Err(StateError::at("restore the state of", self.path.join(&name), why));
        }
        self.control = file.state;
        self.sealed = Sealed { raft_meta: Some(file.raft_meta.into()), state_file: Some(name), series_files: file.series_files, series };
        Ok(())
    }

    /// Definitions of the series that no series file has.
    fn unsealed_definitions(&self) -> Vec<SeriesDef> {
        let fresh = &self.series.references()[self.sealed.series..];
        fresh.iter().map(|r| self.store.definition(*r).expect("a reference of the table comes from this store")).collect()
    }
}

impl StateMachine for HubState {
    fn apply(&self, entries: &[Entry]) -> Vec<Bytes> {
        let decoded: Vec<_> = entries.iter().map(|e| (e.index, e.command.as_ref().map(apply::decode))).collect();
        let mut responses = Vec::with_capacity(entries.len());
        let mut generation = self.write();
        let Generation { store, control, series, .. } = &mut *generation;
        for (index, command) in decoded {
            responses.push(match command {
                Some(command) => apply::apply(control, series, store, index, command).encode(),
                None => Bytes::new(),
            });
            control.applied = index;
            store.note_applied(index);
        }
        let applied = control.applied;
        drop(generation);
        self.applied.send_if_modified(|known| std::mem::replace(known, applied) != applied);
        responses
    }

    fn seal(&self, raft_meta: Bytes) -> Result<(), StateError> {
        let store = self.store();
        let summary = store.seal(SealReason::Snapshot).map_err(|e| StateError::new("seal the head", e))?;
        let (path, mut file, definitions, from) = {
            let generation = self.read();
            let file = StateFile {
                raft_meta: raft_meta.to_vec(),
                state: generation.control.clone(),
                series_files: generation.sealed.series_files.clone(),
            };
            (generation.path.clone(), file, generation.unsealed_definitions(), generation.sealed.series)
        };
        let series = from + definitions.len();
        if !definitions.is_empty() {
            file.series_files.push(disk::write_series(&path, from, &definitions)?);
        }
        let name = disk::write_state(&path, &file)?;
        tracing::info!(applied = file.state.applied, samples = summary.samples, bytes = summary.bytes, series, "sealed");
        self.write().sealed = Sealed { raft_meta: Some(raft_meta), state_file: Some(name), series_files: file.series_files, series };
        Ok(())
    }

    fn restored(&self) -> Option<Bytes> {
        self.read().sealed.raft_meta.clone()
    }

    fn export(&self) -> Result<Export, StateError> {
        let generation = self.read();
        let Sealed { raft_meta: Some(raft_meta), state_file: Some(state_file), series_files, .. } = &generation.sealed else {
            return Err(StateError::new("export the state", "nothing was sealed yet"));
        };
        let dir = self.dir.join(format!("export-{:016x}", rand::random::<u64>()));
        let keep = RemoveOnDrop::new(dir.clone());
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error: std::io::Error| StateError::at("export", path, error)
        };
        fs::create_dir_all(dir.join("blocks")).map_err(failed(&dir))?;
        let mut files = Vec::new();
        let mut link = |source: PathBuf, name: String| -> Result<(), StateError> {
            let path = dir.join(&name);
            fs::hard_link(&source, &path).map_err(failed(&source))?;
            let bytes = fs::metadata(&path).map_err(failed(&path))?.len();
            files.push(ExportFile { name, path, bytes });
            Ok(())
        };
        for name in series_files.iter().chain([state_file]) {
            link(generation.path.join(name), name.clone())?;
        }
        let held = generation.store.snapshot();
        for block in generation.blocks.export_list() {
            if held.blocks.iter().any(|(id, _)| *id == block.id) {
                let name = block.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                link(block.path, format!("blocks/{name}"))?;
            }
        }
        Ok(Export::new(raft_meta.clone(), files, keep))
    }

    fn import(&self, dir: &Path) -> Result<Bytes, StateError> {
        let old = self.read().path.clone();
        let number = disk::generation_number(&old) + 1;
        let path = self.dir.join(format!("gen-{number}"));
        if path.exists() {
            fs::remove_dir_all(&path).map_err(|e| StateError::at("remove", &path, e))?;
        }
        fs::rename(dir, &path).map_err(|e| StateError::at("take over", dir, e))?;
        disk::sync_directory(&self.dir).map_err(|e| StateError::at("sync", &self.dir, e))?;
        let generation = Generation::open(path, self.options.clone())?;
        let raft_meta = generation.sealed.raft_meta.clone();
        let raft_meta = raft_meta.ok_or_else(|| StateError::at("import", dir, "there is no state file among the files"))?;
        disk::set_generation(&self.dir, number)?;
        let applied = generation.control.applied;
        *self.write() = generation;
        remove_directory(&old);
        self.applied.send_replace(applied);
        tracing::info!(applied, generation = number, "installed a snapshot");
        Ok(raft_meta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::command::{BatchOutcome, Command, Control, Outcome};
    use anemone_model::{CounterWidth, MetricKind, Sample, Value};
    use anemone_store::matcher::{MatchOp, Matcher};
    use anemone_wire::batch::{BatchBuilder, BatchHeader};
    use anemone_wire::gap::{GapReason, GapRecord};

    fn agent() -> AgentId {
        AgentId { pop: "ams1".parse().unwrap(), name: "a1".parse().unwrap() }
    }

    fn header(sequence: u64, covers: u64) -> BatchHeader {
        BatchHeader { agent: agent(), epoch: 7, sequence, covers, dictionary: 1, sealed_at_ms: 0 }
    }

    fn definition(n: u32) -> SeriesDef {
        SeriesDef::new("m", [("n", &*n.to_string())], MetricKind::Counter, CounterWidth::Bits64).unwrap()
    }

    /// Batch `sequence`: defines reference `sequence`, and a sample of each reference up to it.
    fn batch(sequence: u64) -> Bytes {
        let mut builder = BatchBuilder::new();
        let reference = u32::try_from(sequence).unwrap();
        builder.define(reference, definition(reference));
        for reference in 1..=reference {
            builder.push(reference, Sample::new(i64::try_from(sequence).unwrap() * 1000, Value::U64(u64::MAX - sequence)));
        }
        builder.encode().unwrap().seal(&header(sequence, 1)).unwrap()
    }

    fn apply(state: &HubState, index: u64, command: Bytes) -> Outcome {
        Outcome::decode(&state.apply(&[Entry { index, term: 1, command: Some(command) }])[0]).unwrap()
    }

    fn samples(state: &HubState) -> Vec<(String, i64, String)> {
        let all = [Matcher::new("__name__", MatchOp::Equal, "m").unwrap()];
        let selection = state.store().select(&all, i64::MIN, i64::MAX);
        let mut rows: Vec<_> = selection
            .series
            .iter()
            .flat_map(|s| s.samples.iter().map(|x| (s.def.labels.to_string(), x.ts_ms, x.value.to_string())))
            .collect();
        rows.sort();
        rows
    }

    #[test]
    fn a_batch_is_applied_once_however_often_it_comes() {
        let dir = tempfile::tempdir().unwrap();
        let state = HubState::open(dir.path(), StoreOptions::default()).unwrap();
        let twice = Command::encode_batches(&[batch(1), batch(1), batch(2)]);
        let expected = Outcome::Batches(vec![(BatchOutcome::Applied, 2), (BatchOutcome::Duplicate, 2), (BatchOutcome::Applied, 3)]);
        assert_eq!(apply(&state, 1, twice), expected);
        assert_eq!(samples(&state).len(), 3);
        assert_eq!(state.with_control(|c| c.agents[&agent()].samples), 3);
    }

    #[test]
    fn a_batch_with_an_undefined_reference_is_not_applied() {
        let dir = tempfile::tempdir().unwrap();
        let state = HubState::open(dir.path(), StoreOptions::default()).unwrap();
        let outcome = apply(&state, 1, Command::encode_batches(&[batch(2), Bytes::from_static(b"junk")]));
        let Outcome::Batches(outcomes) = outcome else { panic!("{outcome:?}") };
        assert_eq!(outcomes[0].0, BatchOutcome::UnknownSeries { dictionary: 1, reference: 1 });
        assert!(matches!(&outcomes[1].0, BatchOutcome::Malformed(why) if why.contains("truncated")), "{outcomes:?}");
        assert_eq!(samples(&state), []);
    }

    #[test]
    fn a_refused_batch_leaves_no_trace_and_nothing_after_it_is_applied() {
        let dir = tempfile::tempdir().unwrap();
        let state = HubState::open(dir.path(), StoreOptions::default()).unwrap();
        let mut builder = BatchBuilder::new();
        builder.define(1, definition(1));
        builder.push(9, Sample::new(1000, Value::U64(1)));
        let bad = builder.encode().unwrap().seal(&header(1, 1)).unwrap();
        let mut builder = BatchBuilder::new();
        builder.define(2, definition(2));
        builder.push(2, Sample::new(2000, Value::U64(1)));
        let next = builder.encode().unwrap().seal(&header(2, 1)).unwrap();
        let unknown = BatchOutcome::UnknownSeries { dictionary: 1, reference: 9 };
        let expected = Outcome::Batches(vec![(unknown, 0), (BatchOutcome::AfterRefused, 0)]);
        assert_eq!(apply(&state, 1, Command::encode_batches(&[bad, next.clone()])), expected);
        let mut cut = batch(1).to_vec();
        *cut.last_mut().unwrap() ^= 1;
        let outcome = apply(&state, 2, Command::encode_batches(&[cut.into(), next]));
        let Outcome::Batches(outcomes) = outcome else { panic!("{outcome:?}") };
        assert!(matches!(outcomes[0].0, BatchOutcome::Malformed(_)) && outcomes[1].0 == BatchOutcome::AfterRefused, "{outcomes:?}");
        state.seal(Bytes::from_static(b"meta")).unwrap();
        drop(state);
        let state = HubState::open(dir.path(), StoreOptions::default()).unwrap();
        assert_eq!(state.with_control(|c| (c.series, c.agents[&agent()].applied_below(7))), (0, 0));
        let outcome = apply(&state, 3, Command::encode_batches(&[batch(1)]));
        assert_eq!(outcome, Outcome::Batches(vec![(BatchOutcome::Applied, 2)]));
    }

    #[test]
    fn a_gap_batch_brings_definitions_and_is_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let state = HubState::open(dir.path(), StoreOptions::default()).unwrap();
        let mut builder = BatchBuilder::new();
        builder.define(1, definition(1));
        builder.define(2, definition(2));
        builder.push_gap(GapRecord {
            from_sequence: 1,
            sequences: 2,
            from_ms: None,
            to_ms: None,
            samples: 3,
            reason: GapReason::SpoolFull,
        });
        let gap = builder.encode().unwrap().seal(&header(1, 2)).unwrap();
        let outcome = apply(&state, 1, Command::encode_batches(&[gap, batch(3)]));
        assert_eq!(outcome, Outcome::Batches(vec![(BatchOutcome::Applied, 3), (BatchOutcome::Applied, 4)]));
        assert_eq!(state.with_control(|c| c.agents[&agent()].gaps[0].record.samples), 3);
    }

    #[test]
    fn what_was_sealed_is_there_after_a_restart_and_the_rest_is_replayed() {
        let dir = tempfile::tempdir().unwrap();
        let open = || HubState::open(dir.path(), StoreOptions::default()).unwrap();
        let state = open();
        assert_eq!(state.restored(), None);
        apply(&state, 1, Command::encode_batches(&[batch(1), batch(2)]));
        state.seal(Bytes::from_static(b"meta-1")).unwrap();
        apply(&state, 2, Command::encode_batches(&[batch(3)]));
        state.seal(Bytes::from_static(b"meta-2")).unwrap();
        apply(&state, 3, Command::encode_batches(&[batch(4)]));
        let before = samples(&state);
        drop(state);
        let state = open();
        assert_eq!(state.restored().unwrap(), "meta-2");
        assert_eq!(state.with_control(|c| c.applied), 2);
        apply(&state, 3, Command::encode_batches(&[batch(4)]));
        assert_eq!(samples(&state), before);
        let outcome = apply(&state, 4, Command::encode_batches(&[batch(2), batch(5)]));
        assert_eq!(outcome, Outcome::Batches(vec![(BatchOutcome::Duplicate, 5), (BatchOutcome::Applied, 6)]));
    }

    #[test]
    fn a_snapshot_carries_everything_to_another_node() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = HubState::open(from.path(), StoreOptions::default()).unwrap();
        assert!(source.export().unwrap_err().to_string().contains("nothing was sealed"));
        apply(&source, 1, Command::encode_batches(&[batch(1), batch(2)]));
        let device = serde_json::from_value(serde_json::json!({"name": "sw1", "pop": "ams1", "address": "h:1", "community": "x"})).unwrap();
        apply(&source, 2, Command::encode_control(&Control::PutDevices(vec![device])).unwrap());
        source.seal(Bytes::from_static(b"meta")).unwrap();
        let export = source.export().unwrap();

        let target = HubState::open(to.path(), StoreOptions::default()).unwrap();
        apply(&target, 1, Command::encode_batches(&[batch(1)]));
        let incoming = to.path().join("incoming");
        for file in &export.files {
            let path = incoming.join(&file.name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::copy(&file.path, path).unwrap();
        }
        assert_eq!(target.import(&incoming).unwrap(), "meta");
        assert_eq!(samples(&target), samples(&source));
        assert_eq!(target.with_control(|c| c.inventory.len()), 1);
        drop(target);
        let target = HubState::open(to.path(), StoreOptions::default()).unwrap();
        assert_eq!(samples(&target), samples(&source));
        assert_eq!(target.restored().unwrap(), "meta");
    }
}
