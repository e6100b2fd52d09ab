//! kill -9 at random moments of writing: the frame opens and holds exactly the committed rows.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::{folder, integers, name, run, settings, start};

const KILLS: i64 = 100;
/// Rows of one insert.
const BATCH: i64 = 10;
/// Longest life of a process that is not killed.
const LIFE: Duration = Duration::from_secs(60);

#[test]
fn a_killed_writer_leaves_whole_commits_and_nothing_else() {
    let folder = folder();
    run(&start(settings(&folder)), "CREATE FRAME t (turn BIGINT, x BIGINT)");
    assert!(insert(&folder, 0, LIFE));
    let started = Instant::now();
    assert!(insert(&folder, 1, LIFE));
    let whole = started.elapsed();
    let mut acknowledged = vec![0, 1];

    // Moments all over a process's life, and a few after it.
    let mut random = fastrand::Rng::with_seed(17);
    for turn in 2..2 + KILLS {
        if insert(&folder, turn, whole.mul_f64(random.f64() * 1.2)) {
            acknowledged.push(turn);
        }
    }
    assert!((acknowledged.len() as i64) < 2 + KILLS, "no writer was killed");
    assert_holds_the_commits(&folder, &acknowledged);
}

/// Inserts the rows of one turn in a process that is killed after `life`; whether it ended well before.
fn insert(storage: &TempDir, turn: i64, life: Duration) -> bool {
    let values: Vec<String> = (0..BATCH).map(|row| format!("({turn}, {})", turn * BATCH + row)).collect();
    let mut node = Command::new(env!("CARGO_BIN_EXE_apiary-node"))
        .arg("--storage")
        .arg(storage.path())
        .args(["--bees", "1", "--memory", "64MB", "sql", "--format", "csv"])
        .arg(format!("INSERT INTO t VALUES {}", values.join(", ")))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while started.elapsed() < life {
        if let Some(status) = node.try_wait().unwrap() {
            assert!(status.success(), "an insert that was left alone failed: {status}");
            return true;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    node.kill().unwrap();
    node.wait().unwrap().success()
}

fn assert_holds_the_commits(storage: &TempDir, acknowledged: &[i64]) {
    let colony = start(settings(storage));
    let sql = "SELECT turn, count(*), count(DISTINCT x), min(x), max(x) FROM t GROUP BY turn ORDER BY turn";
    let answer = run(&colony, sql);
    let turns = integers(&answer, 0);
    let of_each = |value: &dyn Fn(i64) -> i64| turns.iter().map(|turn| value(*turn)).collect::<Vec<i64>>();
    assert_eq!(integers(&answer, 1), of_each(&|_| BATCH));
    assert_eq!(integers(&answer, 2), of_each(&|_| BATCH));
    assert_eq!(integers(&answer, 3), of_each(&|turn| turn * BATCH));
    assert_eq!(integers(&answer, 4), of_each(&|turn| turn * BATCH + BATCH - 1));
    assert!(acknowledged.iter().all(|turn| turns.contains(turn)), "{acknowledged:?} were acknowledged: {turns:?}");

    let history = colony.block_on(colony.history(&name("t"), None)).unwrap();
    let writes: Vec<Option<u64>> =
        history.iter().filter(|entry| entry.operation == "WRITE").map(|entry| entry.rows).collect();
    assert_eq!(writes, vec![Some(BATCH as u64); turns.len()]);

    run(&colony, "INSERT INTO t VALUES (1000, 1000)");
    let after = integers(&run(&colony, "SELECT count(*) FROM t"), 0);
    assert_eq!(after, [turns.len() as i64 * BATCH + 1]);
}
