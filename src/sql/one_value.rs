//! Queries that stand for one value: more than one row is an error, as SQL has it. The engine would join them all.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DataFusionError, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, LogicalPlan, LogicalPlanBuilder, Signature, Subquery, Volatility,
};

use crate::{Error, Result};

/// The aggregate's name.
const NAME: &str = "the_one_value";

/// The aggregate that is the value of its one row, null when there is none, and an error when there are more.
pub fn one_value() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::from(OneValue { signature: Signature::any(1, Volatility::Immutable) }))
}

/// `plan` with such an aggregate over every query that stands for one value and may have more rows.
///
/// # Errors
/// Never in practice: the plan was one before.
pub(super) fn with_one_value(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut has_queries = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expression| {
            has_queries |= expression.exists(|part| Ok(matches!(part, Expr::ScalarSubquery(_))))?;
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    if !has_queries {
        return Ok(plan);
    }
    let plan =
        plan.transform_up_with_subqueries(|node| node.map_expressions(|expression| expression.transform_up(checked)))?;
    Ok(plan.data)
}

fn checked(expression: Expr) -> Result<Transformed<Expr>, DataFusionError> {
    match expression {
        Expr::ScalarSubquery(query) if query.subquery.max_rows().is_none_or(|rows| rows > 1) => {
            let schema = Arc::clone(query.subquery.schema());
            if schema.fields().len() != 1 {
                return Ok(Transformed::no(Expr::ScalarSubquery(query)));
            }
            let (qualifier, field) = schema.qualified_field(0);
            let column = Expr::Column(Column::from((qualifier, field)));
            let one = one_value().call(vec![column]).alias(field.name());
            let no_groups = Vec::<Expr>::new();
            let plan =
                LogicalPlanBuilder::from(query.subquery.as_ref().clone()).aggregate(no_groups, vec![one])?.build()?;
            Ok(Transformed::yes(Expr::ScalarSubquery(Subquery { subquery: Arc::new(plan), ..query })))
        }
        other => Ok(Transformed::no(other)),
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OneValue {
    signature: Signature,
}

impl AggregateUDFImpl for OneValue {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType, DataFusionError> {
        types.first().cloned().ok_or_else(|| Error::internal("one value of nothing").into())
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>, DataFusionError> {
        Ok(Box::new(One { rows: 0, value: ScalarValue::try_from(args.return_field.data_type())? }))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>, DataFusionError> {
        let value = Field::new(format!("{}[value]", args.name), args.return_field.data_type().clone(), true);
        let rows = Field::new(format!("{}[rows]", args.name), DataType::Int64, true);
        Ok(vec![Arc::new(value), Arc::new(rows)])
    }
}

#[derive(Debug)]
struct One {
    rows: i64,
    value: ScalarValue,
}

impl One {
    fn take(&mut self, rows: i64, value: ScalarValue) -> Result<(), DataFusionError> {
        if self.rows + rows > 1 {
            return Err(Error::invalid(
                "a query that stands for one value gave more than one row, for one of the values that it may be asked with: let it \
                 give one, with LIMIT 1 or an aggregate",
            )
            .into());
        }
        if rows == 1 {
            (self.rows, self.value) = (1, value);
        }
        Ok(())
    }
}

impl Accumulator for One {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<(), DataFusionError> {
        match values[0].len() {
            0 => Ok(()),
            rows => self.take(rows as i64, ScalarValue::try_from_array(&values[0], 0)?),
        }
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<(), DataFusionError> {
        for row in 0..states[0].len() {
            let ScalarValue::Int64(Some(rows)) = ScalarValue::try_from_array(&states[1], row)? else { continue };
            self.take(rows, ScalarValue::try_from_array(&states[0], row)?)?;
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue, DataFusionError> {
        Ok(self.value.clone())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>, DataFusionError> {
        Ok(vec![self.value.clone(), ScalarValue::Int64(Some(self.rows))])
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.value.size()
    }
}
