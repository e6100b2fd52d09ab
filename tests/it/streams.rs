//! Streams: rows are seen at once, committed once, and none that was acknowledged is lost, whoever dies when.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use apiary::{Colony, ErrorKind, FrameStream, StreamSettings, WriteMode};
use arrow::array::{ArrayRef, StringArray};
use std::sync::Arc;
use tempfile::TempDir;

use crate::support::{batch, folder, integers, name, numbers, refusal, run, settings, start, until, values, write};

/// Kills, unless `APIARY_KILLS` says another number.
const KILLS: usize = 6;
const ENDLESS: &str = "APIARY_ENDLESS_STREAM";

fn slow(buffer: &Path) -> StreamSettings {
    StreamSettings { every: Duration::from_secs(3600), buffer: Some(buffer.to_path_buf()), ..StreamSettings::default() }
}

fn stream(colony: &Colony, settings: StreamSettings) -> FrameStream {
    colony.block_on(colony.stream(&name("t"), settings)).unwrap()
}

fn append(colony: &Colony, stream: &FrameStream, range: std::ops::Range<i64>) {
    colony.block_on(stream.append(numbers(range))).unwrap();
}

fn version(colony: &Colony) -> u64 {
    colony.block_on(colony.describe(&name("t"))).unwrap().version
}

fn count(colony: &Colony, sql: &str) -> i64 {
    integers(&run(colony, sql), 0)[0]
}

#[test]
fn rows_are_seen_here_at_once_and_elsewhere_when_they_are_committed() {
    let (folder, buffer) = (folder(), folder());
    let (colony, other) = (start(settings(&folder)), start(settings(&folder)));
    run(&colony, "CREATE FRAME t (x BIGINT)");
    write(&colony, "t", numbers(0..10), WriteMode::Append).unwrap();
    let stream = stream(&colony, slow(buffer.path()));
    append(&colony, &stream, 10..13);
    append(&colony, &stream, 13..15);
    assert_eq!((stream.waiting(), version(&colony)), (5, 1));
    assert_eq!(values(&colony, "t"), (0..15).collect::<Vec<i64>>());
    assert_eq!(count(&colony, "SELECT sum(x) FROM t WHERE x > 8"), (9..15).sum::<i64>());
    assert_eq!(count(&colony, "SELECT count(*) FROM t AS a JOIN t AS b ON a.x = b.x"), 15);
    assert_eq!(count(&colony, "SELECT count(*) FROM t VERSION AS OF 1"), 10);
    assert_eq!(values(&other, "t"), (0..10).collect::<Vec<i64>>());

    assert_eq!(colony.block_on(stream.flush()).unwrap(), 2);
    assert_eq!((stream.waiting(), version(&colony)), (0, 2));
    for colony in [&colony, &other] {
        assert_eq!(values(colony, "t"), (0..15).collect::<Vec<i64>>());
    }
    append(&colony, &stream, 15..16);
    assert_eq!(colony.block_on(stream.close()).unwrap(), 3);
    assert_eq!(refusal(colony.block_on(stream.append(numbers(0..1)))), ErrorKind::Closed);
    assert_eq!(values(&other, "t"), (0..16).collect::<Vec<i64>>());
}

#[test]
fn rows_are_committed_by_number_and_by_age() {
    let (folder, buffer) = (folder(), folder());
    let colony = start(settings(&folder));
    run(&colony, "CREATE FRAME t (x BIGINT)");
    let by_number = StreamSettings { rows: 100, ..slow(buffer.path()) };
    let first = stream(&colony, by_number);
    (0..25).for_each(|n| append(&colony, &first, n * 10..n * 10 + 10));
    until("two hundred rows are committed", || first.waiting() == 50);
    assert_eq!(version(&colony), 2);
    let by_age = StreamSettings { every: Duration::from_millis(50), ..slow(buffer.path()) };
    let second = stream(&colony, by_age);
    append(&colony, &second, 1000..1001);
    until("the row is old enough", || second.waiting() == 0);
    colony.block_on(first.close()).unwrap();
    assert_eq!(values(&colony, "t").len(), 251);
}

#[test]
fn what_was_not_committed_is_committed_by_the_next_stream() {
    let (folder, buffer) = (folder(), folder());
    let first = start(settings(&folder));
    run(&first, "CREATE FRAME t (x BIGINT)");
    let left = stream(&first, slow(buffer.path()));
    append(&first, &left, 0..7);
    drop(left);
    drop(first);

    let colony = start(settings(&folder));
    assert!(values(&colony, "t").is_empty());
    let next = stream(&colony, slow(buffer.path()));
    append(&colony, &next, 7..9);
    colony.block_on(next.close()).unwrap();
    assert_eq!(values(&colony, "t"), (0..9).collect::<Vec<i64>>());
    // Nothing is left to be committed again.
    let last = stream(&colony, slow(buffer.path()));
    assert_eq!(colony.block_on(last.close()).unwrap(), version(&colony));
    assert_eq!(values(&colony, "t").len(), 9);
}

#[test]
fn a_segment_that_was_committed_just_before_a_crash_is_not_committed_again() {
    let (folder, buffer) = (folder(), folder());
    let colony = start(settings(&folder));
    run(&colony, "CREATE FRAME t (x BIGINT)");
    let first = stream(&colony, slow(buffer.path()));
    append(&colony, &first, 0..5);
    let copy = folder_copy(buffer.path());
    colony.block_on(first.flush()).unwrap();
    drop(first);
    // As if the machine had stopped before the committed segment was removed.
    let again = stream(&colony, slow(copy.path()));
    append(&colony, &again, 5..6);
    colony.block_on(again.close()).unwrap();
    assert_eq!(values(&colony, "t"), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn what_others_left_is_committed_whatever_became_of_the_columns() {
    let (folder, buffer) = (folder(), folder());
    {
        let colony = start(settings(&folder));
        run(&colony, "CREATE FRAME t (x BIGINT, a BIGINT)");
        // Two streams, each with a slot of its own; neither is closed.
        let (first, second) = (stream(&colony, slow(buffer.path())), stream(&colony, slow(buffer.path())));
        append(&colony, &first, 0..2);
        append(&colony, &second, 2..3);
        let both: Vec<(&str, ArrayRef)> =
            ["x", "a"].map(|name| (name, Arc::new(arrow::array::Int64Array::from(vec![7])) as ArrayRef)).to_vec();
        colony.block_on(first.append(batch(both))).unwrap();
    }
    let colony = start(settings(&folder));
    run(&colony, "ALTER FRAME t ADD COLUMN b BIGINT");
    let next = stream(&colony, slow(buffer.path()));
    colony.block_on(next.close()).unwrap();
    assert_eq!(values(&colony, "t"), [0, 1, 2, 7]);
    assert_eq!(count(&colony, "SELECT count(*) FROM t WHERE a = 7 AND b IS NULL"), 1);
    assert_eq!(colony.block_on(stream(&colony, slow(buffer.path())).close()).unwrap(), version(&colony));
}

#[test]
fn rows_for_a_frame_that_was_dropped_are_not_for_the_next_of_its_name() {
    let (folder, buffer) = (folder(), folder());
    let colony = start(settings(&folder));
    run(&colony, "CREATE FRAME t (x BIGINT)");
    let stream = stream(&colony, slow(buffer.path()));
    append(&colony, &stream, 0..2);
    run(&colony, "DROP FRAME t");
    run(&colony, "CREATE FRAME t (x BIGINT)");
    assert!(values(&colony, "t").is_empty());
    let error = colony.block_on(stream.close()).unwrap_err();
    assert!(error.message().contains("another frame has its name"), "{error}");
    assert!(error.message().contains(&buffer.path().display().to_string()), "{error}");
    assert!(values(&colony, "t").is_empty());
}

fn folder_copy(from: &Path) -> TempDir {
    let to = folder();
    let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(to.path()).status().unwrap();
    assert!(copied.success());
    to
}

#[test]
fn rows_that_do_not_fit_are_refused_and_the_others_stay() {
    let (folder, buffer) = (folder(), folder());
    let colony = start(settings(&folder));
    run(&colony, "CREATE FRAME t (x BIGINT)");
    run(&colony, "ALTER FRAME t ADD CONSTRAINT small CHECK (x < 100)");
    let stream = stream(&colony, slow(buffer.path()));
    append(&colony, &stream, 0..2);
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    assert_eq!(refusal(colony.block_on(stream.append(batch(vec![("x", text)])))), ErrorKind::Schema);
    assert_eq!(refusal(colony.block_on(stream.append(numbers(99..101)))), ErrorKind::Schema);
    // A column that comes later is null in rows that were there before.
    run(&colony, "ALTER FRAME t ADD COLUMN y TEXT");
    assert_eq!(count(&colony, "SELECT count(*) FROM t WHERE y IS NULL"), 2);
    colony.block_on(stream.close()).unwrap();
    assert_eq!(values(&colony, "t"), [0, 1]);
}

#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged_and_doubles_nothing() {
    if let Ok(folder) = std::env::var(ENDLESS) {
        return append_without_end(Path::new(&folder));
    }
    let folder = folder();
    {
        let colony = start(settings(&folder));
        run(&colony, "CREATE FRAME t (x BIGINT)");
    }
    let mut random = fastrand::Rng::with_seed(5);
    let kills = std::env::var("APIARY_KILLS").map_or(KILLS, |number| number.parse().unwrap());
    for round in 0..kills {
        let before = acknowledged(folder.path());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "streams::a_killed_process_loses_nothing_that_was_acknowledged_and_doubles_nothing"])
            .env(ENDLESS, folder.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        until("the child has appended", || acknowledged(folder.path()) > before + 20);
        std::thread::sleep(Duration::from_millis(random.u64(0..60)));
        child.kill().unwrap();
        child.wait().unwrap();
        let acknowledged = acknowledged(folder.path());

        let colony = start(settings(&folder));
        let stream = stream(&colony, slow(&folder.path().join("buffer")));
        colony.block_on(stream.close()).unwrap();
        let rows = values(&colony, "t");
        // One more may be there: the child died before it could say so.
        assert!(rows.len() as i64 >= acknowledged, "round {round}: {} rows of {acknowledged}", rows.len());
        assert!(rows.len() as i64 <= acknowledged + 1, "round {round}: {} rows of {acknowledged}", rows.len());
        assert_eq!(rows, (0..rows.len() as i64).collect::<Vec<i64>>(), "round {round}");
        std::fs::write(folder.path().join("acknowledged"), rows.len().to_string()).unwrap();
    }
}

fn acknowledged(folder: &Path) -> i64 {
    std::fs::read_to_string(folder.join("acknowledged")).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn append_without_end(folder: &Path) {
    let settings = apiary::Settings::new(folder.to_string_lossy()).with_bees(1).with_memory(64 << 20);
    let colony = Colony::start(settings).unwrap();
    let stream =
        stream(&colony, StreamSettings { every: Duration::from_millis(10), rows: 7, ..slow(&folder.join("buffer")) });
    let mut next = acknowledged(folder);
    loop {
        append(&colony, &stream, next..next + 1);
        next += 1;
        // Whole or as it was before.
        std::fs::write(folder.join("half"), next.to_string()).unwrap();
        std::fs::rename(folder.join("half"), folder.join("acknowledged")).unwrap();
    }
}
