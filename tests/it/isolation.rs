//! What one query does to the others, by panicking, by wanting too much memory or time, by being dropped: nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use apiary::actors::Spill;
use apiary::{Colony, ErrorKind, Query, Settings, WriteMode};
use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use tempfile::TempDir;

use crate::support::{
    Running, answer, ask, files, folder, integers, is_idle, numbers, refusal, run, settings, start, start_with, status,
    until, write,
};
use crate::tpch::load;

/// Runs for hours, in little memory.
const ENDLESS: &str = "SELECT sum((a.x + b.x) % 7) FROM big a, big b";
/// Holds every row of as much, which cannot be spilled.
const GREEDY: &str = "SELECT array_agg(a.x + b.x) FROM big a, big b";
/// Panics at its first batch.
const BURSTING: &str = "SELECT sum(burst(x)) FROM big";
const MODEST: &str = "SELECT count(*), sum(x) FROM big";
/// Must wait for its turn; gives the number of rows.
const LONG: &str = "SELECT count(*) FROM big a JOIN big b ON a.x = b.x";
/// Rows of `big`.
const ROWS: i64 = 100_000;
/// What a stop may take.
const GRACE: Duration = Duration::from_millis(200);
/// What a machine may add that runs other tests too.
const SLACK: Duration = Duration::from_secs(1);

/// A colony of 128 MB with a frame of 160 MB, whose scratch folder may take `limit` bytes, and that folder.
fn with_wide(folder: &TempDir, limit: u64) -> (Running, TempDir) {
    let scratch = tempfile::tempdir().unwrap();
    let mut settings = settings(folder).with_bees(2).with_memory(128 << 20);
    (settings.scratch, settings.scratch_limit) = (Some(scratch.path().to_path_buf()), limit);
    let colony = start(settings);
    run(
        &colony,
        "CREATE FRAME wide AS SELECT value AS k, repeat(md5(CAST(value AS VARCHAR)), 10) AS t
        FROM generate_series(1, 500000)",
    );
    (colony, scratch)
}

/// Tasks whose rows wait in `scratch` for the stage above.
fn waiting_tasks(scratch: &TempDir) -> usize {
    files(scratch.path(), ".out")
}

const WIDE_JOIN: &str = "SELECT count(*), sum(length(a.t) + length(b.t)) FROM wide a JOIN wide b ON a.k = b.k";

#[test]
fn a_join_that_does_not_fit_is_done_in_stages() {
    let folder = folder();
    let (colony, scratch) = with_wide(&folder, 10 << 30);
    let (rows, stats) = answer(&colony, WIDE_JOIN);
    assert_eq!((integers(&rows, 0), integers(&rows, 1)), (vec![500_000], vec![500_000 * 640]));
    // Both sides went through the disk, once, and not through the meadow.
    assert!(stats.spilled > 10 << 20 && stats.exchanged == 0 && stats.nodes == 1, "{stats:?}");
    assert!(stats.tasks > 10, "{stats:?}");
    let joined = WIDE_JOIN.replace("count(*), sum(length(a.t) + length(b.t))", "a.k, b.t");
    run(&colony, &format!("CREATE FRAME joined AS {joined}"));
    assert_eq!(integers(&run(&colony, "SELECT count(*) FROM joined"), 0), [500_000]);
    until("the bees rest", || is_idle(&colony));
    until("the rows between the stages are gone", || waiting_tasks(&scratch) == 0);
}

#[test]
fn a_node_that_may_not_spill_writes_nothing_to_its_disk() {
    let (meadow, scratch) = (folder(), folder());
    drop(with_wide(&meadow, 10 << 30));
    let mut settings = settings(&meadow).with_bees(2).with_memory(128 << 20);
    (settings.scratch, settings.spill) = (Some(scratch.path().to_path_buf()), Spill::None);
    let colony = start(settings);
    for sql in [WIDE_JOIN, "SELECT k, t FROM wide ORDER BY t, k"] {
        let error = ask(&colony, sql).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MemoryExceeded, "{error}");
        assert!(error.message().contains("more memory"), "{error}");
    }
    assert_eq!(integers(&run(&colony, "SELECT count(*) FROM wide"), 0), [500_000]);
    assert_eq!((status(&colony).disk_written.spill, scratch.path().read_dir().unwrap().count()), (0, 0));
}

#[test]
fn windows_take_no_more_memory_than_there_is() {
    let folder = folder();
    let (colony, _scratch) = with_wide(&folder, 10 << 30);
    let sums = |rows: &[RecordBatch]| (integers(rows, 0), integers(rows, 1), integers(rows, 2));
    let over =
        |window: &str| format!("SELECT count(*), sum(length(t)), sum(w) FROM (SELECT t, {window} AS w FROM wide)");
    // Many partitions: each is done with before the next.
    let (rows, _) = answer(&colony, &over("max(k) OVER (PARTITION BY k % 1000)"));
    let of_each: i64 = (499_001..=500_000).map(|k| k * 500).sum();
    assert_eq!(sums(&rows), (vec![500_000], vec![500_000 * 320], vec![of_each]));
    // One that is larger than the memory waits on the disk.
    let (rows, stats) = answer(&colony, &over("max(k) OVER ()"));
    assert_eq!(sums(&rows), (vec![500_000], vec![500_000 * 320], vec![500_000 * 500_000]));
    assert!(stats.spilled > 1 << 20, "{stats:?}");
    let (rows, _) = answer(&colony, &over("ntile(2) OVER (ORDER BY k)"));
    assert_eq!(sums(&rows), (vec![500_000], vec![500_000 * 320], vec![750_000]));
    // All texts are looked at together.
    let error = ask(
        &colony,
        &over("length(nth_value(t, 2) OVER (ORDER BY k ROWS BETWEEN 1 PRECEDING AND UNBOUNDED FOLLOWING))"),
    );
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MemoryExceeded, "{error}");
    assert_eq!(integers(&run(&colony, "SELECT count(*) FROM wide"), 0), [500_000]);
}

#[test]
fn stages_keep_to_the_limit_of_the_scratch_folder() {
    let folder = folder();
    let (colony, scratch) = with_wide(&folder, 1 << 20);
    for _ in 0..2 {
        let error = ask(&colony, WIDE_JOIN).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MemoryExceeded, "{error}");
    }
    until("nothing is left", || waiting_tasks(&scratch) == 0);
    assert_eq!(integers(&run(&colony, "SELECT count(*) FROM wide"), 0), [500_000]);
}

#[test]
fn queries_that_are_cancelled_between_their_stages_leave_nothing() {
    let folder = folder();
    // Room for one at a time: what any of them kept would be missed.
    let (colony, scratch) = with_wide(&folder, 128 << 20);
    for _ in 0..6 {
        let stream = colony.block_on(colony.sql(WIDE_JOIN)).unwrap();
        until("a stage hands rows on", || waiting_tasks(&scratch) > 0);
        stream.canceller().cancel();
        assert_eq!(refusal(colony.block_on(stream.collect())), ErrorKind::Cancelled);
        until("nothing is left", || waiting_tasks(&scratch) == 0);
        until("the bees rest", || is_idle(&colony));
    }
    assert!(answer(&colony, WIDE_JOIN).1.tasks > 10);
    until("nothing is left", || waiting_tasks(&scratch) == 0);
    let colonys = std::fs::read_dir(scratch.path()).unwrap().next().unwrap().unwrap().path();
    let left = std::fs::read_dir(colonys).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.filter(|name| name.to_string_lossy().starts_with("stages-")).count(), 0);
}

/// Of the rows that are to be joined, the planner believes that there are few, and short ones.
#[test]
fn a_side_that_is_larger_than_it_was_taken_for_is_shared_out_in_stages() {
    let folder = folder();
    let (colony, _scratch) = with_wide(&folder, 10 << 30);
    let join = "SELECT count(*), count(b.t), sum(length(a.t) + length(b.t))
        FROM wide a LEFT JOIN (SELECT * FROM wide WHERE k % 3 > 0) b ON a.k = b.k";
    let (rows, stats) = answer(&colony, join);
    assert_eq!((integers(&rows, 0), integers(&rows, 1)), (vec![500_000], vec![333_334]));
    assert!(stats.tasks > 10 && stats.spilled > 0, "{stats:?}");
}

#[test]
fn a_query_that_costs_more_than_it_may_is_stopped_and_the_next_is_not() {
    let folder = folder();
    load(settings(&folder));
    let colony = start(settings(&folder));
    let session = colony.session();
    let ask = |sql: &str| colony.block_on(async { session.sql(sql).await?.collect().await });
    let scan = "SELECT sum(l_quantity) FROM lineitem";
    for (limit, named) in [("max_requests = 1", "max_requests"), ("max_bytes = '1KB'", "max_bytes")] {
        ask(&format!("SET {limit}")).unwrap();
        let error = ask(scan).unwrap_err();
        assert_eq!((error.kind(), error.message().contains(named)), (ErrorKind::LimitReached, true), "{error}");
        let written = ask("CREATE FRAME copy AS SELECT * FROM lineitem").unwrap_err();
        assert_eq!(written.kind(), ErrorKind::LimitReached, "{written}");
        ask(&format!("SET {named} = 'none'")).unwrap();
        ask(scan).unwrap();
    }
    let left = ask("SELECT count(*) FROM information_schema.tables WHERE table_name = 'copy'").unwrap();
    assert_eq!(integers(&left, 0), [0]);
    assert_eq!(refusal(ask("SET max_requests = 'few'")), ErrorKind::InvalidInput);
}

#[test]
fn a_panic_is_that_querys_error_alone() {
    let folder = folder();
    let colony = crowded(&folder);
    others_are_right_while(&colony, || {
        let error = ask(&colony, BURSTING).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
    });
    assert_eq!(status(&colony).generation, [1, 1], "a bee had to be started again");
}

#[test]
fn a_query_over_the_budget_fails_alone() {
    let folder = folder();
    let colony = crowded(&folder);
    others_are_right_while(&colony, || {
        let error = ask(&colony, GREEDY).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MemoryExceeded, "{error}");
    });
    until("the memory is given back", || status(&colony).memory_used == 0);
}

#[test]
fn a_late_query_stops_within_its_grace_and_alone() {
    let folder = folder();
    let colony = crowded(&folder);
    let limit = Duration::from_millis(300);
    others_are_right_while(&colony, || {
        let started = Instant::now();
        assert_eq!(refusal(ask_within(&colony, ENDLESS, limit)), ErrorKind::TimedOut);
        let took = started.elapsed();
        assert!(took >= limit && took < limit + GRACE + SLACK, "it took {took:?}");
    });
}

#[test]
fn a_cancelled_query_stops_and_says_so() {
    let folder = folder();
    let colony = crowded(&folder);
    let stream = colony.block_on(colony.sql(ENDLESS)).unwrap();
    assert!(!is_idle(&colony));
    let started = Instant::now();
    stream.canceller().cancel();
    assert_eq!(refusal(colony.block_on(stream.collect())), ErrorKind::Cancelled);
    assert_idle_since(&colony, started);
}

#[test]
fn a_dropped_stream_frees_the_bees() {
    let folder = folder();
    let colony = crowded(&folder);
    for sql in [ENDLESS, "SELECT a.x + b.x FROM big a, big b"] {
        let stream = colony.block_on(colony.sql(sql)).unwrap();
        assert!(!is_idle(&colony));
        let started = Instant::now();
        drop(stream);
        assert_idle_since(&colony, started);
    }
}

#[test]
fn a_late_write_commits_nothing() {
    let folder = folder();
    let colony = crowded(&folder);
    run(&colony, "CREATE FRAME sums (x BIGINT)");
    let insert = "INSERT INTO sums SELECT a.x + b.x FROM big a, big b";
    assert_eq!(refusal(ask_within(&colony, insert, Duration::from_millis(200))), ErrorKind::TimedOut);
    until("the bees rest", || is_idle(&colony));
    assert_eq!(integers(&run(&colony, "SELECT count(*) FROM sums"), 0), [0]);
    until("its cells are removed", || files(&folder.path().join("default/default/sums"), ".parquet") == 0);
}

#[test]
fn queries_that_never_end_do_not_starve_the_others() {
    let folder = folder();
    let colony = crowded(&folder);
    let endless: Vec<_> = (0..3).map(|_| colony.block_on(colony.sql(ENDLESS)).unwrap()).collect();
    for _ in 0..5 {
        assert_right(&colony);
    }
    assert_eq!(status(&colony).queries_running, endless.len());
}

#[test]
fn a_full_queue_is_answered_busy() {
    let folder = folder();
    let filled = crowded(&folder);
    let colony = start(Settings { max_queries: Some(1), queue: 1, ..settings(&folder) });
    drop(filled);
    std::thread::scope(|scope| {
        let running = colony.block_on(colony.sql(ENDLESS)).unwrap();
        let waiting = scope.spawn(|| ask(&colony, LONG));
        until("one query waits", || status(&colony).queries_waiting == 1);
        assert_eq!(refusal(ask(&colony, MODEST)), ErrorKind::Busy);
        drop(running);
        assert_eq!(integers(&waiting.join().unwrap().unwrap(), 0), [ROWS]);
    });
}

#[test]
fn waiting_counts_towards_the_time_limit() {
    let folder = folder();
    let filled = crowded(&folder);
    let colony = start(Settings { max_queries: Some(1), ..settings(&folder) });
    drop(filled);
    let _running = colony.block_on(colony.sql(ENDLESS)).unwrap();
    let limited = ask_within(&colony, LONG, Duration::from_millis(50));
    assert_eq!(refusal(limited), ErrorKind::TimedOut);
}

#[test]
fn rounds_of_everything_at_once_leave_right_answers_and_resting_bees() {
    let folder = folder();
    let colony = crowded(&folder);
    for _ in 0..25 {
        // Two mixes: a query that fills a bee's memory is in the way of one that needs some of it.
        at_once(&colony, &[(GREEDY, None, ErrorKind::MemoryExceeded), (BURSTING, None, ErrorKind::Internal)]);
        let short = Some(Duration::from_millis(50));
        at_once(&colony, &[(ENDLESS, short, ErrorKind::TimedOut), (BURSTING, None, ErrorKind::Internal)]);
        until("the bees rest", || is_idle(&colony));
    }
    assert_eq!(status(&colony).generation, [1, 1], "a bee had to be started again");
}

#[test]
fn a_shutdown_ends_running_queries_and_refuses_new_ones() {
    let folder = folder();
    let colony = crowded(&folder);
    std::thread::scope(|scope| {
        let queries: Vec<_> = (0..3).map(|_| scope.spawn(|| ask(&colony, ENDLESS))).collect();
        until("all three run", || status(&colony).queries_running == 3);
        let started = Instant::now();
        colony.shutdown().unwrap();
        assert!(started.elapsed() < GRACE + SLACK, "it took {:?}", started.elapsed());
        for query in queries {
            let kind = refusal(query.join().unwrap());
            assert!(matches!(kind, ErrorKind::Cancelled | ErrorKind::Closed), "{kind:?}");
        }
    });
    assert_eq!(refusal(ask(&colony, "SELECT 1")), ErrorKind::Closed);
}

/// A colony of two small bees, on all of which every plan is split, and the frame `big` of [`ROWS`] numbers.
fn crowded(folder: &TempDir) -> Running {
    let small = Settings { partition_bytes: 1, ..settings(folder).with_memory(64 << 20) };
    let colony = start_with(small, vec![Arc::new(burst_function())]);
    run(&colony, "CREATE FRAME big (x BIGINT)");
    write(&colony, "big", numbers(0..ROWS), WriteMode::Append).unwrap();
    colony
}

fn burst_function() -> ScalarUDF {
    create_udf("burst", vec![DataType::Int64], DataType::Int64, Volatility::Volatile, Arc::new(burst))
}

fn burst(_: &[ColumnarValue]) -> Result<ColumnarValue, DataFusionError> {
    panic!("burst, as this test wants it")
}

fn ask_within(colony: &Colony, sql: &str, limit: Duration) -> apiary::Result<Vec<RecordBatch>> {
    let query = Query::new(sql).with_time_limit(limit);
    colony.block_on(async { colony.session().query(query).await?.collect().await })
}

/// Asks queries that fail in their ways, and two that must not.
fn at_once(colony: &Running, failing: &[(&str, Option<Duration>, ErrorKind)]) {
    std::thread::scope(|scope| {
        for (sql, limit, kind) in failing {
            scope.spawn(move || {
                let answer = match limit {
                    Some(limit) => ask_within(colony, sql, *limit),
                    None => ask(colony, sql),
                };
                assert_eq!(refusal(answer), *kind, "{sql}");
            });
        }
        for _ in 0..2 {
            scope.spawn(move || assert_right(colony));
        }
    });
}

fn others_are_right_while(colony: &Running, fails: impl FnOnce()) {
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..3).map(|_| scope.spawn(move || assert_right(colony))).collect();
        fails();
        for other in others {
            other.join().unwrap();
        }
    });
    assert_right(colony);
}

fn assert_right(colony: &Colony) {
    assert_is_right(&run(colony, MODEST));
}

fn assert_is_right(answer: &[RecordBatch]) {
    assert_eq!((integers(answer, 0), integers(answer, 1)), (vec![ROWS], vec![ROWS * (ROWS - 1) / 2]));
}

fn assert_idle_since(colony: &Running, started: Instant) {
    until("the bees rest", || is_idle(colony));
    assert!(started.elapsed() < GRACE + SLACK, "it took {:?}", started.elapsed());
}
