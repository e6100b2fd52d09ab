//! How OPTIMIZE lays the rows of a frame into cells.

use super::row_change::{TARGET, columns, quoted};
use super::z_order::{KEY, MAX_COLUMNS, key};
use crate::storage::FrameState;
use crate::{Error, Result};

/// The order of the rows that are written anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// None: small cells become larger ones.
    Any,
    /// All rows, sorted by these columns: filters on the first leave most cells out.
    Sorted(Vec<String>),
    /// All rows along a Z-curve through these columns: filters on any of them leave many cells out.
    ZOrdered(Vec<String>),
}

impl Layout {
    /// Whether a frame's rows can be laid so.
    ///
    /// # Errors
    /// `NotFound` for a column that does not exist; `InvalidInput` for columns that no Z-curve goes through, and for another
    /// order than the frame is kept in.
    pub(crate) fn check(&self, state: &FrameState) -> Result<()> {
        let (Self::Sorted(names) | Self::ZOrdered(names)) = self else { return Ok(()) };
        let frame = &state.frame;
        if let Some(clustering) = &state.clustering
            && !matches!(self, Self::Sorted(names) if *names == clustering.columns)
        {
            let columns = clustering.columns.join(", ");
            return Err(Error::invalid(format!(
                "{frame} is kept clustered by {columns}: OPTIMIZE it without columns, or ALTER FRAME {frame} CLUSTER BY (…) or \
                 NONE first"
            )));
        }
        for name in names {
            state.schema.index_of(name).map_err(|_| {
                let there: Vec<_> = state.schema.fields().iter().map(|field| field.name().as_str()).collect();
                Error::not_found(format!("{frame} has no column '{name}': it has {}", there.join(", ")))
            })?;
        }
        if !matches!(self, Self::ZOrdered(_)) {
            return Ok(());
        }
        if names.is_empty() || names.len() > MAX_COLUMNS {
            let count = names.len();
            return Err(Error::invalid(format!("ZORDER BY takes 1 to {MAX_COLUMNS} columns, and {count} are named")));
        }
        for (at, name) in names.iter().enumerate() {
            if names[..at].contains(name) {
                return Err(Error::invalid(format!("ZORDER BY names column '{name}' twice: name it once")));
            }
            if state.partition_by.contains(name) {
                return Err(Error::invalid(format!(
                    "'{name}' is a partition column of {frame}, and each cell has one value of it already: leave it out of \
                     ZORDER BY"
                )));
            }
            let data_type = state.schema.field_with_name(name)?.data_type();
            if data_type.is_nested() {
                return Err(Error::invalid(format!(
                    "ZORDER BY takes columns that filters compare, and '{name}' is of type {data_type}: leave it out"
                )));
            }
        }
        Ok(())
    }

    /// The query of all rows in this order, if it is one; with a partition's rows together, so that its cells are as few as
    /// they can be. A Z-curve's has a parameter for each of its columns: see [`super::z_order`].
    pub(crate) fn query(&self, state: &FrameState) -> (String, bool) {
        let (all, target) = (columns(&state.schema, |field| quoted(field.name())), quoted(TARGET));
        let named = |names: &[String]| names.iter().map(|name| quoted(name)).collect::<Vec<_>>();
        let (key, last) = match self {
            Self::Any => (None, Vec::new()),
            Self::Sorted(names) => (None, named(names)),
            Self::ZOrdered(names) => (Some(key(names)), vec![quoted(KEY)]),
        };
        let order = [named(&state.partition_by), last].concat();
        if order.is_empty() {
            return (format!("SELECT {all} FROM {target}"), false);
        }
        let from = key.map_or_else(|| target.clone(), |key| format!("(SELECT {all}, {key} FROM {target})"));
        (format!("SELECT {all} FROM {from} ORDER BY {}", order.join(", ")), true)
    }
}
