//! Many nodes on one meadow: real processes that share nothing but the storage, killed, stopped and resumed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use apiary::sql::Distribute;
use apiary::{Colony, Query, Settings, WriteMode};
use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use tempfile::TempDir;

use crate::support::{Running, answer, ask, batch, files, folder, integers, name, run, settings, start, until, write};
use crate::tpch::{QUERIES, load, same, sorted_rows};
use crate::{azurite, ministack};

/// Queries of TPC-H that other nodes must really have taken part in: the others scan too little to be split.
const SHARED: usize = 20;
/// A query that keeps every node busy for a while: the leader's answer alone comes first.
const SLOW: &str = "SELECT count(*), min(sha512(sha512(sha512(sha512(sha512(sha512(sha512(sha512(CAST(x AS VARCHAR)))))))))) FROM slow";
/// Rows of its frame, and commits that they come in.
const SLOW_ROWS: i64 = 600_000;
const SLOW_COMMITS: i64 = 6;

/// Longer than a node may take to pick a task up: who waits for its inputs that long must not be taken for lost.
const LONG: Duration = Duration::from_secs(4);

/// A node in a process of its own; gone with this, and when the test fails it is told what the node said.
struct Node {
    process: Child,
    name: String,
    said: File,
}

impl Node {
    fn start(storage: &str, options: &BTreeMap<String, String>, name: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_apiary-node"));
        command.args(["--storage", storage, "--bees", "1", "--memory", "128MB"]);
        for (key, value) in options {
            command.args(["--storage-option", &format!("{key}={value}")]);
        }
        let said = tempfile::tempfile().unwrap();
        command.args(["run", "--name", name]).stdout(Stdio::null()).stderr(said.try_clone().unwrap());
        Self { process: command.spawn().unwrap(), name: name.into(), said }
    }

    fn on(folder: &TempDir, name: &str) -> Self {
        Self::start(&folder.path().to_string_lossy(), &BTreeMap::new(), name)
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.process.id().to_string()]).status().unwrap();
        assert!(sent.success(), "kill -{signal}");
    }
}

impl Drop for Node {
    #[expect(clippy::print_stdout, reason = "the runner shows it with the failure")]
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let mut said = String::new();
            let read = self.said.rewind().and_then(|()| self.said.read_to_string(&mut said));
            println!("node {} said ({read:?} bytes): {said}", self.name);
        }
    }
}

fn leader(settings: Settings) -> Running {
    start(settings.with_bees(1).with_memory(128 << 20).with_distribute(Distribute::Always))
}

fn alive(colony: &Colony) -> Vec<String> {
    let nodes = colony.block_on(colony.swarm()).unwrap();
    nodes.into_iter().filter(|n| n.state == "alive" && n.bees > 0).map(|n| n.name).collect()
}

fn until_alive(colony: &Colony, count: usize) {
    until(&format!("{count} nodes live"), || alive(colony).len() == count);
}

/// Makes the frame of [`SLOW`] and its answer by this node alone.
fn slow(folder: &TempDir) -> Vec<String> {
    let colony = start(settings(folder));
    run(&colony, "CREATE FRAME slow (x BIGINT)");
    let rows = SLOW_ROWS / SLOW_COMMITS;
    for part in 0..SLOW_COMMITS {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(part * rows..(part + 1) * rows));
        write(&colony, "slow", batch(vec![("x", numbers)]), WriteMode::Append).unwrap();
    }
    shown(&run(&colony, SLOW))
}

fn shown(batches: &[RecordBatch]) -> Vec<String> {
    vec![arrow::util::pretty::pretty_format_batches(batches).unwrap().to_string()]
}

fn left_over(folder: &TempDir) -> usize {
    files(&folder.path().join("_queries"), "")
}

fn all_queries_are_shared_and_right(settings: &Settings) {
    let wanted = load(settings.clone());
    let _nodes = ["one", "two"].map(|name| Node::start(&settings.storage, &settings.storage_options, name));
    let colony = leader(settings.clone());
    until_alive(&colony, 2);
    let mut shared = 0;
    for (query, wanted) in QUERIES.iter().zip(&wanted) {
        let (batches, stats) = answer(&colony, query);
        let rows = sorted_rows(&batches);
        assert!(same(&rows, wanted), "{query}\nwanted {wanted:?}\nthere is {rows:?}");
        shared += usize::from(stats.nodes == 3);
    }
    assert!(shared >= SHARED, "{shared} queries were shared");
}

#[test]
fn three_nodes_on_a_folder_answer_as_one_does() {
    let folder = folder();
    all_queries_are_shared_and_right(&settings(&folder));
    until("nothing is left of the queries", || left_over(&folder) == 0);
}

#[test]
fn three_nodes_on_s3_answer_as_one_does() {
    all_queries_are_shared_and_right(&ministack::settings("swarm-tpch"));
}

#[test]
fn three_nodes_on_azure_answer_as_one_does() {
    all_queries_are_shared_and_right(&azurite::settings("swarm-tpch"));
}

#[test]
fn a_node_joins_by_pointing_and_leaves_by_ending() {
    let folder = folder();
    let colony = start(settings(&folder));
    assert!(alive(&colony).is_empty());
    let node = Node::on(&folder, "attic");
    until_alive(&colony, 1);
    assert_eq!(alive(&colony), ["attic"]);
    let shown = run(&colony, "SELECT count(*) FROM system.nodes WHERE name = 'attic' AND state = 'alive'");
    assert_eq!(integers(&shown, 0), [1]);
    node.signal("TERM");
    until_alive(&colony, 0);
}

#[test]
fn a_killed_worker_costs_time_and_nothing_else() {
    let folder = folder();
    let wanted = slow(&folder);
    let _steady = Node::on(&folder, "steady");
    let colony = leader(settings(&folder));
    let mut random = fastrand::Rng::with_seed(5);
    for round in 0..3 {
        let mut victim = Node::on(&folder, "victim");
        until_alive(&colony, 2);
        let killed_after = Duration::from_millis(random.u64(50..1200));
        let answer = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(killed_after);
                victim.process.kill().unwrap();
                victim.process.wait().unwrap();
            });
            run(&colony, SLOW)
        });
        assert_eq!(shown(&answer), wanted, "round {round}, killed after {killed_after:?}");
        until("the dead node is noticed", || alive(&colony) == ["steady"]);
    }
    until("nothing is left of the queries", || left_over(&folder) == 0);
}

#[test]
fn a_long_query_of_several_stages_needs_no_second_attempt() {
    let folder = folder();
    slow(&folder);
    let _nodes = ["one", "two", "three"].map(|name| Node::on(&folder, name));
    let colony = leader(settings(&folder));
    until_alive(&colony, 3);
    // On a fast machine it takes more work to be long.
    let mut digests = 1;
    let stats = loop {
        let digest = |i| format!(", min({}CAST(x + {i} AS VARCHAR){})", "sha512(".repeat(30), ")".repeat(30));
        let columns: String = (0..digests).map(digest).collect();
        let sql = format!("SELECT x % 1000 AS g, count(*) AS n{columns} FROM slow GROUP BY 1 ORDER BY 1");
        let started = Instant::now();
        let (rows, stats) = answer(&colony, &sql);
        assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 1000);
        if started.elapsed() > LONG {
            break stats;
        }
        digests *= 2;
    };
    assert_eq!((stats.nodes, stats.retries), (4, 0));
}

#[test]
fn a_stopped_worker_that_wakes_up_late_changes_nothing() {
    let folder = folder();
    let wanted = slow(&folder);
    let zombie = Node::on(&folder, "zombie");
    let _steady = Node::on(&folder, "steady");
    let colony = leader(settings(&folder));
    until_alive(&colony, 2);
    let answer = std::thread::scope(|scope| {
        scope.spawn(|| {
            until("the worker has a task", || {
                let nodes = colony.block_on(colony.swarm()).unwrap();
                nodes.iter().any(|n| n.name == "zombie" && n.tasks > 0)
            });
            zombie.signal("STOP");
        });
        run(&colony, SLOW)
    });
    assert_eq!(shown(&answer), wanted);
    zombie.signal("CONT");
    until_alive(&colony, 2);
    assert_eq!(shown(&run(&colony, SLOW)), wanted);
    until("nothing is left of the queries", || left_over(&folder) == 0);
}

#[test]
fn a_dead_leaders_query_ends_everywhere() {
    let folder = folder();
    slow(&folder);
    let _nodes = ["one", "two"].map(|name| Node::on(&folder, name));
    let watcher = start(settings(&folder));
    until_alive(&watcher, 2);
    let mut leader = Command::new(env!("CARGO_BIN_EXE_apiary-node"))
        .arg("--storage")
        .arg(folder.path())
        .args(["--bees", "1", "--memory", "128MB", "sql", "--distribute", "always", SLOW])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let tasks = || integers(&run(&watcher, "SELECT count(*) FROM system.tasks"), 0)[0];
    until("the workers have tasks", || tasks() > 0);
    leader.kill().unwrap();
    leader.wait().unwrap();
    until("no task runs any more", || tasks() == 0);
    until("nothing is left of the query", || left_over(&folder) == 0);
}

#[test]
fn what_no_node_can_do_is_an_error_with_its_history_and_leaves_nothing() {
    let folder = folder();
    slow(&folder);
    let _node = Node::on(&folder, "one");
    let colony = leader(settings(&folder));
    until_alive(&colony, 1);
    let error = ask(&colony, "SELECT sum(CAST(concat('x', x) AS BIGINT)) FROM slow").unwrap_err();
    assert_eq!(error.kind(), apiary::ErrorKind::InvalidInput, "{error}");
    assert!(error.message().contains("was given up after 1 tries"), "{error}");
    until("nothing is left of the query", || left_over(&folder) == 0);
}

#[test]
fn a_cancelled_query_stops_on_every_node() {
    let folder = folder();
    slow(&folder);
    let _node = Node::on(&folder, "one");
    let colony = leader(settings(&folder));
    until_alive(&colony, 1);
    let started = Instant::now();
    let query = Query::new(SLOW).with_time_limit(Duration::from_millis(300));
    let error = colony.block_on(async { colony.session().query(query).await?.collect().await }).unwrap_err();
    assert_eq!(error.kind(), apiary::ErrorKind::TimedOut, "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
    let tasks = || integers(&run(&colony, "SELECT count(*) FROM system.tasks"), 0)[0];
    until("no task runs any more", || tasks() == 0);
    until("nothing is left of the query", || left_over(&folder) == 0);
}

#[test]
fn rows_computed_by_the_swarm_become_one_commit() {
    let folder = folder();
    slow(&folder);
    let _node = Node::on(&folder, "one");
    let colony = leader(settings(&folder));
    until_alive(&colony, 1);
    run(&colony, "CREATE FRAME halves AS SELECT x / 2 AS h, count(*) AS n FROM slow GROUP BY x / 2");
    assert_eq!(integers(&run(&colony, "SELECT sum(n) FROM halves"), 0), [SLOW_ROWS]);
    let history = colony.block_on(colony.history(&name("halves"), None)).unwrap();
    assert_eq!(history.iter().filter(|entry| entry.operation == "WRITE").count(), 1);
}

#[test]
fn explain_analyze_tells_what_the_swarm_did() {
    let folder = folder();
    slow(&folder);
    let _node = Node::on(&folder, "one");
    let colony = leader(settings(&folder));
    until_alive(&colony, 1);
    let told = shown(&run(&colony, "EXPLAIN ANALYZE SELECT x % 10, count(*) FROM slow GROUP BY x % 10")).join("");
    assert!(told.contains("2 nodes, ") && told.contains(" bytes exchanged, 0 retries"), "{told}");
}

#[test]
fn a_node_that_was_long_alone_takes_part() {
    let folder = folder();
    slow(&folder);
    let _old = Node::on(&folder, "old");
    let colony = leader(settings(&folder));
    until_alive(&colony, 1);
    std::thread::sleep(Duration::from_secs(6));
    let _new = Node::on(&folder, "new");
    until_alive(&colony, 2);
    assert_eq!(answer(&colony, SLOW).1.nodes, 3);
}

#[test]
fn a_meadow_path_is_all_that_is_configured() {
    let folder = folder();
    start(settings(&folder));
    let there = |name: &str| Path::new(folder.path()).join(name).exists();
    assert!(there("_apiary.json") && !there("_heartbeats"), "a node that is not in the swarm writes no heartbeat");
}
