//! The log store across restarts and damage.

use std::path::Path;

use anemone_log::LogOptions;
use bytes::Bytes;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{CommittedLeaderId, RaftLogReader};
use tokio::sync::watch;

use super::LogStore;
use super::suite::open_log;
use crate::types::{Command, LogEntry, LogId, Payload, Vote};

fn id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 2), index)
}

fn entries(term: u64, range: std::ops::Range<u64>, bytes: usize) -> Vec<LogEntry> {
    let payload = |index: u64| Payload::Normal(Command(Bytes::from(vec![u8::try_from(index % 251).unwrap(); bytes])));
    range.map(|index| LogEntry { log_id: id(term, index), payload: payload(index) }).collect()
}

async fn open_sealed(dir: &Path, sealed: Option<LogId>, below: watch::Receiver<u64>) -> Result<LogStore, crate::RaftError> {
    LogStore::open(dir, LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() }, 1, sealed, below).await
}

#[tokio::test]
async fn everything_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path()).await;
    log.save_vote(&Vote::new_committed(7, 2)).await.unwrap();
    log.blocking_append(entries(6, 0..20, 100)).await.unwrap();
    log.truncate(id(6, 15)).await.unwrap();
    log.blocking_append(entries(7, 15..18, 100)).await.unwrap();
    log.save_committed(Some(id(6, 12))).await.unwrap();
    log.purge(id(6, 4)).await.unwrap();
    let state = log.get_log_state().await.unwrap();
    log.close().await.unwrap();
    drop(log);

    let mut log = open_log(dir.path()).await;
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(7, 2)));
    assert_eq!(log.read_committed().await.unwrap(), Some(id(6, 12)));
    assert_eq!(log.get_log_state().await.unwrap(), state);
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(6, 4)), Some(id(7, 17))));
    let expected = [entries(6, 5..15, 100), entries(7, 15..18, 100)].concat();
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), expected);
}

#[tokio::test]
async fn entries_are_handed_out_by_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path()).await;
    log.blocking_append(entries(1, 0..12, 1 << 20)).await.unwrap();
    let some = log.limited_get_log_entries(2, 12).await.unwrap();
    assert_eq!(some.len(), 3, "three entries of 1 MiB and their headers fit into 4 MiB");
    assert_eq!(log.limited_get_log_entries(11, 12).await.unwrap().len(), 1);
    log.blocking_append(entries(1, 12..13, 6 << 20)).await.unwrap();
    assert_eq!(log.limited_get_log_entries(12, 13).await.unwrap().len(), 1, "one at least");
}

#[tokio::test]
async fn a_hole_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_log(dir.path()).await;
    log.blocking_append(entries(1, 0..3, 10)).await.unwrap();
    for range in [5..6, 1..2] {
        let first = range.start;
        let error = log.blocking_append(entries(1, range, 10)).await.unwrap_err().to_string();
        assert!(error.contains(&format!("append at {first}, but the log ends before 3")), "{error}");
    }
}

#[tokio::test]
async fn a_purge_waits_for_the_seal() {
    let dir = tempfile::tempdir().unwrap();
    let (sealed, below) = watch::channel(0);
    let mut log = open_sealed(dir.path(), None, below.clone()).await.unwrap();
    log.blocking_append(entries(1, 0..10, 10)).await.unwrap();
    // A snapshot up to 99 begins to be installed.
    log.purge(id(2, 99)).await.unwrap();
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(2, 99)), Some(id(2, 99))));
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), []);

    // A crash before it is installed: the old log is still there.
    drop(sealed);
    log.close().await.unwrap();
    drop(log);
    let (sealed, below) = watch::channel(0);
    let mut log = open_sealed(dir.path(), None, below).await.unwrap();
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), entries(1, 0..10, 10));

    // Installed at last: the log goes on behind it.
    log.purge(id(2, 99)).await.unwrap();
    let mut appending = log.clone();
    let append = tokio::spawn(async move { appending.blocking_append(entries(2, 100..103, 10)).await });
    tokio::task::yield_now().await;
    assert!(!append.is_finished());
    sealed.send_replace(100);
    append.await.unwrap().unwrap();
    log.close().await.unwrap();
    drop(log);
    let mut log = open_sealed(dir.path(), Some(id(2, 99)), watch::channel(100).1).await.unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(id(2, 99)));
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), entries(2, 100..103, 10));
}

/// Flips a byte in the middle of the record whose payload is `bytes` times `fill`.
fn damage(dir: &Path, fill: u8, bytes: usize) {
    for file in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        let mut content = std::fs::read(&file).unwrap();
        if let Some(at) = content.windows(bytes).position(|window| window.iter().all(|byte| *byte == fill)) {
            content[at + bytes / 2] ^= 0xff;
            std::fs::write(&file, content).unwrap();
            return;
        }
    }
    panic!("no record of {fill}");
}

#[tokio::test]
async fn a_damaged_record_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_sealed(dir.path(), None, watch::channel(0).1).await.unwrap();
    for index in 0..9 {
        log.blocking_append(entries(1, index..index + 1, 300)).await.unwrap();
    }
    // Noticed while reading.
    damage(dir.path(), 5, 300);
    if let Err(error) = log.try_get_log_entries(3..8).await {
        assert!(error.to_string().contains("record 5"), "{error}");
    }
    log.close().await.unwrap();
    drop(log);

    // Needed: the log cannot be used, and says why.
    let error = match open_sealed(dir.path(), Some(id(1, 4)), watch::channel(5).1).await {
        Ok(mut log) => log.try_get_log_entries(..).await.unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    assert!(error.contains("record 5") || error.contains("records 5 to 5"), "{error}");

    // Sealed: not needed, so it goes.
    let mut log = open_sealed(dir.path(), Some(id(1, 6)), watch::channel(7).1).await.unwrap();
    assert_eq!(log.limited_get_log_entries(7, 9).await.unwrap(), entries(1, 7..9, 300));
}

#[tokio::test]
async fn a_record_of_another_version_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = anemone_log::Log::open(dir.path(), LogOptions::default()).unwrap();
    log.append(vec![Bytes::from(vec![9; 40])]).await.unwrap();
    log.close().await;
    let error = open_sealed(dir.path(), None, watch::channel(0).1).await.err().unwrap().to_string();
    assert!(error.contains("record 0: version 9, this build reads version 1"), "{error}");
}

#[tokio::test]
async fn the_log_of_another_hub_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    open_log(dir.path()).await.close().await.unwrap();
    let options = LogOptions::default();
    let error = LogStore::open(dir.path(), options, 2, None, watch::channel(0).1).await.err().unwrap().to_string();
    assert!(error.ends_with("belongs to hub 1, but this is hub 2"), "{error}");
}
