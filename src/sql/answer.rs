//! Small result tables: what DDL, SHOW, DESCRIBE and the facts of EXPLAIN give back.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray, TimestampMillisecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::frame_table::ScanNotes;
use super::view::definition;
use crate::Result;
use crate::storage::vacuum::Leftover;
use crate::storage::{
    ChangeResult, Finding, FrameInfo, FrameRef, HistoryEntry, RestoreResult, ViewRecord, WriteResult,
};

/// One text column named `name`.
pub(crate) fn texts(name: &str, values: impl IntoIterator<Item = String>) -> Result<RecordBatch> {
    let array = StringArray::from_iter_values(values);
    let schema = Schema::new(vec![Field::new(name, DataType::Utf8, false)]);
    Ok(RecordBatch::try_new(Arc::new(schema), vec![Arc::new(array)])?)
}

/// The one-row answer of a statement that gives no rows.
pub(crate) fn done(what: String) -> Result<RecordBatch> {
    texts("status", [what])
}

fn text(value: String) -> ArrayRef {
    Arc::new(StringArray::from(vec![value]))
}

fn number(value: u64) -> ArrayRef {
    Arc::new(UInt64Array::from(vec![value]))
}

fn fraction(value: f64) -> ArrayRef {
    Arc::new(Float64Array::from(vec![value]))
}

/// What a write answers: frame, version, rows, cells, bytes, temperature.
pub fn written(frame: &FrameRef, result: &WriteResult) -> Result<RecordBatch> {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("frame", text(frame.to_string())),
        ("version", number(result.version)),
        ("rows", number(result.rows)),
        ("cells", number(result.cells as u64)),
        ("bytes", number(result.bytes)),
        ("temperature", fraction(result.temperature)),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// What ALTER FRAME answers: frame, version.
///
/// # Errors
/// Never in practice: the columns are built to fit.
pub fn altered(frame: &FrameRef, version: u64) -> Result<RecordBatch> {
    let columns: Vec<(&str, ArrayRef)> = vec![("frame", text(frame.to_string())), ("version", number(version))];
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// What RESTORE answers.
pub(crate) fn restored(frame: &FrameRef, result: &RestoreResult) -> Result<RecordBatch> {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("frame", text(frame.to_string())),
        ("version", number(result.version)),
        ("restored", number(result.restored)),
        ("cells_added", number(result.cells_added as u64)),
        ("cells_removed", number(result.cells_removed as u64)),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// The commits of a frame, one row each.
pub(crate) fn history(entries: &[HistoryEntry]) -> Result<RecordBatch> {
    let numbers = |value: fn(&HistoryEntry) -> u64| Arc::new(UInt64Array::from_iter_values(entries.iter().map(value)));
    let texts = |value: fn(&HistoryEntry) -> &str| Arc::new(StringArray::from_iter_values(entries.iter().map(value)));
    let times = TimestampMillisecondArray::from_iter_values(entries.iter().map(|entry| entry.timestamp_ms));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("version", numbers(|entry| entry.version)),
        ("timestamp", Arc::new(times.with_timezone("UTC"))),
        ("operation", texts(|entry| &entry.operation)),
        ("rows", Arc::new(UInt64Array::from_iter(entries.iter().map(|entry| entry.rows)))),
        ("cells_added", numbers(|entry| entry.cells_added as u64)),
        ("cells_removed", numbers(|entry| entry.cells_removed as u64)),
        ("engine", texts(|entry| &entry.engine)),
    ];
    Ok(RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, n == "rows")))?)
}

/// What a vacuum found, a row each.
pub(crate) fn vacuumed(leftovers: &[Leftover], removed: bool) -> Result<RecordBatch> {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("cell", Arc::new(StringArray::from_iter_values(leftovers.iter().map(|l| l.path.to_string())))),
        ("bytes", Arc::new(UInt64Array::from_iter_values(leftovers.iter().map(|l| l.bytes)))),
        ("removed", Arc::new(BooleanArray::from(vec![removed; leftovers.len()]))),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// What VERIFY found, a row each: cell, problem, detail, advice.
///
/// # Errors
/// Never in practice: the columns are built to fit.
pub fn verified(findings: &[Finding]) -> Result<RecordBatch> {
    let texts = |text: &dyn Fn(&Finding) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(findings.iter().map(text)))
    };
    let columns = [
        ("cell", texts(&|f| f.path.to_string())),
        ("problem", texts(&|f| f.problem.name().to_string())),
        ("detail", texts(&|f| f.detail.clone())),
        ("advice", texts(&|f| f.problem.advice().to_string())),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// What DELETE, UPDATE, MERGE and OPTIMIZE answer.
///
/// # Errors
/// Never in practice: the columns are built to fit.
pub fn changed(frame: &FrameRef, result: &ChangeResult) -> Result<RecordBatch> {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("frame", text(frame.to_string())),
        ("version", number(result.version)),
        ("rows_inserted", number(result.rows_inserted)),
        ("rows_updated", number(result.rows_updated)),
        ("rows_deleted", number(result.rows_deleted)),
        ("cells_added", number(result.cells_added as u64)),
        ("cells_removed", number(result.cells_removed as u64)),
        ("bytes", number(result.bytes)),
        ("temperature", fraction(result.temperature)),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// The views, one row each.
pub(crate) fn views(views: &[(FrameRef, ViewRecord)]) -> Result<RecordBatch> {
    let names = views.iter().map(|(name, _)| name.to_string());
    let definitions = views.iter().map(|(name, view)| definition(name, view));
    let columns: [(&str, ArrayRef); 2] = [
        ("view", Arc::new(StringArray::from_iter_values(names))),
        ("definition", Arc::new(StringArray::from_iter_values(definitions))),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// The columns of a frame or a view, one row each.
pub(crate) fn described(schema: &Schema, partition_by: &[String]) -> Result<RecordBatch> {
    let fields = schema.fields();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("column_name", Arc::new(StringArray::from_iter_values(fields.iter().map(|f| f.name().as_str())))),
        ("data_type", Arc::new(StringArray::from_iter_values(fields.iter().map(|f| f.data_type().to_string())))),
        ("is_nullable", Arc::new(BooleanArray::from_iter(fields.iter().map(|f| Some(f.is_nullable()))))),
        (
            "is_partition",
            Arc::new(BooleanArray::from_iter(fields.iter().map(|f| Some(partition_by.contains(f.name()))))),
        ),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// Two texts, in one row.
pub(crate) fn pair(one: (&str, &str), other: (&str, &str)) -> Result<RecordBatch> {
    let columns = [one, other].map(|(name, value)| (name, text(value.to_string())));
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// What is set of a frame, one row each.
pub(crate) fn properties(properties: &[(String, String)]) -> Result<RecordBatch> {
    let (keys, values): (Vec<&str>, Vec<&str>) = properties.iter().map(|(k, v)| (k.as_str(), v.as_str())).unzip();
    let columns: [(&str, ArrayRef); 2] =
        [("key", Arc::new(StringArray::from(keys))), ("value", Arc::new(StringArray::from(values)))];
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// A frame's place, size and settings, in one row.
pub(crate) fn detailed(info: &FrameInfo, housekeeping: bool, properties: &[(String, String)]) -> Result<RecordBatch> {
    let properties: Vec<String> = properties.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("frame", text(info.name.to_string())),
        ("location", text(info.location.clone())),
        ("version", number(info.version)),
        ("rows", Arc::new(UInt64Array::from(vec![info.rows]))),
        ("cells", number(info.cells as u64)),
        ("bytes", number(info.bytes)),
        ("partition_by", text(info.partition_by.join(", "))),
        ("cluster_by", text(info.cluster_by.join(", "))),
        ("housekeeping", Arc::new(BooleanArray::from(vec![housekeeping]))),
        ("properties", text(properties.join(", "))),
    ];
    Ok(RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, n == "rows")))?)
}

/// The two text columns of EXPLAIN.
pub(crate) fn plan_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("plan_type", DataType::Utf8, false),
        Field::new("plan", DataType::Utf8, false),
    ]))
}

/// Rows of EXPLAIN.
pub(crate) fn plans(rows: &[(&str, String)]) -> Result<RecordBatch> {
    let names = StringArray::from_iter_values(rows.iter().map(|(name, _)| *name));
    let texts = StringArray::from_iter_values(rows.iter().map(|(_, text)| text.as_str()));
    Ok(RecordBatch::try_new(plan_schema(), vec![Arc::new(names), Arc::new(texts)])?)
}

/// What EXPLAIN ANALYZE tells about a finished query beside its plan.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Bees that took part.
    pub bees: usize,
    /// Tasks of all stages.
    pub tasks: usize,
    /// Nodes that did them.
    pub nodes: usize,
    /// Bytes that went between tasks through the meadow.
    pub exchanged: u64,
    /// Attempts that failures of earlier ones caused.
    pub retries: usize,
    /// Attempts beside slow ones.
    pub speculations: usize,
    /// Tasks that moved to a node with nothing to do.
    pub moves: usize,
    /// Largest memory held by one bee for it, in bytes.
    pub memory_peak: u64,
    /// Bytes spilled to scratch files.
    pub spilled: u64,
    /// Requests to storage.
    pub requests: u64,
    /// Those of them that were second requests for what took long.
    pub hedges: u64,
    /// Bytes asked from storage.
    pub bytes_read: u64,
    /// The node's temperature at the end.
    pub temperature: f64,
}

impl Facts {
    /// The rows that follow the plan in EXPLAIN ANALYZE.
    ///
    /// # Errors
    /// Never in practice: the columns are built to fit.
    pub fn to_batch(&self, notes: &ScanNotes) -> Result<RecordBatch> {
        let bees = format!("{} bees, {} tasks, temperature {:.2}", self.bees, self.tasks, self.temperature);
        let memory = format!("peak {} bytes on one bee, spilled {} bytes", self.memory_peak, self.spilled);
        let hedges = if self.hedges > 0 { format!(", {} of the requests hedged", self.hedges) } else { String::new() };
        let storage = format!("{} requests, {} bytes{hedges}", self.requests, self.bytes_read);
        let swarm = format!(
            "{} nodes, {} bytes exchanged, {} retries, {} speculative attempts, {} moved tasks",
            self.nodes, self.exchanged, self.retries, self.speculations, self.moves
        );
        plans(&[
            ("bees", bees),
            ("swarm", swarm),
            ("memory", memory),
            ("storage", storage),
            ("cells", notes.to_string()),
        ])
    }
}
