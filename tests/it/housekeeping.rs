//! What a node does by itself when it has nothing else to do.

use std::time::Duration;

use apiary::storage::{LocalBackend, Meadow, StorageBackend};
use apiary::{AsOf, Colony, Settings, WriteMode};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use tempfile::TempDir;
use tokio::runtime::{Handle, Runtime};

use crate::support::{Place, files, folder, integers, name, numbers, run, settings, start, until, values, write};

/// Commits of one row each.
const COMMITS: i64 = 120;

fn keeping(settings: Settings) -> Settings {
    settings.with_housekeeping(true)
}

fn feed(colony: &Colony, frame: &str) {
    for n in 0..COMMITS {
        write(colony, frame, numbers(n..n + 1), WriteMode::Append).unwrap();
    }
}

fn merges(colony: &Colony, frame: &str) -> usize {
    let history = colony.block_on(colony.history(&name(frame), None)).unwrap();
    history.iter().filter(|entry| entry.operation == "OPTIMIZE").count()
}

fn cells(colony: &Colony, frame: &str) -> usize {
    colony.block_on(colony.describe(&name(frame))).unwrap().cells
}

#[test]
fn many_small_cells_become_few_by_themselves() {
    let folder = folder();
    let colony = start(keeping(settings(&folder)));
    run(&colony, "CREATE FRAME f (x BIGINT)");
    feed(&colony, "f");
    until("the cells are merged", || cells(&colony, "f") < 40);
    assert_eq!(values(&colony, "f"), (0..COMMITS).collect::<Vec<_>>());
    until("the claim is given back", || files(&folder.path().join("_housekeeping"), "merge") == 0);
}

#[test]
fn a_frame_is_left_alone_where_that_is_asked_for() {
    let folder = folder();
    let colony = start(keeping(settings(&folder)));
    run(&colony, "CREATE FRAME f (x BIGINT)");
    run(&colony, "CREATE FRAME g (x BIGINT)");
    run(&colony, "ALTER FRAME f SET HOUSEKEEPING OFF");
    feed(&colony, "f");
    feed(&colony, "g");
    until("the other's cells are merged", || cells(&colony, "g") < 40);
    assert_eq!((merges(&colony, "f"), cells(&colony, "f")), (0, COMMITS as usize));
    run(&colony, "ALTER FRAME f SET HOUSEKEEPING ON");
    run(&colony, "DROP FRAME f");
    assert_eq!(files(&folder.path().join("_housekeeping/default/default/f"), ""), 0);
}

#[test]
fn a_joined_node_keeps_the_house_of_others_and_two_do_no_job_twice() {
    for order in ["", "CLUSTER BY (x)"] {
        let folder = folder();
        let writer = start(settings(&folder));
        run(&writer, &format!("CREATE FRAME f (x BIGINT) {order}"));
        let keepers = [(); 2].map(|()| start(keeping(settings(&folder)).with_join(true)));
        feed(&writer, "f");
        until("the cells are merged", || cells(&writer, "f") < 40);
        std::thread::sleep(Duration::from_millis(600));
        assert_eq!(values(&writer, "f"), (0..COMMITS).collect::<Vec<_>>());
        // Every cell was merged once at most: a job that was done twice would have removed some twice.
        let history = writer.block_on(writer.history(&name("f"), None)).unwrap();
        let (added, removed): (Vec<_>, Vec<_>) = history.iter().map(|e| (e.cells_added, e.cells_removed)).unzip();
        assert_eq!(added.iter().sum::<usize>() - removed.iter().sum::<usize>(), cells(&writer, "f"));
        drop(keepers);
    }
}

#[test]
fn rows_of_a_clustered_frame_come_to_rest_in_order() {
    let folder = folder();
    let colony = start(keeping(settings(&folder)));
    run(&colony, "CREATE FRAME f (x BIGINT) CLUSTER BY (x)");
    for n in 0..COMMITS {
        write(&colony, "f", numbers(n..n + 500), WriteMode::Append).unwrap();
    }
    until("the cells are sorted", || cells(&colony, "f") < 40 && merges(&colony, "f") > 0);
    until("the house is kept", || colony.block_on(colony.status()).unwrap().queries_running == 0);
    // What is sorted is not sorted again, however long it rests.
    std::thread::sleep(Duration::from_millis(600));
    let (before, sorted) = (cells(&colony, "f"), files(&folder.path().join("default"), "-00000000-"));
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!((cells(&colony, "f"), files(&folder.path().join("default"), "-00000000-")), (before, sorted));
    assert_eq!(values(&colony, "f").len(), COMMITS as usize * 500);
}

#[test]
fn optimize_puts_what_overlaps_in_order_and_leaves_the_rest_alone() {
    let folder = folder();
    let colony = start(settings(&folder).with_memory(64 << 20));
    // 32 MB of 4 million numbers: cells of 16 MB, which bees write as the rows come.
    let scattered = "SELECT value * 7919 % 4000037 AS x FROM generate_series(1, 4000000)";
    run(&colony, &format!("CREATE FRAME f CLUSTER BY (x) AS {scattered}"));
    assert!(overlaps(&folder, "f") > 0);
    let optimize = |sql: &str| {
        let done = run(&colony, sql);
        (integers(&done, 5)[0], integers(&done, 6)[0])
    };
    optimize("OPTIMIZE f");
    let sorted = ranges(&folder, "f").len();
    assert!(sorted > 1 && overlaps(&folder, "f") == 0, "{sorted} cells");
    assert_eq!(optimize("OPTIMIZE f"), (0, 0));
    // Others are sorted among themselves where they come after all that are there.
    run(&colony, "INSERT INTO f SELECT 5000000 + value * 7919 % 4000037 FROM generate_series(1, 4000000)");
    let came = ranges(&folder, "f").len() - sorted;
    assert!(overlaps(&folder, "f") > 0);
    assert_eq!(optimize("OPTIMIZE f").1, came as i64);
    assert_eq!((overlaps(&folder, "f"), optimize("OPTIMIZE f")), (0, (0, 0)));
    // Another order is another choice: all of it is to be sorted anew.
    run(&colony, "ALTER FRAME f RENAME COLUMN x TO y");
    assert_eq!(optimize("OPTIMIZE f"), (0, 0));
    assert_eq!(integers(&run(&colony, "SELECT count(DISTINCT y) FROM f"), 0), [8_000_000]);
    let described = colony.block_on(colony.describe(&name("f"))).unwrap();
    assert_eq!(described.cluster_by, ["y"]);
    run(&colony, "ALTER FRAME f CLUSTER BY NONE");
    assert!(colony.block_on(colony.describe(&name("f"))).unwrap().cluster_by.is_empty());
}

/// The least and the greatest `x` of each cell, by what the ledger says.
fn ranges(folder: &TempDir, frame: &str) -> Vec<(i64, i64)> {
    Runtime::new().unwrap().block_on(async {
        let place = Place(LocalBackend::open(folder.path()).unwrap().store());
        let meadow = Meadow::open_backend(std::sync::Arc::new(place), false, Handle::current()).await.unwrap();
        let (_, cells) = meadow.version(&name(frame), AsOf::Latest).await.unwrap();
        let bounds = |which| cells.statistic(which, "x").unwrap().as_primitive::<Int64Type>().values().to_vec();
        let mut ranges: Vec<_> = bounds("minValues").into_iter().zip(bounds("maxValues")).collect();
        ranges.sort_unstable();
        ranges
    })
}

/// Cells that begin before the one before them ends.
fn overlaps(folder: &TempDir, frame: &str) -> usize {
    ranges(folder, frame).windows(2).filter(|pair| pair[1].0 < pair[0].1).count()
}

#[test]
fn what_a_node_works_on_is_shown() {
    let folder = folder();
    let colony = start(settings(&folder));
    let shown = run(&colony, "SELECT count(*) FROM system.queries WHERE statement LIKE 'SELECT count(*) FROM system%'");
    assert_eq!(integers(&shown, 0), [1]);
}

#[test]
fn log_entries_go_when_a_checkpoint_stands_for_them() {
    let folder = folder();
    let colony = start(settings(&folder));
    run(&colony, "CREATE FRAME f (x BIGINT)");
    feed(&colony, "f");
    let log = folder.path().join("default/default/f/_delta_log");
    let before = files(&log, ".json");
    let left = run(&colony, "VACUUM f");
    assert_eq!((left.iter().map(|b| b.num_rows()).sum::<usize>(), files(&log, ".json")), (0, before));
    // As if they were written a year ago, but for the last few.
    let age = std::time::SystemTime::now() - Duration::from_secs(365 * 24 * 3600);
    for entry in std::fs::read_dir(&log).unwrap() {
        let path = entry.unwrap().path();
        let version = path.file_name().unwrap().to_string_lossy().get(..20).and_then(|v| v.parse::<i64>().ok());
        if version.is_some_and(|version| version < COMMITS - 5) {
            std::fs::File::options().append(true).open(&path).unwrap().set_modified(age).unwrap();
        }
    }
    let dry = run(&colony, "VACUUM f DRY RUN").iter().map(|b| b.num_rows()).sum::<usize>();
    assert_eq!(files(&log, ".json"), before);
    let gone = run(&colony, "VACUUM f").iter().map(|b| b.num_rows()).sum::<usize>();
    assert!(dry == gone && gone > 100, "{dry} {gone}");
    assert!(files(&log, ".json") < 20);
    let again = start(settings(&folder));
    assert_eq!(values(&again, "f"), (0..COMMITS).collect::<Vec<_>>());
    feed(&again, "f");
    assert_eq!(values(&again, "f").len(), 2 * COMMITS as usize);
}
