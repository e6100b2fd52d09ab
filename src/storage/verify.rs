//! Whether the files in a frame's folder are those that its ledger says.

use std::collections::{HashMap, HashSet};

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use super::frame_state::FrameState;
use super::history;
use super::listing::Cells;
use super::meadow::Meadow;
use super::vacuum::is_cell;
use crate::Result;

/// What is wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// A cell that the ledger lists is not there.
    Missing,
    /// A cell has not as many bytes as the ledger says.
    Size,
    /// A cell cannot be read.
    Unreadable,
    /// The ledger says of a cell's rows what is not so: queries that rely on it are wrong.
    Statistics,
    /// No version that the ledger tells of has the cell.
    Orphaned,
    /// The ledger has no entry for a version, though it has older and newer ones.
    Gap,
}

impl Problem {
    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Size => "size",
            Self::Unreadable => "unreadable",
            Self::Statistics => "statistics",
            Self::Orphaned => "orphaned",
            Self::Gap => "gap",
        }
    }

    /// What to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Missing | Self::Size | Self::Unreadable => {
                "put the file back from a copy; or RESTORE a version without it; or take its rows out: DELETE where they are"
            }
            Self::Statistics => {
                "write the cell anew: OPTIMIZE … CLUSTER BY writes all, UPDATE those with matching rows"
            }
            Self::Orphaned => {
                "VACUUM removes it once it is older than the retention; a write that goes on may still need it"
            }
            Self::Gap => "put the entry back from a copy; versions before it cannot be read without",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The file, relative to the meadow's root.
    pub path: Path,
    /// What is wrong.
    pub problem: Problem,
    /// In which way.
    pub detail: String,
}

impl Finding {
    /// Something wrong with a file.
    pub fn new(path: &Path, problem: Problem, detail: impl Into<String>) -> Self {
        Self { path: path.clone(), problem, detail: detail.into() }
    }
}

impl Meadow {
    /// Compares a version with the files that are there, by names and sizes alone.
    ///
    /// # Errors
    /// What the store says.
    pub async fn verify_files(&self, state: &FrameState, cells: &Cells) -> Result<Vec<Finding>> {
        let (store, frame) = (self.backend().store(), &state.frame);
        let objects: Vec<ObjectMeta> = store.list(Some(&Path::from(frame.folder()))).try_collect().await?;
        // After the files were listed: what is committed meanwhile is no orphan.
        let needed: HashSet<Path> = self.needed(frame, |_| true).await?;
        let sizes: HashMap<&Path, u64> = objects.iter().map(|object| (&object.location, object.size)).collect();
        let mut findings = Vec::new();
        for index in 0..cells.len() {
            let (path, said) = (cells.path(index), cells.bytes(index));
            match sizes.get(path) {
                None => findings.push(Finding::new(path, Problem::Missing, "the ledger lists it, and it is not there")),
                Some(bytes) if *bytes != said => {
                    let detail = format!("the ledger says {said} bytes, and there are {bytes}");
                    findings.push(Finding::new(path, Problem::Size, detail));
                }
                Some(_) => {}
            }
        }
        let live: HashSet<&Path> = (0..cells.len()).map(|index| cells.path(index)).collect();
        let nobodys = objects.iter().filter(|object| {
            let path = &object.location;
            is_cell(frame, path) && !live.contains(path) && !needed.contains(path)
        });
        findings.extend(nobodys.map(|object| {
            let detail =
                format!("{} bytes, written {}", object.size, object.last_modified.format("%Y-%m-%d %H:%M:%S UTC"));
            Finding::new(&object.location, Problem::Orphaned, detail)
        }));
        let mut versions: Vec<u64> = objects.iter().filter_map(|o| history::commit_version(&o.location)).collect();
        versions.sort_unstable();
        for pair in versions.windows(2) {
            for version in pair[0] + 1..pair[1] {
                let path = history::commit_path(frame, version);
                findings.push(Finding::new(&path, Problem::Gap, format!("version {version} has no entry")));
            }
        }
        Ok(findings)
    }
}
