//! Expressions that the engine takes otherwise than SQL does, put so that it takes them right. This is done before types are
//! brought together, to every expression of a plan.
//!
//! - A cast that loses something is a function: the engine's rules move a cast to the other side of a comparison, and prune by
//!   it, as if none did (`CAST(3.10 AS INT) = 3` would be false, and so would `ts::TIME > '12:00'` for all rows of a cell).
//! - A text or a date that is compared with a moment becomes one of the same precision: as nanoseconds it would have to lie
//!   before 2262.
//! - An interval of days and less that is compared with a difference of moments becomes such a difference; one of months is
//!   refused.
//! - A date with an interval that has hours is refused: the hours would be lost.
//! - 0.0 in a list stands for -0.0, too, which is equal to it; so does it among values that are counted once. A long list is an
//!   array.

use std::sync::Arc;

use arrow::compute::CastOptions;
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use arrow::util::display::FormatOptions;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::expr::{AggregateFunctionParams, Between, InList, ScalarFunction, Sort};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility, cast as logical_cast, lit,
};

use super::long_list;

/// See the module.
#[derive(Debug)]
pub(super) struct AsSql;

impl FunctionRewrite for AsSql {
    fn name(&self) -> &str {
        "as_sql"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        let type_of = |expr: &Expr| expr.get_type(schema).ok();
        match expr {
            Expr::Cast(cast) => {
                let to = cast.field.data_type();
                if let Some(micros) = in_micros(&cast.expr, to) {
                    return Ok(Transformed::yes(logical_cast(*cast.expr, micros)));
                }
                match type_of(&cast.expr).is_some_and(|from| loses(&from, to)) {
                    true => Ok(Transformed::yes(opaque(*cast.expr, to, Cast::Strict))),
                    false => Ok(Transformed::no(Expr::Cast(cast))),
                }
            }
            Expr::TryCast(cast) => match type_of(&cast.expr).is_some_and(|from| loses(&from, cast.field.data_type())) {
                true => Ok(Transformed::yes(opaque(*cast.expr, cast.field.data_type(), Cast::OrNull))),
                false => Ok(Transformed::no(Expr::TryCast(cast))),
            },
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_comparison(op) => {
                let (of_left, of_right) = (type_of(&left), type_of(&right));
                let (left, right) = (like(*left, of_right.as_ref())?, like(*right, of_left.as_ref())?);
                let changed = left.transformed || right.transformed;
                let expr = Expr::BinaryExpr(BinaryExpr { left: left.data.into(), op, right: right.data.into() });
                Ok(Transformed::new_transformed(expr, changed))
            }
            Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Plus | Operator::Minus), right }) => {
                let is_day = |expr: &Expr| type_of(expr) == Some(DataType::Date32);
                if has_hours(&right) && is_day(&left) || has_hours(&left) && is_day(&right) {
                    return Err(DataFusionError::Plan(
                        "a date has no hours: cast it before an interval with hours is added, like d::TIMESTAMP + INTERVAL \
                         '36 hours'"
                            .into(),
                    ));
                }
                Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })))
            }
            Expr::Between(Between { expr, negated, low, high }) => {
                let of = type_of(&expr);
                let (low, high) = (like(*low, of.as_ref())?, like(*high, of.as_ref())?);
                let changed = low.transformed || high.transformed;
                let expr = Expr::Between(Between { expr, negated, low: low.data.into(), high: high.data.into() });
                Ok(Transformed::new_transformed(expr, changed))
            }
            Expr::InList(InList { expr, list, negated }) => {
                let of = type_of(&expr);
                let list = list.into_iter().map(|item| like(item, of.as_ref())).collect::<Result<Vec<_>>>()?;
                let changed = list.iter().any(|item| item.transformed);
                let mut list: Vec<Expr> = list.into_iter().map(|item| item.data).collect();
                if of.as_ref().is_some_and(DataType::is_floating)
                    && list.iter().any(is_zero)
                    && !list.iter().any(is_minus_zero)
                {
                    let name = Expr::InList(InList { expr: expr.clone(), list: list.clone(), negated });
                    list.extend([lit(0.0), lit(-0.0)]);
                    let list = Expr::InList(InList { expr, list, negated });
                    return Ok(Transformed::yes(list.alias(name.schema_name().to_string())));
                }
                let list = InList { expr, list, negated };
                let long = of.map(|of| long_list::rewritten(&list, &of)).transpose()?.flatten();
                let changed = changed || long.is_some();
                Ok(Transformed::new_transformed(long.unwrap_or(Expr::InList(list)), changed))
            }
            Expr::AggregateFunction(mut call) if call.params.distinct => {
                let AggregateFunctionParams { args, order_by, .. } = &mut call.params;
                let changed = with_one_zero(args, order_by, type_of)?;
                Ok(Transformed::new_transformed(Expr::AggregateFunction(call), changed))
            }
            Expr::WindowFunction(mut call) if call.params.distinct => {
                // ORDER BY is the window's there.
                let changed = with_one_zero(&mut call.params.args, &mut [], type_of)?;
                Ok(Transformed::new_transformed(Expr::WindowFunction(call), changed))
            }
            other => Ok(Transformed::no(other)),
        }
    }
}

/// Makes one zero of 0 and -0 in the arguments of DISTINCT, which is ordered by what it is of; whether any can have them.
fn with_one_zero(
    arguments: &mut [Expr],
    order_by: &mut [Sort],
    type_of: impl Fn(&Expr) -> Option<DataType>,
) -> Result<bool> {
    let mut changed = false;
    for argument in arguments {
        if let Some(of) = type_of(argument).filter(DataType::is_floating) {
            let told_apart = std::mem::take(argument);
            *argument = told_apart.clone() + lit(ScalarValue::new_zero(&of)?);
            for by in order_by.iter_mut().filter(|by| by.expr == told_apart) {
                by.expr = argument.clone();
            }
            changed = true;
        }
    }
    Ok(changed)
}

/// Whether values that differ can become equal, or lose their order.
fn loses(from: &DataType, to: &DataType) -> bool {
    use DataType as T;
    match (from, to) {
        (T::Decimal32(_, scale) | T::Decimal64(_, scale) | T::Decimal128(_, scale) | T::Decimal256(_, scale), to) => {
            match to {
                T::Decimal32(_, s) | T::Decimal64(_, s) | T::Decimal128(_, s) | T::Decimal256(_, s) => s < scale,
                to => to.is_integer() && *scale > 0,
            }
        }
        (T::Timestamp(..), T::Time32(_) | T::Time64(_)) => true,
        _ => false,
    }
}

fn is_comparison(op: Operator) -> bool {
    use Operator as O;
    matches!(op, O::Eq | O::NotEq | O::Lt | O::LtEq | O::Gt | O::GtEq | O::IsDistinctFrom | O::IsNotDistinctFrom)
}

fn float(expr: &Expr) -> Option<f64> {
    let Expr::Literal(value, _) = expr else { return None };
    match value.cast_to(&DataType::Float64) {
        Ok(ScalarValue::Float64(value)) => value,
        _ => None,
    }
}

fn is_zero(expr: &Expr) -> bool {
    float(expr) == Some(0.0)
}

fn is_minus_zero(expr: &Expr) -> bool {
    float(expr).is_some_and(|value| value == 0.0 && value.is_sign_negative())
}

/// What is compared with a value of type `other`.
fn like(expr: Expr, other: Option<&DataType>) -> Result<Transformed<Expr>> {
    let wanted = match (&expr, other) {
        (Expr::Literal(ScalarValue::Utf8(Some(_)), _), Some(moment @ DataType::Timestamp(..))) => moment,
        (Expr::Cast(cast), Some(moment @ DataType::Timestamp(..)))
            if cast.field.data_type() == &DataType::Date32 && matches!(*cast.expr, Expr::Literal(..)) =>
        {
            moment
        }
        (Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _), Some(DataType::Duration(unit))) => {
            let days = i128::from(interval.days) * 24 * 3600 * 1_000_000_000;
            let nanos = days + i128::from(interval.nanoseconds);
            let whole = nanos % i128::from(nanoseconds(*unit)) == 0;
            let unit = if whole { *unit } else { TimeUnit::Nanosecond };
            return match i64::try_from(nanos / i128::from(nanoseconds(unit))) {
                Ok(length) if interval.months == 0 => {
                    let name = expr.schema_name().to_string();
                    Ok(Transformed::yes(Expr::Literal(duration(unit, length), None).alias(name)))
                }
                _ => Err(DataFusionError::Plan(
                    "a difference of moments cannot be compared with an interval of months or years, which differ in \
                     length: write it in days, or compare the moments, like a < b - INTERVAL '1 month'"
                        .into(),
                )),
            };
        }
        _ => return Ok(Transformed::no(expr)),
    };
    let DataType::Timestamp(unit, _) = wanted else { return Ok(Transformed::no(expr)) };
    let fits = match &expr {
        Expr::Literal(text, _) => nanos_of(text).is_none_or(|nanos| nanos % nanoseconds(*unit) == 0),
        _ => true,
    };
    // Nanoseconds it would come to anyway, and so it must where the column's unit is too coarse.
    match unit != &TimeUnit::Nanosecond && fits {
        true => Ok(Transformed::yes(logical_cast(expr, wanted.clone()))),
        false => Ok(Transformed::no(expr)),
    }
}

/// The nanoseconds of a moment that is written as a text; `None` also for one that has no place among them.
fn nanos_of(text: &ScalarValue) -> Option<i64> {
    match text.cast_to(&DataType::Timestamp(TimeUnit::Nanosecond, None)) {
        Ok(ScalarValue::TimestampNanosecond(nanos, _)) => nanos,
        _ => None,
    }
}

/// As what `TIMESTAMP '9999-12-31'` is read: in microseconds, as frames have them, unless it has more digits. As nanoseconds
/// neither it nor what it is compared with could lie beyond 2262.
fn in_micros(text: &Expr, to: &DataType) -> Option<DataType> {
    let (DataType::Timestamp(TimeUnit::Nanosecond, zone), Expr::Literal(value @ ScalarValue::Utf8(Some(_)), _)) =
        (to, text)
    else {
        return None;
    };
    let micros = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
    let finer = nanos_of(value).is_some_and(|nanos| nanos % 1000 != 0);
    (!finer && value.cast_to(&micros).is_ok()).then_some(micros)
}

/// Whether an interval is not of whole days.
fn has_hours(interval: &Expr) -> bool {
    match interval {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) => interval.nanoseconds != 0,
        Expr::Literal(ScalarValue::IntervalDayTime(Some(interval)), _) => interval.milliseconds != 0,
        _ => false,
    }
}

fn nanoseconds(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

fn duration(unit: TimeUnit, length: i64) -> ScalarValue {
    match unit {
        TimeUnit::Second => ScalarValue::DurationSecond(Some(length)),
        TimeUnit::Millisecond => ScalarValue::DurationMillisecond(Some(length)),
        TimeUnit::Microsecond => ScalarValue::DurationMicrosecond(Some(length)),
        TimeUnit::Nanosecond => ScalarValue::DurationNanosecond(Some(length)),
    }
}

/// What becomes of a value that has no place in the type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Cast {
    Strict,
    OrNull,
}

/// The functions, for tasks that name them.
pub fn functions() -> [Arc<ScalarUDF>; 2] {
    [Cast::Strict, Cast::OrNull].map(|kind| Arc::new(ScalarUDF::new_from_impl(OpaqueCast::new(kind))))
}

fn opaque(expr: Expr, to: &DataType, kind: Cast) -> Expr {
    let function = Arc::new(ScalarUDF::new_from_impl(OpaqueCast::new(kind)));
    Expr::ScalarFunction(ScalarFunction::new_udf(function, vec![expr, lit(to.to_string())]))
}

/// A cast as a function of a value and the name of a type, through which no rule sees.
#[derive(Debug, PartialEq, Eq, Hash)]
struct OpaqueCast {
    kind: Cast,
    signature: Signature,
}

impl OpaqueCast {
    fn new(kind: Cast) -> Self {
        Self { kind, signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for OpaqueCast {
    fn name(&self) -> &str {
        match self.kind {
            Cast::Strict => "cast_to",
            Cast::OrNull => "try_cast_to",
        }
    }

    /// As a cast has it.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args[0].schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Err(DataFusionError::Internal("the type is that of the second argument".into()))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let named = args.scalar_arguments.get(1).copied().flatten().and_then(|name| name.try_as_str().flatten());
        let data_type = named.and_then(|name| name.parse().ok());
        let data_type: DataType =
            data_type.ok_or_else(|| DataFusionError::Plan(format!("{} wants the name of a type", self.name())))?;
        let nullable = self.kind == Cast::OrNull || args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), data_type, nullable)))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let options = CastOptions { safe: self.kind == Cast::OrNull, format_options: FormatOptions::default() };
        args.args[0].cast_to(args.return_field.data_type(), Some(&options))
    }
}
