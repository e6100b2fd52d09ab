//! One user's session: what `USE` and `SET` changed holds for its later statements.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::colony::{Colony, Core};
use super::lead::{Job, Lead};
use super::query::{Query, QueryStream};
use super::scout::LeadQuery;
use crate::sql::SqlSession;
use crate::storage::{AsOf, BoxName, FrameRef, HiveName};
use crate::{Error, Result};

/// Batches that a query may be ahead of its reader.
const BATCHES_AHEAD: usize = 2;

/// A session of a colony. Clones share what `USE` and `SET` change.
#[derive(Clone)]
pub struct Session {
    colony: Colony,
    sql: Arc<SqlSession>,
}

impl Session {
    pub(crate) fn new(colony: Colony) -> Result<Self> {
        Ok(Self { colony, sql: Arc::new(SqlSession::new()?) })
    }

    /// Runs one SQL statement; see [`Session::query`].
    ///
    /// # Errors
    /// As [`Session::query`].
    pub async fn sql(&self, sql: &str) -> Result<QueryStream> {
        self.query(Query::new(sql)).await
    }

    /// Runs one SQL statement. SELECT streams; DDL and INSERT are carried out before this returns.
    ///
    /// # Errors
    /// `InvalidInput` for what is wrong with the statement, `NotFound` for what it names, `Busy` when too many wait.
    pub async fn query(&self, query: Query) -> Result<QueryStream> {
        let job = Job::Sql { sql: query.sql, params: query.params, session: Arc::clone(&self.sql) };
        run(self.colony.core(), job, query.time_limit).await
    }

    /// Streams one version of a frame, or some of its columns.
    ///
    /// # Errors
    /// `NotFound` for the frame, the version or a column that is not there.
    pub async fn read(&self, frame: &FrameRef, columns: Option<Vec<String>>, as_of: AsOf) -> Result<QueryStream> {
        let mut seen = HashSet::new();
        if let Some(twice) = columns.iter().flatten().find(|name| !seen.insert(*name)) {
            return Err(Error::invalid(format!("column '{twice}' is asked for twice: name it once")));
        }
        let job = Job::Read { frame: frame.clone(), columns, as_of, session: Arc::clone(&self.sql) };
        run(self.colony.core(), job, None).await
    }

    /// The hive that `USE HIVE` set.
    pub fn hive(&self) -> HiveName {
        self.sql.hive()
    }

    /// The box that `USE BOX` set.
    pub fn box_name(&self) -> BoxName {
        self.sql.box_name()
    }

    /// Resolves `frame`, `box.frame` or `hive.box.frame`.
    ///
    /// # Errors
    /// `InvalidInput` when it is no such thing.
    pub fn frame_ref(&self, text: &str) -> Result<FrameRef> {
        self.sql.frame_ref(text)
    }
}

/// Has a job planned and begun, and waits for its columns.
pub(crate) async fn run(core: &Arc<Core>, job: Job, limit: Option<std::time::Duration>) -> Result<QueryStream> {
    let limit = limit.or(core.settings.time_limit);
    let ticket = core.admit()?;
    let entry = core.queries.begin(job.asked(), &core.token, limit, core.meadow.meter());
    let (started, schema) = oneshot::channel();
    let (batches, receiver) = mpsc::channel(BATCHES_AHEAD);
    let by_scout = core.scout.takes(job.text().len());
    let (core, query) = (Arc::clone(core), Arc::clone(&entry.record));
    let lead = Lead { core: Arc::clone(&core), job: Arc::new(job), query, started, batches, ticket };
    let gone = || {
        let stopped = core.admission.require_open().err();
        stopped.unwrap_or_else(|| Error::internal("who plans the query stopped; it is started again: ask again"))
    };
    match by_scout {
        true => core.scout.addr()?.send(LeadQuery(lead)).await,
        false => core.least_busy_bee()?.addr()?.send(LeadQuery(lead)).await,
    }
    .map_err(|_| gone())?;
    let schema = schema.await.map_err(|_| gone())??;
    Ok(QueryStream::new(schema, receiver, entry))
}
