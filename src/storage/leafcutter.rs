//! How large cells, row groups, open files and tasks are cut, so that the bee that gets them can hold them.
//!
//! One bee with budget `B` writes up to [`MAX_OPEN_CELLS`] cells at once and decodes row groups of several columns while
//! operators hold their own state. A cell of `B / 4` leaves three quarters of the budget for that. A task of a shared
//! query scans no more than `B / 4` either, `B` being that of the smallest bee that may get it: the stages above it have
//! as many tasks, so that what one of them must hold shrinks alike.

/// Smallest target of a cell: below it the per-file costs (footer, request, ledger entry) outweigh the scan.
pub const MIN_CELL: u64 = 16 << 20;
/// Largest target of a cell: a task is cut at cells first, and a node of many bees must find enough of them.
pub const MAX_CELL: u64 = 256 << 20;
/// Rows of a row group: as DuckDB's, the size at which its readers and ours scan fastest.
pub const ROW_GROUP_ROWS: usize = 122_880;
/// Partition folders written to at the same time; beyond it the largest open cell is closed.
pub const MAX_OPEN_CELLS: usize = 64;
/// Encoded bytes that are worth a task of their own: below it, its few requests cost more than its rows.
const MIN_TASK: u64 = 128 << 10;
/// Encoded bytes of a task when there is a choice: about a second of a small core.
const EVEN_TASK: u64 = 32 << 20;
/// Tasks of a stage for each bee when there is enough to scan: a bee that is done early takes over what waits for a
/// slow one.
const EVEN_TASKS_PER_BEE: usize = 4;
/// Tasks of a stage for each bee at most: every one reads from every task below it.
pub const MAX_TASKS_PER_BEE: usize = 16;

/// Tasks of a stage that scans `bytes`, for `bees` of which the smallest has `budget` bytes.
pub fn tasks(bytes: u64, bees: usize, budget: u64) -> usize {
    let per_bee = |count: u64, most: usize| (count as usize).min(bees.saturating_mul(most));
    let for_all = per_bee(bytes.div_ceil(MIN_TASK), 1);
    let even = per_bee(bytes / EVEN_TASK, EVEN_TASKS_PER_BEE);
    let fitting = per_bee(bytes.div_ceil((budget / 4).max(MIN_CELL)), MAX_TASKS_PER_BEE);
    for_all.max(even).max(fitting).max(1)
}

/// How one bee cuts what it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Encoded bytes at which a cell is closed.
    pub cell_bytes: u64,
    /// Rows of a row group.
    pub row_group_rows: usize,
    /// Encoded bytes all open cells may buffer before the largest is closed.
    pub open_bytes: u64,
}

/// The cut for a bee of `budget` bytes and rows of `row_bytes` in memory.
pub fn cut(budget: u64, row_bytes: u64) -> Cut {
    let cell_bytes = (budget / 4).clamp(MIN_CELL, MAX_CELL);
    // A row group is decoded whole by some readers: keep it below a quarter of the budget in memory.
    let fitting = (budget / 4) / row_bytes.max(1);
    Cut {
        cell_bytes,
        row_group_rows: (fitting as usize).clamp(1024, ROW_GROUP_ROWS),
        open_bytes: (budget / 2).max(MIN_CELL),
    }
}

/// Bytes below which a cell is as good as nothing: it is written anew with any other.
pub(super) const TINY_CELL: u64 = 64 << 10;

/// How many of the smallest of these cells, whose `sizes` rise, are worth one new cell: each next one is no larger than all
/// before it together, so that a row is written anew only when its cell at least doubles.
pub fn worth_merging(sizes: impl Iterator<Item = u64>) -> usize {
    let mut sum = 0;
    sizes
        .take_while(|size| {
            let joins = *size <= sum.max(TINY_CELL);
            sum += size;
            joins
        })
        .count()
}

/// Bytes of a cell below which its rows are not marked: it is written anew in the time that one request takes.
const LEAST_MARKED: u64 = 128 << 10;
/// The part of a cell's rows that may be marked: readers pay for each one until the cell is written anew.
const MOST_MARKED: u64 = 10;

/// Whether marking rows of a cell as deleted, so that `deleted` of its `rows` are, costs much less than writing it anew.
pub fn worth_marking(bytes: u64, rows: u64, deleted: u64) -> bool {
    bytes >= LEAST_MARKED && deleted.saturating_mul(MOST_MARKED) <= rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_follow_the_budget_between_floor_and_ceiling() {
        assert_eq!(cut(32 << 20, 100).cell_bytes, MIN_CELL);
        assert_eq!(cut(512 << 20, 100).cell_bytes, 128 << 20);
        assert_eq!(cut(64 << 30, 100).cell_bytes, MAX_CELL);
    }

    #[test]
    fn tasks_follow_the_bees_then_the_work_then_the_smallest_budget() {
        assert_eq!(tasks(0, 8, 1 << 30), 1);
        assert_eq!(tasks(300 << 10, 8, 1 << 30), 3);
        assert_eq!(tasks(100 << 20, 8, 1 << 30), 8);
        assert_eq!(tasks(640 << 20, 8, 1 << 30), 20);
        assert_eq!(tasks(4 << 30, 8, 1 << 30), 32);
        assert_eq!(tasks(4 << 30, 8, 256 << 20), 64);
        assert_eq!(tasks(4 << 40, 8, 256 << 20), 128);
    }

    #[test]
    fn cells_are_merged_when_they_at_least_double() {
        let merged = |sizes: &[u64]| worth_merging(sizes.iter().map(|kib| kib << 10));
        assert_eq!(merged(&[1, 2, 3, 60]), 4);
        assert_eq!(merged(&[1, 2, 3, 4000]), 3);
        assert_eq!(merged(&[50, 60, 100, 200, 5000]), 4);
        assert_eq!(merged(&[900, 900]), 0);
        // A thousand appends of one row, merged by 32: how many times as many bytes are written as came in.
        let (mut cells, mut written) = (Vec::<u64>::new(), 0);
        for _ in 0..1000 {
            cells.push(40 << 10);
            cells.sort_unstable();
            let chosen = worth_merging(cells.iter().copied());
            if chosen >= 32 {
                let merged: u64 = cells.drain(..chosen).sum();
                written += merged;
                cells.push(merged);
            }
        }
        assert!(cells.len() < 50 && written < 3 * 1000 * (40 << 10), "{} cells, {written} bytes", cells.len());
    }

    #[test]
    fn few_rows_of_a_large_cell_are_marked() {
        assert!(worth_marking(LEAST_MARKED, 1000, 100));
        assert!(!worth_marking(LEAST_MARKED, 1000, 101));
        assert!(!worth_marking(LEAST_MARKED - 1, 1000, 1));
    }

    #[test]
    fn wide_rows_make_small_row_groups() {
        assert_eq!(cut(512 << 20, 100).row_group_rows, ROW_GROUP_ROWS);
        assert_eq!(cut(64 << 20, 8 << 10).row_group_rows, 2048);
        assert_eq!(cut(64 << 20, 1 << 30).row_group_rows, 1024);
    }
}
