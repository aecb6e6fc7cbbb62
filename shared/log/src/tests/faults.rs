//! A disk that refuses: full, failing to write, failing to sync.

use std::sync::{Arc, mpsc};

use bytes::Bytes;

use super::{contents, expected, fill, open, record, wait};
use crate::LogError;
use crate::sim::SimDisk;

#[test]
fn a_full_disk_fails_the_append_and_recovers_with_the_same_index() {
    let disk = SimDisk::new();
    disk.faults(|faults| faults.capacity = Some(20_000));
    let (log, _) = open(&disk);
    let mut next = 0;
    let error = loop {
        match wait(log.append(vec![record(next, 1000)])) {
            Ok(index) => {
                assert_eq!(index, next);
                next += 1;
            }
            Err(error) => break error,
        }
        assert!(next < 30, "the disk never filled up");
    };
    assert!(error.is_no_space(), "{error}");
    assert!(next >= 12, "gave up with space left: {next}");
    assert_eq!((log.next_index(), log.durable_index()), (next, next));
    for _ in 0..5 {
        assert!(wait(log.append(vec![record(next, 1000)])).is_err_and(|error| error.is_no_space()));
    }
    assert!(log.stats().write_errors >= 6);
    assert_eq!(contents(&log), expected(0, next, 1000));
    // What is left may be smaller than a segment: a small record still goes in, a power cut later included.
    let (after, report) = open(&disk.crash(5));
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(contents(&after), expected(0, next, 1000));

    disk.faults(|faults| faults.capacity = Some(1 << 20));
    fill(&log, next, next + 30, 1000);
    assert_eq!(contents(&log), expected(0, next + 30, 1000));
    let (log, report) = open(&disk.crash(6));
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(contents(&log), expected(0, next + 30, 1000));
}

#[test]
fn a_full_disk_is_freed_by_purging() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    fill(&log, 0, 40, 1000);
    // Exactly full but for the room the purge record needs in the preallocated segment.
    disk.faults(|faults| faults.capacity = Some(1));
    fill(&log, 40, 41, 10);
    wait(log.purge_prefix(35)).expect("the segment has room");
    disk.faults(|faults| faults.capacity = Some(30_000));
    fill(&log, 41, 50, 1000);
    assert_eq!(log.first_index(), 35);
}

#[test]
fn a_failed_sync_moves_the_records_into_a_new_segment() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    fill(&log, 0, 3, 100);
    disk.faults(|faults| faults.sync_in = Some(0));
    fill(&log, 3, 6, 100);
    assert_eq!((log.segments().len(), log.stats().write_errors), (2, 1));
    assert_eq!(log.segments()[1].first, 3);
    for seed in 0..20 {
        let (log, report) = open(&disk.crash(seed));
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(contents(&log), expected(0, 6, 100));
    }
}

#[test]
fn a_failed_write_moves_the_records_into_a_new_segment() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    fill(&log, 0, 3, 100);
    disk.faults(|faults| faults.write_in = Some(0));
    fill(&log, 3, 6, 100);
    assert_eq!(log.segments().len(), 2);
    let (log, report) = open(&disk.crash(1));
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(contents(&log), expected(0, 6, 100));
}

#[test]
fn when_the_new_segment_fails_too_everything_queued_fails_and_nothing_is_skipped() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    fill(&log, 0, 3, 100);
    disk.faults(|faults| {
        faults.stalled = true;
        faults.sync_in = Some(0);
        faults.create_in = Some(0);
    });
    let (sender, receiver) = mpsc::channel();
    for index in 3..8 {
        let sender = sender.clone();
        log.append_with(vec![record(index, 100)], move |result| sender.send(result).expect("the test waits")).expect("queued");
    }
    assert_eq!(log.next_index(), 8);
    disk.faults(|faults| faults.stalled = false);
    for _ in 3..8 {
        let error = receiver.recv().expect("an answer").expect_err("fails");
        assert!(matches!(error, LogError::Io { action: "create", .. }), "{error}");
        assert!(!error.is_no_space());
    }
    assert_eq!((log.next_index(), log.durable_index()), (3, 3));
    assert_eq!(log.read(3).expect("read"), None);
    let other = Bytes::from_static(b"another record three");
    assert_eq!(wait(log.append(vec![other.clone()])).expect("append"), 3);
    for seed in 0..20 {
        let (log, report) = open(&disk.crash(seed));
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((log.next_index(), log.read(3).expect("read")), (4, Some(other.clone())));
    }
}

#[test]
fn a_failed_truncation_changes_nothing_and_does_not_come_back() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    fill(&log, 0, 10, 100);
    // The first sync seals the old segment, the second one makes the new segment's head durable.
    disk.faults(|faults| faults.sync_in = Some(1));
    let error = wait(log.truncate_suffix(4)).expect_err("fails");
    assert!(matches!(error, LogError::Io { action: "sync", .. }), "{error}");
    assert_eq!(contents(&log), expected(0, 10, 100));
    fill(&log, 10, 12, 100);
    for seed in 0..50 {
        let (log, report) = open(&disk.crash(seed));
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(contents(&log), expected(0, 12, 100));
    }
}

#[test]
fn the_removal_of_a_half_made_segment_is_durable_before_the_next_one_exists() {
    for operations in 2..8 {
        for seed in 0..100 {
            let disk = SimDisk::new();
            let (log, _) = open(&disk);
            fill(&log, 0, 10, 100);
            disk.faults(|faults| faults.sync_in = Some(1));
            wait(log.truncate_suffix(4)).expect_err("fails");
            disk.faults(|faults| faults.power_in = Some(operations));
            let next = 10 + u64::from(wait(log.append(vec![record(10, 100)])).is_ok());
            let (log, report) = open(&disk.crash(seed));
            assert!(report.is_clean(), "{operations} operations, seed {seed}: {report:?}");
            assert!((next..=11).contains(&log.next_index()), "{operations} operations, seed {seed}");
            assert_eq!(contents(&log), expected(0, log.next_index(), 100));
        }
    }
}

#[test]
fn a_callback_may_hold_the_last_handle() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    let (sender, receiver) = mpsc::channel();
    let own = log.clone();
    log.append_with(vec![record(0, 10)], move |result| {
        sender.send(result).expect("the test waits");
        drop(own);
    })
    .expect("queued");
    drop(log);
    receiver.recv().expect("an answer").expect("append");
    // The writer ends by itself and gives the directory back.
    let log = loop {
        if let Ok((log, _)) = super::try_open(&disk) {
            break log;
        }
        std::thread::yield_now();
    };
    assert_eq!(contents(&log), expected(0, 1, 10));
}

#[test]
fn a_panicking_callback_closes_the_log_for_everyone() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    log.append_with(vec![record(0, 10)], |_| panic!("a callback gone wrong, as this test wants")).expect("queued");
    let error = loop {
        if let Err(error) = wait(log.append(vec![record(1, 10)])) {
            break error;
        }
    };
    assert!(matches!(error, LogError::Closed { .. }), "{error}");
    drop(log);
    assert!(open(&disk).1.next_index >= 1);
    assert_eq!(Arc::strong_count(&disk), 1);
}
