//! What can be completed: SQL's words, the frames there are, and the columns of those that a line names.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use apiary::{Colony, FrameRef};

/// Longest wait for a name: who types does not wait for a slow bucket.
const PATIENCE: Duration = Duration::from_millis(500);

const WORDS: [&str; 86] = [
    "ADD",
    "ALTER",
    "ANALYZE",
    "AND",
    "AS",
    "ASC",
    "BETWEEN",
    "BOX",
    "BOXES",
    "BY",
    "CASCADE",
    "CASE",
    "CAST",
    "CHANGES",
    "CHECK",
    "CLUSTER",
    "COLUMN",
    "CONSTRAINT",
    "COPY",
    "CREATE",
    "DELETE",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "DROP",
    "DRY",
    "ELSE",
    "END",
    "EXISTS",
    "EXPLAIN",
    "FORCE",
    "FRAME",
    "FRAMES",
    "FROM",
    "FULL",
    "GROUP",
    "HAVING",
    "HISTORY",
    "HIVE",
    "HIVES",
    "IN",
    "INNER",
    "INSERT",
    "INTO",
    "IS",
    "JOIN",
    "LEFT",
    "LIKE",
    "LIMIT",
    "MATCHED",
    "MERGE",
    "NOT",
    "NULL",
    "OFFSET",
    "ON",
    "OPTIMIZE",
    "OR",
    "ORDER",
    "OVER",
    "OVERWRITE",
    "PARTITION",
    "PARTITIONED",
    "RENAME",
    "RESTORE",
    "RETAIN",
    "SELECT",
    "SET",
    "SHOW",
    "SINCE",
    "THEN",
    "TIMESTAMP",
    "UNION",
    "UPDATE",
    "USE",
    "USING",
    "VACUUM",
    "VALUES",
    "VERIFY",
    "VERSION",
    "VIEW",
    "VIEWS",
    "WHEN",
    "WHERE",
    "WINDOW",
    "WITH",
    "ZORDER",
];

/// The names of a meadow, looked up when they are first wanted.
#[derive(Clone)]
pub(super) struct Names {
    colony: Colony,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    frames: Option<Vec<FrameRef>>,
    columns: BTreeMap<FrameRef, Vec<String>>,
}

impl Names {
    pub(super) fn new(colony: &Colony) -> Self {
        Self { colony: colony.clone(), known: Arc::default() }
    }

    /// Looks up anew what is wanted next: a statement may have changed it.
    pub(super) fn forget(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Known::default();
    }

    /// What may stand where `word` begins, in a line that names these frames so far.
    pub(super) fn completions(&self, line: &str, word: &str) -> Vec<String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let frames = known.frames.get_or_insert_with(|| self.wait(self.colony.frames()).unwrap_or_default()).clone();
        let said: Vec<&str> = line.split(|c: char| !is_part(c)).collect();
        let named = |frame: &&FrameRef| {
            said.iter()
                .any(|word| *word == frame.frame.as_str() || frame.to_string().ends_with(word) && word.contains('.'))
        };
        let mut found: Vec<String> = Vec::new();
        for frame in frames.iter().filter(named) {
            if !known.columns.contains_key(frame) {
                let info = self.wait(self.colony.describe(frame));
                let columns = info.map(|info| info.schema.fields().iter().map(|f| f.name().clone()).collect());
                known.columns.insert(frame.clone(), columns.unwrap_or_default());
            }
            found.extend(known.columns[frame].iter().filter(|column| begins(column, word)).cloned());
        }
        found.extend(frames.iter().flat_map(shapes).filter(|name| begins(name, word)));
        let lower = word.chars().next().is_some_and(char::is_lowercase);
        let words = WORDS.iter().filter(|keyword| !word.is_empty() && begins(keyword, word));
        found.extend(words.map(|keyword| if lower { keyword.to_lowercase() } else { (*keyword).to_string() }));
        found.sort();
        found.dedup();
        found
    }

    fn wait<T>(&self, work: impl Future<Output = apiary::Result<T>>) -> Option<T> {
        self.colony.block_on(async { tokio::time::timeout(PATIENCE, work).await.ok()?.ok() })
    }
}

/// Whether a character belongs to a name that is typed.
pub(super) fn is_part(character: char) -> bool {
    character.is_alphanumeric() || character == '_' || character == '.'
}

/// A frame as it may be named, from its hive on, its box on, or alone.
fn shapes(frame: &FrameRef) -> [String; 3] {
    [frame.to_string(), format!("{}.{}", frame.box_, frame.frame), frame.frame.to_string()]
}

fn begins(name: &str, word: &str) -> bool {
    name.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use apiary::Settings;

    use super::*;

    #[test]
    fn frames_columns_and_words_are_completed() {
        let colony = Colony::start(Settings::new("memory://").with_bees(1).with_memory(64 << 20)).unwrap();
        colony.block_on(async {
            for sql in ["CREATE HIVE lab", "CREATE BOX lab.raw", "CREATE FRAME lab.raw.readings (celsius DOUBLE)"] {
                colony.sql(sql).await.unwrap().collect().await.unwrap();
            }
        });
        let names = Names::new(&colony);
        assert_eq!(names.completions("SELECT * FROM lab", "lab"), ["lab.raw.readings"]);
        assert_eq!(names.completions("SELECT cel FROM lab.raw.readings", "cel"), ["celsius"]);
        assert_eq!(names.completions("sele", "sele"), ["select"]);
        assert_eq!(names.completions("SELE", "SELE"), ["SELECT"]);
        assert!(names.completions("SELECT x FROM other", "cel").is_empty());
        colony.shutdown().unwrap();
    }
}
