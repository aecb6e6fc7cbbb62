//! Blocks in memory: for tests, and for a store whose data need not survive.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{BlockId, BlockStore};
use crate::error::StoreError;

/// Blocks in memory. "Durable" as long as it is not dropped.
#[derive(Debug, Default)]
pub struct MemoryBlocks {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    last_id: u64,
    blocks: BTreeMap<BlockId, Vec<Bytes>>,
    quarantined: BTreeMap<BlockId, Vec<Bytes>>,
}

impl MemoryBlocks {
    /// An empty place.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `change` alter the stored bytes of a page, as damage would; says whether the page exists.
    pub fn damage(&self, id: BlockId, page: u32, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut held = self.held();
        let Some(stored) = held.blocks.get_mut(&id).and_then(|pages| pages.get_mut(page as usize)) else { return false };
        let mut bytes = stored.to_vec();
        change(&mut bytes);
        *stored = Bytes::from(bytes);
        true
    }
}

impl BlockStore for MemoryBlocks {
    fn next_id(&self) -> BlockId {
        let mut held = self.held();
        held.last_id += 1;
        BlockId(held.last_id)
    }

    fn list(&self) -> Result<Vec<BlockId>, StoreError> {
        Ok(self.held().blocks.keys().copied().collect())
    }

    fn write(&self, id: BlockId, pages: &mut dyn Iterator<Item = Result<Bytes, StoreError>>) -> Result<u64, StoreError> {
        let pages = pages.collect::<Result<Vec<_>, _>>()?;
        let bytes = pages.iter().map(|p| p.len() as u64).sum();
        self.held().blocks.insert(id, pages);
        Ok(bytes)
    }

    fn page_count(&self, id: BlockId) -> Result<u32, StoreError> {
        let held = self.held();
        let pages = held.blocks.get(&id).ok_or(StoreError::Missing { block: id, page: 0 })?;
        Ok(u32::try_from(pages.len()).unwrap_or(u32::MAX))
    }

    fn read_page(&self, id: BlockId, page: u32) -> Result<Bytes, StoreError> {
        let held = self.held();
        held.blocks.get(&id).and_then(|pages| pages.get(page as usize)).cloned().ok_or(StoreError::Missing { block: id, page })
    }

    fn bytes(&self, id: BlockId) -> Result<u64, StoreError> {
        let held = self.held();
        let pages = held.blocks.get(&id).ok_or(StoreError::Missing { block: id, page: 0 })?;
        Ok(pages.iter().map(|p| p.len() as u64).sum())
    }

    fn delete(&self, id: BlockId) -> Result<(), StoreError> {
        self.held().blocks.remove(&id);
        Ok(())
    }

    fn quarantine(&self, id: BlockId, reason: &str) -> Result<(), StoreError> {
        tracing::warn!(block = %id, reason, "block set aside");
        let mut held = self.held();
        if let Some(pages) = held.blocks.remove(&id) {
            held.quarantined.insert(id, pages);
        }
        Ok(())
    }

    fn quarantined(&self) -> Result<Vec<BlockId>, StoreError> {
        Ok(self.held().quarantined.keys().copied().collect())
    }
}
