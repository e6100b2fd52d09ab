//! The tables of the box `system`.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray, UInt64Array};
use async_trait::async_trait;

use super::heartbeat::{Heart, NodeInfo};
use super::query::Queries;
use super::stream::Streams;
use crate::Result;
use crate::sql::{Ripening, World};
use crate::storage::FrameRef;

/// What this node can tell.
#[derive(Debug)]
pub(crate) struct NodeWorld {
    heart: Arc<Heart>,
    queries: Arc<Queries>,
    streams: Arc<Streams>,
}

impl NodeWorld {
    pub(crate) fn new(heart: Arc<Heart>, queries: Arc<Queries>, streams: Arc<Streams>) -> Self {
        Self { heart, queries, streams }
    }
}

#[async_trait]
impl World for NodeWorld {
    fn tables(&self) -> &'static [&'static str] {
        &["nodes", "queries", "tasks"]
    }

    async fn rows(&self, name: &str) -> Result<Option<RecordBatch>> {
        match name {
            "nodes" => node_rows(&self.heart.nodes().await?).map(Some),
            "queries" => self.query_rows().map(Some),
            "tasks" => self.task_rows().await.map(Some),
            _ => Ok(None),
        }
    }

    fn ripening(&self, frame: &FrameRef) -> Vec<Ripening> {
        self.streams.ripening(frame)
    }
}

impl NodeWorld {
    fn query_rows(&self) -> Result<RecordBatch> {
        let running = self.queries.running();
        let stats: Vec<_> = running.iter().map(|q| q.stats()).collect();
        let number = |f: fn(&super::QueryStats) -> u64| numbers(stats.iter().map(f));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("query", texts(running.iter().map(|q| q.id.to_string()))),
            ("statement", texts(running.iter().map(|q| q.asked.to_string()))),
            ("elapsed_ms", Arc::new(Float64Array::from_iter_values(stats.iter().map(|s| s.elapsed_ms)))),
            ("rows", number(|s| s.rows)),
            ("tasks", number(|s| s.tasks as u64)),
            ("nodes", number(|s| s.nodes as u64)),
            ("memory_peak", number(|s| s.memory_peak)),
            ("spilled", number(|s| s.spilled)),
            ("requests", number(|s| s.requests)),
            ("bytes_read", number(|s| s.bytes_read)),
        ];
        Ok(RecordBatch::try_from_iter(columns)?)
    }

    async fn task_rows(&self) -> Result<RecordBatch> {
        let all = self.heart.tasks().await?;
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("node", texts(all.iter().map(|(node, _)| node.to_string()))),
            ("query", texts(all.iter().map(|(_, r)| r.query.to_string()))),
            ("stage", numbers(all.iter().map(|(_, r)| u64::from(r.task.stage)))),
            ("task", numbers(all.iter().map(|(_, r)| u64::from(r.task.task)))),
            ("attempt", numbers(all.iter().map(|(_, r)| u64::from(r.attempt)))),
        ];
        Ok(RecordBatch::try_from_iter(columns)?)
    }
}

fn node_rows(nodes: &[NodeInfo]) -> Result<RecordBatch> {
    let number = |f: fn(&NodeInfo) -> u64| numbers(nodes.iter().map(f));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("node", texts(nodes.iter().map(|n| n.id.clone()))),
        ("name", texts(nodes.iter().map(|n| n.name.clone()))),
        ("state", texts(nodes.iter().map(|n| n.state.clone()))),
        ("here", Arc::new(BooleanArray::from_iter(nodes.iter().map(|n| Some(n.here))))),
        ("bees", number(|n| n.bees as u64)),
        ("bee_memory", number(|n| n.bee_memory)),
        ("temperature", Arc::new(Float64Array::from_iter_values(nodes.iter().map(|n| n.temperature)))),
        ("tasks", number(|n| n.tasks as u64)),
        ("leading", number(|n| n.leading as u64)),
        ("requests", number(|n| n.requests)),
        ("cached", number(|n| n.cached)),
        ("version", texts(nodes.iter().map(|n| n.version.clone()))),
        ("silent_ms", number(|n| n.silent_ms)),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

fn texts(values: impl Iterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn numbers(values: impl Iterator<Item = u64>) -> ArrayRef {
    Arc::new(UInt64Array::from_iter_values(values))
}
