//! The objects a synthesised device has, in lexicographic order: system group (RFC 3418), ifTable and ifXTable
//! (RFC 2863), complete.
//!
//! A layout is shared by all devices; the next name after any name is a binary search over some fifty bases and then
//! arithmetic on the row.

use std::sync::LazyLock;

use super::{
    ber,
    counters::Metric,
    ledger,
    view::{Cursor, Found},
};

/// What an object's value is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    SysDescr,
    SysObjectId,
    SysUpTime,
    SysContact,
    SysName,
    SysLocation,
    SysServices,
    IfNumber,
    IfIndex,
    IfDescr,
    IfType,
    IfMtu,
    IfSpeed,
    IfPhysAddress,
    IfAdminStatus,
    IfOperStatus,
    IfLastChange,
    /// The low 32 bits of a counter.
    Low(Metric),
    IfOutQLen,
    IfSpecific,
    IfName,
    /// All 64 bits of a counter.
    Full(Metric),
    IfLinkUpDownTrapEnable,
    IfHighSpeed,
    IfPromiscuousMode,
    IfConnectorPresent,
    IfAlias,
    IfCounterDiscontinuityTime,
    IfTableLastChange,
    IfStackLastChange,
}

/// One scalar or column.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) field: Field,
    pub(crate) scalar: bool,
    /// Its number in the ledger, if the ledger keeps it.
    pub(crate) ledger: Option<u8>,
    base: Vec<u32>,
    octets: Vec<u8>,
}

impl Object {
    fn new(group: &[u32], last: u32, scalar: bool, field: Field) -> Self {
        let mut base = group.to_vec();
        base.push(last);
        Self { octets: ber::oid_octets(&base), ledger: ledger::object_of(&base), base, scalar, field }
    }
}

/// Objects in order, and how to move among their instances.
#[derive(Debug)]
pub(crate) struct Layout {
    objects: Vec<Object>,
}

/// A table's rows: ifIndex runs from `first` without holes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// The layout of current devices.
pub(crate) static WITH_HC: LazyLock<Layout> = LazyLock::new(|| Layout::new(true));
/// The layout of devices from before RFC 2233: an ifXTable without 64-bit columns.
pub(crate) static WITHOUT_HC: LazyLock<Layout> = LazyLock::new(|| Layout::new(false));

const SYSTEM: &[u32] = &[1, 3, 6, 1, 2, 1, 1];
const INTERFACES: &[u32] = &[1, 3, 6, 1, 2, 1, 2];
const IF_ENTRY: &[u32] = &[1, 3, 6, 1, 2, 1, 2, 2, 1];
const IF_X_ENTRY: &[u32] = &[1, 3, 6, 1, 2, 1, 31, 1, 1, 1];
const IF_MIB_OBJECTS: &[u32] = &[1, 3, 6, 1, 2, 1, 31, 1];

impl Layout {
    fn new(high_capacity: bool) -> Self {
        use Field::*;
        use Metric::*;
        let system = [SysDescr, SysObjectId, SysUpTime, SysContact, SysName, SysLocation, SysServices];
        let columns = [
            IfIndex,
            IfDescr,
            IfType,
            IfMtu,
            IfSpeed,
            IfPhysAddress,
            IfAdminStatus,
            IfOperStatus,
            IfLastChange,
            Low(InOctets),
            Low(InUnicast),
            Low(InNonUnicast),
            Low(InDiscards),
            Low(InErrors),
            Low(InUnknownProtocols),
            Low(OutOctets),
            Low(OutUnicast),
            Low(OutNonUnicast),
            Low(OutDiscards),
            Low(OutErrors),
            IfOutQLen,
            IfSpecific,
        ];
        let extended = [
            IfName,
            Low(InMulticast),
            Low(InBroadcast),
            Low(OutMulticast),
            Low(OutBroadcast),
            Full(InOctets),
            Full(InUnicast),
            Full(InMulticast),
            Full(InBroadcast),
            Full(OutOctets),
            Full(OutUnicast),
            Full(OutMulticast),
            Full(OutBroadcast),
            IfLinkUpDownTrapEnable,
            IfHighSpeed,
            IfPromiscuousMode,
            IfConnectorPresent,
            IfAlias,
            IfCounterDiscontinuityTime,
        ];
        let mut objects = Vec::with_capacity(52);
        objects.extend((1..).zip(system).map(|(last, field)| Object::new(SYSTEM, last, true, field)));
        objects.push(Object::new(INTERFACES, 1, true, IfNumber));
        objects.extend((1..).zip(columns).map(|(last, field)| Object::new(IF_ENTRY, last, false, field)));
        objects.extend(
            (1..)
                .zip(extended)
                .filter(|(_, field)| high_capacity || !matches!(field, Full(_)))
                .map(|(last, field)| Object::new(IF_X_ENTRY, last, false, field)),
        );
        objects.push(Object::new(IF_MIB_OBJECTS, 5, true, IfTableLastChange));
        objects.push(Object::new(IF_MIB_OBJECTS, 6, true, IfStackLastChange));
        Self { objects }
    }

    /// The object a cursor of this layout points into.
    pub(crate) fn object(&self, cursor: Cursor) -> &Object {
        &self.objects[cursor.object as usize]
    }

    /// The object whose base is a prefix of the name, with the rest of the name; or the position of the first
    /// object after the name.
    fn locate<'a>(&self, oid: &'a [u32]) -> Result<(usize, &'a [u32]), usize> {
        let after = self.objects.partition_point(|object| object.base.as_slice() <= oid);
        match after.checked_sub(1).and_then(|before| oid.strip_prefix(self.objects[before].base.as_slice())) {
            Some(index) => Ok((after - 1, index)),
            None => Err(after),
        }
    }

    /// The first instance of this object or of one after it.
    fn first_from(&self, object: usize, rows: Rows) -> Option<Cursor> {
        let found = (object..self.objects.len()).find(|object| self.objects[*object].scalar || rows.count > 0)?;
        Some(Cursor { object: found as u32, row: 0 })
    }

    pub(crate) fn find(&self, oid: &[u32], rows: Rows) -> Found {
        let Ok((object, index)) = self.locate(oid) else { return Found::NoSuchObject };
        let row = match (index, self.objects[object].scalar) {
            ([0], true) => Some(0),
            ([index], false) => index.checked_sub(rows.first).filter(|row| *row < rows.count),
            _ => None,
        };
        row.map_or(Found::NoSuchInstance, |row| Found::At(Cursor { object: object as u32, row }))
    }

    pub(crate) fn after(&self, oid: &[u32], rows: Rows) -> Option<Cursor> {
        let (object, index) = match self.locate(oid) {
            Ok(found) => found,
            Err(after) => return self.first_from(after, rows),
        };
        let row = match (index.first(), self.objects[object].scalar) {
            (None, _) => return self.first_from(object, rows),
            (Some(_), true) => return self.first_from(object + 1, rows),
            (Some(index), false) => (u64::from(*index) + 1).saturating_sub(u64::from(rows.first)),
        };
        match u32::try_from(row) {
            Ok(row) if row < rows.count => Some(Cursor { object: object as u32, row }),
            _ => self.first_from(object + 1, rows),
        }
    }

    #[inline]
    pub(crate) fn step(&self, cursor: Cursor, rows: Rows) -> Option<Cursor> {
        if !self.object(cursor).scalar && cursor.row + 1 < rows.count {
            return Some(Cursor { object: cursor.object, row: cursor.row + 1 });
        }
        self.first_from(cursor.object as usize + 1, rows)
    }

    #[inline]
    pub(crate) fn oid_len(&self, cursor: Cursor, rows: Rows) -> usize {
        let object = self.object(cursor);
        object.octets.len() + if object.scalar { 1 } else { ber::arc_len(rows.first + cursor.row) }
    }

    #[inline]
    pub(crate) fn put_oid(&self, cursor: Cursor, rows: Rows, out: &mut Vec<u8>) {
        let object = self.object(cursor);
        out.extend_from_slice(&object.octets);
        ber::put_arc(if object.scalar { 0 } else { rows.first + cursor.row }, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn oid(layout: &Layout, cursor: Cursor, rows: Rows) -> Vec<u32> {
        let object = layout.object(cursor);
        let mut oid = object.base.clone();
        oid.push(if object.scalar { 0 } else { rows.first + cursor.row });
        oid
    }

    fn all(layout: &Layout, rows: Rows) -> Vec<(Vec<u32>, Cursor)> {
        let mut found = Vec::new();
        let mut cursor = layout.after(&[0, 0], rows);
        while let Some(at) = cursor {
            found.push((oid(layout, at, rows), at));
            cursor = layout.step(at, rows);
        }
        found
    }

    #[test]
    fn a_walk_visits_every_instance_in_order() {
        for (layout, columns) in [(&*WITH_HC, 41), (&*WITHOUT_HC, 33)] {
            for count in [0, 1, 26] {
                let rows = Rows { first: 10_101, count };
                let found = all(layout, rows);
                assert_eq!(found.len(), 10 + columns * count as usize);
                assert!(found.is_sorted_by(|a, b| a.0 < b.0));
                for (name, cursor) in &found {
                    assert_eq!(layout.find(name, rows), Found::At(*cursor));
                }
            }
        }
        let rows = Rows { first: 1, count: 2 };
        assert_eq!(WITH_HC.find(&[1, 3, 6, 1, 2, 1, 1, 3], rows), Found::NoSuchInstance);
        assert_eq!(WITH_HC.find(&[1, 3, 6, 1, 2, 1, 2, 2, 1, 10, 3], rows), Found::NoSuchInstance);
        assert_eq!(WITHOUT_HC.find(&[1, 3, 6, 1, 2, 1, 31, 1, 1, 1, 6, 1], rows), Found::NoSuchObject);
        assert_eq!(WITH_HC.after(&[1, 3, 6, 1, 2, 1, 2, 2, 1, 10, u32::MAX], rows), WITH_HC.after(&[1, 3, 6, 1, 2, 1, 2, 2, 1, 11], rows));
    }

    proptest! {
        /// The arithmetic agrees with a search through the sorted list of all names.
        #[test]
        fn after_agrees_with_a_sorted_list(
            base in 0_usize..50, cut in 0_usize..12, tail in proptest::collection::vec(prop_oneof![0_u32..40, Just(u32::MAX)], 0..3), first in 0_u32..30, count in 0_u32..5
        ) {
            let rows = Rows { first, count };
            let mut name = WITH_HC.objects[base].base.clone();
            name.truncate(name.len().saturating_sub(cut / 3));
            name.extend(tail);
            let expected = all(&WITH_HC, rows).into_iter().find(|(other, _)| *other > name).map(|(_, cursor)| cursor);
            prop_assert_eq!(WITH_HC.after(&name, rows), expected);
        }
    }
}
