//! Tasks, completions and failures as objects: a length, a JSON header, and bytes that need no text form.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::names::{NodeId, QueryId, TaskId};
use crate::{Error, ErrorKind, Result};

/// Largest task that is read: a plan that names 100,000 cells is about half of it.
pub const MAX_TASK: u64 = 64 << 20;
/// Most partitions of a task's output: fifty nodes of a hundred bees exchange half as many.
const MAX_PARTITIONS: u32 = 10_000;
/// Largest completion that is read: its inline rows and the ranges of 10,000 partitions.
pub const MAX_DONE: u64 = 8 << 20;
/// Largest failure that is read.
pub const MAX_FAILURE: u64 = 64 << 10;

/// That a query lives, and who leads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Layout of the query's objects.
    pub protocol: u32,
    /// Fingerprint of the engine that its plans are for.
    pub engine: String,
    /// The node that leads it: when it is dead, so is the query.
    pub leader: NodeId,
}

impl Manifest {
    /// As an object.
    ///
    /// # Errors
    /// Never in practice: every field has a JSON form.
    pub fn to_bytes(&self) -> Result<Bytes> {
        json(self)
    }

    /// From the object of `query`.
    ///
    /// # Errors
    /// `Corrupt` for what is no query's record.
    pub fn parse(query: QueryId, bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|e| Error::corrupt(format!("the record of query {query}: {e}")))
    }
}

/// What the last operator of a task must be, for its consumer's sake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// As it is in the plan.
    Plain,
    /// Every consumer gets everything.
    Broadcast,
    /// Rows go to partitions by hash; the encoded partitioning follows the plan.
    Hash,
}

/// One attempt of a task, without its plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskHeader {
    /// The query's id in the engine's plans.
    pub plan_query: QueryId,
    /// The task.
    pub task: TaskId,
    /// Tasks of its stage.
    pub task_count: u32,
    /// Partitions of its output.
    pub partitions: u32,
    /// Its last operator.
    pub head: Head,
    /// Bytes of the plan; what follows is the partitioning of [`Head::Hash`].
    pub plan_bytes: u64,
    /// Stages whose outputs it reads, with their numbers of tasks.
    pub inputs: Vec<(u32, u32)>,
    /// Engine settings of the session.
    pub options: BTreeMap<String, String>,
    /// What the engine sends along.
    pub headers: BTreeMap<String, String>,
}

/// One attempt of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRecord {
    /// What it is.
    pub header: TaskHeader,
    /// The encoded plan.
    pub plan: Bytes,
    /// The encoded partitioning; empty unless the head is [`Head::Hash`].
    pub partitioning: Bytes,
}

impl TaskRecord {
    /// As an object.
    ///
    /// # Errors
    /// Never in practice: every field has a JSON form.
    pub fn to_bytes(&self) -> Result<Bytes> {
        framed(&self.header, &[&self.plan, &self.partitioning])
    }

    /// From an object.
    ///
    /// # Errors
    /// `Corrupt` for what is no task.
    pub fn parse(bytes: &Bytes) -> Result<Self> {
        let (header, body): (TaskHeader, Bytes) = unframed(bytes, "a task")?;
        if !(1..=MAX_PARTITIONS).contains(&header.partitions) || header.task.task >= header.task_count {
            return Err(Error::corrupt("a task has no or too many partitions, or is beyond its stage"));
        }
        let plan_bytes = usize::try_from(header.plan_bytes).ok().filter(|n| *n <= body.len());
        let plan_bytes = plan_bytes.ok_or_else(|| Error::corrupt("a task is shorter than it says"))?;
        Ok(Self { header, plan: body.slice(..plan_bytes), partitioning: body.slice(plan_bytes..) })
    }
}

/// The attempt of a task that counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DoneHeader {
    /// Which attempt.
    pub attempt: u32,
    /// The random part of its output's name.
    pub salt: u64,
    /// Who did it.
    pub node: NodeId,
    /// Whether the output follows here, or is an object of its own.
    pub inline: bool,
    /// Where each partition's pieces are, in bytes; each piece is an Arrow IPC stream.
    pub pieces: Vec<Vec<Range<u64>>>,
    /// Rows of all partitions.
    pub rows: u64,
    /// What it cost.
    pub cost: Cost,
}

/// What an attempt cost its node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Milliseconds from start to end.
    pub elapsed_ms: u64,
    /// Most memory that its operators held, in bytes.
    pub memory_peak: u64,
    /// Bytes spilled.
    pub spilled: u64,
    /// Requests to storage.
    pub requests: u64,
    /// Those of them that were second requests for what took long.
    #[serde(default)]
    pub hedges: u64,
    /// Bytes asked from storage.
    pub bytes_read: u64,
    /// Bytes of its output.
    pub bytes_written: u64,
}

/// See [`DoneHeader`].
#[derive(Debug, Clone, PartialEq)]
pub struct DoneRecord {
    /// What it is.
    pub header: DoneHeader,
    /// The output, when it is inline.
    pub rows: Bytes,
}

impl DoneRecord {
    /// As an object.
    ///
    /// # Errors
    /// Never in practice: every field has a JSON form.
    pub fn to_bytes(&self) -> Result<Bytes> {
        framed(&self.header, &[&self.rows])
    }

    /// From an object.
    ///
    /// # Errors
    /// `Corrupt` for what is no completion.
    pub fn parse(bytes: &Bytes) -> Result<Self> {
        let (header, rows): (DoneHeader, Bytes) = unframed(bytes, "a completion")?;
        let inside =
            |range: &Range<u64>| range.start <= range.end && (!header.inline || range.end <= rows.len() as u64);
        match header.pieces.iter().flatten().all(inside) {
            true => Ok(Self { header, rows }),
            false => Err(Error::corrupt("a completion names bytes that are not there")),
        }
    }
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Who tried.
    pub node: NodeId,
    /// What the leader can do about it.
    pub kind: FailureKind,
    /// What the caller can do about it: an [`ErrorKind`] in words.
    #[serde(default)]
    pub error: String,
    /// The error's sentence.
    pub message: String,
}

/// What the next attempt can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// More memory may help.
    Memory,
    /// Another node or another moment may help.
    Passing,
    /// The data or the query is wrong: nothing helps.
    Final,
    /// Nobody has heard of the node any more.
    Lost,
}

impl Failure {
    /// The failure that `error` is.
    pub fn of(node: &NodeId, error: &Error) -> Self {
        use ErrorKind as K;
        let kind = match error.kind() {
            K::MemoryExceeded => FailureKind::Memory,
            K::Storage | K::Busy | K::Closed | K::Internal | K::TimedOut | K::NotFound | K::Cancelled => {
                FailureKind::Passing
            }
            _ => FailureKind::Final,
        };
        let message = error.message().chars().take(4000).collect();
        Self { node: node.clone(), kind, error: error.kind().as_str().into(), message }
    }

    /// As an object.
    ///
    /// # Errors
    /// Never in practice: every field has a JSON form.
    pub fn to_bytes(&self) -> Result<Bytes> {
        json(self)
    }

    /// From an object; `None` for what is no failure.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// The error that it is for the caller, who hears of all tries in `history`.
    pub fn to_error(&self, history: &str) -> Error {
        let fallback = match self.kind {
            FailureKind::Memory => ErrorKind::MemoryExceeded,
            FailureKind::Final => ErrorKind::InvalidInput,
            FailureKind::Passing | FailureKind::Lost => ErrorKind::Storage,
        };
        let kind = ErrorKind::ALL.into_iter().find(|kind| kind.as_str() == self.error).unwrap_or(fallback);
        Error::new(kind, format!("{}; {history}", self.message))
    }
}

/// Reads a whole object of at most `limit` bytes; `None` when it is not there.
///
/// # Errors
/// What the store says; `Corrupt` for a larger one.
pub async fn get_bounded(store: &dyn ObjectStore, path: &Path, limit: u64) -> Result<Option<Bytes>> {
    let got = match store.get(path).await {
        Ok(got) => got,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if got.meta.size > limit {
        return Err(Error::corrupt(format!("{path} has {} bytes: at most {limit} are read", got.meta.size)));
    }
    Ok(Some(got.bytes().await?))
}

pub(super) fn json(value: &impl Serialize) -> Result<Bytes> {
    Ok(serde_json::to_vec(value).map_err(|e| Error::internal(e.to_string()))?.into())
}

fn framed(header: &impl Serialize, body: &[&[u8]]) -> Result<Bytes> {
    let header = json(header)?;
    let length = u32::try_from(header.len()).map_err(|_| Error::internal("a header of 4 GB"))?;
    let mut bytes = Vec::with_capacity(4 + header.len() + body.iter().map(|b| b.len()).sum::<usize>());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&header);
    body.iter().for_each(|part| bytes.extend_from_slice(part));
    Ok(bytes.into())
}

fn unframed<T: DeserializeOwned>(bytes: &Bytes, what: &str) -> Result<(T, Bytes)> {
    let short = || Error::corrupt(format!("{what} is cut short"));
    let length = bytes.first_chunk::<4>().ok_or_else(short)?;
    let end = 4 + u32::from_le_bytes(*length) as usize;
    let header = bytes.get(4..end).ok_or_else(short)?;
    let header = serde_json::from_slice(header).map_err(|e| Error::corrupt(format!("{what} is damaged: {e}")))?;
    Ok((header, bytes.slice(end..)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn task() -> TaskRecord {
        TaskRecord {
            header: TaskHeader {
                plan_query: uuid::Uuid::nil().into(),
                task: TaskId { stage: 2, task: 1 },
                task_count: 4,
                partitions: 8,
                head: Head::Hash,
                plan_bytes: 4,
                inputs: vec![(1, 3)],
                options: BTreeMap::new(),
                headers: BTreeMap::new(),
            },
            plan: Bytes::from_static(b"plan"),
            partitioning: Bytes::from_static(b"hash"),
        }
    }

    fn done() -> DoneRecord {
        let header = DoneHeader {
            attempt: 1,
            salt: 7,
            node: "a-1".parse().unwrap(),
            inline: true,
            pieces: vec![vec![0..2], vec![2..4]],
            rows: 3,
            cost: Cost::default(),
        };
        DoneRecord { header, rows: Bytes::from_static(b"rows") }
    }

    #[test]
    fn records_read_back() {
        assert_eq!(TaskRecord::parse(&task().to_bytes().unwrap()).unwrap(), task());
        assert_eq!(DoneRecord::parse(&done().to_bytes().unwrap()).unwrap(), done());
    }

    #[test]
    fn what_points_outside_itself_is_refused() {
        let mut outside = done();
        outside.header.pieces[1][0].end = 5;
        assert!(DoneRecord::parse(&outside.to_bytes().unwrap()).is_err());
        let mut long = task();
        long.header.plan_bytes = 9;
        assert!(TaskRecord::parse(&long.to_bytes().unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn cut_or_changed_bytes_never_panic(cut in 0..400usize, at in 0..400usize, byte in any::<u8>()) {
            for whole in [task().to_bytes().unwrap(), done().to_bytes().unwrap()] {
                let mut bytes = whole[..cut.min(whole.len())].to_vec();
                if let Some(b) = bytes.get_mut(at) { *b = byte; }
                let bytes = Bytes::from(bytes);
                let _ = TaskRecord::parse(&bytes);
                let _ = DoneRecord::parse(&bytes);
            }
        }
    }
}
