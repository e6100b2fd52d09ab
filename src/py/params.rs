//! Parameters of a query: Python values as the typed scalars that fill `$name` and `$1`.
//!
//! | Python | SQL |
//! |---|---|
//! | `None` | NULL |
//! | `bool`, `int`, `float`, `str`, `bytes` | BOOLEAN, BIGINT (unsigned or DECIMAL when larger), DOUBLE, VARCHAR, BYTEA |
//! | `decimal.Decimal` | DECIMAL with as many digits as it has |
//! | `datetime.date`, `time`, `timedelta` | DATE, TIME, INTERVAL |
//! | `datetime.datetime` | TIMESTAMP, in UTC where it has a time zone |
//! | `uuid.UUID` | VARCHAR |
//! | `list`, `tuple` of one of these | LIST |
//! | numpy and pyarrow scalars | as the Python value that they hold |

use std::collections::HashMap;

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, TimeUnit};
use datafusion::common::ScalarValue;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

use super::errors::raise;
use crate::Error;
use crate::actors::Params;

/// Levels of lists within each other: others go through them by recursion, and refuse more than some 60.
const LEVELS: usize = 50;

/// The parameters in a `dict` (named), a `list` or `tuple` (positional), or none.
pub(super) fn params_of(params: Option<&Bound<'_, PyAny>>) -> PyResult<Params> {
    let Some(params) = params else { return Ok(Params::None) };
    if let Ok(named) = params.cast::<PyDict>() {
        return named.iter().map(named_scalar).collect::<PyResult<HashMap<_, _>>>().map(Params::Named);
    }
    params.try_iter()?.map(|value| scalar(&value?, LEVELS)).collect::<PyResult<Vec<_>>>().map(Params::Positional)
}

fn named_scalar((name, value): (Bound<'_, PyAny>, Bound<'_, PyAny>)) -> PyResult<(String, ScalarValue)> {
    let name: String = name.extract()?;
    Ok((name.trim_start_matches('$').to_owned(), scalar(&value, LEVELS)?))
}

/// A value, in which there may be so many levels of lists.
fn scalar(value: &Bound<'_, PyAny>, levels: usize) -> PyResult<ScalarValue> {
    if let Some(scalar) = known(value, levels)? {
        return Ok(scalar);
    }
    // Unwrapped once only: what a foreign scalar holds may be itself again (numpy's longdouble).
    match unwrapped(value)? {
        Some(inner) => known(&inner, levels)?.ok_or_else(|| refused(value)),
        None => Err(refused(value)),
    }
}

fn known(value: &Bound<'_, PyAny>, levels: usize) -> PyResult<Option<ScalarValue>> {
    match builtin(value, levels)? {
        Some(scalar) => Ok(Some(scalar)),
        None => from_library(value),
    }
}

fn builtin(value: &Bound<'_, PyAny>, levels: usize) -> PyResult<Option<ScalarValue>> {
    Ok(Some(if value.is_none() {
        ScalarValue::Null
    } else if let Ok(flag) = value.cast::<PyBool>() {
        ScalarValue::Boolean(Some(flag.is_true()))
    } else if value.is_instance_of::<PyInt>() {
        integer(value)?
    } else if value.is_instance_of::<PyFloat>() {
        ScalarValue::Float64(Some(value.extract()?))
    } else if value.is_instance_of::<PyString>() {
        ScalarValue::Utf8(Some(value.extract()?))
    } else if value.is_instance_of::<PyBytes>() || value.is_instance_of::<PyByteArray>() {
        ScalarValue::Binary(Some(value.extract()?))
    } else if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        list(value, levels)?
    } else {
        return Ok(None);
    }))
}

/// Scalars of the standard library's modules.
fn from_library(value: &Bound<'_, PyAny>) -> PyResult<Option<ScalarValue>> {
    let is = |module: &str, class: &str| value.is_instance(&value.py().import(module)?.getattr(class)?);
    Ok(Some(if is("datetime", "datetime")? {
        timestamp(value)?
    } else if is("datetime", "date")? {
        parsed(value, isoformat(value)?, &DataType::Date32)?
    } else if is("datetime", "time")? {
        parsed(value, isoformat(value)?, &DataType::Time64(TimeUnit::Microsecond))?
    } else if is("datetime", "timedelta")? {
        interval(value)?
    } else if is("decimal", "Decimal")? {
        decimal(value, value.call_method1(intern!(value.py(), "__format__"), ("f",))?.extract()?)?
    } else if is("uuid", "UUID")? {
        ScalarValue::Utf8(Some(value.str()?.extract()?))
    } else {
        return Ok(None);
    }))
}

/// The Python value in a scalar of pyarrow or numpy.
fn unwrapped<'py>(value: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    for method in ["as_py", "item"] {
        if value.hasattr(method)? {
            return value.call_method0(method).map(Some);
        }
    }
    Ok(None)
}

fn integer(value: &Bound<'_, PyAny>) -> PyResult<ScalarValue> {
    if let Ok(small) = value.extract::<i64>() {
        return Ok(ScalarValue::Int64(Some(small)));
    }
    if let Ok(unsigned) = value.extract::<u64>() {
        return Ok(ScalarValue::UInt64(Some(unsigned)));
    }
    decimal(value, value.str()?.extract()?)
}

/// A decimal of exactly the digits in `text`, which is plain notation: `-12.50`.
fn decimal(value: &Bound<'_, PyAny>, text: String) -> PyResult<ScalarValue> {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let scale = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    let (Ok(digits), Ok(scale)) = (u8::try_from(digits), i8::try_from(scale)) else { return Err(refused(value)) };
    if !(1..=DECIMAL256_MAX_PRECISION).contains(&digits) {
        return Err(refused(value));
    }
    let data_type = match digits <= DECIMAL128_MAX_PRECISION {
        true => DataType::Decimal128(digits, scale),
        false => DataType::Decimal256(digits, scale),
    };
    parsed(value, text, &data_type)
}

fn timestamp(value: &Bound<'_, PyAny>) -> PyResult<ScalarValue> {
    let py = value.py();
    if value.call_method0(intern!(py, "utcoffset"))?.is_none() {
        return parsed(value, isoformat(value)?, &DataType::Timestamp(TimeUnit::Microsecond, None));
    }
    let utc = py.import(intern!(py, "datetime"))?.getattr(intern!(py, "timezone"))?.getattr(intern!(py, "utc"))?;
    let shifted = value.call_method1(intern!(py, "astimezone"), (utc,))?;
    parsed(value, isoformat(&shifted)?, &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))
}

fn interval(value: &Bound<'_, PyAny>) -> PyResult<ScalarValue> {
    let part = |name: &str| value.getattr(name)?.extract::<i64>();
    let days = i32::try_from(part("days")?).map_err(|_| refused(value))?;
    // Python keeps the seconds within a day, so this fits.
    let nanoseconds = (part("seconds")? * 1_000_000 + part("microseconds")?) * 1_000;
    Ok(ScalarValue::new_interval_mdn(0, days, nanoseconds))
}

fn isoformat(value: &Bound<'_, PyAny>) -> PyResult<String> {
    value.call_method0(intern!(value.py(), "isoformat"))?.extract()
}

fn parsed(value: &Bound<'_, PyAny>, text: String, data_type: &DataType) -> PyResult<ScalarValue> {
    ScalarValue::try_from_string(text, data_type).map_err(|_| refused(value))
}

fn list(value: &Bound<'_, PyAny>, levels: usize) -> PyResult<ScalarValue> {
    let Some(levels) = levels.checked_sub(1) else {
        let text = format!(
            "a list that is a query parameter has lists within lists, more than {LEVELS} levels of them: use fewer"
        );
        return Err(raise(value.py(), &Error::invalid(text)));
    };
    let items = value.try_iter()?.map(|item| scalar(&item?, levels)).collect::<PyResult<Vec<_>>>()?;
    let data_type = common_type(&items).ok_or_else(|| {
        raise(value.py(), &Error::invalid("a list that is a query parameter must hold values of one type"))
    })?;
    let items = items.iter().map(|item| item.cast_to(&data_type)).collect::<Result<Vec<_>, _>>();
    let items = items.map_err(|error| raise(value.py(), &Error::invalid(format!("a list parameter: {error}"))))?;
    Ok(ScalarValue::List(ScalarValue::new_list_nullable(&items, &data_type)))
}

/// The type that all `items` have or can take: nulls take any, integers become floats beside floats.
fn common_type(items: &[ScalarValue]) -> Option<DataType> {
    let mut types = items.iter().map(ScalarValue::data_type).filter(|data_type| *data_type != DataType::Null);
    let first = types.next().unwrap_or(DataType::Null);
    types.try_fold(first, |common, next| match (common, next) {
        (common, next) if common == next => Some(common),
        (DataType::Int64, DataType::Float64) | (DataType::Float64, DataType::Int64) => Some(DataType::Float64),
        _ => None,
    })
}

fn refused(value: &Bound<'_, PyAny>) -> PyErr {
    let kind = value.get_type().name().map_or_else(|_| "object".to_owned(), |name| name.to_string());
    raise(
        value.py(),
        &Error::invalid(format!(
            "this value of type {kind} cannot be a query parameter: use None, bool, int, float, str, bytes, Decimal, \
             date, time, datetime, timedelta, UUID, or a list of one of these"
        )),
    )
}
