//! One argument of `ingest`: a file, a glob or a URL, as it stands in SQL, and how far into it some rows are.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::cli::CsvArgs;
use crate::failure::{Failure, Outcome};

/// Extensions and what is in such files.
const KINDS: [(&str, Kind); 6] = [
    ("parquet", Kind::Parquet),
    ("csv", Kind::Csv),
    ("tsv", Kind::Csv),
    ("json", Kind::Json),
    ("ndjson", Kind::Json),
    ("jsonl", Kind::Json),
];

/// Start of a text file from which the length of its rows is guessed: enough lines for a mean, read in no time.
const SAMPLE: u64 = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Parquet,
    /// One row per line.
    Csv,
    /// As well.
    Json,
}

/// One argument of `ingest`.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    /// As the user wrote it.
    pub(crate) name: String,
    /// What stands between the quotes in SQL, not yet escaped.
    source: String,
    /// How it is read, as it stands in SQL.
    options: String,
    /// What its columns are called, when it does not say.
    columns: Vec<String>,
    /// Its size; `None` where only the engine can tell, as for a glob or a URL.
    pub(crate) bytes: Option<u64>,
    /// Rough number of bytes that a row takes in it; 0 when unknown.
    bytes_per_row: f64,
}

impl Input {
    /// Looks at `name`; a CSV file without names of its columns has those of `columns`.
    ///
    /// # Errors
    /// [`Failure::Usage`] when it is not there, is a folder, or is of a kind that cannot be read.
    pub(crate) fn open(name: &str, csv: &CsvArgs, columns: &[String]) -> Outcome<Self> {
        if Path::new(name).is_dir() {
            return Err(Failure::Usage(format!("{name} is a folder: name its files, like '{name}/*.parquet'")));
        }
        let kind = kind(name)?;
        let is_csv = kind == Kind::Csv;
        let options = if is_csv { options(csv) } else { String::new() };
        let columns = if is_csv && csv.no_header { columns.to_vec() } else { Vec::new() };
        let source = if is_url(name) { name.to_string() } else { absolute(name)? };
        let input = Self { name: name.into(), source, options, columns, bytes: None, bytes_per_row: 0.0 };
        if is_url(name) || is_glob(name) && !Path::new(name).exists() {
            return Ok(input);
        }
        let bytes = size(name)?;
        Ok(Self { bytes: Some(bytes), bytes_per_row: bytes_per_row(kind, Path::new(name), bytes), ..input })
    }

    /// The query that reads it.
    pub(crate) fn select(&self) -> String {
        let columns: Vec<String> = self.columns.iter().map(|c| format!("\"{}\"", c.replace('"', "\"\""))).collect();
        let called = if columns.is_empty() { String::new() } else { format!(" AS file ({})", columns.join(", ")) };
        format!("SELECT * FROM {}{}{called}", text(&self.source), self.options)
    }

    /// About how many bytes of it `rows` rows are.
    pub(crate) fn position(&self, rows: u64) -> u64 {
        let position = (rows as f64 * self.bytes_per_row) as u64;
        position.min(self.bytes.unwrap_or(0))
    }
}

/// The options of a CSV file in SQL; nothing when there are none.
fn options(csv: &CsvArgs) -> String {
    let mut options = Vec::new();
    let quoted = |character: char| text(&character.to_string());
    options.extend(csv.delimiter.map(|delimiter| format!("delimiter {}", quoted(delimiter))));
    options.extend(csv.quote.map(|quote| format!("quote {}", quoted(quote))));
    options.extend(csv.no_header.then(|| "header false".to_string()));
    options.extend(csv.null.as_deref().map(|null| format!("null {}", text(null))));
    if options.is_empty() { String::new() } else { format!(" OPTIONS ({})", options.join(", ")) }
}

/// A text in SQL.
fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn kind(name: &str) -> Outcome<Kind> {
    let extension = Path::new(name).extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    KINDS.iter().find(|(known, _)| *known == extension).map(|(_, kind)| *kind).ok_or_else(|| {
        let known: Vec<String> = KINDS.iter().map(|(known, _)| format!(".{known}")).collect();
        Failure::Usage(format!("cannot tell from its name what {name} is: it must end in {}", known.join(", ")))
    })
}

fn is_url(name: &str) -> bool {
    name.contains("://")
}

fn is_glob(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

/// The engine may run in another folder than we do.
fn absolute(name: &str) -> Outcome<String> {
    let path = std::path::absolute(name).map_err(|e| Failure::Usage(format!("{name}: {e}")))?;
    Ok(path.to_string_lossy().into_owned())
}

fn size(name: &str) -> Outcome<u64> {
    let metadata = std::fs::metadata(name).map_err(|e| Failure::Usage(format!("cannot read {name}: {e}")))?;
    Ok(metadata.len())
}

/// A guess for the progress bar alone: what cannot be read here fails with a better message in the query.
fn bytes_per_row(kind: Kind, path: &Path, bytes: u64) -> f64 {
    match kind {
        Kind::Parquet => rows_of_parquet(path).map_or(0.0, |rows| bytes as f64 / rows.max(1) as f64),
        Kind::Csv | Kind::Json => sample(path).map_or(0.0, |text| bytes_per_line(&text)),
    }
}

fn rows_of_parquet(path: &Path) -> Option<i64> {
    let reader = SerializedFileReader::new(File::open(path).ok()?).ok()?;
    Some(reader.metadata().file_metadata().num_rows())
}

fn sample(path: &Path) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(SAMPLE).read_to_end(&mut text).ok()?;
    Some(text)
}

fn bytes_per_line(text: &[u8]) -> f64 {
    let lines = text.iter().filter(|byte| **byte == b'\n').count();
    text.len() as f64 / lines.max(1) as f64
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn opened(name: &str) -> Outcome<Input> {
        Input::open(name, &CsvArgs::default(), &[])
    }

    #[test]
    fn options_and_names_stand_behind_a_csv_file() {
        let csv = CsvArgs { delimiter: Some('\''), quote: None, no_header: true, null: Some("n/a".into()) };
        let select = |name: &str| Input::open(name, &csv, &["a\"b".to_string()]).unwrap().select();
        assert_eq!(
            select("file:///x.csv"),
            "SELECT * FROM 'file:///x.csv' OPTIONS (delimiter '''', header false, null 'n/a') AS file (\"a\"\"b\")"
        );
        assert_eq!(select("file:///x.json"), "SELECT * FROM 'file:///x.json'");
    }

    #[test]
    fn a_path_cannot_break_out_of_its_quotes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("it's; DROP FRAME x.csv");
        File::create(&path).unwrap().write_all(b"a\n1\n").unwrap();
        let select = opened(path.to_str().unwrap()).unwrap().select();
        assert!(select.ends_with("it''s; DROP FRAME x.csv'"), "{select}");
        assert!(select.starts_with("SELECT * FROM '/"), "{select}");
    }

    #[test]
    fn what_cannot_be_ingested_is_refused_with_advice() {
        let folder = tempfile::tempdir().unwrap();
        let named = folder.path().join("folder.csv");
        std::fs::create_dir(&named).unwrap();
        for (name, advice) in [
            ("data.xlsx".to_owned(), ".ndjson"),
            ("data".to_owned(), ".ndjson"),
            ("no_such_file.csv".to_owned(), "no_such_file.csv"),
            (named.to_str().unwrap().to_owned(), "*.parquet"),
        ] {
            let failure = opened(&name).unwrap_err();
            assert!(matches!(&failure, Failure::Usage(message) if message.contains(advice)), "{failure}");
        }
    }

    #[test]
    fn globs_and_urls_are_left_to_the_engine() {
        assert_eq!(opened("s3://bucket/x.parquet").unwrap().select(), "SELECT * FROM 's3://bucket/x.parquet'");
        assert_eq!(opened("no_such_folder/*.csv").unwrap().bytes, None);
    }

    #[test]
    fn rows_tell_the_position_and_never_pass_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.CSV");
        File::create(&path).unwrap().write_all(b"1234567\n1234567\n").unwrap();
        let input = opened(path.to_str().unwrap()).unwrap();
        assert_eq!((input.position(0), input.position(1), input.position(100)), (0, 8, 16));
    }
}
