//! Frames with rows that were appended here and are not committed yet: queries of this colony see them.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::datasource::{MemTable, TableType};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::union::UnionExec;

use super::frame_table::FrameTable;
use crate::Result;
use crate::storage::schema::Coercion;
use crate::storage::{FrameState, Meadow, Transaction};

/// Rows that will be one commit.
#[derive(Debug, Clone)]
pub struct Ripening {
    /// What the table is known by that the rows are for.
    pub table: String,
    /// What the commit will be known by.
    pub transaction: Transaction,
    /// The rows.
    pub batches: Vec<RecordBatch>,
}

/// A version of a frame, and the rows that ripen.
#[derive(Debug)]
pub(crate) struct RipeningTable {
    frame: FrameTable,
    rows: MemTable,
}

impl RipeningTable {
    /// A table of `frame` and those of the rows that it does not have yet; the frame alone when there are none. What ripens
    /// was looked up before the version was.
    pub(crate) async fn over(
        meadow: &Meadow,
        frame: FrameTable,
        ripening: Vec<Ripening>,
    ) -> Result<Arc<dyn TableProvider>> {
        let (mut rows, schema) = (Vec::new(), frame.schema());
        for Ripening { table, transaction, batches } in ripening {
            if table != frame.state().id()
                || meadow.ledger().transaction(frame.state(), &transaction.app).await? >= transaction.number
            {
                continue;
            }
            match fitted(&batches, frame.state(), &schema) {
                Ok(fitted) => rows.extend(fitted),
                // They cannot be committed either, and the stream says so.
                Err(error) => tracing::warn!(%error, frame = %frame.state().frame, "rows of a stream fit no more"),
            }
        }
        if rows.is_empty() {
            return Ok(Arc::new(frame));
        }
        Ok(Arc::new(Self { rows: MemTable::try_new(schema, vec![rows])?, frame }))
    }

    pub(crate) fn frame(&self) -> &FrameTable {
        &self.frame
    }
}

/// Rows as scans of a version give them.
fn fitted(batches: &[RecordBatch], frame: &FrameState, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
    let fitted = batches.iter().map(|batch| {
        let coercion = Coercion::plan(&batch.schema(), &frame.schema)?;
        viewed(&coercion.apply(batch)?, schema)
    });
    fitted.collect()
}

/// Rows with the types that scans have.
fn viewed(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| cast(column, field.data_type()));
    Ok(RecordBatch::try_new(Arc::clone(schema), columns.collect::<Result<_, _>>()?)?)
}

#[async_trait]
impl TableProvider for RipeningTable {
    fn schema(&self) -> SchemaRef {
        self.frame.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        self.frame.supports_filters_pushdown(filters)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let frame = self.frame.scan(state, projection, filters, limit).await?;
        let rows = self.rows.scan(state, projection, &[], None).await?;
        UnionExec::try_new(vec![frame, rows])
    }
}
