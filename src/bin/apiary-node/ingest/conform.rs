//! One schema for rows of several files, and rows brought to it without damage.
//!
//! The types of CSV and JSON files are guessed from their text, file by file, so the guesses for one column can differ,
//! and can differ from the type of the frame. A value is converted only if converting it back gives the same value
//! again: what does not survive that (a fraction into a whole number, a time into a date, a number whose leading zeros
//! are lost already into a text) is refused, with the column's name.

use std::sync::Arc;

use apiary::{Error, Result};
use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::util::display::array_value_to_string;

/// The columns of all `schemas`, which come with their files' names, in order of appearance.
///
/// A column that a file lacks is null in that file's rows. A column that is null everywhere is taken for text.
///
/// # Errors
/// [`apiary::ErrorKind::Schema`] when two files give a column types that have no common one.
pub(crate) fn unite(schemas: &[(String, SchemaRef)]) -> Result<SchemaRef> {
    let mut columns: Vec<Column> = Vec::new();
    for (file, schema) in schemas {
        for field in schema.fields() {
            match columns.iter_mut().find(|column| column.name == field.name()) {
                Some(column) => column.admit(file, field)?,
                None => columns.push(Column::new(file, field)),
            }
        }
    }
    Ok(Arc::new(Schema::new(columns.iter().map(|column| column.field(schemas.len())).collect::<Vec<_>>())))
}

/// `found` with the types that `frame` has for columns of the same name.
pub(crate) fn typed_as(found: &SchemaRef, frame: &SchemaRef) -> SchemaRef {
    let fields = found.fields().iter().map(|field| match frame.field_with_name(field.name()) {
        Ok(wanted) => Arc::new(Field::new(field.name(), wanted.data_type().clone(), field.is_nullable())),
        Err(_) => Arc::clone(field),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// `batch`, before which there were so many rows, with exactly the columns of `target`; what it lacks is null.
///
/// # Errors
/// [`apiary::ErrorKind::Schema`] when a value does not fit its column.
pub(crate) fn conform(batch: &RecordBatch, before: u64, target: &SchemaRef) -> Result<RecordBatch> {
    let columns = target.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) => convert(column, before, field),
        None => Ok(new_null_array(field.data_type(), batch.num_rows())),
    });
    let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
    RecordBatch::try_new(Arc::clone(target), columns).map_err(|e| Error::schema(e.to_string()))
}

/// A column that is being put together from several files.
struct Column<'a> {
    name: &'a str,
    data_type: DataType,
    nullable: bool,
    /// The first file that has it.
    file: &'a str,
    /// Files that have it.
    files: usize,
}

impl<'a> Column<'a> {
    fn new(file: &'a str, field: &'a Field) -> Self {
        Self { name: field.name(), data_type: field.data_type().clone(), nullable: field.is_nullable(), file, files: 1 }
    }

    fn admit(&mut self, file: &str, field: &Field) -> Result<()> {
        self.data_type = common(&self.data_type, field.data_type()).ok_or_else(|| {
            Error::schema(format!(
                "column {} is {} in {} and {} in {file}: \
                 ingest them one by one, or create the frame with the type you want",
                self.name,
                self.data_type,
                self.file,
                field.data_type()
            ))
        })?;
        self.nullable |= field.is_nullable();
        self.files += 1;
        Ok(())
    }

    fn field(&self, files: usize) -> Field {
        let data_type = if self.data_type.is_null() { DataType::Utf8 } else { self.data_type.clone() };
        Field::new(self.name, data_type, self.nullable || self.files < files)
    }
}

/// The type that takes the values of both, if there is one.
fn common(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{Date32, Float64, Int64, Null, Timestamp, UInt64, Utf8};
    let number = |t: &DataType| t.is_integer() || t.is_floating();
    match (a, b) {
        _ if a == b => Some(a.clone()),
        (Null, other) | (other, Null) => Some(other.clone()),
        _ if a.is_string() && b.is_string() => Some(Utf8),
        (UInt64, other) | (other, UInt64) if other.is_signed_integer() => None,
        _ if a.is_unsigned_integer() && b.is_unsigned_integer() => Some(UInt64),
        _ if a.is_integer() && b.is_integer() => Some(Int64),
        _ if number(a) && number(b) => Some(Float64),
        (Date32, time @ Timestamp(..)) | (time @ Timestamp(..), Date32) => Some(time.clone()),
        (Timestamp(one, zone), Timestamp(other, same)) if zone == same => {
            Some(Timestamp(finer(*one, *other), zone.clone()))
        }
        _ => None,
    }
}

fn finer(a: TimeUnit, b: TimeUnit) -> TimeUnit {
    let units = [TimeUnit::Nanosecond, TimeUnit::Microsecond, TimeUnit::Millisecond];
    units.into_iter().find(|unit| a == *unit || b == *unit).unwrap_or(TimeUnit::Second)
}

fn convert(column: &ArrayRef, before: u64, field: &Field) -> Result<ArrayRef> {
    let (from, to) = (column.data_type(), field.data_type());
    if from == to {
        return Ok(Arc::clone(column));
    }
    if is_text(to) && !is_text(from) && !from.is_null() {
        return Err(Error::schema(format!(
            "column {} is text in the frame and {from} in the file, where leading zeros may be lost already: \
             use INSERT INTO … SELECT with a cast",
            field.name()
        )));
    }
    let converted = cast(column, to).map_err(|error| match misfit(column, to) {
        Some((row, value)) => Error::schema(format!(
            "row {} has '{value}' in column {}, which is {to} in the frame: correct it, or ingest into another frame",
            before + row + 1,
            field.name()
        )),
        None => error.context(format_args!("column {}", field.name())),
    })?;
    if !is_text(from) && !from.is_null() && cast(&converted, from).ok().as_ref() != Some(column) {
        return Err(Error::schema(format!("column {} has {from} values that {to} cannot hold", field.name())));
    }
    Ok(converted)
}

fn cast(column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(column, to, &options).map_err(|e| Error::schema(e.to_string()))
}

/// The first value that has no place in a type, and its row.
fn misfit(column: &ArrayRef, to: &DataType) -> Option<(u64, String)> {
    let fitting = arrow::compute::cast(column, to).ok()?;
    let row = (0..column.len()).find(|row| column.is_valid(*row) && fitting.is_null(*row))?;
    Some((row as u64, array_value_to_string(column, row).ok()?))
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_text(values),
        other => other.is_string(),
    }
}

#[cfg(test)]
mod tests {
    use apiary::ErrorKind;
    use arrow::array::{Array, AsArray, Float64Array, Int32Array, Int64Array, StringArray};
    use arrow::datatypes::Float64Type;

    use super::*;

    fn schema(fields: &[(&str, DataType, bool)]) -> SchemaRef {
        let fields = fields.iter().map(|(name, data_type, nullable)| Field::new(*name, data_type.clone(), *nullable));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    fn united(one: &[(&str, DataType, bool)], other: &[(&str, DataType, bool)]) -> Result<SchemaRef> {
        unite(&[("one.csv".into(), schema(one)), ("other.csv".into(), schema(other))])
    }

    fn converted(column: impl Array + 'static, to: DataType) -> Result<ArrayRef> {
        convert(&(Arc::new(column) as ArrayRef), 0, &Field::new("x", to, true))
    }

    #[test]
    fn guesses_meet_at_a_common_type() {
        let result = united(
            &[("a", DataType::Int64, false), ("b", DataType::Null, true), ("c", DataType::Int32, false)],
            &[("a", DataType::Float64, false), ("b", DataType::Date32, true), ("d", DataType::Null, true)],
        );
        let expected = schema(&[
            ("a", DataType::Float64, false),
            ("b", DataType::Date32, true),
            ("c", DataType::Int32, true),
            ("d", DataType::Utf8, true),
        ]);
        assert_eq!(result.unwrap(), expected);
    }

    #[test]
    fn guesses_that_cannot_meet_name_column_and_files() {
        let error = united(&[("zip", DataType::Int64, true)], &[("zip", DataType::Utf8, true)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema);
        for part in ["zip", "one.csv", "other.csv", "Int64", "Utf8"] {
            assert!(error.message().contains(part), "{error}");
        }
    }

    #[test]
    fn common_types_do_not_depend_on_the_order() {
        let types = [
            DataType::Null,
            DataType::Int32,
            DataType::Int64,
            DataType::UInt32,
            DataType::UInt64,
            DataType::Float32,
            DataType::Utf8,
            DataType::LargeUtf8,
            DataType::Date32,
            DataType::Timestamp(TimeUnit::Second, None),
            DataType::Timestamp(TimeUnit::Nanosecond, None),
            DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
            DataType::Boolean,
        ];
        for a in &types {
            for b in &types {
                assert_eq!(common(a, b), common(b, a), "{a} {b}");
            }
        }
    }

    #[test]
    fn the_frames_types_win_and_unknown_columns_stay() {
        let found = schema(&[("a", DataType::Int64, true), ("new", DataType::Utf8, true)]);
        let frame = schema(&[("a", DataType::Int32, false), ("b", DataType::Utf8, true)]);
        let expected = schema(&[("a", DataType::Int32, true), ("new", DataType::Utf8, true)]);
        assert_eq!(typed_as(&found, &frame), expected);
    }

    #[test]
    fn values_that_survive_are_converted() {
        assert_eq!(
            &converted(Int64Array::from(vec![Some(7), None]), DataType::Int32).unwrap(),
            &(Arc::new(Int32Array::from(vec![Some(7), None])) as ArrayRef)
        );
        assert!(converted(Float64Array::from(vec![2.0]), DataType::Int64).is_ok());
        assert!(converted(StringArray::from(vec!["2024-02-29"]), DataType::Date32).is_ok());
        assert!(converted(StringArray::from(vec!["x"]), DataType::Utf8View).is_ok());
        assert!(converted(arrow::array::NullArray::new(2), DataType::Utf8).is_ok());
    }

    #[test]
    fn values_that_would_be_damaged_are_refused() {
        for refused in [
            converted(Int64Array::from(vec![1 << 40]), DataType::Int32),
            converted(Int64Array::from(vec![(1 << 53) + 1]), DataType::Float64),
            converted(Float64Array::from(vec![0.5]), DataType::Int64),
            converted(Int64Array::from(vec![7]), DataType::Utf8),
            converted(StringArray::from(vec!["soon"]), DataType::Date32),
        ] {
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Schema);
            assert!(error.message().contains("column x"), "{error}");
        }
    }

    #[test]
    fn missing_columns_are_null_and_the_order_is_the_targets() {
        let batch = RecordBatch::try_from_iter([("b", Arc::new(Int64Array::from(vec![3])) as ArrayRef)]).unwrap();
        let target = schema(&[("a", DataType::Utf8, true), ("b", DataType::Float64, true)]);
        let rows = conform(&batch, 0, &target).unwrap();
        assert!(rows.column(0).is_null(0));
        assert_eq!(rows.column(1).as_primitive::<Float64Type>().value(0), 3.0);
    }
}
