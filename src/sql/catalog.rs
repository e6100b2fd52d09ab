//! The names that one statement mentions, as DataFusion catalogs.
//!
//! DataFusion asks catalogs synchronously; the meadow answers asynchronously. So the names are looked up first, all at
//! once, and the statement is planned against exactly those. Only `information_schema` needs every frame.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
    SchemaProvider, Session, TableProvider,
};
use datafusion::common::TableReference;
use futures::StreamExt;

use super::changes::changes_table;
use super::files::{file_table, is_path};
use super::frame_table::{FrameTable, ScanNotes};
use super::ripening::RipeningTable;
use super::row_change::{CELL, ROW, TARGET};
use super::session::SqlSession;
use super::system_table::system_table;
use super::time_travel::{Sight, seen, split};
use super::world::{SYSTEM, World};
use crate::storage::Cells;
use crate::storage::{AsOf, FrameRef, FrameState, Meadow};
use crate::sync::lock;
use crate::{ErrorKind, Result};

/// Frames that are looked up at the same time.
pub(super) const LOOKUPS: usize = 16;

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
    // Which frames, and whether the statement names them.
    let mut frames: BTreeMap<(FrameRef, Sight), bool> = BTreeMap::new();
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
                for frame in meadow.registry().frames().await? {
                    frames.entry((frame, Sight::LATEST)).or_insert(false);
                }
            }
            _ if reference.schema() == Some(SYSTEM) => {
                let schema = schema_in(&list, reference.catalog().unwrap_or(hive.as_str()), SYSTEM)?;
                let table = system_table(meadow, session, world, reference.table()).await?;
                schema.register_table(reference.table().to_string(), table)?;
            }
            _ => drop(frames.insert(sight_of(reference, session)?, true)),
        }
    }
    let left_out = session.left_out();
    let left_out = left_out.as_ref();
    let mut tables = futures::stream::iter(frames)
        .map(|((frame, sight), named)| async move {
            let table = looked_up(meadow, (&frame, sight), state, notes, world, target, left_out).await;
            (frame, sight, named, table)
        })
        .buffer_unordered(LOOKUPS);
    while let Some((frame, sight, named, table)) = tables.next().await {
        let table = match table {
            // One that cannot be read, or was dropped meanwhile, does not keep the others from being listed.
            Err(error) if !named && matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                tracing::warn!(%error, %frame, "a frame is left out of information_schema");
                continue;
            }
            table => table?,
        };
        let name = seen(frame.frame.as_str(), sight);
        schema_in(&list, frame.hive.as_str(), frame.box_.as_str())?.register_table(name, table)?;
    }
    Ok(list)
}

/// What of a frame is meant, as a table.
async fn looked_up(
    meadow: &Meadow,
    (frame, sight): (&FrameRef, Sight),
    state: &dyn Session,
    notes: &Arc<ScanNotes>,
    world: &dyn World,
    target: Option<&Target>,
    left_out: &BTreeSet<String>,
) -> Result<Arc<dyn TableProvider>> {
    match (sight, target) {
        (Sight::At(as_of), Some(target)) => {
            let (state, cells) = target.other(meadow, frame, as_of).await?;
            Ok(Arc::new(FrameTable::new(state, cells, Arc::clone(notes))))
        }
        (Sight::At(as_of), None) => frame_table(meadow, frame, as_of, notes, world, left_out).await,
        (Sight::Changes { since, until }, target) => {
            let until = until.map_or(AsOf::Latest, AsOf::Version);
            let newest = match target {
                Some(target) => target.other(meadow, frame, until).await?.0,
                None => meadow.state(frame, until).await?,
            };
            changes_table(meadow, &newest, since, state, notes).await
        }
    }
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
    /// Whether the rows of each cell are numbered, too; a query of it runs on one bee.
    pub(super) rows_numbered: bool,
    /// Other frames as the statement saw them first: all of its queries see the same rows.
    others: Arc<Mutex<HashMap<(FrameRef, AsOf), Seen>>>,
}

impl Target {
    /// All cells of a version.
    pub fn new(state: Arc<FrameState>, cells: Arc<Cells>) -> Self {
        let seen = (Arc::clone(&state), Arc::clone(&cells));
        let others = Arc::new(Mutex::new(HashMap::from([((state.frame.clone(), AsOf::Latest), seen)])));
        Self { state, cells, only: None, rows_numbered: false, others }
    }

    /// Some of its cells, with their rows numbered.
    pub fn with_row_numbers(&self, cells: Vec<usize>) -> Self {
        Self { only: Some(Arc::new(cells)), rows_numbered: true, ..self.clone() }
    }

    async fn other(&self, meadow: &Meadow, frame: &FrameRef, as_of: AsOf) -> Result<Seen> {
        let key = (frame.clone(), as_of);
        if let Some(seen) = lock(&self.others).get(&key).cloned() {
            return Ok(seen);
        }
        let seen = meadow.version(frame, as_of).await?;
        Ok(lock(&self.others).entry(key).or_insert(seen).clone())
    }

    fn table(&self, notes: &Arc<ScanNotes>) -> FrameTable {
        let table = FrameTable::new(Arc::clone(&self.state), Arc::clone(&self.cells), Arc::clone(notes));
        let table = table.numbered(CELL, self.only.clone());
        if self.rows_numbered { table.with_row_numbers(ROW) } else { table }
    }
}

/// One version of a frame as a table, without the cells of these names; the newest has the rows that are not committed yet,
/// too.
pub(crate) async fn frame_table(
    meadow: &Meadow,
    frame: &FrameRef,
    as_of: AsOf,
    notes: &Arc<ScanNotes>,
    world: &dyn World,
    left_out: &BTreeSet<String>,
) -> Result<Arc<dyn TableProvider>> {
    // Before the version is looked up: what is committed meanwhile is in both, and is left out of one.
    let ripening = if as_of == AsOf::Latest { world.ripening(frame) } else { Vec::new() };
    let (state, cells) = meadow.version(frame, as_of).await?;
    let table = FrameTable::new(state, cells, Arc::clone(notes)).without(left_out);
    RipeningTable::over(meadow, table, ripening).await
}

/// The frame that a table reference names in this session.
pub(crate) fn frame_of(reference: &TableReference, session: &SqlSession) -> Result<FrameRef> {
    named(reference, reference.table(), session)
}

/// What of which frame a query names.
fn sight_of(reference: &TableReference, session: &SqlSession) -> Result<(FrameRef, Sight)> {
    let (name, sight) = split(reference.table());
    Ok((named(reference, name, session)?, sight))
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
