//! Figures of the store on this machine: `cargo bench -p anemone-store`.
//!
//! Prints append rate, bytes a sample sealed and after compaction, memory a series, and the time to select.

use std::sync::Arc;
use std::time::Instant;

use anemone_model::{CounterWidth, MetricKind, Sample, SeriesDef, Value};
use anemone_store::matcher::{MatchOp, Matcher};
use anemone_store::{FileBlocks, MemoryBlocks, SealReason, SeriesRef, Store, StoreOptions};

const START_MS: i64 = 1_700_006_400_000;
const METRICS: [&str; 8] = [
    "if_in_octets",
    "if_out_octets",
    "if_in_unicast_packets",
    "if_out_unicast_packets",
    "if_in_multicast_packets",
    "if_in_broadcast_packets",
    "if_in_errors",
    "if_in_discards",
];

/// A small generator, so that runs are alike.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Resident memory in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Registers `devices` with 48 interfaces of 8 counters each.
fn register(store: &Store, devices: usize) -> Vec<SeriesRef> {
    let mut refs = Vec::with_capacity(devices * 384);
    for d in 0..devices {
        let device = format!("sw{d:05}.ams1");
        for interface in 0..48 {
            let if_name = format!("GigabitEthernet0/{interface}");
            for metric in METRICS {
                let labels = [("pop", "ams1"), ("device", device.as_str()), ("if_name", if_name.as_str())];
                let def = SeriesDef::new(metric, labels, MetricKind::Counter, CounterWidth::Bits64).expect("labels are valid");
                refs.push(store.register(&def).expect("below the limit"));
            }
        }
    }
    refs
}

/// A counter's increase in 10 s: a third of the interfaces idle, the others between 1 Mb/s and 1 Gb/s with noise; errors are rare.
fn increase(noise: &mut Noise, series: usize) -> u64 {
    let (metric, interface) = (series % 8, series / 8);
    if interface % 3 == 0 {
        return 0;
    }
    let base = 1_250_000 << (interface % 10);
    match metric {
        0 | 1 => base + noise.below(base / 4),
        2 | 3 => (base + noise.below(base / 4)) / 700,
        4 | 5 => noise.below(20),
        _ => u64::from(noise.below(400) == 0),
    }
}

/// Appends one poll round after the other; all series of an interface are read in one response. Returns samples and seconds.
fn append(store: &Store, refs: &[SeriesRef], rounds: i64, jitter_ms: u64) -> (u64, f64) {
    let mut noise = Noise(42);
    let mut values: Vec<u64> = (0..refs.len()).map(|_| noise.next() >> 20).collect();
    let mut spent = 0.0;
    let mut samples: Vec<(SeriesRef, Sample)> = Vec::with_capacity(refs.len());
    for round in 0..rounds {
        samples.clear();
        let mut ts_ms = 0;
        for (n, series) in refs.iter().enumerate() {
            if n % 8 == 0 {
                ts_ms = START_MS + round * 10_000 + noise.below(jitter_ms + 1) as i64;
            }
            values[n] += increase(&mut noise, n);
            samples.push((*series, Sample::new(ts_ms, Value::U64(values[n]))));
        }
        let begun = Instant::now();
        for (series, sample) in &samples {
            store.append(*series, *sample);
        }
        spent += begun.elapsed().as_secs_f64();
    }
    (rounds as u64 * refs.len() as u64, spent)
}

fn memory_per_series() {
    let before = resident();
    let store = Store::open(Arc::new(MemoryBlocks::new()), StoreOptions::default()).expect("an empty place opens");
    let begun = Instant::now();
    let refs = register(&store, 2605);
    let registering = begun.elapsed().as_secs_f64();
    let index = resident() - before;
    let count = refs.len() as f64;
    let held = refs.capacity() as u64 * 4;
    let mut noise = Noise(7);
    let mut five_rounds = |from: i64| {
        for round in from..from + 5 {
            for (n, series) in refs.iter().enumerate() {
                let value = (n as u64) * 1_000_003 + round as u64 * (1_250_000 + noise.below(1 << 20));
                store.append(*series, Sample::new(START_MS + round * 60_000 + noise.below(40) as i64, Value::U64(value)));
            }
        }
    };
    five_rounds(0);
    let all = resident() - before;
    let rss = |bytes: u64| (bytes - held) as f64 / count;
    println!("memory: {count} series: {:.0} bytes each in the index, {:.0} with 5 samples each", rss(index), rss(all));
    println!("memory: head says {:.0} bytes a series", store.stats().head_bytes as f64 / count);
    let begun = Instant::now();
    let sealed = store.seal(SealReason::Size).expect("memory takes it");
    let seconds = begun.elapsed().as_secs_f64();
    let after = resident() - before - sealed.bytes;
    five_rounds(5);
    let refilled = resident() - before - sealed.bytes;
    println!("memory: {:.0} bytes a series after a seal of {seconds:.1} s, {:.0} with 5 more samples", rss(after), rss(refilled));
    println!("register: {:.2} M series/s", count / registering / 1e6);
}

fn append_and_seal(jitter_ms: u64) {
    let dir = std::env::temp_dir().join(format!("anemone-store-bench-{}", std::process::id()));
    let place = Arc::new(FileBlocks::open(&dir).expect("a temporary directory can be made"));
    let store = Store::open(Arc::<FileBlocks>::clone(&place) as _, StoreOptions { compact_at: 2, ..StoreOptions::default() })
        .expect("an empty place opens");
    let refs = register(&store, 260);
    let (samples, seconds) = append(&store, &refs, 120, jitter_ms);
    println!("append, jitter {jitter_ms} ms: {:.2} M samples/s", samples as f64 / seconds / 1e6);
    let head = store.stats().head_bytes;
    println!("head: {:.2} bytes a sample at 120 samples a series", head as f64 / samples as f64);
    let begun = Instant::now();
    let summary = store.seal(SealReason::Interval).expect("the disk takes it");
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "seal: {:.3} bytes a sample with index, {:.2} M samples/s",
        summary.bytes as f64 / samples as f64,
        samples as f64 / seconds / 1e6
    );
    select(&store, START_MS, START_MS + 3_600_000);
    drop(store);
    let begun = Instant::now();
    let store = Store::open(place, StoreOptions::default()).expect("it opens again");
    println!("open: {:.2} M series/s", f64::from(store.series_count()) / begun.elapsed().as_secs_f64() / 1e6);
    drop(store);
    if let Err(error) = std::fs::remove_dir_all(&dir) {
        eprintln!("cannot remove {}: {error}", dir.display());
    }
}

fn select(store: &Store, from_ms: i64, to_ms: i64) {
    let equal = |name: &str, value: &str| Matcher::new(name, MatchOp::Equal, value).expect("no pattern");
    let one = [equal("__name__", "if_in_octets"), equal("device", "sw00100.ams1"), equal("if_name", "GigabitEthernet0/7")];
    let all = [equal("__name__", "if_in_octets")];
    for (what, matchers, times) in [("one series", &one[..], 200), ("12480 series", &all[..], 5)] {
        let first = Instant::now();
        let samples: usize = store.select(matchers, from_ms, to_ms).series.iter().map(|s| s.samples.len()).sum();
        let first = first.elapsed();
        let begun = Instant::now();
        for _ in 0..times {
            store.for_each_series(matchers, from_ms, to_ms, |_, _| std::ops::ControlFlow::Continue(()));
        }
        let again = begun.elapsed() / times;
        println!("select {what} ({samples} samples): first {first:?}, again {again:?}");
    }
}

/// The edge's way: a seal every 6 rounds, then compaction.
fn many_small_seals() {
    let store = Store::open(Arc::new(MemoryBlocks::new()), StoreOptions { compact_at: 2, ..StoreOptions::default() })
        .expect("an empty place opens");
    let refs = register(&store, 10);
    let mut noise = Noise(9);
    let mut values = vec![0_u64; refs.len()];
    let (mut samples, mut sealed) = (0_u64, 0_u64);
    for round in 0..120_i64 {
        for (n, series) in refs.iter().enumerate() {
            values[n] += increase(&mut noise, n);
            store.append(*series, Sample::new(START_MS + round * 10_000, Value::U64(values[n])));
        }
        samples += refs.len() as u64;
        if round % 6 == 5 {
            sealed += store.seal(SealReason::Interval).expect("memory takes it").bytes;
        }
    }
    store.compact().expect("memory takes it");
    let bytes = store.stats().block_bytes;
    println!("edge: {:.2} bytes a sample in seals of 6, {:.3} compacted", sealed as f64 / samples as f64, bytes as f64 / samples as f64);
}

fn main() {
    memory_per_series();
    append_and_seal(0);
    append_and_seal(20);
    many_small_seals();
}
