//! The command line: what it takes, how it explains itself, and how it becomes [`Settings`].

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use apiary::actors::Spill;
use apiary::size::parse_size;
use apiary::sql::Distribute;
use apiary::{BoxName, FrameRef, HiveName, Settings};
use clap::{Args, Parser, Subcommand};

use crate::failure::{Failure, Outcome};
use crate::output::Format;

const EXAMPLES: &str = "\
Examples:
  apiary-node demo                                      see it work: TPC-H data, 22 queries
  apiary-node sql 'SELECT 1 + 1'                        ask something
  apiary-node shell                                     ask one thing after the other
  apiary-node ingest readings.csv --into home.iot.readings
  apiary-node sql 'SELECT sensor, avg(celsius) FROM home.iot.readings GROUP BY sensor'
  apiary-node sql \"SELECT count(*) FROM 'logs/*.parquet'\"  files need not be ingested
  apiary-node frames                                    what is there
  apiary-node --storage s3://bucket/meadow --bees 4 --memory 2GB run
  apiary-node --storage s3://bucket/meadow swarm        which nodes share it

A meadow is a folder or a bucket that holds everything. In it a hive holds boxes and a box holds
frames (in SQL: catalog, schema, table). A bee is one worker thread with its share of the memory.

Exit codes: 0 success, 1 the query or its data are wrong, 2 usage, 3 storage or permission,
4 busy, out of time or out of memory, 130 cancelled. APIARY_LOG=info (or debug) logs to stderr.";

/// A lakehouse for small compute: SQL and ACID tables over a folder or a bucket.
#[derive(Parser)]
#[command(name = "apiary-node", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command takes. No `Debug`: values of storage options can be secrets.
#[derive(Args)]
#[command(next_help_heading = "Node")]
pub(crate) struct NodeArgs {
    /// Where the meadow is: a folder, file://, s3://, gs://, az:// or memory:// [default: ~/apiary]
    #[arg(long, global = true, value_name = "URL", env = "APIARY_STORAGE", hide_env_values = true)]
    storage: Option<String>,
    /// Worker threads, each with its share of the memory [default: one per CPU core]
    #[arg(long, global = true, value_name = "N", env = "APIARY_BEES")]
    bees: Option<usize>,
    /// Memory of all bees together, like 512MB or 2GB [default: half of the machine's]
    #[arg(long, global = true, value_name = "SIZE", env = "APIARY_MEMORY", value_parser = parse_size)]
    memory: Option<u64>,
    /// Folder that keeps what was read of cells in a bucket, so that it is read once [default: none]
    #[arg(long, global = true, value_name = "DIR", env = "APIARY_CACHE")]
    cache: Option<PathBuf>,
    /// Most bytes in that folder, like 10GB [default: 4GB]
    #[arg(long, global = true, value_name = "SIZE", env = "APIARY_CACHE_LIMIT", value_parser = parse_size)]
    cache_limit: Option<u64>,
    /// Folder where queries put what does not fit into memory [default: the system's temporary folder]
    #[arg(long, global = true, value_name = "DIR", env = "APIARY_SCRATCH")]
    scratch: Option<PathBuf>,
    /// Most bytes there at a time by operators, and as many between stages, like 20GB [default: 10GB]
    #[arg(long, global = true, value_name = "SIZE", env = "APIARY_SCRATCH_LIMIT", value_parser = parse_size)]
    scratch_limit: Option<u64>,
    /// Whether they may put anything there: disk or none [default: disk]
    #[arg(long, global = true, value_name = "POLICY", env = "APIARY_SPILL")]
    spill: Option<Spill>,
    /// Most bytes that they and the cache write to this machine's disk in 24 hours [default: no limit]
    #[arg(long, global = true, value_name = "SIZE", env = "APIARY_DISK_WRITES_PER_DAY", value_parser = parse_size)]
    disk_writes_per_day: Option<u64>,
    /// Setting of the storage, like endpoint=http://host:9000, region=eu-central-1, path_style=true or
    /// allow_http=true; may be repeated. Better leave keys to the environment: others can read a command line
    #[arg(long = "storage-option", global = true, value_name = "KEY=VALUE")]
    storage_options: Vec<String>,
}

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run one SQL statement and print its result
    Sql(SqlArgs),
    /// Type statements one after the other, or give them on stdin
    Shell(ShellArgs),
    /// Load Parquet, CSV or JSON files into a frame, as one commit
    Ingest(IngestArgs),
    /// Run a colony until Ctrl-C or a termination signal
    Run(RunArgs),
    /// Show the nodes that share the meadow
    Swarm(SwarmArgs),
    /// List the frames of the meadow
    Frames(FramesArgs),
    /// Show the columns, size and last commits of a frame
    Describe(DescribeArgs),
    /// Generate benchmark data
    #[command(subcommand)]
    Generate(Dataset),
    /// Generate TPC-H data if it is missing, run its 22 queries and show what they took
    Demo(DemoArgs),
    /// Print a TPC-H query
    #[command(hide = true)]
    TpchQuery(TpchQueryArgs),
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  apiary-node sql 'SHOW FRAMES'
  apiary-node sql 'SELECT * FROM home.iot.readings LIMIT 10' --format json
  apiary-node sql \"SELECT region, count(*) FROM 'sales/*.csv' GROUP BY region\" --format csv
  apiary-node sql 'EXPLAIN ANALYZE SELECT max(celsius) FROM home.iot.readings'
  apiary-node sql - < query.sql")]
pub(crate) struct SqlArgs {
    /// The statement, or - to read it from stdin
    #[arg(value_name = "SQL", allow_hyphen_values = true)]
    pub(crate) statement: String,
    /// How rows are written
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    /// Whether other nodes of the swarm may take part: auto (when that is expected to be faster), always or never
    #[arg(long, value_name = "WHEN", env = "APIARY_DISTRIBUTE")]
    distribute: Option<Distribute>,
}

#[derive(Args)]
#[command(after_help = "\
Statements end with a semicolon. At a terminal lines are edited, remembered and completed (Tab), Ctrl-C cancels the
statement that runs, and .help shows the shell's own commands. From a pipe, the first error ends the shell.

Examples:
  apiary-node shell
  apiary-node shell --format csv < report.sql")]
pub(crate) struct ShellArgs {
    /// How rows are written
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Args)]
#[command(after_help = "\
The hive, the box and the frame are made when they are missing; the schema then comes from the files.
All files of one call become one commit: readers see all of it or nothing.

Examples:
  apiary-node ingest day1.parquet day2.parquet --into home.iot.readings
  apiary-node ingest sales.csv --into shop.raw.sales --partition-by country,year
  apiary-node ingest products.json --into shop.raw.products --overwrite
  apiary-node ingest 'exports/**/*.csv' --into shop.raw.sales --delimiter ';' --null NA")]
pub(crate) struct IngestArgs {
    /// Files: .parquet, .csv, .tsv, or one JSON object per line in .json, .ndjson, .jsonl
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<String>,
    /// The frame that gets the rows
    #[arg(long, value_name = "HIVE.BOX.FRAME")]
    pub(crate) into: FrameRef,
    /// Columns whose values split the frame into folders; for a frame that is new
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub(crate) partition_by: Vec<String>,
    /// Replace the frame's rows instead of adding to them
    #[arg(long)]
    pub(crate) overwrite: bool,
    #[command(flatten)]
    pub(crate) csv: CsvArgs,
}

/// How CSV files are read.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "CSV files")]
pub(crate) struct CsvArgs {
    /// The character between values, or tab [default: a comma; a tab in .tsv]
    #[arg(long, value_name = "CHAR", value_parser = one_byte)]
    pub(crate) delimiter: Option<char>,
    /// The character around values that have delimiters in them [default: "]
    #[arg(long, value_name = "CHAR", value_parser = one_byte)]
    pub(crate) quote: Option<char>,
    /// The first line has values, not names: columns are those of the frame in order, or column_1, column_2, …
    #[arg(long)]
    pub(crate) no_header: bool,
    /// What stands for no value, besides nothing at all
    #[arg(long, value_name = "TEXT")]
    pub(crate) null: Option<String>,
}

fn one_byte(text: &str) -> Result<char, String> {
    let mut characters = text.chars();
    match (text, characters.next(), characters.next()) {
        ("\\t" | "tab", ..) => Ok('\t'),
        (_, Some(one), None) if one.is_ascii() => Ok(one),
        _ => Err("use one character of ASCII, or tab".into()),
    }
}

#[derive(Args)]
#[command(after_help = "\
The node takes tasks of queries that other nodes ask over the same meadow. Nothing else is configured: nodes find
each other in the meadow and never talk directly.

Examples:
  apiary-node --storage s3://bucket/meadow run --name attic --bees 4 --memory 2GB
  apiary-node --storage s3://bucket/meadow swarm             who is there
  apiary-node --storage s3://bucket/meadow sql 'SELECT …' --distribute always")]
pub(crate) struct RunArgs {
    /// Name of this node [default: host name]
    #[arg(long)]
    name: Option<String>,
    /// Leave small cells and what no version needs as they are
    #[arg(long)]
    no_housekeeping: bool,
}

#[derive(Args)]
pub(crate) struct SwarmArgs {
    /// How rows are written
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Args)]
pub(crate) struct FramesArgs {
    /// How rows are written
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Args)]
pub(crate) struct DescribeArgs {
    /// The frame
    #[arg(value_name = "HIVE.BOX.FRAME")]
    pub(crate) frame: FrameRef,
}

#[cfg(test)]
impl SqlArgs {
    pub(crate) fn new(statement: &str) -> Self {
        Self { statement: statement.into(), format: Format::Table, distribute: None }
    }
}

/// Data that can be generated.
#[derive(Subcommand)]
pub(crate) enum Dataset {
    /// The eight tables of TPC-H
    Tpch(TpchArgs),
}

#[derive(Args)]
#[command(after_help = "\
Each table is one commit. A table that has its rows already is left as it is, so an interrupted call can be
repeated.

Examples:
  apiary-node generate tpch --scale 1                       into tpch.sf1
  apiary-node generate tpch --scale 0.1 --into bench.small
  apiary-node generate tpch --scale 1 --parquet /tmp/sf1    only plain files, for other engines")]
pub(crate) struct TpchArgs {
    /// Scale factor: 1 is about 1 GB of raw data, 8.7 million rows
    #[arg(long, value_name = "N", value_parser = parse_scale)]
    pub(crate) scale: f64,
    /// The box that gets the tables [default: tpch.sf<N>]
    #[arg(long, value_name = "HIVE.BOX")]
    pub(crate) into: Option<BoxRef>,
    /// Write plain Parquet files here, <DIR>/<table>.parquet; frames too only if --into is given
    #[arg(long, value_name = "DIR")]
    pub(crate) parquet: Option<PathBuf>,
}

impl TpchArgs {
    /// The box for the frames; `None` when only files are wanted.
    pub(crate) fn target(&self) -> Outcome<Option<BoxRef>> {
        match (&self.into, &self.parquet) {
            (Some(target), _) => Ok(Some(target.clone())),
            (None, Some(_)) => Ok(None),
            (None, None) => BoxRef::for_tpch(self.scale).map(Some),
        }
    }
}

#[derive(Args)]
pub(crate) struct DemoArgs {
    /// Scale factor of the data: 1 is about 1 GB of raw data
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_scale)]
    pub(crate) scale: f64,
}

#[derive(Args)]
pub(crate) struct TpchQueryArgs {
    /// Number of the query
    #[arg(value_parser = clap::value_parser!(u8).range(1..=22))]
    pub(crate) number: u8,
}

impl Cli {
    /// The settings of the colony that this call asks for.
    ///
    /// # Errors
    /// [`Failure::Usage`] when they cannot be used; it never shows the value of a storage option.
    pub(crate) fn settings(&self) -> Outcome<Settings> {
        let mut settings = self.node.storage.as_ref().map_or_else(Settings::default, Settings::new);
        if let Some(bees) = self.node.bees {
            settings = settings.with_bees(bees);
        }
        if let Some(bytes) = self.node.memory {
            settings = settings.with_memory(bytes);
        }
        if let Some(folder) = &self.node.cache {
            settings = settings.with_cache(folder);
        }
        settings.cache_limit = self.node.cache_limit.unwrap_or(settings.cache_limit);
        settings.scratch.clone_from(&self.node.scratch);
        settings.scratch_limit = self.node.scratch_limit.unwrap_or(settings.scratch_limit);
        settings.spill = self.node.spill.unwrap_or_default();
        settings.disk_writes_per_day = self.node.disk_writes_per_day;
        // What ends with its one answer keeps no house.
        settings = settings.with_housekeeping(false);
        match &self.command {
            Command::Run(RunArgs { name, no_housekeeping }) => {
                settings = settings.with_join(true).with_housekeeping(!no_housekeeping);
                if let Some(name) = name {
                    settings = settings.with_name(name);
                }
            }
            Command::Sql(SqlArgs { distribute: Some(distribute), .. }) => {
                settings = settings.with_distribute(*distribute);
            }
            _ => {}
        }
        for option in &self.node.storage_options {
            let (key, value) = key_and_value(option)?;
            settings = settings.with_storage_option(key, value);
        }
        settings.validate().map_err(Failure::of_settings)?;
        Ok(settings)
    }
}

/// Splits `KEY=VALUE`. Not a value parser of clap, which would print the whole text when it is wrong.
fn key_and_value(option: &str) -> Outcome<(&str, &str)> {
    match option.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim(), value)),
        _ => Err(Failure::Usage("a --storage-option is not KEY=VALUE: write it like region=eu-central-1".into())),
    }
}

/// `hive.box`: where generated tables go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BoxRef {
    pub(crate) hive: HiveName,
    pub(crate) box_: BoxName,
}

impl BoxRef {
    /// `tpch.sf<scale>`, with `_` for the point.
    pub(crate) fn for_tpch(scale: f64) -> Outcome<Self> {
        let box_ = format!("sf{scale}").replace('.', "_");
        format!("tpch.{box_}").parse().map_err(Failure::of_settings)
    }
}

impl fmt::Display for BoxRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.hive, self.box_)
    }
}

impl FromStr for BoxRef {
    type Err = apiary::Error;

    fn from_str(text: &str) -> apiary::Result<Self> {
        match text.split('.').collect::<Vec<_>>()[..] {
            [hive, box_] => Ok(Self { hive: HiveName::new(hive)?, box_: BoxName::new(box_)? }),
            _ => Err(apiary::Error::invalid(format!("'{text}' is not a box: write hive.box"))),
        }
    }
}

/// Least scale factor: ten suppliers. The generator divides by a quarter of their number.
const MIN_SCALE: f64 = 0.001;

/// Greatest scale factor the benchmark defines.
const MAX_SCALE: f64 = 100_000.0;

fn parse_scale(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(scale) if (MIN_SCALE..=MAX_SCALE).contains(&scale) => Ok(scale),
        _ => Err(format!("use a number from {MIN_SCALE} to {MAX_SCALE}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("apiary-node").chain(line.split_whitespace()))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn node_options_stand_before_or_after_the_command() {
        for line in
            ["--storage memory:// --bees 2 --memory 1GB frames", "frames --storage memory:// --bees 2 --memory 1GB"]
        {
            let settings = parse(line).unwrap().settings().unwrap();
            assert_eq!(settings.storage, "memory://");
            assert_eq!((settings.bees, settings.memory), (Some(2), Some(1 << 30)));
        }
    }

    #[test]
    fn storage_options_reach_the_settings_and_no_message() {
        let cli =
            parse("--storage-option region=r --storage-option secret_key=a=b frames --bees 1 --memory 1GB").unwrap();
        let settings = cli.settings().unwrap();
        assert_eq!(settings.storage_options["region"], "r");
        assert_eq!(settings.storage_options["secret_key"], "a=b");

        let failure = parse("--storage-option hunter2 frames").unwrap().settings().unwrap_err();
        assert!(matches!(failure, Failure::Usage(_)));
        assert!(!failure.to_string().contains("hunter2"), "{failure}");
    }

    #[test]
    fn settings_that_cannot_be_used_are_usage_errors() {
        assert!(matches!(parse("--bees 0 frames").unwrap().settings(), Err(Failure::Usage(_))));
        assert!(matches!(parse("--bees 4 --memory 1MB frames").unwrap().settings(), Err(Failure::Usage(_))));
        assert!(parse("--memory much frames").is_err());
    }

    #[test]
    fn names_are_checked_before_anything_runs() {
        assert!(parse("describe a.b.c").is_ok());
        assert!(parse("describe a.b.c.d").is_err());
        assert!(parse("ingest x.csv --into ../x").is_err());
        assert!(parse("ingest --into a.b.c").is_err());
        assert!(parse("generate tpch --scale 1 --into a.b.c").is_err());
    }

    #[test]
    fn ingest_takes_several_files_and_columns() {
        let cli = parse("ingest a.csv b.csv --into h.b.f --partition-by x,y --overwrite").unwrap();
        let Command::Ingest(args) = cli.command else { unreachable!() };
        assert_eq!(args.files, ["a.csv", "b.csv"]);
        assert_eq!(args.partition_by, ["x", "y"]);
        assert!(args.overwrite);
    }

    #[test]
    fn the_box_of_a_scale_has_a_valid_name() {
        assert_eq!(BoxRef::for_tpch(1.0).unwrap().to_string(), "tpch.sf1");
        assert_eq!(BoxRef::for_tpch(0.01).unwrap().to_string(), "tpch.sf0_01");
        assert_eq!(BoxRef::for_tpch(100.0).unwrap().to_string(), "tpch.sf100");
    }

    #[test]
    fn scales_outside_the_benchmark_are_refused() {
        for text in ["0", "-1", "nan", "inf", "0.0001", "1e9", "x"] {
            assert!(parse_scale(text).is_err(), "{text}");
        }
        assert_eq!(parse_scale("0.1"), Ok(0.1));
    }

    #[test]
    fn only_files_are_written_when_only_files_are_asked_for() {
        let target = |line: &str| {
            let Command::Generate(Dataset::Tpch(args)) = parse(line).unwrap().command else { unreachable!() };
            args.target().unwrap().map(|target| target.to_string())
        };
        assert_eq!(target("generate tpch --scale 1"), Some("tpch.sf1".into()));
        assert_eq!(target("generate tpch --scale 1 --parquet /tmp/x"), None);
        assert_eq!(target("generate tpch --scale 1 --parquet /tmp/x --into a.b"), Some("a.b".into()));
    }
}
