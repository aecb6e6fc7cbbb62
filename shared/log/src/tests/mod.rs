//! Tests against the simulated disk (damage, faults, power cuts) and, for what only a real one shows, in a temporary directory.

mod basics;
mod damage;
mod faults;
mod model;
mod real;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::report::{LogOptions, OpenReport};
use crate::sim::SimDisk;
use crate::{Log, LogError};

const DIR: &str = "/log";

fn small() -> LogOptions {
    LogOptions { segment_bytes: 4096, max_record_bytes: 64 << 10, sync: true }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

fn open(disk: &Arc<SimDisk>) -> (Log, OpenReport) {
    try_open(disk).expect("opens")
}

fn try_open(disk: &Arc<SimDisk>) -> Result<(Log, OpenReport), LogError> {
    Log::open_on(Arc::clone(disk) as Arc<dyn crate::disk::Disk>, Path::new(DIR), small())
}

/// A record that tells its index and cannot be mistaken for another.
fn record(index: u64, length: usize) -> Bytes {
    let mut bytes = format!("record {index} ").into_bytes();
    while bytes.len() < length {
        bytes.push((index as usize * 7 + bytes.len() * 13) as u8);
    }
    Bytes::from(bytes)
}

/// Appends records `from..to`, one group each.
fn fill(log: &Log, from: u64, to: u64, length: usize) {
    for index in from..to {
        assert_eq!(wait(log.append(vec![record(index, length)])).expect("append"), index);
    }
}

fn contents(log: &Log) -> Vec<(u64, Bytes)> {
    let found = log.read_range(0, u64::MAX, usize::MAX).expect("all readable");
    assert_eq!(found.len() as u64, log.next_index() - log.first_index());
    found
}

fn expected(from: u64, to: u64, length: usize) -> Vec<(u64, Bytes)> {
    (from..to).map(|index| (index, record(index, length))).collect()
}
