//! Rows of a cell that are marked as deleted, as a few bytes that travel with a plan.
//!
//! Runs of rows, first one that is kept, then one that is deleted, and so on; each length is a LEB128 number. Marks are
//! mostly far apart or in long runs: two or three bytes each.

use std::fmt;

use crate::{Error, Result};

/// Longest such number.
const MAX_NUMBER: usize = 10;

/// The deleted rows of one cell.
#[derive(Clone, PartialEq, Eq)]
pub struct DeletedRows {
    runs: Vec<u8>,
    count: u64,
}

/// So many rows in a row that are kept or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Whether they are kept.
    pub kept: bool,
    /// How many.
    pub rows: u64,
}

impl DeletedRows {
    /// From the numbers of the rows, rising.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] when they do not rise.
    pub fn new(rows: impl IntoIterator<Item = u64>) -> Result<Self> {
        let (mut runs, mut count, mut end, mut length) = (Vec::new(), 0, 0, 0);
        for row in rows {
            match row.checked_sub(end) {
                Some(0) if length > 0 => {}
                Some(kept) => {
                    if length > 0 {
                        put(&mut runs, length);
                    }
                    put(&mut runs, kept);
                    length = 0;
                }
                None => return Err(Error::corrupt("a deletion vector's rows do not rise")),
            }
            (count, end, length) = (count + 1, row.checked_add(1).ok_or_else(damaged)?, length + 1);
        }
        if length > 0 {
            put(&mut runs, length);
        }
        Ok(Self { runs, count })
    }

    /// From bytes that somebody else may have written.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] for anything that [`DeletedRows::as_bytes`] cannot have given.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut this = Self { runs: bytes.to_vec(), count: 0 };
        let (mut rest, mut kept, mut end) = (bytes, true, 0u64);
        while !rest.is_empty() {
            let rows = take(&mut rest).ok_or_else(damaged)?;
            end = end.checked_add(rows).ok_or_else(damaged)?;
            this.count += if kept { 0 } else { rows };
            kept = !kept;
        }
        if kept { Ok(this) } else { Err(damaged()) }
    }

    /// Itself, to travel.
    pub fn as_bytes(&self) -> &[u8] {
        &self.runs
    }

    /// How many rows are deleted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their numbers, rising.
    pub fn rows(&self) -> impl Iterator<Item = u64> + '_ {
        let (mut rest, mut kept, mut end) = (self.runs.as_slice(), true, 0);
        let runs = std::iter::from_fn(move || {
            let length = take(&mut rest)?;
            let run = if kept { end..end } else { end..end + length };
            (kept, end) = (!kept, end + length);
            Some(run)
        });
        runs.flatten()
    }

    /// What is left out of a cell of so many `rows` where only those are wanted that are deleted here and not in `other`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] when a row is deleted that is not there.
    pub fn only_here(&self, other: Option<&Self>, rows: u64) -> Result<Self> {
        let mut others = other.map(Self::rows).into_iter().flatten().peekable();
        let wanted = self.rows().filter(|row| {
            while others.next_if(|other| other < row).is_some() {}
            others.peek() != Some(row)
        });
        let wanted = Self::new(wanted)?;
        let mut left_out = Self { runs: Vec::new(), count: 0 };
        let mut runs = wanted.runs(rows)?;
        if runs.first().is_some_and(|first| first.kept) {
            put(&mut left_out.runs, 0);
        }
        // The last run must be one that is left out; behind it all rows are kept.
        if runs.last().is_some_and(|last| !last.kept) {
            runs.pop();
        }
        for run in runs {
            left_out.count += if run.kept { run.rows } else { 0 };
            put(&mut left_out.runs, run.rows);
        }
        Ok(left_out)
    }

    /// All `rows` of the cell, in runs that are not empty.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] when a row is deleted that is not there.
    pub fn runs(&self, rows: u64) -> Result<Vec<Run>> {
        let (mut runs, mut rest, mut kept, mut end) = (Vec::new(), self.runs.as_slice(), true, 0);
        while let Some(length) = take(&mut rest) {
            if length > 0 {
                runs.push(Run { kept, rows: length });
            }
            (kept, end) = (!kept, end + length);
        }
        match rows.checked_sub(end) {
            Some(0) => {}
            Some(more) => runs.push(Run { kept: true, rows: more }),
            None => return Err(Error::corrupt(format!("row {} of {rows} is marked as deleted", end - 1))),
        }
        Ok(runs)
    }
}

impl fmt::Debug for DeletedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} deleted rows", self.count)
    }
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for (at, byte) in bytes.iter().take(MAX_NUMBER).enumerate() {
        number |= u64::from(byte & 0x7f).checked_shl(7 * at as u32)?;
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return Some(number);
        }
    }
    None
}

fn damaged() -> Error {
    Error::corrupt("the deleted rows of a cell are damaged")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(rows in proptest::collection::btree_set(0u64..5000, 0..200), more in 0u64..300) {
            let deleted = DeletedRows::new(rows.iter().copied()).unwrap();
            prop_assert_eq!(&DeletedRows::parse(deleted.as_bytes()).unwrap(), &deleted);
            prop_assert_eq!(deleted.count(), rows.len() as u64);
            prop_assert!(deleted.rows().eq(rows.iter().copied()));
            let all = rows.last().map_or(0, |last| last + 1) + more;
            let mut row = 0;
            for run in deleted.runs(all).unwrap() {
                prop_assert!(run.rows > 0);
                for _ in 0..run.rows {
                    prop_assert_eq!(run.kept, !rows.contains(&row));
                    row += 1;
                }
            }
            prop_assert_eq!(row, all);
        }

        #[test]
        fn rows_of_one_and_not_of_another_are_told_apart(
            here in proptest::collection::btree_set(0u64..60, 0..40),
            there in proptest::collection::btree_set(0u64..60, 0..40),
        ) {
            let of = |rows: &std::collections::BTreeSet<u64>| DeletedRows::new(rows.iter().copied()).unwrap();
            let left_out = of(&here).only_here(Some(&of(&there)), 60).unwrap();
            let wanted: Vec<u64> = (0..60).filter(|row| !here.contains(row) || there.contains(row)).collect();
            prop_assert_eq!(left_out.rows().collect::<Vec<_>>(), wanted.clone());
            prop_assert_eq!(left_out.count(), wanted.len() as u64);
            prop_assert_eq!(DeletedRows::parse(left_out.as_bytes()).unwrap(), left_out);
        }

        #[test]
        fn bytes_of_others_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(deleted) = DeletedRows::parse(&bytes) {
                // Either outcome is right.
                let _ = deleted.runs(1000);
            }
        }
    }

    #[test]
    fn rows_that_are_not_there_are_not_deleted() {
        assert!(DeletedRows::new([3, 3]).is_err());
        assert!(DeletedRows::new([1, 7]).unwrap().runs(7).is_err());
    }
}
