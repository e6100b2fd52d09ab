//! Types and columns: how Arrow data becomes a frame's data, and what is refused with a sentence.
//!
//! A frame is a Delta table, and Delta has fewer types than Arrow. What maps without loss is mapped (`UInt8` → `SMALLINT`,
//! dictionaries → their values, `LargeUtf8` → `STRING`, …); what could lose something is refused, never cut.
//! Data written to an existing frame may be narrower than the frame (a widening cast), may lack nullable columns (filled
//! with null), and may not bring columns that the frame does not have.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DataType, Date64Type, Field, FieldRef, Fields, Float32Type, Float64Type, Schema, SchemaRef, TimeUnit,
    TimestampNanosecondType,
};

use crate::{Error, Result};

const STRICT: CastOptions<'static> =
    CastOptions { safe: false, format_options: arrow::util::display::FormatOptions::new() };

/// The schema a frame gets when it is created with `schema`.
///
/// # Errors
/// [`crate::ErrorKind::Schema`] naming the column whose type Delta has no lossless place for, or a column named twice.
pub fn frame_schema(schema: &Schema) -> Result<SchemaRef> {
    let mut seen = std::collections::HashSet::new();
    for field in schema.fields() {
        if field.name().is_empty() {
            return Err(Error::schema("a column has no name: give every column one"));
        }
        if !seen.insert(field.name().to_lowercase()) {
            return Err(Error::schema(format!(
                "column '{}' is there twice (case does not tell columns apart)",
                field.name()
            )));
        }
    }
    if schema.fields().is_empty() {
        return Err(Error::schema("the schema has no columns: a frame needs at least one"));
    }
    if let Some(deep) = schema.fields().iter().find(|field| is_deeper(field.data_type(), MAX_DEPTH)) {
        return Err(Error::schema(format!("column '{}' is nested more than {MAX_DEPTH} levels deep", deep.name())));
    }
    let fields: Result<Vec<_>> = schema.fields().iter().map(|f| frame_field(f)).collect();
    Ok(Arc::new(Schema::new(fields?)))
}

/// Levels of lists, structs and maps within each other: readers go through them by recursion.
const MAX_DEPTH: usize = 50;

fn is_deeper(data_type: &DataType, levels: usize) -> bool {
    let below = |field: &Field| levels == 0 || is_deeper(field.data_type(), levels - 1);
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => below(item),
        DataType::Struct(fields) => fields.iter().any(|field| below(field)),
        _ => false,
    }
}

/// Characters that Delta tables do not have in names.
const NOT_IN_NAMES: [char; 10] = [' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '='];

/// Refuses names that a table cannot have.
///
/// # Errors
/// [`crate::ErrorKind::Schema`] with the name.
pub(super) fn check_column_name(name: &str) -> Result<()> {
    match name.contains(NOT_IN_NAMES) {
        true => Err(Error::schema(format!(
            "column '{name}' has a space or one of , ; {{ }} ( ) = in its name, which tables cannot have: give it another \
             name, with AS or by renaming it in the data"
        ))),
        false => Ok(()),
    }
}

fn frame_field(field: &Field) -> Result<Field> {
    check_column_name(field.name())?;
    let data_type = frame_type(field.name(), field.data_type())?;
    Ok(Field::new(field.name(), data_type, field.is_nullable()))
}

fn frame_type(column: &str, data_type: &DataType) -> Result<DataType> {
    use DataType as T;
    let utc = || Some("UTC".into());
    let refuse =
        |why: &str| Err(Error::schema(format!("column '{column}' is {data_type}, which a frame cannot hold: {why}")));
    Ok(match data_type {
        T::Boolean | T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::Float32 | T::Float64 | T::Date32 => {
            data_type.clone()
        }
        T::UInt8 => T::Int16,
        T::UInt16 => T::Int32,
        T::UInt32 => T::Int64,
        T::UInt64 => T::Decimal128(20, 0),
        T::Float16 => T::Float32,
        T::Utf8 | T::LargeUtf8 | T::Utf8View => T::Utf8,
        T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => T::Binary,
        T::Date64 => T::Timestamp(TimeUnit::Microsecond, None),
        T::Timestamp(_, None) => T::Timestamp(TimeUnit::Microsecond, None),
        T::Timestamp(_, Some(_)) => T::Timestamp(TimeUnit::Microsecond, utc()),
        T::Decimal32(p, s) | T::Decimal64(p, s) | T::Decimal128(p, s) if *s >= 0 => T::Decimal128(*p, *s),
        T::Decimal256(p, s) if *p <= 38 && *s >= 0 => T::Decimal128(*p, *s),
        T::Decimal256(..) => return refuse("decimals have at most 38 digits; cast it to DECIMAL(38, s) or DOUBLE"),
        T::Decimal32(..) | T::Decimal64(..) | T::Decimal128(..) => {
            return refuse("decimals have no negative scale; cast it");
        }
        T::Dictionary(_, value) => frame_type(column, value)?,
        T::List(item) | T::LargeList(item) | T::ListView(item) | T::LargeListView(item) | T::FixedSizeList(item, _) => {
            T::List(Arc::new(Field::new("element", frame_type(column, item.data_type())?, item.is_nullable())))
        }
        T::Struct(fields) => {
            let mut seen = std::collections::HashSet::new();
            if fields.is_empty() || fields.iter().any(|f| f.name().is_empty() || !seen.insert(f.name().to_lowercase()))
            {
                return refuse("each of its parts needs a name of its own (case does not tell them apart)");
            }
            T::Struct(fields.iter().map(|f| frame_field(f)).collect::<Result<Fields>>()?)
        }
        T::Map(entries, _) => map_type(column, entries)?,
        T::Null => return refuse("it holds only nulls; cast it to the type that its values will have"),
        T::Time32(_) | T::Time64(_) => {
            return refuse("there is no time-of-day type; cast it to a timestamp or an integer");
        }
        T::Duration(_) | T::Interval(_) => return refuse("there is no interval type; cast it to an integer"),
        T::Union(..) | T::RunEndEncoded(..) => return refuse("cast it to a plain type"),
    })
}

fn map_type(column: &str, entries: &FieldRef) -> Result<DataType> {
    let DataType::Struct(pair) = entries.data_type() else {
        return Err(Error::schema(format!("column '{column}' is a map without keys and values")));
    };
    let [key, value] = &pair[..] else {
        return Err(Error::schema(format!("column '{column}' is a map without keys and values")));
    };
    let pair = vec![
        Field::new("key", frame_type(column, key.data_type())?, false),
        Field::new("value", frame_type(column, value.data_type())?, value.is_nullable()),
    ];
    Ok(DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(pair.into()), false)), false))
}

/// Checks partition columns against a frame's schema and puts them in its spelling.
///
/// # Errors
/// [`crate::ErrorKind::Schema`] for a column that is missing, doubled, nested or a float, or when no column is left.
pub fn partition_columns(schema: &Schema, partition_by: &[String]) -> Result<Vec<String>> {
    let mut columns = Vec::new();
    for name in partition_by {
        let field = find(schema.fields(), name)
            .ok_or_else(|| Error::schema(format!("partition column '{name}' is not a column of the frame")))?;
        if field.data_type().is_nested() || field.data_type().is_floating() || field.data_type() == &DataType::Binary {
            return Err(Error::schema(format!(
                "column '{name}' of type {} cannot partition a frame: use an integer, string, date, timestamp, decimal or boolean",
                field.data_type()
            )));
        }
        if field.name().split(['/', '\\']).any(|part| part == "." || part == "..") {
            return Err(Error::schema(format!(
                "column '{name}' cannot partition a frame: its values are folders, and the name would lead elsewhere"
            )));
        }
        if columns.contains(field.name()) {
            return Err(Error::schema(format!("partition column '{name}' is there twice")));
        }
        columns.push(field.name().clone());
    }
    if columns.len() == schema.fields().len() {
        return Err(Error::schema("every column is a partition column: leave at least one for the cells"));
    }
    Ok(columns)
}

/// How batches of one input schema become batches of a frame.
#[derive(Debug, Clone)]
pub struct Coercion {
    target: SchemaRef,
    sources: Vec<Option<usize>>,
}

impl Coercion {
    /// Plans the change from `input` to `target`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Schema`] naming the column that is unknown, missing or of another type, and what was wanted.
    pub fn plan(input: &Schema, target: &SchemaRef) -> Result<Self> {
        if input.fields().is_empty() {
            return Err(Error::schema(format!("the data has no columns, and the frame has {}", names(target))));
        }
        let mut seen = std::collections::HashSet::new();
        if let Some(twice) = input.fields().iter().find(|f| !seen.insert(f.name().to_lowercase())) {
            return Err(Error::schema(format!(
                "column '{}' is there twice in the data (case does not tell columns apart): drop or rename one",
                twice.name()
            )));
        }
        if let Some(unknown) = input.fields().iter().find(|f| find(target.fields(), f.name()).is_none()) {
            return Err(Error::schema(format!(
                "column '{}' is not in the frame, which has {}: drop or rename it",
                unknown.name(),
                names(target)
            )));
        }
        let sources = target.fields().iter().map(|field| source_of(input, field)).collect::<Result<_>>()?;
        Ok(Self { target: Arc::clone(target), sources })
    }

    /// Leaves strings and binaries that come as views as they are, but for the columns of `plain`: the Parquet writer
    /// takes both, and copying them out is a tenth of the work of writing.
    #[must_use]
    pub fn keeping_views(mut self, input: &Schema, plain: &[String]) -> Self {
        let fields = self.target.fields().iter().zip(&self.sources).map(|(field, source)| {
            let given = source.map(|index| input.field(index).data_type());
            match (field.data_type(), given) {
                (DataType::Utf8, Some(view @ DataType::Utf8View))
                | (DataType::Binary, Some(view @ DataType::BinaryView))
                    if !plain.contains(field.name()) =>
                {
                    Arc::new(field.as_ref().clone().with_data_type(view.clone()))
                }
                _ => Arc::clone(field),
            }
        });
        self.target = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        self
    }

    /// The schema of changed batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.target
    }

    /// Changes one batch.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Schema`] when a value does not fit: out of range, sub-microsecond time, or null in a column
    /// that takes none.
    pub fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.target.fields().iter().zip(&self.sources).map(|(field, source)| match source {
            Some(index) => coerce(field, batch.column(*index)),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        });
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.target), columns.collect::<Result<_>>()?, &options)?)
    }
}

fn names(schema: &Schema) -> String {
    schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ")
}

fn source_of(input: &Schema, target: &Field) -> Result<Option<usize>> {
    let Some(field) = find(input.fields(), target.name()) else {
        if target.is_nullable() {
            return Ok(None);
        }
        return Err(Error::schema(format!(
            "column '{}' is missing and takes no nulls: add it to the data",
            target.name()
        )));
    };
    if !widens(field.data_type(), target.data_type()) {
        return Err(Error::schema(format!(
            "column '{}' is {} and the frame has {}: cast it",
            target.name(),
            field.data_type(),
            target.data_type()
        )));
    }
    Ok(input.index_of(field.name()).ok())
}

fn coerce(field: &Field, array: &ArrayRef) -> Result<ArrayRef> {
    if !field.is_nullable() && array.logical_null_count() > 0 {
        return Err(Error::schema(format!("column '{}' takes no nulls and the data has some", field.name())));
    }
    if array.data_type() == field.data_type() {
        return Ok(with_one_nan(array));
    }
    let unfit = |e: arrow::error::ArrowError| {
        Error::schema(format!("column '{}' does not fit {}: {e}", field.name(), field.data_type()))
    };
    let values = match array.data_type() {
        DataType::Dictionary(_, values) => &cast_with_options(array, values, &STRICT).map_err(unfit)?,
        _ => array,
    };
    refuse_lost_nanoseconds(field.name(), values)?;
    refuse_far_days(field.name(), values)?;
    cast_with_options(values, field.data_type(), &STRICT).map(|cast| with_one_nan(&cast)).map_err(unfit)
}

/// NaN has many bit patterns, and those with a sign would sort below all numbers: a frame has one, above them.
fn with_one_nan(array: &ArrayRef) -> ArrayRef {
    if let Some(doubles) = array.as_primitive_opt::<Float64Type>()
        && doubles.values().iter().any(|x| x.is_nan() && x.to_bits() != f64::NAN.to_bits())
    {
        return Arc::new(doubles.unary::<_, Float64Type>(|x| if x.is_nan() { f64::NAN } else { x }));
    }
    if let Some(floats) = array.as_primitive_opt::<Float32Type>()
        && floats.values().iter().any(|x| x.is_nan() && x.to_bits() != f32::NAN.to_bits())
    {
        return Arc::new(floats.unary::<_, Float32Type>(|x| if x.is_nan() { f32::NAN } else { x }));
    }
    Arc::clone(array)
}

/// A cast of days in milliseconds would wrap around.
fn refuse_far_days(column: &str, array: &ArrayRef) -> Result<()> {
    let Some(days) = array.as_primitive_opt::<Date64Type>() else { return Ok(()) };
    match days.iter().flatten().any(|ms| ms.checked_mul(1000).is_none()) {
        true => Err(Error::schema(format!("column '{column}' has days that are further off than a frame can hold"))),
        false => Ok(()),
    }
}

/// Frames keep microseconds: a cast would silently drop what is below.
fn refuse_lost_nanoseconds(column: &str, array: &ArrayRef) -> Result<()> {
    let Some(nanos) = array.as_primitive_opt::<TimestampNanosecondType>() else { return Ok(()) };
    if nanos.iter().flatten().any(|value| value % 1000 != 0) {
        return Err(Error::schema(format!(
            "column '{column}' has times finer than a microsecond, which a frame cannot hold: round them first"
        )));
    }
    Ok(())
}

/// Whether every value of `from` has its place in `to`, as far as the types tell.
fn widens(from: &DataType, to: &DataType) -> bool {
    use DataType as T;
    if from == to || from == &T::Null {
        return true;
    }
    match (from, to) {
        (T::Dictionary(_, value), _) => widens(value, to),
        (T::Int8, T::Int16 | T::Int32 | T::Int64 | T::Float32 | T::Float64) => true,
        (T::Int16 | T::UInt8, T::Int16 | T::Int32 | T::Int64 | T::Float32 | T::Float64) => true,
        (T::Int32 | T::UInt16, T::Int32 | T::Int64 | T::Float64) => true,
        (T::UInt32, T::Int64 | T::Float64) => true,
        (T::Float16, T::Float32 | T::Float64) | (T::Float32, T::Float64) => true,
        (from, T::Decimal128(p, s)) if from.is_integer() => integer_digits(from) <= i32::from(*p) - i32::from(*s),
        (
            T::Decimal32(fp, fs) | T::Decimal64(fp, fs) | T::Decimal128(fp, fs) | T::Decimal256(fp, fs),
            T::Decimal128(p, s),
        ) => fs <= s && i32::from(*fp) - i32::from(*fs) <= i32::from(*p) - i32::from(*s),
        (T::Utf8 | T::LargeUtf8 | T::Utf8View, T::Utf8) => true,
        (T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_), T::Binary) => true,
        (T::Date32 | T::Date64, T::Timestamp(TimeUnit::Microsecond, None)) => true,
        (T::Timestamp(_, from_zone), T::Timestamp(_, to_zone)) => from_zone.is_some() == to_zone.is_some(),
        (T::List(a) | T::LargeList(a) | T::ListView(a) | T::LargeListView(a) | T::FixedSizeList(a, _), T::List(b)) => {
            widens(a.data_type(), b.data_type()) && no_nanoseconds(a.data_type())
        }
        (T::Struct(a), T::Struct(b)) => {
            a.len() == b.len()
                && a.iter().zip(b).all(|(x, y)| {
                    x.name() == y.name() && widens(x.data_type(), y.data_type()) && no_nanoseconds(x.data_type())
                })
        }
        (T::Map(a, _), T::Map(b, _)) => match (a.data_type(), b.data_type()) {
            (T::Struct(x), T::Struct(y)) if x.len() == 2 && y.len() == 2 => {
                (0..2).all(|i| widens(x[i].data_type(), y[i].data_type()) && no_nanoseconds(x[i].data_type()))
            }
            _ => false,
        },
        _ => false,
    }
}

/// Nested nanoseconds are not checked value by value, so they are not taken.
fn no_nanoseconds(data_type: &DataType) -> bool {
    !matches!(data_type, DataType::Timestamp(TimeUnit::Nanosecond, _))
}

/// Decimal digits that the largest value of an integer type has.
fn integer_digits(data_type: &DataType) -> i32 {
    match data_type {
        DataType::Int8 | DataType::UInt8 => 3,
        DataType::Int16 | DataType::UInt16 => 5,
        DataType::Int32 | DataType::UInt32 => 10,
        DataType::Int64 => 19,
        _ => 20,
    }
}

/// The field of that name: the exact one, else the only one that differs in case.
pub(super) fn find<'a>(fields: &'a Fields, name: &str) -> Option<&'a FieldRef> {
    fields.find(name).map(|(_, f)| f).or_else(|| fields.iter().find(|f| f.name().eq_ignore_ascii_case(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int8Array, Int32Array, Int64Array, StringArray, TimestampNanosecondArray, UInt64Array};

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap()
    }

    fn target(fields: Vec<Field>) -> SchemaRef {
        Arc::new(Schema::new(fields))
    }

    #[test]
    fn narrower_data_is_widened_and_missing_columns_are_null() {
        let frame = target(vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)]);
        let input = batch(vec![("A", Arc::new(Int8Array::from(vec![1, 2])))]);
        let out = Coercion::plan(&input.schema(), &frame).unwrap().apply(&input).unwrap();
        assert_eq!(out.column(0).as_ref(), &Int64Array::from(vec![1, 2]) as &dyn Array);
        assert_eq!(out.column(1).null_count(), 2);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_column() {
        let frame = target(vec![Field::new("a", DataType::Int32, false)]);
        let cases: Vec<(RecordBatch, &str)> = vec![
            (batch(vec![("a", Arc::new(Int64Array::from(vec![1])))]), "cast it"),
            (
                batch(vec![("a", Arc::new(Int32Array::from(vec![1]))), ("z", Arc::new(StringArray::from(vec!["x"])))]),
                "'z'",
            ),
            (batch(vec![("a", Arc::new(Int32Array::from(vec![Some(1), None])))]), "no nulls"),
        ];
        for (input, wanted) in cases {
            let result = Coercion::plan(&input.schema(), &frame).and_then(|c| c.apply(&input));
            let message = result.unwrap_err().to_string();
            assert!(message.contains(wanted), "{message}");
        }
        let none = Coercion::plan(&Schema::empty(), &frame).unwrap_err();
        assert!(none.message().contains("the data has no columns"), "{none}");
    }

    #[test]
    fn nanoseconds_are_kept_or_refused_never_cut() {
        let frame =
            frame_schema(&Schema::new(vec![Field::new("t", DataType::Timestamp(TimeUnit::Nanosecond, None), true)]))
                .unwrap();
        let apply = |nanos: i64| {
            let input = batch(vec![("t", Arc::new(TimestampNanosecondArray::from(vec![nanos])))]);
            Coercion::plan(&input.schema(), &frame).unwrap().apply(&input)
        };
        assert!(apply(5_000).is_ok());
        assert!(apply(5_001).unwrap_err().message().contains("finer than a microsecond"));
    }

    #[test]
    fn unsigned_64_bit_keeps_its_largest_value() {
        let input = batch(vec![("u", Arc::new(UInt64Array::from(vec![u64::MAX])))]);
        let frame = frame_schema(&input.schema()).unwrap();
        let out = Coercion::plan(&input.schema(), &frame).unwrap().apply(&input).unwrap();
        let text = arrow::util::display::array_value_to_string(out.column(0), 0).unwrap();
        assert_eq!(text, u64::MAX.to_string());
    }

    #[test]
    fn types_without_a_place_are_refused() {
        for data_type in [
            DataType::Null,
            DataType::Time64(TimeUnit::Nanosecond),
            DataType::Duration(TimeUnit::Second),
            DataType::Decimal256(60, 2),
        ] {
            let schema = Schema::new(vec![Field::new("x", data_type, true)]);
            assert!(frame_schema(&schema).unwrap_err().message().contains("'x'"));
        }
    }
}
