//! Small files that must survive: written whole or not at all, and read back with checksums.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Replaces the file at `path` by `bytes`, durably: temporary file, fsync, rename, fsync of the directory. Mode 0600.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

/// Makes creations, renames and removals in `directory` durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Appends one record: `u32 BE bytes | body | u32 BE CRC32C of body`.
pub(crate) fn put_record(out: &mut Vec<u8>, body: &[u8]) {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(body);
    out.extend_from_slice(&crc32c::crc32c(body).to_be_bytes());
}

/// The records of `bytes` in order; ends with an error where one is cut off or damaged.
pub(crate) fn records(bytes: &[u8]) -> impl Iterator<Item = Result<&[u8], String>> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let left = rest.take().filter(|left| !left.is_empty())?;
        let at = bytes.len() - left.len();
        match record(left) {
            Some((body, after)) => {
                rest = Some(after);
                Some(Ok(body))
            }
            None => Some(Err(format!("the record at byte {at} is cut off or damaged"))),
        }
    })
}

fn record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (body, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    (crc32c::crc32c(body) == u32::from_be_bytes(*checksum)).then_some((body, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_until_the_damage() {
        let mut out = Vec::new();
        for body in [&b"one"[..], b"", b"three"] {
            put_record(&mut out, body);
        }
        let good: Vec<_> = records(&out).collect();
        assert_eq!(good, [Ok(&b"one"[..]), Ok(b""), Ok(b"three")]);
        out[21] ^= 1;
        let bad: Vec<_> = records(&out).collect();
        assert_eq!(bad, [Ok(&b"one"[..]), Ok(b""), Err("the record at byte 19 is cut off or damaged".to_owned())]);
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.cbor");
        replace(&path, b"a longer first content").unwrap();
        replace(&path, b"short").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"short");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
