//! The list of devices to poll, as the hub sends it: in parts, which replace the list before once all have come.
//!
//! The last complete assignment is kept in a small file, so that an agent that starts while cut off polls at once. Devices carry
//! their community, so only the agent's user may read the file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anemone_model::{AssignedDevice, Name};
use anemone_wire::cbor;
use anemone_wire::control::AssignmentPart;
use serde::{Deserialize, Serialize};

/// Most parts an assignment may have.
const PARTS_MAX: u32 = 1_000;
/// Devices in one record of the file, far below what one CBOR item may hold.
const RECORD_DEVICES: usize = 1_000;

/// A complete assignment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Its epoch; 0 for none.
    pub epoch: u64,
    /// The devices by name.
    pub devices: BTreeMap<Name, AssignedDevice>,
}

/// What must change for one assignment to become another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Devices that are new.
    pub started: Vec<AssignedDevice>,
    /// Devices of which something changed.
    pub changed: Vec<AssignedDevice>,
    /// Devices that are gone.
    pub stopped: Vec<Name>,
}

impl Assignment {
    /// What changes from `self` to `next`.
    #[must_use]
    pub fn difference(&self, next: &Self) -> Difference {
        let mut difference = Difference::default();
        for (name, device) in &next.devices {
            match self.devices.get(name) {
                None => difference.started.push(device.clone()),
                Some(before) if before.device != device.device => difference.changed.push(device.clone()),
                Some(_) => {}
            }
        }
        difference.stopped = self.devices.keys().filter(|name| !next.devices.contains_key(*name)).cloned().collect();
        difference
    }
}

/// Puts parts together.
#[derive(Debug, Default)]
pub struct Assembly {
    epoch: u64,
    parts: u32,
    seen: BTreeSet<u32>,
    devices: BTreeMap<Name, AssignedDevice>,
}

/// Why a part was not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartError {
    /// Its numbers make no sense.
    #[error("part {part} of {parts} of assignment {epoch}: a part is numbered from 0, and there are 1 to {PARTS_MAX}")]
    Numbers {
        /// The assignment's epoch.
        epoch: u64,
        /// The part.
        part: u32,
        /// How many it says there are.
        parts: u32,
    },
    /// The parts of one epoch disagree on how many there are.
    #[error("assignment {epoch} is said to have {parts} parts, and {before} before")]
    Disagree {
        /// The assignment's epoch.
        epoch: u64,
        /// Parts by this part.
        parts: u32,
        /// Parts by those before.
        before: u32,
    },
}

impl Assembly {
    /// Takes a part in; gives the assignment when it was the last one missing of an epoch newer than `current`.
    ///
    /// # Errors
    /// A part with impossible numbers; what was collected stays as it was.
    pub fn take(&mut self, part: AssignmentPart, current: u64) -> Result<Option<Assignment>, PartError> {
        let AssignmentPart { epoch, part: number, parts, devices } = part;
        if parts == 0 || parts > PARTS_MAX || number >= parts {
            return Err(PartError::Numbers { epoch, part: number, parts });
        }
        if epoch <= current || epoch < self.epoch {
            return Ok(None);
        }
        if epoch > self.epoch {
            *self = Self { epoch, parts, ..Self::default() };
        }
        if parts != self.parts {
            return Err(PartError::Disagree { epoch, parts, before: self.parts });
        }
        if self.seen.insert(number) {
            self.devices.extend(devices.into_iter().map(|assigned| (assigned.device.name.clone(), assigned)));
        }
        let complete = u32::try_from(self.seen.len()).is_ok_and(|seen| seen == parts);
        Ok(complete.then(|| Assignment { epoch, devices: std::mem::take(self).devices }))
    }
}

/// Why the file of the last assignment could not be used.
#[derive(Debug, thiserror::Error)]
pub enum AssignmentFileError {
    /// Reading or writing failed.
    #[error("cannot {what} the last assignment at {path}: {source}")]
    Io {
        /// `read` or `keep`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It does not hold an assignment.
    #[error("the last assignment at {path} is not usable: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Record {
    epoch: u64,
    part: u32,
    parts: u32,
    devices: Vec<AssignedDevice>,
}

/// Encodes an assignment as records: `u32 BE bytes | CBOR | u32 BE CRC32C`, one after the other.
pub(crate) fn encode(assignment: &Assignment) -> Result<Vec<u8>, anemone_wire::WireError> {
    let devices: Vec<AssignedDevice> = assignment.devices.values().cloned().collect();
    let parts: Vec<&[AssignedDevice]> = if devices.is_empty() { vec![&[]] } else { devices.chunks(RECORD_DEVICES).collect() };
    let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    let mut out = Vec::new();
    for (part, devices) in (0..).zip(parts) {
        let record = Record { epoch: assignment.epoch, part, parts: count, devices: devices.to_vec() };
        crate::files::put_record(&mut out, &cbor::to_vec("assignment", &record)?);
    }
    Ok(out)
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode(bytes: &[u8]) -> Result<Assignment, String> {
    let mut assembly = Assembly::default();
    for record in crate::files::records(bytes) {
        let record = record?;
        let Record { epoch, part, parts, devices } = cbor::from_slice("assignment", record, record.len()).map_err(|e| e.to_string())?;
        let part = AssignmentPart { epoch, part, parts, devices };
        if let Some(assignment) = assembly.take(part, 0).map_err(|e| e.to_string())? {
            return Ok(assignment);
        }
    }
    Err("it ends before the last device".to_owned())
}

/// Keeps `assignment` in the file, which appears whole or not at all.
///
/// # Errors
/// The disk refuses.
pub fn save(path: &Path, assignment: &Assignment) -> Result<(), AssignmentFileError> {
    let bytes = encode(assignment).map_err(|e| AssignmentFileError::Damaged { path: path.to_owned(), why: e.to_string() })?;
    crate::files::replace(path, &bytes).map_err(|source| AssignmentFileError::Io { what: "keep", path: path.to_owned(), source })
}

/// The assignment in the file, if there is one.
///
/// # Errors
/// The file is there but cannot be read or is damaged.
pub fn load(path: &Path) -> Result<Option<Assignment>, AssignmentFileError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(AssignmentFileError::Io { what: "read", path: path.to_owned(), source }),
    };
    decode(&bytes).map(Some).map_err(|why| AssignmentFileError::Damaged { path: path.to_owned(), why })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use anemone_model::{Community, Device, PollInterval};

    use super::*;

    fn device(name: &str, address: &str) -> AssignedDevice {
        let device = Device {
            name: name.parse().unwrap(),
            pop: "ams1".parse().unwrap(),
            address: address.into(),
            community: Community::new("public"),
            interval: PollInterval::default(),
            metadata: BTreeMap::new(),
        };
        AssignedDevice { device, epoch: 1 }
    }

    fn assignment(epoch: u64, devices: &[AssignedDevice]) -> Assignment {
        Assignment { epoch, devices: devices.iter().map(|d| (d.device.name.clone(), d.clone())).collect() }
    }

    fn part(epoch: u64, part: u32, parts: u32, names: &[&str]) -> AssignmentPart {
        AssignmentPart { epoch, part, parts, devices: names.iter().map(|name| device(name, "127.0.0.1:161")).collect() }
    }

    #[test]
    fn the_difference_names_what_changes() {
        let (a, b, moved) = (device("a", "h:1"), device("b", "h:2"), device("b", "h:3"));
        let (c, fenced) = (device("c", "h:4"), AssignedDevice { epoch: 9, ..device("a", "h:1") });
        let difference = assignment(1, &[a.clone(), b, c]).difference(&assignment(2, &[fenced, moved.clone(), device("d", "h:5")]));
        assert_eq!(difference.started, [device("d", "h:5")]);
        assert_eq!(difference.changed, [moved]);
        assert_eq!(difference.stopped, ["c".parse::<Name>().unwrap()]);
        assert_eq!(assignment(1, std::slice::from_ref(&a)).difference(&assignment(2, std::slice::from_ref(&a))), Difference::default());
    }

    #[test]
    fn parts_make_an_assignment_when_all_have_come() {
        let mut assembly = Assembly::default();
        assert_eq!(assembly.take(part(5, 1, 2, &["b"]), 4), Ok(None));
        assert_eq!(assembly.take(part(5, 1, 2, &["b"]), 4), Ok(None), "a part repeated is no second part");
        let whole = assembly.take(part(5, 0, 2, &["a"]), 4).unwrap().unwrap();
        assert_eq!((whole.epoch, whole.devices.len()), (5, 2));
        assert_eq!(assembly.take(part(5, 0, 1, &["a"]), 5), Ok(None), "not newer");
    }

    #[test]
    fn a_newer_epoch_replaces_an_unfinished_one() {
        let mut assembly = Assembly::default();
        assert_eq!(assembly.take(part(5, 0, 2, &["a"]), 0), Ok(None));
        assert_eq!(assembly.take(part(6, 0, 2, &["b"]), 0), Ok(None));
        assert_eq!(assembly.take(part(5, 1, 2, &["c"]), 0), Ok(None), "the older one never completes");
        let whole = assembly.take(part(6, 1, 2, &[]), 0).unwrap().unwrap();
        assert_eq!(whole.devices.keys().map(Name::as_str).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn impossible_parts_are_refused() {
        let mut assembly = Assembly::default();
        for (number, parts) in [(0, 0), (2, 2), (0, PARTS_MAX + 1)] {
            assert_eq!(assembly.take(part(5, number, parts, &[]), 0), Err(PartError::Numbers { epoch: 5, part: number, parts }));
        }
        assert_eq!(assembly.take(part(5, 0, 2, &[]), 0), Ok(None));
        assert_eq!(assembly.take(part(5, 1, 3, &[]), 0), Err(PartError::Disagree { epoch: 5, parts: 3, before: 2 }));
    }

    #[test]
    fn the_file_gives_back_what_was_kept_and_hides_communities() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("assignment.cbor");
        assert_eq!(load(&path).unwrap(), None);
        for count in [0, 1, 2_500] {
            let devices: Vec<_> = (0..count).map(|n| device(&format!("d{n}"), "127.0.0.1:161")).collect();
            let kept = assignment(7, &devices);
            save(&path, &kept).unwrap();
            assert_eq!(load(&path).unwrap(), Some(kept));
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_an_empty_assignment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("assignment.cbor");
        let kept = assignment(7, &[device("a", "h:1"), device("b", "h:1")]);
        save(&path, &kept).unwrap();
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            std::fs::write(&path, &bad).unwrap();
            assert!(matches!(load(&path), Err(AssignmentFileError::Damaged { .. })), "byte {at}");
            std::fs::write(&path, &good[..at]).unwrap();
            assert!(matches!(load(&path), Err(AssignmentFileError::Damaged { .. })), "cut at {at}");
        }
    }
}
