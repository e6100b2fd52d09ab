//! What one commit does to a frame, and beside which commits of others it may land.
//!
//! | this ∥ landed first | append | overwrite, delete, update, merge | compaction |
//! |---|---|---|---|
//! | append | lands | lands, its rows come after | lands |
//! | overwrite | lands, the rows appended stay | conflict | lands, with the rows appended meanwhile removed where they were compacted with others |
//! | delete, update, merge | lands: as if the rows were appended after it | conflict | conflict when both remove one cell |
//! | compaction | lands | conflict when both remove one cell | conflict when both remove one cell |
//!
//! A cell whose rows are marked as deleted counts as removed: its entry is.
//!
//! A change of schema or settings conflicts with all; RESTORE and ALTER are decided anew by the newest version until they
//! land, as if they came last. A delete, update or merge decides by all the rows it saw, so any
//! change of rows that were there is a conflict, whichever cells it touched; its statement is then run again on the new
//! version.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use delta_kernel::transaction::UpdateTableOperation;
use serde::Serialize;

use super::deleted_rows::DeletedRows;
use super::history::Commit;
use super::ledger::WriteMode;

/// What a commit does with the cells that are there.
#[derive(Debug, Clone)]
pub enum Change {
    /// Keeps them.
    Append,
    /// Keeps them, and is known by a number that the ledger keeps: whoever does not know whether it landed can ask.
    Once(Transaction),
    /// Removes them all.
    Overwrite,
    /// Takes these, or rows of these, away: what it adds stands for them.
    Replace(Rewrite, Arc<Replaced>),
}

/// What a commit takes away, by the names of cells in the ledger.
#[derive(Debug, Clone, Default)]
pub struct Replaced {
    /// Cells as a whole.
    pub removed: HashSet<String>,
    /// Rows of cells that stay: all that are deleted from then on.
    pub marked: HashMap<String, DeletedRows>,
}

/// A writer's own number of a commit, as Delta's `txn` action has it: each is larger than the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The writer.
    pub app: String,
    /// Its number.
    pub number: i64,
}

/// Why cells are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewrite {
    /// Rows are left out.
    Delete,
    /// Rows have other values.
    Update,
    /// Rows of a source are merged in.
    Merge,
    /// The same rows in other cells.
    Compact,
}

/// What a statement that replaces cells did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ChangeResult {
    /// The version it made; the one it saw when there was nothing to change.
    pub version: u64,
    /// Rows that are new.
    pub rows_inserted: u64,
    /// Rows with other values.
    pub rows_updated: u64,
    /// Rows that are gone.
    pub rows_deleted: u64,
    /// Cells written.
    pub cells_added: usize,
    /// Cells that they stand for.
    pub cells_removed: usize,
    /// Bytes of the cells written.
    pub bytes: u64,
    /// The node's temperature, 0..=1, when it ended.
    pub temperature: f64,
}

impl ChangeResult {
    /// What this and then `next` did.
    #[must_use]
    pub(crate) fn and(self, next: Self) -> Self {
        Self {
            rows_inserted: self.rows_inserted + next.rows_inserted,
            rows_updated: self.rows_updated + next.rows_updated,
            rows_deleted: self.rows_deleted + next.rows_deleted,
            cells_added: self.cells_added + next.cells_added,
            cells_removed: self.cells_removed + next.cells_removed,
            bytes: self.bytes + next.bytes,
            ..next
        }
    }
}

impl From<WriteMode> for Change {
    fn from(mode: WriteMode) -> Self {
        match mode {
            WriteMode::Append => Self::Append,
            WriteMode::Overwrite => Self::Overwrite,
        }
    }
}

impl Change {
    /// Whether rows may be among those it writes that were not there before.
    pub fn makes_rows(&self) -> bool {
        !matches!(self, Self::Replace(Rewrite::Compact | Rewrite::Delete, _))
    }

    /// The rows that it marks, by the names of their cells.
    pub(super) fn marked(&self) -> Option<&HashMap<String, DeletedRows>> {
        match self {
            Self::Replace(_, replaced) => Some(&replaced.marked),
            Self::Append | Self::Once(_) | Self::Overwrite => None,
        }
    }

    /// Whether it only adds rows.
    pub(super) fn only_adds(&self) -> bool {
        matches!(self, Self::Append | Self::Once(_))
    }

    /// Whether it is committed even when it adds nothing.
    pub fn removes(&self) -> bool {
        match self {
            Self::Append | Self::Once(_) => false,
            Self::Overwrite => true,
            Self::Replace(_, replaced) => !replaced.removed.is_empty() || !replaced.marked.is_empty(),
        }
    }

    /// What it is called in the ledger's history.
    pub(super) fn operation(&self) -> UpdateTableOperation {
        match self {
            Self::Append | Self::Overwrite => UpdateTableOperation::Write,
            Self::Once(_) => UpdateTableOperation::StreamingUpdate,
            Self::Replace(Rewrite::Delete, _) => UpdateTableOperation::Delete,
            Self::Replace(Rewrite::Update, _) => UpdateTableOperation::Update,
            Self::Replace(Rewrite::Merge, _) => UpdateTableOperation::Merge,
            Self::Replace(Rewrite::Compact, _) => UpdateTableOperation::Optimize,
        }
    }

    /// Its parameters in the ledger's history, as other engines write them down.
    pub(super) fn parameters(&self) -> Option<(&'static str, Option<String>)> {
        match self {
            Self::Append => Some(("mode", Some("Append".into()))),
            Self::Once(_) => Some(("outputMode", Some("Append".into()))),
            Self::Overwrite => Some(("mode", Some("Overwrite".into()))),
            Self::Replace(..) => None,
        }
    }

    /// Whether readers of changes have to know.
    pub(super) fn changes_rows(&self) -> bool {
        !matches!(self, Self::Replace(Rewrite::Compact, _))
    }

    /// Whether what it did was decided by the rows that were there.
    pub(super) fn decided_by_rows(&self) -> bool {
        matches!(self, Self::Replace(Rewrite::Delete | Rewrite::Update | Rewrite::Merge, _))
    }
}

/// Whether a commit left every row that was there before it as it was.
pub(super) fn keeps_rows(commit: &Commit) -> bool {
    match commit.entry.operation.as_str() {
        "OPTIMIZE" | "VACUUM START" | "VACUUM END" => true,
        "WRITE" | "STREAMING UPDATE" => commit.removed.is_empty() && !commit.overwrites,
        // A merge that only inserted may have inserted what this one would insert.
        _ => false,
    }
}
