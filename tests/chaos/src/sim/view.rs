//! What the protocol engine needs of a device's data: find a name, step to the next, read the value.
//!
//! Two kinds of devices implement it. A cursor is cheap to copy, and stepping it is arithmetic, so a GetBulk
//! searches once per column and not once per row.

use super::{ledger::SeriesKey, response::Value};

/// A place in a device's ordered list of instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Object (synthesised) or entry (recording).
    pub(crate) object: u32,
    /// Row of a table; zero otherwise.
    pub(crate) row: u32,
}

/// The outcome of looking up an exact name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    At(Cursor),
    NoSuchObject,
    NoSuchInstance,
}

/// A device's data at one moment.
pub(crate) trait View {
    /// The instance of exactly this name.
    fn find(&self, oid: &[u32]) -> Found;

    /// The first instance after this name in lexicographic order.
    fn after(&self, oid: &[u32]) -> Option<Cursor>;

    /// The instance after this one.
    fn step(&self, cursor: Cursor) -> Option<Cursor>;

    /// Octets of the instance's encoded name.
    fn oid_len(&self, cursor: Cursor) -> usize;

    /// Appends the encoded name.
    fn put_oid(&self, cursor: Cursor, out: &mut Vec<u8>);

    /// The value now.
    fn value(&self, cursor: Cursor) -> Value<'_>;

    /// Under which series the ledger keeps the value, if it does.
    fn series(&self, cursor: Cursor) -> Option<SeriesKey>;
}
