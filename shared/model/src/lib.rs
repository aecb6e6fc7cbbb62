//! The nouns of Anemone: who is who, what a series and a sample are, what a device is, and the canonical metric schema.
//!
//! Owns names, identities, their text forms and the rules about which are valid. Does no I/O, knows no encoding but text,
//! and depends on nothing else of ours, so that every other crate may depend on it.

pub mod device;
pub mod identity;
pub mod label;
pub mod sample;
pub mod schema;
pub mod series;
pub mod strict;

pub use device::{AgentStatus, AssignedDevice, Community, Device, PollInterval};
pub use identity::{AgentId, HubId, Identity, IdentityError, Name, NameError, Role};
pub use label::{Label, Labels, LabelsError, METRIC_NAME};
pub use sample::{Discontinuity, Sample, Value};
pub use schema::{Metric, Schema};
pub use series::{CounterWidth, MetricKind, SeriesDef, SeriesId};
