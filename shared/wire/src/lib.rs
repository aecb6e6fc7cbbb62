//! What agents and hubs say to each other: the batch format, the control messages, and the limits on both.
//!
//! Owns every byte layout between our processes and is the only crate that names `serde_cbor`. Decoders treat their input as
//! hostile: lengths, counts and nesting are checked before anything is allocated, and every refusal says what and where.
//! Does no I/O: framing on a stream is `link`'s, storing is `log`'s.

pub mod batch;
pub mod cbor;
mod columns;
pub mod control;
mod definitions;
mod error;
pub mod gap;
pub mod limits;

pub use error::WireError;
