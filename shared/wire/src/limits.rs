//! Limits that both ends hold each other to.

/// Largest sealed batch, in bytes.
pub const BATCH_MAX: usize = 1 << 20;
/// Largest control message, in bytes.
pub const CONTROL_MAX: usize = 1 << 20;
/// Most samples in one batch.
pub const SAMPLES_MAX: usize = 1 << 18;
/// Most series definitions in one batch.
pub const DEFINITIONS_MAX: usize = 1 << 17;
/// Most bytes a definitions section may have uncompressed.
pub const DEFINITIONS_BYTES_MAX: usize = 32 << 20;
/// Most sections in one batch.
pub const SECTIONS_MAX: usize = 64;
/// Highest series reference plus one: bounds what a dictionary can make the receiver allocate.
pub const REFERENCES_MAX: u32 = 1 << 26;
/// Deepest nesting of a CBOR item.
pub const CBOR_DEPTH_MAX: usize = 16;
/// Most CBOR items (array and map members, at all levels) in one message.
pub const CBOR_ITEMS_MAX: usize = 1 << 18;
