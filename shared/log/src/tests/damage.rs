//! Files that are not as they were written: torn tails, flipped bits, missing and foreign files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::{DIR, contents, expected, fill, open, record, try_open, wait};
use crate::format::{RECORD_HEADER, SEGMENT_HEADER, SegmentName, record_size};
use crate::sim::SimDisk;
use crate::{Log, LogError};

const LENGTH: usize = 60;
/// Header and state record: where the first group of a segment starts.
const HEAD: usize = SEGMENT_HEADER + RECORD_HEADER + 8;

/// A log with one unsealed segment of `count` records, as a power cut right after the last sync leaves it.
fn unsealed(count: u64) -> (Arc<SimDisk>, PathBuf) {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    fill(&log, 0, count, LENGTH);
    let path = log.segments()[0].path.clone();
    (disk.copy(), path)
}

fn start_of(index: u64) -> usize {
    HEAD + index as usize * record_size(LENGTH) as usize
}

#[test]
fn a_torn_last_record_is_cut_at_every_byte() {
    let (disk, path) = unsealed(4);
    let whole = disk.bytes(&path);
    let (start, end) = (start_of(3), start_of(4));
    assert!(whole[end..].iter().all(|byte| *byte == 0));
    for cut in start..end {
        for short in [false, true] {
            let disk = disk.copy();
            disk.tamper(&path, |bytes| if short { bytes.truncate(cut) } else { bytes[cut..].fill(0) });
            let (log, report) = open(&disk);
            // The last bytes of a record may be zero anyway: then nothing was torn off.
            let torn = whole[cut..end].iter().any(|byte| *byte != 0) || (short && cut < start + RECORD_HEADER + LENGTH);
            let kept = if torn { 3 } else { 4 };
            assert!(report.is_clean(), "cut at {cut}: {report:?}");
            assert_eq!(report.next_index, kept, "cut at {cut}, short {short}");
            assert_eq!(contents(&log), expected(0, kept, LENGTH));
            if torn && !short {
                let left = whole[start..cut].iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
                assert_eq!(report.torn_bytes, left, "cut at {cut}");
            }
            fill(&log, kept, kept + 2, LENGTH);
            drop(log);
            assert_eq!(contents(&open(&disk).0), expected(0, kept + 2, LENGTH));
        }
    }
}

#[test]
fn what_stands_behind_a_torn_record_of_the_same_group_does_not_come_back() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    fill(&log, 0, 1, LENGTH);
    wait(log.append((1..4).map(|index| record(index, LENGTH)).collect())).expect("append");
    let path = log.segments()[0].path.clone();
    let disk = disk.copy();
    disk.tamper(&path, |bytes| bytes[start_of(1) + 5] ^= 1);
    let (log, report) = open(&disk);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.next_index, report.torn_bytes), (1, 3 * record_size(LENGTH)));
    // The same record again: the one behind it must stay gone although it would fit exactly.
    fill(&log, 1, 2, LENGTH);
    assert_eq!(contents(&open(&disk.crash(9)).0), expected(0, 2, LENGTH));
}

/// Reads everything; returns the lost indices. Whatever is readable must be right.
fn lost_indices(log: &Log, count: u64) -> Vec<u64> {
    let mut lost = Vec::new();
    for index in 0..count {
        match log.read(index) {
            Ok(found) => assert_eq!(found, Some(record(index, LENGTH))),
            Err(LogError::Corrupt { index: told, path, .. }) => {
                assert_eq!(told, index);
                assert!(path.starts_with(DIR), "{}", path.display());
                lost.push(index);
            }
            Err(error) => panic!("{error}"),
        }
    }
    lost
}

#[test]
fn a_flipped_bit_in_an_unsealed_segment_costs_one_record_at_most() {
    let (disk, path) = unsealed(5);
    for at in 0..start_of(5) + 40 {
        let disk = disk.copy();
        disk.tamper(&path, |bytes| bytes[at] ^= 1 << (at % 8));
        let (log, report) = open(&disk);
        let hit = (at >= HEAD && at < start_of(5)).then(|| ((at - HEAD) / record_size(LENGTH) as usize) as u64);
        match hit {
            // Part of the last group: cannot be told from a torn append.
            Some(4) => {
                assert!(report.is_clean(), "bit in byte {at}: {report:?}");
                assert!(report.torn_bytes > 0);
                assert_eq!(contents(&log), expected(0, 4, LENGTH));
            }
            Some(index) => {
                assert_eq!(lost_indices(&log, 5), [index], "bit in byte {at}");
                let lost = &report.lost[0];
                assert_eq!((lost.from, lost.to, lost.offset), (index, index + 1, start_of(index) as u64));
                assert_eq!((&lost.path, report.damage.len(), log.stats().records_quarantined), (&path, 1, 1));
                let Err(error) = log.read(index) else { panic!("{index} is lost") };
                let text = format!("{}: record {index} at byte {} is lost: ", path.display(), start_of(index));
                assert!(error.to_string().starts_with(&text), "{error}");
            }
            None => {
                assert_eq!(contents(&log), expected(0, 5, LENGTH));
                assert_eq!(report.damage.len(), usize::from(at < HEAD), "bit in byte {at}: {report:?}");
                assert_eq!(report.torn_bytes > 0, at >= start_of(5), "bit in byte {at}: {report:?}");
            }
        }
        let next = report.next_index;
        fill(&log, next, next + 1, LENGTH);
        drop(log);
        // The hole stays visible, and only the hole.
        let (log, again) = open(&disk);
        assert_eq!(again.lost.len(), report.lost.len(), "bit in byte {at}");
        assert_eq!(lost_indices(&log, next + 1), hit.filter(|index| *index < 4).into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_flipped_bit_in_a_sealed_segment_costs_one_record_at_most() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    fill(&log, 0, 5, LENGTH);
    let path = log.segments()[0].path.clone();
    wait(log.close());
    let (log, _) = open(&disk);
    fill(&log, 5, 7, LENGTH);
    let disk = disk.copy();
    for at in 0..disk.bytes(&path).len() {
        let disk = disk.copy();
        disk.tamper(&path, |bytes| bytes[at] ^= 1 << (at % 8));
        let (log, report) = open(&disk);
        let hit = (at >= HEAD && at < start_of(5)).then(|| ((at - HEAD) / record_size(LENGTH) as usize) as u64);
        // The newest segment is scanned; the sealed one only when its footer is damaged.
        assert_eq!(report.scanned, 1 + usize::from(at >= start_of(5)), "bit in byte {at}");
        assert_eq!(report.torn_bytes, 0, "bit in byte {at}: {report:?}");
        assert!(report.lost.is_empty(), "bit in byte {at}: {report:?}");
        let lost = lost_indices(&log, 7);
        // Padding is not read back with its record.
        assert!(lost == hit.into_iter().collect::<Vec<_>>(), "bit in byte {at}: lost {lost:?}");
    }
}

#[test]
fn damage_in_a_scanned_old_segment_is_told_with_its_range() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    fill(&log, 0, 6, LENGTH);
    let path = log.segments()[0].path.clone();
    wait(log.close());
    let (log, _) = open(&disk);
    fill(&log, 6, 8, LENGTH);
    let disk = disk.copy();
    // No footer any more, records 2 and 3 overwritten, the last one too.
    disk.tamper(&path, |bytes| {
        bytes.truncate(start_of(6));
        bytes[start_of(2) + 9..start_of(4) - 9].fill(0xAA);
        bytes[start_of(5)..].fill(0);
    });
    for _ in 0..2 {
        let (log, report) = open(&disk);
        let ranges: Vec<_> = report.lost.iter().map(|lost| (lost.from, lost.to, lost.offset)).collect();
        assert_eq!(ranges, [(2, 4, start_of(2) as u64), (5, 6, start_of(5) as u64)]);
        assert_eq!(lost_indices(&log, 8), [2, 3, 5]);
        assert_eq!(log.read_range(0, 8, usize::MAX).expect("before the hole"), expected(0, 2, LENGTH));
        let error = log.read_range(2, 8, usize::MAX).expect_err("in the hole");
        assert!(matches!(error, LogError::Corrupt { index: 2, .. }), "{error}");
    }
}

#[test]
fn a_destroyed_segment_is_set_aside_and_its_range_stays_lost() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    fill(&log, 0, 10, LENGTH);
    wait(log.truncate_suffix(8)).expect("truncate");
    fill(&log, 8, 12, LENGTH);
    wait(log.close());
    let (log, _) = open(&disk);
    fill(&log, 12, 15, LENGTH);
    let segments = log.segments();
    assert_eq!((segments[1].first, segments[1].next), (8, 12));
    let disk = disk.copy();
    disk.tamper(&segments[1].path, |bytes| bytes.fill(0x55));
    for round in 0..3 {
        let (log, report) = open(&disk);
        assert_eq!(report.quarantined.len(), usize::from(round == 0), "{report:?}");
        let ranges: Vec<_> = report.lost.iter().map(|lost| (lost.from, lost.to)).collect();
        // What the destroyed segment had superseded does not come back in its place.
        assert_eq!(ranges, [(8, 12)]);
        assert_eq!(lost_indices(&log, 15), [8, 9, 10, 11]);
    }
    let (log, _) = open(&disk);
    wait(log.purge_prefix(12)).expect("purge");
    drop(log);
    assert!(open(&disk).1.is_clean());
}

#[test]
fn a_missing_segment_is_a_hole_not_a_refusal() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    fill(&log, 0, 120, LENGTH);
    let segments = log.segments();
    let disk = disk.copy();
    crate::disk::Disk::remove(disk.as_ref(), &segments[1].path).expect("removed");
    let (log, report) = open(&disk);
    let lost: Vec<u64> = (segments[1].first..segments[1].next).collect();
    assert_eq!(lost_indices(&log, 120), lost);
    assert_eq!((report.lost[0].from, report.lost[0].to), (segments[1].first, segments[1].next));
    assert_eq!(log.next_index(), 120);
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let (disk, path) = unsealed(2);
    let name = SegmentName::parse(path.file_name().and_then(|name| name.to_str()).expect("a name")).expect("parses");
    let mut head = Vec::new();
    name.encode_header(&mut head);
    head[6] = 9;
    let mut seed = [0; 16];
    seed[..8].copy_from_slice(&name.id.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&seed), &head[..36]);
    head[36..].copy_from_slice(&crc.to_le_bytes());
    disk.tamper(&path, |bytes| bytes[..SEGMENT_HEADER].copy_from_slice(&head));
    let before = disk.bytes(&path);
    let refused = try_open(&disk).expect_err("refused");
    assert_eq!(refused.to_string(), format!("{}: segment format version 9, this build knows only 1", path.display()));
    assert_eq!(disk.bytes(&path), before);
    assert!(try_open(&disk).is_err_and(|error| matches!(error, LogError::UnsupportedVersion { version: 9, .. })));
}

#[test]
fn records_inside_records_and_foreign_files_are_not_taken_for_records() {
    let (disk, path) = unsealed(3);
    let stolen = disk.bytes(&path)[start_of(0)..start_of(3)].to_vec();
    let fresh = SimDisk::new();
    let (log, _) = open(&fresh);
    for _ in 0..3 {
        wait(log.append(vec![Bytes::from(stolen.clone())])).expect("append");
    }
    let path = log.segments()[0].path.clone();
    let fresh = fresh.copy();
    for name in ["notes.txt", "0-0-0.log", "zz.log", "0000000000000001-00000000000000000000-00000000000000zz.log"] {
        crate::disk::Disk::create(fresh.as_ref(), &Path::new(DIR).join(name)).expect("created");
    }
    // The first record's header goes, so the search runs through its payload.
    fresh.tamper(&path, |bytes| bytes[HEAD] ^= 4);
    let (log, report) = open(&fresh);
    assert_eq!((report.lost[0].from, report.lost[0].to, log.next_index()), (0, 1, 3));
    assert_eq!(log.read(1).expect("read"), Some(Bytes::from(stolen)));
}

#[test]
fn unreadable_sectors_cost_their_records_and_cut_nothing() {
    let disk = SimDisk::new();
    let (log, _) =
        Log::open_on(disk.clone(), Path::new(DIR), crate::LogOptions { segment_bytes: 64 << 10, ..super::small() }).expect("opens");
    fill(&log, 0, 10, 4000);
    let path = log.segments()[0].path.clone();
    let disk = disk.copy();
    let whole = disk.bytes(&path);
    disk.faults(|faults| faults.unreadable = Some((path.clone(), 9000..9001)));
    let (log, report) = open(&disk);
    assert_eq!((report.lost.len(), report.torn_bytes), (1, 0), "{report:?}");
    let range = report.lost[0].from..report.lost[0].to;
    assert!(range.contains(&2) && range.end - range.start <= 2, "{range:?}");
    assert_eq!(log.next_index(), 10);
    for index in (0..10).filter(|index| !range.contains(index)) {
        assert_eq!(log.read(index).expect("read"), Some(record(index, 4000)));
    }
    assert_eq!(disk.bytes(&path), whole);
}
