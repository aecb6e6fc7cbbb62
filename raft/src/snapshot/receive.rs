//! The receiving side: parts into files, refusing whatever is not exactly what the manifest announced.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anemone_wire::cbor;
use futures_util::{Stream, StreamExt};
use tokio::io::AsyncWriteExt;
use tonic::Status;

use super::{CHUNK_BYTES, FILES_MAX, Manifest, checked_name};
use crate::network::proto::SnapshotPart;
use crate::network::proto::snapshot_part::Part;
use crate::network::{MANIFEST, MESSAGE_BYTES_MAX, check_version};

/// Reads the first part.
///
/// # Errors
/// A part that is not a manifest, or one with too many files or a name that is not allowed.
pub(crate) async fn receive_manifest<S>(parts: &mut S, stall: Duration) -> Result<Manifest, Status>
where
    S: Stream<Item = Result<SnapshotPart, Status>> + Unpin,
{
    let Part::Manifest(bytes) = next(parts, stall).await? else {
        return Err(Status::invalid_argument("snapshot does not begin with a manifest"));
    };
    let manifest: Manifest = cbor::from_slice(MANIFEST, &bytes, MESSAGE_BYTES_MAX).map_err(|e| Status::invalid_argument(e.to_string()))?;
    if manifest.files.len() > FILES_MAX {
        return Err(Status::invalid_argument(format!("snapshot has {} files, the limit is {FILES_MAX}", manifest.files.len())));
    }
    let mut names = BTreeSet::new();
    for (name, _) in &manifest.files {
        checked_name(name).map_err(|e| Status::invalid_argument(e.to_string()))?;
        if !names.insert(name) {
            return Err(Status::invalid_argument(format!("snapshot names file {name:?} twice")));
        }
    }
    Ok(manifest)
}

/// Reads all files into `dir` and fsyncs them and the directories. Returns their bytes.
///
/// # Errors
/// Parts that do not fit the manifest, a checksum that does not fit, silence for `stall`, a disk that refuses.
pub(crate) async fn receive_files<S>(manifest: &Manifest, parts: &mut S, dir: &Path, stall: Duration) -> Result<u64, Status>
where
    S: Stream<Item = Result<SnapshotPart, Status>> + Unpin,
{
    let mut directories = BTreeSet::from([dir.to_owned()]);
    let mut received = 0;
    for (name, size) in &manifest.files {
        let path = dir.join(checked_name(name).map_err(|e| Status::invalid_argument(e.to_string()))?);
        if let Some(parent) = path.parent() {
            tokio::fs::create_dir_all(parent).await.map_err(|e| on_disk(parent, &e))?;
            directories.extend(parent.ancestors().take_while(|p| *p != dir).map(PathBuf::from));
        }
        receive_file(name, *size, parts, &path, stall).await?;
        received += size;
    }
    match tokio::time::timeout(stall, parts.next()).await {
        Ok(None) => {}
        Ok(Some(Err(status))) => return Err(status),
        Ok(Some(Ok(_))) => return Err(Status::invalid_argument("snapshot goes on after its last file")),
        Err(_) => return Err(silent(stall)),
    }
    for directory in directories {
        let synced = tokio::fs::File::open(&directory).await;
        let synced = match synced {
            Ok(file) => file.sync_all().await,
            Err(e) => Err(e),
        };
        synced.map_err(|e| on_disk(&directory, &e))?;
    }
    Ok(received)
}

async fn receive_file<S>(name: &str, size: u64, parts: &mut S, path: &Path, stall: Duration) -> Result<(), Status>
where
    S: Stream<Item = Result<SnapshotPart, Status>> + Unpin,
{
    let mut file = tokio::fs::File::create_new(path).await.map_err(|e| on_disk(path, &e))?;
    let (mut left, mut computed) = (size, 0);
    loop {
        match next(parts, stall).await? {
            Part::Chunk(chunk) if chunk.len() > CHUNK_BYTES || chunk.len() as u64 > left => {
                return Err(Status::invalid_argument(format!("chunk of {} bytes for {name:?}, which lacks {left}", chunk.len())));
            }
            Part::Chunk(chunk) => {
                computed = crc32c::crc32c_append(computed, &chunk);
                left -= chunk.len() as u64;
                file.write_all(&chunk).await.map_err(|e| on_disk(path, &e))?;
            }
            Part::Checksum(_) if left > 0 => {
                return Err(Status::invalid_argument(format!("file {name:?} ends {left} bytes early")));
            }
            Part::Checksum(expected) if expected != computed => {
                return Err(Status::data_loss(format!("file {name:?} has checksum {computed:08x}, expected {expected:08x}")));
            }
            Part::Checksum(_) => break,
            Part::Manifest(_) => return Err(Status::invalid_argument("second manifest in one snapshot")),
        }
    }
    file.sync_all().await.map_err(|e| on_disk(path, &e))
}

async fn next<S>(parts: &mut S, stall: Duration) -> Result<Part, Status>
where
    S: Stream<Item = Result<SnapshotPart, Status>> + Unpin,
{
    match tokio::time::timeout(stall, parts.next()).await {
        Err(_) => Err(silent(stall)),
        Ok(None) => Err(Status::invalid_argument("snapshot ends early")),
        Ok(Some(Err(status))) => Err(status),
        Ok(Some(Ok(part))) => {
            check_version("snapshot part", part.version)?;
            part.part.ok_or_else(|| Status::invalid_argument("snapshot part of unknown kind"))
        }
    }
}

fn silent(stall: Duration) -> Status {
    Status::deadline_exceeded(format!("snapshot: nothing came for {stall:?}"))
}

fn on_disk(path: &Path, error: &io::Error) -> Status {
    Status::internal(format!("storing a received snapshot in {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use openraft::CommittedLeaderId;
    use tokio::sync::mpsc;

    use super::*;
    use crate::network::MESSAGE_VERSION;
    use crate::snapshot::{encode_manifest, pump};
    use crate::state::ExportFile;
    use crate::types::{LogId, SnapshotMeta, Vote};

    const STALL: Duration = Duration::from_secs(5);

    fn manifest(files: &[(&str, u64)]) -> Manifest {
        let last = Some(LogId::new(CommittedLeaderId::new(1, 1), 9));
        Manifest {
            to: 2,
            vote: Vote::new_committed(1, 1),
            meta: SnapshotMeta { last_log_id: last, ..SnapshotMeta::default() },
            files: files.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect(),
        }
    }

    fn part(part: Part) -> SnapshotPart {
        SnapshotPart { version: MESSAGE_VERSION, part: Some(part) }
    }

    fn chunk(bytes: &'static [u8]) -> SnapshotPart {
        part(Part::Chunk(bytes::Bytes::from_static(bytes)))
    }

    async fn receive(parts: Vec<SnapshotPart>) -> Result<u64, Status> {
        let dir = tempfile::tempdir().unwrap();
        let mut parts = stream::iter(parts.into_iter().map(Ok));
        let manifest = receive_manifest(&mut parts, STALL).await?;
        receive_files(&manifest, &mut parts, dir.path(), STALL).await
    }

    #[tokio::test]
    async fn what_does_not_fit_the_manifest_is_refused() {
        let crc = |bytes: &[u8]| part(Part::Checksum(crc32c::crc32c(bytes)));
        let start = |files: &[(&str, u64)]| encode_manifest(&manifest(files)).unwrap();
        let one = || start(&[("a", 3)]);
        let future = SnapshotPart { version: 9, ..one() };
        let cases: Vec<(Vec<SnapshotPart>, &str)> = vec![
            (vec![], "snapshot ends early"),
            (vec![chunk(b"abc")], "snapshot does not begin with a manifest"),
            (vec![future], "snapshot part of version 9; this build speaks version 1"),
            (vec![SnapshotPart { version: 1, part: None }], "snapshot part of unknown kind"),
            (vec![part(Part::Manifest(b"rubbish".as_slice().into()))], "snapshot manifest is"),
            (vec![start(&[("../a", 3)])], "\"../a\" is not a name for a file of a snapshot"),
            (vec![start(&[("a", 3), ("a", 3)])], "snapshot names file \"a\" twice"),
            (vec![one(), chunk(b"abcd")], "chunk of 4 bytes for \"a\", which lacks 3"),
            (vec![one(), chunk(b"ab"), crc(b"ab")], "file \"a\" ends 1 bytes early"),
            (vec![one(), chunk(b"abc"), crc(b"abd")], "file \"a\" has checksum 364b3fb7, expected"),
            (vec![one(), chunk(b"abc")], "snapshot ends early"),
            (vec![one(), one()], "second manifest in one snapshot"),
            (vec![one(), chunk(b"abc"), crc(b"abc"), chunk(b"d")], "snapshot goes on after its last file"),
        ];
        for (parts, expected) in cases {
            let status = receive(parts).await.expect_err(expected);
            assert!(status.message().starts_with(expected), "{status} should begin with {expected}");
        }
        assert_eq!(receive(vec![one(), chunk(b"ab"), chunk(b"c"), crc(b"abc")]).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn files_arrive_as_they_were() {
        let source = tempfile::tempdir().unwrap();
        let sizes = [("empty", 0), ("sub/exact", CHUNK_BYTES), ("sub/deeper/odd", 3 * CHUNK_BYTES + 17)];
        let files: Vec<ExportFile> = sizes
            .iter()
            .map(|(name, size)| {
                let path = source.path().join(name.replace('/', "_"));
                let content: Vec<u8> = (0..*size).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
                std::fs::write(&path, content).unwrap();
                ExportFile { name: (*name).to_owned(), path, bytes: *size as u64 }
            })
            .collect();
        let listing: Vec<(&str, u64)> = files.iter().map(|f| (f.name.as_str(), f.bytes)).collect();
        let (tx, mut rx) = mpsc::channel(2);
        let mut parts = stream::poll_fn(move |context| rx.poll_recv(context).map(|part| part.map(Ok)));
        let target = tempfile::tempdir().unwrap();
        let receiving = async {
            let manifest = receive_manifest(&mut parts, STALL).await?;
            receive_files(&manifest, &mut parts, target.path(), STALL).await
        };
        let (sent, received) = tokio::join!(pump(encode_manifest(&manifest(&listing)).unwrap(), &files, tx, STALL), receiving);
        assert_eq!(sent.unwrap(), received.unwrap());
        for file in &files {
            assert_eq!(std::fs::read(target.path().join(&file.name)).unwrap(), std::fs::read(&file.path).unwrap(), "{}", file.name);
        }
    }

    #[tokio::test]
    async fn a_file_that_shrank_or_a_receiver_that_left_ends_the_transfer() {
        let source = tempfile::tempdir().unwrap();
        let path = source.path().join("f");
        std::fs::write(&path, b"abc").unwrap();
        let file = ExportFile { name: "f".to_owned(), path: path.clone(), bytes: 4 };
        let (tx, _rx) = mpsc::channel(9);
        let error = pump(chunk(b""), std::slice::from_ref(&file), tx, STALL).await.unwrap_err();
        assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
        let (tx, rx) = mpsc::channel(1);
        drop(rx);
        let error = pump(chunk(b""), &[file], tx, STALL).await.unwrap_err();
        assert_eq!(error.to_string(), "the receiver ended the transfer");
    }
}
