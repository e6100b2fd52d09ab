//! Values of partition columns, which a ledger has as texts.
//!
//! Others spell them in more ways than one, and as their type was before the column was made wider: `1` where the column
//! has come to be DECIMAL(12, 2), a day where it is a timestamp. An empty text is Delta's null, and so is none.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, MapArray, RecordBatch, StringArray, StructArray,
    TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, TimeUnit, TimestampMicrosecondType};

use super::frame_state::FrameState;
use crate::{Error, Result};

/// The texts that the ledger has, as the kernel lists them.
pub(super) fn texts(listed: &RecordBatch) -> Option<&MapArray> {
    let constants = listed.column_by_name("fileConstantValues")?.as_struct_opt()?;
    constants.column_by_name("partitionValues")?.as_map_opt()
}

/// The values of the partition columns by their names in the cells, one entry a cell.
///
/// # Errors
/// [`crate::ErrorKind::Corrupt`] for a text that is no value of its column.
pub(super) fn partition_values(listed: &RecordBatch, state: &FrameState) -> Result<StructArray> {
    let Some(texts) = texts(listed).filter(|_| !state.partition_by.is_empty()) else {
        return Ok(StructArray::new_empty_fields(listed.num_rows(), None));
    };
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for column in &state.partition_by {
        let (name, data_type) = (state.name_in_cells(column), state.schema.field_with_name(column)?.data_type());
        let values = parsed(&texts_of(texts, name), data_type)
            .map_err(|error| error.context(format!("partition column '{column}'")))?;
        fields.push(Field::new(name, values.data_type().clone(), true));
        columns.push(values);
    }
    Ok(StructArray::try_new(fields.into(), columns, None)?)
}

/// What the ledger says of one column, one entry a cell.
fn texts_of(values: &MapArray, name: &str) -> StringArray {
    let (names, texts) = (values.keys().as_string_opt::<i32>(), values.values().as_string_opt::<i32>());
    let text = |cell: usize| {
        let (names, texts, ends) = (names?, texts?, values.value_offsets());
        let mut entries = *ends.get(cell)? as usize..*ends.get(cell + 1)? as usize;
        let entry = entries.rfind(|entry| values.is_valid(cell) && names.value(*entry) == name)?;
        texts.is_valid(entry).then(|| texts.value(entry)).filter(|text| !text.is_empty())
    };
    (0..values.len()).map(text).collect()
}

fn parsed(texts: &StringArray, data_type: &DataType) -> Result<ArrayRef> {
    let values: ArrayRef = match data_type {
        DataType::Decimal128(precision, scale) => {
            let values = texts.iter().map(|text| text.and_then(|text| decimal(text, *scale)));
            let values = values.collect::<Decimal128Array>().null_if_overflow_precision(*precision);
            Arc::new(values.with_precision_and_scale(*precision, *scale)?)
        }
        // Without a zone of its own, a text is in UTC.
        DataType::Timestamp(TimeUnit::Microsecond, zone @ Some(_)) => {
            let values = cast(texts, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
            let values: TimestampMicrosecondArray = values.as_primitive::<TimestampMicrosecondType>().clone();
            Arc::new(values.with_timezone_opt(zone.clone()))
        }
        other => cast(texts, other)?,
    };
    // What is no value has become null.
    match (0..texts.len()).find(|cell| texts.is_valid(*cell) && values.is_null(*cell)) {
        Some(cell) => Err(Error::corrupt(format!("'{}' is no {data_type}", texts.value(cell)))),
        None => Ok(values),
    }
}

/// A decimal of any spelling, in units of `scale` digits behind the point; none when it has more digits than that.
fn decimal(text: &str, scale: i8) -> Option<i128> {
    let (base, exponent) = match text.split_once(['e', 'E']) {
        Some((base, exponent)) => (base, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = base.split_once('.').unwrap_or((base, ""));
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let up = i64::from(scale) + i64::from(exponent) - i64::try_from(fraction.len()).ok()?;
    let factor = u32::try_from(up.unsigned_abs()).ok().and_then(|power| 10_i128.checked_pow(power));
    match factor {
        _ if digits == 0 => Some(0),
        Some(factor) if up >= 0 => digits.checked_mul(factor),
        Some(factor) => (digits % factor == 0).then_some(digits / factor),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_read_in_every_spelling_and_never_rounded() {
        for (text, value) in [
            ("0", 0),
            ("1.5", 1500),
            ("-1.500", -1500),
            ("-0.5", -500),
            ("+7", 7000),
            (".25", 250),
            ("3.", 3000),
            ("1.5000", 1500),
            ("0E-10", 0),
            ("1E-3", 1),
            ("2e2", 200_000),
        ] {
            assert_eq!(decimal(text, 3), Some(value), "{text}");
        }
        for text in ["", "-", ".", "x", "1.2345", "1.-5", "1 ", "1e", "1E99", "1E-99", "0x1", "1.5.5"] {
            assert_eq!(decimal(text, 3), None, "{text}");
        }
    }

    #[test]
    fn values_of_a_former_type_are_read_as_the_present_one() {
        let texts = StringArray::from(vec![Some("2022-01-08"), None]);
        let moments = |zone: Option<&str>| DataType::Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
        for zone in [None, Some("UTC")] {
            let values = parsed(&texts, &moments(zone)).unwrap();
            assert_eq!(values.data_type(), &moments(zone));
            assert_eq!(values.as_primitive::<TimestampMicrosecondType>().value(0), 1_641_600_000_000_000);
            assert!(values.is_null(1));
        }
        let wide = parsed(&StringArray::from(vec!["123"]), &DataType::Decimal128(5, 2)).unwrap();
        assert_eq!(wide.data_type(), &DataType::Decimal128(5, 2));
        assert_eq!(wide.as_primitive::<arrow::datatypes::Decimal128Type>().value(0), 12_300);
        assert!(parsed(&StringArray::from(vec!["1234"]), &DataType::Decimal128(5, 2)).is_err());
        assert!(parsed(&StringArray::from(vec!["x"]), &DataType::Int64).is_err());
    }
}
