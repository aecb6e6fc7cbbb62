//! The local store over its database, on disks that fail it.

use std::process::Command;

use anemone_model::{AgentId, CounterWidth, MetricKind, Value};
use anemone_store::matcher::{MatchOp, Matcher};

use super::*;
use crate::config::{ByteSize, SpoolBounds};

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

#[test]
fn a_full_disk_keeps_samples_in_memory_until_it_has_room() {
    let mount = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=96m", "tmpfs"]).arg(mount.path()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("not run: this user may not mount a small file system");
        return;
    }
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
    let _ = Command::new("umount").arg("-l").arg(mount.path()).status();
    assert!(sealed, "{status:#?}");
    assert_eq!(found, 2_000_000);
}
