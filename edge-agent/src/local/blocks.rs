//! Sealed blocks of the local store in the local database.
//!
//! ```text
//! tree "pages"        block id u64 BE | page u32 BE  ->  the page, at most 64 KiB
//! tree "blocks"       block id u64 BE                ->  u32 BE pages | u64 BE bytes      written last: with it the block exists
//! tree "quarantined"  block id u64 BE                ->  the reason, text
//! ```
//! Pages without an entry in either of the other trees are the remains of a crash and are removed on opening.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anemone_store::backend::PAGE_MAX;
use anemone_store::{BlockId, BlockStore, StoreError};
use bytes::Bytes;

use super::database::{Database, DatabaseError};

/// Page bytes written between two flushes, so that sled's buffers stay small.
const FLUSH_BYTES: u64 = 4 << 20;

/// Blocks in the local database.
#[derive(Debug)]
pub struct SledBlocks {
    database: Arc<Database>,
    last_id: AtomicU64,
}

fn page_key(id: BlockId, page: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&id.0.to_be_bytes());
    key[8..].copy_from_slice(&page.to_be_bytes());
    key
}

fn id_of(key: &[u8]) -> Option<BlockId> {
    Some(BlockId(u64::from_be_bytes(*key.first_chunk::<8>()?)))
}

impl SledBlocks {
    /// The blocks in `database`; removes what a crash left half written.
    ///
    /// # Errors
    /// The database cannot be read or cleaned.
    pub fn open(database: Arc<Database>) -> Result<Self, DatabaseError> {
        let known = database.run("list blocks", |open| Ok(ids(&open.blocks)?.chain(ids(&open.quarantined)?).collect::<BTreeSet<_>>()))?;
        let last_id = database.run("list pages", |open| Ok(open.pages.last()?.and_then(|(key, _)| id_of(&key))))?;
        let last_id = last_id.into_iter().chain(known.last().copied()).max().map_or(0, |id| id.0);
        let opened = Self { database, last_id: AtomicU64::new(last_id) };
        let mut from = BlockId(0);
        while let Some(id) = opened.next_with_pages(from)? {
            if !known.contains(&id) {
                opened.remove_pages(id)?;
            }
            let Some(next) = id.0.checked_add(1) else { break };
            from = BlockId(next);
        }
        Ok(opened)
    }

    /// The first block from `from` on that has pages.
    fn next_with_pages(&self, from: BlockId) -> Result<Option<BlockId>, DatabaseError> {
        let first = self.database.run("list pages", |open| open.pages.range(page_key(from, 0)..).next().transpose())?;
        Ok(first.and_then(|(key, _)| id_of(&key)))
    }

    fn remove_pages(&self, id: BlockId) -> Result<(), DatabaseError> {
        self.database.run("remove pages", |open| {
            for entry in open.pages.scan_prefix(id.0.to_be_bytes()).keys() {
                open.pages.remove(entry?)?;
            }
            Ok(())
        })
    }

    /// What is recorded of a listed block: pages and bytes.
    fn record(&self, id: BlockId) -> Result<(u32, u64), StoreError> {
        let found = self.database.run("read", |open| open.blocks.get(id.0.to_be_bytes())).map_err(failed("read the record", id))?;
        let found = found.ok_or(StoreError::Missing { block: id, page: 0 })?;
        let parsed = found.split_first_chunk::<4>().and_then(|(pages, rest)| {
            let bytes: [u8; 8] = rest.try_into().ok()?;
            Some((u32::from_be_bytes(*pages), u64::from_be_bytes(bytes)))
        });
        parsed.ok_or_else(|| StoreError::Corrupt { block: id, page: None, what: "its record in the database is malformed".into() })
    }

    fn write_pages(&self, id: BlockId, pages: &mut dyn Iterator<Item = Result<Bytes, StoreError>>) -> Result<(u32, u64), StoreError> {
        let (mut count, mut bytes, mut unflushed) = (0_u32, 0_u64, 0_u64);
        for page in pages {
            let page = page?;
            if page.is_empty() || page.len() > PAGE_MAX {
                return Err(StoreError::TooLarge {
                    block: id,
                    what: format!("page {count} has {} bytes of at most {PAGE_MAX}", page.len()),
                });
            }
            self.database.run("write", |open| open.pages.insert(page_key(id, count), &*page)).map_err(failed("write a page", id))?;
            count += 1;
            bytes += page.len() as u64;
            unflushed += page.len() as u64;
            if unflushed >= FLUSH_BYTES {
                unflushed = 0;
                self.database.sync().map_err(failed("flush pages", id))?;
            }
        }
        Ok((count, bytes))
    }
}

fn ids(tree: &sled::Tree) -> sled::Result<impl Iterator<Item = BlockId> + use<>> {
    let keys = tree.iter().keys().collect::<sled::Result<Vec<_>>>()?;
    Ok(keys.into_iter().filter_map(|key| id_of(&key)))
}

fn failed(action: &'static str, block: BlockId) -> impl Fn(DatabaseError) -> StoreError {
    move |error| StoreError::Backend { action, block, reason: error.to_string() }
}

impl BlockStore for SledBlocks {
    fn next_id(&self) -> BlockId {
        BlockId(self.last_id.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn list(&self) -> Result<Vec<BlockId>, StoreError> {
        let listed = self.database.run("list blocks", |open| Ok(ids(&open.blocks)?.collect()));
        listed.map_err(failed("read the list", BlockId(0)))
    }

    fn write(&self, id: BlockId, pages: &mut dyn Iterator<Item = Result<Bytes, StoreError>>) -> Result<u64, StoreError> {
        let written = self.write_pages(id, pages).and_then(|(count, bytes)| {
            // All pages are on disk before the record that makes them a block.
            self.database.sync().map_err(failed("flush pages", id))?;
            let record = [&count.to_be_bytes()[..], &bytes.to_be_bytes()].concat();
            self.database.run("write", |open| open.blocks.insert(id.0.to_be_bytes(), record)).map_err(failed("write the record", id))?;
            self.database.sync().map_err(failed("flush the record", id))?;
            Ok(bytes)
        });
        if written.is_err() {
            // Best effort: what stays is removed at the next opening.
            let _ = self.database.run("undo", |open| open.blocks.remove(id.0.to_be_bytes()));
            let _ = self.remove_pages(id);
        }
        written
    }

    fn page_count(&self, id: BlockId) -> Result<u32, StoreError> {
        Ok(self.record(id)?.0)
    }

    fn read_page(&self, id: BlockId, page: u32) -> Result<Bytes, StoreError> {
        let found = self.database.run("read", |open| open.pages.get(page_key(id, page))).map_err(failed("read a page", id))?;
        found.map(|page| Bytes::copy_from_slice(&page)).ok_or(StoreError::Missing { block: id, page })
    }

    fn bytes(&self, id: BlockId) -> Result<u64, StoreError> {
        Ok(self.record(id)?.1)
    }

    fn delete(&self, id: BlockId) -> Result<(), StoreError> {
        self.database.run("delete", |open| open.blocks.remove(id.0.to_be_bytes())).map_err(failed("delete the record", id))?;
        self.remove_pages(id).map_err(failed("delete pages", id))
    }

    fn quarantine(&self, id: BlockId, reason: &str) -> Result<(), StoreError> {
        tracing::error!(block = %id, reason, "a block of the local store is set aside");
        let moved = self.database.run("set aside", |open| {
            open.quarantined.insert(id.0.to_be_bytes(), reason.as_bytes())?;
            open.blocks.remove(id.0.to_be_bytes())
        });
        moved.map(drop).map_err(failed("set aside the record", id))
    }

    fn quarantined(&self) -> Result<Vec<BlockId>, StoreError> {
        let listed = self.database.run("list blocks", |open| Ok(ids(&open.quarantined)?.collect()));
        listed.map_err(failed("read the list of those set aside", BlockId(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(sizes: &[usize]) -> Vec<Result<Bytes, StoreError>> {
        sizes.iter().map(|size| Ok(Bytes::from(vec![*size as u8; *size]))).collect()
    }

    fn open(dir: &std::path::Path) -> SledBlocks {
        SledBlocks::open(Arc::new(Database::open(dir).unwrap().database)).unwrap()
    }

    #[test]
    fn blocks_survive_and_half_written_ones_do_not() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("local");
        let (first, second, third);
        {
            let blocks = open(&dir);
            (first, second, third) = (blocks.next_id(), blocks.next_id(), blocks.next_id());
            assert!(first < second);
            assert_eq!(blocks.write(first, &mut pages(&[10, PAGE_MAX, 3]).into_iter()).unwrap(), 13 + PAGE_MAX as u64);
            let broken = pages(&[5, 6]).into_iter().chain([Err(StoreError::Missing { block: second, page: 9 })]);
            assert!(matches!(blocks.write(second, &mut broken.into_iter()), Err(StoreError::Missing { page: 9, .. })));
            // As a crash between the pages and the record leaves it.
            blocks.write_pages(third, &mut pages(&[7]).into_iter()).unwrap();
            blocks.database.sync().unwrap();
        }
        let blocks = open(&dir);
        assert_eq!(blocks.list().unwrap(), [first]);
        assert_eq!(blocks.page_count(first).unwrap(), 3);
        assert_eq!(blocks.read_page(first, 2).unwrap(), vec![3_u8; 3]);
        assert_eq!(blocks.bytes(first).unwrap(), 13 + PAGE_MAX as u64);
        assert!(blocks.read_page(third, 0).is_err(), "removed on opening");
        assert!(blocks.next_id() > third);
        assert!(matches!(blocks.bytes(second), Err(StoreError::Missing { .. })));
    }

    #[test]
    fn blocks_are_deleted_and_set_aside() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("local");
        let blocks = open(&dir);
        let (a, b) = (blocks.next_id(), blocks.next_id());
        for id in [a, b] {
            blocks.write(id, &mut pages(&[8, 9]).into_iter()).unwrap();
        }
        blocks.delete(a).unwrap();
        blocks.delete(a).unwrap();
        blocks.quarantine(b, "a test").unwrap();
        assert!(blocks.list().unwrap().is_empty());
        assert_eq!(blocks.quarantined().unwrap(), [b]);
        drop(blocks);
        let blocks = open(&dir);
        assert_eq!(blocks.quarantined().unwrap(), [b]);
        assert_eq!(blocks.read_page(b, 1).unwrap().len(), 9);
        assert!(blocks.read_page(a, 0).is_err());
        assert!(blocks.next_id() > b);
    }

    #[test]
    fn a_page_over_the_limit_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let blocks = open(&temp.path().join("local"));
        let id = blocks.next_id();
        let error = blocks.write(id, &mut pages(&[PAGE_MAX + 1]).into_iter()).unwrap_err();
        assert!(error.to_string().contains("page 0 has 65537 bytes of at most 65536"), "{error}");
        assert!(blocks.list().unwrap().is_empty());
    }
}
