//! One block of a cell, and the file that keeps it.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectMeta;
use object_store::path::Path;

/// Bytes of a block, the unit of fetching and keeping. Smaller ones cost more requests and files than a scan wants,
/// larger ones fetch and check too much for a footer. Object stores merge ranges that are this near anyway.
pub(super) const BLOCK: u64 = 1 << 20;
/// Bytes before a file's payload: one page, so that the payload starts on one and its length follows from the file's.
pub(super) const HEAD: usize = 4096;
/// First bytes of a file; another number means another layout, and files of the old one are dropped when met.
pub(super) const MAGIC: &[u8; 8] = b"APICELL1";

/// A cell's name in the cache. Files are named by the hash and checked against the text.
#[derive(Debug, Clone)]
pub(super) struct CellKey {
    pub(super) hash: u64,
    pub(super) text: Arc<str>,
}

impl CellKey {
    pub(super) fn new(namespace: &str, path: &Path) -> Self {
        let text: Arc<str> = format!("{namespace}\n{path}").into();
        Self { hash: checksum(0, text.as_bytes()), text }
    }

    pub(super) fn block(&self, number: u64) -> BlockId {
        BlockId { cell: self.hash, number }
    }
}

/// What an answer says of a cell besides its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CellMeta {
    pub(super) size: u64,
    pub(super) modified_micros: i64,
}

impl CellMeta {
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        Self { size: meta.size, modified_micros: meta.last_modified.timestamp_micros() }
    }

    pub(super) fn blocks(self) -> u64 {
        self.size.div_ceil(BLOCK)
    }

    pub(super) fn block_len(self, number: u64) -> u64 {
        self.size.saturating_sub(number.saturating_mul(BLOCK)).min(BLOCK)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) meta: CellMeta,
    pub(super) bytes: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct BlockId {
    pub(super) cell: u64,
    pub(super) number: u64,
}

impl BlockId {
    pub(super) fn file_name(self) -> String {
        format!("{:016x}-{:x}", self.cell, self.number)
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let (cell, number) = name.split_once('-')?;
        let id = Self { cell: u64::from_str_radix(cell, 16).ok()?, number: u64::from_str_radix(number, 16).ok()? };
        (id.file_name() == name).then_some(id)
    }

    pub(super) fn file(self, folder: &FilePath) -> PathBuf {
        folder.join(format!("{:02x}", self.cell >> 56)).join(self.file_name())
    }
}

/// The first [`HEAD`] bytes of a file, numbers in little endian; `None` when the key does not fit.
///
/// | bytes | what |
/// |---|---|
/// | 8 | [`MAGIC`] |
/// | 8 | checksum of everything after it, payload included |
/// | 8 × 5 | block number, object's size, its time of writing in µs, lengths of the payload and of the key |
/// | up to the end | namespace, line feed, path; then zeros |
pub(super) fn encode_head(key: &CellKey, number: u64, block: &Block) -> Option<Vec<u8>> {
    let text = key.text.as_bytes();
    let modified = block.meta.modified_micros.cast_unsigned();
    let mut body = Vec::with_capacity(HEAD);
    for field in [number, block.meta.size, modified, block.bytes.len() as u64, text.len() as u64] {
        body.extend_from_slice(&field.to_le_bytes());
    }
    body.extend_from_slice(text);
    if body.len() > HEAD - 16 {
        return None;
    }
    body.resize(HEAD - 16, 0);
    let sum = checksum(checksum(0, &body), &block.bytes);
    Some([MAGIC, sum.to_le_bytes().as_slice(), &body].concat())
}

/// The block in a file, if the file is what [`encode_head`] makes of this key, this number and these bytes.
pub(super) fn decode(key: &CellKey, number: u64, file: Vec<u8>) -> Option<Block> {
    let file = Bytes::from(file);
    let fields = file.get(..HEAD)?.as_chunks::<8>().0;
    let size = u64::from_le_bytes(*fields.get(3)?);
    let modified_micros = i64::from_le_bytes(*fields.get(4)?);
    let block = Block { meta: CellMeta { size, modified_micros }, bytes: file.slice(HEAD..) };
    let whole = block.bytes.len() as u64 == block.meta.block_len(number);
    (whole && encode_head(key, number, &block)? == file[..HEAD]).then_some(block)
}

/// FNV-1a over words of 8 bytes, folded after each so that high bits reach low ones. It finds accidents, not attacks;
/// it is written here because what is on disk must mean the same in the next version, which hashers of maps do not
/// promise. Every step is invertible: a change within one word always changes the sum.
pub(in crate::storage) fn checksum(seed: u64, bytes: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    // Odd and dense, unlike FNV's own prime, which moves bits by few places only.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let step = |sum: u64, word: u64| {
        let sum = (sum ^ word).wrapping_mul(FACTOR);
        sum ^ (sum >> 32)
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let start = step(step(OFFSET, seed), bytes.len() as u64);
    let sum = words.iter().fold(start, |sum, word| step(sum, u64::from_le_bytes(*word)));
    step(sum, rest.iter().rev().fold(0, |word, byte| (word << 8) | u64::from(*byte)))
}
