//! The state machine as openraft wants it.
//!
//! openraft calls this from one task, so `apply`, `seal` and `import` never overlap: the seal of a snapshot is done in
//! `get_snapshot_builder`, between two applies, and only the export runs beside them.

use std::sync::Arc;

use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, LogIdOptionExt, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use crate::meta::Position;
use crate::snapshot::{IncomingDirs, SnapshotFiles};
use crate::state::{Entry, StateError, StateMachine};
use crate::types::{LogEntry, LogId, Membership, Response, Snapshot, SnapshotMeta, StorageError, StorageIoError, TypeConfig};

/// Entries given to the state machine in one call, so that a restart does not hold the whole log in one vector.
const CHUNK_ENTRIES: usize = 256;

pub(crate) struct Machine {
    state: Arc<dyn StateMachine>,
    incoming: Arc<IncomingDirs>,
    position: Position,
    has_seal: bool,
    /// Index one past the last entry a seal covers; the log may be purged below it.
    sealed_below: watch::Sender<u64>,
}

impl Machine {
    /// Takes up where the state machine was sealed.
    ///
    /// # Errors
    /// A `raft_meta` that cannot be read.
    pub(crate) fn open(
        state: Arc<dyn StateMachine>,
        incoming: Arc<IncomingDirs>,
        sealed_below: watch::Sender<u64>,
    ) -> Result<Self, StateError> {
        let restored = state.restored();
        let position = match &restored {
            Some(bytes) => Position::decode(bytes).map_err(|e| StateError::new("reading the raft meta of the last seal", e))?,
            None => Position::new(None, Membership::default()),
        };
        sealed_below.send_replace(position.applied.next_index());
        Ok(Self { state, incoming, position, has_seal: restored.is_some(), sealed_below })
    }

    /// The last entry of the last seal.
    pub(crate) fn applied(&self) -> Option<LogId> {
        self.position.applied
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&dyn StateMachine) -> T + Send + 'static) -> Result<T, AnyError> {
        let state = Arc::clone(&self.state);
        tokio::task::spawn_blocking(move || work(&*state)).await.map_err(|e| AnyError::error(format!("state machine: {e}")))
    }

    async fn seal(&mut self) -> Result<(), StorageError> {
        let failed = |e: AnyError| StorageIoError::write_snapshot(None, e);
        let meta = self.position.encode().map_err(|e| failed(AnyError::new(&e)))?;
        let sealed = self.blocking(move |state| state.seal(meta)).await.map_err(failed)?;
        sealed.map_err(|e| failed(AnyError::new(&e)))?;
        self.sealed(self.position.applied);
        Ok(())
    }

    fn sealed(&mut self, applied: Option<LogId>) {
        self.has_seal = true;
        self.sealed_below.send_replace(applied.next_index());
    }

    async fn import(&mut self, meta: &SnapshotMeta, files: SnapshotFiles) -> Result<(), StorageError> {
        let failed = |e: AnyError| StorageError::from(StorageIoError::write_snapshot(Some(meta.signature()), e));
        let incoming = Arc::clone(&self.incoming);
        let imported = self.blocking(move |state| {
            let dir = match files {
                SnapshotFiles::Received(dir) => dir,
                SnapshotFiles::Exported(export) => {
                    incoming.materialise(&export.files).map_err(|e| StateError::new("copying a snapshot", e))?
                }
            };
            state.import(dir.path())
        });
        let raft_meta = imported.await.map_err(failed)?.map_err(|e| failed(AnyError::new(&e)))?;
        let position = Position::decode(&raft_meta).map_err(|e| failed(AnyError::new(&e)))?;
        if position.applied != meta.last_log_id {
            let text =
                format!("imported state ends at {:?}, the snapshot was announced to end at {:?}", position.applied, meta.last_log_id);
            return Err(failed(AnyError::error(text)));
        }
        self.position = position;
        self.sealed(self.position.applied);
        Ok(())
    }
}

/// Pins the files of the last seal.
async fn export(state: &Arc<dyn StateMachine>) -> Result<Snapshot, StorageError> {
    let failed = |e: AnyError| StorageError::from(StorageIoError::read_snapshot(None, e));
    let state = Arc::clone(state);
    let exported = tokio::task::spawn_blocking(move || state.export()).await;
    let export = exported.map_err(|e| failed(AnyError::error(format!("state machine: {e}"))))?.map_err(|e| failed(AnyError::new(&e)))?;
    let meta = Position::decode(&export.raft_meta).map_err(|e| failed(AnyError::new(&e)))?.snapshot_meta();
    Ok(Snapshot { meta, snapshot: Box::new(SnapshotFiles::Exported(export)) })
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = SealedState;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        Ok((self.position.applied, self.position.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Response>, StorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut entries = entries.into_iter();
        let mut responses = Vec::new();
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_ENTRIES);
            let mut last = None;
            for entry in entries.by_ref().take(CHUNK_ENTRIES) {
                let LogEntry { log_id, payload } = entry;
                let command = match payload {
                    EntryPayload::Blank => None,
                    EntryPayload::Normal(command) => Some(command.0),
                    EntryPayload::Membership(membership) => {
                        self.position.membership = Membership::new(Some(log_id), membership);
                        None
                    }
                };
                chunk.push(Entry { index: log_id.index, term: log_id.leader_id.term, command });
                last = Some(log_id);
            }
            let Some(last) = last else { return Ok(responses) };
            let expected = chunk.len();
            let answers = self.blocking(move |state| state.apply(&chunk)).await.map_err(|e| StorageIoError::apply(last, e))?;
            if answers.len() != expected {
                let text = format!("state machine gave {} responses to {expected} entries", answers.len());
                return Err(StorageIoError::apply(last, AnyError::error(text)).into());
            }
            self.position.applied = Some(last);
            responses.extend(answers.into_iter().map(Response));
        }
    }

    async fn get_snapshot_builder(&mut self) -> SealedState {
        SealedState { sealed: self.seal().await, state: Arc::clone(&self.state) }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotFiles>, StorageError> {
        let dir = self.incoming.create().map_err(|e| StorageIoError::write_snapshot(None, AnyError::new(&e)))?;
        Ok(Box::new(SnapshotFiles::Received(dir)))
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Box<SnapshotFiles>) -> Result<(), StorageError> {
        self.import(meta, *snapshot).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        if !self.has_seal {
            return Ok(None);
        }
        export(&self.state).await.map(Some)
    }
}

/// The outcome of a seal, to be exported.
pub(crate) struct SealedState {
    sealed: Result<(), StorageError>,
    state: Arc<dyn StateMachine>,
}

impl RaftSnapshotBuilder<TypeConfig> for SealedState {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        self.sealed.clone()?;
        export(&self.state).await
    }
}
