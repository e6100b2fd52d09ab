//! What a node says of itself, again and again: as long as this object changes, the node lives.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::names::{NodeId, QueryId, TaskId};
use super::record::json;
use crate::{Error, Result};

/// The layout of beats, tasks and completions. A node takes only what it can read, so a swarm is upgraded node by node.
pub const PROTOCOL: u32 = 1;
/// Largest beat that is read: tens of thousands of attempts.
pub const MAX_BEAT: u64 = 4 << 20;

/// One attempt that a node works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Running {
    /// The query.
    pub query: QueryId,
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub attempt: u32,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Beat {
    /// Layout of everything this node writes.
    pub protocol: u32,
    /// Fingerprint of the engine: nodes that differ would split rows differently or not understand a plan.
    pub engine: String,
    /// This run of the node.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Its version of Apiary.
    pub version: String,
    /// Counts the beats; only that it changes means anything.
    pub sequence: u64,
    /// Milliseconds until the next beat is due.
    pub interval_ms: u64,
    /// Milliseconds between two looks at the doorbell.
    pub look_ms: u64,
    /// Whether it is alone and stops beating until the doorbell rings.
    #[serde(default)]
    pub dozes: bool,
    /// Bees that take tasks of others; 0 for a node that only leads.
    pub bees: usize,
    /// Memory of one bee, in bytes.
    pub bee_memory: u64,
    /// How loaded it is, 0..=1.
    pub temperature: f64,
    /// Requests to storage since it started.
    pub requests: u64,
    /// Bytes that it keeps of remote cells.
    pub cached: u64,
    /// Attempts it works on.
    pub running: Vec<Running>,
    /// Attempts it has taken and that wait for their inputs or for a bee.
    #[serde(default)]
    pub waiting: Vec<Running>,
    /// Queries it leads.
    pub leading: Vec<QueryId>,
}

impl Beat {
    /// The interval as a duration.
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }

    /// Longest time after which a living node has looked at the doorbell.
    pub fn look(&self) -> Duration {
        Duration::from_millis(self.look_ms)
    }

    /// As an object.
    ///
    /// # Errors
    /// Never in practice: every field has a JSON form.
    pub fn to_bytes(&self) -> Result<Bytes> {
        json(self)
    }

    /// From the object of node `id`.
    ///
    /// # Errors
    /// `Corrupt` for what no node wrote about itself.
    pub fn parse(id: &NodeId, bytes: &[u8]) -> Result<Self> {
        let beat: Self =
            serde_json::from_slice(bytes).map_err(|e| Error::corrupt(format!("the beat of {id} is damaged: {e}")))?;
        match beat.id == *id && bytes.len() as u64 <= MAX_BEAT {
            true => Ok(beat),
            false => Err(Error::corrupt(format!("the beat of {id} is not its own"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn beat_of(name: &str) -> Beat {
        Beat {
            protocol: PROTOCOL,
            engine: "e".into(),
            id: name.parse().unwrap(),
            name: name.into(),
            version: "0".into(),
            sequence: 1,
            interval_ms: 1000,
            look_ms: 100,
            dozes: false,
            bees: 2,
            bee_memory: 1 << 30,
            temperature: 0.25,
            requests: 7,
            cached: 0,
            running: vec![Running { query: uuid::Uuid::nil().into(), task: TaskId { stage: 1, task: 2 }, attempt: 0 }],
            waiting: vec![],
            leading: vec![],
        }
    }

    #[test]
    fn a_beat_reads_back_as_its_own_only() {
        let beat = beat_of("a-1");
        let bytes = beat.to_bytes().unwrap();
        assert_eq!(Beat::parse(&beat.id, &bytes).unwrap(), beat);
        assert!(Beat::parse(&"b-2".parse().unwrap(), &bytes).is_err());
        assert!(Beat::parse(&beat.id, b"{}").is_err());
    }
}
