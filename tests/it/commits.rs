//! Many writers on one frame: every row is there exactly once, whoever raced and whatever got lost on the way.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use apiary::storage::cells::{CellFile, CellWriter};
use apiary::storage::faulty::{Faults, Faulty};
use apiary::storage::{Alteration, Change, FrameState, Ledger, Meadow, Transaction, leafcutter};
use apiary::{AsOf, ErrorKind, Placement, Settings, WriteMode, WriteResult};
use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use tempfile::TempDir;
use tokio::runtime::{Handle, Runtime};

use crate::support::{Running, batch, folder, name, numbers, run, settings, start, values, write};
use crate::{azurite, ministack};

const WRITERS: i64 = 8;
const APPENDS: i64 = 10;
const ROWS: i64 = 5;

#[test]
fn appends_of_many_colonies_to_a_folder_all_land_once() {
    let folder = folder();
    appends_all_land_once(&settings(&folder));
}

#[test]
fn appends_of_many_colonies_to_s3_all_land_once() {
    appends_all_land_once(&ministack::settings("commits"));
}

#[test]
fn appends_of_many_colonies_to_azure_all_land_once() {
    appends_all_land_once(&azurite::settings("commits"));
}

fn appends_all_land_once(settings: &Settings) {
    let reader = start(settings.clone());
    run(&reader, "CREATE FRAME t (x BIGINT)");
    let one_bee = || start(settings.clone().with_bees(1).with_memory(64 << 20));
    let writers: Vec<Running> = (0..WRITERS).map(|_| one_bee()).collect();
    std::thread::scope(|scope| {
        for (number, writer) in (0..WRITERS).zip(&writers) {
            scope.spawn(move || append_all(writer, number));
        }
    });
    assert_eq!(values(&reader, "t"), (0..WRITERS * APPENDS * ROWS).collect::<Vec<i64>>());
    let info = reader.block_on(reader.describe(&name("t"))).unwrap();
    assert_eq!(info.version, (WRITERS * APPENDS) as u64);
}

#[test]
fn appends_of_many_threads_through_one_colony_all_land_once() {
    let folder = folder();
    let colony = start(settings(&folder));
    run(&colony, "CREATE FRAME t (x BIGINT)");
    let colony = &colony;
    std::thread::scope(|scope| {
        for number in 0..WRITERS {
            scope.spawn(move || append_all(colony, number));
        }
    });
    assert_eq!(values(colony, "t"), (0..WRITERS * APPENDS * ROWS).collect::<Vec<i64>>());
    let info = colony.block_on(colony.describe(&name("t"))).unwrap();
    assert!(info.version < (WRITERS * APPENDS) as u64, "appends that meet share a commit: {info:?}");
    assert_eq!(info.cells as u64, info.version, "and a cell");
}

#[test]
fn an_append_that_cannot_be_written_fails_alone() {
    let folder = folder();
    let colony = start(settings(&folder));
    run(&colony, "CREATE FRAME t (x BIGINT, day BIGINT) PARTITIONED BY (day)");
    let colony = &colony;
    let row = |x: i64, day: Option<i64>| {
        let columns = [("x", vec![Some(x)]), ("day", vec![day])];
        batch(columns.map(|(name, values)| (name, Arc::new(Int64Array::from(values)) as ArrayRef)).to_vec())
    };
    std::thread::scope(|scope| {
        for number in 0..WRITERS {
            scope.spawn(move || {
                for append in 0..APPENDS {
                    let day = (number > 0).then_some(1);
                    let written = write(colony, "t", row(number * APPENDS + append, day), WriteMode::Append);
                    match (number, written) {
                        (0, written) => assert_eq!(written.unwrap_err().kind(), ErrorKind::Schema),
                        (_, written) => assert_eq!(written.unwrap().rows, 1),
                    }
                }
            });
        }
    });
    assert_eq!(values(colony, "t"), (APPENDS..WRITERS * APPENDS).collect::<Vec<i64>>());
}

fn append_all(writer: &Running, number: i64) {
    for append in 0..APPENDS {
        let from = (number * APPENDS + append) * ROWS;
        write(writer, "t", numbers(from..from + ROWS), WriteMode::Append).unwrap();
    }
}

#[test]
fn of_racing_overwrites_one_whole_one_stays() {
    let folder = folder();
    let (a, b) = (start(settings(&folder)), start(settings(&folder)));
    run(&a, "CREATE FRAME t (x BIGINT)");
    write(&a, "t", numbers(0..10), WriteMode::Append).unwrap();
    let ranges: [Range<i64>; 2] = [100..150, 200..260];
    for round in 0..10 {
        let results: Vec<apiary::Result<WriteResult>> = std::thread::scope(|scope| {
            let race = [&a, &b].into_iter().zip(&ranges).map(|(colony, range)| {
                let rows = numbers(range.clone());
                scope.spawn(move || write(colony, "t", rows, WriteMode::Overwrite))
            });
            let racing: Vec<_> = race.collect();
            racing.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let landed: Vec<Range<i64>> =
            ranges.iter().zip(&results).filter(|(_, result)| result.is_ok()).map(|(range, _)| range.clone()).collect();
        for error in results.into_iter().filter_map(Result::err) {
            assert_eq!(error.kind(), ErrorKind::Conflict, "round {round}");
        }
        let there = values(&a, "t");
        assert!(landed.into_iter().any(|range| there == range.collect::<Vec<i64>>()), "round {round}: {there:?}");
    }
}

#[test]
fn an_overwrite_conflicts_with_one_that_replaced_the_same_cells() {
    let folder = folder();
    in_meadow(&folder, async |meadow: &Meadow| {
        let base = commit(meadow, &first_version(meadow).await, 0..3, WriteMode::Append).await.unwrap();
        commit(meadow, &base, 10..13, WriteMode::Overwrite).await.unwrap();
        let late = commit(meadow, &base, 20..23, WriteMode::Overwrite).await;
        assert_eq!(late.unwrap_err().kind(), ErrorKind::Conflict);
    });
    assert_eq!(values(&start(settings(&folder)), "t"), [10, 11, 12]);
}

#[test]
fn an_append_lands_after_an_overwrite_that_it_did_not_see() {
    let folder = folder();
    in_meadow(&folder, async |meadow: &Meadow| {
        let base = commit(meadow, &first_version(meadow).await, 0..3, WriteMode::Append).await.unwrap();
        commit(meadow, &base, 10..13, WriteMode::Overwrite).await.unwrap();
        let late = commit(meadow, &base, 20..22, WriteMode::Append).await.unwrap();
        assert_eq!(late.version(), 3);
    });
    assert_eq!(values(&start(settings(&folder)), "t"), [10, 11, 12, 20, 21]);
}

#[test]
fn an_overwrite_keeps_the_rows_of_an_append_that_it_did_not_see() {
    let folder = folder();
    in_meadow(&folder, async |meadow: &Meadow| {
        let base = commit(meadow, &first_version(meadow).await, 0..3, WriteMode::Append).await.unwrap();
        commit(meadow, &base, 20..22, WriteMode::Append).await.unwrap();
        commit(meadow, &base, 10..13, WriteMode::Overwrite).await.unwrap();
    });
    assert_eq!(values(&start(settings(&folder)), "t"), [10, 11, 12, 20, 21]);
}

#[test]
fn a_commit_whose_acknowledgement_is_lost_lands_once() {
    let folder = folder();
    in_meadow(&folder, async |meadow: &Meadow| {
        first_version(meadow).await;
        let lossy = Faults { lost_ack: 0.5, ..Faults::default() };
        let store = Arc::new(Faulty::new(meadow.counted_store(&Arc::default()), lossy, 7));
        let ledger = Ledger::new(store, true, Handle::current());
        for round in 0..20 {
            let base = meadow.state(&name("t"), AsOf::Latest).await.unwrap();
            let cells = cells(meadow, &base, round * 5..round * 5 + 5).await;
            ledger.commit(&base, cells, WriteMode::Append.into()).await.unwrap();
        }
    });
    assert_eq!(values(&start(settings(&folder)), "t"), (0..100).collect::<Vec<i64>>());
}

#[test]
fn appends_that_wait_for_one_commit_land_together_in_the_next() {
    let folder = folder();
    in_meadow(&folder, async |meadow: &Meadow| {
        let base = first_version(meadow).await;
        let mut appends = Vec::new();
        for number in 0..30 {
            let cells = cells(meadow, &base, number * 5..number * 5 + 5).await;
            appends.push(Box::pin(meadow.ledger().commit(&base, cells, WriteMode::Append.into())));
        }
        // All are begun, in this order, before the first one's commit is heard of; one is given up while it waits.
        let mut given_up = appends.pop().unwrap();
        let mut first = appends.remove(0);
        assert!(futures::poll!(&mut first).is_pending());
        assert!(futures::poll!(&mut given_up).is_pending());
        drop(given_up);
        let (first, others) = tokio::join!(first, futures::future::join_all(appends));
        assert_eq!(first.unwrap().version(), 1);
        assert!(others.iter().all(|landed| landed.as_ref().unwrap().version() == 2));
    });
    let colony = start(settings(&folder));
    assert_eq!(values(&colony, "t"), (0..29 * 5).collect::<Vec<i64>>());
    let history = colony.block_on(colony.history(&name("t"), None)).unwrap();
    assert_eq!(history.iter().map(|entry| entry.rows).collect::<Vec<_>>(), [Some(28 * 5), Some(5), None]);
}

#[test]
fn a_commit_that_is_known_by_a_number_lands_once_whoever_tries_again() {
    let folder = folder();
    in_meadow(&folder, async |meadow: &Meadow| {
        let base = first_version(meadow).await;
        let once = |number| Change::Once(Transaction { app: "writer".into(), number });
        for (number, lands) in [(1, true), (1, false), (3, true), (2, false)] {
            // Each saw none of the others.
            let cells = cells(meadow, &base, number * 5..number * 5 + 5).await;
            let landed = meadow.ledger().commit(&base, cells, once(number)).await;
            let outcome = landed.as_ref().map(|state| state.version()).map_err(|error| error.kind());
            assert_eq!(outcome.is_ok(), lands, "{number}: {outcome:?}");
            assert!(lands || outcome == Err(ErrorKind::AlreadyExists), "{number}: {outcome:?}");
        }
    });
    assert_eq!(values(&start(settings(&folder)), "t"), (5..10).chain(15..20).collect::<Vec<i64>>());
}

#[test]
fn appends_that_saw_other_columns_do_not_land_with_the_others() {
    let folder = folder();
    in_meadow(&folder, async |meadow: &Meadow| {
        let base = first_version(meadow).await;
        let ledger = meadow.ledger();
        let column = arrow::datatypes::Field::new("y", arrow::datatypes::DataType::Int64, true);
        let adding = Alteration::AddColumns { columns: vec![column], if_not_exists: false };
        let old = cells(meadow, &base, 0..5).await;
        ledger.alter(&name("t"), adding, &base).await.unwrap();
        let newer = meadow.state(&name("t"), AsOf::Latest).await.unwrap();
        let cells = cells(meadow, &newer, 5..10).await;
        let (old, new) = tokio::join!(
            ledger.commit(&base, old, WriteMode::Append.into()),
            ledger.commit(&newer, cells, WriteMode::Append.into())
        );
        assert_eq!(old.unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(new.unwrap().version(), 2);
    });
    assert_eq!(values(&start(settings(&folder)), "t"), (5..10).collect::<Vec<i64>>());
}

/// Runs `work` on a meadow in `folder`, without a colony: who commits on which version is then up to the test.
fn in_meadow(folder: &TempDir, work: impl AsyncFnOnce(&Meadow)) {
    let url = folder.path().to_string_lossy().into_owned();
    Runtime::new().unwrap().block_on(async {
        let meadow = Meadow::open(&url, &BTreeMap::new(), Handle::current()).await.unwrap();
        work(&meadow).await;
    });
}

/// Makes the frame `t` of one column `x`.
async fn first_version(meadow: &Meadow) -> Arc<FrameState> {
    let frame = name("t");
    let schema = numbers(0..0).schema();
    assert!(meadow.create_frame(&frame, &schema, &Placement::default(), false).await.unwrap());
    meadow.state(&frame, AsOf::Latest).await.unwrap()
}

async fn commit(
    meadow: &Meadow,
    base: &Arc<FrameState>,
    values: Range<i64>,
    mode: WriteMode,
) -> apiary::Result<Arc<FrameState>> {
    let cells = cells(meadow, base, values).await;
    meadow.ledger().commit(base, cells, mode.into()).await
}

async fn cells(meadow: &Meadow, base: &Arc<FrameState>, values: Range<i64>) -> Vec<CellFile> {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
    let columns = vec![column; base.schema.fields().len()];
    let rows = RecordBatch::try_new(Arc::clone(&base.schema), columns).unwrap();
    let plan = meadow.ledger().cell_plan(base, leafcutter::cut(64 << 20, 8)).await.unwrap();
    let mut writer = CellWriter::new(plan, &base.schema).unwrap();
    writer.write(&rows).await.unwrap();
    writer.finish().await.unwrap()
}
