//! Opening: replays the segment files of a directory into memory, tells what is damaged, removes what is dead.
//! Refuses only what cannot be a log of ours: an unreadable directory, or a newer format version.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::warn;

use crate::disk::{Disk, DiskFile};
use crate::error::LogError;
use crate::format::{Footer, SegmentName, State};
use crate::report::{Damage, LostRange, OpenReport};
use crate::scan::{self, Change, FoundDamage, Loaded};
use crate::segment::{self, Segment};

/// Appended to the name of a segment file without one readable record.
const QUARANTINED: &str = ".quarantined";

/// A log as found on disk.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) segments: Vec<Segment>,
    pub(crate) state: State,
    pub(crate) next: u64,
    pub(crate) lost: Vec<LostRange>,
    /// Sequence number for the next segment file.
    pub(crate) sequence: u64,
    pub(crate) report: OpenReport,
    /// Damage with the index it starts at: it no longer matters once that is cut or purged.
    damage: Vec<(u64, Damage)>,
}

pub(crate) fn recover(disk: &dyn Disk, dir: &Path) -> Result<Recovered, LogError> {
    let listed = disk.list(dir).map_err(|error| LogError::io("list", dir, error))?;
    let mut names: Vec<(SegmentName, bool)> = listed.iter().filter_map(|name| parse(name)).collect();
    names.sort_unstable();
    let sequence = names.last().map_or(0, |(name, _)| name.sequence.saturating_add(1));
    let mut recovered = Recovered { sequence, ..Recovered::default() };
    let newest = recovered.find_newest(disk, dir, &mut names)?;
    for (name, quarantined) in names {
        if quarantined {
            recovered.start_at(name.base, &dir.join(name.file_name()));
        } else {
            let opened = Opened::load(disk, dir, name, false)?;
            recovered.replay(disk, opened, false);
        }
    }
    if let Some(opened) = newest {
        recovered.replay(disk, opened, true);
    }
    recovered.finish(disk, dir);
    Ok(recovered)
}

/// A segment file's name, and whether it was set aside earlier. What is set aside still counts: its base cuts older segments.
fn parse(file_name: &str) -> Option<(SegmentName, bool)> {
    match file_name.strip_suffix(QUARANTINED) {
        Some(name) => Some((SegmentName::parse(name)?, true)),
        None => Some((SegmentName::parse(file_name)?, false)),
    }
}

/// A segment file, read.
struct Opened {
    name: SegmentName,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    loaded: Loaded,
}

impl Opened {
    fn load(disk: &dyn Disk, dir: &Path, name: SegmentName, newest: bool) -> Result<Self, LogError> {
        let path = dir.join(name.file_name());
        let file = disk.open(&path).map_err(|error| LogError::io("open", &path, error))?;
        let loaded = scan::load(file.as_ref(), &path, name, newest)?;
        Ok(Self { name, path, file, loaded })
    }
}

impl Recovered {
    /// Takes the newest segment that counts off the list. Files without a record behind it were being created when the power
    /// went, or failed to be: nothing was ever acknowledged into them.
    fn find_newest(&mut self, disk: &dyn Disk, dir: &Path, names: &mut Vec<(SegmentName, bool)>) -> Result<Option<Opened>, LogError> {
        while let Some((name, _)) = names.pop_if(|(_, quarantined)| !*quarantined) {
            let opened = Opened::load(disk, dir, name, true)?;
            if !opened.loaded.empty || opened.loaded.unreadable {
                return Ok(Some(opened));
            }
            self.report.torn_bytes += opened.loaded.torn_bytes;
            discard(disk, &opened.path);
        }
        Ok(None)
    }

    fn replay(&mut self, disk: &dyn Disk, opened: Opened, newest: bool) {
        let Opened { name, path, file, loaded } = opened;
        if !loaded.sealed {
            self.report.scanned += 1;
        }
        self.report.torn_bytes += loaded.torn_bytes;
        self.start_at(name.base, &path);
        if loaded.empty && !loaded.header_good {
            self.quarantine(disk, &path, name.base);
            return;
        }
        self.adopt(&loaded);
        self.note_damage(&path, &loaded.damage);
        let mut segment = Segment { name, path, offsets: loaded.offsets, bytes: loaded.end };
        self.next = segment.next();
        if newest && !loaded.sealed && !loaded.unreadable {
            let footer = Footer { base: name.base, state: self.state.clone(), offsets: segment.offsets.clone() };
            match segment::seal(file.as_ref(), loaded.end, name, footer) {
                Ok(bytes) => segment.bytes = bytes,
                Err(error) => warn!(path = %segment.path.display(), %error, "segment not sealed, it will be scanned again"),
            }
        }
        self.segments.push(segment);
    }

    /// A segment that starts at `base` supersedes everything from there on, and shows when something before it is missing.
    fn start_at(&mut self, base: u64, path: &Path) {
        for segment in &mut self.segments {
            segment.cut(base);
        }
        self.lost.retain_mut(|lost| {
            lost.to = lost.to.min(base);
            lost.from < lost.to
        });
        self.damage.retain(|(from, _)| *from < base);
        if base > self.next {
            let (path, offset) = match self.segments.last() {
                Some(previous) => (previous.path.clone(), previous.bytes),
                None => (path.to_owned(), 0),
            };
            self.lost.push(LostRange { from: self.next, to: base, path, offset });
        }
        self.next = base;
    }

    fn adopt(&mut self, loaded: &Loaded) {
        if let Some(head) = &loaded.head {
            self.state = head.clone();
        }
        for change in &loaded.changes {
            match change {
                Change::Meta(key, value) => drop(self.state.metas.insert(*key, value.clone())),
                Change::Purge(below) => self.state.floor = self.state.floor.max(*below),
            }
        }
    }

    fn note_damage(&mut self, path: &Path, found: &[FoundDamage]) {
        for FoundDamage { offset, bytes, from, to } in found {
            self.damage.push((*from, Damage { path: path.to_owned(), offset: *offset, bytes: *bytes }));
            if from < to {
                self.lost.push(LostRange { from: *from, to: *to, path: path.to_owned(), offset: *offset });
            }
        }
    }

    fn quarantine(&mut self, disk: &dyn Disk, path: &Path, base: u64) {
        let mut aside = path.as_os_str().to_owned();
        aside.push(QUARANTINED);
        let aside = PathBuf::from(aside);
        warn!(path = %path.display(), base, "segment has no readable record, set aside");
        match disk.rename(path, &aside) {
            Ok(()) => self.report.quarantined.push(aside),
            Err(error) => {
                warn!(path = %path.display(), %error, "segment not set aside");
                self.report.quarantined.push(path.to_owned());
            }
        }
    }

    /// Applies the final floor, drops dead segments and completes the report.
    fn finish(&mut self, disk: &dyn Disk, dir: &Path) {
        let floor = self.state.floor;
        if self.next < floor {
            self.next = floor;
        }
        for lost in &mut self.lost {
            lost.from = lost.from.max(floor);
        }
        self.lost.retain(|lost| lost.from < lost.to);
        let newest = self.segments.last().map(|segment| segment.name);
        let (kept, dead): (Vec<_>, Vec<_>) =
            self.segments.drain(..).partition(|segment| Some(segment.name) == newest || !segment.is_dead(floor));
        self.segments = kept;
        for segment in &dead {
            discard(disk, &segment.path);
            self.damage.retain(|(_, damage)| damage.path != segment.path);
        }
        if let Err(error) = disk.sync_dir(dir) {
            warn!(dir = %dir.display(), %error, "directory not synced");
        }
        self.report.first_index = floor;
        self.report.next_index = self.next;
        self.report.segments = self.segments.len();
        self.report.lost = self.lost.clone();
        self.report.damage = self.damage.drain(..).map(|(_, damage)| damage).collect();
        for lost in &self.lost {
            let (from, to, offset) = (lost.from, lost.to, lost.offset);
            warn!(path = %lost.path.display(), offset, from, to, "records lost to damage");
        }
    }
}

fn discard(disk: &dyn Disk, path: &Path) {
    if let Err(error) = disk.remove(path) {
        warn!(path = %path.display(), %error, "segment no longer needed, but not removed");
    }
}
