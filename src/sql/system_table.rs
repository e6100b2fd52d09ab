//! The tables of the box `system`: what this node knows, what is set, and what the ledgers of the frames say.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::datasource::{MemTable, TableType};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use futures::{StreamExt, TryStreamExt};

use super::answer;
use super::catalog::LOOKUPS;
use super::session::SqlSession;
use super::world::{SYSTEM, World};
use crate::storage::{AsOf, FrameRef, Meadow};
use crate::{Error, ErrorKind, Result};

/// The column that says which frame a row is about.
const FRAME: &str = "frame";
const CELLS: &str = "cells";
const HISTORY: &str = "history";
const SETTINGS: &str = "settings";

/// The table `system.<name>`.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is no such table, and what the storage says.
pub(super) async fn system_table(
    meadow: &Meadow,
    session: &SqlSession,
    world: &dyn World,
    name: &str,
) -> Result<Arc<dyn TableProvider>> {
    let of_frames = |what| Ok(Arc::new(OfFrames { what, meadow: meadow.clone(), schema: what.schema()? }) as _);
    let rows = match name {
        CELLS => return of_frames(What::Cells),
        HISTORY => return of_frames(What::History),
        SETTINGS => Some(settings(session, world)?),
        other => world.rows(other).await?,
    };
    let rows = rows.ok_or_else(|| {
        let mut known = [world.tables(), &[CELLS, HISTORY, SETTINGS]].concat();
        known.sort_unstable();
        Error::not_found(format!("{SYSTEM}.{name} does not exist: there is {}", known.join(", ")))
    })?;
    Ok(Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]])?))
}

/// Its name, its value, and who set it.
type Setting = (String, String, &'static str);

/// What is set, and by whom.
fn settings(session: &SqlSession, world: &dyn World) -> Result<RecordBatch> {
    let node = world.settings().into_iter().map(|(name, value)| (name.to_string(), value, "node"));
    let mut all: Vec<Setting> = node.collect();
    for (name, value) in session.settings() {
        all.retain(|(known, ..)| *known != name);
        all.push((name, value, "session"));
    }
    all.sort();
    let texts = |text: fn(&Setting) -> &str| Arc::new(StringArray::from_iter_values(all.iter().map(text))) as ArrayRef;
    let columns = [("name", texts(|s| &s.0)), ("value", texts(|s| &s.1)), ("set_by", texts(|s| s.2))];
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// What the ledgers of frames tell.
#[derive(Debug, Clone, Copy)]
enum What {
    Cells,
    History,
}

impl What {
    fn schema(self) -> Result<SchemaRef> {
        let moment = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        let (text, number) = (DataType::Utf8, DataType::UInt64);
        let fields = match self {
            Self::Cells => vec![
                Field::new(FRAME, text.clone(), false),
                Field::new("version", number.clone(), false),
                Field::new("cell", text.clone(), false),
                Field::new("partition", text, false),
                Field::new("rows", number.clone(), true),
                Field::new("rows_deleted", number.clone(), false),
                Field::new("bytes", number, false),
                Field::new("written", moment, false),
            ],
            Self::History => {
                let frame = Arc::new(Field::new(FRAME, text, false));
                let entries = answer::history(&[])?.schema();
                return Ok(Arc::new(Schema::new(
                    [frame].into_iter().chain(entries.fields().iter().cloned()).collect::<Vec<_>>(),
                )));
            }
        };
        Ok(Arc::new(Schema::new(fields)))
    }

    async fn rows(self, meadow: &Meadow, frame: &FrameRef, schema: &SchemaRef) -> Result<RecordBatch> {
        let moments =
            |times: Vec<i64>| Arc::new(TimestampMillisecondArray::from(times).with_timezone("UTC")) as ArrayRef;
        let columns: Vec<ArrayRef> = match self {
            Self::Cells => {
                let (state, cells) = meadow.version(frame, AsOf::Latest).await?;
                let all = || 0..cells.len();
                let numbers =
                    |number: &dyn Fn(usize) -> u64| Arc::new(UInt64Array::from_iter_values(all().map(number)));
                vec![
                    repeated(frame, cells.len()),
                    numbers(&|_| state.version()),
                    Arc::new(StringArray::from_iter_values(all().map(|i| cells.path(i).to_string()))),
                    Arc::new(StringArray::from_iter_values(all().map(|i| cells.partition(i)))),
                    Arc::new(UInt64Array::from_iter(all().map(|i| cells.rows(i)))),
                    numbers(&|i| cells.deleted(i).map_or(0, crate::storage::deleted_rows::DeletedRows::count)),
                    numbers(&|i| cells.bytes(i)),
                    moments(all().map(|i| cells.modified_ms(i)).collect()),
                ]
            }
            Self::History => {
                meadow.registry().frame(frame).await?;
                let entries = meadow.ledger().history(frame, None).await?;
                let entries = answer::history(&entries)?;
                [repeated(frame, entries.num_rows())].into_iter().chain(entries.columns().iter().cloned()).collect()
            }
        };
        Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
    }
}

fn repeated(frame: &FrameRef, rows: usize) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(std::iter::repeat_n(frame.to_string(), rows)))
}

/// A table of all frames' ledgers; filters on `frame` spare those of the others.
#[derive(Debug)]
struct OfFrames {
    what: What,
    meadow: Meadow,
    schema: SchemaRef,
}

impl OfFrames {
    /// Whether it was dropped meanwhile.
    async fn is_gone(&self, frame: &FrameRef) -> bool {
        self.meadow.registry().frame(frame).await.is_err_and(|error| error.kind() == ErrorKind::NotFound)
    }

    async fn frames(&self, filters: &[Expr]) -> Result<Vec<FrameRef>> {
        let mut frames = self.meadow.registry().frames().await?;
        for wanted in filters.iter().filter_map(wanted_frames) {
            frames.retain(|frame| wanted.contains(&frame.to_string()));
        }
        Ok(frames)
    }
}

/// The frames that a filter lets pass, where it names them.
fn wanted_frames(filter: &Expr) -> Option<Vec<String>> {
    let is_frame = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == FRAME);
    let text = |expr: &Expr| match expr {
        Expr::Literal(ScalarValue::Utf8(Some(t)) | ScalarValue::Utf8View(Some(t)), _) => Some(t.clone()),
        _ => None,
    };
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) if is_frame(left) => Some(vec![text(right)?]),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) if is_frame(right) => Some(vec![text(left)?]),
        Expr::InList(list) if !list.negated && is_frame(&list.expr) => list.list.iter().map(text).collect(),
        _ => None,
    }
}

#[async_trait]
impl TableProvider for OfFrames {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let rows = futures::stream::iter(self.frames(filters).await?)
            .map(|frame| async move {
                match self.what.rows(&self.meadow, &frame, &self.schema).await {
                    Err(_) if self.meadow.was_view(&frame) => Ok(None),
                    Err(error) if error.kind() == ErrorKind::NotFound && self.is_gone(&frame).await => Ok(None),
                    rows => rows.map(Some).map_err(|error| error.context(format!("frame {frame}"))),
                }
            })
            .buffered(LOOKUPS);
        let rows: Vec<RecordBatch> = rows.try_filter_map(|rows| std::future::ready(Ok(rows))).try_collect().await?;
        MemTable::try_new(Arc::clone(&self.schema), vec![rows])?.scan(state, projection, &[], limit).await
    }
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{col, lit};

    use super::*;

    #[test]
    fn filters_name_frames_or_say_nothing() {
        assert_eq!(wanted_frames(&col(FRAME).eq(lit("a.b.c"))), Some(vec!["a.b.c".into()]));
        assert_eq!(wanted_frames(&lit("a.b.c").eq(col(FRAME))), Some(vec!["a.b.c".into()]));
        let list = vec![lit("a.b.c"), lit("a.b.d")];
        assert_eq!(wanted_frames(&col(FRAME).in_list(list.clone(), false)).map(|l| l.len()), Some(2));
        for other in [col(FRAME).in_list(list, true), col("cell").eq(lit("a")), col(FRAME).not_eq(lit("a.b.c"))] {
            assert_eq!(wanted_frames(&other), None);
        }
    }
}
