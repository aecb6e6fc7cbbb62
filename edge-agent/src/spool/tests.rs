//! The spool on a real disk: order, restart, bounds, damage, refusal.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use anemone_model::{CounterWidth, MetricKind, Sample, SeriesDef, Value};
use anemone_wire::batch::{Batch, BatchBuilder};
use anemone_wire::gap::GapReason;

use super::*;
use crate::config::ByteSize;
use crate::small_disk::SmallDisk;

mod power_cut;

const MIB: u64 = 1 << 20;

fn agent() -> AgentId {
    AgentId { pop: "ams1".parse().unwrap(), name: "a1".parse().unwrap() }
}

fn bounds(max_mib: u64) -> SpoolBounds {
    SpoolBounds { max_bytes: ByteSize(max_mib * MIB), segment_bytes: ByteSize(MIB), memory_bytes: ByteSize(MIB) }
}

/// A spool with its writer running.
struct Running {
    spool: Arc<Spool>,
    report: SpoolReport,
    runtime: tokio::runtime::Runtime,
    writer: Option<JoinHandle<WriterEnd>>,
}

impl Running {
    fn open(dir: &Path, bounds: SpoolBounds) -> Self {
        Self::open_covered(dir, bounds, 0)
    }

    fn open_covered(dir: &Path, bounds: SpoolBounds, covered: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let opened = runtime.block_on(Spool::open(dir, agent(), bounds, covered)).unwrap();
        Self::start(runtime, opened)
    }

    fn start(runtime: tokio::runtime::Runtime, (spool, report): (Spool, SpoolReport)) -> Self {
        let spool = Arc::new(spool);
        let (writing, handle) = (Arc::clone(&spool), runtime.handle().clone());
        let writer = Some(std::thread::spawn(move || writing.run_writer(&handle)));
        Self { spool, report, runtime, writer }
    }

    fn drain(&self) {
        assert_eq!(self.spool.drain(Instant::now() + Duration::from_secs(20)), 0);
    }

    fn wait(&self, what: &str, condition: impl Fn(&SpoolStatus) -> bool) -> SpoolStatus {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let status = self.spool.status();
            if condition(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{what}: {status:#?}");
            #[expect(clippy::disallowed_methods, reason = "polls a condition on a thread of the test")]
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn close(mut self) -> WriterEnd {
        self.spool.close();
        let end = self.writer.take().unwrap().join().unwrap();
        self.runtime.block_on(self.spool.release());
        end
    }

    /// Everything that would be shipped, decoded.
    fn shipped(&self) -> Vec<Batch> {
        let (mut at, mut batches) = (self.spool.acked_below(), Vec::new());
        loop {
            let read = self.spool.read(at, 256 << 10).unwrap();
            if read.is_empty() {
                return batches;
            }
            for outgoing in read {
                assert_eq!(outgoing.sequence, at, "no sequence is left out");
                at = outgoing.sequence + outgoing.covers;
                let batch = Batch::decode(outgoing.bytes).unwrap();
                assert_eq!((batch.header.sequence, batch.header.covers), (outgoing.sequence, outgoing.covers));
                assert_eq!((batch.header.epoch, &batch.header.agent), (self.spool.epoch(), &agent()));
                batches.push(batch);
            }
        }
    }
}

fn def(n: u32) -> SeriesDef {
    let name = n.to_string();
    SeriesDef::new("m", [("n", name.as_str())], MetricKind::Gauge, CounterWidth::Unknown).unwrap()
}

/// A part that defines series `n` and uses it and the one before; `samples` random values make it large.
fn part(n: u32, generation: u64, samples: u32) -> Part {
    let mut builder = BatchBuilder::new();
    builder.define(n, def(n));
    for i in 0..samples {
        let bits = xxhash_rust::xxh3::xxh3_64(&[n.to_be_bytes(), i.to_be_bytes()].concat());
        let reference = if i % 2 == 0 { n } else { n.saturating_sub(1) };
        builder.push(reference, Sample::new(i64::from(n) * 1000 + i64::from(i), Value::U64(bits)));
    }
    let span = (i64::from(n) * 1000, i64::from(n) * 1000 + i64::from(samples) - 1);
    Part {
        bytes: builder.estimated_bytes(),
        sections: builder.encode().unwrap(),
        definitions: vec![(n, def(n))],
        generation,
        samples: u64::from(samples),
        lost_samples: 0,
        span_ms: Some(span),
    }
}

/// About 80 KiB.
const LARGE: u32 = 10_000;

#[test]
fn batches_get_sequences_from_one_and_survive_a_restart() {
    let temp = tempfile::tempdir().unwrap();
    let running = Running::open(temp.path(), bounds(8));
    assert!(running.report.new_epoch);
    for n in 0..5 {
        running.spool.enqueue(part(n, 0, 10));
    }
    running.drain();
    let (epoch, before) = (running.spool.epoch(), running.shipped());
    assert_eq!(before.iter().map(|b| b.header.sequence).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert!(before.iter().all(|b| b.header.dictionary == 1));
    running.spool.acknowledge(3);
    assert_eq!(running.close(), WriterEnd::Drained);

    let running = Running::open(temp.path(), bounds(8));
    assert_eq!((running.spool.epoch(), running.report.new_epoch), (epoch, false));
    assert_eq!(running.spool.acked_below(), 3, "saved at the end");
    assert_eq!(running.shipped(), before[2..]);
    running.spool.enqueue(part(0, 0, 10));
    running.drain();
    let batches = running.shipped();
    let last = &batches.last().unwrap().header;
    assert_eq!((last.sequence, last.dictionary), (6, 6), "a new dictionary with the new process");
    running.close();
}

#[test]
fn a_wiped_spool_begins_a_new_epoch_and_its_store_marks_go_on() {
    let temp = tempfile::tempdir().unwrap();
    let running = Running::open(temp.path(), bounds(8));
    running.spool.enqueue(part(0, 0, 10));
    running.drain();
    let (epoch, mark) = (running.spool.epoch(), running.spool.store_mark());
    assert_eq!(mark, 1);
    running.close();
    std::fs::remove_dir_all(temp.path()).unwrap();

    let running = Running::open_covered(temp.path(), bounds(8), mark);
    assert_ne!(running.spool.epoch(), epoch);
    running.spool.enqueue(part(0, 0, 10));
    running.drain();
    assert_eq!(running.spool.next_sequence(), 2);
    assert_eq!((running.spool.store_mark(), running.spool.status().covered_below), (2, 1), "what the store covers is of the old epoch");
    running.close();
}

#[test]
fn what_is_acknowledged_and_covered_is_given_back_and_its_definitions_are_kept() {
    let temp = tempfile::tempdir().unwrap();
    let running = Running::open(temp.path(), bounds(64));
    for n in 0..40 {
        running.spool.enqueue(part(n, 0, LARGE));
        running.drain();
    }
    let full = running.spool.status();
    assert_eq!((full.first, full.dropped_batches), (1, 0));
    running.spool.acknowledge(31);
    assert_eq!(running.spool.status().first, 1, "no block covers it");
    running.spool.store_covers(25);
    let status = running.wait("trimmed", |status| status.first > 10);
    assert!(status.first <= 26 && status.bytes < full.bytes, "{status:?}");

    // A replay begins past the definitions of the first batches and still knows what they mean.
    let mut seen = std::collections::BTreeSet::new();
    let replayed = running.spool.replay(
        |def| def.labels.value("n").map(|n| n.parse::<u32>().unwrap()),
        |n, _| {
            seen.insert(n);
        },
    );
    assert_eq!((replayed.batches, replayed.undefined, replayed.unreadable), (15, 0, 0));
    assert_eq!(replayed.samples, 15 * u64::from(LARGE));
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), (24..40).collect::<Vec<_>>());
    running.close();
}

#[test]
fn past_the_size_bound_the_oldest_batches_give_way_to_a_gap_with_their_definitions() {
    let temp = tempfile::tempdir().unwrap();
    let running = Running::open(temp.path(), bounds(4));
    for n in 0..80 {
        running.spool.enqueue(part(n, 0, LARGE));
        running.drain();
    }
    let status = running.wait("bounded", |status| status.bytes <= 4 * MIB);
    assert!(status.dropped_batches > 20, "{status:?}");
    let batches = running.shipped();
    let gap = &batches[0];
    assert_eq!((gap.header.sequence, gap.header.covers), (1, status.dropped_batches));
    let record = &gap.gaps().unwrap()[0];
    assert_eq!((record.from_sequence, record.sequences, record.reason), (1, status.dropped_batches, GapReason::SpoolFull));
    assert_eq!((record.from_ms, record.samples), (Some(0), status.dropped_batches * u64::from(LARGE)));
    let defined: Vec<u32> = gap.definitions().unwrap().into_iter().map(|(reference, _)| reference).collect();
    assert_eq!(defined, (0..u32::try_from(status.dropped_batches).unwrap()).collect::<Vec<_>>());
    assert_eq!(batches.last().unwrap().header.sequence, 80);
    let epoch = running.spool.epoch();
    running.close();

    let running = Running::open(temp.path(), bounds(4));
    assert_eq!(running.spool.epoch(), epoch);
    assert_eq!(running.spool.status().dropped_batches, status.dropped_batches);
    assert_eq!(running.shipped(), batches, "the gap is as durable as the batches");
    running.spool.acknowledge(5);
    assert_eq!(running.shipped()[0].header.covers, status.dropped_batches - 4, "what the hub has got is not in the gap");
    running.close();
}

#[test]
fn a_damaged_sidecar_is_made_good_by_a_new_gap() {
    let temp = tempfile::tempdir().unwrap();
    let running = Running::open(temp.path(), bounds(4));
    for n in 0..80 {
        running.spool.enqueue(part(n, 0, LARGE));
        running.drain();
    }
    let dropped = running.wait("bounded", |status| status.bytes <= 4 * MIB).dropped_batches;
    running.close();
    std::fs::write(temp.path().join("gaps.cbor"), b"garbage").unwrap();
    let running = Running::open(temp.path(), bounds(4));
    assert!(running.report.gaps_damage.is_some());
    let gap = &running.shipped()[0];
    assert_eq!((gap.header.covers, gap.gaps().unwrap()[0].reason), (dropped, GapReason::SpoolCorrupt));
    running.close();
}

/// Flips a byte in the middle of the record of `sequence`.
fn damage(dir: &Path, needle: &[u8]) {
    for entry in std::fs::read_dir(dir.join("log")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            bytes[at + needle.len() / 2] ^= 0x10;
            return std::fs::write(&path, bytes).unwrap();
        }
    }
    panic!("the record is in no segment");
}

#[test]
fn a_corrupt_record_costs_exactly_itself() {
    let temp = tempfile::tempdir().unwrap();
    let running = Running::open(temp.path(), bounds(8));
    for n in 0..7 {
        running.spool.enqueue(part(n, 0, 100));
        running.drain();
    }
    let before = running.shipped();
    let record = running.spool.read(4, 1).unwrap()[0].bytes.clone();
    running.close();
    damage(temp.path(), &record);

    let running = Running::open(temp.path(), bounds(8));
    let after = running.shipped();
    assert_eq!(after.len(), 7);
    for (at, (was, is)) in before.iter().zip(&after).enumerate() {
        if at == 3 {
            let record = &is.gaps().unwrap()[0];
            assert_eq!((record.from_sequence, record.sequences, record.reason), (4, 1, GapReason::SpoolCorrupt));
            assert_eq!(is.header.dictionary, 1);
        } else {
            assert_eq!(was, is);
        }
    }
    assert_eq!(running.spool.status().corrupt_records, 1);

    // Sequence 5 uses series 3, which was defined in the lost batch: the hub says so, and the definition is lost for good.
    running.spool.amend(5).unwrap();
    let given_up = &running.shipped()[3];
    let record = &given_up.gaps().unwrap()[0];
    assert_eq!((record.from_sequence, record.sequences, record.samples), (4, 2, 100), "one gap with its neighbour");
    assert_eq!(given_up.definitions().unwrap().len(), 1, "what it defines later batches need");
    // Sequence 7 uses series 5 and 6, which are known.
    running.spool.amend(7).unwrap();
    let amended = &running.shipped()[5];
    assert_eq!(amended.definitions().unwrap().into_iter().map(|(n, _)| n).collect::<Vec<_>>(), [5, 6]);
    assert_eq!(amended.samples().unwrap(), before[6].samples().unwrap());
    running.close();
}

#[test]
fn a_batch_given_up_twice_loses_its_definitions() {
    let temp = tempfile::tempdir().unwrap();
    let running = Running::open(temp.path(), bounds(8));
    running.spool.enqueue(part(0, 0, 10));
    running.drain();
    running.spool.give_up(1, "bad").unwrap();
    assert_eq!(running.shipped()[0].definitions().unwrap().len(), 1);
    running.spool.give_up(1, "bad still").unwrap();
    let bare = &running.shipped()[0];
    assert_eq!((bare.definitions().unwrap().len(), bare.gaps().unwrap()[0].samples), (0, 10));
    running.close();
}

#[test]
fn lost_definitions_of_the_present_dictionary_ask_for_another() {
    let temp = tempfile::tempdir().unwrap();
    let running = Running::open(temp.path(), bounds(8));
    // Uses series 4 without any batch that defines it.
    running.spool.enqueue(part(5, 0, 10));
    running.drain();
    assert_eq!(running.spool.generation_wanted(), 0);
    running.spool.amend(1).unwrap();
    assert_eq!(running.spool.generation_wanted(), 1);
    running.spool.enqueue(part(0, 1, 10));
    running.spool.enqueue(part(1, 1, 10));
    running.drain();
    let dictionaries: Vec<u64> = running.shipped().iter().map(|b| b.header.dictionary).collect();
    assert_eq!(dictionaries, [1, 2, 2]);
    running.close();
}

#[test]
fn a_full_disk_costs_the_oldest_in_memory_and_says_so_once_it_has_room() {
    let Some(disk) = SmallDisk::mount(6) else { return };
    let ballast = disk.path().join("ballast");
    let dir = disk.path().join("spool");
    let running = Running::open(&dir, bounds(1000));
    running.spool.enqueue(part(0, 0, LARGE));
    running.drain();
    // Fills the disk to the last page.
    let mut file = std::fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    let dropped: u64 = (1..60).map(|n| running.spool.enqueue(part(n, 0, LARGE))).sum();
    assert!(dropped > 0);
    let status = running.wait("refused", |status| status.write_failures > 0 && status.dropped_parts > 0);
    assert!(status.waiting_parts > 0 && status.waiting_bytes <= 2 * MIB as usize, "{status:?}");

    drop(file);
    std::fs::remove_file(&ballast).unwrap();
    running.drain();
    let status = running.wait("written", |status| status.waiting_parts == 0);
    let batches = running.shipped();
    let gaps: Vec<_> = batches.iter().flat_map(|batch| batch.gaps().unwrap()).collect();
    assert!(gaps.iter().all(|gap| gap.reason == GapReason::DiskFailed && gap.sequences == 0));
    assert_eq!(gaps.iter().map(|gap| gap.samples).sum::<u64>(), status.dropped_part_samples);
    // Every series is defined before it is used, the dropped ones too, and nothing but the dropped is missing.
    let (mut defined, mut samples) = (std::collections::BTreeSet::new(), 0);
    for batch in &batches {
        defined.extend(batch.definitions().unwrap().into_iter().map(|(n, _)| n));
        let used = batch.samples().unwrap();
        samples += used.len() as u64;
        assert!(used.iter().all(|(n, _)| defined.contains(n)), "batch {}", batch.header.sequence);
    }
    assert_eq!(samples + status.dropped_part_samples, 60 * u64::from(LARGE));
    running.close();
}
