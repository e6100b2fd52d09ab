//! Where the engine loses track of nulls: joins by IS NOT DISTINCT FROM beside others, and NOT IN within OR.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DataFusionError, ScalarValue};
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::expr::InSubquery;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    BinaryExpr, Expr, Filter, LogicalPlan, LogicalPlanBuilder, Operator, Subquery, lit, when,
};

use crate::Result;

/// `plan` with nulls told apart as SQL does.
///
/// # Errors
/// Never in practice: the plan was one before.
pub(super) fn with_nulls(plan: LogicalPlan) -> Result<LogicalPlan> {
    let (mut joins, mut null_safe, mut in_query) = (0, false, false);
    plan.apply_with_subqueries(|node| {
        joins += usize::from(matches!(node, LogicalPlan::Join(_)));
        node.apply_expressions(|expression| {
            null_safe |= expression.exists(|part| Ok(is_null_safe(part)))?;
            in_query |= expression.exists(|part| Ok(matches!(part, Expr::InSubquery(_))))?;
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    let plan = match in_query {
        true => plan.transform_up_with_subqueries(with_known_lists)?.data,
        false => plan,
    };
    // One join alone is right. Of several, the engine makes one list, and takes one's word for all.
    if joins < 2 || !null_safe {
        return Ok(plan);
    }
    let spelled = |node: LogicalPlan| node.map_expressions(|expression| expression.transform_up(spelled_out));
    Ok(plan.transform_up_with_subqueries(spelled)?.data)
}

/// Whether it compares what may be columns of two frames, nulls being equal.
fn is_null_safe(expression: &Expr) -> bool {
    matches!(expression, Expr::BinaryExpr(BinaryExpr { left, op: Operator::IsNotDistinctFrom, right })
        if !left.column_refs().is_empty() && !right.column_refs().is_empty())
}

fn spelled_out(expression: Expr) -> Result<Transformed<Expr>, DataFusionError> {
    match expression {
        Expr::BinaryExpr(BinaryExpr { left, right, .. }) if is_null_safe(&expression) => {
            let both_null = left.clone().is_null().and(right.clone().is_null());
            Ok(Transformed::yes((*left).eq(*right).or(both_null)))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// A filter whose NOT IN within other conditions is null where it is not known. One that is a condition by itself is right: a
/// row of which it is not known is left out either way.
fn with_known_lists(node: LogicalPlan) -> Result<Transformed<LogicalPlan>, DataFusionError> {
    let LogicalPlan::Filter(filter) = node else { return Ok(Transformed::no(node)) };
    let conditions = split_conjunction_owned(filter.predicate.clone()).into_iter().map(|condition| {
        let negates = condition.exists(|part| {
            Ok(matches!(part, Expr::Not(_)) || matches!(part, Expr::InSubquery(query) if query.negated))
        })?;
        match condition {
            Expr::InSubquery(_) => Ok(condition),
            condition if negates => condition.transform_up(known).map(|condition| condition.data),
            condition => Ok(condition),
        }
    });
    let conditions = conditions.collect::<Result<Vec<_>, DataFusionError>>()?;
    let Some(predicate) = conjunction(conditions) else { return Ok(Transformed::no(LogicalPlan::Filter(filter))) };
    let same = predicate == filter.predicate;
    let filter = LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?);
    Ok(if same { Transformed::no(filter) } else { Transformed::yes(filter) })
}

/// IN over a query, by the number of its rows and of those that are not null; not over one that depends on the row, whose
/// rows the engine can count in few cases.
fn known(expression: Expr) -> Result<Transformed<Expr>, DataFusionError> {
    let query = match expression {
        Expr::InSubquery(query) if query.subquery.outer_ref_columns.is_empty() => query,
        other => return Ok(Transformed::no(other)),
    };
    let column = Expr::Column(Column::from(query.subquery.subquery.schema().qualified_field(0)));
    let number = |of: Expr| {
        let counted = LogicalPlanBuilder::from(query.subquery.subquery.as_ref().clone());
        let counted = counted.aggregate(Vec::<Expr>::new(), vec![count(of)])?.build()?;
        Ok::<_, DataFusionError>(Expr::ScalarSubquery(Subquery {
            subquery: Arc::new(counted),
            ..query.subquery.clone()
        }))
    };
    let (rows, known, negated) = (number(lit(1))?, number(column)?, query.negated);
    let unknown = query.expr.as_ref().clone().is_null().or(rows.clone().not_eq(known));
    let is_in = Expr::InSubquery(InSubquery { negated: false, ..query });
    let answer = when(rows.eq(lit(0i64)), lit(negated))
        .when(is_in, lit(!negated))
        .when(unknown, lit(ScalarValue::Boolean(None)))
        .otherwise(lit(negated))?;
    Ok(Transformed::yes(answer))
}
