//! Colonies in the Systems, runtimes and processes of others: they start, stop and go without leaving or taking anything.

use actix_rt::{Arbiter, System};
use apiary::{Colony, ErrorKind, WriteMode};
use tokio::runtime::Runtime;

use crate::support::{ask, folder, integers, name, numbers, refusal, rows, run, settings, start, values, write};

#[test]
fn a_colony_lives_in_the_system_of_its_embedder_and_leaves_it_running() {
    let folder = folder();
    let settings = settings(&folder);
    System::new().block_on(async {
        let colony = Colony::start_in(&Arbiter::current(), settings).await.unwrap();
        let answer = colony.sql("SELECT 1 + 1").await.unwrap().collect().await.unwrap();
        assert_eq!(integers(&answer, 0), [2]);
        shut_down(&colony).await;
        assert_eq!(refusal(colony.sql("SELECT 1").await), ErrorKind::Closed);
        drop(colony);

        assert_eq!(actix_rt::spawn(async { 7 }).await.unwrap(), 7);
        let arbiter = Arbiter::new();
        assert!(arbiter.spawn(async {}));
        arbiter.stop();
        arbiter.join().unwrap();
    });
}

#[test]
fn two_colonies_live_in_one_system_on_arbiters_of_their_own() {
    let (one, other) = (folder(), folder());
    let (first, second) = (settings(&one), settings(&other));
    System::new().block_on(async {
        let arbiter = Arbiter::new();
        let a = Colony::start_in(&arbiter.handle(), first).await.unwrap();
        let b = Colony::start_in(&Arbiter::current(), second).await.unwrap();
        a.sql("CREATE FRAME t (x BIGINT)").await.unwrap().collect().await.unwrap();
        a.write(&name("t"), rows(vec![numbers(0..3)]), WriteMode::Append).await.unwrap();
        let answer = a.sql("SELECT count(*) FROM t").await.unwrap().collect().await.unwrap();
        assert_eq!(integers(&answer, 0), [3]);
        assert_eq!(refusal(b.sql("SELECT count(*) FROM t").await), ErrorKind::NotFound);
        shut_down(&a).await;
        assert!(b.sql("SELECT 1").await.is_ok(), "one colony's end stopped the other");
        shut_down(&b).await;
        arbiter.stop();
        arbiter.join().unwrap();
    });
}

#[test]
fn an_arbiter_that_stopped_takes_no_colony() {
    let folder = folder();
    let settings = settings(&folder);
    System::new().block_on(async {
        let arbiter = Arbiter::new();
        let handle = arbiter.handle();
        arbiter.stop();
        arbiter.join().unwrap();
        assert_eq!(refusal(Colony::start_in(&handle, settings).await), ErrorKind::Closed);
    });
}

#[test]
fn two_colonies_of_one_process_share_a_folder_or_nothing() {
    let (shared, own) = (folder(), folder());
    let (a, b, c) = (start(settings(&shared)), start(settings(&shared)), start(settings(&own)));
    run(&a, "CREATE FRAME t (x BIGINT)");
    write(&a, "t", numbers(0..3), WriteMode::Append).unwrap();
    assert_eq!(values(&b, "t"), [0, 1, 2]);
    assert_eq!(refusal(ask(&c, "SELECT * FROM t")), ErrorKind::NotFound);
    a.shutdown().unwrap();
    assert_eq!(values(&b, "t"), [0, 1, 2]);
}

#[test]
fn a_shutdown_is_for_all_handles_and_again_is_no_error() {
    let folder = folder();
    let colony = Colony::start(settings(&folder)).unwrap();
    run(&colony, "CREATE FRAME t (x BIGINT)");
    let other = colony.clone();
    colony.shutdown().unwrap();
    other.shutdown().unwrap();
    assert_eq!(refusal(ask(&other, "SELECT 1")), ErrorKind::Closed);
    assert_eq!(refusal(write(&other, "t", numbers(0..1), WriteMode::Append)), ErrorKind::Closed);
    assert_eq!(refusal(other.block_on(other.frames())), ErrorKind::Closed);
}

#[test]
fn a_colony_may_be_dropped_inside_a_runtime() {
    let folder = folder();
    let colony = Colony::start(settings(&folder)).unwrap();
    Runtime::new().unwrap().block_on(async move {
        let answer = colony.sql("SELECT 1 + 1").await.unwrap().collect().await.unwrap();
        assert_eq!(integers(&answer, 0), [2]);
        drop(colony);
    });
}

#[test]
fn a_setting_that_cannot_be_is_refused_before_anything_starts() {
    let folder = folder();
    for settings in [settings(&folder).with_bees(0), settings(&folder).with_memory(1 << 20)] {
        assert_eq!(refusal(Colony::start(settings)), ErrorKind::InvalidInput);
    }
    assert!(!folder.path().join("_apiary.json").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn the_threads_of_a_colony_end_with_its_last_handle() {
    crate::support::alone("embed::the_threads_of_a_colony_end_with_its_last_handle", || {
        let folder = folder();
        for shut_down in [false, true] {
            let colony = Colony::start(settings(&folder)).unwrap();
            run(&colony, "SELECT 1");
            let other = colony.clone();
            drop(colony);
            assert!(threads() >= 4, "two bees, their colony and its storage need threads: {}", threads());
            run(&other, "SELECT 1");
            if shut_down {
                other.shutdown().unwrap();
            }
            drop(other);
            crate::support::until("no thread of a colony is left", || threads() == 0);
        }
    });
}

/// Threads of colonies in this process: the names that actix and we give them, as far as Linux keeps them.
#[cfg(target_os = "linux")]
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("apiary") || name.starts_with("actix-rt")).count()
}

/// A shutdown waits, so it must not wait on a thread whose actors it waits for.
async fn shut_down(colony: &Colony) {
    let colony = colony.clone();
    actix_rt::task::spawn_blocking(move || colony.shutdown()).await.unwrap().unwrap();
}
