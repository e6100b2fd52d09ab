//! What the ledger says about a cell's columns: rows, nulls, least and greatest values.
//!
//! The Parquet writer computes bounds and nulls anyway, so they are taken from its footer instead of looking at every
//! value again. The rules of Delta (which columns, how long strings are cut) stay delta_kernel's: it is shown one row
//! with the least and one with the greatest values of each row group, and its counts are put right afterwards. Cells
//! with nested columns are shown to it whole: a footer has no bounds for a struct.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float32Array, Float64Array, Int64Array, RecordBatch, StructArray};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Schema, SchemaRef};
use delta_kernel::expressions::ColumnName;
use delta_kernel::schema::StructType;
use delta_kernel_default_engine::stats::FileStatsAccumulator;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::file::metadata::ParquetMetaData;

use crate::{Error, Result};

/// Gathers what is to be said about one cell.
pub(crate) struct CellStats {
    kernel: FileStatsAccumulator,
    schema: SchemaRef,
    /// Columns in which a NaN was seen: footers leave them out, and they are greater than everything.
    nan: Vec<bool>,
    flat: bool,
}

impl CellStats {
    pub(crate) fn new(columns: &[ColumnName], physical: &StructType, schema: SchemaRef) -> Self {
        let flat = schema.fields().iter().all(|field| has_footer_bounds(field.data_type()));
        let nan = vec![false; schema.fields().len()];
        Self { kernel: FileStatsAccumulator::new(columns, physical), schema, nan, flat }
    }

    /// Takes in rows that are written to the cell.
    ///
    /// # Errors
    /// What delta_kernel says about nested columns.
    pub(crate) fn merge(&mut self, batch: &RecordBatch) -> Result<()> {
        if !self.flat {
            return Ok(self.kernel.merge(batch)?);
        }
        for (nan, column) in self.nan.iter_mut().zip(batch.columns()) {
            *nan = *nan || has_nan(column);
        }
        Ok(())
    }

    /// The statistics, with the footer of the finished cell.
    ///
    /// # Errors
    /// `Internal` for a cell without rows, or a footer that does not fit its schema.
    pub(crate) fn finish(mut self, footer: &ParquetMetaData) -> Result<StructArray> {
        let without_rows = || Error::internal("a cell without rows was closed");
        if !self.flat {
            return self.kernel.finish()?.ok_or_else(without_rows);
        }
        let mut nulls = Vec::new();
        let mut columns = Vec::new();
        for index in 0..self.schema.fields().len() {
            let (bounds, count) = self.footer_of(footer, index)?;
            columns.push(bounds);
            nulls.push((self.schema.field(index).name().clone(), count));
        }
        let nullable: Vec<_> = self.schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
        self.kernel.merge(&RecordBatch::try_new(Arc::new(Schema::new(nullable)), columns)?)?;
        let shown = self.kernel.finish()?.ok_or_else(without_rows)?;
        with_counts(&shown, footer.file_metadata().num_rows(), &nulls)
    }

    /// The least and the greatest values of a column, a row for each row group, and its nulls.
    fn footer_of(&self, footer: &ParquetMetaData, index: usize) -> Result<(ArrayRef, i64)> {
        let field = self.schema.field(index);
        let parquet = footer.file_metadata().schema_descr();
        let converter = StatisticsConverter::try_new(field.name(), &self.schema, parquet)?;
        let groups = footer.row_groups();
        let nulls = converter.row_group_null_counts(groups)?.iter().map(|n| n.unwrap_or(0) as i64).sum();
        let (least, greatest) = (converter.row_group_mins(groups)?, converter.row_group_maxes(groups)?);
        let mut bounds = vec![least, greatest];
        if self.nan[index] {
            bounds.push(nans(field.data_type(), groups.len()));
        } else {
            // Every column has the same number of rows.
            bounds.push(arrow::array::new_null_array(field.data_type(), groups.len()));
        }
        Ok((concat(&bounds.iter().map(AsRef::as_ref).collect::<Vec<_>>())?, nulls))
    }
}

/// Whether the Parquet writer's bounds of this type mean what delta_kernel's do.
fn has_footer_bounds(data_type: &DataType) -> bool {
    data_type.is_integer()
        || data_type.is_floating()
        || matches!(
            data_type,
            DataType::Boolean
                | DataType::Date32
                | DataType::Timestamp(..)
                | DataType::Decimal128(..)
                | DataType::Utf8
                | DataType::Utf8View
        ) && !matches!(data_type, DataType::Float16)
}

fn has_nan(column: &ArrayRef) -> bool {
    match column.data_type() {
        DataType::Float32 => column.as_primitive::<Float32Type>().values().iter().any(|v| v.is_nan()),
        DataType::Float64 => column.as_primitive::<Float64Type>().values().iter().any(|v| v.is_nan()),
        _ => false,
    }
}

fn nans(data_type: &DataType, count: usize) -> ArrayRef {
    match data_type {
        DataType::Float32 => Arc::new(Float32Array::from(vec![f32::NAN; count])),
        _ => Arc::new(Float64Array::from(vec![f64::NAN; count])),
    }
}

/// The statistics with these counts in the place of those of the rows that were shown.
fn with_counts(shown: &StructArray, rows: i64, nulls: &[(String, i64)]) -> Result<StructArray> {
    let one = |count: i64| Arc::new(Int64Array::from(vec![count])) as ArrayRef;
    let column = |(field, column): (&arrow::datatypes::FieldRef, &ArrayRef)| -> Result<ArrayRef> {
        match field.name().as_str() {
            "numRecords" => Ok(one(rows)),
            "nullCount" => {
                let counts = column.as_struct_opt().ok_or_else(|| Error::internal("null counts are no struct"))?;
                let of = |name: &str| nulls.iter().find(|(n, _)| n == name).map(|(_, count)| one(*count));
                let all =
                    counts.fields().iter().map(|f| of(f.name()).ok_or_else(|| Error::internal("a count too many")));
                let all = all.collect::<Result<Vec<_>>>()?;
                Ok(Arc::new(StructArray::try_new(counts.fields().clone(), all, None)?))
            }
            _ => Ok(Arc::clone(column)),
        }
    };
    let columns = shown.fields().iter().zip(shown.columns()).map(column).collect::<Result<Vec<_>>>()?;
    Ok(StructArray::try_new(shown.fields().clone(), columns, None)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{BooleanArray, Date32Array, Decimal128Array, Int32Array, StringArray};
    use delta_kernel::engine::arrow_conversion::TryIntoKernel;
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;

    use super::*;

    fn batch(from: i32) -> RecordBatch {
        let rows = 500;
        let numbers = || (from..from + rows).map(|n| (n % 7 != 0).then_some(n * 31 % 211 - 100));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("i", Arc::new(Int32Array::from_iter(numbers()))),
            ("l", Arc::new(Int64Array::from_iter(numbers().map(|n| n.map(|n| i64::from(n) << 33))))),
            ("f", Arc::new(Float64Array::from_iter(numbers().map(|n| n.map(f64::from))))),
            (
                "nan",
                Arc::new(Float64Array::from_iter((from..from + rows).map(|n| if n == 777 { f64::NAN } else { 1.5 }))),
            ),
            ("t", Arc::new(StringArray::from_iter(numbers().map(|n| n.map(|n| format!("text {n}")))))),
            ("long", Arc::new(StringArray::from_iter_values((0..rows).map(|n| format!("{n:>40}"))))),
            ("none", Arc::new(Int32Array::from(vec![None; rows as usize]))),
            ("d", Arc::new(Date32Array::from_iter(numbers()))),
            ("b", Arc::new(BooleanArray::from_iter(numbers().map(|n| n.map(|n| n > 0))))),
            (
                "m",
                Arc::new(
                    Decimal128Array::from_iter(numbers().map(|n| n.map(i128::from)))
                        .with_precision_and_scale(12, 2)
                        .unwrap(),
                ),
            ),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
    }

    #[test]
    fn a_footer_says_what_looking_at_every_value_says() {
        let batches = [batch(0), batch(500), batch(1000)];
        let schema = batches[0].schema();
        let physical: StructType = schema.as_ref().try_into_kernel().unwrap();
        let columns: Vec<ColumnName> = schema.fields().iter().map(|f| ColumnName::new([f.name().as_str()])).collect();
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(400)).build();
        let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties)).unwrap();
        let mut stats = CellStats::new(&columns, &physical, Arc::clone(&schema));
        let mut whole = FileStatsAccumulator::new(&columns, &physical);
        for batch in &batches {
            writer.write(batch).unwrap();
            stats.merge(batch).unwrap();
            whole.merge(batch).unwrap();
        }
        assert!(stats.flat);
        let footer = writer.finish().unwrap();
        assert!(footer.num_row_groups() > 2);
        let (stats, whole) = (stats.finish(&footer).unwrap(), whole.finish().unwrap().unwrap());
        let shown = |s: &StructArray| {
            let batch = RecordBatch::from(s.clone());
            arrow::util::pretty::pretty_format_batches(&[batch]).unwrap().to_string()
        };
        assert_eq!(shown(&stats), shown(&whole));
    }
}
