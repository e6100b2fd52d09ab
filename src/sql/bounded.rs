//! Functions whose result can be far larger than what they are given, or take far longer: they say no beforehand.
//!
//! `repeat('x', 2000000000)` is one allocation, which no memory pool sees and no cancellation interrupts.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type, IntervalUnit, TimeUnit};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use crate::size::format_size;

/// Steps that a function takes for one batch at most: seconds of a small core.
const MAX_STEPS: u64 = 1 << 30;
/// The same for one value: constants are computed while others wait for their plans.
const MAX_STEPS_ONCE: u64 = 64 << 20;
/// Microseconds of a day.
const DAY: i64 = 24 * 3600 * 1_000_000;

/// What of a function grows beyond what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Growth {
    /// The first argument as often as the second says.
    Times,
    /// The first argument with the third for every second in it.
    Replaced,
    /// As many characters or elements as the second argument says.
    To,
    /// Numbers from the first argument to the second, or from 0 to the only one.
    Series,
    /// Steps: the product of two lengths.
    Product,
}

const GROWING: [(&str, Growth); 9] = [
    ("replace", Growth::Replaced),
    ("repeat", Growth::Times),
    ("array_repeat", Growth::Times),
    ("lpad", Growth::To),
    ("rpad", Growth::To),
    ("array_resize", Growth::To),
    ("range", Growth::Series),
    ("generate_series", Growth::Series),
    ("levenshtein", Growth::Product),
];

/// The engine's functions that grow, in a form that makes at most `limit` bytes of one batch.
pub fn functions(limit: u64) -> Vec<Arc<ScalarUDF>> {
    let growth = |function: &ScalarUDF| GROWING.iter().find(|(name, _)| *name == function.name()).map(|(_, g)| *g);
    let bounded = |function: Arc<ScalarUDF>| {
        let growth = growth(&function)?;
        Some(Arc::new(ScalarUDF::new_from_impl(Bounded { inner: function, growth, limit })))
    };
    SessionStateDefaults::default_scalar_functions().into_iter().filter_map(bounded).collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    growth: Growth,
    limit: u64,
}

impl Bounded {
    fn check(&self, args: &ScalarFunctionArgs) -> Result<(), DataFusionError> {
        let (name, wanted) = (self.inner.name(), self.wanted(args));
        let once = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let steps = if once { MAX_STEPS_ONCE } else { MAX_STEPS };
        match self.growth {
            Growth::Product if wanted > steps => Err(DataFusionError::Execution(format!(
                "{name} would take {wanted} steps, and {steps} are the most for one batch: compare shorter texts"
            ))),
            Growth::Times | Growth::Replaced | Growth::To | Growth::Series if wanted > self.limit => {
                Err(DataFusionError::ResourcesExhausted(format!(
                    "{name} would make {} of one batch of {} rows, and {} are the most",
                    format_size(wanted),
                    args.number_rows,
                    format_size(self.limit)
                )))
            }
            _ => Ok(()),
        }
    }

    /// Bytes or steps, as far as the arguments tell; what they do not tell is taken for nothing.
    fn wanted(&self, args: &ScalarFunctionArgs) -> u64 {
        let argument = |index: usize| args.args.get(index);
        let rows = if args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_))) { 1 } else { args.number_rows };
        let number = |index: usize, row: usize| argument(index).and_then(|a| number(a, row)).unwrap_or(0);
        let width = |index: usize, row: usize| argument(index).map_or(0, |a| length(a, row));
        let one = |row: usize| match self.growth {
            Growth::Times => width(0, row).max(1).saturating_mul(number(1, row).max(0) as u64),
            Growth::To => (number(1, row).max(0) as u64).saturating_mul(if is_list(argument(0)) { 8 } else { 1 }),
            Growth::Replaced => {
                let (whole, from, to) = (width(0, row), width(1, row).max(1), width(2, row));
                if to <= from || whole / from * to <= self.limit / rows as u64 {
                    return whole.max(whole / from * to);
                }
                let text = |index: usize| argument(index).and_then(|a| text(a, row)).unwrap_or_default();
                whole + text(0).matches(text(1)).count() as u64 * to
            }
            Growth::Product => width(0, row).saturating_mul(width(1, row)),
            Growth::Series if argument(0).is_some_and(|a| !is_number(a)) => {
                let moment = |index: usize| argument(index).and_then(|a| moment(a, row)).unwrap_or(0);
                let step = argument(2).and_then(|a| moment_step(a, row)).unwrap_or(DAY).max(1);
                (moment(1).abs_diff(moment(0)) / u64::try_from(step).unwrap_or(1)).saturating_mul(8)
            }
            Growth::Series => {
                let (from, to) =
                    if args.args.len() == 1 { (0, number(0, row)) } else { (number(0, row), number(1, row)) };
                let step = if args.args.len() > 2 { number(2, row).unsigned_abs().max(1) } else { 1 };
                (to.abs_diff(from) / step).saturating_mul(8)
            }
        };
        (0..rows).fold(0u64, |sum, row| sum.saturating_add(one(row)))
    }
}

fn is_list(argument: Option<&ColumnarValue>) -> bool {
    argument.is_some_and(|a| a.data_type().is_list())
}

fn is_number(argument: &ColumnarValue) -> bool {
    argument.data_type().is_integer() || argument.data_type().is_null()
}

fn value(argument: &ColumnarValue, row: usize) -> Option<ScalarValue> {
    match argument {
        ColumnarValue::Scalar(value) => Some(value.clone()),
        ColumnarValue::Array(array) => ScalarValue::try_from_array(array, row.min(array.len().checked_sub(1)?)).ok(),
    }
}

/// The moment that `argument` is in `row`, in microseconds since the epoch.
fn moment(argument: &ColumnarValue, row: usize) -> Option<i64> {
    match value(argument, row)?.cast_to(&DataType::Timestamp(TimeUnit::Microsecond, None)) {
        Ok(ScalarValue::TimestampMicrosecond(moment, _)) => moment,
        _ => None,
    }
}

/// The length of the interval that `argument` is in `row`, in microseconds; at least one.
fn moment_step(argument: &ColumnarValue, row: usize) -> Option<i64> {
    match value(argument, row)?.cast_to(&DataType::Interval(IntervalUnit::MonthDayNano)) {
        Ok(ScalarValue::IntervalMonthDayNano(Some(step))) => {
            let days = i64::from(step.months) * 30 + i64::from(step.days);
            Some((days * DAY + step.nanoseconds / 1000).abs().max(1))
        }
        _ => None,
    }
}

/// The whole number that `argument` is in `row`.
fn number(argument: &ColumnarValue, row: usize) -> Option<i64> {
    match argument {
        ColumnarValue::Scalar(value) => match value.cast_to(&DataType::Int64) {
            Ok(ScalarValue::Int64(number)) if value.data_type().is_integer() => number,
            _ => None,
        },
        ColumnarValue::Array(array) if array.data_type().is_integer() => {
            let array = match array.data_type() {
                DataType::Int64 => Arc::clone(array),
                _ => cast(&array.slice(row, 1), &DataType::Int64).ok()?,
            };
            let row = if array.len() == 1 { 0 } else { row };
            array.is_valid(row).then(|| array.as_primitive::<Int64Type>().value(row))
        }
        ColumnarValue::Array(_) => None,
    }
}

/// The text that `argument` is in `row`.
fn text(argument: &ColumnarValue, row: usize) -> Option<&str> {
    match argument {
        ColumnarValue::Scalar(ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text)) => {
            text.as_deref()
        }
        ColumnarValue::Scalar(_) => None,
        ColumnarValue::Array(array) if array.is_null(row) => None,
        ColumnarValue::Array(array) => match array.data_type() {
            DataType::Utf8 => Some(array.as_string::<i32>().value(row)),
            DataType::LargeUtf8 => Some(array.as_string::<i64>().value(row)),
            DataType::Utf8View => Some(array.as_string_view().value(row)),
            _ => None,
        },
    }
}

/// Bytes of what `argument` is in `row`.
fn length(argument: &ColumnarValue, row: usize) -> u64 {
    let length = match argument {
        ColumnarValue::Scalar(value) => match value {
            ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text) => {
                text.as_ref().map_or(0, String::len)
            }
            other => other.size(),
        },
        ColumnarValue::Array(array) if array.is_null(row) => 0,
        ColumnarValue::Array(array) => match array.data_type() {
            DataType::Utf8 => array.as_string::<i32>().value_length(row) as usize,
            DataType::LargeUtf8 => array.as_string::<i64>().value_length(row) as usize,
            DataType::Utf8View => array.as_string_view().value(row).len(),
            other => {
                other.primitive_width().unwrap_or_else(|| array.slice(row, 1).get_array_memory_size().min(64 << 20))
            }
        },
    };
    length as u64
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType, DataFusionError> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef, DataFusionError> {
        self.inner.return_field_from_args(args)
    }

    fn is_strict(&self) -> bool {
        self.inner.is_strict()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        self.check(&args)?;
        self.inner.invoke_with_args(args)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult, DataFusionError> {
        self.inner.simplify(args, info)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties, DataFusionError> {
        self.inner.output_ordering(inputs)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>, DataFusionError> {
        self.inner.coerce_types(types)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    async fn ask(sql: &str) -> Result<String, DataFusionError> {
        let context = SessionContext::new();
        functions(1 << 20).into_iter().for_each(|f| context.register_udf(f.as_ref().clone()));
        let rows = context.sql(sql).await?.collect().await?;
        Ok(arrow::util::display::array_value_to_string(rows[0].column(0), 0)?)
    }

    #[tokio::test]
    async fn what_fits_is_as_ever() {
        for (sql, wanted) in [
            ("SELECT repeat('ab', 3)", "ababab"),
            ("SELECT lpad('x', 3, '-')", "--x"),
            ("SELECT array_length(range(0, 1000))", "1000"),
            ("SELECT array_length(generate_series(1, 1000))", "1000"),
            (
                "SELECT array_length(generate_series(TIMESTAMP '2000-01-01', TIMESTAMP '2000-01-03', INTERVAL '1 hour'))",
                "49",
            ),
            ("SELECT array_length(generate_series(DATE '2000-01-01', DATE '2000-02-01', INTERVAL '1 day'))", "32"),
            ("SELECT levenshtein('kitten', 'sitting')", "3"),
            ("SELECT array_length(array_repeat(column1, 4)) FROM (VALUES (1), (2))", "4"),
            ("SELECT replace('a-b', '-', '+')", "a+b"),
            ("SELECT length(replace(repeat('ab', 1000), 'b', repeat('c', 1000)))", "1001000"),
            ("SELECT length(repeat(column1, column2)) FROM (VALUES ('abc', 2), (NULL, 5))", "6"),
        ] {
            assert_eq!(ask(sql).await.unwrap(), wanted, "{sql}");
        }
    }

    #[tokio::test]
    async fn what_grows_beyond_all_measure_is_refused() {
        for sql in [
            "SELECT repeat('x', 2000000000)",
            "SELECT max(repeat(column1, 600000)) FROM (VALUES ('a'), ('b'), (NULL))",
            "SELECT lpad('x', 2147483647, 'ab')",
            "SELECT rpad('x', 2147483647, 'ab')",
            "SELECT array_repeat(1, 2000000000)",
            "SELECT array_resize([1], 2000000000)",
            "SELECT range(0, 3000000000)",
            "SELECT range(3000000000)",
            "SELECT generate_series(3000000000, 0, -2)",
            "SELECT replace(repeat('a', 100000), 'a', repeat('b', 1000))",
            "SELECT generate_series(TIMESTAMP '2000-01-01', TIMESTAMP '2030-01-01', INTERVAL '1 second')",
        ] {
            let error = ask(sql).await.unwrap_err();
            assert!(error.to_string().contains("are the most"), "{sql}: {error}");
        }
        let error = ask("SELECT levenshtein(repeat('a', 900000), repeat('b', 900000))").await.unwrap_err();
        assert!(error.to_string().contains("steps"), "{error}");
    }
}
