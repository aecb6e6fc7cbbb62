//! Letting blocks go: by age, by bytes, or because others take their place.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::seal::discard_markers;
use super::{Store, View, lock};
use crate::backend::BlockId;
use crate::block::reader::SealedBlock;
use crate::block::root::Root;
use crate::error::StoreError;
use crate::head::Head;

/// What retention let go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Blocks.
    pub blocks: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Their samples.
    pub samples: u64,
}

impl Store {
    /// Drops the blocks whose samples are all before `before_ms`.
    ///
    /// # Errors
    /// The mark of the blocks could not be kept: nothing was dropped.
    pub fn drop_before(&self, before_ms: i64) -> Result<Dropped, StoreError> {
        let _alone = lock(&self.maintenance);
        self.sweep_damaged();
        self.drop_blocks(|view| view.blocks.iter().filter(|b| b.root.samples > 0 && b.root.last_ms < before_ms).map(|b| b.id).collect())
    }

    /// Drops the oldest blocks until the rest takes at most `bytes`. The head does not count.
    ///
    /// # Errors
    /// The mark of the blocks could not be kept: nothing was dropped.
    pub fn shrink_to(&self, bytes: u64) -> Result<Dropped, StoreError> {
        let _alone = lock(&self.maintenance);
        self.sweep_damaged();
        self.drop_blocks(|view| {
            let mut oldest_first: Vec<_> = view.blocks.iter().filter(|b| b.root.samples > 0).collect();
            oldest_first.sort_by_key(|b| (b.root.last_ms, b.id));
            let mut total: u64 = view.blocks.iter().map(|b| b.bytes).sum();
            let too_many = oldest_first.into_iter().take_while(|b| {
                let over = total > bytes;
                total -= b.bytes;
                over
            });
            too_many.map(|b| b.id).collect()
        })
    }

    fn drop_blocks(&self, choose: impl FnOnce(&View) -> BTreeSet<BlockId>) -> Result<Dropped, StoreError> {
        let view = self.view();
        let chosen = choose(&view);
        let (gone, kept): (Vec<_>, Vec<_>) = view.blocks.iter().partition(|b| chosen.contains(&b.id));
        let mut marker = None;
        if kept.iter().map(|b| b.root.covered).max().unwrap_or(0) < gone.iter().map(|b| b.root.covered).max().unwrap_or(0) {
            // The mark must outlive the block that carries it, or the caller would be asked to replay what its log no longer has.
            marker = Some(self.write_block(Root { covered: self.covered(), ..Root::default() }, &mut |_| Ok(None))?);
        }
        let mut dropped = Dropped::default();
        for block in &gone {
            dropped.blocks += 1;
            dropped.bytes += block.bytes;
            dropped.samples += block.root.samples;
        }
        drop((gone, kept));
        if !chosen.is_empty() {
            self.exchange(&chosen, marker);
        }
        Ok(dropped)
    }

    /// Takes blocks out of the view, to be deleted when nobody reads them any more, and puts one in.
    pub(super) fn exchange(&self, gone: &BTreeSet<BlockId>, new: Option<SealedBlock>) {
        self.replace_view(|view| {
            view.blocks.iter().filter(|b| gone.contains(&b.id)).for_each(|b| b.discard());
            view.blocks.retain(|b| !gone.contains(&b.id));
            if let Some(new) = new {
                discard_markers(view, new.root.covered);
                view.blocks.push(Arc::new(new));
            }
        });
    }

    /// Looks at the place of the blocks again: takes up blocks that came from elsewhere, forgets those that are gone.
    ///
    /// # Errors
    /// The place cannot be listed.
    pub fn reload(&self) -> Result<(), StoreError> {
        let _alone = lock(&self.maintenance);
        self.reload_alone()
    }

    fn reload_alone(&self) -> Result<(), StoreError> {
        // Looked at first: a block that goes away in between must not be taken up.
        let leaving = lock(&self.leaving).clone();
        let listed: BTreeSet<BlockId> = self.place.list()?.into_iter().filter(|id| !leaving.contains(id)).collect();
        let known: BTreeSet<BlockId> = self.view().blocks.iter().map(|b| b.id).collect();
        let new: Vec<_> = listed.difference(&known).filter_map(|id| self.admit(*id)).collect();
        let covered = new.iter().map(|b| b.root.covered).max().unwrap_or(0);
        self.replace_view(|view| {
            view.blocks.retain(|b| listed.contains(&b.id));
            view.blocks.extend(new);
        });
        self.covered.fetch_max(covered, Ordering::AcqRel);
        self.applied.fetch_max(covered, Ordering::AcqRel);
        Ok(())
    }

    /// Makes exactly these blocks, which are in the place already, the whole store: the head is emptied, other blocks are deleted, and the mark is
    /// theirs. For installing a snapshot made by another node. Series stay registered.
    ///
    /// # Errors
    /// The place cannot be listed, or one of the blocks cannot be used: then nothing is deleted.
    pub fn adopt(&self, blocks: &[BlockId]) -> Result<(), StoreError> {
        let _alone = lock(&self.maintenance);
        self.reload_alone()?;
        let view = self.view();
        if let Some(missing) = blocks.iter().find(|id| view.blocks.iter().all(|b| b.id != **id)) {
            let quarantined = lock(&self.quarantined);
            let reason = quarantined.iter().find(|q| q.block == *missing).map_or("it is not there", |q| &q.reason);
            return Err(StoreError::corrupt(*missing, None, format!("cannot be adopted: {reason}")));
        }
        drop(view);
        self.replace_view(|view| {
            view.blocks.iter().filter(|b| !blocks.contains(&b.id)).for_each(|b| b.discard());
            view.blocks.retain(|b| blocks.contains(&b.id));
            view.live = Arc::new(Head::new());
            view.frozen = None;
        });
        let covered = self.view().blocks.iter().map(|b| b.root.covered).max().unwrap_or(0);
        self.covered.store(covered, Ordering::Release);
        self.applied.store(covered, Ordering::Release);
        Ok(())
    }
}
