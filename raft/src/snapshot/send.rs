//! The sending side: reads the files of an export into parts.

use std::io;
use std::time::Duration;

use anemone_wire::{WireError, cbor};
use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::{CHUNK_BYTES, Manifest};
use crate::network::proto::SnapshotPart;
use crate::network::proto::snapshot_part::Part;
use crate::network::{MANIFEST, MESSAGE_VERSION};
use crate::state::ExportFile;

/// The first part.
pub(crate) fn encode_manifest(manifest: &Manifest) -> Result<SnapshotPart, WireError> {
    Ok(part(Part::Manifest(cbor::to_vec(MANIFEST, manifest)?.into())))
}

/// Sends `first`, then every file. Returns the bytes of the files.
///
/// # Errors
/// A file that cannot be read or changed its size; a receiver that takes nothing for `stall`, or is gone.
pub(crate) async fn pump(first: SnapshotPart, files: &[ExportFile], parts: mpsc::Sender<SnapshotPart>, stall: Duration) -> io::Result<u64> {
    push(&parts, first, stall).await?;
    let mut sent = 0;
    for file in files {
        let in_file = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", file.path.display()));
        let mut source = tokio::fs::File::open(&file.path).await.map_err(in_file)?;
        let (mut left, mut checksum) = (file.bytes, 0);
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            let mut chunk = BytesMut::zeroed(want);
            source.read_exact(&mut chunk).await.map_err(in_file)?;
            checksum = crc32c::crc32c_append(checksum, &chunk);
            left -= want as u64;
            push(&parts, part(Part::Chunk(chunk.freeze())), stall).await?;
        }
        push(&parts, part(Part::Checksum(checksum)), stall).await?;
        sent += file.bytes;
    }
    Ok(sent)
}

fn part(part: Part) -> SnapshotPart {
    SnapshotPart { version: MESSAGE_VERSION, part: Some(part) }
}

async fn push(parts: &mpsc::Sender<SnapshotPart>, part: SnapshotPart, stall: Duration) -> io::Result<()> {
    match tokio::time::timeout(stall, parts.send(part)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the receiver ended the transfer")),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("the receiver took nothing for {stall:?}"))),
    }
}
