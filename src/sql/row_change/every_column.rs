//! `UPDATE SET *` and `INSERT *` of a MERGE: which of the source's columns are meant.

use arrow::datatypes::{FieldRef, SchemaRef};

use super::{Action, Body, Clause, Merging, RowChange, SOURCE, Values, quoted};
use crate::{Error, Result};

impl RowChange {
    /// The query that gives the source of a MERGE, if some of its clauses take whatever columns it has.
    pub fn source_of_rows(&self) -> Option<String> {
        let Body::Merge(Merging { source, clauses, .. }) = &self.body else { return None };
        let takes = |clause: &Clause| matches!(clause.action, Action::UpdateRow | Action::InsertRow);
        clauses.iter().any(takes).then(|| format!("SELECT * FROM {} AS {source}", quoted(SOURCE)))
    }

    /// The same change with each column named where all were meant: a column of the source goes by its name, whatever its
    /// case where no other is meant.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] for a column of the frame that the source does not have.
    pub fn spelled_out(mut self, frame: &SchemaRef, source: &SchemaRef) -> Result<Self> {
        if let Body::Merge(merging) = &mut self.body {
            for clause in &mut merging.clauses {
                clause.action = match clause.action {
                    Action::UpdateRow => Action::Update(rows_values(frame, source, &merging.source)?),
                    Action::InsertRow => Action::Insert(rows_values(frame, source, &merging.source)?),
                    _ => continue,
                };
            }
        }
        Ok(self)
    }
}

/// The source's columns as values of the frame's.
fn rows_values(frame: &SchemaRef, source: &SchemaRef, s: &str) -> Result<Values> {
    let there = || source.fields().iter().map(|field| field.name().as_str());
    let value = |field: &FieldRef| {
        let (name, mut alike) = (field.name(), there().filter(|other| other.eq_ignore_ascii_case(field.name())));
        let found = match (there().find(|other| other == name), alike.next(), alike.next()) {
            (Some(found), ..) | (None, Some(found), None) => found,
            (None, Some(one), Some(other)) => {
                return Err(Error::invalid(format!(
                    "column '{name}' could be '{one}' or '{other}' of the source: name the columns, as SET {name} = …"
                )));
            }
            (None, None, _) => {
                return Err(Error::not_found(format!(
                    "the source of MERGE has no column '{name}', and * stands for all columns of the frame: name those \
                     that are meant, as SET … or INSERT (…) VALUES (…); the source has {}",
                    there().collect::<Vec<_>>().join(", ")
                )));
            }
        };
        Ok((name.clone(), format!("{s}.{}", quoted(found))))
    };
    frame.fields().iter().map(value).collect()
}
