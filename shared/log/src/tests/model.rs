//! Random sequences of operations, faults and power cuts against a model that is a vector.
//!
//! Promise checked: after any crash the log is exactly what was acknowledged, or that plus the outcome of one operation that
//! failed or was under way since; it reports no damage; nothing else is ever read.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use proptest::prelude::*;

use super::{open, wait};
use crate::sim::SimDisk;
use crate::{Log, LogError};

#[derive(Clone, Debug)]
enum Step {
    /// Appends of so many records each, queued without waiting in between.
    Append(Vec<u8>),
    Truncate(u8),
    Purge(u8),
    Reset(u8),
    Meta(u8, u16),
    Reopen,
    /// The power goes after so many disk operations of what follows, at the latest when this many steps are done.
    PowerCut(u8, u64),
    /// Power cut between two operations.
    Crash(u64),
    FailSync(u8),
    FailWrite(u8),
    Full(u16),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    floor: u64,
    entries: VecDeque<Bytes>,
    metas: BTreeMap<u8, Bytes>,
}

impl Model {
    fn next(&self) -> u64 {
        self.floor + self.entries.len() as u64
    }

    fn purge(&mut self, below: u64) {
        if below > self.next() {
            self.reset(below);
        } else if below > self.floor {
            self.entries.drain(..(below - self.floor) as usize);
            self.floor = below;
        }
    }

    fn truncate(&mut self, from: u64) {
        self.entries.truncate((from - self.floor) as usize);
    }

    fn reset(&mut self, next: u64) {
        self.entries.clear();
        self.floor = next;
    }

    fn of(log: &Log) -> Self {
        let floor = log.first_index();
        let found = log.read_range(0, u64::MAX, usize::MAX).expect("all readable");
        assert!(found.iter().map(|(index, _)| *index).eq(floor..log.next_index()), "indices are consecutive");
        assert_eq!(log.next_index(), log.durable_index());
        let metas = (0..4).filter_map(|key| Some((key, log.meta(key)?))).collect();
        Self { floor, entries: found.into_iter().map(|(_, record)| record).collect(), metas }
    }
}

struct Run {
    disk: Arc<SimDisk>,
    log: Option<Log>,
    /// What was acknowledged.
    model: Model,
    /// What else a crash may leave.
    possible: Vec<Model>,
    faulty: bool,
    serial: u64,
    power_seed: Option<u64>,
}

impl Run {
    fn log(&self) -> &Log {
        self.log.as_ref().expect("open between two steps")
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Append(sizes) => self.append(sizes),
            Step::Truncate(part) => {
                let from = self.pick(*part);
                let changes = from < self.model.next();
                let result = wait(self.log().truncate_suffix(from));
                self.settle(result, changes, |model| model.truncate(from));
            }
            Step::Purge(part) => {
                let below = self.pick(*part) + u64::from(*part == u8::MAX) * 5;
                let changes = below > self.model.floor;
                let result = wait(self.log().purge_prefix(below));
                self.settle(result, changes, |model| model.purge(below));
            }
            Step::Reset(ahead) => {
                let next = self.pick(*ahead) + u64::from(*ahead % 3) * 50;
                let result = wait(self.log().reset(next));
                self.settle(result, true, |model| model.reset(next));
            }
            Step::Meta(key, length) => {
                let value = self.fresh(usize::from(*length));
                let result = wait(self.log().write_meta(*key, value.clone()));
                self.settle(result, true, |model| drop(model.metas.insert(*key, value)));
            }
            Step::Reopen => {
                let log = self.log.take().expect("open between two steps");
                wait(log.close());
                if self.power_seed.is_none() {
                    self.disk.faults(|faults| *faults = Default::default());
                    self.faulty = false;
                    self.recover();
                }
            }
            Step::PowerCut(after, seed) => {
                self.disk.faults(|faults| faults.power_in = Some(u32::from(*after)));
                self.faulty = true;
                self.power_seed = Some(*seed);
            }
            Step::Crash(seed) => self.crash(*seed),
            Step::FailSync(after) => {
                self.disk.faults(|faults| faults.sync_in = Some(u32::from(*after)));
                self.faulty = true;
            }
            Step::FailWrite(after) => {
                self.disk.faults(|faults| faults.write_in = Some(u32::from(*after)));
                self.faulty = true;
            }
            Step::Full(room) => {
                self.disk.faults(|faults| faults.capacity = Some(u64::from(*room) * 4));
                self.faulty = true;
            }
        }
        // With the power gone the process is gone too.
        if self.log.is_none() || (self.power_seed.is_some() && self.possible.len() > 1) {
            let seed = self.power_seed.unwrap_or(0);
            self.crash(seed);
        }
        assert_eq!(Model::of(self.log()), self.model);
    }

    fn fresh(&mut self, length: usize) -> Bytes {
        self.serial += 1;
        let mut bytes = format!("{}:", self.serial).into_bytes();
        bytes.resize(bytes.len() + length, self.serial as u8);
        Bytes::from(bytes)
    }

    /// An index between first and next.
    fn pick(&self, part: u8) -> u64 {
        self.model.floor + self.model.entries.len() as u64 * u64::from(part) / 255
    }

    fn append(&mut self, sizes: &[u8]) {
        let (sender, receiver) = mpsc::channel();
        let mut appended = Vec::new();
        for size in sizes {
            let records: Vec<Bytes> = (0..1 + size % 3).map(|_| self.fresh(usize::from(*size) * 6)).collect();
            appended.push(records.clone());
            let sender = sender.clone();
            self.log().append_with(records, move |result| drop(sender.send(result))).expect("room");
        }
        // Neighbours that failed may have been one group, or tried one after the other at the same index; and of a group any
        // first part may be on disk.
        let mut tried: Vec<Model> = Vec::new();
        for records in appended {
            match receiver.recv().expect("an answer") {
                Ok(first) => {
                    assert_eq!(first, self.model.next());
                    self.model.entries.extend(records);
                    self.possible = vec![self.model.clone()];
                    tried.clear();
                }
                Err(error) => {
                    self.excuse(&error);
                    tried.push(self.model.clone());
                    for reached in &mut tried {
                        for record in &records {
                            reached.entries.push_back(record.clone());
                            self.possible.push(reached.clone());
                        }
                    }
                }
            }
        }
    }

    fn excuse(&self, error: &LogError) {
        assert!(self.faulty && matches!(error, LogError::Io { .. }), "{error}");
    }

    /// Books an operation that, when it changes anything at all, happens as a whole or not.
    fn settle(&mut self, result: Result<(), LogError>, changes: bool, apply: impl FnOnce(&mut Model)) {
        let mut after = self.model.clone();
        apply(&mut after);
        match result {
            Ok(()) => {
                self.model = after;
                if changes {
                    self.possible = vec![self.model.clone()];
                }
            }
            Err(error) => {
                self.excuse(&error);
                self.possible.push(after);
            }
        }
    }

    fn crash(&mut self, seed: u64) {
        let after = self.disk.crash(seed);
        // The old process sees nothing of the new disk.
        drop(self.log.take());
        self.disk = after;
        self.faulty = false;
        self.power_seed = None;
        self.recover();
    }

    fn recover(&mut self) {
        let (log, report) = open(&self.disk);
        assert!(report.is_clean(), "{report:?}");
        let found = Model::of(&log);
        assert!(
            self.possible.contains(&found),
            "found {}..{} {:?}, acknowledged {}..{} {:?}, {} possible",
            found.floor,
            found.next(),
            found.metas,
            self.model.floor,
            self.model.next(),
            self.model.metas,
            self.possible.len()
        );
        self.model = found.clone();
        self.possible = vec![found];
        self.log = Some(log);
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => prop::collection::vec(any::<u8>(), 1..5).prop_map(Step::Append),
        3 => any::<u8>().prop_map(Step::Truncate),
        3 => any::<u8>().prop_map(Step::Purge),
        1 => any::<u8>().prop_map(Step::Reset),
        3 => (0_u8..4, 0_u16..300).prop_map(|(key, length)| Step::Meta(key, length)),
        2 => Just(Step::Reopen),
        4 => (0_u8..20, any::<u64>()).prop_map(|(after, seed)| Step::PowerCut(after, seed)),
        2 => any::<u64>().prop_map(Step::Crash),
        1 => (0_u8..6).prop_map(Step::FailSync),
        1 => (0_u8..6).prop_map(Step::FailWrite),
        1 => any::<u16>().prop_map(Step::Full),
    ]
}

fn run(steps: &[Step]) {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    let mut run =
        Run { disk, log: Some(log), model: Model::default(), possible: vec![Model::default()], faulty: false, serial: 0, power_seed: None };
    for step in steps {
        run.step(step);
    }
    run.crash(u64::MAX);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_what_was_acknowledged(steps in prop::collection::vec(step(), 1..40)) {
        run(&steps);
    }
}

/// 300, or what `ANEMONE_LOG_CASES` says for a longer run.
fn cases() -> u32 {
    std::env::var("ANEMONE_LOG_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}
