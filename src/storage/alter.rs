//! Changes of a frame's columns and conditions: one commit of metadata, no cell is written.
//!
//! Columns are renamed and dropped by Delta's column mapping: cells go on calling them what they called them when they
//! were written. Types are widened by Delta's type widening: cells keep the narrower values. A frame's first such change
//! asks its readers for that feature. Conditions (CHECK) are settings of the table that this engine keeps and others do not
//! know: Delta's own would bar delta_kernel, and so us, from writing.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use delta_kernel::actions::{Metadata, Protocol};
use delta_kernel::engine::arrow_conversion::TryIntoKernel;
use delta_kernel::schema::{DataType as KernelType, MetadataValue, PrimitiveType, StructField, StructType};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::clustering::{CLUSTER_BY, CLUSTERING, cluster_columns, value};
use super::file_columns::physical_name;
use super::frame_state::FrameState;
use super::ledger::Ledger;
use super::log_entry::{LogEntry, check_table};
use super::names::FrameRef;
use super::schema::check_column_name;
use super::stats_columns::{STATS_COLUMNS, renamed, with_columns};
use crate::{Error, Result};

/// What the settings that are conditions begin with; their names follow.
pub(super) const CHECK: &str = "apiary.check.";
const MODE: &str = "delta.columnMapping.mode";
const MAX_ID: &str = "delta.columnMapping.maxColumnId";
/// Whether rows of cells may be marked as deleted, by Delta's deletion vectors.
const VECTORS: &str = "delta.enableDeletionVectors";
const WIDENS: &str = "delta.enableTypeWidening";
/// The types that a column had before, with those that came after them.
const TYPE_CHANGES: &str = "delta.typeChanges";
/// A column's number.
pub(super) const COLUMN_ID: &str = "delta.columnMapping.id";
pub(super) const PHYSICAL_NAME: &str = "delta.columnMapping.physicalName";
/// The features that legacy writer versions stand for: each has those of the versions below it, too.
const LEGACY_WRITER: [(u64, &[&str]); 5] = [
    (2, &["appendOnly", "invariants"]),
    (3, &["checkConstraints"]),
    (4, &["changeDataFeed", "generatedColumns"]),
    (5, &["columnMapping"]),
    (6, &["identityColumns"]),
];

/// Properties that may be set of a frame, as its table has them.
///
/// # Errors
/// [`crate::ErrorKind::Unsupported`] for others; [`crate::ErrorKind::InvalidInput`] for values that they do not have.
pub(super) fn properties_to_set(properties: &[(String, String)]) -> Result<Vec<(String, String)>> {
    let checked = |(key, value): &(String, String)| {
        if key != VECTORS {
            return Err(Error::unsupported(format!("'{key}' cannot be set here: {VECTORS} can, to 'true' or 'false'")));
        }
        match value.to_ascii_lowercase() {
            value if ["true", "false"].contains(&value.as_str()) => Ok((key.clone(), value)),
            value => Err(Error::invalid(format!("{key} is 'true' or 'false', and not '{value}'"))),
        }
    };
    properties.iter().map(checked).collect()
}

/// A condition that every row must not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// An SQL expression over the frame's columns.
    pub condition: String,
}

/// One change.
#[derive(Debug, Clone)]
pub enum Alteration {
    /// New columns, null in all rows that are there.
    AddColumns {
        /// The columns, of types that a frame can hold.
        columns: Vec<Field>,
        /// Whether those that are there already are left out.
        if_not_exists: bool,
    },
    /// Another name for a column.
    RenameColumn {
        /// What it is called.
        from: String,
        /// What it will be called.
        to: String,
    },
    /// A column less; older versions keep it.
    DropColumn {
        /// Its name.
        name: String,
        /// Whether it is no error when it is not there.
        if_exists: bool,
    },
    /// A column that takes no nulls from now on.
    SetNotNull(String),
    /// A column that takes nulls from now on.
    DropNotNull(String),
    /// Another type for a column, with a place for each of its values.
    SetType {
        /// Its name.
        name: String,
        /// The type, one that a frame can hold.
        data_type: DataType,
    },
    /// The columns that rows are kept in the order of; none leaves them as they come.
    ClusterBy(Vec<String>),
    /// A condition for rows from now on.
    AddCheck(Check),
    /// A condition less.
    DropCheck {
        /// Its name.
        name: String,
        /// Whether it is no error when it is not there.
        if_exists: bool,
    },
    /// Settings of the table, by the names that Delta has for them.
    SetProperties(Vec<(String, String)>),
}

impl Alteration {
    /// Whether it holds only if the rows that are there allow it.
    pub fn depends_on_rows(&self) -> bool {
        matches!(self, Self::SetNotNull(_) | Self::AddCheck(_))
    }

    /// The column that no condition may use, since it would mean something else afterwards.
    pub(crate) fn unchecked(&self) -> Option<&str> {
        match self {
            Self::RenameColumn { from: name, .. } | Self::DropColumn { name, .. } | Self::SetType { name, .. } => {
                Some(name)
            }
            _ => None,
        }
    }

    /// What history calls it.
    fn operation(&self) -> &'static str {
        match self {
            Self::AddColumns { .. } => "ADD COLUMNS",
            Self::RenameColumn { .. } => "RENAME COLUMN",
            Self::DropColumn { .. } => "DROP COLUMNS",
            Self::SetNotNull(_) | Self::DropNotNull(_) | Self::SetType { .. } => "CHANGE COLUMN",
            Self::ClusterBy(_) => "CLUSTER BY",
            Self::AddCheck(_) => "ADD CONSTRAINT",
            Self::DropCheck { .. } => "DROP CONSTRAINT",
            Self::SetProperties(_) => "SET TBLPROPERTIES",
        }
    }
}

impl Ledger {
    /// Changes a frame; gives the version that it made, or found when there was nothing to change.
    ///
    /// What depends on rows is refused as a conflict when the newest version is another than `seen`, whose rows allow it;
    /// what depends on conditions, when there are others.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Schema`] for columns that are not there, or there already, or cannot be so;
    /// [`crate::ErrorKind::Unsupported`] for tables that cannot be changed so; [`crate::ErrorKind::Conflict`].
    pub async fn alter(&self, frame: &FrameRef, alteration: Alteration, seen: &FrameState) -> Result<u64> {
        let (seen, checks) = (seen.version(), seen.checks.clone());
        let altering = move |newest: &Arc<FrameState>| {
            let other_rows = alteration.depends_on_rows() && newest.version() != seen;
            if other_rows || alteration.unchecked().is_some() && newest.checks != checks {
                return Err(Error::conflict(format!("{} was written to meanwhile: try again", newest.frame)));
            }
            let table = newest.snapshot.table_configuration();
            let mut altered = Table::of(table.metadata(), table.protocol())?;
            if !altered.alter(&alteration, newest)? {
                return Ok(None);
            }
            let (metadata, protocol): (Metadata, Protocol) = (typed(&altered.metadata())?, typed(&altered.protocol)?);
            check_table(&newest.snapshot, &metadata, &protocol)?;
            let mut entry = LogEntry::new(alteration.operation(), &[]);
            if &protocol != table.protocol() {
                entry.push("protocol", &protocol)?;
            }
            entry.push("metaData", &metadata)?;
            Ok(Some(entry))
        };
        self.amend(frame, move |_, newest| altering(newest)).await
    }
}

/// A table's metadata as the log writes it, with what it says of columns unpacked.
struct Table {
    metadata: Value,
    fields: Vec<Value>,
    protocol: Value,
}

impl Table {
    fn of(metadata: &Metadata, protocol: &Protocol) -> Result<Self> {
        let json = |e: serde_json::Error| Error::internal(e.to_string());
        let schema: Value = serde_json::from_str(metadata.schema_string()).map_err(json)?;
        let fields = schema["fields"].as_array().cloned().unwrap_or_default();
        let metadata = serde_json::to_value(metadata).map_err(json)?;
        Ok(Self { metadata, fields, protocol: serde_json::to_value(protocol).map_err(json)? })
    }

    fn metadata(&self) -> Value {
        let mut metadata = self.metadata.clone();
        metadata["schemaString"] = json!(json!({ "type": "struct", "fields": self.fields }).to_string());
        metadata
    }

    /// Whether something changed.
    fn alter(&mut self, alteration: &Alteration, newest: &FrameState) -> Result<bool> {
        match alteration {
            Alteration::AddColumns { columns, if_not_exists } => self.add_columns(columns, *if_not_exists),
            Alteration::RenameColumn { from, to } => self.rename(from, to),
            Alteration::DropColumn { name, if_exists } => self.drop_column(name, *if_exists),
            Alteration::SetNotNull(name) => self.set_nullable(name, false),
            Alteration::DropNotNull(name) => self.set_nullable(name, true),
            Alteration::SetType { name, data_type } => self.set_type(name, data_type),
            Alteration::ClusterBy(columns) => {
                Ok(self.cluster_by(&cluster_columns(&newest.schema, &newest.partition_by, columns)?))
            }
            Alteration::AddCheck(check) => self.add_check(check),
            Alteration::DropCheck { name, if_exists } => self.drop_check(name, *if_exists),
            Alteration::SetProperties(properties) => self.set_properties(properties),
        }
    }

    fn add_columns(&mut self, columns: &[Field], if_not_exists: bool) -> Result<bool> {
        let mut added = false;
        for column in columns {
            if self.position(column.name()).is_some() {
                if if_not_exists {
                    continue;
                }
                return Err(Error::schema(format!(
                    "column '{}' is there already (case does not tell columns apart)",
                    column.name()
                )));
            }
            if !column.is_nullable() {
                return Err(Error::schema(format!(
                    "column '{}' cannot be NOT NULL: the rows that are there have no value for it; add it, fill it with \
                     UPDATE, and then ALTER COLUMN … SET NOT NULL",
                    column.name()
                )));
            }
            let kernel: StructField = column.try_into_kernel()?;
            let mut field = serde_json::to_value(&kernel).map_err(|e| Error::internal(e.to_string()))?;
            if field.to_string().contains("\"timestamp_ntz\"") {
                self.require_feature("timestampNtz");
            }
            if self.is_mapped() {
                let mut next = self.max_id();
                number(&mut field, &mut next, || format!("col-{}", uuid::Uuid::new_v4()));
                self.set(MAX_ID, next.to_string());
            }
            self.fields.push(field);
            added = true;
        }
        Ok(added)
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<bool> {
        let at = self.require(from)?;
        let from = self.name(at).to_string();
        if from == to {
            return Ok(false);
        }
        if to.is_empty() {
            return Err(Error::schema("a column needs a name"));
        }
        check_column_name(to)?;
        if self.position(to).is_some_and(|other| other != at) {
            return Err(Error::schema(format!("column '{to}' is there already (case does not tell columns apart)")));
        }
        self.map_columns();
        self.fields[at]["name"] = json!(to);
        if let Some(partitions) = self.metadata["partitionColumns"].as_array_mut() {
            partitions.iter_mut().filter(|name| name.as_str() == Some(&from)).for_each(|name| *name = json!(to));
        }
        self.rename_within(STATS_COLUMNS, &from, Some(to));
        self.rename_within(CLUSTER_BY, &from, Some(to));
        Ok(true)
    }

    fn drop_column(&mut self, name: &str, if_exists: bool) -> Result<bool> {
        if if_exists && self.position(name).is_none() {
            return Ok(false);
        }
        let at = self.require(name)?;
        let name = self.name(at).to_string();
        if self.is_partition(&name) {
            return Err(Error::schema(format!("column '{name}' partitions the frame: it cannot be dropped")));
        }
        if self.setting(CLUSTER_BY).is_some_and(|columns| renamed(columns, &name, None).is_some()) {
            return Err(Error::schema(format!(
                "the frame is clustered by column '{name}': ALTER FRAME … CLUSTER BY (other columns), or NONE, first"
            )));
        }
        if self.fields.len() <= self.partitions().len() + 1 {
            return Err(Error::schema(format!("column '{name}' is the last one: drop the frame instead")));
        }
        self.map_columns();
        self.fields.remove(at);
        self.rename_within(STATS_COLUMNS, &name, None);
        Ok(true)
    }

    /// A setting that lists columns, after one of them has another name or is gone.
    fn rename_within(&mut self, setting: &str, from: &str, to: Option<&str>) {
        if let Some(value) = self.setting(setting).and_then(|value| renamed(value, from, to)) {
            self.set(setting, value);
        }
    }

    fn cluster_by(&mut self, columns: &[String]) -> bool {
        if columns.is_empty() {
            let settings = self.metadata["configuration"].as_object_mut();
            return settings.is_some_and(|settings| {
                settings.remove(CLUSTERING);
                settings.remove(CLUSTER_BY).is_some()
            });
        }
        let value = value(columns);
        if self.setting(CLUSTER_BY) == Some(&value) {
            return false;
        }
        self.set(CLUSTER_BY, value);
        // Cells that were sorted otherwise are told apart by it.
        let id = uuid::Uuid::new_v4().simple().to_string();
        self.set(CLUSTERING, id.get(..8).unwrap_or(&id).to_string());
        if let Some(value) = self.setting(STATS_COLUMNS).and_then(|value| with_columns(value, columns)) {
            self.set(STATS_COLUMNS, value);
        }
        true
    }

    fn set_nullable(&mut self, name: &str, nullable: bool) -> Result<bool> {
        let at = self.require(name)?;
        let changed = self.fields[at]["nullable"] != json!(nullable);
        self.fields[at]["nullable"] = json!(nullable);
        Ok(changed)
    }

    fn set_type(&mut self, name: &str, data_type: &DataType) -> Result<bool> {
        let at = self.require(name)?;
        let kernel: StructField = (&Field::new(name, data_type.clone(), true)).try_into_kernel()?;
        let (from, to): (KernelType, _) = (typed(&self.fields[at]["type"])?, kernel.data_type());
        if &from == to {
            return Ok(false);
        }
        let name = self.name(at).to_string();
        if self.is_partition(&name) {
            return Err(Error::schema(format!("column '{name}' partitions the frame: its type stays")));
        }
        let all_fit =
            matches!((&from, to), (KernelType::Primitive(from), KernelType::Primitive(to)) if widens(from, to));
        if !all_fit {
            return Err(Error::schema(format!(
                "column '{name}' is of type {from} and cannot become {to}: integers become wider ones, double, or decimals \
                 with room for them, float becomes double, decimals wider ones, and date a timestamp without a zone; for \
                 another type add a column, fill it with UPDATE, and drop this one"
            )));
        }
        if to == &KernelType::TIMESTAMP_NTZ {
            self.require_feature("timestampNtz");
        }
        self.require_feature("typeWidening");
        self.set(WIDENS, "true".into());
        let field = &mut self.fields[at];
        let change = json!({ "fromType": field["type"], "toType": to });
        field["type"] = json!(to);
        match field["metadata"][TYPE_CHANGES].as_array_mut() {
            Some(changes) => changes.push(change),
            None => field["metadata"][TYPE_CHANGES] = json!([change]),
        }
        Ok(true)
    }

    fn add_check(&mut self, check: &Check) -> Result<bool> {
        let key = format!("{CHECK}{}", check.name);
        if self.setting(&key).is_some() {
            return Err(Error::already_exists(format!(
                "there is a constraint '{}' already: drop it first, or give this one another name",
                check.name
            )));
        }
        self.set(&key, check.condition.clone());
        Ok(true)
    }

    fn drop_check(&mut self, name: &str, if_exists: bool) -> Result<bool> {
        let settings = self.metadata["configuration"].as_object_mut();
        let there = settings.and_then(|settings| settings.remove(&format!("{CHECK}{name}"))).is_some();
        if !there && !if_exists {
            return Err(Error::not_found(format!("there is no constraint '{name}': use IF EXISTS to allow that")));
        }
        Ok(there)
    }

    fn set_properties(&mut self, properties: &[(String, String)]) -> Result<bool> {
        let mut changed = false;
        for (key, value) in properties_to_set(properties)? {
            // Without it, cells may have rows that are marked: readers still need the feature.
            if value == "true" {
                self.require_feature("deletionVectors");
            }
            changed |= self.setting(&key) != Some(&value);
            self.set(&key, value);
        }
        Ok(changed)
    }

    /// Gives every column a number and the name that its cells have for it.
    fn map_columns(&mut self) {
        if self.is_mapped() {
            return;
        }
        let mut next = 0;
        for field in &mut self.fields {
            let name = field["name"].as_str().unwrap_or_default().to_string();
            number(field, &mut next, || name);
        }
        self.set(MODE, "name".into());
        self.set(MAX_ID, next.to_string());
        self.require_feature("columnMapping");
    }

    fn is_mapped(&self) -> bool {
        self.setting(MODE).is_some_and(|mode| mode != "none")
    }

    fn max_id(&self) -> u64 {
        self.setting(MAX_ID).and_then(|id| id.parse().ok()).unwrap_or(0)
    }

    /// Asks readers and writers for a feature, by the list of features that replaced version numbers.
    fn require_feature(&mut self, feature: &str) {
        let version = |key: &str| self.protocol[key].as_u64().unwrap_or(1);
        let (reader, writer) = (version("minReaderVersion"), version("minWriterVersion"));
        let listed = |key: &str| -> Vec<Value> { self.protocol[key].as_array().cloned().unwrap_or_default() };
        let (mut readers, mut writers) = (listed("readerFeatures"), listed("writerFeatures"));
        if reader == 2 {
            readers.push(json!("columnMapping"));
        }
        if writer < 7 {
            let legacy = LEGACY_WRITER.iter().filter(|(version, _)| *version <= writer);
            writers.extend(legacy.flat_map(|(_, features)| features.iter().map(|feature| json!(feature))));
        }
        for features in [&mut readers, &mut writers] {
            if !features.contains(&json!(feature)) {
                features.push(json!(feature));
            }
        }
        self.protocol = json!({
            "minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": readers, "writerFeatures": writers,
        });
    }

    fn setting(&self, key: &str) -> Option<&str> {
        self.metadata["configuration"][key].as_str()
    }

    fn set(&mut self, key: &str, value: String) {
        self.metadata["configuration"][key] = json!(value);
    }

    fn partitions(&self) -> &[Value] {
        self.metadata["partitionColumns"].as_array().map_or(&[], Vec::as_slice)
    }

    fn is_partition(&self, name: &str) -> bool {
        self.partitions().iter().any(|partition| partition.as_str() == Some(name))
    }

    fn name(&self, at: usize) -> &str {
        self.fields[at]["name"].as_str().unwrap_or_default()
    }

    fn position(&self, name: &str) -> Option<usize> {
        (0..self.fields.len()).find(|at| self.name(*at).eq_ignore_ascii_case(name))
    }

    fn require(&self, name: &str) -> Result<usize> {
        self.position(name).ok_or_else(|| {
            let there: Vec<_> = (0..self.fields.len()).map(|at| self.name(at)).collect();
            Error::not_found(format!("there is no column '{name}': the frame has {}", there.join(", ")))
        })
    }
}

/// Whether Delta lets a column of type `from` become one of type `to` without its cells being written again:
/// <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#type-widening>.
fn widens(from: &PrimitiveType, to: &PrimitiveType) -> bool {
    use PrimitiveType as T;
    let digits = |before_point: u8, scale: u8| matches!(to, T::Decimal(to) if to.scale() >= scale && to.precision() - to.scale() >= before_point);
    match from {
        T::Byte => matches!(to, T::Short | T::Integer | T::Long | T::Double) || digits(10, 0),
        T::Short => matches!(to, T::Integer | T::Long | T::Double) || digits(10, 0),
        T::Integer => matches!(to, T::Long | T::Double) || digits(10, 0),
        T::Long => digits(20, 0),
        T::Float => to == &T::Double,
        T::Date => to == &T::TimestampNtz,
        T::Decimal(from) => digits(from.precision() - from.scale(), from.scale()),
        _ => false,
    }
}

/// The names in cells of columns that were of type float before: what entries say of their bounds was rounded for that.
pub(super) fn former_floats(schema: &StructType) -> HashSet<String> {
    let was_float = |field: &&StructField| {
        let Some(MetadataValue::Other(changes)) = field.metadata().get(TYPE_CHANGES) else { return false };
        changes.as_array().is_some_and(|changes| changes.iter().any(|change| change["fromType"] == "float"))
    };
    schema.fields().filter(was_float).map(|field| physical_name(field).to_string()).collect()
}

/// Numbers a column and those within it; `physical` is what its cells call it. Columns within others keep their names.
fn number(field: &mut Value, next: &mut u64, physical: impl FnOnce() -> String) {
    *next += 1;
    let metadata = json!({ COLUMN_ID: *next, PHYSICAL_NAME: physical() });
    match (field["metadata"].as_object_mut(), metadata) {
        (Some(there), Value::Object(mut new)) => there.append(&mut new),
        (None, new) => field["metadata"] = new,
        _ => {}
    }
    number_within(&mut field["type"], next);
}

fn number_within(data_type: &mut Value, next: &mut u64) {
    let Some(nested) = data_type.as_object_mut() else { return };
    for field in nested.get_mut("fields").and_then(Value::as_array_mut).into_iter().flatten() {
        let name = field["name"].as_str().unwrap_or_default().to_string();
        number(field, next, || name);
    }
    for part in ["elementType", "keyType", "valueType"] {
        nested.get_mut(part).into_iter().for_each(|part| number_within(part, next));
    }
}

fn typed<T: DeserializeOwned>(value: &Value) -> Result<T> {
    serde_json::from_value(value.clone()).map_err(|e| Error::internal(format!("metadata that cannot be: {e}")))
}

/// The conditions among a table's settings, by name.
pub(super) fn checks(settings: &std::collections::HashMap<String, String>) -> Vec<Check> {
    let check = |(key, condition): (&String, &String)| {
        Some(Check { name: key.strip_prefix(CHECK)?.to_string(), condition: condition.clone() })
    };
    let mut checks: Vec<_> = settings.iter().filter_map(check).collect();
    checks.sort_by(|a, b| a.name.cmp(&b.name));
    checks
}
