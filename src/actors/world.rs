//! The tables of the box `system`.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray, UInt64Array};
use async_trait::async_trait;

use super::channel::BeeSlot;
use super::heartbeat::{Heart, NodeInfo};
use super::query::Queries;
use super::settings::Settings;
use super::stream::Streams;
use crate::Result;
use crate::size::format_size;
use crate::sql::{Ripening, World};
use crate::storage::FrameRef;

/// What this node can tell.
pub(crate) struct NodeWorld {
    heart: Arc<Heart>,
    queries: Arc<Queries>,
    streams: Arc<Streams>,
    bees: Vec<Arc<BeeSlot>>,
    settings: Settings,
}

impl std::fmt::Debug for NodeWorld {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeWorld").finish_non_exhaustive()
    }
}

impl NodeWorld {
    pub(crate) fn new(
        heart: Arc<Heart>,
        queries: Arc<Queries>,
        streams: Arc<Streams>,
        bees: Vec<Arc<BeeSlot>>,
        settings: Settings,
    ) -> Self {
        Self { heart, queries, streams, bees, settings }
    }
}

#[async_trait]
impl World for NodeWorld {
    fn tables(&self) -> &'static [&'static str] {
        &["bees", "nodes", "queries", "tasks"]
    }

    async fn rows(&self, name: &str) -> Result<Option<RecordBatch>> {
        match name {
            "bees" => self.bee_rows().map(Some),
            "nodes" => node_rows(&self.heart.nodes().await?).map(Some),
            "queries" => self.query_rows().map(Some),
            "tasks" => self.task_rows().await.map(Some),
            _ => Ok(None),
        }
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let settings = &self.settings;
        let size = |bytes: Option<u64>| bytes.map_or_else(|| "none".to_string(), format_size);
        let folder = |folder: &Option<PathBuf>| folder.as_ref().map_or("none".into(), |f| f.display().to_string());
        vec![
            ("name", settings.name.clone()),
            ("storage", settings.storage.clone()),
            ("bees", settings.bee_count().to_string()),
            ("memory", format_size(settings.node_memory())),
            ("bee_memory", format_size(settings.bee_memory())),
            ("scratch", settings.scratch.clone().unwrap_or_else(std::env::temp_dir).display().to_string()),
            ("scratch_limit", format_size(settings.scratch_limit)),
            ("spill", format!("{:?}", settings.spill).to_lowercase()),
            ("disk_writes_per_day", size(settings.disk_writes_per_day)),
            ("cache", folder(&settings.cache)),
            ("cache_limit", format_size(settings.cache_limit)),
            ("max_queries", settings.max_queries.unwrap_or(4 * settings.bee_count()).to_string()),
            ("queue", settings.queue.to_string()),
            ("time_limit", settings.time_limit.map_or("none".into(), |limit| format!("{} s", limit.as_secs_f64()))),
            ("housekeeping", settings.housekeeping.to_string()),
            ("backpressure", settings.backpressure.to_string()),
            ("join", settings.join.to_string()),
            ("distribute", settings.distribute.to_string()),
            ("max_requests", "none".to_string()),
            ("max_bytes", "none".to_string()),
        ]
    }

    fn ripening(&self, frame: &FrameRef) -> Vec<Ripening> {
        self.streams.ripening(frame)
    }
}

impl NodeWorld {
    fn bee_rows(&self) -> Result<RecordBatch> {
        let number = |f: &dyn Fn(&BeeSlot) -> u64| numbers(self.bees.iter().map(|bee| f(bee)));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("bee", number(&|bee| bee.core.index as u64)),
            ("alive", Arc::new(BooleanArray::from_iter(self.bees.iter().map(|bee| Some(bee.is_alive()))))),
            ("generation", number(&BeeSlot::generation)),
            ("tasks", number(&|bee| bee.core.active() as u64)),
            ("memory", number(&|bee| bee.core.combs.room())),
            ("memory_used", number(&|bee| bee.core.combs.used())),
        ];
        Ok(RecordBatch::try_from_iter(columns)?)
    }

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
