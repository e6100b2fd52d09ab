//! How large cells, row groups and open files are cut, so that the bee that gets them can hold them.
//!
//! One bee with budget `B` writes up to [`MAX_OPEN_CELLS`] cells at once and decodes row groups of several columns while
//! operators hold their own state. A cell of `B / 4` leaves three quarters of the budget for that.

/// Smallest target of a cell: below it the per-file costs (footer, request, ledger entry) outweigh the scan.
pub const MIN_CELL: u64 = 16 << 20;
/// Largest target of a cell: a task is cut at cells first, and a node of many bees must find enough of them.
pub const MAX_CELL: u64 = 256 << 20;
/// Rows of a row group: as DuckDB's, the size at which its readers and ours scan fastest.
pub const ROW_GROUP_ROWS: usize = 122_880;
/// Partition folders written to at the same time; beyond it the largest open cell is closed.
pub const MAX_OPEN_CELLS: usize = 64;

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
    fn wide_rows_make_small_row_groups() {
        assert_eq!(cut(512 << 20, 100).row_group_rows, ROW_GROUP_ROWS);
        assert_eq!(cut(64 << 20, 8 << 10).row_group_rows, 2048);
        assert_eq!(cut(64 << 20, 1 << 30).row_group_rows, 1024);
    }
}
