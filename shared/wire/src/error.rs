//! Why bytes were refused.

/// Why a batch or message could not be encoded or decoded. All of these are permanent for the bytes at hand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Larger than its limit.
    #[error("{what} has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// What was too large.
        what: &'static str,
        /// Its size in bytes, or count.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// Ends before it should.
    #[error("{what} is truncated at byte {at}")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Byte offset where more was expected.
        at: usize,
    },
    /// Does not begin with the magic bytes of a batch.
    #[error("not a batch: the first bytes are {found:02x?}, expected \"ANEB\"")]
    Magic {
        /// What stood there.
        found: [u8; 4],
    },
    /// A version this build does not read.
    #[error("{what} has version {found}; this build reads up to version {known}")]
    Version {
        /// What carries the version.
        what: &'static str,
        /// The version found.
        found: u8,
        /// The newest version known.
        known: u8,
    },
    /// The checksum does not fit.
    #[error("checksum of the batch is {found:08x}, expected {expected:08x}: damaged on disk or on the way")]
    Checksum {
        /// CRC32C computed.
        found: u32,
        /// CRC32C recorded.
        expected: u32,
    },
    /// Content that breaks a rule of the format.
    #[error("{what} is malformed at byte {at}: {why}")]
    Malformed {
        /// What was being read.
        what: &'static str,
        /// Byte offset in it.
        at: usize,
        /// The rule broken.
        why: String,
    },
    /// A section that must not be repeated or is needed is not as expected.
    #[error("encoding {what} failed: {why}")]
    Encode {
        /// What was being written.
        what: &'static str,
        /// The reason.
        why: String,
    },
}

impl WireError {
    pub(crate) fn malformed(what: &'static str, at: usize, why: impl Into<String>) -> Self {
        Self::Malformed { what, at, why: why.into() }
    }
}
