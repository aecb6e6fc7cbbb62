//! Reads an `.snmprec` recording: one instance a line, `OID|tag|value`.
//!
//! The tag is the decimal BER tag, with `x` behind it where the value is hexadecimal. Lines may come in any order;
//! of two lines for one OID the first counts. A line that cannot be used (no tag, a number that does not fit,
//! a variation module of the format's home) is skipped, counted, and reported with file, line and reason.
//! Names and values are kept encoded in two arenas, so replaying copies bytes.

use std::{
    collections::{BTreeMap, btree_map},
    fs,
    path::Path,
};

use crate::chance::{hash, mix};

use super::{
    ber,
    error::SimulatorError,
    ledger::{self, SeriesKey},
    response::Value,
};

/// Most reasons for skipped lines that are kept.
const REASONS_KEPT: usize = 20;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    arcs: (u32, u8),
    octets: (u32, u16),
    tag: u8,
    value: (u32, u32),
    /// The value where it is a number.
    number: u64,
    pub(crate) series: Option<SeriesKey>,
    pub(crate) uptime: bool,
    /// Seed of a counter's animation: the same for the 32-bit and the 64-bit counter of one metric and interface.
    pub(crate) animation: u64,
}

/// A device as somebody recorded it, sorted and encoded.
#[derive(Debug)]
pub struct Recording {
    entries: Vec<Entry>,
    arcs: Vec<u32>,
    octets: Vec<u8>,
    interfaces: Vec<String>,
    skipped: usize,
    reasons: Vec<String>,
}

impl Recording {
    /// Reads a recording from a file.
    ///
    /// # Errors
    /// If the file cannot be read or holds no usable line.
    pub fn read(path: &Path) -> Result<Self, SimulatorError> {
        let bytes = fs::read(path).map_err(|source| SimulatorError::Read { path: path.to_owned(), source })?;
        let recording = Self::parse(&path.display().to_string(), &bytes);
        if recording.entries.is_empty() {
            return Err(SimulatorError::EmptyRecording {
                path: path.to_owned(),
                skipped: recording.skipped,
                first: recording.reasons.into_iter().next(),
            });
        }
        Ok(recording)
    }

    /// Reads a recording from memory; `origin` names it in the reasons for skipped lines.
    pub fn parse(origin: &str, bytes: &[u8]) -> Self {
        let mut lines = BTreeMap::new();
        let (mut skipped, mut reasons) = (0, Vec::new());
        for (number, line) in (1..).zip(bytes.split(|octet| *octet == b'\n')) {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() || line[0] == b'#' {
                continue;
            }
            let parsed = parse_line(line).and_then(|(oid, tag, value)| match lines.entry(oid) {
                btree_map::Entry::Vacant(free) => {
                    free.insert((tag, value));
                    Ok(())
                }
                btree_map::Entry::Occupied(_) => Err("the oid stands on an earlier line already".to_owned()),
            });
            if let Err(reason) = parsed {
                skipped += 1;
                if reasons.len() < REASONS_KEPT {
                    reasons.push(format!("{origin}:{number}: {reason}"));
                }
            }
        }
        let mut recording = Self {
            entries: Vec::with_capacity(lines.len()),
            arcs: Vec::new(),
            octets: Vec::new(),
            interfaces: Vec::new(),
            skipped,
            reasons,
        };
        let rows = recording.name_interfaces(&lines);
        for (oid, (tag, value)) in &lines {
            recording.push(oid, *tag, value, &rows);
        }
        recording
    }

    /// Collects interface names; returns ifIndex -> position.
    fn name_interfaces(&mut self, lines: &BTreeMap<Vec<u32>, (u8, Vec<u8>)>) -> BTreeMap<u32, u16> {
        let mut names: BTreeMap<u32, (u8, String)> = BTreeMap::new();
        for (oid, (tag, value)) in lines {
            let Some((rank, row)) = ledger::naming_column(oid) else { continue };
            let name = match String::from_utf8_lossy(value) {
                text if *tag == ber::OCTET_STRING && !text.is_empty() => text.into_owned(),
                _ => row.to_string(),
            };
            let rank = if *tag == ber::OCTET_STRING && !value.is_empty() { rank } else { 2 };
            let known = names.entry(row).or_insert((u8::MAX, String::new()));
            if rank < known.0 {
                *known = (rank, name);
            }
        }
        let rows = names.keys().copied().zip(0..SeriesKey::DEVICE).collect();
        self.interfaces = names.into_values().map(|(_, name)| name).collect();
        rows
    }

    fn push(&mut self, oid: &[u32], tag: u8, value: &[u8], rows: &BTreeMap<u32, u16>) {
        let octets = ber::oid_octets(oid);
        let (series, animation) = match ledger::instance_of(oid) {
            Some((object, 0)) if oid.len() == 9 => (Some(SeriesKey { interface: SeriesKey::DEVICE, object }), hash("uptime")),
            Some((object, row)) => (
                rows.get(&row).map(|interface| SeriesKey { interface: *interface, object }),
                hash(ledger::metric_of(object)) ^ u64::from(row),
            ),
            None => (None, oid.iter().fold(0, |seed, arc| mix(seed ^ u64::from(*arc)))),
        };
        let number = value.iter().fold(0, |number, octet| number << 8 | u64::from(*octet));
        self.entries.push(Entry {
            arcs: (self.arcs.len() as u32, oid.len() as u8),
            octets: (self.octets.len() as u32, octets.len() as u16),
            tag,
            value: ((self.octets.len() + octets.len()) as u32, value.len() as u32),
            number,
            series,
            uptime: ledger::is_uptime(oid, tag),
            animation,
        });
        self.arcs.extend_from_slice(oid);
        self.octets.extend_from_slice(&octets);
        self.octets.extend_from_slice(value);
    }

    /// How many instances it holds.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Names of the interfaces by rising ifIndex.
    pub fn interfaces(&self) -> &[String] {
        &self.interfaces
    }

    /// Lines that could not be used.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// File, line and reason of the first of them.
    pub fn reasons(&self) -> &[String] {
        &self.reasons
    }

    pub(crate) fn entry(&self, position: u32) -> &Entry {
        &self.entries[position as usize]
    }

    pub(crate) fn arcs(&self, entry: &Entry) -> &[u32] {
        let (start, len) = (entry.arcs.0 as usize, usize::from(entry.arcs.1));
        &self.arcs[start..start + len]
    }

    pub(crate) fn octets(&self, entry: &Entry) -> &[u8] {
        let (start, len) = (entry.octets.0 as usize, usize::from(entry.octets.1));
        &self.octets[start..start + len]
    }

    /// The position of the first entry not before this name.
    pub(crate) fn position(&self, oid: &[u32]) -> usize {
        self.entries.partition_point(|entry| self.arcs(entry) < oid)
    }

    /// The value as it was recorded.
    pub(crate) fn value(&self, entry: &Entry) -> Value<'_> {
        match entry.tag {
            ber::INTEGER => Value::Integer(entry.number as i32),
            ber::COUNTER32 | ber::GAUGE32 | ber::TIME_TICKS | ber::COUNTER64 => Value::Unsigned(entry.tag, entry.number),
            ber::NULL => Value::Empty(ber::NULL),
            tag => {
                let (start, len) = (entry.value.0 as usize, entry.value.1 as usize);
                Value::Octets(tag, &self.octets[start..start + len])
            }
        }
    }
}

/// OID, BER tag and contents octets of a line; numbers as eight octets.
fn parse_line(line: &[u8]) -> Result<(Vec<u32>, u8, Vec<u8>), String> {
    let mut fields = line.splitn(3, |octet| *octet == b'|');
    let (Some(oid), Some(tag), Some(value)) = (fields.next(), fields.next(), fields.next()) else {
        return Err("not of the form oid|tag|value".to_owned());
    };
    let (oid, tag) = (String::from_utf8_lossy(oid), String::from_utf8_lossy(tag));
    let arcs = ber::parse_oid(&oid).ok_or_else(|| format!("{oid:?} is no oid"))?;
    let (digits, hexadecimal) = match tag.strip_suffix('x') {
        Some(digits) => (digits, true),
        None => (&*tag, false),
    };
    let number = digits.parse::<u8>().map_err(|_| format!("{tag:?} is no tag this simulator replays"))?;
    let raw = if hexadecimal { unhex(value)? } else { value.to_vec() };
    let text = String::from_utf8_lossy(&raw).trim().to_owned();
    let numeric = |most: u64| match text.parse::<u64>() {
        Ok(value) if value <= most => Ok(value.to_be_bytes().to_vec()),
        _ => Err(format!("{text:?} is no number from 0 to {most}")),
    };
    let octets = match number {
        ber::INTEGER => text
            .parse::<i32>()
            .map(|value| u64::from(value as u32).to_be_bytes().to_vec())
            .map_err(|_| format!("{text:?} is no 32-bit integer"))?,
        ber::OCTET_STRING | ber::OPAQUE => raw,
        ber::NULL => Vec::new(),
        ber::OBJECT_ID => ber::parse_oid(&text).map(|arcs| ber::oid_octets(&arcs)).ok_or_else(|| format!("{text:?} is no oid"))?,
        ber::IP_ADDRESS if hexadecimal && raw.len() == 4 => raw,
        ber::IP_ADDRESS => text
            .parse::<std::net::Ipv4Addr>()
            .map(|address| address.octets().to_vec())
            .map_err(|_| format!("{text:?} is no IPv4 address"))?,
        ber::COUNTER32 | ber::GAUGE32 | ber::TIME_TICKS => numeric(u64::from(u32::MAX))?,
        ber::COUNTER64 => numeric(u64::MAX)?,
        other => return Err(format!("tag {other} is none of SNMP's types")),
    };
    if octets.len() > usize::from(u16::MAX) {
        return Err(format!("a value of {} octets fits no datagram", octets.len()));
    }
    Ok((arcs, number, octets))
}

fn unhex(text: &[u8]) -> Result<Vec<u8>, String> {
    let digit = |octet: &u8| {
        (*octet as char).to_digit(16).map(|digit| digit as u8).ok_or_else(|| "a hexadecimal value with other characters in it".to_owned())
    };
    let digits: Vec<u8> = text.trim_ascii().iter().map(digit).collect::<Result<_, _>>()?;
    if !digits.len().is_multiple_of(2) {
        return Err("a hexadecimal value with an odd number of digits".to_owned());
    }
    Ok(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_sorted_by_number_and_odd_ones_named() {
        let text = b"1.3.6.1.2.1.2.2.1.2.10|4|eth|ten\n1.3.6.1.2.1.2.2.1.2.9|4x|65746839\r\n# note\n\n1.3.6.1.2.1.1.3.0|67:numeric|rate=100\n\
            1.3.6.1.2.1.2.2.1.10.9|65|4294967296\n1.3.6.1.2.1.2.2.1.10.10|65|7\nnonsense\n1.3.6.1.2.1.31.1.1.1.6.9|70|18446744073709551615\n\
            1.3.6.1.2.1.4.20.1.1.1|64|10.0.0.1\n1.3.6.1.2.1.1.2.0|6|1.3.6.1.4.1.9\n1.3.6.1.2.1.1.7.0|2|-5\n1.3.6.1.2.1.1.7.0|2|6\n1.3.6.1.9.9|4x|abc\n";
        let recording = Recording::parse("dev.snmprec", text);
        let names: Vec<String> = (0..recording.len() as u32)
            .map(|at| recording.arcs(recording.entry(at)).iter().map(u32::to_string).collect::<Vec<_>>().join("."))
            .collect();
        assert_eq!(
            names,
            [
                "1.3.6.1.2.1.1.2.0",
                "1.3.6.1.2.1.1.7.0",
                "1.3.6.1.2.1.2.2.1.2.9",
                "1.3.6.1.2.1.2.2.1.2.10",
                "1.3.6.1.2.1.2.2.1.10.10",
                "1.3.6.1.2.1.4.20.1.1.1",
                "1.3.6.1.2.1.31.1.1.1.6.9"
            ]
        );
        let value = |at| recording.value(recording.entry(at));
        assert_eq!(value(1), Value::Integer(-5));
        assert_eq!(value(2), Value::Octets(4, b"eth9"));
        assert_eq!(value(3), Value::Octets(4, b"eth|ten"));
        assert_eq!(value(5), Value::Octets(0x40, &[10, 0, 0, 1]));
        assert_eq!(value(6), Value::Unsigned(0x46, u64::MAX));
        assert_eq!(recording.interfaces(), ["eth9", "eth|ten"]);
        assert_eq!(recording.skipped(), 5);
        assert_eq!(
            recording.reasons(),
            [
                "dev.snmprec:5: \"67:numeric\" is no tag this simulator replays",
                "dev.snmprec:6: \"4294967296\" is no number from 0 to 4294967295",
                "dev.snmprec:8: not of the form oid|tag|value",
                "dev.snmprec:13: the oid stands on an earlier line already",
                "dev.snmprec:14: a hexadecimal value with an odd number of digits",
            ]
        );
    }

    #[test]
    fn an_unusable_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bad.snmprec");
        let missing = Recording::read(&path).unwrap_err().to_string();
        assert!(missing.contains("bad.snmprec"), "{missing}");
        fs::write(&path, "junk\n").expect("written");
        let empty = Recording::read(&path).unwrap_err().to_string();
        assert!(empty.contains("no usable line (1 skipped, the first at") && empty.contains("bad.snmprec:1"), "{empty}");
    }
}
