//! The statements of `tests/slt/*.slt` and their answers, by the format of SQLite's sqllogictest.
//!
//! Every file has a colony and a meadow of its own; each `connection` is a session. Columns are `I` integers, `R` floats and
//! decimals, `T` texts, `B` booleans, `D` dates, `P` moments, `?` all others.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use apiary::{Colony, Error, Session};
use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use sqllogictest::{ColumnType, DB, DBOutput, Runner, strict_column_validator};

use crate::support::{folder, settings, start};

#[derive(Debug, Clone, PartialEq, Eq)]
struct Kind(char);

impl ColumnType for Kind {
    fn from_char(value: char) -> Option<Self> {
        "IRTBDP?".contains(value).then_some(Self(value))
    }

    fn to_char(&self) -> char {
        self.0
    }
}

impl Kind {
    fn of(data_type: &DataType) -> Self {
        Self(match data_type {
            t if t.is_integer() => 'I',
            t if t.is_floating() || t.is_decimal() => 'R',
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => 'T',
            DataType::Boolean => 'B',
            DataType::Date32 | DataType::Date64 => 'D',
            DataType::Timestamp(..) => 'P',
            _ => '?',
        })
    }
}

struct Connection {
    colony: Colony,
    session: Session,
}

impl DB for Connection {
    type Error = Error;
    type ColumnType = Kind;

    fn run(&mut self, sql: &str) -> Result<DBOutput<Kind>, Error> {
        let (schema, batches) = self.colony.block_on(async {
            let answer = self.session.sql(sql).await?;
            let schema = answer.schema();
            Ok::<_, Error>((schema, answer.collect().await?))
        })?;
        let types = schema.fields().iter().map(|field| Kind::of(field.data_type())).collect();
        Ok(DBOutput::Rows { types, rows: batches.iter().flat_map(rows).collect() })
    }
}

fn rows(batch: &RecordBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<_> =
        batch.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap()).collect();
    let cell = |column: &ArrayFormatter<'_>, row: usize| match column.value(row).to_string() {
        empty if empty.is_empty() => "(empty)".to_string(),
        text => text,
    };
    (0..batch.num_rows()).map(|row| columns.iter().map(|column| cell(column, row)).collect()).collect()
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt")
}

fn check(name: &str) {
    let folder = folder();
    let colony = start(settings(&folder));
    let mut runner =
        Runner::new(|| async { Ok(Connection { colony: Colony::clone(&colony), session: colony.session() }) });
    // `$DATA` where a script says `control substitution on`.
    runner.set_var("DATA".into(), scripts().join("data").to_string_lossy().into_owned());
    runner.with_column_validator(strict_column_validator);
    if let Err(error) = runner.run_file(scripts().join(format!("{name}.slt"))) {
        panic!("{}", error.display(false));
    }
    runner.shutdown();
}

macro_rules! scripts {
    ($($name:ident),+ $(,)?) => {
        $(
            #[test]
            fn $name() {
                check(stringify!($name));
            }
        )+

        #[test]
        fn every_script_is_run() {
            let listed = BTreeSet::from([$(stringify!($name).to_string()),+]);
            let files = std::fs::read_dir(scripts()).unwrap().map(|entry| entry.unwrap().path());
            let scripts = files.filter(|path| path.extension().is_some_and(|extension| extension == "slt"));
            let there = scripts.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
            assert_eq!(listed, there);
        }
    };
}

scripts!(
    aggregates,
    as_sql,
    changes,
    ddl,
    dml_errors,
    expressions,
    files,
    joins,
    nested,
    queries,
    strings,
    subqueries,
    time,
    types,
    versions,
    views,
    windows
);
