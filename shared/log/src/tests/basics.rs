//! The contract of the handle, one promise at a time.

use std::sync::mpsc;

use bytes::Bytes;

use super::{contents, expected, fill, open, record, small, try_open, wait};
use crate::core::MAX_QUEUED_BYTES;
use crate::sim::SimDisk;
use crate::{LogError, META_MAX};

#[test]
fn a_new_log_starts_at_zero_and_counts_up() {
    let disk = SimDisk::new();
    let (log, report) = open(&disk);
    assert_eq!((log.first_index(), log.next_index(), log.durable_index()), (0, 0, 0));
    assert!(report.is_clean());
    assert_eq!(wait(log.append(vec![record(0, 10), record(1, 10)])).expect("append"), 0);
    assert_eq!(wait(log.append(Vec::new())).expect("empty append"), 2);
    assert_eq!(wait(log.append(vec![record(2, 10)])).expect("append"), 2);
    assert_eq!((log.next_index(), log.durable_index()), (3, 3));
    assert_eq!(log.read(1).expect("read"), Some(record(1, 10)));
    assert_eq!(log.read(3).expect("read"), None);
}

#[test]
fn records_survive_reopening_across_many_segments() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    fill(&log, 0, 200, 100);
    assert!(log.segments().len() > 4, "{:?}", log.segments());
    wait(log.close());
    let (log, report) = open(&disk);
    assert!(report.is_clean());
    assert_eq!((report.scanned, report.torn_bytes, report.next_index), (0, 0, 200));
    assert_eq!(contents(&log), expected(0, 200, 100));
    fill(&log, 200, 210, 100);
    assert_eq!(contents(&log), expected(0, 210, 100));
}

#[test]
fn a_record_larger_than_a_segment_gets_its_own() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    fill(&log, 0, 1, 100);
    fill(&log, 1, 3, 60_000);
    fill(&log, 3, 4, 0);
    drop(log);
    let (log, _) = open(&disk);
    assert_eq!(log.read(2).expect("read"), Some(record(2, 60_000)));
    assert_eq!(log.read(3).expect("read"), Some(record(3, 0)));
}

#[test]
fn append_with_is_readable_before_the_sync_and_not_durable() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    fill(&log, 0, 1, 10);
    disk.faults(|faults| faults.stalled = true);
    let (sender, receiver) = mpsc::channel();
    log.append_with(vec![record(1, 10)], move |result| sender.send(result).expect("the test waits")).expect("queued");
    assert_eq!(log.read(1).expect("read"), Some(record(1, 10)));
    assert_eq!((log.next_index(), log.durable_index()), (2, 1));
    assert!(receiver.try_recv().is_err(), "acknowledged before the sync");
    disk.faults(|faults| faults.stalled = false);
    assert_eq!(receiver.recv().expect("an answer").expect("append"), 1);
    assert_eq!(log.durable_index(), 2);
}

#[test]
fn what_waits_for_one_sync_shares_the_next() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    fill(&log, 0, 1, 10);
    let before = log.stats().fsyncs;
    disk.faults(|faults| faults.stalled = true);
    let (sender, receiver) = mpsc::channel();
    for index in 1..21 {
        let sender = sender.clone();
        log.append_with(vec![record(index, 10)], move |result| sender.send(result).expect("the test waits")).expect("queued");
    }
    disk.faults(|faults| faults.stalled = false);
    let answers: Vec<u64> = (1..21).map(|_| receiver.recv().expect("an answer").expect("append")).collect();
    assert_eq!(answers, (1..21).collect::<Vec<_>>());
    assert!(log.stats().fsyncs - before <= 2, "{:?}", log.stats());
}

#[test]
fn the_queue_is_bounded_and_says_so() {
    let disk = SimDisk::new();
    let options = crate::LogOptions { max_record_bytes: 64 << 20, ..small() };
    let (log, _) = crate::Log::open_on(disk.clone(), std::path::Path::new("/log"), options).expect("opens");
    disk.faults(|faults| faults.stalled = true);
    let large = Bytes::from(vec![1; MAX_QUEUED_BYTES - 1000]);
    log.append_with(vec![large], |_| ()).expect("fits");
    let refused = log.append_with(vec![record(0, 2000)], |_| ()).expect_err("full");
    assert!(matches!(refused, LogError::QueueFull { bytes, .. } if bytes > MAX_QUEUED_BYTES - 1000), "{refused}");
    assert_eq!(log.stats().queue_full, 1);
    let waiting = {
        let log = log.clone();
        std::thread::spawn(move || wait(log.append(vec![record(1, 2000)])))
    };
    while log.stats().queue_full < 2 {
        std::thread::yield_now();
    }
    disk.faults(|faults| faults.stalled = false);
    assert_eq!(waiting.join().expect("no panic").expect("append"), 1);
    wait(log.room(2000)).expect("room again");
}

#[test]
fn a_record_is_built_from_its_own_index() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    fill(&log, 0, 5, 10);
    assert_eq!(wait(log.append_built(|index| Ok(record(index, 30)))).expect("append"), 5);
    let refused = wait(log.append_built(|_| Err("no such device".into()))).expect_err("build fails");
    assert_eq!(refused.to_string(), "record 6 was not built: no such device");
    assert_eq!(wait(log.append_built(|index| Ok(record(index, 30)))).expect("append"), 6);
    assert_eq!(log.read(6).expect("read"), Some(record(6, 30)));
}

#[test]
fn truncation_is_durable_and_the_indices_are_given_again() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    fill(&log, 0, 100, 100);
    wait(log.truncate_suffix(100)).expect("nothing to cut");
    wait(log.truncate_suffix(35)).expect("truncate");
    assert_eq!((log.next_index(), log.durable_index(), *log.subscribe_durable().borrow()), (35, 35, 35));
    assert_eq!(log.read(35).expect("read"), None);
    let (log, report) = open(&disk.crash(1));
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(contents(&log), expected(0, 35, 100));
    fill(&log, 35, 50, 60);
    let mut all = expected(0, 35, 100);
    all.extend(expected(35, 50, 60));
    assert_eq!(contents(&log), all);
}

#[test]
fn purge_is_exact_and_unlinks_whole_segments() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    fill(&log, 0, 200, 100);
    let (segments, files) = (log.segments(), disk.paths().len());
    let below = segments[2].first + 1;
    wait(log.purge_prefix(below)).expect("purge");
    assert_eq!((log.first_index(), log.read(below - 1).expect("read")), (below, None));
    assert_eq!(log.segments()[0].path, segments[2].path);
    assert_eq!(disk.paths().len(), files - 2);
    wait(log.purge_prefix(3)).expect("going back is a no-op");
    let (log, report) = open(&disk.crash(2));
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(contents(&log), expected(below, 200, 100));
    let refused = wait(log.truncate_suffix(below - 1)).expect_err("purged");
    assert_eq!(refused.to_string(), format!("cannot truncate at index {}: everything below {below} is purged", below - 1));
}

#[test]
fn reset_continues_elsewhere_and_keeps_metas() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    fill(&log, 0, 50, 100);
    wait(log.write_meta(1, Bytes::from_static(b"vote"))).expect("meta");
    wait(log.reset(1_000_000)).expect("reset");
    assert_eq!((log.first_index(), log.next_index(), log.segments().len()), (1_000_000, 1_000_000, 1));
    fill(&log, 1_000_000, 1_000_003, 10);
    let (log, report) = open(&disk.crash(3));
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(contents(&log), expected(1_000_000, 1_000_003, 10));
    assert_eq!(log.meta(1), Some(Bytes::from_static(b"vote")));
    wait(log.purge_prefix(2_000_000)).expect("beyond the end acts as reset");
    assert_eq!((log.first_index(), log.next_index()), (2_000_000, 2_000_000));
    let refused = wait(log.reset(5)).expect_err("purged");
    assert!(matches!(refused, LogError::BelowFirst { action: "reset", asked: 5, first: 2_000_000 }));
}

#[test]
fn metas_outlive_the_segments_they_were_written_in() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    wait(log.write_meta(7, Bytes::from_static(b"old"))).expect("meta");
    wait(log.write_meta(7, Bytes::from_static(b"new"))).expect("meta");
    wait(log.write_meta(8, Bytes::new())).expect("meta");
    fill(&log, 0, 200, 100);
    wait(log.purge_prefix(200)).expect("purge");
    assert_eq!(log.segments().len(), 1);
    for disk in [disk.crash(4), disk.copy()] {
        let (log, _) = open(&disk);
        assert_eq!(log.meta(7), Some(Bytes::from_static(b"new")));
        assert_eq!(log.meta(8), Some(Bytes::new()));
        assert_eq!((log.meta(9), log.first_index(), log.next_index()), (None, 200, 200));
    }
}

#[test]
fn limits_are_refused_with_both_numbers() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    let refused = wait(log.append(vec![Bytes::from(vec![0; 65_537])])).expect_err("too large");
    assert_eq!(refused.to_string(), "record of 65537 bytes, the limit is 65536");
    let refused = wait(log.write_meta(1, Bytes::from(vec![0; META_MAX + 1]))).expect_err("too large");
    assert_eq!(refused.to_string(), "meta value of 16385 bytes, the limit is 16384");
    assert_eq!(log.next_index(), 0);
}

#[test]
fn a_second_open_is_refused_until_the_first_is_closed() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    let refused = try_open(&disk).expect_err("locked");
    assert_eq!(refused.to_string(), "log /log: already open elsewhere, its lock file is held");
    let other = log.clone();
    wait(log.close());
    let refused = wait(other.append(vec![record(0, 10)])).expect_err("closed");
    assert_eq!(refused.to_string(), "log /log: closed");
    open(&disk);
    // Dropping the last handle is enough, too.
    open(&disk);
}

#[test]
fn read_range_keeps_to_its_bounds() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    fill(&log, 0, 100, 100);
    wait(log.purge_prefix(10)).expect("purge");
    for (from, to, max, want) in [
        (0, 15, usize::MAX, 10..15),
        (20, 90, 350, 20..23),
        (20, 90, 1, 20..21),
        (95, u64::MAX, usize::MAX, 95..100),
        (100, 200, usize::MAX, 100..100),
        (50, 40, usize::MAX, 50..50),
    ] {
        let found = log.read_range(from, to, max).expect("read");
        assert_eq!(found, expected(want.start, want.end, 100), "{from}..{to} in {max}");
    }
}
