//! What a node does when there is much to do: short queries pass by long ones, a hot node holds writes back.

use std::time::{Duration, Instant};

use apiary::actors::temperature::Band;
use apiary::actors::{Backpressure, WriteOptions};
use apiary::{Colony, ErrorKind, Settings, WriteMode, WriteResult};

use crate::support::{ask, folder, integers, name, numbers, rows, run, settings, start, status, until, values, write};

/// Holds most of a bee's memory, for hours.
const HEAVY: &str = "SELECT sum(length(a.t || b.t)) FROM wide a, wide b";
/// Must wait for its turn.
const LONG: &str = "SELECT sum(length(t)) FROM wide";

#[test]
fn a_hot_node_holds_writes_back_until_it_is_cooler() {
    let folder = folder();
    let waiting = 39;
    let one_at_a_time = Settings { max_queries: Some(1), queue: waiting + 1, ..settings(&folder) };
    let colony = start(one_at_a_time.with_bees(1).with_memory(64 << 20));
    fill(&colony, 70_000);
    let written = |backpressure| -> apiary::Result<WriteResult> {
        let rows = rows(vec![numbers(0..1)]);
        colony.block_on(colony.write_with(
            &name("small"),
            rows,
            WriteOptions { mode: WriteMode::Append, backpressure, evolve: false },
        ))
    };
    std::thread::scope(|scope| {
        let heavy = colony.block_on(colony.sql(HEAVY)).unwrap();
        let waiting: Vec<_> = (0..waiting).map(|_| scope.spawn(|| ask(&colony, LONG).map(|_| ()))).collect();
        until("the node is hot", || status(&colony).band >= Band::Hot);
        let refused = written(Backpressure::Error).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
        assert!(refused.retry_after().is_some() && refused.message().contains("temperature"), "{refused}");
        // What goes on all the same, and what is short.
        let result = written(Backpressure::Ignore).unwrap();
        assert!(result.temperature > 0.7, "{result:?}");
        assert_eq!(values(&colony, "small"), [0, 0]);
        let blocked = scope.spawn(|| (written(Backpressure::Block), Instant::now()));
        std::thread::sleep(Duration::from_millis(300));
        let cooled = Instant::now();
        drop(heavy);
        let (result, at) = blocked.join().unwrap();
        result.unwrap();
        assert!(at > cooled, "a write that blocks went on while the node was hot");
        waiting.into_iter().for_each(|query| query.join().unwrap().unwrap());
    });
    until("the node is cold", || status(&colony).band == Band::Cold);
    written(Backpressure::Error).unwrap();
    assert_eq!(values(&colony, "small").len(), 4);
}

#[test]
fn short_queries_pass_by_long_ones() {
    let folder = folder();
    let colony = start(Settings { max_queries: Some(1), ..settings(&folder) }.with_bees(1).with_memory(128 << 20));
    fill(&colony, 75_000);
    let _heavy = colony.block_on(colony.sql(HEAVY)).unwrap();
    std::thread::scope(|scope| {
        let long = scope.spawn(|| ask(&colony, LONG));
        until("a long query waits", || status(&colony).queries_waiting == 1);
        for _ in 0..20 {
            assert_eq!(integers(&run(&colony, "SELECT x FROM small"), 0), [0]);
            run(&colony, "SELECT * FROM system.queries");
        }
        assert_eq!(status(&colony).queries_waiting, 1);
        colony.shutdown().unwrap();
        assert!(long.join().unwrap().is_err());
    });
}

#[test]
fn backpressure_is_a_word_of_three() {
    let folder = folder();
    let colony = start(settings(&folder));
    let session = colony.session();
    let ask = |sql: &str| colony.block_on(async { session.sql(sql).await?.collect().await });
    for word in ["block", "error", "ignore"] {
        ask(&format!("SET backpressure = '{word}'")).unwrap();
    }
    let error = ask("SET backpressure = 'maybe'").unwrap_err();
    assert!(error.message().contains("block, error or ignore"), "{error}");
}

/// The frame `wide` of so many rows of 512 characters, and the frame `small` of one.
fn fill(colony: &Colony, wide: usize) {
    let text = "repeat(md5(CAST(value AS VARCHAR)), 16)";
    run(colony, &format!("CREATE FRAME wide AS SELECT value AS k, {text} AS t FROM generate_series(1, {wide})"));
    run(colony, "CREATE FRAME small (x BIGINT)");
    write(colony, "small", numbers(0..1), WriteMode::Append).unwrap();
}
