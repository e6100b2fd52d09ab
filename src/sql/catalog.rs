//! The names that one statement mentions, as DataFusion catalogs.
//!
//! DataFusion asks catalogs synchronously; the meadow answers asynchronously. So the names are looked up first, all at
//! once, and the statement is planned against exactly those. Only `information_schema` needs every frame.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
    SchemaProvider, Session, TableProvider,
};
use datafusion::common::TableReference;
use datafusion::datasource::MemTable;
use futures::{StreamExt, TryStreamExt};

use super::files::{file_table, is_path};
use super::frame_table::{FrameTable, ScanNotes};
use super::ripening::RipeningTable;
use super::row_change::{CELL, TARGET};
use super::session::SqlSession;
use super::time_travel::{split, versioned};
use super::world::{SYSTEM, World};
use crate::storage::Cells;
use crate::storage::{AsOf, FrameRef, FrameState, Meadow};
use crate::sync::lock;
use crate::{Error, Result};

/// Frames that are looked up at the same time.
const LOOKUPS: usize = 16;

/// Builds the catalogs that hold what `references` name.
pub(crate) async fn catalogs(
    meadow: &Meadow,
    session: &SqlSession,
    references: &[TableReference],
    state: &dyn Session,
    notes: &Arc<ScanNotes>,
    world: &dyn World,
    target: Option<&Target>,
) -> Result<Arc<dyn CatalogProviderList>> {
    let list: Arc<dyn CatalogProviderList> = Arc::new(MemoryCatalogProviderList::new());
    let (hive, box_) = (session.hive(), session.box_name());
    let home = schema_in(&list, hive.as_str(), box_.as_str())?;
    let mut frames: Vec<(FrameRef, AsOf)> = Vec::new();
    for reference in references {
        match reference {
            TableReference::Bare { table } if target.is_some() && table.as_ref() == TARGET => {
                let table = target.map(|target| target.table(notes));
                table.map(|table| home.register_table(TARGET.into(), Arc::new(table))).transpose()?;
            }
            TableReference::Bare { table } if is_path(table) => {
                home.register_table(table.to_string(), file_table(table, state).await?)?;
            }
            _ if reference.schema() == Some("information_schema") => {
                frames.extend(meadow.registry().frames().await?.into_iter().map(|frame| (frame, AsOf::Latest)));
            }
            _ if reference.schema() == Some(SYSTEM) => {
                let schema = schema_in(&list, reference.catalog().unwrap_or(hive.as_str()), SYSTEM)?;
                schema.register_table(reference.table().to_string(), system_table(world, reference.table()).await?)?;
            }
            _ => frames.push(version_of(reference, session)?),
        }
    }
    frames.sort();
    frames.dedup();
    let tables: Vec<(FrameRef, String, Arc<dyn TableProvider>)> = futures::stream::iter(frames)
        .map(|(frame, as_of)| async move {
            let table = match target {
                Some(target) => Arc::new(target.other(meadow, &frame, as_of, notes).await?),
                None => frame_table(meadow, &frame, as_of, notes, world).await?,
            };
            let name = versioned(frame.frame.as_str(), as_of);
            Ok::<_, Error>((frame, name, table))
        })
        .buffer_unordered(LOOKUPS)
        .try_collect()
        .await?;
    for (frame, name, table) in tables {
        schema_in(&list, frame.hive.as_str(), frame.box_.as_str())?.register_table(name, table)?;
    }
    Ok(list)
}

/// A version with its cells.
type Seen = (Arc<FrameState>, Arc<Cells>);

/// The version of a frame that a statement changes, and which of its cells it reads.
#[derive(Debug, Clone)]
pub struct Target {
    /// The version.
    pub state: Arc<FrameState>,
    /// Its cells.
    pub cells: Arc<Cells>,
    /// Those to read, in order; all when it is `None`.
    pub only: Option<Arc<Vec<usize>>>,
    /// Other frames as the statement saw them first: all of its queries see the same rows.
    others: Arc<Mutex<HashMap<(FrameRef, AsOf), Seen>>>,
}

impl Target {
    /// All cells of a version.
    pub fn new(state: Arc<FrameState>, cells: Arc<Cells>) -> Self {
        let seen = (Arc::clone(&state), Arc::clone(&cells));
        let others = Arc::new(Mutex::new(HashMap::from([((state.frame.clone(), AsOf::Latest), seen)])));
        Self { state, cells, only: None, others }
    }

    async fn other(
        &self,
        meadow: &Meadow,
        frame: &FrameRef,
        as_of: AsOf,
        notes: &Arc<ScanNotes>,
    ) -> Result<FrameTable> {
        let key = (frame.clone(), as_of);
        let seen = lock(&self.others).get(&key).cloned();
        let (state, cells) = match seen {
            Some(seen) => seen,
            None => {
                let seen = meadow.version(frame, as_of).await?;
                lock(&self.others).entry(key).or_insert(seen).clone()
            }
        };
        Ok(FrameTable::new(state, cells, Arc::clone(notes)))
    }

    fn table(&self, notes: &Arc<ScanNotes>) -> FrameTable {
        let table = FrameTable::new(Arc::clone(&self.state), Arc::clone(&self.cells), Arc::clone(notes));
        table.numbered(CELL, self.only.clone())
    }
}

async fn system_table(world: &dyn World, name: &str) -> Result<Arc<dyn TableProvider>> {
    let rows = world.rows(name).await?.ok_or_else(|| {
        Error::not_found(format!("{SYSTEM}.{name} does not exist: there is {}", world.tables().join(", ")))
    })?;
    Ok(Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]])?))
}

/// One version of a frame as a table; the newest has the rows that are not committed yet, too.
pub(crate) async fn frame_table(
    meadow: &Meadow,
    frame: &FrameRef,
    as_of: AsOf,
    notes: &Arc<ScanNotes>,
    world: &dyn World,
) -> Result<Arc<dyn TableProvider>> {
    // Before the version is looked up: what is committed meanwhile is in both, and is left out of one.
    let ripening = if as_of == AsOf::Latest { world.ripening(frame) } else { Vec::new() };
    let (state, cells) = meadow.version(frame, as_of).await?;
    RipeningTable::over(meadow, FrameTable::new(state, cells, Arc::clone(notes)), ripening).await
}

/// The frame that a table reference names in this session.
pub(crate) fn frame_of(reference: &TableReference, session: &SqlSession) -> Result<FrameRef> {
    named(reference, reference.table(), session)
}

/// The version of a frame that a query names.
fn version_of(reference: &TableReference, session: &SqlSession) -> Result<(FrameRef, AsOf)> {
    let (name, as_of) = split(reference.table());
    Ok((named(reference, name, session)?, as_of))
}

fn named(reference: &TableReference, frame: &str, session: &SqlSession) -> Result<FrameRef> {
    let (hive, box_) = (session.hive(), session.box_name());
    FrameRef::new(reference.catalog().unwrap_or(hive.as_str()), reference.schema().unwrap_or(box_.as_str()), frame)
}

/// The frame's version behind a table of these catalogs.
pub(crate) fn frame_behind(table: &Arc<dyn TableProvider>) -> Option<&FrameTable> {
    table.downcast_ref::<FrameTable>().or_else(|| table.downcast_ref::<RipeningTable>().map(RipeningTable::frame))
}

fn schema_in(list: &Arc<dyn CatalogProviderList>, hive: &str, box_: &str) -> Result<Arc<dyn SchemaProvider>> {
    let catalog = match list.catalog(hive) {
        Some(catalog) => catalog,
        None => {
            let catalog: Arc<dyn CatalogProvider> = Arc::new(MemoryCatalogProvider::new());
            list.register_catalog(hive.to_string(), Arc::clone(&catalog));
            catalog
        }
    };
    if let Some(schema) = catalog.schema(box_) {
        return Ok(schema);
    }
    let schema: Arc<dyn SchemaProvider> = Arc::new(MemorySchemaProvider::new());
    catalog.register_schema(box_, Arc::clone(&schema))?;
    Ok(schema)
}
