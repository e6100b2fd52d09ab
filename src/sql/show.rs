//! SHOW: names that there are, and how frames and views were made.

use arrow::array::{AsArray, BooleanArray, RecordBatch, Scalar, StringArray};
use arrow::compute::{filter_record_batch, ilike};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};

use super::answer;
use super::catalog::{box_names, frame_name};
use super::command::hive_name;
use super::planner::Planner;
use super::row_change::quoted;
use super::session::SqlSession;
use super::statement::{Kind, Statement, end, names, skip, take_words, word};
use super::view::definition;
use crate::Result;
use crate::storage::{AsOf, FrameInfo};

/// Which names SHOW gives.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Of what; of views when it is none of the others.
    pub(super) kind: Option<Kind>,
    pub(super) within: Vec<String>,
    /// What their last parts are like, by the rules of ILIKE.
    pub(super) like: Option<String>,
}

/// Parses what SHOW can show of a meadow; `None` for all else.
pub(super) fn show(parser: &mut Parser<'_>) -> Result<Option<Statement>, ParserError> {
    let what = word(parser, 1);
    let of_one = match what.as_str() {
        "CREATE" if matches!(word(parser, 2).as_str(), "VIEW" | "FRAME" | "TABLE") => 3,
        "TBLPROPERTIES" => 2,
        _ => 0,
    };
    if of_one > 0 {
        skip(parser, of_one);
        let name = names(parser.parse_object_name(false)?);
        end(parser)?;
        return Ok(Some(match what.as_str() {
            "CREATE" => Statement::ShowCreate { name },
            _ => Statement::ShowProperties { name },
        }));
    }
    let kind = Kind::of_plural(&what);
    if kind.is_none() && what != "VIEWS" {
        return Ok(None);
    }
    skip(parser, 2);
    let within = match take_words(parser, &["IN"]) || take_words(parser, &["FROM"]) {
        true => names(parser.parse_object_name(false)?),
        false => Vec::new(),
    };
    let like = match take_words(parser, &["LIKE"]) || take_words(parser, &["ILIKE"]) {
        true => Some(parser.parse_literal_string()?),
        false => None,
    };
    end(parser)?;
    Ok(Some(Statement::Show(Shown { kind, within, like })))
}

impl Planner {
    pub(super) async fn show(&self, shown: Shown, session: &SqlSession) -> Result<RecordBatch> {
        let registry = self.meadow.registry();
        let Shown { kind, within, like } = shown;
        let of_frames = async || match within.as_slice() {
            [] => registry.frames().await,
            within => {
                let (hive, box_) = box_names(within, session)?;
                registry.frames_of(&hive, &box_).await
            }
        };
        let all = match kind {
            Some(Kind::Hive) => answer::texts("hive", registry.hives().await?.into_iter().map(String::from)),
            Some(Kind::Box) => {
                let hive = if within.is_empty() { session.hive() } else { hive_name(&within)? };
                answer::texts("box", registry.boxes(&hive).await?.into_iter().map(String::from))
            }
            Some(Kind::Frame) => answer::texts("frame", of_frames().await?.into_iter().map(|f| f.to_string())),
            None => answer::views(&registry.views(of_frames().await?).await?),
        };
        match like {
            Some(like) => only_like(&all?, &like),
            None => all,
        }
    }

    /// The statement that makes a frame or a view.
    pub(super) async fn show_create(&self, name: &[String], session: &SqlSession) -> Result<RecordBatch> {
        let name = frame_name(name, session)?;
        let record = self.meadow.registry().frame_or_view(&name).await?;
        let statement = match &record.view {
            Some(view) => definition(&name, view),
            None => {
                let set = self.meadow.state(&name, AsOf::Latest).await?.properties_set();
                making(&self.meadow.describe(&name).await?, &set)
            }
        };
        answer::pair(("name", &name.to_string()), ("statement", &statement))
    }

    pub(super) async fn show_properties(&self, name: &[String], session: &SqlSession) -> Result<RecordBatch> {
        let name = frame_name(name, session)?;
        answer::properties(&self.meadow.state(&name, AsOf::Latest).await?.properties())
    }
}

/// The rows whose name, in the first column, ends in one like that.
fn only_like(all: &RecordBatch, like: &str) -> Result<RecordBatch> {
    let last = |name: Option<&str>| name.and_then(|name| name.rsplit('.').next()).map(str::to_string);
    let names: StringArray = all.column(0).as_string::<i32>().iter().map(last).collect();
    let found: BooleanArray = ilike(&names, &Scalar::new(StringArray::from(vec![like])))?;
    Ok(filter_record_batch(all, &found)?)
}

/// CREATE FRAME for one with the same columns and properties.
fn making(frame: &FrameInfo, set: &[(String, String)]) -> String {
    let column = |field: &FieldRef| {
        let null = if field.is_nullable() { "" } else { " NOT NULL" };
        format!("{} {}{null}", as_written(field.name()), sql_type(field.data_type()))
    };
    let columns: Vec<String> = frame.schema.fields().iter().map(column).collect();
    let by = |what: &str, columns: &[String]| match columns {
        [] => String::new(),
        columns => {
            format!(" {what} BY ({})", columns.iter().map(|c| as_written(c)).collect::<Vec<_>>().join(", "))
        }
    };
    let set: Vec<String> = set.iter().map(|(key, value)| format!("'{key}' = '{value}'")).collect();
    let set = if set.is_empty() { String::new() } else { format!(" TBLPROPERTIES ({})", set.join(", ")) };
    format!(
        "CREATE FRAME {} ({}){}{}{set}",
        frame.name,
        columns.join(", "),
        by("PARTITIONED", &frame.partition_by),
        by("CLUSTER", &frame.cluster_by)
    )
}

/// A name, in quotes where it needs some.
fn as_written(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let is_plain = name.bytes().all(plain) && name.starts_with(|first: char| first.is_ascii_lowercase());
    if is_plain { name.to_string() } else { quoted(name) }
}

/// What a type is called in SQL.
fn sql_type(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "BOOLEAN".into(),
        DataType::Int8 => "TINYINT".into(),
        DataType::Int16 => "SMALLINT".into(),
        DataType::Int32 => "INT".into(),
        DataType::Int64 => "BIGINT".into(),
        DataType::Float32 => "REAL".into(),
        DataType::Float64 => "DOUBLE".into(),
        DataType::Decimal128(digits, scale) => format!("DECIMAL({digits}, {scale})"),
        DataType::Utf8 => "TEXT".into(),
        DataType::Binary => "BYTEA".into(),
        DataType::Date32 => "DATE".into(),
        DataType::Timestamp(_, None) => "TIMESTAMP".into(),
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP WITH TIME ZONE".into(),
        DataType::List(item) => format!("{}[]", sql_type(item.data_type())),
        DataType::Struct(fields) => {
            let field = |field: &FieldRef| format!("{} {}", as_written(field.name()), sql_type(field.data_type()));
            format!("STRUCT<{}>", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}
