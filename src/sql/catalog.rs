//! The names that one statement mentions, as DataFusion catalogs.
//!
//! DataFusion asks catalogs synchronously; the meadow answers asynchronously. So the names are looked up first, all at
//! once, and the statement is planned against exactly those. Only `information_schema` needs every frame.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use datafusion::catalog::view::ViewTable;
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
    SchemaProvider, TableProvider,
};
use datafusion::common::TableReference;
use datafusion::execution::SessionState;
use futures::StreamExt;
use futures::future::BoxFuture;

use super::changes::changes_table;
use super::files::{file_table, is_path};
use super::frame_table::{FrameTable, ScanNotes};
use super::ripening::RipeningTable;
use super::row_change::{CELL, ROW, TARGET};
use super::session::SqlSession;
use super::system_table::system_table;
use super::time_travel::{Sight, seen, split};
use super::view::{Opened, broken, definition, view_plan};
use super::world::{SYSTEM, World};
use crate::storage::{AsOf, BoxName, Cells, FrameRef, FrameState, HiveName, Meadow, Named, ViewRecord};
use crate::sync::lock;
use crate::{Error, ErrorKind, Result};

/// Frames that are looked up at the same time.
pub(super) const LOOKUPS: usize = 16;
/// Views of one statement: each is read and planned.
const MAX_VIEWS: usize = 256;

/// Builds the catalogs that hold what `references` name.
pub(crate) async fn catalogs(
    meadow: &Meadow,
    session: &SqlSession,
    references: &[TableReference],
    state: &SessionState,
    notes: &Arc<ScanNotes>,
    world: &dyn World,
    target: Option<&Target>,
) -> Result<Arc<dyn CatalogProviderList>> {
    let mut sources = Sources::new(meadow, session, state, notes, world, target);
    sources.look_up(references, session).await?;
    sources.list(references, session, &[]).await
}

/// What a name of a frame stands for.
pub(super) enum Found {
    Table(Arc<dyn TableProvider>),
    View(ViewRecord),
}

/// What one statement reads: by its own names, and by those of the views among them.
pub(super) struct Sources<'a> {
    meadow: &'a Meadow,
    session: &'a SqlSession,
    pub(super) state: &'a SessionState,
    notes: &'a Arc<ScanNotes>,
    world: &'a dyn World,
    target: Option<&'a Target>,
    left_out: Arc<BTreeSet<String>>,
    found: BTreeMap<(FrameRef, Sight), Result<Found>>,
    /// Views whose plans are there.
    planned: Mutex<HashMap<FrameRef, Arc<dyn TableProvider>>>,
}

impl<'a> Sources<'a> {
    pub(super) fn new(
        meadow: &'a Meadow,
        session: &'a SqlSession,
        state: &'a SessionState,
        notes: &'a Arc<ScanNotes>,
        world: &'a dyn World,
        target: Option<&'a Target>,
    ) -> Self {
        let (left_out, found, planned) = (session.left_out(), BTreeMap::new(), Mutex::default());
        Self { meadow, session, state, notes, world, target, left_out, found, planned }
    }

    /// Looks up what is named from `home`, all at once, and then what the views among it name.
    ///
    /// # Errors
    /// What the storage says of names; what is wrong with a frame or a view is said where it is used.
    pub(super) async fn look_up(&mut self, references: &[TableReference], home: &SqlSession) -> Result<()> {
        let mut wanted = self.frames_in(references, home)?;
        if references.iter().any(is_of_names) {
            wanted.extend(self.meadow.registry().frames().await?.into_iter().map(|frame| (frame, Sight::LATEST)));
        }
        let mut views = 0;
        while !wanted.is_empty() && views <= MAX_VIEWS {
            let this = &*self;
            let looked: Vec<_> = futures::stream::iter(wanted)
                .map(|name| async move { (this.looked_up(&name.0, name.1).await, name) })
                .buffer_unordered(LOOKUPS)
                .collect()
                .await;
            wanted = BTreeSet::new();
            for (found, name) in looked {
                if let Ok(Found::View(view)) = &found
                    && let Ok(opened) = Opened::of(view, self.state)
                {
                    wanted.extend(self.frames_in(&opened.references, &opened.home)?);
                    views += 1;
                }
                self.found.insert(name, found);
            }
            wanted.retain(|name| !self.found.contains_key(name));
        }
        match views > MAX_VIEWS {
            true => Err(Error::invalid(format!("the statement uses more than {MAX_VIEWS} views: split it"))),
            false => Ok(()),
        }
    }

    /// Catalogs with what is named from `home`; within views, the last of which has these names in its query.
    ///
    /// # Errors
    /// What is wrong with a frame, a file or a view that is named.
    pub(super) async fn list(
        &self,
        references: &[TableReference],
        home: &SqlSession,
        within: &[FrameRef],
    ) -> Result<Arc<dyn CatalogProviderList>> {
        let list: Arc<dyn CatalogProviderList> = Arc::new(MemoryCatalogProviderList::new());
        let (hive, box_) = (home.hive(), home.box_name());
        let own = schema_in(&list, hive.as_str(), box_.as_str())?;
        for reference in references {
            match (reference, self.target) {
                (TableReference::Bare { table }, Some(target)) if within.is_empty() && table.as_ref() == TARGET => {
                    own.register_table(TARGET.into(), Arc::new(target.table(self.notes)))?;
                }
                (TableReference::Bare { table }, _) if is_path(table) => {
                    own.register_table(table.to_string(), file_table(table, self.state).await?)?;
                }
                _ if is_of_facts(reference) => {}
                _ if reference.schema() == Some(SYSTEM) => {
                    let schema = schema_in(&list, reference.catalog().unwrap_or(hive.as_str()), SYSTEM)?;
                    let table = system_table(self.meadow, self.session, self.world, reference.table()).await?;
                    schema.register_table(reference.table().to_string(), table)?;
                }
                _ => {
                    let (frame, sight) = sight_of(reference, home)?;
                    register(&list, &frame, sight, self.table_of(&frame, sight, within).await?)?;
                }
            }
        }
        if references.iter().any(is_of_names) {
            self.list_all(&list, references).await?;
        }
        Ok(list)
    }

    /// Every frame and view there is, for `information_schema`.
    async fn list_all(&self, list: &Arc<dyn CatalogProviderList>, references: &[TableReference]) -> Result<()> {
        // The engine's table of views has all tables in it.
        let only_views = references.iter().filter(|r| is_of_facts(r)).all(|r| r.table() == "views");
        for ((frame, sight), found) in self.found.iter().filter(|((_, sight), _)| *sight == Sight::LATEST) {
            let table = match (self.table_of(frame, *sight, &[]).await, found) {
                (Ok(_), Ok(Found::Table(_))) if only_views => continue,
                (Err(error), Ok(Found::View(view))) => broken(frame, view, &error)?,
                // One that cannot be read, or was dropped meanwhile, does not keep the others from being listed.
                (Err(error), _) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                    tracing::warn!(%error, %frame, "a frame is left out of information_schema");
                    continue;
                }
                (table, _) => table?,
            };
            register(list, frame, *sight, table)?;
        }
        Ok(())
    }

    /// What a name stands for, as a table.
    async fn table_of(&self, name: &FrameRef, sight: Sight, within: &[FrameRef]) -> Result<Arc<dyn TableProvider>> {
        if within.contains(name) && sight == Sight::LATEST {
            let way: Vec<String> = within.iter().chain([name]).map(FrameRef::to_string).collect();
            return Err(Error::invalid(format!(
                "a view cannot read itself ({}): CREATE OR REPLACE VIEW one of them with another query",
                way.join(" → ")
            )));
        }
        let view = match self.found.get(&(name.clone(), sight)) {
            Some(Ok(Found::Table(table))) => return Ok(Arc::clone(table)),
            Some(Ok(Found::View(view))) => view,
            Some(Err(error)) => return Err(error.clone()),
            None => return Err(Error::internal(format!("{name} was not looked up"))),
        };
        if let Some(planned) = lock(&self.planned).get(name) {
            return Ok(Arc::clone(planned));
        }
        let table = self.view_table(name, view, within).await?;
        lock(&self.planned).insert(name.clone(), Arc::clone(&table));
        Ok(table)
    }

    fn view_table<'b>(
        &'b self,
        name: &'b FrameRef,
        view: &'b ViewRecord,
        within: &'b [FrameRef],
    ) -> BoxFuture<'b, Result<Arc<dyn TableProvider>>> {
        Box::pin(async move {
            let within: Vec<FrameRef> = within.iter().chain([name]).cloned().collect();
            let plan =
                view_plan(self, view, &within).await.map_err(|error| match error.message().starts_with("view ") {
                    // The innermost view is where it is.
                    true => error,
                    false => error.context(format!("view {name}")),
                })?;
            Ok(Arc::new(ViewTable::new(plan, Some(definition(name, view)))) as _)
        })
    }

    fn frames_in(&self, references: &[TableReference], home: &SqlSession) -> Result<BTreeSet<(FrameRef, Sight)>> {
        let is_frame = |reference: &&TableReference| match reference {
            TableReference::Bare { table } => !(is_path(table) || self.target.is_some() && table.as_ref() == TARGET),
            _ => !is_of_facts(reference) && reference.schema() != Some(SYSTEM),
        };
        references.iter().filter(is_frame).map(|reference| sight_of(reference, home)).collect()
    }

    async fn looked_up(&self, frame: &FrameRef, sight: Sight) -> Result<Found> {
        let (meadow, notes) = (self.meadow, self.notes);
        let seen = match (sight, self.target) {
            (Sight::At(as_of), Some(target)) => target.other(meadow, frame, as_of).await?,
            (Sight::At(as_of), None) => {
                return frame_table(meadow, frame, as_of, notes, self.world, &self.left_out).await;
            }
            (Sight::Changes { since, until }, target) => {
                let until = until.map_or(AsOf::Latest, AsOf::Version);
                let newest = match target {
                    Some(target) => target.other(meadow, frame, until).await?.frame(frame)?.0,
                    None => meadow.state(frame, until).await?,
                };
                return changes_table(meadow, &newest, since, self.state, notes).await.map(Found::Table);
            }
        };
        match seen {
            Seen::Frame(state, cells) => Ok(Found::Table(Arc::new(FrameTable::new(state, cells, Arc::clone(notes))))),
            Seen::View(view) => Ok(Found::View(view)),
        }
    }
}

fn is_of_facts(reference: &TableReference) -> bool {
    reference.schema() == Some("information_schema")
}

/// Whether it is a table of facts that has all frames in it: `SHOW` of a setting asks one that has none.
fn is_of_names(reference: &TableReference) -> bool {
    is_of_facts(reference) && !["df_settings", "routines", "parameters"].contains(&reference.table())
}

fn register(
    list: &Arc<dyn CatalogProviderList>,
    frame: &FrameRef,
    sight: Sight,
    table: Arc<dyn TableProvider>,
) -> Result<()> {
    let schema = schema_in(list, frame.hive.as_str(), frame.box_.as_str())?;
    let name = seen(frame.frame.as_str(), sight);
    if !schema.table_exist(&name) {
        schema.register_table(name, table)?;
    }
    Ok(())
}

/// What a statement saw under a name.
#[derive(Debug, Clone)]
enum Seen {
    /// A version with its cells.
    Frame(Arc<FrameState>, Arc<Cells>),
    View(ViewRecord),
}

impl Seen {
    async fn now(meadow: &Meadow, name: &FrameRef, as_of: AsOf) -> Result<Self> {
        match meadow.named(name, as_of).await? {
            Named::Frame(state) => {
                let cells = meadow.ledger().cells(&state).await?;
                Ok(Self::Frame(state, cells))
            }
            Named::View(_) if as_of != AsOf::Latest => Err(Error::invalid(format!(
                "{name} is a view, which has no versions: say VERSION AS OF or TIMESTAMP AS OF behind the frames in its query"
            ))),
            Named::View(view) => Ok(Self::View(view)),
        }
    }

    fn frame(self, name: &FrameRef) -> Result<(Arc<FrameState>, Arc<Cells>)> {
        match self {
            Self::Frame(state, cells) => Ok((state, cells)),
            Self::View(_) => Err(Error::invalid(format!("{name} is a view, which has no versions: name its frames"))),
        }
    }
}

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
        let seen = Seen::Frame(Arc::clone(&state), Arc::clone(&cells));
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
        let seen = Seen::now(meadow, frame, as_of).await?;
        Ok(lock(&self.others).entry(key).or_insert(seen).clone())
    }

    fn table(&self, notes: &Arc<ScanNotes>) -> FrameTable {
        let table = FrameTable::new(Arc::clone(&self.state), Arc::clone(&self.cells), Arc::clone(notes));
        let table = table.numbered(CELL, self.only.clone());
        if self.rows_numbered { table.with_row_numbers(ROW) } else { table }
    }
}

/// One version of a frame as a table, without the cells of these names; the newest has the rows that are not committed yet,
/// too. Or a view.
pub(super) async fn frame_table(
    meadow: &Meadow,
    frame: &FrameRef,
    as_of: AsOf,
    notes: &Arc<ScanNotes>,
    world: &dyn World,
    left_out: &BTreeSet<String>,
) -> Result<Found> {
    // Before the version is looked up: what is committed meanwhile is in both, and is left out of one.
    let ripening = if as_of == AsOf::Latest { world.ripening(frame) } else { Vec::new() };
    match Seen::now(meadow, frame, as_of).await? {
        Seen::Frame(state, cells) => {
            let table = FrameTable::new(state, cells, Arc::clone(notes)).without(left_out);
            RipeningTable::over(meadow, table, ripening).await.map(Found::Table)
        }
        Seen::View(view) => Ok(Found::View(view)),
    }
}

/// The frame that a table reference names in this session.
pub(crate) fn frame_of(reference: &TableReference, session: &SqlSession) -> Result<FrameRef> {
    named(reference, reference.table(), session)
}

/// The box that a name of one or two parts means in this session.
pub(super) fn box_names(name: &[String], session: &SqlSession) -> Result<(HiveName, BoxName)> {
    match name {
        [box_] => Ok((session.hive(), BoxName::new(box_)?)),
        [hive, box_] => Ok((HiveName::new(hive)?, BoxName::new(box_)?)),
        _ => Err(Error::invalid(format!("'{}' is not a box: write hive.box or box", name.join(".")))),
    }
}

/// The frame that a name means in this session.
pub(super) fn frame_name(name: &[String], session: &SqlSession) -> Result<FrameRef> {
    match name.last().is_some_and(|frame| split(frame).1 != Sight::LATEST) {
        true => Err(Error::invalid("versions do not change: name the frame itself, or go back with RESTORE")),
        false => session.frame_ref(&name.join(".")),
    }
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
