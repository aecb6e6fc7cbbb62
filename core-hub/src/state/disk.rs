//! Files of the replicated state, beside the store's blocks.
//!
//! ```text
//! <dir>/CURRENT                     name of the generation in use
//! <dir>/gen-<n>/state-<index>.bin   "ANES" | u8 version | u32 BE CRC32C of the rest | CBOR of StateFile
//! <dir>/gen-<n>/series-<from>.bin   (u32 BE bytes, sealed batch of definitions)...: series in order of number, from <from>
//! <dir>/gen-<n>/blocks/             sealed blocks of the store
//! ```
//!
//! Files are written under a temporary name, synced and renamed; the newest state file that reads well counts. A new
//! generation is made only by installing a snapshot.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anemone_model::{AgentId, SeriesDef};
use anemone_raft::StateError;
use anemone_wire::batch::{Batch, BatchBuilder, BatchHeader};
use anemone_wire::cbor;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::ControlState;

const MAGIC: &[u8; 4] = b"ANES";
const VERSION: u8 = 1;
const HEAD: usize = 9;
/// Definitions per batch in a series file; small enough for any labels to fit the batch limit.
const DEFINITIONS_PER_BATCH: usize = 4_000;

/// What a state file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct StateFile {
    /// Opaque to us: how far the log is applied, and the membership.
    #[serde(with = "serde_bytes")]
    pub raft_meta: Vec<u8>,
    /// The control state.
    pub state: ControlState,
    /// Series files, in order of number.
    pub series_files: Vec<String>,
}

fn failed(what: &str, path: &Path, source: impl std::fmt::Display) -> StateError {
    StateError::at(what, path, source.to_string())
}

/// The directory of the generation in use, created when there is none.
///
/// # Errors
/// The directory cannot be made or read.
pub fn current_generation(dir: &Path) -> Result<PathBuf, StateError> {
    fs::create_dir_all(dir).map_err(|e| failed("create directory", dir, e))?;
    let pointer = dir.join("CURRENT");
    let name = match fs::read_to_string(&pointer) {
        Ok(name) => name.trim().to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            set_generation(dir, 1)?;
            "gen-1".to_owned()
        }
        Err(error) => return Err(failed("read", &pointer, error)),
    };
    let generation = dir.join(name);
    fs::create_dir_all(&generation).map_err(|e| failed("create directory", &generation, e))?;
    Ok(generation)
}

/// Makes generation `number` the one in use.
///
/// # Errors
/// The pointer cannot be written.
pub fn set_generation(dir: &Path, number: u64) -> Result<(), StateError> {
    write_atomically(&dir.join("CURRENT"), format!("gen-{number}\n").as_bytes())
}

/// The number of a generation's directory.
#[must_use]
pub fn generation_number(generation: &Path) -> u64 {
    generation.file_name().and_then(|n| n.to_str()?.strip_prefix("gen-")?.parse().ok()).unwrap_or(1)
}

/// Writes a file so that after a crash it is either as before or complete.
///
/// # Errors
/// Any file operation that failed, with the path.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_directory(path.parent().unwrap_or(Path::new(".")))
    };
    write().map_err(|e| failed("write", path, e))
}

/// Makes renames and removals in a directory durable.
///
/// # Errors
/// The directory cannot be opened or synced.
pub fn sync_directory(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Writes a state file and removes older ones. Returns its name.
///
/// # Errors
/// The file cannot be encoded or written.
pub fn write_state(generation: &Path, file: &StateFile) -> Result<String, StateError> {
    let name = format!("state-{:020}.bin", file.state.applied);
    let path = generation.join(&name);
    let body = cbor::to_vec("state file", file).map_err(|e| failed("encode", &path, e))?;
    let mut bytes = Vec::with_capacity(HEAD + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.push(VERSION);
    bytes.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
    bytes.extend_from_slice(&body);
    write_atomically(&path, &bytes)?;
    for old in state_files(generation)?.into_iter().filter(|old| *old < name) {
        fs::remove_file(generation.join(&old)).map_err(|e| failed("remove", &generation.join(&old), e))?;
    }
    Ok(name)
}

fn state_files(generation: &Path) -> Result<Vec<String>, StateError> {
    let entries = fs::read_dir(generation).map_err(|e| failed("list", generation, e))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|n| n.starts_with("state-") && n.ends_with(".bin")).collect();
    names.sort();
    Ok(names)
}

/// The newest state file, with its name.
///
/// # Errors
/// There are state files, but the newest does not read well: the log before it is gone, so nothing older may stand in.
pub fn read_newest_state(generation: &Path) -> Result<Option<(String, StateFile)>, StateError> {
    let Some(name) = state_files(generation)?.pop() else { return Ok(None) };
    let path = generation.join(&name);
    let bytes = fs::read(&path).map_err(|e| failed("read", &path, e))?;
    let (head, body) = bytes.split_at_checked(HEAD).ok_or_else(|| failed("read", &path, "the file is shorter than its head"))?;
    if &head[..4] != MAGIC || head[4] != VERSION {
        return Err(failed("read", &path, format!("not a state file of version {VERSION}")));
    }
    let expected = head[5..].iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
    let found = crc32c::crc32c(body);
    if found != expected {
        return Err(failed("read", &path, format!("checksum is {found:08x}, expected {expected:08x}")));
    }
    let file = cbor::from_own_file("state file", body).map_err(|e| failed("decode", &path, e))?;
    Ok(Some((name, file)))
}

/// Writes definitions numbered from `from` on. Returns the file's name.
///
/// # Errors
/// A definition that does not encode, or a file that cannot be written.
pub fn write_series(generation: &Path, from: usize, definitions: &[SeriesDef]) -> Result<String, StateError> {
    let name = format!("series-{from:010}.bin");
    let path = generation.join(&name);
    let mut out = Vec::new();
    for part in definitions.chunks(DEFINITIONS_PER_BATCH) {
        let mut builder = BatchBuilder::new();
        for (reference, def) in (0..).zip(part) {
            builder.define(reference, def.clone());
        }
        let sealed = builder.encode().and_then(|s| s.seal(&nobody())).map_err(|e| failed("encode", &path, e))?;
        let length = u32::try_from(sealed.len()).expect("a batch is at most 1 MiB");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&sealed);
    }
    write_atomically(&path, &out)?;
    Ok(name)
}

fn nobody() -> BatchHeader {
    let name = || "hub".parse().expect("a valid name");
    BatchHeader { agent: AgentId { pop: name(), name: name() }, epoch: 0, sequence: 0, covers: 1, dictionary: 0, sealed_at_ms: 0 }
}

/// Reads the definitions of a series file, in order.
///
/// # Errors
/// A file that is missing, cut or damaged.
pub fn read_series(generation: &Path, name: &str) -> Result<Vec<SeriesDef>, StateError> {
    let path = generation.join(name);
    let mut rest = Bytes::from(fs::read(&path).map_err(|e| failed("read", &path, e))?);
    let mut definitions = Vec::new();
    while !rest.is_empty() {
        let cut = || failed("read", &path, "the file is cut");
        let head: [u8; 4] = rest.get(..4).and_then(|h| h.try_into().ok()).ok_or_else(cut)?;
        let end = 4 + u32::from_be_bytes(head) as usize;
        if end > rest.len() {
            return Err(cut());
        }
        let rows = Batch::decode(rest.slice(4..end)).and_then(|b| b.definitions()).map_err(|e| failed("decode", &path, e))?;
        definitions.extend(rows.into_iter().map(|(_, def)| def));
        rest = rest.slice(end..);
    }
    Ok(definitions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anemone_model::{CounterWidth, MetricKind};

    #[test]
    fn state_and_series_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let generation = current_generation(dir.path()).unwrap();
        assert!(read_newest_state(&generation).unwrap().is_none());
        let definition = |n: u32| SeriesDef::new("m", [("n", &*n.to_string())], MetricKind::Gauge, CounterWidth::Unknown).unwrap();
        let definitions: Vec<SeriesDef> = (0..10_000).map(definition).collect();
        let name = write_series(&generation, 0, &definitions).unwrap();
        assert_eq!(read_series(&generation, &name).unwrap(), definitions);
        for applied in [5, 70] {
            let state = ControlState { applied, ..ControlState::default() };
            write_state(&generation, &StateFile { raft_meta: vec![1], state, series_files: vec![name.clone()] }).unwrap();
        }
        let (_, file) = read_newest_state(&generation).unwrap().unwrap();
        assert_eq!((file.state.applied, file.series_files), (70, vec![name]));
        assert_eq!(state_files(&generation).unwrap().len(), 1);
    }

    #[test]
    fn a_damaged_state_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let generation = current_generation(dir.path()).unwrap();
        let name = write_state(&generation, &StateFile::default()).unwrap();
        let path = generation.join(&name);
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = read_newest_state(&generation).unwrap_err().to_string();
        assert!(error.contains(&name) && error.contains("checksum is"), "{error}");
    }
}
