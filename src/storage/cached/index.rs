//! Which blocks are kept, and which go first.

use std::collections::{BTreeMap, HashMap};
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::SystemTime;

use super::block::{BlockId, CellKey, CellMeta, HEAD};

/// Which blocks are on disk, and in which order they were used.
#[derive(Debug, Default)]
pub(super) struct Index {
    cells: HashMap<u64, Held>,
    pub(super) order: BTreeMap<u64, BlockId>,
    pub(super) uses: u64,
    pub(super) bytes: u64,
}

#[derive(Debug, Default)]
struct Held {
    /// Whose blocks these are, as far as a file was read or written since the cache was opened.
    pub(super) known: Option<(Arc<str>, CellMeta)>,
    pub(super) blocks: HashMap<u64, Slot>,
    pub(super) share: u64,
}

#[derive(Debug)]
struct Slot {
    pub(super) file_bytes: u64,
    pub(super) used: u64,
}

impl Slot {
    pub(super) fn payload(&self) -> u64 {
        self.file_bytes.saturating_sub(HEAD as u64)
    }
}

impl Index {
    /// Payload that is kept of a cell.
    pub(super) fn share_of(&self, cell: u64) -> u64 {
        self.cells.get(&cell).map_or(0, |held| held.share)
    }

    pub(super) fn insert(&mut self, id: BlockId, file_bytes: u64) {
        self.remove(id);
        self.uses += 1;
        let slot = Slot { file_bytes, used: self.uses };
        let held = self.cells.entry(id.cell).or_default();
        held.share += slot.payload();
        held.blocks.insert(id.number, slot);
        self.order.insert(self.uses, id);
        self.bytes += file_bytes;
    }

    pub(super) fn learn(&mut self, key: &CellKey, meta: CellMeta) {
        if let Some(held) = self.cells.get_mut(&key.hash) {
            held.known = Some((Arc::clone(&key.text), meta));
        }
    }

    pub(super) fn meta(&self, key: &CellKey) -> Option<CellMeta> {
        let (text, meta) = self.cells.get(&key.hash)?.known.as_ref()?;
        (*text == key.text).then_some(*meta)
    }

    pub(super) fn contains(&self, id: BlockId) -> bool {
        self.cells.get(&id.cell).is_some_and(|held| held.blocks.contains_key(&id.number))
    }

    pub(super) fn touch(&mut self, id: BlockId) {
        if let Some(slot) = self.cells.get_mut(&id.cell).and_then(|held| held.blocks.get_mut(&id.number)) {
            self.uses += 1;
            self.order.remove(&std::mem::replace(&mut slot.used, self.uses));
            self.order.insert(self.uses, id);
        }
    }

    pub(super) fn remove(&mut self, id: BlockId) {
        let Some(held) = self.cells.get_mut(&id.cell) else { return };
        let Some(slot) = held.blocks.remove(&id.number) else { return };
        held.share -= slot.payload();
        if held.blocks.is_empty() {
            self.cells.remove(&id.cell);
        }
        self.order.remove(&slot.used);
        self.bytes -= slot.file_bytes;
    }

    pub(super) fn remove_cell(&mut self, cell: u64) -> Vec<BlockId> {
        let numbers = self.cells.get(&cell).into_iter().flat_map(|held| held.blocks.keys());
        let ids: Vec<BlockId> = numbers.map(|number| BlockId { cell, number: *number }).collect();
        ids.iter().for_each(|id| self.remove(*id));
        ids
    }

    /// Takes out the least recently used until the rest fits.
    pub(super) fn shrink_to(&mut self, capacity: u64) -> Vec<BlockId> {
        let mut out = Vec::new();
        while self.bytes > capacity
            && let Some((_, id)) = self.order.first_key_value()
        {
            let id = *id;
            self.remove(id);
            out.push(id);
        }
        out
    }
}

/// The blocks that an earlier process left, the last written as the most recently used. Only names are looked at:
/// what the files hold is checked when they are read.
pub(super) fn take_over(folder: &FilePath) -> std::io::Result<Index> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().len() == 2 && entry.file_type()?.is_dir() {
            files.extend(blocks_in(&entry.path())?);
        }
    }
    files.sort_unstable_by_key(|(written, ..)| *written);
    let mut index = Index::default();
    files.into_iter().for_each(|(_, id, bytes)| index.insert(id, bytes));
    Ok(index)
}

fn blocks_in(folder: &FilePath) -> std::io::Result<Vec<(SystemTime, BlockId, u64)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if let Some(id) = entry.file_name().to_str().and_then(BlockId::parse) {
            let meta = entry.metadata()?;
            files.push((meta.modified()?, id, meta.len()));
        }
    }
    Ok(files)
}
