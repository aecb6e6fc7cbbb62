//! Files that appear whole or not at all: written under a temporary name, synced, then given their name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::CertsError;

/// Who may read the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody (0644).
    Public,
    /// The owner alone (0600).
    Private,
}

/// What to do when the name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Replace what is there in one step.
    Replace,
    /// Fail with [`io::ErrorKind::AlreadyExists`].
    Refuse,
}

/// Makes the directory and its parents.
pub(crate) fn create_directory(path: &Path) -> Result<(), CertsError> {
    fs::create_dir_all(path).map_err(|source| CertsError::Io { action: "create directory", path: path.to_owned(), source })
}

/// The text of a file.
pub(crate) fn read(path: &Path) -> Result<String, CertsError> {
    fs::read_to_string(path).map_err(|source| CertsError::Io { action: "read", path: path.to_owned(), source })
}

/// Writes `text` to `directory/name`, durable when this returns.
pub(crate) fn write(directory: &Path, name: &str, text: &str, access: Access, taken: Taken) -> Result<(), CertsError> {
    let path = directory.join(name);
    let temporary = directory.join(format!(".{name}.{:016x}.tmp", rand::random::<u64>()));
    let outcome = place(directory, &temporary, &path, text, access, taken);
    if outcome.is_err() {
        // The first error is the one to report; a temporary file that cannot be removed either is only litter.
        let _ = fs::remove_file(&temporary);
    }
    outcome.map_err(|source| match (source.kind(), taken) {
        (io::ErrorKind::AlreadyExists, Taken::Refuse) => CertsError::AuthorityExists { path },
        _ => CertsError::Io { action: "write", path, source },
    })
}

fn place(directory: &Path, temporary: &Path, path: &Path, text: &str, access: Access, taken: Taken) -> io::Result<()> {
    let mode = match access {
        Access::Public => 0o644,
        Access::Private => 0o600,
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    match taken {
        Taken::Replace => fs::rename(temporary, path)?,
        Taken::Refuse => {
            // A link, unlike a rename, fails when the name is taken.
            fs::hard_link(temporary, path)?;
            fs::remove_file(temporary)?;
        }
    }
    File::open(directory)?.sync_all()
}
