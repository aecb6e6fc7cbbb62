//! What a device answered, value by value, so that a checker can prove nothing was lost or doubled.
//!
//! One list per (interface, object); an entry is (time the reply was sent, value, request id). Kept are the counters,
//! speeds and states of the interface tables and sysUpTime, and only where they were asked for: rows a GetBulk
//! returns past the end of the asked column are not kept, since a manager discards them. Bounded: beyond the
//! limit a device forgets the older half of its entries and reports from when on it is complete.

use serde::{Deserialize, Serialize};

use super::ber;

/// An object the ledger keeps.
pub(crate) struct LedgerObject {
    pub(crate) name: &'static str,
    pub(crate) base: &'static [u32],
    /// Canonical metric of the shared schema.
    pub(crate) metric: &'static str,
    /// Canonical value = answered value * scale.
    pub(crate) scale: f64,
    /// Width of a counter in bits; 0 for what is no counter.
    pub(crate) width: u8,
}

const fn object(name: &'static str, base: &'static [u32], metric: &'static str, scale: f64, width: u8) -> LedgerObject {
    LedgerObject { name, base, metric, scale, width }
}

macro_rules! if_entry {
    ($column:literal) => {
        &[1, 3, 6, 1, 2, 1, 2, 2, 1, $column]
    };
}
macro_rules! if_x_entry {
    ($column:literal) => {
        &[1, 3, 6, 1, 2, 1, 31, 1, 1, 1, $column]
    };
}

/// Sorted by base.
const OBJECTS: [LedgerObject; 25] = [
    object("sysUpTime", &[1, 3, 6, 1, 2, 1, 1, 3], "device_uptime_seconds", 0.01, 0),
    object("ifSpeed", if_entry!(5), "if_speed_bits_per_second", 1.0, 0),
    object("ifAdminStatus", if_entry!(7), "if_admin_status", 1.0, 0),
    object("ifOperStatus", if_entry!(8), "if_oper_status", 1.0, 0),
    object("ifInOctets", if_entry!(10), "if_in_octets", 1.0, 32),
    object("ifInUcastPkts", if_entry!(11), "if_in_unicast_packets", 1.0, 32),
    object("ifInDiscards", if_entry!(13), "if_in_discards", 1.0, 32),
    object("ifInErrors", if_entry!(14), "if_in_errors", 1.0, 32),
    object("ifOutOctets", if_entry!(16), "if_out_octets", 1.0, 32),
    object("ifOutUcastPkts", if_entry!(17), "if_out_unicast_packets", 1.0, 32),
    object("ifOutDiscards", if_entry!(19), "if_out_discards", 1.0, 32),
    object("ifOutErrors", if_entry!(20), "if_out_errors", 1.0, 32),
    object("ifInMulticastPkts", if_x_entry!(2), "if_in_multicast_packets", 1.0, 32),
    object("ifInBroadcastPkts", if_x_entry!(3), "if_in_broadcast_packets", 1.0, 32),
    object("ifOutMulticastPkts", if_x_entry!(4), "if_out_multicast_packets", 1.0, 32),
    object("ifOutBroadcastPkts", if_x_entry!(5), "if_out_broadcast_packets", 1.0, 32),
    object("ifHCInOctets", if_x_entry!(6), "if_in_octets", 1.0, 64),
    object("ifHCInUcastPkts", if_x_entry!(7), "if_in_unicast_packets", 1.0, 64),
    object("ifHCInMulticastPkts", if_x_entry!(8), "if_in_multicast_packets", 1.0, 64),
    object("ifHCInBroadcastPkts", if_x_entry!(9), "if_in_broadcast_packets", 1.0, 64),
    object("ifHCOutOctets", if_x_entry!(10), "if_out_octets", 1.0, 64),
    object("ifHCOutUcastPkts", if_x_entry!(11), "if_out_unicast_packets", 1.0, 64),
    object("ifHCOutMulticastPkts", if_x_entry!(12), "if_out_multicast_packets", 1.0, 64),
    object("ifHCOutBroadcastPkts", if_x_entry!(13), "if_out_broadcast_packets", 1.0, 64),
    object("ifHighSpeed", if_x_entry!(15), "if_speed_bits_per_second", 1e6, 0),
];

/// The ledger's number for the object with this base.
pub(crate) fn object_of(base: &[u32]) -> Option<u8> {
    OBJECTS.iter().position(|object| object.base == base).map(|position| position as u8)
}

/// The canonical metric of an object.
pub(crate) fn metric_of(object: u8) -> &'static str {
    OBJECTS[usize::from(object)].metric
}

/// The ledger's number and the row for an instance of a recording, where the row is one sub-identifier.
pub(crate) fn instance_of(oid: &[u32]) -> Option<(u8, u32)> {
    let (row, base) = oid.split_last()?;
    object_of(base).map(|object| (object, *row))
}

/// Whether a value of this object is what a request for `oid` was after: the same column, or a tree above it.
#[inline]
pub(crate) fn asked_for(object: u8, oid: &[u32]) -> bool {
    let base = OBJECTS[usize::from(object)].base;
    oid.starts_with(base) || base.starts_with(oid)
}

/// Which series of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SeriesKey {
    pub(crate) interface: u16,
    pub(crate) object: u8,
}

impl SeriesKey {
    /// Stands for the device itself in place of an interface.
    pub(crate) const DEVICE: u16 = u16::MAX;
}

/// A value in a response not yet sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Noted {
    pub(crate) series: SeriesKey,
    pub(crate) value: u64,
}

/// One answered value: `[milliseconds since 1970, value, request id]` in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(i64, u64, i32)", into = "(i64, u64, i32)")]
pub struct LedgerEntry {
    /// When the reply left, milliseconds since 1970, UTC.
    pub answered_ms: i64,
    /// The value exactly as it was encoded.
    pub value: u64,
    /// Request id of the request; the same for a retransmission.
    pub request_id: i32,
}

impl From<(i64, u64, i32)> for LedgerEntry {
    fn from((answered_ms, value, request_id): (i64, u64, i32)) -> Self {
        Self { answered_ms, value, request_id }
    }
}

impl From<LedgerEntry> for (i64, u64, i32) {
    fn from(entry: LedgerEntry) -> Self {
        (entry.answered_ms, entry.value, entry.request_id)
    }
}

/// All that was answered for one object of one interface; one line of `GET /ledger`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerSeries {
    /// Name of the device.
    pub device: String,
    /// Its PoP.
    pub pop: String,
    /// ifName, or ifDescr or the index where there is none; absent for values of the device itself.
    pub if_name: Option<String>,
    /// MIB object, such as `ifHCInOctets`.
    pub object: String,
    /// Canonical metric, such as `if_in_octets`.
    pub metric: String,
    /// The canonical value is the answered value times this.
    pub scale: f64,
    /// Counter width in bits, 0 for what is no counter.
    pub width: u8,
    /// The ledger holds everything answered since then, milliseconds since 1970; earlier entries may be gone.
    pub complete_from_ms: i64,
    /// In order of answering.
    pub entries: Vec<LedgerEntry>,
}

/// One device's ledger.
#[derive(Debug)]
pub(crate) struct DeviceLedger {
    series: Vec<(SeriesKey, Vec<LedgerEntry>)>,
    entries: usize,
    limit: usize,
    complete_from_ms: i64,
}

impl DeviceLedger {
    /// An empty ledger that keeps at most `limit` entries.
    pub(crate) fn new(limit: usize) -> Self {
        Self { series: Vec::new(), entries: 0, limit: limit.max(2), complete_from_ms: i64::MIN }
    }

    /// Records a reply sent at this time.
    pub(crate) fn record(&mut self, answered_ms: i64, request_id: i32, noted: &[Noted]) {
        if self.entries + noted.len() > self.limit {
            self.forget_older_half();
        }
        for Noted { series, value } in noted {
            let position = match self.series.binary_search_by_key(series, |(key, _)| *key) {
                Ok(position) => position,
                Err(position) => {
                    self.series.insert(position, (*series, Vec::new()));
                    position
                }
            };
            self.series[position].1.push(LedgerEntry { answered_ms, value: *value, request_id });
        }
        self.entries += noted.len();
    }

    fn forget_older_half(&mut self) {
        for (_, entries) in &mut self.series {
            let half = entries.len().div_ceil(2);
            if let Some(last) = half.checked_sub(1).and_then(|last| entries.get(last)) {
                self.complete_from_ms = self.complete_from_ms.max(last.answered_ms + 1);
            }
            entries.drain(..half);
            self.entries -= half;
        }
    }

    /// The series with entries in `from_ms..to_ms`, named with the help of `if_name`.
    pub(crate) fn read(&self, device: &str, pop: &str, from_ms: i64, to_ms: i64, if_name: impl Fn(u16) -> String) -> Vec<LedgerSeries> {
        let named = |(key, entries): &(SeriesKey, Vec<LedgerEntry>)| {
            let object = &OBJECTS[usize::from(key.object)];
            let entries: Vec<LedgerEntry> = entries.iter().filter(|entry| (from_ms..to_ms).contains(&entry.answered_ms)).copied().collect();
            (!entries.is_empty()).then(|| LedgerSeries {
                device: device.to_owned(),
                pop: pop.to_owned(),
                if_name: (key.interface != SeriesKey::DEVICE).then(|| if_name(key.interface)),
                object: object.name.to_owned(),
                metric: object.metric.to_owned(),
                scale: object.scale,
                width: object.width,
                complete_from_ms: self.complete_from_ms,
                entries,
            })
        };
        self.series.iter().filter_map(named).collect()
    }
}

/// The interface table columns that name an interface in a recording: ifName, then ifDescr.
pub(crate) fn naming_column(oid: &[u32]) -> Option<(u8, u32)> {
    let (row, base) = oid.split_last()?;
    match base {
        [1, 3, 6, 1, 2, 1, 31, 1, 1, 1, 1] => Some((0, *row)),
        [1, 3, 6, 1, 2, 1, 2, 2, 1, 2] => Some((1, *row)),
        [1, 3, 6, 1, 2, 1, 2, 2, 1, 1] => Some((2, *row)),
        _ => None,
    }
}

/// `sysUpTime.0` and `hrSystemUptime.0`: the clocks of a recording.
pub(crate) fn is_uptime(oid: &[u32], tag: u8) -> bool {
    tag == ber::TIME_TICKS && (oid == [1, 3, 6, 1, 2, 1, 1, 3, 0] || oid == [1, 3, 6, 1, 2, 1, 25, 1, 1, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_sorted_and_canonical() {
        assert!(OBJECTS.is_sorted_by(|a, b| a.base < b.base));
        assert_eq!(object_of(&[1, 3, 6, 1, 2, 1, 31, 1, 1, 1, 6]), Some(16));
        assert_eq!(instance_of(&[1, 3, 6, 1, 2, 1, 2, 2, 1, 10, 501]), Some((4, 501)));
        assert!(asked_for(4, &[1, 3, 6, 1, 2, 1, 2, 2, 1, 10, 7]));
        assert!(!asked_for(4, &[1, 3, 6, 1, 2, 1, 2, 2, 1, 9, 7]));
    }

    #[test]
    fn a_full_ledger_forgets_the_older_half_and_says_so() {
        let series = SeriesKey { interface: 0, object: 4 };
        let mut ledger = DeviceLedger::new(10);
        for time in 0..25 {
            ledger.record(time, time as i32, &[Noted { series, value: 100 + time as u64 }]);
        }
        let read = ledger.read("d", "p", 0, i64::MAX, |_| "eth0".into());
        let [only] = read.as_slice() else { panic!("one series") };
        assert!(only.entries.len() <= 10);
        assert_eq!(only.entries.first().map(|entry| entry.answered_ms), Some(only.complete_from_ms));
        assert_eq!(only.entries.last(), Some(&LedgerEntry { answered_ms: 24, value: 124, request_id: 24 }));
        assert_eq!(
            serde_json::to_string(&only.entries[0]).expect("an entry has no map keys"),
            format!("[{0},{1},{0}]", only.complete_from_ms, 100 + only.complete_from_ms)
        );
        assert!(ledger.read("d", "p", 3, 3, |_| String::new()).is_empty());
    }
}
