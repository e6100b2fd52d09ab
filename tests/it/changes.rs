//! Statements that change rows in place, and the upkeep of cells: what they do is what a plain list of rows would have
//! gone through, however the rows lie in cells and whoever else writes.

use std::collections::BTreeMap;

use apiary::{AsOf, Colony, ErrorKind, Settings};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;

use crate::support::{ask, both, files, folder, integers, name, read, run, settings, start, values};
use crate::{azurite, ministack};

/// Statements of one random history.
const STEPS: usize = 40;

/// `n` and `t` of a row.
type Row = (Option<i64>, Option<String>);
/// Rows by their `id`.
type Rows = BTreeMap<i64, Row>;
/// Whether a condition is true for a row.
type Holds = Box<dyn Fn(i64, &Row) -> bool>;

/// A condition as SQL, and the rows for which it is true.
struct Condition {
    sql: String,
    holds: Holds,
}

fn condition(random: &mut fastrand::Rng, of: &str) -> Condition {
    let (k, m) = (random.i64(0..60), random.i64(2..9));
    match random.u8(0..6) {
        0 => Condition { sql: format!("{of}.n > {k}"), holds: Box::new(move |_, (n, _)| n.is_some_and(|n| n > k)) },
        1 => Condition { sql: format!("{of}.id % {m} = 1"), holds: Box::new(move |id, _| id % m == 1) },
        2 => Condition { sql: format!("{of}.t IS NULL"), holds: Box::new(|_, (_, t)| t.is_none()) },
        3 => Condition {
            sql: format!("{of}.t = 'x{m}' OR {of}.n <= {k}"),
            holds: Box::new(move |_, (n, t)| t.as_deref() == Some(&format!("x{m}")) || n.is_some_and(|n| n <= k)),
        },
        4 => Condition {
            sql: format!("NOT ({of}.n = {k})"),
            holds: Box::new(move |_, (n, _)| n.is_some_and(|n| n != k)),
        },
        _ => Condition {
            sql: format!("{of}.id IN (SELECT value FROM generate_series({k}, {}))", k + 20),
            holds: Box::new(move |id, _| (k..=k + 20).contains(&id)),
        },
    }
}

fn rows_of(colony: &Colony) -> Rows {
    let batches = run(colony, "SELECT id, n, t FROM f");
    let mut rows = Rows::new();
    for batch in &batches {
        let (ids, n) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_primitive::<Int64Type>());
        let t = batch.column(2).as_string::<i32>();
        for i in 0..batch.num_rows() {
            let n = n.is_valid(i).then(|| n.value(i));
            let t = t.is_valid(i).then(|| t.value(i).to_string());
            assert!(rows.insert(ids.value(i), (n, t)).is_none(), "row {} is there twice", ids.value(i));
        }
    }
    rows
}

/// Rows inserted, updated and deleted.
fn counts(batches: &[RecordBatch]) -> [i64; 3] {
    [2, 3, 4].map(|column| integers(batches, column)[0])
}

fn append(colony: &Colony, random: &mut fastrand::Rng, rows: &mut Rows) {
    let from = rows.keys().next_back().map_or(0, |last| last + 1);
    let count = random.i64(1..40);
    let k = random.i64(2..9);
    run(
        colony,
        &format!(
            "INSERT INTO f SELECT value AS id, nullif(value % 60, {k}) AS n, \
             CASE WHEN value % {k} = 0 THEN NULL ELSE 'x' || (value % {k}) END AS t, value % 2 AS p \
             FROM generate_series({from}, {})",
            from + count - 1
        ),
    );
    for id in from..from + count {
        let t = (id % k != 0).then(|| format!("x{}", id % k));
        rows.insert(id, (Some(id % 60).filter(|n| *n != k), t));
    }
}

fn delete(colony: &Colony, random: &mut fastrand::Rng, rows: &mut Rows) -> [i64; 3] {
    let condition = condition(random, "f");
    let before = rows.len();
    rows.retain(|id, row| !(condition.holds)(*id, row));
    let done = counts(&run(colony, &format!("DELETE FROM f WHERE {}", condition.sql)));
    assert_eq!(done, [0, 0, (before - rows.len()) as i64], "{}", condition.sql);
    done
}

fn update(colony: &Colony, random: &mut fastrand::Rng, rows: &mut Rows) -> [i64; 3] {
    let condition = condition(random, "a");
    let mut updated = 0;
    for (id, row) in rows.iter_mut().filter(|(id, row)| (condition.holds)(**id, row)) {
        *row = (row.0.map(|n| n + 1), row.0.map(|n| format!("{id}:{n}")));
        updated += 1;
    }
    let sql = format!("UPDATE f AS a SET n = a.n + 1, t = a.id || ':' || a.n WHERE {}", condition.sql);
    let done = counts(&run(colony, &sql));
    assert_eq!(done, [0, updated, 0], "{sql}");
    done
}

/// Source rows with ids that are there and some that are not; of each kind of WHEN one, more or less.
fn merge(colony: &Colony, random: &mut fastrand::Rng, rows: &mut Rows) -> [i64; 3] {
    let last = rows.keys().next_back().copied().unwrap_or(0);
    let (from, to, step) = (random.i64(0..=last), last + random.i64(1..15), random.i64(1..4));
    let (gone, insert, alone) = (random.i64(0..60), random.bool(), random.u8(0..3) == 0);
    let mut wanted = [0; 3];
    let source: Vec<i64> = (from..=to).step_by(step as usize).collect();
    let mut merged = rows.clone();
    for id in &source {
        match rows.get(id) {
            Some((Some(n), _)) if *n > gone => {
                merged.remove(id);
                wanted[2] += 1;
            }
            Some(_) => {
                merged.insert(*id, (Some(id * 2), rows[id].1.clone()));
                wanted[1] += 1;
            }
            None if insert => {
                merged.insert(*id, (None, Some("new".into())));
                wanted[0] += 1;
            }
            None => {}
        }
    }
    if alone {
        for (id, (n, _)) in rows.iter().filter(|(id, _)| !source.contains(id) && *id % 5 == 0) {
            merged.insert(*id, (*n, Some("alone".into())));
            wanted[1] += 1;
        }
    }
    let sql = format!(
        "MERGE INTO f USING (SELECT value AS id FROM generate_series({from}, {to}, {step})) AS s ON f.id = s.id \
         WHEN MATCHED AND f.n > {gone} THEN DELETE WHEN MATCHED THEN UPDATE SET n = s.id * 2{}{}",
        if insert { " WHEN NOT MATCHED THEN INSERT (id, t, p) VALUES (s.id, 'new', s.id % 2)" } else { "" },
        if alone { " WHEN NOT MATCHED BY SOURCE AND f.id % 5 = 0 THEN UPDATE SET t = 'alone'" } else { "" },
    );
    *rows = merged;
    let done = counts(&run(colony, &sql));
    assert_eq!(done, wanted, "{sql}");
    done
}

fn history_is_as_of_a_list(settings: &Settings, seed: u64, partitioned: bool) {
    let colony = start(settings.clone());
    let partitions = if partitioned { " PARTITIONED BY (p)" } else { "" };
    run(&colony, &format!("CREATE FRAME f (id BIGINT, n BIGINT, t VARCHAR, p BIGINT){partitions}"));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut rows = Rows::new();
    append(&colony, &mut random, &mut rows);
    let mut changed = [0; 3];
    for step in 0..STEPS {
        let done = match random.u8(0..10) {
            0..=2 => {
                append(&colony, &mut random, &mut rows);
                [0; 3]
            }
            3..=4 => delete(&colony, &mut random, &mut rows),
            5..=6 => update(&colony, &mut random, &mut rows),
            7..=8 => merge(&colony, &mut random, &mut rows),
            _ => counts(&run(
                &colony,
                ["OPTIMIZE f", "OPTIMIZE f CLUSTER BY (n, id)", "OPTIMIZE f ZORDER BY (t, n)"][random.usize(0..3)],
            )),
        };
        changed.iter_mut().zip(done).for_each(|(all, one)| *all += one);
        assert_eq!(rows_of(&colony), rows, "seed {seed}, step {step}");
    }
    assert!(changed.iter().all(|count| *count > 0), "a kind of change never happened: {changed:?}");
}

#[test]
fn random_changes_do_what_they_do_to_a_list_of_rows() {
    for seed in 0..3 {
        let folder = folder();
        history_is_as_of_a_list(&settings(&folder), seed, false);
    }
}

#[test]
fn random_changes_of_a_partitioned_frame_do_what_they_do_to_a_list_of_rows() {
    let folder = folder();
    history_is_as_of_a_list(&settings(&folder), 7, true);
}

#[test]
fn random_changes_in_buckets_do_what_they_do_to_a_list_of_rows() {
    history_is_as_of_a_list(&ministack::settings("changes"), 3, true);
    history_is_as_of_a_list(&azurite::settings("changes"), 4, false);
}

#[test]
fn changes_of_two_colonies_happen_one_after_the_other() {
    let folder = folder();
    let (a, b) = (start(settings(&folder)), start(settings(&folder)));
    run(&a, "CREATE FRAME f (id BIGINT, n BIGINT)");
    for part in 0..4 {
        run(&a, &format!("INSERT INTO f SELECT value, 0 FROM generate_series({}, {})", part * 10, part * 10 + 9));
    }
    const TIMES: i64 = 6;
    both(&a, &b, |colony| {
        for _ in 0..TIMES {
            run(colony, "UPDATE f SET n = n + 1 WHERE id < 30");
            run(colony, "OPTIMIZE f");
            run(colony, "INSERT INTO f VALUES (100, 0)");
        }
    });
    let counted = run(&a, "SELECT min(n), max(n), count(*) FROM f WHERE id < 30");
    assert_eq!([0, 1, 2].map(|i| integers(&counted, i)[0]), [TIMES * 2, TIMES * 2, 30]);
    assert_eq!(integers(&run(&a, "SELECT count(*) FROM f WHERE id = 100"), 0), [TIMES * 2]);
}

#[test]
fn the_same_key_merged_from_two_colonies_is_there_once() {
    let folder = folder();
    let (a, b) = (start(settings(&folder)), start(settings(&folder)));
    run(&a, "CREATE FRAME f (id BIGINT, n BIGINT)");
    both(&a, &b, |colony| {
        for id in 0..8 {
            run(
                colony,
                &format!(
                    "MERGE INTO f USING (SELECT {id} AS id) AS s ON f.id = s.id \
                     WHEN MATCHED THEN UPDATE SET n = f.n + 1 WHEN NOT MATCHED THEN INSERT (id, n) VALUES (s.id, 1)"
                ),
            );
        }
    });
    let counted = run(&a, "SELECT count(*), count(DISTINCT id), min(n), max(n) FROM f");
    assert_eq!([0, 1, 2, 3].map(|i| integers(&counted, i)[0]), [8, 8, 2, 2]);
}

#[test]
fn what_a_statement_cannot_do_changes_nothing() {
    let folder = folder();
    let colony = start(settings(&folder));
    run(&colony, "CREATE FRAME f (id BIGINT NOT NULL, n INT)");
    run(&colony, "INSERT INTO f VALUES (1, 1), (2, 2)");
    let wrong = [
        ("UPDATE f SET nope = 1", ErrorKind::NotFound),
        ("UPDATE f SET n = 1, n = 2", ErrorKind::InvalidInput),
        ("UPDATE f SET n = 'a'", ErrorKind::InvalidInput),
        ("UPDATE f SET n = 3000000000", ErrorKind::InvalidInput),
        ("UPDATE f SET id = NULL", ErrorKind::Schema),
        ("DELETE FROM f WHERE nope = 1", ErrorKind::InvalidInput),
        ("DELETE FROM nope", ErrorKind::NotFound),
        ("DELETE FROM f WHERE random() < 0.5", ErrorKind::Unsupported),
        ("DELETE FROM f WHERE id NOT IN (SELECT 1)", ErrorKind::Unsupported),
        ("DELETE FROM f WHERE id IN (SELECT id FROM f LIMIT 1)", ErrorKind::Unsupported),
        (
            "MERGE INTO f USING (SELECT 9 AS id) AS s ON f.id = s.id \
             WHEN NOT MATCHED AND random() < 2 THEN INSERT (id) VALUES (s.id)",
            ErrorKind::Unsupported,
        ),
        ("DELETE FROM f USING g WHERE true", ErrorKind::Unsupported),
        ("MERGE INTO f USING nope AS s ON true WHEN MATCHED THEN DELETE", ErrorKind::NotFound),
        (
            "MERGE INTO f USING (SELECT 1 AS id UNION ALL SELECT 1) AS s ON f.id = s.id WHEN MATCHED THEN DELETE",
            ErrorKind::InvalidInput,
        ),
        (
            "MERGE INTO f USING (SELECT '1' AS id UNION ALL SELECT '01') AS s ON f.id = CAST(s.id AS BIGINT) \
             WHEN MATCHED THEN DELETE",
            ErrorKind::InvalidInput,
        ),
        (
            "MERGE INTO f USING (SELECT 1.0 AS id UNION ALL SELECT 1.00) AS s ON f.id = s.id WHEN MATCHED THEN DELETE",
            ErrorKind::InvalidInput,
        ),
        (
            "MERGE INTO f USING (SELECT 1 AS lo UNION ALL SELECT 2) AS s ON f.id >= s.lo WHEN MATCHED THEN DELETE",
            ErrorKind::InvalidInput,
        ),
        ("OPTIMIZE f CLUSTER BY (nope)", ErrorKind::NotFound),
        ("OPTIMIZE f ZORDER BY (id, nope)", ErrorKind::NotFound),
        ("OPTIMIZE f ZORDER BY (id, id)", ErrorKind::InvalidInput),
        ("OPTIMIZE nope", ErrorKind::NotFound),
        ("VACUUM nope", ErrorKind::NotFound),
        ("VACUUM f RETAIN 1 HOURS", ErrorKind::InvalidInput),
    ];
    for (sql, kind) in wrong {
        let error = ask(&colony, sql).unwrap_err();
        assert_eq!(error.kind(), kind, "{sql}: {error}");
    }
    assert_eq!(values(&colony, "f"), [1, 2]);
    assert_eq!(colony.block_on(colony.describe(&name("f"))).unwrap().version, 1);
    assert_eq!(files(folder.path(), "cell-"), 1, "cells of refused changes are left");
}

#[test]
fn a_source_row_that_changes_nothing_doubles_nothing() {
    let folder = folder();
    let colony = start(settings(&folder));
    run(&colony, "CREATE FRAME f (id BIGINT, n BIGINT)");
    run(&colony, "INSERT INTO f VALUES (1, 10), (2, 20), (3, 30)");
    run(&colony, "CREATE FRAME s (id BIGINT, n BIGINT, counts BOOLEAN)");
    run(&colony, "INSERT INTO s VALUES (1, 11, true), (1, 12, false), (2, 21, false), (2, 22, false), (4, 44, true)");
    let merge = "MERGE INTO f USING s ON f.id = s.id WHEN MATCHED AND s.counts THEN UPDATE SET n = s.n \
                 WHEN NOT MATCHED THEN INSERT (id, n) VALUES (s.id, s.n)";
    assert_eq!(counts(&run(&colony, merge)), [1, 1, 0]);
    assert_eq!(integers(&run(&colony, "SELECT id * 100 + n FROM f ORDER BY 1"), 0), [111, 220, 330, 444]);
}

#[test]
fn what_is_written_is_taken_as_it_was_meant() {
    let folder = folder();
    let colony = start(settings(&folder));
    run(&colony, r#"CREATE FRAME f (id BIGINT, "odd""Name" VARCHAR)"#);
    run(&colony, "INSERT INTO f VALUES (1, 'a''''b'), (2, 'a''b'), (3, 'c')");
    assert_eq!(counts(&run(&colony, r#"DELETE FROM f WHERE "odd""Name" = 'a''''b'"#)), [0, 0, 1]);
    assert_eq!(values(&colony, "f"), [2, 3]);
    assert_eq!(counts(&run(&colony, r#"UPDATE f SET "odd""Name" = '\' || (- -1) || '''' WHERE id = 3"#)), [0, 1, 0]);
    assert_eq!(integers(&run(&colony, r#"SELECT id FROM f WHERE "odd""Name" = concat('\', '1', chr(39))"#), 0), [3]);
}

#[test]
fn a_statement_sees_other_frames_as_they_were_when_it_began() {
    let folder = folder();
    let (a, b) = (start(settings(&folder)), start(settings(&folder)));
    run(&a, "CREATE FRAME f (id BIGINT, n BIGINT)");
    run(&a, "INSERT INTO f SELECT value, 0 FROM generate_series(1, 200)");
    run(&a, "CREATE FRAME s (id BIGINT)");
    std::thread::scope(|scope| {
        scope.spawn(|| (1..=40).for_each(|id| drop(run(&b, &format!("INSERT INTO s VALUES ({id})")))));
        for _ in 0..10 {
            run(
                &a,
                "MERGE INTO f USING (SELECT DISTINCT id FROM s) AS s ON f.id = s.id \
                 WHEN MATCHED THEN UPDATE SET n = f.n + 1 WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id)",
            );
        }
    });
    assert_eq!(values(&a, "f"), (1..=200).collect::<Vec<i64>>());
}

#[test]
fn the_cells_of_many_partitions_become_one_each() {
    let folder = folder();
    let colony = start(settings(&folder));
    run(&colony, "CREATE FRAME f (x BIGINT, p BIGINT) PARTITIONED BY (p)");
    for _ in 0..3 {
        run(&colony, "INSERT INTO f SELECT value, value % 20 FROM generate_series(1, 100)");
    }
    run(&colony, "OPTIMIZE f");
    let info = colony.block_on(colony.describe(&name("f"))).unwrap();
    assert_eq!((info.cells, info.rows), (20, Some(300)));
    run(&colony, "OPTIMIZE f");
    assert_eq!(colony.block_on(colony.describe(&name("f"))).unwrap().version, info.version);
}

#[test]
fn now_is_the_same_wherever_a_statement_asks() {
    let folder = folder();
    let colony = start(settings(&folder));
    run(&colony, "CREATE FRAME f (id BIGINT, at TIMESTAMP)");
    run(&colony, "INSERT INTO f SELECT value, now() FROM generate_series(1, 5)");
    assert_eq!(integers(&run(&colony, "SELECT count(DISTINCT at) FROM f WHERE at <= now()"), 0), [1]);
    assert_eq!(counts(&run(&colony, "UPDATE f SET at = now() WHERE at < now() AND id < 3")), [0, 2, 0]);
    assert_eq!(counts(&run(&colony, "UPDATE f SET id = id + random() * 0")), [0, 5, 0]);
}

#[test]
fn small_cells_become_few_and_older_versions_stay() {
    let folder = folder();
    let colony = start(settings(&folder));
    run(&colony, "CREATE FRAME f (x BIGINT)");
    for x in 0..30 {
        run(&colony, &format!("INSERT INTO f VALUES ({x})"));
    }
    let all: Vec<i64> = (0..30).collect();
    run(&colony, "OPTIMIZE f");
    let info = colony.block_on(colony.describe(&name("f"))).unwrap();
    assert_eq!((info.version, info.cells), (31, 1));
    assert_eq!(
        (values(&colony, "f"), read(&colony, "f", AsOf::Version(20)).unwrap()),
        (all.clone(), all[..20].to_vec())
    );
    run(&colony, "OPTIMIZE f");
    assert_eq!(colony.block_on(colony.describe(&name("f"))).unwrap().version, 31, "there was nothing to do");
    let history = colony.block_on(colony.history(&name("f"), Some(1))).unwrap();
    assert_eq!((history[0].operation.as_str(), history[0].cells_removed), ("OPTIMIZE", 30));
}

/// Cells of the frame `z` that a query reads for a fiftieth of its values of each column, and how many there are.
fn cells_read(colony: &Colony, columns: [&str; 2]) -> [(usize, usize); 2] {
    columns.map(|column| {
        let sql = format!("SELECT count(*) FROM z WHERE {column} BETWEEN 20000 AND 24799");
        assert_eq!(integers(&run(colony, &sql), 0), [4800], "{column}");
        let plan = run(colony, &format!("EXPLAIN {sql}"));
        let told = arrow::util::pretty::pretty_format_batches(&plan).unwrap().to_string();
        let (before, after) = told.split_once(" cells read").and_then(|(t, _)| t.rsplit_once(" of ")).unwrap();
        (before.rsplit(' ').next().unwrap().parse().unwrap(), after.parse().unwrap())
    })
}

#[test]
fn along_a_z_curve_filters_on_either_column_leave_cells_out() {
    let folder = folder();
    // Bees whose cells are as small as any, and rows that many of them are needed for.
    let colony = start(settings(&folder).with_bees(4));
    let wide: String = (0..60).map(|column| format!(", random() AS x{column}")).collect();
    let (a, b) = ("value * 7919 % 240000 AS a", "value * 104729 % 240000 AS b");
    run(&colony, &format!("CREATE FRAME z AS SELECT {a}, {b}{wide} FROM generate_series(0, 239999)"));
    for (read, cells) in cells_read(&colony, ["a", "b"]) {
        assert!(cells >= 10 && read == cells, "{read} of {cells} cells are read");
    }
    run(&colony, "OPTIMIZE z ZORDER BY (a, b)");
    for (read, cells) in cells_read(&colony, ["a", "b"]) {
        assert!(cells >= 10 && read * 5 <= cells * 3, "{read} of {cells} cells are read");
    }
    let rows = run(&colony, "SELECT count(*), count(DISTINCT a), sum(b) FROM z");
    assert_eq!([0, 1, 2].map(|column| integers(&rows, column)[0]), [240_000, 240_000, 239_999 * 120_000]);
    assert_eq!(colony.block_on(colony.describe(&name("z"))).unwrap().schema.fields().len(), 62, "the key is no column");
}

#[test]
fn a_vacuum_takes_what_no_version_within_the_retention_has() {
    let folder = folder();
    let colony = start(settings(&folder));
    run(&colony, "CREATE FRAME f (x BIGINT, y BIGINT) PARTITIONED BY (y)");
    run(&colony, "INSERT INTO f SELECT value, value % 2 FROM generate_series(1, 10)");
    run(&colony, "DELETE FROM f WHERE x > 5");
    let place = folder.path().join("default/default/f");
    for stranger in ["y=0/half-written.parquet", "notes.txt", "_hidden/x.parquet"] {
        let path = place.join(stranger);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }
    let found = |sql: &str| run(&colony, sql).iter().map(RecordBatch::num_rows).sum::<usize>();
    assert_eq!(found("VACUUM f"), 0, "all is younger than the retention");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(30 * 24 * 3600);
    let stray = std::fs::File::options().write(true).open(place.join("y=0/half-written.parquet")).unwrap();
    stray.set_modified(old).unwrap();
    assert_eq!(found("VACUUM f DRY RUN"), 1, "only what no commit ever named is old");
    assert_eq!(found("VACUUM f RETAIN 0 HOURS DRY RUN"), 3);
    assert_eq!(files(&place, ".parquet"), 6, "a dry run removed something");
    assert_eq!(found("VACUUM f RETAIN 0 HOURS FORCE"), 3);
    assert_eq!((files(&place, ".parquet"), files(&place, "notes.txt")), (3, 1));
    assert_eq!(values(&colony, "f"), [1, 2, 3, 4, 5]);
    assert!(read(&colony, "f", AsOf::Version(1)).is_err(), "its cells are gone");
}
