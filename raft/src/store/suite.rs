//! openraft's own storage tests on our stores.

use std::path::Path;
use std::sync::Arc;

use anemone_log::LogOptions;
use openraft::testing::{StoreBuilder, Suite};
use tempfile::TempDir;
use tokio::sync::watch;

use super::{LogStore, Machine};
use crate::snapshot::IncomingDirs;
use crate::types::{StorageError, TypeConfig};

#[path = "../../tests/common/ledger.rs"]
#[expect(dead_code, reason = "the cluster tests read more of it")]
mod ledger;

struct Builder;

pub(super) async fn open_log(dir: &Path) -> LogStore {
    let options = LogOptions { segment_bytes: 64 << 10, sync: false, ..LogOptions::default() };
    LogStore::open(dir, options, 1, None, watch::channel(u64::MAX).1).await.unwrap()
}

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError> {
        let dir = TempDir::new().unwrap();
        let log = open_log(&dir.path().join("log")).await;
        let incoming = Arc::new(IncomingDirs::open(dir.path()).unwrap());
        let state = Arc::new(ledger::Ledger::open(&dir.path().join("state")));
        Ok((dir, log, Machine::open(state, incoming, watch::channel(0).0).unwrap()))
    }
}

#[test]
fn openraft_storage_suite() {
    Suite::test_all(Builder).unwrap();
}
