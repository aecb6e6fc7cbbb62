//! Blocks in files: one file a block, written under a temporary name, synced, renamed, directory synced.
//!
//! ```text
//! <dir>/<16 hex digits>.block        +----------+--------+-----+--------+------------------+----------------+
//! <dir>/<16 hex digits>.quarantined  | ANMBLK01 | page 0 | ... | page n | u32 length each  | footer         |
//! <dir>/<16 hex digits>.temporary    +----------+--------+-----+--------+------------------+----------------+
//! footer: u32 page count, u32 CRC32C of lengths and page count, "ANMEND01"; integers little-endian
//! ```
//! Reads are positioned (no mmap). Temporary files are the remains of a crash and are removed on opening.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{BlockId, BlockStore, PAGE_MAX};
use crate::error::StoreError;

const MAGIC: &[u8; 8] = b"ANMBLK01";
const END: &[u8; 8] = b"ANMEND01";
const FOOTER: u64 = 16;
/// Open files kept for reading; more are opened again when needed.
const OPEN_FILES: usize = 128;

/// Blocks in files of one directory, which nothing else uses.
#[derive(Debug)]
pub struct FileBlocks {
    directory: PathBuf,
    last_id: AtomicU64,
    /// Bytes of each complete block.
    sizes: Mutex<BTreeMap<BlockId, u64>>,
    open: Mutex<HashMap<BlockId, Arc<OpenFile>>>,
}

/// A sealed block as a file, to be sent elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportedBlock {
    /// Its id here.
    pub id: BlockId,
    /// Its file, unchanged for as long as it exists.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    /// Where each page begins, and the end of the last.
    offsets: Vec<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> StoreError + use<'a> {
    move |source| StoreError::Io { action, path: path.to_owned(), source }
}

impl FileBlocks {
    /// Opens `directory`, creates it where needed, and removes what a crash left half written.
    ///
    /// # Errors
    /// The directory cannot be created, read or cleaned.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let directory = directory.into();
        fs::create_dir_all(&directory).map_err(io("create", &directory))?;
        let (mut sizes, mut last_id) = (BTreeMap::new(), 0);
        for entry in fs::read_dir(&directory).map_err(io("list", &directory))? {
            let entry = entry.map_err(io("list", &directory))?;
            let path = entry.path();
            let Some((id, extension)) = parse_name(&path) else { continue };
            match extension {
                "temporary" => fs::remove_file(&path).map_err(io("remove", &path))?,
                "block" => {
                    sizes.insert(id, entry.metadata().map_err(io("stat", &path))?.len());
                    last_id = last_id.max(id.0);
                }
                "quarantined" => last_id = last_id.max(id.0),
                _ => {}
            }
        }
        Ok(Self { directory, last_id: AtomicU64::new(last_id), sizes: Mutex::new(sizes), open: Mutex::new(HashMap::new()) })
    }

    /// The complete blocks as files, ascending. They do not go away while a [`crate::SealedSnapshot`] that names them is held.
    #[must_use]
    pub fn export_list(&self) -> Vec<ExportedBlock> {
        lock(&self.sizes).iter().map(|(&id, &bytes)| ExportedBlock { id, path: self.path(id, "block"), bytes }).collect()
    }

    /// Copies a block's file, made by another node, into this place under a new id, after checking its directory. The
    /// store sees it after [`crate::Store::reload`].
    ///
    /// # Errors
    /// The file cannot be read or copied, or is not a whole block.
    pub fn import(&self, source: &Path) -> Result<BlockId, StoreError> {
        let id = self.next_id();
        OpenFile::open(id, source)?;
        let temporary = self.path(id, "temporary");
        let bytes = fs::copy(source, &temporary).map_err(io("copy to", &temporary))?;
        File::open(&temporary).and_then(|f| f.sync_all()).map_err(io("sync", &temporary))?;
        self.publish(id, bytes)?;
        Ok(id)
    }

    fn path(&self, id: BlockId, extension: &str) -> PathBuf {
        self.directory.join(format!("{id}.{extension}"))
    }

    fn publish(&self, id: BlockId, bytes: u64) -> Result<(), StoreError> {
        let path = self.path(id, "block");
        fs::rename(self.path(id, "temporary"), &path).map_err(io("rename to", &path))?;
        self.sync_directory()?;
        lock(&self.sizes).insert(id, bytes);
        Ok(())
    }

    fn sync_directory(&self) -> Result<(), StoreError> {
        File::open(&self.directory).and_then(|d| d.sync_all()).map_err(io("sync", &self.directory))
    }

    fn write_temporary(&self, path: &Path, pages: &mut dyn Iterator<Item = Result<Bytes, StoreError>>) -> Result<u64, StoreError> {
        let file = File::create_new(path).map_err(io("create", path))?;
        let mut out = BufWriter::with_capacity(1 << 18, file);
        out.write_all(MAGIC).map_err(io("write", path))?;
        let (mut tail, mut written) = (Vec::new(), MAGIC.len() as u64);
        for page in pages {
            let page = page?;
            out.write_all(&page).map_err(io("write", path))?;
            written += page.len() as u64;
            tail.extend_from_slice(&(page.len() as u32).to_le_bytes());
        }
        let count = (tail.len() / 4) as u32;
        tail.extend_from_slice(&count.to_le_bytes());
        let crc = crc32c::crc32c(&tail);
        tail.extend_from_slice(&crc.to_le_bytes());
        tail.extend_from_slice(END);
        out.write_all(&tail).map_err(io("write", path))?;
        let file = out.into_inner().map_err(|e| io("write", path)(e.into_error()))?;
        file.sync_all().map_err(io("sync", path))?;
        Ok(written + tail.len() as u64)
    }

    fn opened(&self, id: BlockId) -> Result<Arc<OpenFile>, StoreError> {
        if let Some(file) = lock(&self.open).get(&id) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(OpenFile::open(id, &self.path(id, "block"))?);
        let mut open = lock(&self.open);
        if open.len() >= OPEN_FILES {
            open.clear();
        }
        open.insert(id, Arc::clone(&file));
        Ok(file)
    }

    fn forget(&self, id: BlockId) {
        lock(&self.open).remove(&id);
        lock(&self.sizes).remove(&id);
    }
}

/// The id and the extension of one of our files.
fn parse_name(path: &Path) -> Option<(BlockId, &str)> {
    let stem = path.file_stem()?.to_str()?;
    let id = (stem.len() == 16).then(|| u64::from_str_radix(stem, 16).ok())??;
    Some((BlockId(id), path.extension()?.to_str()?))
}

impl OpenFile {
    /// Opens a block's file and reads where its pages are.
    fn open(id: BlockId, path: &Path) -> Result<Self, StoreError> {
        let bad = |what: String| StoreError::corrupt(id, None, what);
        let file = File::open(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => StoreError::Missing { block: id, page: 0 },
            _ => io("open", path)(e),
        })?;
        let length = file.metadata().map_err(io("stat", path))?.len();
        let body_end = length.checked_sub(FOOTER).filter(|end| *end >= MAGIC.len() as u64);
        let body_end = body_end.ok_or_else(|| bad(format!("the file has only {length} bytes")))?;
        let mut ends = [0_u8; FOOTER as usize];
        file.read_exact_at(&mut ends, body_end).map_err(io("read", path))?;
        let mut magic = [0_u8; 8];
        file.read_exact_at(&mut magic, 0).map_err(io("read", path))?;
        if &magic != MAGIC || &ends[8..] != END {
            return Err(bad("not a block file: wrong magic".to_owned()));
        }
        let word = |at: usize| u32::from_le_bytes([ends[at], ends[at + 1], ends[at + 2], ends[at + 3]]);
        let (count, crc) = (word(0), word(4));
        let lengths_at = body_end.checked_sub(4 * u64::from(count)).filter(|at| *at >= MAGIC.len() as u64);
        let lengths_at = lengths_at.ok_or_else(|| bad(format!("{count} pages do not fit the file")))?;
        let mut lengths = vec![0_u8; 4 * count as usize];
        file.read_exact_at(&mut lengths, lengths_at).map_err(io("read", path))?;
        if crc32c::crc32c_append(crc32c::crc32c(&lengths), &ends[..4]) != crc {
            return Err(bad("the page directory's checksum is wrong".to_owned()));
        }
        let mut offsets = Vec::with_capacity(count as usize + 1);
        let mut at = MAGIC.len() as u64;
        offsets.push(at);
        for length in lengths.chunks_exact(4) {
            at += u64::from(u32::from_le_bytes([length[0], length[1], length[2], length[3]]));
            offsets.push(at);
        }
        if at != lengths_at {
            return Err(bad("the pages do not fill the file".to_owned()));
        }
        Ok(Self { file, offsets })
    }
}

impl BlockStore for FileBlocks {
    fn next_id(&self) -> BlockId {
        BlockId(self.last_id.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn list(&self) -> Result<Vec<BlockId>, StoreError> {
        Ok(lock(&self.sizes).keys().copied().collect())
    }

    fn write(&self, id: BlockId, pages: &mut dyn Iterator<Item = Result<Bytes, StoreError>>) -> Result<u64, StoreError> {
        let temporary = self.path(id, "temporary");
        let written = self.write_temporary(&temporary, pages).and_then(|bytes| self.publish(id, bytes).map(|()| bytes));
        if written.is_err()
            && let Err(e) = fs::remove_file(&temporary)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %temporary.display(), error = %e, "the remains of a block could not be removed");
        }
        written
    }

    fn page_count(&self, id: BlockId) -> Result<u32, StoreError> {
        Ok((self.opened(id)?.offsets.len() - 1) as u32)
    }

    fn read_page(&self, id: BlockId, page: u32) -> Result<Bytes, StoreError> {
        let open = self.opened(id)?;
        let at = page as usize;
        let (Some(&from), Some(&to)) = (open.offsets.get(at), open.offsets.get(at + 1)) else {
            return Err(StoreError::Missing { block: id, page });
        };
        if to - from > PAGE_MAX as u64 {
            return Err(StoreError::corrupt(id, page, format!("has {} bytes, more than {PAGE_MAX}", to - from)));
        }
        let mut bytes = vec![0; (to - from) as usize];
        open.file.read_exact_at(&mut bytes, from).map_err(io("read", &self.path(id, "block")))?;
        Ok(bytes.into())
    }

    fn bytes(&self, id: BlockId) -> Result<u64, StoreError> {
        lock(&self.sizes).get(&id).copied().ok_or(StoreError::Missing { block: id, page: 0 })
    }

    fn delete(&self, id: BlockId) -> Result<(), StoreError> {
        self.forget(id);
        let path = self.path(id, "block");
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    fn quarantine(&self, id: BlockId, reason: &str) -> Result<(), StoreError> {
        let (from, to) = (self.path(id, "block"), self.path(id, "quarantined"));
        tracing::warn!(block = %id, reason, file = %to.display(), "block set aside");
        self.forget(id);
        match fs::rename(&from, &to) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("rename", &from)(e)),
            _ => self.sync_directory(),
        }
    }

    fn quarantined(&self) -> Result<Vec<BlockId>, StoreError> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(io("list", &self.directory))? {
            let path = entry.map_err(io("list", &self.directory))?.path();
            ids.extend(parse_name(&path).filter(|(_, extension)| *extension == "quarantined").map(|(id, _)| id));
        }
        ids.sort_unstable();
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(n: u8) -> Vec<Result<Bytes, StoreError>> {
        (0..n).map(|p| Ok(Bytes::from(vec![p; 10 + usize::from(p)]))).collect()
    }

    #[test]
    fn blocks_survive_reopening_and_remains_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let blocks = FileBlocks::open(dir.path()).unwrap();
        let id = blocks.next_id();
        blocks.write(id, &mut pages(3).into_iter()).unwrap();
        let failing = vec![Ok(Bytes::from_static(b"x")), Err(StoreError::SeriesLimit { limit: 1 })];
        assert!(blocks.write(blocks.next_id(), &mut failing.into_iter()).is_err());
        fs::write(dir.path().join("00000000000000ff.temporary"), b"half").unwrap();

        let again = FileBlocks::open(dir.path()).unwrap();
        assert_eq!(again.list().unwrap(), [id]);
        assert_eq!((again.page_count(id).unwrap(), again.read_page(id, 2).unwrap()), (3, Bytes::from(vec![2; 12])));
        assert!(matches!(again.read_page(id, 3), Err(StoreError::Missing { page: 3, .. })));
        assert_eq!(again.bytes(id).unwrap(), fs::metadata(again.path(id, "block")).unwrap().len());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(again.next_id() > id);
    }

    #[test]
    fn a_damaged_directory_is_named_and_never_imported() {
        let dir = tempfile::tempdir().unwrap();
        let blocks = FileBlocks::open(dir.path().join("a")).unwrap();
        let id = blocks.next_id();
        blocks.write(id, &mut pages(3).into_iter()).unwrap();
        let good = fs::read(blocks.path(id, "block")).unwrap();
        let other = FileBlocks::open(dir.path().join("b")).unwrap();
        let sent = dir.path().join("sent");
        for at in (0..8).chain(good.len() - 28..good.len()) {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            fs::write(&sent, &bad).unwrap();
            assert!(other.import(&sent).is_err_and(|e| e.is_corrupt()), "byte {at}");
        }
        for length in 0..good.len() {
            fs::write(&sent, &good[..length]).unwrap();
            assert!(other.import(&sent).is_err_and(|e| e.is_corrupt()), "cut at {length}");
        }
        fs::write(&sent, &good).unwrap();
        let imported = other.import(&sent).unwrap();
        assert_eq!(other.read_page(imported, 1).unwrap(), blocks.read_page(id, 1).unwrap());
        assert_eq!(other.list().unwrap(), [imported]);

        other.quarantine(imported, "a test").unwrap();
        assert_eq!((other.list().unwrap(), other.quarantined().unwrap()), (vec![], vec![imported]));
        assert!(FileBlocks::open(dir.path().join("b")).unwrap().next_id() > imported);
    }
}
