//! The behaviours of actix that we rely on, pinned: an upgrade that changes one fails here and not in a bee.

use std::sync::mpsc;
use std::time::Duration;

use actix::prelude::SendError;
use actix::{Actor, Addr, Arbiter, Context, Handler, MailboxError, Message, System};

/// Longest wait for another thread.
const PATIENCE: Duration = Duration::from_secs(10);

/// Counts bumps.
#[derive(Default)]
struct Counter {
    bumps: usize,
}

impl Actor for Counter {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype(result = "()")]
struct Bump;

#[derive(Message)]
#[rtype(result = "usize")]
struct Count;

#[derive(Message)]
#[rtype(result = "()")]
struct Burst;

impl Handler<Bump> for Counter {
    type Result = ();

    fn handle(&mut self, _: Bump, _: &mut Self::Context) {
        self.bumps += 1;
    }
}

impl Handler<Count> for Counter {
    type Result = usize;

    fn handle(&mut self, _: Count, _: &mut Self::Context) -> usize {
        self.bumps
    }
}

impl Handler<Burst> for Counter {
    type Result = ();

    fn handle(&mut self, _: Burst, _: &mut Self::Context) {
        burst();
    }
}

fn burst() {
    panic!("burst, as this test wants it");
}

#[test]
fn a_panicked_handler_leaves_its_callers_closed_and_its_arbiter_running() {
    System::new().block_on(async {
        let arbiter = Arbiter::new();
        let addr = counter_on(&arbiter);
        assert!(matches!(addr.send(Burst).await, Err(MailboxError::Closed)));
        assert!(matches!(addr.send(Count).await, Err(MailboxError::Closed)));
        assert!(!addr.connected());
        assert_eq!(counter_on(&arbiter).send(Count).await.unwrap(), 0);
        end(arbiter);
    });
}

#[test]
fn a_panicked_task_does_not_end_its_arbiter() {
    System::new().block_on(async {
        let arbiter = Arbiter::new();
        assert!(arbiter.spawn(async { burst() }));
        let inside = actix_rt::spawn(async { burst() });
        assert!(inside.await.unwrap_err().is_panic());
        assert_eq!(counter_on(&arbiter).send(Count).await.unwrap(), 0);
        end(arbiter);
    });
}

#[test]
fn do_send_to_a_full_mailbox_is_accepted() {
    System::new().block_on(async {
        let addr = Counter::default().start();
        for _ in 0..100 {
            addr.do_send(Bump);
        }
        assert!(addr.try_send(Bump).is_ok(), "each sender has a place of its own");
        assert!(matches!(addr.try_send(Bump), Err(SendError::Full(_))));
        assert_eq!(addr.clone().send(Count).await.unwrap(), 101);
    });
}

#[test]
fn a_send_that_is_dropped_cancels_its_message() {
    System::new().block_on(async {
        let addr = Counter::default().start();
        drop(addr.send(Bump));
        assert_eq!(addr.send(Count).await.unwrap(), 0);
    });
}

#[test]
fn a_dropped_arbiter_goes_on() {
    System::new().block_on(async {
        let arbiter = Arbiter::new();
        let handle = arbiter.handle();
        drop(arbiter);
        let (sender, receiver) = mpsc::channel();
        assert!(handle.spawn_fn(move || sender.send(7).unwrap()));
        assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), 7);
        handle.stop();
    });
}

#[test]
fn send_works_from_a_thread_without_a_system() {
    System::new().block_on(async {
        let arbiter = Arbiter::new();
        let addr = counter_on(&arbiter);
        let foreign = std::thread::spawn(move || {
            futures::executor::block_on(addr.send(Bump)).unwrap();
            futures::executor::block_on(addr.send(Count)).unwrap()
        });
        assert_eq!(foreign.join().unwrap(), 1);
        end(arbiter);
    });
}

#[test]
fn an_arbiter_is_not_made_without_a_system() {
    assert!(std::thread::spawn(|| end(Arbiter::new())).join().is_err());
}

#[test]
fn a_stopped_arbiter_takes_no_work() {
    System::new().block_on(async {
        let arbiter = Arbiter::new();
        let handle = arbiter.handle();
        end(arbiter);
        assert!(!handle.spawn(async {}));
    });
}

fn counter_on(arbiter: &Arbiter) -> Addr<Counter> {
    Counter::start_in_arbiter(&arbiter.handle(), |_| Counter::default())
}

fn end(arbiter: Arbiter) {
    arbiter.stop();
    arbiter.join().unwrap();
}
