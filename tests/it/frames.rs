//! Frames through their lives: versions, checkpoints, schema rules, names, and what others may have put into a ledger.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use apiary::storage::faulty::{Faults, Faulty};
use apiary::storage::{LocalBackend, Meadow, StorageBackend};
use apiary::{AsOf, ErrorKind, Placement, WriteMode};
use arrow::array::{ArrayRef, Int8Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use tempfile::TempDir;
use tokio::runtime::{Handle, Runtime};

use crate::support::{
    Place, Running, ask, batch, both, files, folder, integers, name, numbers, read, refusal, rows, run, settings,
    start, values, write,
};

#[test]
fn every_version_can_be_read_by_number_and_by_time() {
    let folder = folder();
    let colony = start(settings(&folder));
    let before = moment();
    run(&colony, "CREATE FRAME t (x BIGINT)");
    write(&colony, "t", numbers(0..3), WriteMode::Append).unwrap();
    let between = moment();
    let overwritten = write(&colony, "t", numbers(10..12), WriteMode::Overwrite).unwrap();
    assert_eq!((overwritten.version, overwritten.rows), (2, 2));

    let at = |as_of| read(&colony, "t", as_of);
    assert!(at(AsOf::Version(0)).unwrap().is_empty());
    assert_eq!(at(AsOf::Version(1)).unwrap(), [0, 1, 2]);
    assert_eq!(at(AsOf::Timestamp(between)).unwrap(), [0, 1, 2]);
    assert_eq!(at(AsOf::Version(2)).unwrap(), [10, 11]);
    assert_eq!(at(AsOf::Latest).unwrap(), [10, 11]);
    assert_eq!(refusal(at(AsOf::Version(3))), ErrorKind::NotFound);
    assert_eq!(refusal(at(AsOf::Timestamp(before))), ErrorKind::NotFound);
}

#[test]
fn many_frames_are_looked_up_at_once() {
    let folder = folder();
    let frames = 40;
    {
        let colony = start(settings(&folder));
        (0..frames).for_each(|n| drop(run(&colony, &format!("CREATE FRAME t{n} (x BIGINT)"))));
    }
    // Nothing is remembered of them: each lookup reads its ledger, all at the same time.
    for _ in 0..5 {
        let colony = start(settings(&folder));
        let columns = "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'default'";
        assert_eq!(integers(&run(&colony, columns), 0), [frames]);
    }
}

#[test]
fn history_tells_what_each_commit_did() {
    let folder = folder();
    let colony = start(settings(&folder));
    run(&colony, "CREATE FRAME t (x BIGINT)");
    write(&colony, "t", numbers(0..3), WriteMode::Append).unwrap();
    write(&colony, "t", numbers(10..12), WriteMode::Overwrite).unwrap();
    let history = colony.block_on(colony.history(&name("t"), None)).unwrap();
    let told: Vec<(u64, &str, Option<u64>)> =
        history.iter().map(|entry| (entry.version, entry.operation.as_str(), entry.rows)).collect();
    assert_eq!(told, [(2, "WRITE", Some(2)), (1, "WRITE", Some(3)), (0, "CREATE TABLE", None)]);
    assert!(history[0].cells_added > 0 && history[0].cells_removed == history[1].cells_added);
    assert!(history[0].engine.starts_with("apiary/"));
    assert_eq!(colony.block_on(colony.history(&name("t"), Some(1))).unwrap().len(), 1);
}

#[test]
fn a_checkpoint_stands_for_the_entries_before_it() {
    let folder = folder();
    let colony = start(settings(&folder));
    run(&colony, "CREATE FRAME t (x BIGINT)");
    for append in 0..12 {
        write(&colony, "t", numbers(append * 3..append * 3 + 3), WriteMode::Append).unwrap();
    }
    let ledger = ledger_of(&folder, "t");
    let hint = fs::read(ledger.join("_last_checkpoint")).unwrap();
    let hint: serde_json::Value = serde_json::from_slice(&hint).unwrap();
    let checkpoint = hint["version"].as_u64().unwrap();
    assert!(checkpoint >= 9, "the last checkpoint is of version {checkpoint}");
    for version in 0..checkpoint {
        fs::remove_file(entry_of(&folder, "t", version)).unwrap();
    }
    let reader = start(settings(&folder));
    assert_eq!(values(&reader, "t"), (0..36).collect::<Vec<i64>>());
}

#[test]
fn a_reader_keeps_its_version_while_others_overwrite() {
    let folder = folder();
    let (reader, writer) = (start(settings(&folder)), start(settings(&folder)));
    run(&reader, "CREATE FRAME t (x BIGINT)");
    write(&reader, "t", numbers(0..100_000), WriteMode::Append).unwrap();
    let opened = reader.block_on(reader.read(&name("t"), None, AsOf::Latest)).unwrap();
    write(&writer, "t", numbers(0..1), WriteMode::Overwrite).unwrap();
    let seen = integers(&reader.block_on(opened.collect()).unwrap(), 0);
    assert_eq!((seen.len(), seen.iter().sum::<i64>()), (100_000, 4_999_950_000));
    assert_eq!(values(&reader, "t"), [0]);
}

#[test]
fn rows_that_do_not_fit_are_refused_and_leave_nothing_behind() {
    let folder = folder();
    let colony = start(settings(&folder));
    create_people(&colony);
    let refused = [
        ("an unknown column", batch(vec![("id", longs(&[Some(1)])), ("age", longs(&[Some(1)]))])),
        ("another type", batch(vec![("id", texts(&["one"]))])),
        ("a required column is missing", batch(vec![("name", texts(&["ann"]))])),
        ("a null where none may be", batch(vec![("id", longs(&[Some(1), None]))])),
    ];
    for (what, rows) in refused {
        assert_eq!(refusal(write(&colony, "people", rows, WriteMode::Append)), ErrorKind::Schema, "{what}");
    }
    assert_eq!(colony.block_on(colony.describe(&name("people"))).unwrap().version, 0);
    assert_eq!(files(folder.path(), ".parquet"), 0);
}

#[test]
fn narrower_rows_are_widened_and_missing_columns_are_null() {
    let folder = folder();
    let colony = start(settings(&folder));
    create_people(&colony);
    let narrow = batch(vec![("ID", Arc::new(Int8Array::from(vec![1, 2])) as ArrayRef)]);
    write(&colony, "people", narrow, WriteMode::Append).unwrap();
    let answer = run(&colony, "SELECT sum(id), count(*), count(name) FROM people");
    assert_eq!((integers(&answer, 0), integers(&answer, 1), integers(&answer, 2)), (vec![3], vec![2], vec![0]));
}

#[test]
fn a_null_in_a_partition_column_is_refused_and_takes_the_whole_write_with_it() {
    let folder = folder();
    let colony = start(settings(&folder));
    run(&colony, "CREATE FRAME sales (region VARCHAR, x BIGINT) PARTITIONED BY (region)");
    let good = batch(vec![("region", texts(&["eu", "us"])), ("x", longs(&[Some(1), Some(2)]))]);
    let null = Arc::new(StringArray::from(vec![Some("eu"), None])) as ArrayRef;
    let bad = batch(vec![("region", null), ("x", longs(&[Some(3), Some(4)]))]);
    let batches = rows(vec![good.clone(), bad]);
    let written = colony.block_on(colony.write(&name("sales"), batches, WriteMode::Append));
    assert_eq!(refusal(written), ErrorKind::Schema);
    assert_eq!(files(folder.path(), ".parquet"), 0);
    write(&colony, "sales", good, WriteMode::Append).unwrap();
    assert_eq!(files(&folder.path().join("default/default/sales/region=eu"), ".parquet"), 1);
    assert_eq!(integers(&run(&colony, "SELECT sum(x) FROM sales WHERE region = 'us'"), 0), [2]);
}

#[test]
fn of_two_creators_one_creates_and_the_other_is_told() {
    let folder = folder();
    let (a, b) = (start(settings(&folder)), start(settings(&folder)));
    for round in 0..20 {
        let frame = format!("f{round}");
        let results = both(&a, &b, |colony| ask(colony, &format!("CREATE FRAME {frame} (x BIGINT)")));
        let refusals: Vec<ErrorKind> =
            results.into_iter().filter_map(|result| result.err()).map(|error| error.kind()).collect();
        assert_eq!(refusals, [ErrorKind::AlreadyExists], "round {round}");
        write(&a, &frame, numbers(0..3), WriteMode::Append).unwrap();
        assert_eq!(values(&b, &frame), [0, 1, 2]);
    }
}

#[test]
fn two_creators_who_allow_each_other_both_go_on() {
    let folder = folder();
    let (a, b) = (start(settings(&folder)), start(settings(&folder)));
    for round in 0..20 {
        let frame = format!("f{round}");
        let results = both(&a, &b, |colony| {
            ask(colony, &format!("CREATE FRAME IF NOT EXISTS {frame} (x BIGINT)"))?;
            ask(colony, &format!("INSERT INTO {frame} VALUES (1)"))
        });
        for result in results {
            result.unwrap();
        }
        assert_eq!(values(&a, &frame), [1, 1], "round {round}");
    }
}

#[test]
fn a_reader_who_finds_a_frame_half_made_does_not_spoil_its_making() {
    let folder = folder();
    Runtime::new().unwrap().block_on(async {
        let store = LocalBackend::open(folder.path()).unwrap().store();
        let slowly = Faults { delay: Duration::from_millis(20), ..Faults::default() };
        let slow = Place(Arc::new(Faulty::new(Arc::clone(&store), slowly, 1)));
        let maker = Meadow::open_backend(Arc::new(slow), false, Handle::current()).await.unwrap();
        let reader = Meadow::open_backend(Arc::new(Place(store)), false, Handle::current()).await.unwrap();
        let (frame, schema) = (name("f"), numbers(0..0).schema());
        let seen = async {
            loop {
                match reader.state(&frame, AsOf::Latest).await {
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    other => return other.unwrap().version(),
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let placement = Placement::default();
        let (made, seen) = tokio::join!(maker.create_frame(&frame, &schema, &placement, false), seen);
        assert!(made.unwrap());
        assert_eq!(seen, 0);
    });
}

#[test]
fn a_frame_whose_creator_died_before_the_ledger_is_made_by_its_first_reader() {
    let folder = folder();
    let colony = start(settings(&folder));
    run(&colony, "CREATE FRAME t (x BIGINT)");
    drop(colony);
    fs::remove_dir_all(folder.path().join("default/default/t")).unwrap();
    let colony = start(settings(&folder));
    assert!(values(&colony, "t").is_empty());
    write(&colony, "t", numbers(0..2), WriteMode::Append).unwrap();
    assert_eq!(values(&colony, "t"), [0, 1]);
}

#[test]
fn names_are_made_and_dropped_as_the_statement_says() {
    let folder = folder();
    let colony = start(settings(&folder));
    for sql in ["CREATE HIVE h", "CREATE BOX h.b", "CREATE FRAME h.b.f (x BIGINT)"] {
        run(&colony, sql);
        assert_eq!(refusal(ask(&colony, sql)), ErrorKind::AlreadyExists, "{sql}");
        run(&colony, &sql.replacen(" h", " IF NOT EXISTS h", 1));
    }
    for sql in ["DROP BOX h.b", "DROP HIVE h"] {
        assert_eq!(refusal(ask(&colony, sql)), ErrorKind::InvalidInput, "{sql}");
    }
    write(&colony, "h.b.f", numbers(0..3), WriteMode::Append).unwrap();
    run(&colony, "DROP FRAME h.b.f");
    assert_eq!(refusal(ask(&colony, "DROP FRAME h.b.f")), ErrorKind::NotFound);
    run(&colony, "DROP FRAME IF EXISTS h.b.f");
    assert_eq!(files(&folder.path().join("h"), ""), 0);

    run(&colony, "CREATE FRAME h.b.f (y VARCHAR)");
    run(&colony, "INSERT INTO h.b.f VALUES ('a'), ('b')");
    assert_eq!(integers(&run(&colony, "SELECT count(y) FROM h.b.f"), 0), [2]);

    run(&colony, "DROP HIVE h CASCADE");
    assert_eq!(refusal(ask(&colony, "SELECT * FROM h.b.f")), ErrorKind::NotFound);
    assert_eq!(refusal(ask(&colony, "CREATE BOX h.b")), ErrorKind::NotFound);
    assert_eq!(files(&folder.path().join("h"), ""), 0);
}

#[test]
fn a_frame_that_another_colony_dropped_is_gone() {
    let folder = folder();
    let (a, b) = (start(settings(&folder)), start(settings(&folder)));
    run(&a, "CREATE FRAME t (x BIGINT)");
    write(&a, "t", numbers(0..3), WriteMode::Append).unwrap();
    assert_eq!(values(&b, "t"), [0, 1, 2]);
    run(&a, "DROP FRAME t");
    assert_eq!(refusal(ask(&b, "SELECT count(*) FROM t")), ErrorKind::NotFound);
    assert_eq!(refusal(write(&b, "t", numbers(0..1), WriteMode::Append)), ErrorKind::NotFound);
}

#[test]
fn a_frame_that_another_colony_made_anew_is_read_and_written_anew() {
    let folder = folder();
    let (a, b) = (start(settings(&folder)), start(settings(&folder)));
    // What the other colony knows of the frame before: nothing, more versions than there are now, as many, and fewer.
    for (round, appends) in [1, 1, 2, 4].into_iter().enumerate() {
        run(&a, "CREATE FRAME t (x BIGINT)");
        for append in 0..appends {
            write(&a, "t", numbers(append..append + 1), WriteMode::Append).unwrap();
        }
        let there: Vec<i64> = (0..appends).collect();
        assert_eq!(values(&b, "t"), there, "round {round}");
        write(&b, "t", numbers(9..10), WriteMode::Append).unwrap();
        assert_eq!(values(&a, "t"), [there, vec![9]].concat(), "round {round}");
        run(&a, "DROP FRAME t");
    }
}

#[test]
fn a_cell_outside_its_frame_is_refused() {
    let folder = folder();
    let colony = start(settings(&folder));
    let outside = ["../other/cell.parquet", "%2e%2e/other/cell.parquet", "/etc/passwd", "file:///etc/passwd"];
    for (number, path) in outside.into_iter().enumerate() {
        let frame = format!("f{number}");
        run(&colony, &format!("CREATE FRAME {frame} (x BIGINT)"));
        let add = serde_json::json!({
            "add": {"path": path, "partitionValues": {}, "size": 1, "modificationTime": 0, "dataChange": true}
        });
        fs::write(entry_of(&folder, &frame, 1), add.to_string()).unwrap();
        assert_eq!(refusal(read(&colony, &frame, AsOf::Latest)), ErrorKind::Corrupt, "{path}");
    }
}

#[test]
fn a_damaged_ledger_is_an_error_and_no_panic() {
    let folder = folder();
    let writer = start(settings(&folder));
    run(&writer, "CREATE FRAME t (x BIGINT)");
    write(&writer, "t", numbers(0..3), WriteMode::Append).unwrap();
    let entry = entry_of(&folder, "t", 1);
    let whole = fs::read(&entry).unwrap();
    let damages = [
        ("cut short", whole[..whole.len() - 10].to_vec()),
        ("not JSON", b"{\"add\": nonsense}".to_vec()),
        ("not text", vec![0xff; 64]),
    ];
    for (what, bytes) in damages {
        fs::write(&entry, bytes).unwrap();
        let reader = start(settings(&folder));
        let kind = refusal(read(&reader, "t", AsOf::Latest));
        assert!(matches!(kind, ErrorKind::Corrupt | ErrorKind::Storage), "{what}: {kind:?}");
        assert_eq!(integers(&run(&reader, "SELECT 1"), 0), [1], "{what}");
    }
    fs::write(&entry, whole).unwrap();
    assert_eq!(values(&start(settings(&folder)), "t"), [0, 1, 2]);
}

#[test]
fn a_meadow_of_a_newer_format_is_not_opened() {
    let folder = folder();
    drop(start(settings(&folder)));
    let path = folder.path().join("_apiary.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["format"] = 1_000.into();
    fs::write(&path, record.to_string()).unwrap();
    let url = folder.path().to_string_lossy().into_owned();
    let opened = Runtime::new().unwrap().block_on(async {
        let options = BTreeMap::new();
        Meadow::open(&url, &options, Handle::current()).await
    });
    assert_eq!(refusal(opened), ErrorKind::Unsupported);
}

/// `id` may not be null, `name` may.
fn create_people(colony: &Running) {
    let fields = vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, true)];
    let schema = Arc::new(Schema::new(fields));
    colony.block_on(colony.create_frame(&name("people"), schema, Vec::new(), false)).unwrap();
}

fn longs(values: &[Option<i64>]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

/// A time that is clearly after what was written and before what will be: file times are coarse.
fn moment() -> i64 {
    std::thread::sleep(Duration::from_millis(50));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    now.as_millis() as i64
}

fn ledger_of(folder: &TempDir, frame: &str) -> PathBuf {
    folder.path().join("default/default").join(frame).join("_delta_log")
}

fn entry_of(folder: &TempDir, frame: &str, version: u64) -> PathBuf {
    ledger_of(folder, frame).join(format!("{version:020}.json"))
}
