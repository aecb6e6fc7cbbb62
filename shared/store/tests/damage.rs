//! Crashes, damage and full disks: never a panic, never a refusal to start, always named.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anemone_model::{CounterWidth, MetricKind, Sample, SeriesDef, Value};
use anemone_store::{BlockId, BlockStore, FileBlocks, MemoryBlocks, SealReason, Store, StoreError, StoreOptions};
use bytes::Bytes;

const SERIES: u64 = 40;
const SAMPLES: i64 = 300;

fn def(n: u64) -> SeriesDef {
    let name = format!("eth{n}");
    SeriesDef::new("if_in_octets", [("if_name", name.as_str())], MetricKind::Counter, CounterWidth::Bits64).unwrap()
}

fn fill(store: &Store, from_ms: i64) {
    for n in 0..SERIES {
        let series = store.register(&def(n)).unwrap();
        for k in 0..SAMPLES {
            store.append(series, Sample::new(from_ms + k * 10_000, Value::U64(n * 1_000_000 + (k * k) as u64)));
        }
    }
    store.note_applied(store.covered() + 10);
}

fn open(place: &Arc<impl BlockStore + 'static>) -> Store {
    let place: Arc<dyn BlockStore> = Arc::<_>::clone(place) as _;
    Store::open(place, StoreOptions::default()).unwrap()
}

fn count(store: &Store) -> (usize, Vec<String>) {
    let selection = store.select(&[], i64::MIN, i64::MAX);
    (selection.series.iter().map(|s| s.samples.len()).sum(), selection.warnings)
}

const ALL: usize = SERIES as usize * SAMPLES as usize;

#[test]
fn a_damaged_byte_anywhere_is_named_and_costs_at_most_its_page_or_block() {
    let sealed = Arc::new(MemoryBlocks::new());
    let store = open(&sealed);
    fill(&store, 0);
    let block = store.seal(SealReason::Interval).unwrap().blocks[0];
    let pages = sealed.page_count(block).unwrap();
    assert!(pages >= 5, "{pages} pages");
    for page in 0..pages {
        let good = sealed.read_page(block, page).unwrap();
        for at in [0, 1, good.len() / 2, good.len() - 5, good.len() - 1] {
            let copy = Arc::new(MemoryBlocks::new());
            let id = copy.next_id();
            copy.write(id, &mut (0..pages).map(|p| sealed.read_page(block, p))).unwrap();
            assert!(copy.damage(id, page, |bytes| bytes[at] ^= 0x10));
            let store = open(&copy);
            let (samples, warnings) = count(&store);
            let text = warnings.join("; ");
            assert!(
                samples < ALL && text.contains(&id.to_string()) && text.contains(&format!("page {page}")),
                "page {page} byte {at}: {text}"
            );
            let stats = store.stats();
            if page + 2 < pages {
                assert!(samples > ALL / 2 && stats.damaged_pages == 1 && stats.quarantined.is_empty(), "page {page} byte {at}");
            } else {
                assert_eq!((samples, stats.quarantined.len(), copy.list().unwrap().len()), (0, 1, 0), "page {page} byte {at}");
            }
            fill(&store, 3_600_000 * 24);
            store.seal(SealReason::Interval).unwrap();
            assert!(count(&store).0 >= ALL, "goes on after damage");
        }
    }
}

#[test]
fn a_block_damaged_while_in_use_is_swept_aside_and_compaction_never_reads_around_damage() {
    let place = Arc::new(MemoryBlocks::new());
    let options = StoreOptions { index_cache_bytes: 0, page_cache_bytes: 0, compact_at: 2, ..StoreOptions::default() };
    let store = Store::open(Arc::<MemoryBlocks>::clone(&place) as _, options).unwrap();
    let mut blocks = Vec::new();
    for n in 0..3 {
        fill(&store, n * 100);
        blocks.extend(store.seal(SealReason::Interval).unwrap().blocks);
    }
    assert!(place.damage(blocks[0], 0, |bytes| bytes[9] ^= 1));
    let compaction = store.compact().unwrap();
    assert_eq!(compaction.merges, 0);
    assert!(compaction.warnings.iter().any(|w| w.contains(&blocks[0].to_string()) && w.contains("page 0")), "{:?}", compaction.warnings);
    assert_eq!(store.compact().unwrap().merges, 1, "the others are merged without the damaged one");
    let (samples, warnings) = count(&store);
    assert!(samples > ALL * 2 && warnings.len() == 1, "{samples} {warnings:?}");

    let index_page = place.page_count(blocks[0]).unwrap() - 2;
    assert!(place.damage(blocks[0], index_page, |bytes| bytes[9] ^= 1));
    // Another index pushes it out of the cache.
    fill(&store, 100 * 3_600_000);
    let other = store.seal(SealReason::Interval).unwrap().blocks;
    assert_eq!(other.len(), 1);
    count(&store);
    let warnings = count(&store).1;
    assert!(warnings.iter().any(|w| w.contains(&blocks[0].to_string()) && w.contains("not used")), "{warnings:?}");
    store.compact().unwrap();
    assert_eq!(store.stats().quarantined.len(), 1);
    assert_eq!(place.quarantined().unwrap(), [blocks[0]]);
}

#[test]
fn a_file_cut_or_changed_anywhere_never_stops_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let place = Arc::new(FileBlocks::open(dir.path()).unwrap());
    let store = open(&place);
    fill(&store, 0);
    store.seal(SealReason::Interval).unwrap();
    let file = place.export_list()[0].path.clone();
    drop(store);
    let good = fs::read(&file).unwrap();
    let check = |bytes: &[u8], what: String| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(file.file_name().unwrap()), bytes).unwrap();
        let store = open(&Arc::new(FileBlocks::open(dir.path()).unwrap()));
        let (samples, warnings) = count(&store);
        assert!(samples < ALL && !warnings.is_empty(), "{what}: {samples} {warnings:?}");
    };
    for at in (0..good.len()).step_by(good.len() / 97) {
        let mut bad = good.clone();
        bad[at] ^= 0x04;
        check(&bad, format!("byte {at}"));
        check(&good[..at], format!("cut at {at}"));
    }
}

#[test]
fn files_go_to_another_node_and_are_adopted() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) =
        (Arc::new(FileBlocks::open(dir.path().join("a")).unwrap()), Arc::new(FileBlocks::open(dir.path().join("b")).unwrap()));
    let (sender, receiver) = (open(&here), open(&there));
    fill(&sender, 0);
    sender.seal(SealReason::Snapshot).unwrap();
    fill(&receiver, 50);
    receiver.seal(SealReason::Interval).unwrap();
    fill(&receiver, 70);

    let snapshot = sender.snapshot();
    fill(&sender, 20);
    sender.seal(SealReason::Interval).unwrap();
    sender.drop_before(i64::MAX).unwrap();
    assert_eq!(sender.stats().block_samples, 0);
    let mut imported = Vec::new();
    for exported in here.export_list().iter().filter(|e| snapshot.blocks.contains(&(e.id, e.bytes))) {
        imported.push(there.import(&exported.path).unwrap());
    }
    receiver.adopt(&imported).unwrap();
    assert_eq!((count(&receiver).0, receiver.covered()), (ALL, snapshot.covered));
    assert_eq!(there.list().unwrap(), imported);
    drop(snapshot);
    assert_eq!(here.list().unwrap().len(), 1, "only what carries the mark is left");
    assert_eq!(open(&here).covered(), 20);
    assert!(receiver.adopt(&[BlockId(999)]).is_err());
    assert_eq!(count(&receiver).0, ALL);
}

/// A place that can be made to fail in the middle of a block.
#[derive(Debug)]
struct FullDisk {
    inner: MemoryBlocks,
    full: AtomicBool,
    writes_left: std::sync::atomic::AtomicI64,
}

impl BlockStore for FullDisk {
    fn next_id(&self) -> BlockId {
        self.inner.next_id()
    }
    fn list(&self) -> Result<Vec<BlockId>, StoreError> {
        self.inner.list()
    }
    fn write(&self, id: BlockId, pages: &mut dyn Iterator<Item = Result<Bytes, StoreError>>) -> Result<u64, StoreError> {
        if self.full.load(Ordering::Relaxed) && self.writes_left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            pages.take(2).for_each(drop);
            return Err(StoreError::Backend { action: "write page 2", block: id, reason: "no space left".to_owned() });
        }
        self.inner.write(id, pages)
    }
    fn page_count(&self, id: BlockId) -> Result<u32, StoreError> {
        self.inner.page_count(id)
    }
    fn read_page(&self, id: BlockId, page: u32) -> Result<Bytes, StoreError> {
        self.inner.read_page(id, page)
    }
    fn bytes(&self, id: BlockId) -> Result<u64, StoreError> {
        self.inner.bytes(id)
    }
    fn delete(&self, id: BlockId) -> Result<(), StoreError> {
        self.inner.delete(id)
    }
    fn quarantine(&self, id: BlockId, reason: &str) -> Result<(), StoreError> {
        self.inner.quarantine(id, reason)
    }
    fn quarantined(&self) -> Result<Vec<BlockId>, StoreError> {
        self.inner.quarantined()
    }
}

#[test]
fn a_full_disk_loses_nothing_and_covers_nothing() {
    let place = Arc::new(FullDisk { inner: MemoryBlocks::new(), full: AtomicBool::new(true), writes_left: 1.into() });
    let store = open(&place);
    fill(&store, 0);
    fill(&store, 5 * 3_600_000);
    let error = store.seal(SealReason::Interval).unwrap_err();
    assert!(error.to_string().contains("no space left"), "{error}");
    assert_eq!((count(&store).0, store.covered(), place.list().unwrap().len()), (2 * ALL, 0, 0), "the first of two blocks is taken back");
    fill(&store, 100);
    store.note_applied(20);
    assert_eq!(count(&store).0, 3 * ALL);
    place.full.store(false, Ordering::Relaxed);
    let summary = store.seal(SealReason::Interval).unwrap();
    assert_eq!((summary.samples, summary.blocks.len(), summary.covered), (3 * ALL as u64, 3, 20));
    drop(store);
    let store = open(&place);
    assert_eq!((count(&store).0, store.covered()), (3 * ALL, 20));
}

#[test]
fn a_crash_between_the_blocks_of_a_seal_covers_nothing_and_replay_counts_nothing_twice() {
    let place = Arc::new(MemoryBlocks::new());
    let store = open(&place);
    fill(&store, 0);
    fill(&store, 5 * 3_600_000);
    let blocks = store.seal(SealReason::Interval).unwrap().blocks;
    assert_eq!(blocks.len(), 2);
    drop(store);
    place.delete(blocks[1]).unwrap();
    let store = open(&place);
    assert_eq!((count(&store).0, store.covered()), (ALL, 0));
    fill(&store, 0);
    fill(&store, 5 * 3_600_000);
    assert_eq!(count(&store).0, 2 * ALL);
    store.seal(SealReason::Interval).unwrap();
    assert_eq!(count(&store).0, 2 * ALL);
}
