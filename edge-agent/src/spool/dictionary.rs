//! Definitions of batches that the log has let go of, for as long as later batches of the same dictionary are kept.
//!
//! A series is defined once in a dictionary, so a batch can only be understood with what earlier ones defined. Before the log purges
//! batches, their definitions go to `dictionary-<first sequence>.defs`: records of sealed batches with nothing but definitions.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anemone_model::SeriesDef;
use anemone_wire::batch::{Batch, BatchBuilder, BatchHeader};
use bytes::Bytes;

use super::error::SpoolError;
use crate::files;

/// The files of all dictionaries of a spool.
#[derive(Debug)]
pub(super) struct Dictionaries {
    dir: PathBuf,
}

impl Dictionaries {
    /// Files in this directory.
    #[must_use]
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn path(&self, dictionary: u64) -> PathBuf {
        self.dir.join(format!("dictionary-{dictionary:020}.defs"))
    }

    /// Keeps the definitions of a batch about to be purged; durable on return.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn keep(&self, header: &BatchHeader, definitions: Vec<(u32, SeriesDef)>) -> Result<(), SpoolError> {
        if definitions.is_empty() {
            return Ok(());
        }
        let mut builder = BatchBuilder::new();
        for (reference, def) in definitions {
            builder.define(reference, def);
        }
        let mut out = Vec::new();
        files::put_record(&mut out, &builder.encode()?.seal(header)?);
        let path = self.path(header.dictionary);
        let new = !path.exists();
        let written = OpenOptions::new().append(true).create(true).open(&path).and_then(|mut file| {
            file.write_all(&out)?;
            file.sync_all()
        });
        let synced = written.and_then(|()| if new { files::sync_directory(&self.dir) } else { Ok(()) });
        synced.map_err(|source| SpoolError::File { what: "append to", path, source })
    }

    /// All that is kept of a dictionary; a damaged record ends it, with a warning in the log of the process.
    #[must_use]
    pub(super) fn read(&self, dictionary: u64, epoch: u64) -> BTreeMap<u32, SeriesDef> {
        let path = self.path(dictionary);
        let mut found = BTreeMap::new();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    tracing::error!(path = %path.display(), %error, "cannot read kept series definitions");
                }
                return found;
            }
        };
        for record in files::records(&bytes) {
            let batch = record.and_then(|record| Batch::decode(Bytes::copy_from_slice(record)).map_err(|e| e.to_string()));
            match batch.and_then(|batch| Ok((batch.header.epoch, batch.definitions().map_err(|e| e.to_string())?))) {
                Ok((of, definitions)) if of == epoch => found.extend(definitions),
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(path = %path.display(), error, "kept series definitions are damaged");
                    break;
                }
            }
        }
        found
    }

    /// Removes the files of dictionaries of which no batch is left: those that ended at or below `first`. `starts` are the first
    /// sequences of all dictionaries in order.
    pub(super) fn prune(&self, starts: &[u64], first: u64) {
        for pair in starts.windows(2).filter(|pair| pair[1] <= first) {
            self.remove(pair[0]);
        }
    }

    fn remove(&self, dictionary: u64) {
        match std::fs::remove_file(self.path(dictionary)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(dictionary, %error, "cannot remove the definitions of a dictionary that is no longer needed");
            }
            _ => {}
        }
    }

    /// Removes all files: the spool begins a new epoch.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub(super) fn clear(&self) -> Result<(), SpoolError> {
        let failed = |source| SpoolError::File { what: "list", path: self.dir.clone(), source };
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "defs") {
                std::fs::remove_file(&path).map_err(|source| SpoolError::File { what: "remove", path, source })?;
            }
        }
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use anemone_model::{AgentId, CounterWidth, MetricKind};

    use super::*;

    fn def(n: u32) -> (u32, SeriesDef) {
        let name = n.to_string();
        (n, SeriesDef::new("m", [("n", name.as_str())], MetricKind::Gauge, CounterWidth::Unknown).unwrap())
    }

    fn header(sequence: u64, dictionary: u64) -> BatchHeader {
        let agent = AgentId { pop: "ams1".parse().unwrap(), name: "a1".parse().unwrap() };
        BatchHeader { agent, epoch: 7, sequence, covers: 1, dictionary, sealed_at_ms: 0 }
    }

    #[test]
    fn definitions_outlive_their_batches() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Dictionaries::new(dir.path());
        kept.keep(&header(1, 1), vec![def(0), def(1)]).unwrap();
        kept.keep(&header(2, 1), vec![]).unwrap();
        kept.keep(&header(3, 1), vec![def(2)]).unwrap();
        kept.keep(&header(9, 9), vec![def(0)]).unwrap();
        assert_eq!(kept.read(1, 7), BTreeMap::from([def(0), def(1), def(2)]));
        assert_eq!(kept.read(5, 7), BTreeMap::new());
        assert_eq!(kept.read(1, 8), BTreeMap::new(), "of another epoch");
        kept.prune(&[1, 9], 8);
        assert_eq!(kept.read(1, 7).len(), 3);
        kept.prune(&[1, 9], 9);
        assert_eq!((kept.read(1, 7).len(), kept.read(9, 7).len()), (0, 1));
        kept.clear().unwrap();
        assert_eq!(kept.read(9, 7).len(), 0);
    }

    #[test]
    fn a_cut_off_record_costs_itself() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Dictionaries::new(dir.path());
        kept.keep(&header(1, 1), vec![def(0)]).unwrap();
        kept.keep(&header(2, 1), vec![def(1)]).unwrap();
        let path = kept.path(1);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        assert_eq!(kept.read(1, 7), BTreeMap::from([def(0)]));
    }
}
