//! Frames whose rows are kept in the order of some columns, and which of their cells are to be written anew for that.
//!
//! The columns are a setting of the table that others do not know of. Cells that were written in one sorting are a *run*:
//! their names end alike, and their key ranges do not overlap. A cell that came otherwise is a run of its own.
//!
//! ```text
//! cell-<id>.parquet                          loose: as it was written
//! cell-<id>-<setting>-<run>.parquet          of a run, sorted as the setting says that has this id
//! ```
//! Runs are written anew whole, several into one, so there is an end: every job makes them fewer, whatever the ledger's
//! bounds are worth. They are taken together where their key ranges, by those bounds, overlap, or where they are small
//! neighbours. Of these OPTIMIZE takes all; housekeeping takes as many as make each of them at least double. So a row is
//! written anew as many times as its run can double, and at rest each of the runs that overlap is larger than all smaller ones
//! together, up to those that are as large as one job may be: these housekeeping leaves alone.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{Int64Type, Schema};
use arrow::row::{RowConverter, SortField};
use delta_kernel::expressions::ColumnName;

use super::cells::CELL_PREFIX;
use super::frame_state::FrameState;
use super::leafcutter::{Cut, TINY_CELL};
use super::listing::Cells;
use super::schema::find;
use super::stats_columns::listed;
use crate::{Error, Result};

/// The setting that names the columns.
pub(super) const CLUSTER_BY: &str = "apiary.clusterBy";
/// The setting that tells one choice of columns from those before.
pub(super) const CLUSTERING: &str = "apiary.clustering";
/// The id of a frame's first choice, which all who make the frame know.
const FIRST: &str = "00000000";
/// Columns at most: the order of one that comes after so many others is in no cell's bounds.
const MAX_COLUMNS: usize = 8;

/// Which rows of a frame lie together, and what else is set of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// Rows with other values of these columns are in other cells.
    pub partition_by: Vec<String>,
    /// Rows of a partition are kept in the order of these columns.
    pub cluster_by: Vec<String>,
    /// Properties of the Delta table, as ALTER FRAME … SET TBLPROPERTIES takes them.
    pub properties: Vec<(String, String)>,
}

impl From<Vec<String>> for Placement {
    fn from(partition_by: Vec<String>) -> Self {
        Self { partition_by, ..Self::default() }
    }
}

/// The order that the rows of a frame are kept in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clustering {
    /// By these columns.
    pub columns: Vec<String>,
    id: String,
}

/// How much is written anew at a time.
#[derive(Debug, Clone, Copy)]
pub enum Worth {
    /// All that overlaps.
    All,
    /// What at least doubles, where there are so many cells of it, or a whole cell's bytes, and not more than so many bytes.
    Doubling {
        /// Cells.
        least: usize,
        /// Bytes.
        most: u64,
    },
}

/// Cells to be written anew together.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Their places in the listing.
    pub cells: Vec<usize>,
    /// How often there is as much to do afterwards, at most.
    pub left: usize,
}

impl From<Vec<usize>> for Chosen {
    fn from(cells: Vec<usize>) -> Self {
        Self { cells, left: 0 }
    }
}

impl Clustering {
    /// What a table's settings say; others may have dropped a column.
    pub(super) fn of(settings: &HashMap<String, String>, schema: &Schema) -> Option<Self> {
        let columns = names(settings.get(CLUSTER_BY)?);
        let known = !columns.is_empty() && columns.iter().all(|name| schema.field_with_name(name).is_ok());
        let id = settings.get(CLUSTERING).map_or(FIRST, String::as_str).to_string();
        known.then_some(Self { columns, id })
    }

    /// The settings of a new frame.
    pub(super) fn first(columns: &[String]) -> [(&'static str, String); 2] {
        [(CLUSTER_BY, value(columns)), (CLUSTERING, FIRST.into())]
    }

    /// How the names of one sorting's cells end.
    pub fn new_run(&self) -> String {
        let run = uuid::Uuid::new_v4().simple().to_string();
        format!("-{}-{}", self.id, run.get(..12).unwrap_or(&run))
    }

    /// The cells to write anew next.
    ///
    /// # Errors
    /// Never in practice: bounds have an order.
    pub fn choose(&self, state: &FrameState, cells: &Cells, cut: &Cut, worth: Worth) -> Result<Chosen> {
        let mut by_partition: BTreeMap<String, BTreeMap<String, Run>> = BTreeMap::new();
        let keys = self.columns.iter().map(|column| Keys::of(cells, state.name_in_cells(column)));
        let keys = keys.collect::<Result<Vec<_>>>()?;
        for index in 0..cells.len() {
            let (name, marked) = match self.run_of(cells.name(index)) {
                Some(run) => (run.to_string(), true),
                None => (cells.name(index).to_string(), false),
            };
            let runs = by_partition.entry(cells.partition(index)).or_default();
            let run = runs.entry(name).or_default();
            run.take(index, cells.bytes(index), keys.iter().map(|keys| keys.range(index)));
            // Its rows are in no order, and readers leave out row groups.
            run.is_alone |= !marked && cells.rows(index).is_some_and(|rows| rows > cut.row_group_rows as u64);
        }
        let (mut all, mut bytes) = (Chosen::default(), 0);
        for runs in by_partition.into_values() {
            let clumps = glued(clumps(runs.into_values().collect(), 0), cut.cell_bytes / 2);
            let mut worthy = clumps.into_iter().map(|clump| worth.of(clump, cut)).filter(|cells| !cells.is_empty());
            // Those of one clump only: sorted with others, a cell's range would go over what lies between them.
            let next = worthy.next().unwrap_or_default();
            let left = worthy.count();
            let more = bytes + next.iter().map(|cell| cells.bytes(*cell)).sum::<u64>();
            let fits = all.cells.is_empty() || more <= worth.most();
            all.left = all.left.max(left + usize::from(!fits));
            if fits {
                (all.cells, bytes) = ([all.cells, next].concat(), more);
            }
        }
        all.cells.sort_unstable();
        Ok(all)
    }

    /// What the cells of a run share, if `name` is of one that is sorted by this choice of columns.
    fn run_of<'a>(&self, name: &'a str) -> Option<&'a str> {
        let file = name.rsplit('/').next()?.strip_prefix(CELL_PREFIX)?.strip_suffix(".parquet")?;
        let (_, mark) = file.split_once('-')?;
        mark.starts_with(&self.id).then_some(mark)
    }
}

impl Worth {
    fn most(self) -> u64 {
        match self {
            Self::All => u64::MAX,
            Self::Doubling { most, .. } => most,
        }
    }

    /// The cells of a clump that are to be written anew.
    fn of(self, mut runs: Vec<Run>, cut: &Cut) -> Vec<usize> {
        let cells = |runs: &[Run]| runs.iter().flat_map(|run| run.cells.iter().copied()).collect::<Vec<_>>();
        let most = self.most();
        if let [run] = runs.as_slice() {
            return if run.is_alone && run.bytes <= most { cells(&runs) } else { Vec::new() };
        }
        let Self::Doubling { least, .. } = self else { return cells(&runs) };
        runs.sort_by_key(|run| run.bytes);
        let (mut sum, mut count, mut bytes) = (0, 0, 0);
        for (at, run) in runs.iter().enumerate() {
            let doubles = at > 0 && run.bytes <= TINY_CELL.max(sum);
            sum += run.bytes;
            if doubles && sum <= most {
                (count, bytes) = (at + 1, sum);
            }
        }
        let chosen = runs.get(..count).map(cells).unwrap_or_default();
        if chosen.len() >= least || bytes >= cut.cell_bytes { chosen } else { Vec::new() }
    }
}

/// Cells that were sorted together, or one that was not.
#[derive(Debug, Default)]
struct Run {
    cells: Vec<usize>,
    bytes: u64,
    /// Its least and greatest value of each column.
    ranges: Vec<(Key, Key)>,
    /// Whether it is worth sorting without others.
    is_alone: bool,
}

impl Run {
    fn take(&mut self, cell: usize, bytes: u64, ranges: impl Iterator<Item = (Key, Key)>) {
        self.cells.push(cell);
        self.bytes += bytes;
        if self.cells.len() == 1 {
            self.ranges = ranges.collect();
            return;
        }
        for (here, (least, greatest)) in self.ranges.iter_mut().zip(ranges) {
            here.0 = least.min(here.0.clone());
            here.1 = greatest.max(here.1.clone());
        }
    }

    fn range(&self, column: usize) -> Option<(&Key, &Key)> {
        self.ranges.get(column).map(|(least, greatest)| (least, greatest))
    }

    /// Whether it has one value of a column only.
    fn is_point(&self, column: usize) -> bool {
        self.range(column).is_some_and(|(least, greatest)| least == greatest)
    }
}

/// A value as it is sorted: nulls come last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// Below all that is known.
    Low,
    Value(Box<[u8]>),
    Null,
    /// Above all.
    High,
}

/// What the ledger says of one column's values.
struct Keys {
    least: Vec<Option<Box<[u8]>>>,
    greatest: Vec<Option<Box<[u8]>>>,
    /// Nulls and rows, where they are known.
    nulls: Vec<(Option<i64>, Option<i64>)>,
}

impl Keys {
    fn of(cells: &Cells, column: &str) -> Result<Self> {
        let count = cells.len();
        let bytes = |which: &str| match cells.statistic(which, column) {
            Some(values) => comparable(&values),
            None => Ok(vec![None; count]),
        };
        let nulls = cells.statistic("nullCount", column);
        let nulls = nulls.as_ref().and_then(|nulls| nulls.as_primitive_opt::<Int64Type>());
        let nulls = (0..count).map(|cell| {
            let nulls = nulls.and_then(|nulls| nulls.is_valid(cell).then(|| nulls.value(cell)));
            (nulls, cells.rows_written(cell).and_then(|rows| i64::try_from(rows).ok()))
        });
        Ok(Self { least: bytes("minValues")?, greatest: bytes("maxValues")?, nulls: nulls.collect() })
    }

    fn range(&self, cell: usize) -> (Key, Key) {
        let value = |values: &[Option<Box<[u8]>>]| values.get(cell).cloned().flatten();
        let nulls = self.nulls.get(cell).copied().unwrap_or_default();
        match (value(&self.least), value(&self.greatest), nulls) {
            (_, _, (Some(nulls), Some(rows))) if nulls == rows => (Key::Null, Key::Null),
            (Some(least), Some(greatest), (Some(0), _)) => (Key::Value(least), Key::Value(greatest)),
            (Some(least), Some(_), (Some(_), _)) => (Key::Value(least), Key::Null),
            _ => (Key::Low, Key::High),
        }
    }
}

/// Values as bytes that have their order.
fn comparable(values: &ArrayRef) -> Result<Vec<Option<Box<[u8]>>>> {
    let converter = RowConverter::new(vec![SortField::new(values.data_type().clone())])?;
    let rows = converter.convert_columns(std::slice::from_ref(values))?;
    Ok(rows.iter().enumerate().map(|(at, row)| values.is_valid(at).then(|| Box::from(row.data()))).collect())
}

/// Runs by key, those together whose ranges overlap. That ranges end where others begin is no overlap: a value's rows may go
/// over from one cell into the next.
fn clumps(mut runs: Vec<Run>, column: usize) -> Vec<Vec<Run>> {
    runs.sort_by(|a, b| a.range(column).cmp(&b.range(column)).then(Ordering::Equal));
    let mut clumps: Vec<Vec<Run>> = Vec::new();
    let mut end: Option<Key> = None;
    for run in runs {
        let joins = match (run.range(column), &end, clumps.last().and_then(|clump| clump.last())) {
            (Some((least, _)), Some(end), _) if least < end => true,
            (Some((least, _)), Some(end), Some(last)) => {
                least == end && run.is_point(column) && last.is_point(column) && last.range(column) == run.range(column)
            }
            // Of more columns than there are ranges nothing is known.
            _ => false,
        };
        let greatest = run.range(column).map(|(_, greatest)| greatest.clone());
        match clumps.last_mut().filter(|_| joins) {
            Some(clump) => {
                clump.push(run);
                end = end.max(greatest);
            }
            None => {
                clumps.push(vec![run]);
                end = greatest;
            }
        }
    }
    // Of those that all have one value the next column decides.
    let apart = |clump: Vec<Run>| match clump.len() > 1 && clump.iter().all(|run| run.is_point(column)) {
        true => self::clumps(clump, column + 1),
        false => vec![clump],
    };
    clumps.into_iter().flat_map(apart).collect()
}

/// Neighbours together that are below `small`: cells must not be many either.
fn glued(clumps: Vec<Vec<Run>>, small: u64) -> Vec<Vec<Run>> {
    let is_small = |clump: &[Run]| clump.iter().map(|run| run.bytes).sum::<u64>() < small;
    let (mut glued, mut open): (Vec<Vec<Run>>, bool) = (Vec::new(), false);
    for clump in clumps {
        let this = is_small(&clump);
        match glued.last_mut().filter(|_| open && this) {
            Some(before) => before.extend(clump),
            None => glued.push(clump),
        }
        open = this;
    }
    glued
}

/// The columns that a frame is to be clustered by, in its spelling.
///
/// # Errors
/// [`crate::ErrorKind::NotFound`] for one that is missing; [`crate::ErrorKind::InvalidInput`] for one that is doubled, nested or a
/// partition's, or when there are too many.
pub fn cluster_columns(schema: &Schema, partition_by: &[String], cluster_by: &[String]) -> Result<Vec<String>> {
    if cluster_by.len() > MAX_COLUMNS {
        let count = cluster_by.len();
        return Err(Error::invalid(format!("CLUSTER BY takes 1 to {MAX_COLUMNS} columns, and {count} are named")));
    }
    let mut columns: Vec<String> = Vec::new();
    for name in cluster_by {
        let Some(field) = find(schema.fields(), name) else {
            let there: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            return Err(Error::not_found(format!("there is no column '{name}': the frame has {}", there.join(", "))));
        };
        let why_not = if columns.contains(field.name()) {
            "is named twice: name it once"
        } else if partition_by.contains(field.name()) {
            "is a partition column, and each cell has one value of it already: leave it out of CLUSTER BY"
        } else if field.data_type().is_nested() {
            "is nested, and filters compare plain values: leave it out of CLUSTER BY"
        } else {
            columns.push(field.name().clone());
            continue;
        };
        return Err(Error::invalid(format!("column '{name}' {why_not}")));
    }
    Ok(columns)
}

/// Columns as the setting has them.
pub(super) fn value(columns: &[String]) -> String {
    listed(columns.iter().map(|name| ColumnName::new([name])))
}

fn names(value: &str) -> Vec<String> {
    let columns = ColumnName::parse_column_name_list(value).unwrap_or_default();
    let name = |column: ColumnName| match column.path() {
        [name] => name.to_string(),
        _ => column.to_string(),
    };
    columns.into_iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn key(value: u8) -> Key {
        Key::Value([value].into())
    }

    fn run(cell: usize, bytes: u64, ranges: &[(u8, u8)]) -> Run {
        let mut run = Run::default();
        run.take(cell, bytes, ranges.iter().map(|(least, greatest)| (key(*least), key(*greatest))));
        run
    }

    fn cells(clumps: Vec<Vec<Run>>) -> Vec<Vec<usize>> {
        clumps.into_iter().map(|clump| clump.into_iter().flat_map(|run| run.cells).collect()).collect()
    }

    #[test]
    fn ranges_that_overlap_are_together_and_those_that_touch_are_not() {
        let ranges = [(5, 9), (0, 5), (9, 9), (9, 12), (20, 30), (25, 25), (30, 30)];
        let runs = ranges.iter().enumerate().map(|(cell, range)| run(cell, MB, &[*range])).collect();
        assert_eq!(cells(clumps(runs, 0)), [vec![1], vec![0], vec![2], vec![3], vec![4, 5], vec![6]]);
        // One value of the first column: the second decides; equal rows are in order anyhow.
        let ranges = [[(7, 7), (3, 6)], [(7, 7), (0, 4)], [(7, 7), (6, 9)], [(7, 7), (9, 9)], [(7, 7), (9, 9)]];
        let runs = ranges.iter().enumerate().map(|(cell, ranges)| run(cell, MB, ranges)).collect();
        assert_eq!(cells(clumps(runs, 0)), [vec![1, 0], vec![2], vec![3], vec![4]]);
    }

    #[test]
    fn nulls_come_last_and_what_is_not_known_overlaps_everything() {
        let with = |least: Key, greatest: Key| {
            let mut run = run(0, MB, &[]);
            run.ranges = vec![(least, greatest)];
            run
        };
        let apart = clumps(vec![with(key(3), Key::Null), with(Key::Null, Key::Null), with(key(1), key(3))], 0);
        assert_eq!(apart.len(), 3);
        let together = clumps(vec![with(key(3), key(4)), with(Key::Low, Key::High), with(key(1), key(2))], 0);
        assert_eq!(together.len(), 1);
    }

    #[test]
    fn small_neighbours_are_together() {
        let sizes = [1, 2, 50, 3, 60, 1, 1];
        let clumps = sizes.iter().enumerate().map(|(cell, size)| vec![run(cell, size * MB, &[])]).collect();
        assert_eq!(cells(glued(clumps, 10 * MB)), [vec![0, 1], vec![2], vec![3], vec![4], vec![5, 6]]);
    }

    #[test]
    fn housekeeping_takes_what_at_least_doubles_and_no_more_than_it_may() {
        let cut = super::super::leafcutter::cut(64 << 20, 8);
        let of = |worth: Worth, sizes: &[u64]| {
            let runs = sizes.iter().enumerate().map(|(cell, size)| run(cell, size * MB, &[])).collect();
            worth.of(runs, &cut)
        };
        let doubling = Worth::Doubling { least: 3, most: 100 * MB };
        assert_eq!(of(doubling, &[9, 9, 9]), [0, 1, 2]);
        assert_eq!(of(doubling, &[1, 2, 4, 8, 16]), [0; 0]);
        assert_eq!(of(doubling, &[1, 2, 4, 7, 30]), [0, 1, 2, 3]);
        assert_eq!(of(doubling, &[60, 60]), [0; 0]);
        // Two are few, but a whole cell.
        assert_eq!(of(doubling, &[1, 1]), [0; 0]);
        assert_eq!(of(doubling, &[20, 20]), [0, 1]);
        assert_eq!(of(Worth::All, &[1, 90]), [0, 1]);
        assert_eq!(of(Worth::All, &[90]), [0; 0]);
    }

    #[test]
    fn appends_come_to_rest_in_few_runs_and_rows_are_seldom_written_again() {
        let cut = super::super::leafcutter::cut(64 << 20, 8);
        let worth = Worth::Doubling { least: 8, most: 1 << 40 };
        let (mut sizes, mut written) = (Vec::<u64>::new(), 0);
        for _ in 0..2000 {
            sizes.push(100 << 10);
            let runs = sizes.iter().enumerate().map(|(cell, size)| run(cell, *size, &[])).collect();
            let chosen = worth.of(runs, &cut);
            let merged: u64 = chosen.iter().map(|cell| sizes[*cell]).sum();
            let mut at = 0..;
            sizes.retain(|_| at.next().is_none_or(|at| !chosen.contains(&at)));
            if merged > 0 {
                (sizes, written) = (sizes.into_iter().chain([merged]).collect(), written + merged);
            }
        }
        let all: u64 = sizes.iter().sum();
        assert!(sizes.len() < 20 && written < all * 11, "{} runs, {} times", sizes.len(), written / all);
    }

    #[test]
    fn runs_are_known_by_the_names_of_their_cells() {
        let clustering = Clustering { columns: vec!["a".into()], id: FIRST.into() };
        let name = format!("x=1/cell-0190{}.parquet", clustering.new_run());
        let run = clustering.run_of(&name).unwrap();
        assert!(run.starts_with(FIRST) && run.len() == 21, "{run}");
        for other in ["x=1/cell-0190.parquet", "part-00000000-1.parquet", "cell-0190-11111111-1.parquet"] {
            assert_eq!(clustering.run_of(other), None);
        }
        assert_eq!(names(&value(&["a".into(), "b, c".into(), "d.`e".into()])), ["a", "b, c", "d.`e"]);
    }
}
