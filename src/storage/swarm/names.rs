//! Ids and paths of the objects that nodes exchange. Parsing and printing are inverse.

use std::fmt;
use std::str::FromStr;

use object_store::path::Path;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Error, Result};

/// Folder of the beats.
pub const HEARTBEATS: &str = "_heartbeats";
/// Folder of the running queries.
pub const QUERIES: &str = "_queries";

/// Longest node id: a host name of 64 letters, a hyphen and eight digits.
const MAX_NODE_ID: usize = 73;

/// One run of one node: its name and a random part, so that a node that starts again is another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

impl NodeId {
    /// A new id for a node called `name`; letters that a path cannot hold become hyphens.
    pub fn new_for(name: &str) -> Self {
        let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let plain: String = name.chars().take(64).map(letter).collect();
        let random = Uuid::new_v4().simple().to_string();
        Self(format!("{}-{}", if plain.is_empty() { "node" } else { &plain }, &random[..8]))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let letters = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        match letters && !text.is_empty() && text.len() <= MAX_NODE_ID {
            true => Ok(Self(text.into())),
            false => Err(Error::corrupt(format!("{text:?} is no node id: it has a-z, 0-9 and hyphens"))),
        }
    }
}

impl TryFrom<String> for NodeId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One query, wherever its tasks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QueryId(Uuid);

impl QueryId {
    /// A new id; later ones sort after earlier ones of the same node.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id as the engine keeps it.
    pub fn uuid(self) -> Uuid {
        self.0
    }
}

impl Default for QueryId {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Uuid> for QueryId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl FromStr for QueryId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.parse().map(Self).map_err(|_| Error::corrupt(format!("{text:?} is no query id")))
    }
}

impl TryFrom<String> for QueryId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<QueryId> for String {
    fn from(id: QueryId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for QueryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One task of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    /// Stage of the plan.
    pub stage: u32,
    /// Task within the stage.
    pub task: u32,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stage, self.task)
    }
}

/// Where node `id` writes its beat.
pub fn beat(id: &NodeId) -> Path {
    Path::from(format!("{HEARTBEATS}/{id}.json"))
}

/// The object that changes when there is news.
pub fn doorbell() -> Path {
    Path::from(format!("{HEARTBEATS}/_doorbell"))
}

/// The object whose age is zero, for those who have no beat to compare others with.
pub fn mark() -> Path {
    Path::from(format!("{HEARTBEATS}/_mark"))
}

/// The node whose beat is at `path`.
pub fn beat_of(path: &Path) -> Option<NodeId> {
    path.as_ref().strip_prefix(HEARTBEATS)?.strip_prefix('/')?.strip_suffix(".json")?.parse().ok()
}

/// Where everything of `query` is.
pub fn query(query: QueryId) -> Path {
    Path::from(format!("{QUERIES}/{query}"))
}

/// The query whose folder is `path`.
pub fn query_of(path: &Path) -> Option<QueryId> {
    let rest = path.as_ref().strip_prefix(QUERIES)?.strip_prefix('/')?;
    rest.split('/').next()?.parse().ok()
}

/// One object of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The query lives.
    Manifest,
    /// An attempt, given to a node.
    Task(TaskId, u32, NodeId),
    /// An attempt's output, with a number that only its writer knew: no output is ever written over.
    Output(TaskId, u32, u64),
    /// An attempt failed.
    Failed(TaskId, u32),
    /// A task is done.
    Done(TaskId),
}

impl Entry {
    /// Where it is for `query`.
    pub fn path(&self, query: QueryId) -> Path {
        let name = match self {
            Self::Manifest => "query.json".to_string(),
            Self::Task(id, attempt, node) => format!("{id}/{attempt}.{node}.task"),
            Self::Output(id, attempt, salt) => format!("{id}/{attempt}.{salt}.out"),
            Self::Failed(id, attempt) => format!("{id}/{attempt}.failed"),
            Self::Done(id) => format!("{id}.done"),
        };
        Path::from(format!("{QUERIES}/{query}/{name}"))
    }

    /// What is at `path`; `None` for what nobody of us wrote.
    pub fn parse(path: &Path) -> Option<(QueryId, Self)> {
        let rest = path.as_ref().strip_prefix(QUERIES)?.strip_prefix('/')?;
        let (query, name) = rest.split_once('/')?;
        let query = query.parse().ok()?;
        let parts: Vec<&str> = name.split('/').collect();
        let id = |stage: &str, task: &str| Some(TaskId { stage: stage.parse().ok()?, task: task.parse().ok()? });
        let entry = match parts[..] {
            ["query.json"] => Self::Manifest,
            [stage, done] => Self::Done(id(stage, done.strip_suffix(".done")?)?),
            [stage, task, file] => {
                let (attempt, kind) = file.split_once('.')?;
                let (id, attempt) = (id(stage, task)?, attempt.parse().ok()?);
                match kind {
                    "failed" => Self::Failed(id, attempt),
                    other => match other.strip_suffix(".out") {
                        Some(salt) => Self::Output(id, attempt, salt.parse().ok()?),
                        None => Self::Task(id, attempt, other.strip_suffix(".task")?.parse().ok()?),
                    },
                }
            }
            _ => return None,
        };
        Some((query, entry))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries() -> impl Strategy<Value = Entry> {
        let id = (any::<u32>(), any::<u32>()).prop_map(|(stage, task)| TaskId { stage, task });
        (id, any::<u32>(), "[a-z0-9-]{1,20}", 0..5u8).prop_map(|(id, attempt, node, kind)| match kind {
            0 => Entry::Manifest,
            1 => Entry::Task(id, attempt, node.parse().unwrap()),
            2 => Entry::Output(id, attempt, u64::from(attempt) << 20),
            3 => Entry::Failed(id, attempt),
            _ => Entry::Done(id),
        })
    }

    proptest! {
        #[test]
        fn an_entrys_path_reads_back(entry in entries(), query in any::<u128>()) {
            let query = QueryId(Uuid::from_u128(query));
            prop_assert_eq!(Entry::parse(&entry.path(query)), Some((query, entry)));
        }

        #[test]
        fn no_path_panics(text in ".{0,60}") {
            let path = Path::from(format!("{QUERIES}/{text}"));
            let _ = Entry::parse(&path);
            let _ = beat_of(&path);
        }

        #[test]
        fn every_name_makes_an_id(name in ".{0,90}") {
            let id = NodeId::new_for(&name);
            prop_assert_eq!(id.as_str().parse::<NodeId>().unwrap(), id);
        }
    }

    #[test]
    fn beats_are_told_from_the_doorbell() {
        let id = NodeId::new_for("Attic Pi");
        assert!(id.as_str().starts_with("attic-pi-"));
        assert_eq!(beat_of(&beat(&id)), Some(id));
        assert_eq!(beat_of(&doorbell()), None);
    }

    #[test]
    fn ids_that_would_leave_the_folder_are_refused() {
        for text in ["", "../x", "a/b", "A", "a.b", &"x".repeat(74)] {
            assert!(text.parse::<NodeId>().is_err(), "{text}");
        }
    }
}
