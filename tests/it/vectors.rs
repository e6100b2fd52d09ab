//! Rows that are marked as deleted instead of their cells being written anew: what a frame answers is the same, what is
//! written is little, and what is in its ledger is as Delta says.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use apiary::{AsOf, Colony, ErrorKind, WriteMode};
use arrow::util::pretty::pretty_format_batches;
use delta_kernel::actions::deletion_vector::DeletionVectorDescriptor;
use delta_kernel::engine::arrow_data::EngineDataArrowExt;
use delta_kernel::{Engine, Snapshot};
use delta_kernel_default_engine::DefaultEngineBuilder;
use object_store::local::LocalFileSystem;
use serde_json::Value;

use crate::support::{
    ask, both, files, folder, integers, name, numbers, read, refusal, run, settings, start, values, write,
};

/// Rows of a large cell.
const ROWS: i64 = 300_000;
/// Statements of one random history.
const STEPS: usize = 24;
const ON: &str = "SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')";

/// Makes `t`, whose rows are marked, with one large cell of the numbers up to [`ROWS`].
fn large(colony: &Colony) {
    run(colony, "CREATE FRAME t (x BIGINT)");
    run(colony, &format!("ALTER FRAME t {ON}"));
    write(colony, "t", numbers(0..ROWS), WriteMode::Append).unwrap();
    // Both bees write when there is enough.
    run(colony, "OPTIMIZE t CLUSTER BY (x)");
}

fn frame(root: &Path) -> PathBuf {
    root.join("default/default/t")
}

fn version(colony: &Colony, frame: &str) -> u64 {
    colony.block_on(colony.describe(&name(frame))).unwrap().version
}

/// The `kind` actions of a version.
fn actions(root: &Path, version: u64, kind: &str) -> Vec<Value> {
    let text = fs::read_to_string(frame(root).join(format!("_delta_log/{version:020}.json"))).unwrap();
    let actions = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    actions.filter_map(|action| action.get(kind).cloned()).collect()
}

/// The rows that delta_kernel reads of `t`, and those that it takes for deleted by an action.
struct Kernel {
    engine: Arc<dyn Engine>,
    root: url::Url,
}

impl Kernel {
    fn new(root: &Path) -> Self {
        let engine = DefaultEngineBuilder::new(Arc::new(LocalFileSystem::new())).build();
        Self { engine: Arc::new(engine), root: url::Url::from_directory_path(frame(root)).unwrap() }
    }

    fn deleted(&self, add: &Value) -> Vec<u64> {
        let vector: DeletionVectorDescriptor = serde_json::from_value(add["deletionVector"].clone()).unwrap();
        vector.row_indexes(self.engine.storage_handler(), &self.root).unwrap()
    }

    fn rows(&self) -> Vec<i64> {
        let snapshot = Snapshot::builder_for(self.root.clone()).build(self.engine.as_ref()).unwrap();
        let scan = snapshot.scan_builder().build().unwrap();
        let batches = scan.execute(Arc::clone(&self.engine)).unwrap();
        let batches: Vec<_> = batches.map(|batch| batch.unwrap().try_into_record_batch().unwrap()).collect();
        let mut rows = integers(&batches, 0);
        rows.sort_unstable();
        rows
    }
}

fn kept(is_deleted: impl Fn(i64) -> bool) -> Vec<i64> {
    (0..ROWS).filter(|x| !is_deleted(*x)).collect()
}

#[test]
fn few_rows_of_a_large_cell_are_marked_as_delta_says() {
    let folder = folder();
    let colony = start(settings(&folder));
    large(&colony);
    let kernel = Kernel::new(folder.path());
    let cells = files(&frame(folder.path()), "cell-");

    run(&colony, "DELETE FROM t WHERE x = 200007");
    let (added, removed) =
        (actions(folder.path(), version(&colony, "t"), "add"), actions(folder.path(), version(&colony, "t"), "remove"));
    assert_eq!((added.len(), removed.len(), files(&frame(folder.path()), "cell-")), (1, 1, cells));
    assert_eq!((&added[0]["path"], &added[0]["dataChange"]), (&removed[0]["path"], &Value::Bool(true)));
    assert_eq!(added[0]["deletionVector"]["storageType"], "i");
    assert!(removed[0]["deletionVector"].is_null());
    let stats: Value = serde_json::from_str(added[0]["stats"].as_str().unwrap()).unwrap();
    assert_eq!((stats["numRecords"].as_i64(), stats["tightBounds"].as_bool()), (Some(ROWS), Some(false)));
    assert_eq!(kernel.deleted(&added[0]), [200_007]);

    // So many that they are in a file; with the one of before.
    run(&colony, "DELETE FROM t WHERE x % 50 = 9");
    let (second, gone) =
        (actions(folder.path(), version(&colony, "t"), "add"), actions(folder.path(), version(&colony, "t"), "remove"));
    assert_eq!(gone[0]["deletionVector"], added[0]["deletionVector"]);
    assert_eq!(second[0]["deletionVector"]["storageType"], "u");
    let is_deleted = |x: i64| x == 200_007 || x % 50 == 9;
    let deleted: Vec<u64> = (0..ROWS).filter(|x| is_deleted(*x)).map(|x| x as u64).collect();
    assert_eq!(kernel.deleted(&second[0]), deleted);
    assert_eq!(kernel.rows(), kept(is_deleted));
    assert_eq!(values(&colony, "t"), kept(is_deleted));

    // Updated rows are in a new cell.
    run(&colony, "UPDATE t SET x = -x WHERE x BETWEEN 100 AND 120");
    assert_eq!(files(&frame(folder.path()), "cell-"), cells + 1);
    let facts =
        run(&colony, "SELECT count(*), min(x), max(x), count(x), sum(CASE WHEN x < 0 THEN 1 ELSE 0 END) FROM t");
    let facts: Vec<i64> = (0..5).map(|index| integers(&facts, index)[0]).collect();
    let rows = kept(is_deleted).len() as i64;
    assert_eq!(facts, [rows, -120, ROWS - 1, rows, 20]);
    assert_eq!(kernel.rows(), values(&colony, "t"));

    // More than a tenth of the rows: the cell is written anew.
    run(&colony, "DELETE FROM t WHERE x % 10 = 0");
    let added = actions(folder.path(), version(&colony, "t"), "add");
    assert!(added.iter().all(|add| add["deletionVector"].is_null()), "{added:?}");
    assert_eq!(kernel.rows(), values(&colony, "t"));
}

#[test]
fn bounds_of_a_marked_cell_stay_what_they_were() {
    let folder = folder();
    let colony = start(settings(&folder));
    run(&colony, "CREATE FRAME t (x BIGINT, d DECIMAL(38, 9), f DOUBLE)");
    run(&colony, &format!("ALTER FRAME t {ON}"));
    run(
        &colony,
        "INSERT INTO t SELECT value, CAST('12345678901234567890123456789.123456789' AS DECIMAL(38, 9)) - value, \
         0.1 + value / 7.0 FROM generate_series(1, 40000)",
    );
    let stats = |at| {
        let added = actions(folder.path(), at, "add");
        added.iter().map(|add| add["stats"].as_str().unwrap().to_string()).collect::<HashSet<_>>()
    };
    let before = stats(version(&colony, "t"));
    run(&colony, "DELETE FROM t WHERE x % 1000 = 500");
    let after = stats(version(&colony, "t"));
    assert_eq!(
        before.iter().map(|s| s.replace("\"tightBounds\":true", "\"tightBounds\":false")).collect::<HashSet<_>>(),
        after
    );
    assert!(after.iter().all(|stats| stats.contains("\"tightBounds\":false")), "{after:?}");
    let greatest = "SELECT x FROM t WHERE d >= CAST('12345678901234567890123456788.123456789' AS DECIMAL(38, 9))";
    assert_eq!(integers(&run(&colony, greatest), 0), [1]);
    assert_eq!(integers(&run(&colony, "SELECT x FROM t WHERE f <= 0.1 + 1 / 7.0"), 0), [1]);
}

#[test]
fn marked_rows_come_back_and_files_that_nobody_needs_go() {
    let folder = folder();
    let colony = start(settings(&folder));
    large(&colony);
    let vectors = || files(&frame(folder.path()), "deletion_vector_");
    let first = version(&colony, "t");
    run(&colony, "DELETE FROM t WHERE x % 50 = 9");
    run(&colony, "DELETE FROM t WHERE x % 50 = 19");
    let (once, twice) = (kept(|x| x % 50 == 9), kept(|x| x % 50 == 9 || x % 50 == 19));
    assert_eq!((values(&colony, "t"), vectors()), (twice.clone(), 2));
    assert_eq!(read(&colony, "t", AsOf::Version(first + 1)).unwrap(), once);
    let changes = |since: u64| {
        let sql = format!("SELECT x FROM t CHANGES SINCE VERSION {since} WHERE _change_type = ");
        let of = |kind: &str| {
            let mut rows = integers(&run(&colony, &format!("{sql}'{kind}'")), 0);
            rows.sort_unstable();
            rows
        };
        (of("insert"), of("delete"))
    };
    let nines: Vec<i64> = (0..ROWS).filter(|x| x % 50 == 9).collect();
    let nineteens: Vec<i64> = (0..ROWS).filter(|x| x % 50 == 19).collect();
    assert_eq!(changes(first + 1), (Vec::new(), nineteens.clone()));
    run(&colony, &format!("RESTORE t TO VERSION AS OF {}", first + 1));
    assert_eq!(values(&colony, "t"), once);
    assert_eq!(changes(first + 2), (nineteens, Vec::new()));

    assert!(run(&colony, "VERIFY t").iter().all(|batch| batch.num_rows() == 0));
    assert!(run(&colony, "VACUUM t").iter().all(|batch| batch.num_rows() == 0));
    let orphan = "deletion_vector_00000000-0000-0000-0000-000000000000.bin";
    fs::write(frame(folder.path()).join(orphan), [1]).unwrap();
    let found = run(&colony, "VERIFY t");
    let told = pretty_format_batches(&found).unwrap().to_string();
    assert!(told.contains(orphan) && told.contains("orphaned"), "{told}");
    // What was removed within the retention stays; without one, only the newest version's files do.
    std::thread::sleep(std::time::Duration::from_millis(20));
    run(&colony, "VACUUM t RETAIN 0 HOURS FORCE");
    assert_eq!(vectors(), 1);
    assert_eq!(values(&colony, "t"), once);
    assert_eq!(refusal(ask(&colony, &format!("RESTORE t TO VERSION AS OF {}", first + 2))), ErrorKind::NotFound);

    run(&colony, "OPTIMIZE t");
    let added = actions(folder.path(), version(&colony, "t"), "add");
    assert!(!added.is_empty() && added.iter().all(|add| add["deletionVector"].is_null()), "{added:?}");
    assert_eq!(values(&colony, "t"), once);
    assert_eq!(changes(version(&colony, "t") - 1), (Vec::new(), Vec::new()));
    assert_eq!(nines.len() + once.len(), ROWS as usize);
    std::thread::sleep(std::time::Duration::from_millis(20));
    run(&colony, "VACUUM t RETAIN 0 HOURS FORCE");
    assert_eq!((vectors(), values(&colony, "t")), (0, once));
}

#[test]
fn marks_of_two_colonies_happen_one_after_the_other() {
    let folder = folder();
    let (a, b) = (start(settings(&folder)), start(settings(&folder)));
    large(&a);
    run(&a, "ALTER FRAME t ADD COLUMN n BIGINT");
    run(&a, "UPDATE t SET n = 0");
    const TIMES: i64 = 5;
    both(&a, &b, |colony| {
        for time in 0..TIMES {
            run(colony, "UPDATE t SET n = n + 1 WHERE x % 1000 = 1");
            run(colony, &format!("DELETE FROM t WHERE x = {}", time * 7 + 2));
            if time == 2 {
                run(colony, "OPTIMIZE t");
            }
        }
    });
    let counted = run(&a, "SELECT min(n), max(n), count(*) FROM t WHERE x % 1000 = 1");
    assert_eq!([0, 1, 2].map(|i| integers(&counted, i)[0]), [TIMES * 2, TIMES * 2, ROWS / 1000]);
    let all = run(&a, "SELECT count(*), sum(n) FROM t");
    assert_eq!([0, 1].map(|i| integers(&all, i)[0]), [ROWS - TIMES, TIMES * 2 * (ROWS / 1000)]);
    assert!(Kernel::new(folder.path()).rows() == values(&a, "t"));
}

/// A condition that holds for few rows, or for many.
fn condition(random: &mut fastrand::Rng) -> String {
    let (k, m) = (random.i64(0..30_000), random.i64(0..60));
    match random.u8(0..6) {
        0 => format!("f.id BETWEEN {k} AND {}", k + 300),
        1 => format!("f.id % 60 = {m}"),
        2 => format!("f.n = {m}"),
        3 => format!("f.id IN (SELECT value FROM generate_series({k}, {}, 3))", k + 900),
        4 => format!("f.t IS NULL AND f.id < {k}"),
        _ => format!("f.id % 60 < {}", m / 3),
    }
}

fn statement(random: &mut fastrand::Rng, next: &mut i64) -> String {
    let (k, m) = (random.i64(0..30_000), random.i64(1..9));
    match random.u8(0..12) {
        0 => {
            let from = *next;
            *next += 15_000;
            format!(
                "INSERT INTO f SELECT value AS id, value % 61 AS n, CASE WHEN value % {m} = 0 THEN NULL ELSE 'x' || value END AS t, \
                 value % 2 AS p FROM generate_series({from}, {})",
                *next - 1
            )
        }
        1 => ["OPTIMIZE f", "OPTIMIZE f CLUSTER BY (n, id)"][random.usize(0..2)].into(),
        2..=4 => format!("DELETE FROM f WHERE {}", condition(random)),
        5..=7 => format!("UPDATE f SET n = f.n + 1, t = f.id || ':' || f.n WHERE {}", condition(random)),
        kind => {
            let insert = " WHEN NOT MATCHED THEN INSERT (id, n, p) VALUES (s.id, -1, 1)";
            let alone = format!(" WHEN NOT MATCHED BY SOURCE AND f.id % 701 = {m} THEN UPDATE SET t = 'alone'");
            format!(
                "MERGE INTO f USING (SELECT value AS id FROM generate_series({k}, {}, {m})) AS s ON f.id = s.id \
                 WHEN MATCHED AND f.n > 40 THEN DELETE WHEN MATCHED THEN UPDATE SET n = s.id % 50{}{}",
                k + 900,
                if kind % 2 == 0 { insert } else { "" },
                if kind > 9 { &alone } else { "" },
            )
        }
    }
}

/// A statement about `f` as one about another frame.
fn on(frame: &str, sql: &str) -> String {
    format!("{sql} ").replace("f.", &format!("{frame}.")).replace(" f ", &format!(" {frame} "))
}

fn facts(colony: &Colony, frame: &str, sql: &str) -> String {
    pretty_format_batches(&run(colony, &on(frame, sql))).unwrap().to_string()
}

fn history_is_as_without_vectors(seed: u64, partitions: &str) {
    let folder = folder();
    let colony = start(settings(&folder));
    for frame in ["t", "g"] {
        run(&colony, &format!("CREATE FRAME {frame} (id BIGINT, n BIGINT, t VARCHAR, p BIGINT){partitions}"));
    }
    run(&colony, &format!("ALTER FRAME t {ON}"));
    let (mut random, mut next) = (fastrand::Rng::with_seed(seed), 30_000);
    let mut sql = "INSERT INTO f SELECT value AS id, value % 61 AS n, 'x' || value AS t, value % 2 AS p \
                   FROM generate_series(0, 29999)"
        .to_string();
    for step in 0..STEPS {
        let since = ["t", "g"].map(|frame| version(&colony, frame));
        let told = ["t", "g"].map(|frame| {
            let done = run(&colony, &on(frame, &sql));
            if sql.starts_with("INSERT") || sql.starts_with("OPTIMIZE") {
                return Vec::new();
            }
            [2, 3, 4].map(|column| integers(&done, column)[0]).to_vec()
        });
        assert_eq!(told[0], told[1], "seed {seed}, step {step}: {sql}");
        let different = "SELECT count(*) FROM (SELECT id, n, t, p FROM (SELECT *, 1 AS s FROM t UNION ALL SELECT *, -1 AS s FROM g) \
                         GROUP BY id, n, t, p HAVING sum(s) <> 0)";
        assert_eq!(integers(&run(&colony, different), 0), [0], "seed {seed}, step {step}: {sql}");
        for question in [
            "SELECT count(*) AS a, min(id) AS b, max(id) AS c, count(n) AS d, min(t) AS e, sum(n) AS g FROM f",
            "SELECT count(*) AS a FROM f WHERE f.id > 29000",
            "SELECT p, count(*) AS a, max(n) AS b FROM f GROUP BY p ORDER BY p",
        ] {
            assert_eq!(facts(&colony, "t", question), facts(&colony, "g", question), "seed {seed}, step {step}: {sql}");
        }
        let changes = |at: usize, frame| {
            let (changes, since) =
                ("SELECT _change_type, count(*) AS a, sum(id) AS b, sum(n) AS c FROM f CHANGES SINCE", since[at]);
            facts(&colony, frame, &format!("{changes} VERSION {since} GROUP BY 1 ORDER BY 1"))
        };
        assert_eq!(changes(0, "t"), changes(1, "g"), "seed {seed}, step {step}: {sql}");
        sql = statement(&mut random, &mut next);
    }
    let marked = (0..=version(&colony, "t")).flat_map(|version| actions(folder.path(), version, "add"));
    let marked: Vec<_> = marked.filter(|add| add["deletionVector"].is_object()).collect();
    assert!(marked.len() > STEPS / 4, "seed {seed}: hardly anything was marked");
    assert!(run(&colony, "VERIFY t").iter().all(|batch| batch.num_rows() == 0));
}

#[test]
fn random_changes_do_the_same_with_vectors_and_without() {
    for seed in 0..3 {
        history_is_as_without_vectors(seed, "");
    }
    history_is_as_without_vectors(3, " PARTITIONED BY (p)");
}

#[test]
fn what_cannot_be_set_is_refused() {
    let folder = folder();
    let colony = start(settings(&folder));
    run(&colony, "CREATE FRAME t (x BIGINT)");
    for (sql, kind) in [
        ("ALTER FRAME t SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'maybe')", ErrorKind::InvalidInput),
        ("ALTER FRAME t SET TBLPROPERTIES ('delta.appendOnly' = 'true')", ErrorKind::Unsupported),
        ("ALTER FRAME t SET TBLPROPERTIES ()", ErrorKind::InvalidInput),
    ] {
        assert_eq!(refusal(ask(&colony, sql)), kind, "{sql}");
    }
    assert_eq!(version(&colony, "t"), 0);
    run(&colony, &format!("ALTER FRAME t {ON}"));
    run(&colony, &format!("ALTER FRAME t {ON}"));
    let protocol = &actions(folder.path(), 1, "protocol")[0];
    for features in ["readerFeatures", "writerFeatures"] {
        assert!(protocol[features].as_array().unwrap().contains(&"deletionVectors".into()), "{protocol}");
    }
    assert_eq!(version(&colony, "t"), 1);
    run(&colony, "ALTER FRAME t SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'FALSE')");
    assert_eq!(version(&colony, "t"), 2);
}
