//! What one user has set: the current hive and box, and options.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::size::parse_size;
use crate::storage::metered::Limits;
use crate::storage::{BoxName, FrameRef, HiveName};
use crate::sync::lock;
use crate::{Error, Result};

/// Whether queries may run on other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribute {
    /// When it is estimated to be faster.
    #[default]
    Auto,
    /// Whenever there is another node.
    Always,
    /// On this node alone.
    Never,
}

impl fmt::Display for Distribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        })
    }
}

impl FromStr for Distribute {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err(Error::invalid(format!("distribute cannot be {text:?}: use auto, always or never"))),
        }
    }
}

/// What becomes of a write while the node is hot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backpressure {
    /// It waits until the node is cooler, at most 30 s.
    #[default]
    Block,
    /// It is refused.
    Error,
    /// It goes on.
    Ignore,
}

impl fmt::Display for Backpressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Block => "block",
            Self::Error => "error",
            Self::Ignore => "ignore",
        })
    }
}

impl FromStr for Backpressure {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "block" => Ok(Self::Block),
            "error" => Ok(Self::Error),
            "ignore" => Ok(Self::Ignore),
            _ => Err(Error::invalid(format!("backpressure cannot be {text:?}: use block, error or ignore"))),
        }
    }
}

/// The state that `USE` and `SET` change. Shared by the statements of one session, in the order they run.
#[derive(Debug)]
pub struct SqlSession {
    state: Mutex<State>,
}

#[derive(Debug, Clone)]
struct State {
    hive: HiveName,
    box_: BoxName,
    options: BTreeMap<String, String>,
    distribute: Option<Distribute>,
    backpressure: Option<Backpressure>,
    limits: Limits,
    left_out: Arc<BTreeSet<String>>,
}

impl SqlSession {
    /// A session in `default.default`.
    ///
    /// # Errors
    /// Never: the names are valid.
    pub fn new() -> Result<Self> {
        let state = State {
            hive: HiveName::new("default")?,
            box_: BoxName::new("default")?,
            options: BTreeMap::new(),
            distribute: None,
            backpressure: None,
            limits: Limits::default(),
            left_out: Arc::default(),
        };
        Ok(Self { state: Mutex::new(state) })
    }

    /// The current hive.
    pub fn hive(&self) -> HiveName {
        self.with(|s| s.hive.clone())
    }

    /// The current box.
    pub fn box_name(&self) -> BoxName {
        self.with(|s| s.box_.clone())
    }

    /// Resolves `frame`, `box.frame` or `hive.box.frame`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidInput`] when it is no such thing.
    pub fn frame_ref(&self, text: &str) -> Result<FrameRef> {
        let (hive, box_) = self.with(|s| (s.hive.clone(), s.box_.clone()));
        FrameRef::parse_in(text, &hive, &box_)
    }

    pub(crate) fn use_hive(&self, hive: HiveName) {
        self.with(|s| s.hive = hive);
    }

    pub(crate) fn use_box(&self, hive: HiveName, box_: BoxName) {
        self.with(|s| (s.hive, s.box_) = (hive, box_));
    }

    pub(crate) fn set_option(&self, key: String, value: String) {
        self.with(|s| s.options.insert(key, value));
    }

    /// What `SET` said of the engine.
    pub fn options(&self) -> BTreeMap<String, String> {
        self.with(|s| s.options.clone())
    }

    /// What `SET distribute` said.
    pub fn distribute(&self) -> Option<Distribute> {
        self.with(|s| s.distribute)
    }

    /// What `SET backpressure` said.
    pub fn backpressure(&self) -> Option<Backpressure> {
        self.with(|s| s.backpressure)
    }

    /// What `SET max_requests` and `SET max_bytes` said.
    pub fn limits(&self) -> Limits {
        self.with(|s| s.limits)
    }

    /// File names of the cells that `SET leave_out_cells` keeps out of what is read.
    pub fn left_out(&self) -> Arc<BTreeSet<String>> {
        self.with(|s| Arc::clone(&s.left_out))
    }

    /// All that `SET` said: names and values.
    pub fn settings(&self) -> Vec<(String, String)> {
        let state = self.with(|s| s.clone());
        let limit = |limit: Option<u64>| limit.map(|limit| limit.to_string());
        let own = [
            ("distribute", state.distribute.map(|d| d.to_string())),
            ("backpressure", state.backpressure.map(|b| b.to_string())),
            ("max_requests", limit(state.limits.requests)),
            ("max_bytes", limit(state.limits.bytes)),
            ("leave_out_cells", (!state.left_out.is_empty()).then(|| joined(&state.left_out))),
            ("hive", Some(state.hive.to_string())),
            ("box", Some(state.box_.to_string())),
        ];
        let own = own.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?)));
        own.chain(state.options).collect()
    }

    /// Sets one of the session's own settings; `false` when `key` is none of them.
    ///
    /// # Errors
    /// `InvalidInput` for a value that it cannot have.
    pub(crate) fn set(&self, key: &str, value: &str) -> Result<bool> {
        match key {
            "distribute" => {
                let distribute = value.parse()?;
                self.with(|s| s.distribute = Some(distribute));
            }
            "backpressure" => {
                let backpressure = value.parse()?;
                self.with(|s| s.backpressure = Some(backpressure));
            }
            "max_requests" => {
                let limit = limit(key, value, |v| v.parse().ok())?;
                self.with(|s| s.limits.requests = limit);
            }
            "max_bytes" => {
                let limit = limit(key, value, |v| parse_size(v).ok())?;
                self.with(|s| s.limits.bytes = limit);
            }
            "leave_out_cells" => {
                let left_out = Arc::new(cell_names(value)?);
                self.with(|s| s.left_out = left_out);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut lock(&self.state))
    }
}

fn joined(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// The file names of cells, of which each may have its path before it.
fn cell_names(value: &str) -> Result<BTreeSet<String>> {
    if value.eq_ignore_ascii_case("none") {
        return Ok(BTreeSet::new());
    }
    let name = |path: &str| {
        let name = path.trim().rsplit('/').next().filter(|name| name.ends_with(".parquet"));
        let wanted = "use the cells' paths, as VERIFY names them, with commas between them, or none";
        name.map(str::to_string).ok_or_else(|| Error::invalid(format!("leave_out_cells cannot be {value:?}: {wanted}")))
    };
    value.split(',').map(name).collect()
}

fn limit(key: &str, value: &str, parse: impl Fn(&str) -> Option<u64>) -> Result<Option<u64>> {
    if value.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    let limit = parse(value).filter(|limit| *limit > 0).map(Some);
    limit.ok_or_else(|| Error::invalid(format!("{key} cannot be {value:?}: use a number, like 500 or '2GB', or none")))
}
