//! What is known of devices from earlier lives of the agent: when they started, how large an answer they bear.
//!
//! Tree "devices" of the local database: device name -> CBOR of [`DeviceMemory`]. Losing it costs a few questions.

use std::sync::Arc;

use anemone_wire::cbor;

use super::database::{Database, DatabaseError};
use crate::device::DeviceMemory;

/// Memories of devices.
#[derive(Debug)]
pub struct Memories {
    database: Arc<Database>,
}

impl Memories {
    /// Those in `database`.
    #[must_use]
    pub fn new(database: Arc<Database>) -> Self {
        Self { database }
    }

    /// What is remembered of a device; nothing where that cannot be read.
    #[must_use]
    pub fn recall(&self, device: &str) -> DeviceMemory {
        let found = self.database.run("read", |open| open.devices.get(device.as_bytes()));
        let decoded = found.map_err(|e| e.to_string()).and_then(|bytes| {
            let decode = |bytes: sled::IVec| cbor::from_slice("device memory", &bytes, bytes.len()).map_err(|e| e.to_string());
            bytes.map(decode).transpose()
        });
        decoded
            .unwrap_or_else(|error| {
                tracing::warn!(device, error, "what was remembered of a device is not readable");
                None
            })
            .unwrap_or_default()
    }

    /// Remembers this of a device; reaches the disk with the next flush.
    ///
    /// # Errors
    /// The database refuses.
    pub fn remember(&self, device: &str, memory: &DeviceMemory) -> Result<(), DatabaseError> {
        let Ok(bytes) = cbor::to_vec("device memory", memory) else { return Ok(()) };
        self.database.run("write", |open| open.devices.insert(device.as_bytes(), bytes)).map(drop)
    }
}
