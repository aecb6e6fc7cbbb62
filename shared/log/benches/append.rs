//! Appends 64 KiB records with a real fsync per group and prints throughput and CPU time.
//!
//! `cargo bench -p anemone-log -- [megabytes] [in flight] [directory]`; defaults 1024, 64, the temporary directory.

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anemone_log::{Log, LogError, LogOptions};
use bytes::Bytes;

const RECORD: usize = 64 << 10;

fn main() {
    let numbers: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let number = |at: usize, default: usize| numbers.get(at).map_or(default, |text| text.parse().expect("a number"));
    let (megabytes, in_flight) = (number(0, 1024), number(1, 64).max(1));
    let parent = numbers.get(2).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(parent).expect("a scratch directory");

    let (log, _) = Log::open(dir.path(), LogOptions::default()).expect("open");
    let record = Bytes::from((0..RECORD).map(|at| (at * 31 % 251) as u8).collect::<Vec<u8>>());
    let records = megabytes * (1 << 20) / RECORD;
    let (sender, receiver) = mpsc::channel::<Result<u64, LogError>>();
    let (started, cpu) = (Instant::now(), cpu_time());
    for sent in 0..records {
        if sent >= in_flight {
            receiver.recv().expect("the writer answers").expect("append");
        }
        let sender = sender.clone();
        log.append_with(vec![record.clone()], move |result| drop(sender.send(result))).expect("room in the queue");
    }
    for _ in 0..records.min(in_flight) {
        receiver.recv().expect("the writer answers").expect("append");
    }
    let (elapsed, cpu) = (started.elapsed().as_secs_f64(), cpu_time().saturating_sub(cpu));
    let megabytes = (records * RECORD) as f64 / 1e6;
    let stats = log.stats();
    println!(
        "append  {megabytes:.0} MB in {elapsed:.2} s: {:.0} MB/s, {:.2} ms CPU per MB, {} fsyncs, {:.3} bytes written per byte",
        megabytes / elapsed,
        cpu.as_secs_f64() * 1e3 / megabytes,
        stats.fsyncs,
        stats.live_bytes as f64 / (megabytes * 1e6),
    );

    let (started, cpu) = (Instant::now(), cpu_time());
    let mut from = 0;
    while from < records as u64 {
        let read = log.read_range(from, records as u64, 4 << 20).expect("read");
        from = read.last().expect("not empty").0 + 1;
    }
    let (elapsed, cpu) = (started.elapsed().as_secs_f64(), cpu_time().saturating_sub(cpu));
    println!("read    {:.0} MB/s, {:.2} ms CPU per MB", megabytes / elapsed, cpu.as_secs_f64() * 1e3 / megabytes);

    drop(log);
    let started = Instant::now();
    let (_log, report) = Log::open(dir.path(), LogOptions::default()).expect("open again");
    println!("open    {} segments in {:.1} ms", report.segments, started.elapsed().as_secs_f64() * 1e3);
}

/// User and system time of this process. `/proc/self/stat` counts in ticks of 10 ms, fields 14 and 15.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap_or(0)).sum();
    Duration::from_millis(ticks * 10)
}
