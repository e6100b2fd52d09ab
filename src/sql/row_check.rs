//! The conditions of a frame, over the rows that are written into it.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::util::display::array_value_to_string;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::SessionState;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};

use super::rewrites::AsSql;
use super::spelling::right_expression;
use super::statement::check_expression;
use crate::storage::Check;
use crate::{Error, Result};

/// Longest value of a row that is shown in an error.
const SHOWN: usize = 60;

/// One condition that can be asked of batches.
#[derive(Debug, Clone)]
pub struct RowCheck {
    check: Check,
    condition: Arc<dyn PhysicalExpr>,
}

/// A condition as rows are checked by it; it means what it means in a query. The session's own way puts expressions right only
/// after their types were brought together.
fn physical(
    state: &SessionState,
    condition: Expr,
    columns: &DFSchema,
) -> datafusion::common::Result<Arc<dyn PhysicalExpr>> {
    let options = state.config_options();
    let condition = condition.transform_up(|expr| AsSql.rewrite(expr, columns, options))?.data;
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(columns.clone()))
        .with_config_options(Arc::clone(options))
        .with_query_execution_start_time(state.execution_props().query_execution_start_time)
        .build();
    let simplifier = ExprSimplifier::new(context);
    let condition = simplifier.simplify(simplifier.coerce(condition, columns)?)?;
    create_physical_expr(&condition, columns, state.execution_props(), &PhysicalPlanningContext::default())
}

impl RowCheck {
    /// Makes a condition ready for batches of `schema`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidInput`] when it is no condition of one row alone.
    pub(super) fn new(state: &SessionState, check: &Check, schema: &SchemaRef) -> Result<Self> {
        let unusable = |why: String| {
            Err(Error::invalid(format!("constraint '{}' cannot be CHECK ({}): {why}", check.name, check.condition)))
        };
        // It may come from a ledger that another engine wrote.
        check_expression(&check.condition)?;
        let columns = DFSchema::try_from(Arc::clone(schema))?;
        let condition = match state.create_logical_expr(&right_expression(&check.condition)?, &columns) {
            Ok(condition) => condition,
            Err(error) => return unusable(Error::from(error).message().to_string()),
        };
        if looks_beyond_the_row(&condition)? {
            return unusable("it may only use the columns of one row, and functions that always give the same".into());
        }
        let condition = match physical(state, condition, &columns) {
            Ok(condition) => condition,
            Err(error) => return unusable(Error::from(error).message().to_string()),
        };
        match condition.data_type(schema)? {
            DataType::Boolean => Ok(Self { check: check.clone(), condition }),
            other => unusable(format!("it is {other}, not true or false")),
        }
    }

    /// Looks at the rows of a batch; one for which the condition is unknown passes, as SQL has it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Schema`] showing the first row that fails.
    pub fn check(&self, batch: &RecordBatch) -> Result<()> {
        let holds = self.condition.evaluate(batch)?.into_array(batch.num_rows())?;
        let holds = holds.as_boolean();
        if holds.true_count() + holds.null_count() == holds.len() {
            return Ok(());
        }
        let failing = filter_record_batch(batch, &not(holds)?)?;
        Err(Error::schema(format!(
            "constraint '{}' fails, CHECK ({}), for {} of {} rows, the first with {}: nothing was written",
            self.check.name,
            self.check.condition,
            failing.num_rows(),
            batch.num_rows(),
            shown(&failing)
        )))
    }
}

fn looks_beyond_the_row(condition: &Expr) -> Result<bool> {
    let mut found = condition.is_volatile();
    condition.apply(|part| {
        found |= matches!(
            part,
            Expr::AggregateFunction(_)
                | Expr::WindowFunction(_)
                | Expr::ScalarSubquery(_)
                | Expr::InSubquery(_)
                | Expr::Exists(_)
                | Expr::Placeholder(_)
        );
        if let Expr::ScalarFunction(call) = part {
            found |= call.func.signature().volatility != datafusion::logical_expr::Volatility::Immutable;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

fn shown(rows: &RecordBatch) -> String {
    let value = |(field, column): (&arrow::datatypes::FieldRef, &arrow::array::ArrayRef)| {
        let text = match column.is_null(0) {
            true => "NULL".to_string(),
            false => array_value_to_string(column, 0).unwrap_or_default(),
        };
        let cut = if text.chars().count() > SHOWN { text.chars().take(SHOWN).chain(['…']).collect() } else { text };
        format!("{} = {cut}", field.name())
    };
    rows.schema_ref().fields().iter().zip(rows.columns()).take(8).map(value).collect::<Vec<_>>().join(", ")
}
