//! Reads one segment file back: through its footer when that is intact, else record by record.
//! Decides what is a torn tail and what is damage; changes nothing on disk.

use std::path::Path;

use bytes::Bytes;

use crate::disk::DiskFile;
use crate::error::LogError;
use crate::format::{
    self, ALIGN, Footer, HeaderCheck, Kind, LOST, RECORD_HEADER, RecordHeader, SEGMENT_HEADER, SegmentName, State, TRAILER, VERSION,
};
use crate::window::Window;

/// What a segment file holds.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// Offsets of the entries from the segment's base on; [`LOST`] where one is damaged.
    pub(crate) offsets: Vec<u32>,
    /// Bytes worth keeping: up to the last good record, or the whole file when sealed.
    pub(crate) end: u64,
    pub(crate) sealed: bool,
    /// The state the segment starts from (ends with, when sealed); `None` when that record is damaged.
    pub(crate) head: Option<State>,
    pub(crate) changes: Vec<Change>,
    pub(crate) damage: Vec<FoundDamage>,
    /// Bytes after `end` that were part of an unfinished append.
    pub(crate) torn_bytes: u64,
    /// The disk refused to read some of it: nothing may be cut.
    pub(crate) unreadable: bool,
    pub(crate) header_good: bool,
    /// Not one record was readable.
    pub(crate) empty: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Meta(u8, Bytes),
    Purge(u64),
}

/// Damaged bytes and the entries that were in them (`from == to`: none).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FoundDamage {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

enum Seen {
    Record { offset: u64, header: RecordHeader, payload: Bytes },
    Gap { offset: u64, bytes: u64 },
}

/// Loads a segment. `newest`: it is the last one, so its tail may be torn.
pub(crate) fn load(file: &dyn DiskFile, path: &Path, name: SegmentName, newest: bool) -> Result<Loaded, LogError> {
    // Offsets are u32, so we never wrote anything further out.
    let len = file.len().map_err(|error| LogError::io("stat", path, error))?.min(u64::from(u32::MAX));
    let mut window = Window::new(file, len);
    let header = format::check_header(name, window.at(0, SEGMENT_HEADER));
    if let HeaderCheck::Version(version) = header {
        return Err(LogError::UnsupportedVersion { path: path.to_owned(), version, known: VERSION });
    }
    let mut loaded = match from_footer(&mut window, name, len) {
        Some(loaded) => loaded,
        None => from_records(&mut window, name, newest),
    };
    loaded.unreadable = window.unreadable();
    loaded.header_good = header == HeaderCheck::Good;
    if !loaded.header_good && !loaded.empty {
        let damage = FoundDamage { offset: 0, bytes: SEGMENT_HEADER as u64, from: name.base, to: name.base };
        loaded.damage.insert(0, damage);
    }
    Ok(loaded)
}

fn from_footer(window: &mut Window, name: SegmentName, len: u64) -> Option<Loaded> {
    let trailer_at = len.checked_sub(TRAILER as u64)?;
    let offset = format::decode_trailer(name.id, window.at(trailer_at, TRAILER))?;
    let (header, payload) = record_at(window, name.id, offset)?;
    if header.kind != Kind::Footer || offset + header.size() != trailer_at {
        return None;
    }
    let footer = Footer::decode(&payload)?;
    let in_file = |at: &u32| *at == LOST || (SEGMENT_HEADER as u64..offset).contains(&u64::from(*at));
    if footer.base != name.base || !footer.offsets.iter().all(in_file) {
        return None;
    }
    Some(Loaded {
        damage: lost_runs(&footer, offset),
        offsets: footer.offsets,
        end: len,
        sealed: true,
        head: Some(footer.state),
        ..Loaded::default()
    })
}

/// The runs of lost entries a footer remembers.
fn lost_runs(footer: &Footer, footer_offset: u64) -> Vec<FoundDamage> {
    let mut runs: Vec<FoundDamage> = Vec::new();
    let mut known = SEGMENT_HEADER as u64;
    let mut in_run = false;
    for (index, &offset) in (footer.base..).zip(&footer.offsets) {
        match runs.last_mut() {
            Some(run) if in_run && offset == LOST => run.to = index + 1,
            Some(run) if in_run => run.bytes = u64::from(offset).saturating_sub(run.offset),
            _ if offset == LOST => {
                let bytes = footer_offset.saturating_sub(known);
                runs.push(FoundDamage { offset: known, bytes, from: index, to: index + 1 });
            }
            _ => {}
        }
        in_run = offset == LOST;
        if !in_run {
            known = u64::from(offset);
        }
    }
    runs
}

fn from_records(window: &mut Window, name: SegmentName, newest: bool) -> Loaded {
    let (mut seen, mut end, mut used) = walk(window, name.id);
    if newest && !window.unreadable() {
        // A group is written only after everything before it was synced. So a bad record that no later group vouches for
        // was never acknowledged, and neither was anything behind it.
        let vouched = seen.iter().map(|seen| if let Seen::Record { header, .. } = seen { header.synced } else { 0 }).max();
        let vouched = u64::from(vouched.unwrap_or(0));
        let torn = seen.iter().position(|seen| matches!(seen, Seen::Gap { offset, .. } if *offset >= vouched));
        if let Some(torn) = torn {
            used = used.max(end);
            if let Seen::Gap { offset, .. } = seen[torn] {
                end = offset;
            }
            seen.truncate(torn);
        }
    }
    let mut loaded = replay(name.base, seen);
    loaded.end = end;
    loaded.torn_bytes = if newest { used.saturating_sub(end) } else { 0 };
    loaded
}

/// All readable records of the file with the gaps between them; where the last one ends; where the last non-zero byte ends.
fn walk(window: &mut Window, id: u64) -> (Vec<Seen>, u64, u64) {
    let mut seen = Vec::new();
    let mut offset = SEGMENT_HEADER as u64;
    loop {
        match record_at(window, id, offset) {
            Some((header, _)) if header.kind == Kind::Footer => return (seen, offset, offset),
            Some((header, payload)) => {
                seen.push(Seen::Record { offset, header, payload });
                offset += header.size();
            }
            None => match next_record(window, id, offset) {
                Ok(next) => {
                    seen.push(Seen::Gap { offset, bytes: next - offset });
                    offset = next;
                }
                Err(used) => return (seen, offset, used),
            },
        }
    }
}

/// The record at `offset`, if every byte of it is as written; the payload is left out for entries.
fn record_at(window: &mut Window, id: u64, offset: u64) -> Option<(RecordHeader, Bytes)> {
    let header = RecordHeader::decode(id, offset, window.at(offset, RECORD_HEADER))?;
    let start = offset + RECORD_HEADER as u64;
    if start + u64::from(header.length) > window.len() {
        return None;
    }
    let payload = window.at(start, header.length as usize);
    if payload.len() != header.length as usize || !header.payload_matches(id, offset, payload) {
        return None;
    }
    let keep = header.kind != Kind::Entry;
    Some((header, if keep { Bytes::copy_from_slice(payload) } else { Bytes::new() }))
}

/// Offset of the first good record after the bad one at `offset`, or else where the last non-zero byte ends.
fn next_record(window: &mut Window, id: u64, offset: u64) -> Result<u64, u64> {
    let mut used = offset;
    let mut at = offset;
    if let Some(last) = window.at(at, ALIGN).iter().rposition(|byte| *byte != 0) {
        used = at + last as u64 + 1;
    }
    // A header that is good in itself says where the next record starts; look inside the payload only if that is wrong.
    if let Some(header) = RecordHeader::decode(id, offset, window.at(offset, RECORD_HEADER)) {
        let next = offset + header.size();
        if record_at(window, id, next).is_some() {
            return Ok(next);
        }
    }
    loop {
        at += ALIGN as u64;
        if at >= window.len() {
            return Err(used);
        }
        let zeros = window.zeros_from(at);
        if zeros >= RECORD_HEADER {
            // No header starts with this many zero bytes.
            at += ((zeros - RECORD_HEADER) / ALIGN * ALIGN) as u64;
            continue;
        }
        let head = window.at(at, 8);
        if let Some(last) = head.iter().rposition(|byte| *byte != 0) {
            used = at + last as u64 + 1;
        }
        let plausible = head.len() == 8 && (1..=5).contains(&head[4]) && head[5..8] == [0; 3];
        if plausible && record_at(window, id, at).is_some() {
            return Ok(at);
        }
    }
}

/// Turns what was seen into entries, state and damage.
fn replay(base: u64, seen: Vec<Seen>) -> Loaded {
    let mut loaded = Loaded { empty: true, ..Loaded::default() };
    let mut gap: Option<(u64, u64)> = None;
    for seen in seen {
        let (offset, header, payload) = match seen {
            Seen::Gap { offset, bytes } => {
                // Two gaps in a row only when the record between them made no sense.
                gap = Some(gap.map_or((offset, bytes), |(first, _)| (first, offset + bytes - first)));
                continue;
            }
            Seen::Record { offset, header, payload } => (offset, header, payload),
        };
        let expected = base + loaded.offsets.len() as u64;
        let missing = header.index.checked_sub(expected);
        let possible = gap.map_or(0, |(_, bytes)| bytes / RECORD_HEADER as u64);
        let Some(missing) = missing.filter(|missing| *missing <= possible) else {
            gap = Some(gap.map_or((offset, header.size()), |(first, _)| (first, offset + header.size() - first)));
            continue;
        };
        if let Some((offset, bytes)) = gap.take() {
            loaded.damage.push(FoundDamage { offset, bytes, from: expected, to: expected + missing });
            loaded.offsets.extend(std::iter::repeat_n(LOST, missing as usize));
        }
        loaded.empty = false;
        apply(&mut loaded, offset, header.kind, &payload);
    }
    if let Some((offset, bytes)) = gap {
        let next = base + loaded.offsets.len() as u64;
        loaded.damage.push(FoundDamage { offset, bytes, from: next, to: next });
    }
    loaded
}

fn apply(loaded: &mut Loaded, offset: u64, kind: Kind, payload: &Bytes) {
    match kind {
        // Offsets fit: the file was read only up to u32::MAX.
        Kind::Entry => loaded.offsets.push(offset as u32),
        Kind::Meta => {
            if let Some((&key, _)) = payload.split_first() {
                loaded.changes.push(Change::Meta(key, payload.slice(1..)));
            }
        }
        Kind::Purge => {
            if payload.len() == 8 {
                loaded.changes.push(Change::Purge(format::u64_at(payload, 0)));
            }
        }
        Kind::State => {
            if let Some(state) = State::decode(payload) {
                loaded.head = Some(state);
                loaded.changes.clear();
            }
        }
        Kind::Footer => {}
    }
}
