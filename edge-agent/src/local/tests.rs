//! The local store over its database, on disks that fail it.

use anemone_model::{AgentId, CounterWidth, MetricKind, Value};
use anemone_store::matcher::{MatchOp, Matcher};
use anemone_wire::batch::BatchBuilder;

use super::*;
use crate::config::{ByteSize, SpoolBounds};
use crate::small_disk::SmallDisk;
use crate::spool::{Part, WriterEnd};

fn bounds() -> LocalBounds {
    LocalBounds {
        retention: Duration::from_secs(3600),
        max_bytes: ByteSize(64 << 20),
        seal_every: Duration::from_secs(600),
        head_bytes: ByteSize(64 << 20),
    }
}

fn spool(dir: &Path) -> Spool {
    let agent = AgentId { pop: "ams1".parse().unwrap(), name: "a1".parse().unwrap() };
    let bounds = SpoolBounds { max_bytes: ByteSize(8 << 20), segment_bytes: ByteSize(1 << 20), memory_bytes: ByteSize(1 << 20) };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(Spool::open(dir, agent, bounds, 0)).unwrap().0
}

fn fill(local: &LocalStore, series: u32, samples: i64, from_ms: i64) {
    for n in 0..series {
        let name = n.to_string();
        let def = SeriesDef::new("m", [("n", name.as_str())], MetricKind::Gauge, CounterWidth::Unknown).unwrap();
        let series = local.register(&def).unwrap();
        for at in 0..samples {
            let bits = xxhash_rust::xxh3::xxh3_64(&[i64::from(n), at, from_ms].map(i64::to_le_bytes).concat());
            local.append(series, Sample::new(from_ms + at, Value::U64(bits)));
        }
    }
}

fn count(local: &LocalStore) -> usize {
    let matcher = Matcher::new("__name__", MatchOp::Equal, "m").unwrap();
    local.store().select(&[matcher], 0, i64::MAX).series.iter().map(|series| series.samples.len()).sum()
}

#[test]
fn sealed_samples_and_memories_survive_a_restart() {
    let temp = tempfile::tempdir().unwrap();
    let (spool, dir, now) = (spool(&temp.path().join("spool")), temp.path().join("local"), clock::now_ms());
    let local = LocalStore::open(&dir, bounds()).unwrap();
    fill(&local, 10, 100, now - 1000);
    assert_eq!(count(&local), 1000, "found before they are sealed");
    assert!(local.seal(&spool, SealReason::Interval));
    let memory = crate::device::DeviceMemory { uptime: Some((7, now)), varbinds: 20 };
    local.memories().remember("sw1", &memory).unwrap();
    drop(local);
    let local = LocalStore::open(&dir, bounds()).unwrap();
    assert_eq!(count(&local), 1000);
    assert_eq!((local.memories().recall("sw1"), local.memories().recall("sw2")), (memory, crate::device::DeviceMemory::default()));
}

/// The checksum of sled's files.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1))))
}

/// Leaves a data file without pages and a valid snapshot that names one far beyond its end: sled 0.34.7 indexes past its table of
/// segments while it opens.
fn make_opening_panic(dir: &Path) {
    std::fs::write(dir.join("db"), b"").unwrap();
    // Last number in the log: 0; no active segment; page 0 is free, in the log's record 0, inline at byte 0xFFFF_FFFF.
    let mut snapshot = [1_i64.to_le_bytes().as_slice(), &[0], &[0], &[0; 8], &[0, 251, 0xFF, 0xFF, 0xFF, 0xFF]].concat();
    let (length, checksum) = (snapshot.len() as u64, crc32(&snapshot));
    snapshot.extend(length.to_le_bytes());
    snapshot.extend(checksum.to_le_bytes());
    // sled takes the last by name.
    std::fs::write(dir.join("snap.FFFFFFFFFFFFFFFF"), snapshot).unwrap();
}

/// Puts `samples` of the series that [`fill`] names 0 into the spool, durably.
fn keep_in_spool(spool: &Spool, samples: i64, from_ms: i64) {
    let def = SeriesDef::new("m", [("n", "0")], MetricKind::Gauge, CounterWidth::Unknown).unwrap();
    let mut builder = BatchBuilder::new();
    builder.define(0, def.clone());
    (0..samples).for_each(|at| builder.push(0, Sample::new(from_ms + at, Value::U64(7))));
    let part = Part {
        bytes: builder.estimated_bytes(),
        sections: builder.encode().unwrap(),
        definitions: vec![(0, def)],
        generation: 0,
        samples: samples.unsigned_abs(),
        lost_samples: 0,
        span_ms: Some((from_ms, from_ms + samples - 1)),
    };
    spool.enqueue(part);
    spool.close();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(spool.run_writer(runtime.handle()), WriterEnd::Drained);
}

#[test]
fn a_database_that_panics_on_opening_is_set_aside_and_rebuilt_from_the_spool() {
    let temp = tempfile::tempdir().unwrap();
    let (spool_dir, dir, now) = (temp.path().join("spool"), temp.path().join("local"), clock::now_ms());
    let held = spool(&spool_dir);
    keep_in_spool(&held, 50, now - 1000);
    let local = LocalStore::open(&dir, bounds()).unwrap();
    local.replay(&held);
    assert!(local.seal(&held, SealReason::Interval));
    drop((local, held));

    make_opening_panic(&dir);
    let opening = std::panic::catch_unwind(|| sled::Config::new().path(&dir).segment_size(8 << 20).open().map(drop));
    assert!(opening.is_err(), "sled by itself panics on this directory: {opening:?}");
    make_opening_panic(&dir);

    let (local, held) = (LocalStore::open(&dir, bounds()).unwrap(), spool(&spool_dir));
    let (kept, why) = local.status().set_aside.unwrap();
    assert!(why.contains("open panicked: index out of bounds"), "{why}");
    assert_eq!(Path::new(&kept), temp.path().join("local.damaged-1"));
    assert!(Path::new(&kept).join("snap.FFFFFFFFFFFFFFFF").exists());
    assert_eq!(count(&local), 0, "a new one");
    local.replay(&held);
    assert_eq!(count(&local), 50, "what the spool holds is back");
    fill(&local, 1, 100, now);
    assert!(local.seal(&held, SealReason::Interval));
    drop(local);
    let local = LocalStore::open(&dir, bounds()).unwrap();
    assert_eq!((count(&local), local.status().set_aside), (150, None));
}

#[test]
fn a_full_disk_keeps_samples_in_memory_until_it_has_room() {
    let Some(mount) = SmallDisk::mount(96) else { return };
    let temp = tempfile::tempdir().unwrap();
    let (spool, now) = (spool(temp.path()), clock::now_ms());
    let local = LocalStore::open(&mount.path().join("local"), bounds()).unwrap();
    let ballast = mount.path().join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    fill(&local, 100, 20_000, now - 1_000_000);
    assert!(!local.seal(&spool, SealReason::Interval), "no room for 16 MB");
    assert_eq!(count(&local), 2_000_000, "everything is still found");
    drop(file);
    std::fs::remove_file(&ballast).unwrap();
    let sealed = (0..5).any(|_| local.seal(&spool, SealReason::Interval));
    let status = local.status();
    let found = count(&local);
    drop(local);
    assert!(sealed, "{status:#?}");
    assert_eq!(found, 2_000_000);
}
