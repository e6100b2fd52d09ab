//! How long the tasks of one query took, and how fast that shows its nodes to be.

use std::collections::BTreeMap;
use std::time::Duration;

use super::NodeId;

/// Added to both times of a comparison: what takes less says little of the node that did it.
const NOISE: Duration = Duration::from_millis(100);
/// Paces that are believed: beyond them a node was held up once.
const BELIEVED: std::ops::RangeInclusive<f64> = 0.1..=20.0;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// Of each stage, the shortest first.
    stages: BTreeMap<u32, Vec<Duration>>,
    /// Of each node, by stage; at least, where another one was faster.
    nodes: BTreeMap<NodeId, Vec<(u32, Duration)>>,
}

impl Times {
    /// `node` did a task of `stage`.
    pub(super) fn add(&mut self, stage: u32, node: &NodeId, took: Duration) {
        let times = self.stages.entry(stage).or_default();
        times.insert(times.partition_point(|time| *time < took), took);
        self.nodes.entry(node.clone()).or_default().push((stage, took));
    }

    /// `node` worked on a task of `stage` for `ran` when another node had done it.
    pub(super) fn beaten(&mut self, stage: u32, node: &NodeId, ran: Duration) {
        if self.usual(stage).is_some_and(|usual| ran > usual) {
            self.nodes.entry(node.clone()).or_default().push((stage, ran));
        }
    }

    /// What half of a stage's tasks took at most, once one is done.
    pub(super) fn usual(&self, stage: u32) -> Option<Duration> {
        let times = self.stages.get(&stage)?;
        times.get(times.len() / 2).copied()
    }

    /// How many times as long as usual `node` takes, by what it has done; 1 while nothing is known.
    pub(super) fn pace(&self, node: &NodeId) -> f64 {
        self.pace_with(node, [])
    }

    /// As [`Times::pace`], by what it works on, too: tasks of these stages, each since so long.
    pub(super) fn pace_with(&self, node: &NodeId, running: impl IntoIterator<Item = (u32, Duration)>) -> f64 {
        let usual = |stage: u32| self.usual(stage);
        let sum = |(took, expected): (Duration, Duration), (stage, time): (u32, Duration)| {
            (took.saturating_add(time), expected.saturating_add(usual(stage).unwrap_or(time)))
        };
        let done = self.nodes.get(node).into_iter().flatten().copied();
        // One that may still be as quick as usual says nothing yet.
        let overdue = running.into_iter().filter(|(stage, time)| usual(*stage).is_some_and(|usual| *time > usual));
        let (took, expected) = done.chain(overdue).fold((NOISE, NOISE), sum);
        (took.as_secs_f64() / expected.as_secs_f64()).clamp(*BELIEVED.start(), *BELIEVED.end())
    }
}
