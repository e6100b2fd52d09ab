//! What the files of cells call columns, where that is not what a scan calls them (Delta's column mapping).
//!
//! Columns of their own are read by their physical names and get the frame's afterwards. What that leaves is done to a
//! file's footer as it is opened: columns that are told apart by number are given their physical names, and columns
//! within columns the names that the frame has for them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray};
use arrow::datatypes::{DataType, Field, FieldRef};
use delta_kernel::schema::{ArrayType, DataType as KernelType, MapType, MetadataValue, StructField, StructType};
use delta_kernel::table_features::ColumnMappingMode;
use parquet::arrow::{ARROW_SCHEMA_META_KEY, PARQUET_FIELD_ID_META_KEY};
use parquet::basic::Repetition;
use parquet::file::metadata::{FileMetaData, ParquetMetaData, ParquetMetaDataBuilder};
use parquet::schema::types::{BasicTypeInfo, SchemaDescriptor, Type, TypePtr};
use serde::{Deserialize, Serialize};

use super::alter::{COLUMN_ID, PHYSICAL_NAME};
use crate::{Error, Result};

/// How the columns of a frame are found in the files of its cells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileColumns {
    /// Whether by number, and not by name.
    by_number: bool,
    columns: Vec<FileColumn>,
}

/// One column, or one within it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FileColumn {
    /// What the scan calls it.
    name: String,
    physical: String,
    number: Option<i32>,
    within: Within,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Within {
    Nothing,
    Columns(Vec<FileColumn>),
    List(Box<Within>),
    Map(Box<Within>, Box<Within>),
}

impl FileColumns {
    /// Those of a table; `None` where all have one name, but for the columns of their own.
    pub(super) fn of(schema: &StructType, mode: ColumnMappingMode) -> Option<Self> {
        let by_number = mode == ColumnMappingMode::Id;
        let named = || schema.fields().any(|field| has_other_names(field.data_type()));
        if mode == ColumnMappingMode::None || !(by_number || named()) {
            return None;
        }
        let column = |field: &StructField| FileColumn { name: physical_name(field).into(), ..FileColumn::of(field) };
        Some(Self { by_number, columns: schema.fields().map(column).collect() })
    }

    /// From a text that travelled with a plan.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] for what is none.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|e| Error::corrupt(format!("the columns of a scan's files: {e}")))
    }

    /// Itself, to travel.
    ///
    /// # Errors
    /// Never in practice.
    pub fn to_text(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::internal(e.to_string()))
    }

    /// A footer whose columns have the names that the scan knows.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] for a file without numbers where columns are told apart by them.
    pub fn renamed(&self, footer: &ParquetMetaData) -> Result<ParquetMetaData> {
        let file = footer.file_metadata();
        let root = file.schema_descr().root_schema();
        if self.by_number && !root.get_fields().iter().any(|column| column.get_basic_info().has_id()) {
            return Err(Error::unsupported(
                "its columns have no numbers, by which the frame tells them apart (column mapping mode 'id'): write it \
                 anew with the engine that wrote it",
            ));
        }
        let columns = self.columns_named(&self.columns, root.get_fields())?;
        let root = group(root, root.name(), columns)?;
        // What Arrow notes of the columns has their former names.
        let mut notes = file.key_value_metadata().cloned().unwrap_or_default();
        notes.retain(|note| note.key != ARROW_SCHEMA_META_KEY);
        let renamed = FileMetaData::new(
            file.version(),
            file.num_rows(),
            file.created_by().map(str::to_string),
            Some(notes),
            Arc::new(SchemaDescriptor::new(root)),
            file.column_orders().cloned(),
        );
        Ok(ParquetMetaDataBuilder::new(renamed)
            .set_row_groups(footer.row_groups().to_vec())
            .set_column_index(footer.column_index().cloned())
            .set_offset_index(footer.offset_index().cloned())
            .build())
    }

    fn columns_named(&self, wanted: &[FileColumn], there: &[TypePtr]) -> Result<Vec<TypePtr>> {
        let named = |(at, column): (usize, &TypePtr)| match wanted.iter().find(|wanted| self.is(wanted, column)) {
            Some(wanted) => self.named(&wanted.within, column, &wanted.name),
            // No column is called so: it must not be taken for another.
            None => self.named(&Within::Nothing, column, &format!("\0{at}")),
        };
        there.iter().enumerate().map(named).collect()
    }

    fn is(&self, wanted: &FileColumn, there: &Type) -> bool {
        let info = there.get_basic_info();
        match self.by_number {
            true => info.has_id() && Some(info.id()) == wanted.number,
            false => info.name() == wanted.physical,
        }
    }

    fn named(&self, within: &Within, there: &TypePtr, name: &str) -> Result<TypePtr> {
        let Type::GroupType { fields, .. } = there.as_ref() else { return leaf(there, name) };
        let fields = match (within, fields.as_slice()) {
            (Within::Columns(wanted), fields) => self.columns_named(wanted, fields)?,
            (Within::List(item), [repeated]) if is_item(repeated) => {
                vec![self.named(item, repeated, repeated.name())?]
            }
            (Within::List(item), [repeated]) => vec![self.parts_named(&[item.as_ref()], repeated)?],
            (Within::Map(key, value), [entries]) => vec![self.parts_named(&[key.as_ref(), value.as_ref()], entries)?],
            (_, fields) => fields.to_vec(),
        };
        group(there, name, fields)
    }

    /// The parts of a list or a map, which are known by their places.
    fn parts_named(&self, within: &[&Within], there: &TypePtr) -> Result<TypePtr> {
        let Type::GroupType { fields, .. } = there.as_ref() else { return Ok(Arc::clone(there)) };
        let parts = fields.iter().enumerate().map(|(at, part)| match within.get(at) {
            Some(within) => self.named(within, part, part.name()),
            None => Ok(Arc::clone(part)),
        });
        group(there, there.name(), parts.collect::<Result<_>>()?)
    }
}

impl FileColumn {
    fn of(field: &StructField) -> Self {
        let number = match field.metadata().get(COLUMN_ID) {
            Some(MetadataValue::Number(number)) => i32::try_from(*number).ok(),
            _ => None,
        };
        let (name, physical) = (field.name().to_string(), physical_name(field).to_string());
        Self { name, physical, number, within: Within::of(field.data_type()) }
    }
}

impl Within {
    fn of(data_type: &KernelType) -> Self {
        match data_type {
            KernelType::Struct(fields) => Self::Columns(fields.fields().map(FileColumn::of).collect()),
            KernelType::Array(array) => Self::List(Box::new(Self::of(ArrayType::element_type(array)))),
            KernelType::Map(map) => {
                let (key, value) = (Self::of(MapType::key_type(map)), Self::of(MapType::value_type(map)));
                Self::Map(Box::new(key), Box::new(value))
            }
            _ => Self::Nothing,
        }
    }
}

/// What the cells call a column.
pub(super) fn physical_name(field: &StructField) -> &str {
    match field.metadata().get(PHYSICAL_NAME) {
        Some(MetadataValue::String(name)) => name,
        _ => field.name(),
    }
}

fn has_other_names(data_type: &KernelType) -> bool {
    match data_type {
        KernelType::Struct(fields) => {
            fields.fields().any(|field| physical_name(field) != field.name() || has_other_names(field.data_type()))
        }
        KernelType::Array(array) => has_other_names(ArrayType::element_type(array)),
        KernelType::Map(map) => has_other_names(MapType::key_type(map)) || has_other_names(MapType::value_type(map)),
        _ => false,
    }
}

/// Whether what is repeated in a list is its items, as old writers had it, and not a group around them.
fn is_item(repeated: &TypePtr) -> bool {
    let is_group = |fields: &[TypePtr]| fields.len() == 1 && repeated.name() != "array";
    match repeated.as_ref() {
        Type::GroupType { fields, .. } => !is_group(fields),
        Type::PrimitiveType { .. } => true,
    }
}

fn group(like: &Type, name: &str, fields: Vec<TypePtr>) -> Result<TypePtr> {
    let info = like.get_basic_info();
    let mut group = Type::group_type_builder(name)
        .with_converted_type(info.converted_type())
        .with_logical_type(info.logical_type_ref().cloned())
        .with_id(number(info))
        .with_fields(fields);
    if let Some(repetition) = repetition(info) {
        group = group.with_repetition(repetition);
    }
    Ok(Arc::new(group.build()?))
}

fn leaf(like: &Type, name: &str) -> Result<TypePtr> {
    let Type::PrimitiveType { basic_info, physical_type, type_length, scale, precision } = like else {
        return Err(Error::internal("a group of columns is no column"));
    };
    let mut leaf = Type::primitive_type_builder(name, *physical_type)
        .with_converted_type(basic_info.converted_type())
        .with_logical_type(basic_info.logical_type_ref().cloned())
        .with_length(*type_length)
        .with_scale(*scale)
        .with_precision(*precision)
        .with_id(number(basic_info));
    if let Some(repetition) = repetition(basic_info) {
        leaf = leaf.with_repetition(repetition);
    }
    Ok(Arc::new(leaf.build()?))
}

fn number(info: &BasicTypeInfo) -> Option<i32> {
    info.has_id().then(|| info.id())
}

fn repetition(info: &BasicTypeInfo) -> Option<Repetition> {
    info.has_repetition().then(|| info.repetition())
}

/// A column as files call it: with the names of `file`, and the numbers if it has some.
pub(super) fn in_file(given: &Field, file: &Field) -> FieldRef {
    let number = file.metadata().get(PARQUET_FIELD_ID_META_KEY).or_else(|| file.metadata().get(COLUMN_ID));
    let metadata = number.map(|number| (PARQUET_FIELD_ID_META_KEY.to_string(), number.clone()));
    let data_type = type_in_file(given.data_type(), file.data_type());
    let field = Field::new(file.name(), data_type, given.is_nullable());
    Arc::new(field.with_metadata(metadata.into_iter().collect()))
}

fn type_in_file(given: &DataType, file: &DataType) -> DataType {
    let part = |given: &FieldRef, file: &FieldRef| {
        Arc::new(given.as_ref().clone().with_data_type(type_in_file(given.data_type(), file.data_type())))
    };
    match (given, file) {
        (DataType::Struct(given), DataType::Struct(file)) => {
            DataType::Struct(given.iter().zip(file).map(|(given, file)| in_file(given, file)).collect())
        }
        (DataType::List(given), DataType::List(file)) => DataType::List(part(given, file)),
        (DataType::Map(given, sorted), DataType::Map(file, _)) => DataType::Map(part(given, file), *sorted),
        _ => given.clone(),
    }
}

/// The same values in a type that differs in names alone.
///
/// # Errors
/// Never for such a type.
pub(super) fn with_names_of(values: &ArrayRef, wanted: &DataType) -> Result<ArrayRef> {
    if values.data_type() == wanted {
        return Ok(Arc::clone(values));
    }
    Ok(match wanted {
        DataType::Struct(fields) => {
            let (_, columns, nulls) = values.as_struct().clone().into_parts();
            let named = columns.iter().zip(fields).map(|(column, field)| with_names_of(column, field.data_type()));
            Arc::new(StructArray::try_new(fields.clone(), named.collect::<Result<_>>()?, nulls)?)
        }
        DataType::List(item) => {
            let (_, ends, items, nulls) = values.as_list::<i32>().clone().into_parts();
            Arc::new(ListArray::try_new(Arc::clone(item), ends, with_names_of(&items, item.data_type())?, nulls)?)
        }
        DataType::Map(entries, sorted) => {
            let (_, ends, pairs, nulls, _) = values.as_map().clone().into_parts();
            let pairs = with_names_of(&(Arc::new(pairs) as ArrayRef), entries.data_type())?;
            Arc::new(MapArray::try_new(Arc::clone(entries), ends, pairs.as_struct().clone(), nulls, *sorted)?)
        }
        _ => Arc::clone(values),
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use parquet::schema::parser::parse_message_type;

    use super::*;

    fn column(name: &str, physical: &str, number: i32, within: Within) -> FileColumn {
        FileColumn { name: name.into(), physical: physical.into(), number: Some(number), within }
    }

    fn renamed(columns: FileColumns, message: &str) -> String {
        let schema = Arc::new(SchemaDescriptor::new(Arc::new(parse_message_type(message).unwrap())));
        let footer = ParquetMetaData::new(FileMetaData::new(1, 0, None, None, schema, None), Vec::new());
        let columns = FileColumns::parse(&columns.to_text().unwrap()).unwrap();
        let renamed = columns.renamed(&footer).unwrap();
        let paths = renamed.file_metadata().schema_descr().columns().iter().map(|column| column.path().string());
        paths.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn columns_within_others_get_the_names_of_the_frame() {
        let item = || Within::Columns(vec![column("b", "p2", 2, Within::Nothing)]);
        let list = FileColumns { by_number: false, columns: vec![column("p1", "p1", 1, Within::List(item().into()))] };
        let three = "message m { optional group p1 (LIST) { repeated group list { optional group element { optional \
                     int64 p2; optional int64 b; } } } optional int64 p2; }";
        assert_eq!(renamed(list.clone(), three), "p1.list.element.b p1.list.element.\u{0}1 \u{0}1");
        let two = "message m { optional group p1 (LIST) { repeated group array { optional int64 p2; } } }";
        assert_eq!(renamed(list, two), "p1.array.b");
        let map = Within::Map(Within::Nothing.into(), item().into());
        let map = FileColumns { by_number: false, columns: vec![column("p1", "p1", 1, map)] };
        let pairs = "message m { optional group p1 (MAP) { repeated group key_value { required binary key (UTF8); \
                     optional group value { optional int64 p2; } } } }";
        assert_eq!(renamed(map, pairs), "p1.key_value.key p1.key_value.value.b");
    }

    #[test]
    fn numbers_tell_columns_apart_whatever_they_are_called() {
        let within = Within::Columns(vec![column("a", "p3", 3, Within::Nothing)]);
        let columns = vec![column("p1", "p1", 1, within), column("p2", "p2", 2, Within::Nothing)];
        let columns = FileColumns { by_number: true, columns };
        let message = "message m { optional int64 p1 = 2; optional group x = 1 { optional int64 p3 = 9; optional int64 \
                       y = 3; } optional int64 p2 = 7; }";
        assert_eq!(renamed(columns, message), "p2 p1.\u{0}0 p1.a \u{0}2");
    }

    #[test]
    fn values_keep_their_places_under_other_names() {
        let part = |name: &str| Field::new(name, DataType::Int64, true);
        let given = Field::new("s", DataType::Struct(vec![part("a"), part("b")].into()), true);
        let file = Field::new("p1", DataType::Struct(vec![part("p2"), part("p3")].into()), true);
        let wanted = in_file(&given, &file);
        assert_eq!(wanted.name(), "p1");
        let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![1])), Arc::new(Int64Array::from(vec![2]))];
        let DataType::Struct(fields) = given.data_type() else { unreachable!() };
        let values: ArrayRef = Arc::new(StructArray::new(fields.clone(), columns, None));
        let named = with_names_of(&values, wanted.data_type()).unwrap();
        assert_eq!(named.data_type(), file.data_type());
        assert_eq!(named.as_struct().column(1).as_ref(), values.as_struct().column(1).as_ref());
    }
}
