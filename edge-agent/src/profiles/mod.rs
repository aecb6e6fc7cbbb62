//! What to ask a kind of device, as data.
//!
//! A profile is a TOML file: tables with columns, labels, canonical metrics and scalars. Those in `edge-agent/profiles/` are part of
//! the program; a directory may add to them or replace them by name. Reading is strict: an unknown key, a metric that the schema does
//! not know, a label it does not have or an OID used twice is an error that names the file and the place. No I/O besides that, and no
//! knowledge of how a device is asked.

mod file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anemone_model::{CounterWidth, MetricKind};
use csnmp::ObjectIdentifier;

/// Name of the profile for devices that no closer one fits.
pub const GENERIC: &str = "interfaces";

/// The metric whose labels are a device's facts.
pub const DEVICE_INFO: &str = "device_info";

/// Most columns a table may have: a row notes in one `u64` which of them it has.
pub const COLUMNS_MAX: usize = 64;

/// Profiles that are part of the program.
const BUILT_IN: [(&str, &str); 1] = [("interfaces.toml", include_str!("../../profiles/interfaces.toml"))];

/// Why profiles could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file or directory could not be read.
    #[error("cannot read profiles at {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, or not of the shape of a profile; the text names line and column.
    #[error("profile {file}: {source}")]
    Parse {
        /// Which file.
        file: String,
        /// What and where.
        source: Box<toml::de::Error>,
    },
    /// Well-formed but wrong.
    #[error("profile {file}, {place}: {problem}")]
    Invalid {
        /// Which file.
        file: String,
        /// Which table, metric or label.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// What to ask one kind of device.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Its name, unique among profiles.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Scalars whose change means that rows may have moved.
    pub watches: Vec<Object>,
    /// Texts that describe the device: the labels of [`DEVICE_INFO`].
    pub facts: Vec<Fact>,
    /// Metrics without rows.
    pub scalars: Vec<Scalar>,
    /// Metrics with rows.
    pub tables: Vec<Table>,
}

/// A MIB object and its OID, an instance (with `.0`) or a column.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Its name, `MODULE::object`, for people.
    pub name: String,
    /// Its OID.
    pub oid: ObjectIdentifier,
    /// The OID's content octets.
    pub octets: Box<[u8]>,
}

/// A text that describes the device.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    /// The label it becomes.
    pub label: String,
    /// Where it is read.
    pub object: Object,
}

/// A metric of the device itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    /// Canonical name.
    pub metric: Arc<str>,
    /// Kind by the schema.
    pub kind: MetricKind,
    /// Where it is read.
    pub source: Source,
    /// The object, with its instance.
    pub object: Object,
}

/// A table: rows by index, the same columns in each.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Its name within the profile.
    pub name: String,
    /// Name of the index object, for people.
    pub index: String,
    /// Poll interval where it is longer than the device's.
    pub interval: Option<Duration>,
    /// Most rows taken.
    pub rows_max: usize,
    /// All columns; labels, metrics and the discontinuity refer to them by place.
    pub columns: Vec<Object>,
    /// What each column is for.
    pub roles: Vec<Role>,
    /// Labels that tell rows apart.
    pub labels: Vec<RowLabel>,
    /// Metrics of a row.
    pub metrics: Vec<RowMetric>,
    /// Column whose change means that the row's counters do not continue (RFC 2863, ifCounterDiscontinuityTime).
    pub discontinuity: Option<usize>,
}

/// What a column of a table is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A source of a label.
    Label {
        /// Place in [`Table::labels`].
        label: usize,
        /// Preference, 0 best.
        rank: usize,
    },
    /// Tells when counters do not continue.
    Discontinuity,
    /// A source of a metric.
    Metric {
        /// Place in [`Table::metrics`].
        metric: usize,
        /// Preference, 0 best.
        rank: usize,
    },
}

/// A label of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct RowLabel {
    /// Its name.
    pub name: Arc<str>,
    /// What it is where no column gives a text; `{index}` stands for the row's index.
    pub default: String,
}

/// A metric of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct RowMetric {
    /// Canonical name.
    pub metric: Arc<str>,
    /// Kind by the schema.
    pub kind: MetricKind,
    /// Where it may be read, best first; each row takes the first it has.
    pub sources: Vec<(usize, Source)>,
}

/// How a value becomes the canonical one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Source {
    /// Width of a counter; `Unknown` for other kinds.
    pub width: CounterWidth,
    /// Factor from the device's unit to the canonical one; counters and states have none.
    pub scale: Option<f64>,
    /// A value of 0 means that the object says nothing.
    pub zero_is_absent: bool,
}

/// All profiles by name.
#[derive(Debug, Clone)]
pub struct Profiles(BTreeMap<String, Arc<Profile>>);

impl Profiles {
    /// The profiles of this program.
    ///
    /// # Errors
    /// None that a test would not have found.
    pub fn built_in() -> Result<Self, ProfileError> {
        let mut profiles = Self(BTreeMap::new());
        for (file, text) in BUILT_IN {
            profiles.add(file, text)?;
        }
        Ok(profiles)
    }

    /// The profiles of this program and those in `*.toml` of `directory`, which replace built-in ones of the same name.
    ///
    /// # Errors
    /// The directory cannot be read, or a file in it is not a valid profile.
    pub fn load(directory: Option<&Path>) -> Result<Self, ProfileError> {
        let mut profiles = Self::built_in()?;
        let Some(directory) = directory else { return Ok(profiles) };
        let read_error = |path: &Path| {
            let path = path.to_owned();
            move |source| ProfileError::Read { path, source }
        };
        let entries = std::fs::read_dir(directory).map_err(read_error(directory))?;
        let mut paths: Vec<PathBuf> =
            entries.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>().map_err(read_error(directory))?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        paths.sort();
        for path in paths {
            let text = std::fs::read_to_string(&path).map_err(read_error(&path))?;
            profiles.add(&path.display().to_string(), &text)?;
        }
        Ok(profiles)
    }

    /// Reads one profile and adds it, in place of one with the same name.
    ///
    /// # Errors
    /// `text` is not a valid profile; `file` names it in the error.
    pub fn add(&mut self, file: &str, text: &str) -> Result<(), ProfileError> {
        let profile = file::parse(file, text)?;
        self.0.insert(profile.name.clone(), Arc::new(profile));
        Ok(())
    }

    /// The profile of this name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Arc<Profile>> {
        self.0.get(name)
    }

    /// Names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}
