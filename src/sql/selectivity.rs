//! How many of its rows a condition is expected to keep.
//!
//! A range of a column keeps its share of the span between the column's bounds, as if its values were spread evenly; for
//! what bounds do not tell there are constants, as in System R (Selinger et al., SIGMOD 1979, table 1). The engine takes a
//! fifth for every condition of which it cannot reckon the whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{ColumnStatistics, DataFusionError, ScalarValue, Statistics};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{
    BinaryExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal, NotExpr,
};
use datafusion::physical_expr::utils::{split_conjunction, split_disjunction};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};

use super::long_list;

/// A column that equals a value.
const EQUAL: f64 = 0.1;
/// A comparison of which nothing is known.
const COMPARED: f64 = 1.0 / 3.0;
/// A text that is like a pattern.
const LIKE: f64 = 0.1;
/// Most that a list keeps.
const LISTED: f64 = 0.5;
/// A condition of which nothing is known: what the engine takes for it.
pub(super) const OTHER: f64 = 0.2;

/// The share of rows that `predicate` is expected to keep, from 0 to 1.
pub(super) fn selectivity(predicate: &Arc<dyn PhysicalExpr>, statistics: &Statistics) -> f64 {
    let rows = statistics.num_rows.get_value().map_or(f64::INFINITY, |rows| *rows as f64);
    Estimate { columns: &statistics.column_statistics, rows }.of(predicate).clamp(0.0, 1.0)
}

struct Estimate<'a> {
    columns: &'a [ColumnStatistics],
    rows: f64,
}

/// Values of a column between two bounds.
#[derive(Clone, Copy)]
struct Range {
    low: f64,
    high: f64,
}

impl Estimate<'_> {
    fn of(&self, predicate: &Arc<dyn PhysicalExpr>) -> f64 {
        if let Some(binary) = predicate.downcast_ref::<BinaryExpr>() {
            return match binary.op() {
                Operator::And => self.all(&split_conjunction(predicate)),
                Operator::Or => {
                    1.0 - split_disjunction(predicate).into_iter().map(|part| 1.0 - self.of(part)).product::<f64>()
                }
                _ => self.compared(binary),
            };
        }
        if let Some(list) = predicate.downcast_ref::<InListExpr>() {
            let kept = self.listed(list.len(), list.expr());
            return if list.negated() { 1.0 - kept } else { kept };
        }
        if let Some((expr, values)) = long_list::looked_for(predicate) {
            return self.listed(values, expr);
        }
        if let Some(like) = predicate.downcast_ref::<LikeExpr>() {
            return if like.negated() { 1.0 - LIKE } else { LIKE };
        }
        if let Some(not) = predicate.downcast_ref::<NotExpr>() {
            return 1.0 - self.of(not.arg());
        }
        if let Some(null) = predicate.downcast_ref::<IsNullExpr>() {
            return self.nulls(null.arg());
        }
        if let Some(value) = predicate.downcast_ref::<IsNotNullExpr>() {
            return 1.0 - self.nulls(value.arg());
        }
        match predicate.downcast_ref::<Literal>().map(Literal::value) {
            Some(ScalarValue::Boolean(Some(true))) => 1.0,
            Some(_) => 0.0,
            None => OTHER,
        }
    }

    /// Conditions that must hold together. Those on one column's range are one: they are not independent.
    fn all(&self, parts: &[&Arc<dyn PhysicalExpr>]) -> f64 {
        let mut ranges: BTreeMap<usize, Range> = BTreeMap::new();
        let mut kept = 1.0;
        for part in parts {
            match part.downcast_ref::<BinaryExpr>().and_then(|binary| self.range(binary)) {
                Some((column, range)) => {
                    let known = ranges.entry(column).or_insert(range);
                    *known = Range { low: known.low.max(range.low), high: known.high.min(range.high) };
                }
                None => kept *= self.of(part),
            }
        }
        let shares = ranges.into_iter().map(|(column, range)| self.share(column, range).unwrap_or(COMPARED));
        kept * shares.product::<f64>()
    }

    fn compared(&self, binary: &BinaryExpr) -> f64 {
        if let Some(share) = self.range(binary).and_then(|(column, range)| self.share(column, range)) {
            return share;
        }
        let columns = (binary.left().downcast_ref::<Column>(), binary.right().downcast_ref::<Column>());
        match binary.op() {
            Operator::Eq | Operator::IsNotDistinctFrom => match columns {
                (Some(_), Some(_)) => self.equal(binary.left()).min(self.equal(binary.right())),
                (Some(_), None) => self.equal(binary.left()),
                (None, _) => self.equal(binary.right()),
            },
            Operator::NotEq | Operator::IsDistinctFrom => 1.0 - EQUAL,
            Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => COMPARED,
            Operator::RegexMatch | Operator::RegexIMatch | Operator::LikeMatch | Operator::ILikeMatch => LIKE,
            Operator::RegexNotMatch | Operator::RegexNotIMatch | Operator::NotLikeMatch | Operator::NotILikeMatch => {
                1.0 - LIKE
            }
            _ => OTHER,
        }
    }

    /// The column and the values of it that a comparison with a value keeps.
    fn range(&self, binary: &BinaryExpr) -> Option<(usize, Range)> {
        let (column, op, value) =
            match (binary.left().downcast_ref::<Column>(), binary.right().downcast_ref::<Column>()) {
                (Some(column), None) => (column, *binary.op(), binary.right()),
                (None, Some(column)) => (column, binary.op().swap()?, binary.left()),
                _ => return None,
            };
        let value = number(value.downcast_ref::<Literal>()?.value())?;
        let range = match op {
            Operator::Lt | Operator::LtEq => Range { low: f64::NEG_INFINITY, high: value },
            Operator::Gt | Operator::GtEq => Range { low: value, high: f64::INFINITY },
            _ => return None,
        };
        Some((column.index(), range))
    }

    /// The share of a column's span that is within `range`.
    fn share(&self, column: usize, range: Range) -> Option<f64> {
        let (low, high) = bounds(self.columns.get(column)?)?;
        let within = range.high.min(high) - range.low.max(low);
        // At a bound itself there is at least one row.
        (high > low).then(|| (within / (high - low)).clamp(1.0 / self.rows.max(1.0), 1.0))
    }

    /// The share of rows that have one value of what `of` gives.
    fn equal(&self, of: &Arc<dyn PhysicalExpr>) -> f64 {
        let column = of.downcast_ref::<Column>().and_then(|column| self.columns.get(column.index()));
        // Of few rows one is more.
        column.and_then(distinct).map_or(EQUAL.max(1.0 / self.rows), |distinct| 1.0 / distinct.min(self.rows).max(1.0))
    }

    /// The share of rows that have one of so many values.
    fn listed(&self, values: usize, of: &Arc<dyn PhysicalExpr>) -> f64 {
        (values as f64 * self.equal(of)).min(LISTED)
    }

    fn nulls(&self, of: &Arc<dyn PhysicalExpr>) -> f64 {
        let column = of.downcast_ref::<Column>().and_then(|column| self.columns.get(column.index()));
        let nulls = column.and_then(|column| column.null_count.get_value());
        nulls.map_or(EQUAL, |nulls| *nulls as f64 / self.rows.max(1.0))
    }
}

/// How many values a column has at most, where it has whole numbers or days.
pub(super) fn distinct(column: &ColumnStatistics) -> Option<f64> {
    if let Some(distinct) = column.distinct_count.get_value() {
        return Some(*distinct as f64);
    }
    let data_type = column.min_value.get_value()?.data_type();
    let (low, high) = bounds(column)?;
    (data_type.is_integer() || matches!(data_type, DataType::Date32)).then_some(high - low + 1.0)
}

fn bounds(column: &ColumnStatistics) -> Option<(f64, f64)> {
    Some((number(column.min_value.get_value()?)?, number(column.max_value.get_value()?)?))
}

/// A value on a line where distances mean something.
fn number(value: &ScalarValue) -> Option<f64> {
    let data_type = value.data_type();
    let whole = match data_type.is_temporal() {
        true => value.cast_to(&DataType::Int64).ok()?,
        false if data_type.is_numeric() => value.clone(),
        false => return None,
    };
    match whole.cast_to(&DataType::Float64).ok()? {
        ScalarValue::Float64(number) => number.filter(|number| number.is_finite()),
        _ => None,
    }
}

/// Tells filters what share of their rows they keep, before the sides of joins are chosen.
pub(super) fn filter_estimates(
    plan: Arc<dyn ExecutionPlan>,
) -> Result<Transformed<Arc<dyn ExecutionPlan>>, DataFusionError> {
    let Some(filter) = plan.downcast_ref::<FilterExec>() else { return Ok(Transformed::no(plan)) };
    let statistics = StatisticsContext::new().compute(filter.input().as_ref(), &StatisticsArgs::new())?;
    // The engine has whole percents.
    let percent = (100.0 * selectivity(filter.predicate(), &statistics)).ceil().max(1.0) as u8;
    let filter = FilterExecBuilder::from(filter).with_default_selectivity(percent).build()?;
    Ok(Transformed::yes(Arc::new(filter)))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, Schema};
    use datafusion::common::DFSchema;
    use datafusion::common::stats::Precision;
    use datafusion::execution::context::SessionContext;
    use datafusion::prelude::{Expr, col, lit};

    use super::*;

    /// A thousand rows with `n` from 1 to 50, `day` within a hundred days, and `t`, a text that is null in a quarter.
    fn share(predicate: Expr) -> f64 {
        let fields = [("n", DataType::Int64), ("day", DataType::Date32), ("t", DataType::Utf8)];
        let schema = Schema::new(fields.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec());
        let bounded = |low: ScalarValue, high: ScalarValue| ColumnStatistics {
            min_value: Precision::Inexact(low),
            max_value: Precision::Inexact(high),
            ..ColumnStatistics::new_unknown()
        };
        let text = ColumnStatistics { null_count: Precision::Exact(250), ..ColumnStatistics::new_unknown() };
        let statistics = Statistics {
            num_rows: Precision::Exact(1000),
            total_byte_size: Precision::Absent,
            column_statistics: vec![
                bounded(1i64.into(), 50i64.into()),
                bounded(ScalarValue::Date32(Some(9000)), ScalarValue::Date32(Some(9100))),
                text,
            ],
        };
        let schema = DFSchema::try_from(schema).unwrap();
        let predicate = SessionContext::new().create_physical_expr(predicate, &schema).unwrap();
        (selectivity(&predicate, &statistics) * 1000.0).round() / 1000.0
    }

    fn day(day: i32) -> Expr {
        lit(ScalarValue::Date32(Some(day)))
    }

    #[test]
    fn ranges_keep_their_share_of_the_span() {
        assert_eq!(share(col("day").lt(day(9025))), 0.25);
        assert_eq!(share(day(9025).gt(col("day"))), 0.25);
        // The two ends of one range are one condition.
        assert_eq!(share(col("day").gt_eq(day(9040)).and(col("day").lt(day(9050)))), 0.1);
        assert_eq!(share(col("day").lt(day(8000))), 0.001);
        assert_eq!(share(col("day").gt(day(8000))), 1.0);
    }

    #[test]
    fn what_bounds_do_not_tell_is_a_constant() {
        assert_eq!(share(col("n").eq(lit(7i64))), 0.02);
        assert_eq!(share(col("n").in_list(vec![lit(7i64), lit(8i64)], false)), 0.04);
        assert_eq!(share(col("t").eq(lit("a"))), 0.1);
        assert_eq!(share(col("t").like(lit("%a%"))), 0.1);
        assert_eq!(share(col("t").is_null()), 0.25);
        assert_eq!(share(col("n").eq(lit(7i64)).and(col("t").not_like(lit("%a%")))), 0.018);
        assert_eq!(share(col("t").eq(lit("a")).or(col("t").eq(lit("b")))), 0.19);
        assert_eq!(share(lit(true)), 1.0);
    }
}
