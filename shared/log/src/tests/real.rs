//! On the machine's own file system.

use bytes::Bytes;

use super::{contents, expected, fill, record, wait};
use crate::{Log, LogError, LogOptions};

#[test]
fn a_real_directory_holds_a_log() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let dir = scratch.path().join("a/b/spool");
    let options = LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() };
    let (log, _) = Log::open(&dir, options.clone()).expect("opens");
    let refused = Log::open(&dir, options.clone()).expect_err("locked");
    assert!(matches!(refused, LogError::Locked { dir: ref told } if *told == dir), "{refused}");
    let mut durable = log.subscribe_durable();
    fill(&log, 0, 100, 5000);
    assert_eq!(*durable.borrow_and_update(), 100);
    wait(log.write_meta(1, Bytes::from_static(b"epoch"))).expect("meta");
    wait(log.purge_prefix(50)).expect("purge");
    wait(log.truncate_suffix(90)).expect("truncate");
    let stats = log.stats();
    assert_eq!((stats.appends, stats.write_errors, stats.segments), (100, 0, log.segments().len()));
    assert!((200_000..450_000).contains(&stats.live_bytes), "{stats:?}");
    let files = || {
        let listed = std::fs::read_dir(&dir).expect("listed").map(|entry| entry.expect("entry").path());
        listed.filter(|path| path.extension().is_some_and(|extension| extension == "log")).count()
    };
    assert_eq!(files(), stats.segments);
    wait(log.close());
    let (log, report) = Log::open(&dir, options).expect("opens again");
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.scanned, log.meta(1)), (0, Some(Bytes::from_static(b"epoch"))));
    assert_eq!(contents(&log), expected(50, 90, 5000));
    // Nothing was written, so no new file either.
    assert_eq!(files(), log.segments().len());
}

#[test]
fn a_segment_is_preallocated_and_trimmed_when_sealed() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let (log, _) = Log::open(scratch.path(), LogOptions::default()).expect("opens");
    fill(&log, 0, 1, 100);
    let path = log.segments()[0].path.clone();
    assert_eq!(path.metadata().expect("exists").len(), 64 << 20);
    wait(log.close());
    assert!(path.metadata().expect("exists").len() < 1000);
}

#[test]
fn concurrent_appenders_and_readers_agree() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let options = LogOptions { segment_bytes: 32 << 10, ..LogOptions::default() };
    let (log, _) = Log::open(scratch.path(), options).expect("opens");
    let appenders: Vec<_> = (0..4)
        .map(|_| {
            let log = log.clone();
            std::thread::spawn(move || {
                for _ in 0..100 {
                    let index = wait(log.append_built(|index| Ok(record(index, 300)))).expect("append");
                    assert_eq!(log.read(index).expect("read"), Some(record(index, 300)));
                    if index % 64 == 63 {
                        wait(log.purge_prefix(index - 60)).expect("purge");
                    }
                    for (index, found) in log.read_range(0, u64::MAX, 3000).expect("read") {
                        assert_eq!(found, record(index, 300));
                    }
                }
            })
        })
        .collect();
    for appender in appenders {
        appender.join().expect("no panic");
    }
    assert_eq!(log.next_index(), 400);
    assert_eq!(contents(&log), expected(log.first_index(), 400, 300));
}
