//! The order of rows along a Z-curve: rows that are near each other in it are so in each of its columns, and a filter on any of
//! them leaves many cells out.
//!
//! ```text
//! a sample of the rows ──▶ bounds with as many values between any two ──▶ a value's rank among them ──▶ a row's key
//! ```
//!
//! By ranks it is all the same what type a column has and how its values are spread; they are compared as bytes that have
//! their order (Arrow's row format). The key has the bits of all ranks in turn. A function makes it from bounds and values, for
//! the query that sorts by it: no cell holds it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch, UInt64Array};
use arrow::datatypes::DataType;
use arrow::row::{Row, RowConverter, Rows, SortField};
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::planner::Params;
use super::row_change::{TARGET, quoted};
use crate::Error;

/// Columns of a Z-curve at most: with more, the first bits of the key hold too little of each to leave out a cell.
pub(crate) const MAX_COLUMNS: usize = 8;
/// What the query that sorts calls a row's key.
pub(crate) const KEY: &str = "the z key";
/// The function's name.
const NAME: &str = "the_z_key";
/// Bits of a rank at most: of two columns they tell apart more places than a frame has cells, and bounds stay small.
const RANK_BITS: usize = 12;
/// Rows of a sample, more or less: eight between two bounds.
const SAMPLE_ROWS: u64 = 8 << RANK_BITS;
/// Bytes of a value that count: a sample of long texts must not take a bee's memory.
const VALUE_BYTES: usize = 64;

/// The function `the_z_key(bounds of a, a, bounds of b, b, …)`, for tasks that name it.
pub fn function() -> Arc<ScalarUDF> {
    let signature = Signature::variadic_any(Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(ZKey { signature }))
}

/// What a query gives for the key of rows by `columns`; the bounds of each are a parameter.
pub(crate) fn key(columns: &[String]) -> String {
    let pairs = columns.iter().enumerate().map(|(at, column)| format!("${}, {}", at + 1, quoted(column)));
    format!("{NAME}({}) AS {}", pairs.collect::<Vec<_>>().join(", "), quoted(KEY))
}

/// The query of the values that a [`Sample`] wants from a frame of so many rows.
pub(crate) fn sampling(columns: &[String], rows: u64) -> String {
    let columns: Vec<_> = columns.iter().map(|column| quoted(column)).collect();
    let share = SAMPLE_ROWS as f64 / rows as f64;
    let some = if share < 1.0 { format!(" WHERE random() < {share:.9}") } else { String::new() };
    format!("SELECT {} FROM {}{some}", columns.join(", "), quoted(TARGET))
}

/// Values of each column, without nulls, as they are compared.
pub(crate) struct Sample(Vec<Vec<Box<[u8]>>>);

impl Sample {
    pub(crate) fn new(columns: usize) -> Self {
        Self(vec![Vec::new(); columns])
    }

    /// Takes all rows of a batch.
    pub(crate) fn add(&mut self, batch: &RecordBatch) -> Result<(), DataFusionError> {
        for (sample, column) in self.0.iter_mut().zip(batch.columns()) {
            let values = comparable(column)?;
            let known = values.iter().enumerate().filter(|(row, _)| column.is_valid(*row));
            sample.extend(known.map(|(_, value)| Box::from(counted(value))));
        }
        Ok(())
    }

    /// The columns' bounds, as the query of [`key`] has them for parameters.
    pub(crate) fn bounds(self) -> Params {
        let count = (1 << rank_bits(self.0.len())) - 2;
        let list = |values| SingleRowListArrayBuilder::new(Arc::new(bounds(values, count))).build_list_scalar();
        Params::Positional(self.0.into_iter().map(list).collect())
    }
}

/// `count` of the values, rising, with as many between any two; what is there often may be several of them.
fn bounds(mut values: Vec<Box<[u8]>>, count: usize) -> BinaryArray {
    values.sort_unstable();
    let places = (1..=count).map(|at| at * values.len() / (count + 1));
    BinaryArray::from_iter_values(places.filter_map(|place| values.get(place)))
}

/// Bits of a rank where there are so many columns: those of all fit into the key.
fn rank_bits(columns: usize) -> usize {
    (u64::BITS as usize / columns.max(1)).min(RANK_BITS)
}

/// A column's values as bytes that have their order.
fn comparable(column: &ArrayRef) -> Result<Rows, DataFusionError> {
    let converter = RowConverter::new(vec![SortField::new(column.data_type().clone())])?;
    Ok(converter.convert_columns(&[Arc::clone(column)])?)
}

/// What counts of a value.
fn counted(value: Row<'_>) -> &[u8] {
    let bytes = value.data();
    &bytes[..bytes.len().min(VALUE_BYTES)]
}

/// A value's place among bounds, from 1; of one that is several of them it is the middle.
fn rank(value: &[u8], bounds: &[&[u8]]) -> u64 {
    let below = bounds.partition_point(|bound| *bound < value);
    let same = match bounds.get(below) == Some(&value) {
        true => bounds[below..].partition_point(|bound| *bound == value),
        false => 0,
    };
    (below + same / 2) as u64 + 1
}

/// The ranks of a column; nulls have one of their own, below all others.
fn ranks(column: &ArrayRef, bounds: &BinaryArray) -> Result<Vec<u64>, DataFusionError> {
    let (values, bounds) = (comparable(column)?, bounds.iter().flatten().collect::<Vec<_>>());
    let rank_of = |(row, value)| if column.is_null(row) { 0 } else { rank(counted(value), &bounds) };
    Ok(values.iter().enumerate().map(rank_of).collect())
}

/// The lowest `bits` of a rank, with room for those of `columns - 1` others between them.
fn spread(rank: u64, bits: usize, columns: usize) -> u64 {
    (0..bits).fold(0, |key, bit| key | ((rank >> bit) & 1) << (bit * columns))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ZKey {
    signature: Signature,
}

impl ScalarUDFImpl for ZKey {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(DataType::UInt64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        let (pairs, rest) = args.args.as_chunks::<2>();
        if !rest.is_empty() || !(1..=MAX_COLUMNS).contains(&pairs.len()) {
            return Err(misused().into());
        }
        let (columns, bits) = (pairs.len(), rank_bits(pairs.len()));
        let mut keys = vec![0u64; args.number_rows];
        for (at, [bounds, values]) in pairs.iter().enumerate() {
            let ColumnarValue::Scalar(ScalarValue::List(bounds)) = bounds else { return Err(misused().into()) };
            let bounds = bounds.values().as_binary_opt::<i32>().ok_or_else(misused)?;
            let ranks = ranks(&values.to_array(args.number_rows)?, bounds)?;
            for (key, rank) in keys.iter_mut().zip(ranks) {
                *key |= spread(rank, bits, columns) << (columns - 1 - at);
            }
        }
        Ok(ColumnarValue::Array(Arc::new(UInt64Array::from(keys))))
    }
}

fn misused() -> Error {
    Error::invalid(format!("{NAME} takes bounds and a column in turn, of {MAX_COLUMNS} columns at most"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use arrow::array::{BooleanArray, Float64Array, Int64Array, StringViewArray};
    use arrow::datatypes::Field;
    use datafusion::common::config::ConfigOptions;

    use super::*;

    fn bounds_of(columns: &[ArrayRef]) -> Vec<ScalarValue> {
        let mut sample = Sample::new(columns.len());
        let named = columns.iter().enumerate().map(|(at, column)| (at.to_string(), Arc::clone(column)));
        sample.add(&RecordBatch::try_from_iter(named).unwrap()).unwrap();
        let Params::Positional(bounds) = sample.bounds() else { unreachable!("positional") };
        bounds
    }

    /// The keys of rows that are all in the sample.
    fn keys(columns: &[ArrayRef]) -> Vec<u64> {
        let pairs = bounds_of(columns).into_iter().zip(columns);
        let args: Vec<_> =
            pairs.flat_map(|(b, c)| [ColumnarValue::Scalar(b), ColumnarValue::Array(Arc::clone(c))]).collect();
        keys_of(args, columns[0].len()).unwrap()
    }

    fn keys_of(args: Vec<ColumnarValue>, number_rows: usize) -> Result<Vec<u64>, DataFusionError> {
        let field = |arg: &ColumnarValue| Arc::new(Field::new("", arg.data_type(), true));
        let arg_fields = args.iter().map(field).collect();
        let return_field = Arc::new(Field::new("", DataType::UInt64, true));
        let config_options = Arc::new(ConfigOptions::default());
        let args = ScalarFunctionArgs { args, arg_fields, number_rows, return_field, config_options };
        let ColumnarValue::Array(keys) = function().invoke_with_args(args)? else { unreachable!("an array") };
        Ok(keys.as_primitive::<arrow::datatypes::UInt64Type>().values().to_vec())
    }

    #[test]
    fn a_key_has_the_bits_of_its_ranks_in_turn() {
        assert_eq!(spread(0b101, 3, 2), 0b01_00_01);
        assert_eq!((spread(0b101, 3, 2) << 1) | spread(0b011, 3, 2), 0b10_01_11);
        assert_eq!((spread(u64::MAX, 8, 8) << 7).leading_zeros(), 0);
        for columns in 1..=MAX_COLUMNS {
            let bits = rank_bits(columns);
            let all = (0..columns).map(|at| spread(u64::MAX, bits, columns) << at);
            assert_eq!(all.fold(0, |key, rank| key ^ rank).count_ones() as usize, bits * columns);
        }
    }

    #[test]
    fn ranks_rise_with_values_of_any_type_and_nulls_are_below() {
        let numbers = [None, Some(-7i64), Some(0), Some(3), Some(i64::MAX)];
        let columns: [ArrayRef; 4] = [
            Arc::new(Int64Array::from_iter(numbers)),
            Arc::new(Float64Array::from(vec![None, Some(f64::NEG_INFINITY), Some(-0.5), Some(1e300), Some(f64::NAN)])),
            Arc::new(StringViewArray::from(vec![
                None,
                Some(""),
                Some("a"),
                Some("a longer text than a view"),
                Some("b"),
            ])),
            Arc::new(StringViewArray::from_iter(numbers.map(|n| n.map(|_| "the same")))),
        ];
        for column in &columns[..3] {
            assert!(keys(&[Arc::clone(column)]).is_sorted_by(|a, b| a < b), "{column:?}");
        }
        let same: BTreeSet<u64> = keys(&[Arc::clone(&columns[3])]).into_iter().collect();
        assert_eq!(same.len(), 2, "nulls, and the one value");
        assert!(keys(&columns).is_sorted());
    }

    #[test]
    fn few_values_among_many_still_part_the_rows() {
        let few: ArrayRef = Arc::new(BooleanArray::from_iter((0..1000).map(|row| Some(row % 2 == 0))));
        let many: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
        let mut rows: Vec<_> = keys(&[many, few]).into_iter().zip(0..1000).collect();
        rows.sort_unstable();
        // A quarter of the rows has one of the two values, and half of the others.
        for quarter in rows.chunks(250) {
            let (values, halves): (BTreeSet<_>, BTreeSet<_>) =
                quarter[5..245].iter().map(|(_, row)| (row % 2, row / 500)).unzip();
            assert_eq!((values.len(), halves.len()), (1, 1));
        }
    }

    #[test]
    fn what_a_user_may_give_the_function_is_refused() {
        let column = || ColumnarValue::Array(Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef);
        let bounds = || ColumnarValue::Scalar(bounds_of(&[Arc::new(Int64Array::from(vec![1]))]).remove(0));
        assert_eq!(keys_of(vec![bounds(), column()], 2).unwrap().len(), 2);
        let nine: Vec<_> = (0..9).flat_map(|_| [bounds(), column()]).collect();
        for args in [vec![column()], vec![column(), column()], vec![bounds(), column(), bounds()], nine] {
            assert!(keys_of(args, 2).is_err());
        }
    }
}
