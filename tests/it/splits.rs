//! A plan that is split over bees answers as plain DataFusion does on the same rows: the 22 queries of TPC-H, for every
//! number of partitions and bees that gave wrong answers in trials or might.

use apiary::{ErrorKind, Settings};
use tempfile::TempDir;

use crate::support::{answer, ask, folder, integers, refusal, run, settings, start};
use crate::tpch::{QUERIES, Row, load, same, sorted_rows};

/// Queries that must really have been split when there are bees to split for.
const SPLIT: usize = 15;

#[test]
fn every_split_answers_as_plain_datafusion_does() {
    let folder = folder();
    let wanted = load(settings(&folder));
    for partitions in [2, 3, 4, 8] {
        for bees in [1, 2, 3, 5] {
            compare(&split(&folder, partitions, bees), &wanted, &format!("{partitions} partitions × {bees} bees"));
        }
    }
}

#[test]
fn a_recursive_query_reads_its_frame_again_in_every_round() {
    let folder = folder();
    load(settings(&folder));
    let colony = start(split(&folder, 2, 3));
    let counted = "WITH RECURSIVE t(n, c) AS (SELECT 1, CAST(0 AS BIGINT) UNION ALL
        SELECT n + 1, x.c FROM t, (SELECT count(l_comment) AS c FROM lineitem WHERE l_quantity > 3) x WHERE n < 4)
        SELECT count(DISTINCT c) - 1, min(c) FROM t WHERE n > 1";
    let joined = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL
        SELECT n + 1 FROM t JOIN lineitem ON l_orderkey = n WHERE n < 4 AND l_linenumber = 1) SELECT max(n) FROM t";
    assert_eq!(integers(&run(&colony, counted), 0), [0]);
    assert_eq!(integers(&run(&colony, joined), 0), [4]);
}

fn split(folder: &TempDir, partitions: usize, bees: usize) -> Settings {
    let settings = settings(folder).with_bees(bees).with_memory(bees as u64 * (96 << 20));
    Settings { partitions, partition_bytes: 1, ..settings }
}

fn compare(settings: &Settings, wanted: &[Vec<Row>], what: &str) {
    let colony = start(settings.clone());
    let mut split = 0;
    for (index, wanted) in wanted.iter().enumerate() {
        let (batches, stats) = answer(&colony, QUERIES[index]);
        let (answer, number) = (sorted_rows(&batches), index + 1);
        assert!(same(&answer, wanted), "query {number}, {what}\nwanted {wanted:?}\nthere is {answer:?}");
        split += usize::from(stats.tasks > 1);
    }
    let wanted = if settings.bees == Some(1) { 0 } else { SPLIT };
    assert!(split >= wanted, "{split} queries were split for {what}");
}

#[test]
fn options_that_would_make_split_plans_wrong_are_refused() {
    let folder = folder();
    let colony = start(settings(&folder));
    for (option, kind) in [
        ("datafusion.execution.target_partitions = 1", ErrorKind::InvalidInput),
        ("datafusion.execution.enable_file_stream_work_stealing = true", ErrorKind::Unsupported),
    ] {
        assert_eq!(refusal(ask(&colony, &format!("SET {option}"))), kind, "{option}");
    }
    run(&colony, "SET datafusion.execution.batch_size = 4096");
}
