//! The leader's decisions about the tasks of one query: who gets which attempt, when another one starts, and when the
//! query is given up. No I/O and no clock of its own, so that a simulation can drive it through any history.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::names::{NodeId, TaskId};
use super::record::{Failure, FailureKind};

/// Attempts of a task that may fail before the query is given up.
const TRIES: usize = 3;
/// How much longer than the median of its finished siblings a task may run before somebody else tries too.
const STRAGGLER: u32 = 2;
/// Least time of a task that is worth a second attempt.
const STRAGGLER_FLOOR: Duration = Duration::from_secs(2);
/// Added to a node's own promise to look for news: a request each way, and a busy processor.
const PICKUP_SLACK: Duration = Duration::from_secs(3);

/// Time after which a node that had a task and does not say so any more has lost it: its outcome would have come.
const DROPPED: Duration = Duration::from_secs(20);

/// What the board has to know of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The node.
    pub id: NodeId,
    /// Bees that take tasks.
    pub bees: usize,
    /// Memory of one bee, in bytes.
    pub bee_memory: u64,
    /// Longest time until it looks for news.
    pub look: Duration,
    /// Whether it may get new tasks.
    pub fit: bool,
    /// Whether its tasks are to be given to others.
    pub dead: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Give attempt `attempt` of `task` to `node`.
    Assign {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: u32,
        /// Who gets it.
        node: NodeId,
    },
    /// Give the query up.
    Abandon {
        /// What went wrong last.
        failure: Failure,
        /// Every try.
        history: String,
    },
}

/// See the module.
#[derive(Debug, Default)]
pub struct Board {
    tasks: BTreeMap<TaskId, Task>,
    finished: BTreeMap<u32, Vec<Duration>>,
    retries: usize,
    speculations: usize,
}

#[derive(Debug, Default)]
struct Task {
    attempts: Vec<Attempt>,
    done: bool,
}

#[derive(Debug)]
struct Attempt {
    node: NodeId,
    given: Duration,
    /// When the node was first seen to work on it.
    started: Option<Duration>,
    /// When the node was last seen to have it.
    held: Option<Duration>,
    failure: Option<Failure>,
}

impl Board {
    /// A task's first attempt went to `node`.
    pub fn add(&mut self, task: TaskId, node: NodeId, now: Duration) {
        self.tasks.entry(task).or_default().attempts.push(Attempt::new(node, now));
    }

    /// A node was seen to have taken an attempt.
    pub fn held(&mut self, task: TaskId, attempt: u32, now: Duration) {
        if let Some(attempt) = self.attempt(task, attempt) {
            attempt.held = Some(now);
        }
    }

    /// A node was seen to work on an attempt.
    pub fn started(&mut self, task: TaskId, attempt: u32, now: Duration) {
        self.held(task, attempt, now);
        if let Some(attempt) = self.attempt(task, attempt) {
            attempt.started.get_or_insert(now);
        }
    }

    /// An attempt counts.
    pub fn done(&mut self, task: TaskId, attempt: u32, now: Duration) {
        let started = self.attempt(task, attempt).map(|a| a.started.unwrap_or(a.given));
        let Some(entry) = self.tasks.get_mut(&task).filter(|t| !t.done) else { return };
        entry.done = true;
        let took = now.saturating_sub(started.unwrap_or(now));
        self.finished.entry(task.stage).or_default().push(took);
    }

    /// An attempt failed.
    pub fn failed(&mut self, task: TaskId, attempt: u32, failure: Failure) {
        if let Some(attempt) = self.attempt(task, attempt) {
            attempt.failure.get_or_insert(failure);
        }
    }

    /// Whether nothing is left to decide.
    pub fn is_done(&self) -> bool {
        self.tasks.values().all(|t| t.done)
    }

    /// Attempts beyond the first that failures caused, and those that slowness caused.
    pub fn extra_attempts(&self) -> (usize, usize) {
        (self.retries, self.speculations)
    }

    /// Looks at everything at `now`. `runnable` says whether a task's inputs are there: one that waits is not late.
    pub fn decide(&mut self, now: Duration, nodes: &[Candidate], runnable: impl Fn(TaskId) -> bool) -> Vec<Action> {
        let mut load = self.load();
        let mut actions = Vec::new();
        for (id, task) in self.tasks.iter_mut().filter(|(_, t)| !t.done) {
            task.notice_lost(now, nodes);
            let failures = task.failures();
            let last = failures.last().map(|f| (*f).clone());
            let fatal = failures.iter().any(|f| f.kind == FailureKind::Final) || failures.len() >= TRIES;
            if let Some(failure) = last.clone().filter(|_| fatal) {
                actions.push(Action::Abandon { failure, history: task.history(*id) });
                return actions;
            }
            let idle = task.attempts.iter().all(|a| a.failure.is_some());
            let slow = !idle && runnable(*id) && task.is_straggler(now, self.finished.get(&id.stage));
            if !idle && !slow {
                continue;
            }
            let Some(node) = task.choose(nodes, &load, last.as_ref().map(|f| f.kind), slow) else { continue };
            match idle {
                true => self.retries += 1,
                false => self.speculations += 1,
            }
            *load.entry(node.clone()).or_default() += 1;
            actions.push(Action::Assign { task: *id, attempt: task.attempts.len() as u32, node: node.clone() });
            task.attempts.push(Attempt::new(node, now));
        }
        actions
    }

    fn attempt(&mut self, task: TaskId, attempt: u32) -> Option<&mut Attempt> {
        self.tasks.get_mut(&task)?.attempts.get_mut(attempt as usize)
    }

    fn load(&self) -> BTreeMap<NodeId, usize> {
        let mut load = BTreeMap::new();
        let open = self.tasks.values().filter(|t| !t.done).flat_map(|t| &t.attempts);
        for attempt in open.filter(|a| a.failure.is_none()) {
            *load.entry(attempt.node.clone()).or_default() += 1;
        }
        load
    }
}

impl Attempt {
    fn new(node: NodeId, given: Duration) -> Self {
        Self { node, given, started: None, held: None, failure: None }
    }
}

impl Task {
    fn failures(&self) -> Vec<&Failure> {
        self.attempts.iter().filter_map(|a| a.failure.as_ref()).collect()
    }

    /// Gives up on attempts of nodes that are dead, that were to look for news long ago and did not take the task, or that
    /// had it and do not have it any more.
    fn notice_lost(&mut self, now: Duration, nodes: &[Candidate]) {
        for attempt in self.attempts.iter_mut().filter(|a| a.failure.is_none()) {
            let node = nodes.iter().find(|n| n.id == attempt.node);
            let since = |at: Duration| now.saturating_sub(at);
            let message = match node {
                None => "the node left",
                Some(node) if node.dead => "the node's heartbeat stopped",
                Some(node) => match attempt.held {
                    None if since(attempt.given) > node.look * 2 + PICKUP_SLACK => "the node did not take the task",
                    Some(held) if since(held) > node.look * 2 + DROPPED => "the node does not have the task any more",
                    _ => continue,
                },
            };
            let node = attempt.node.clone();
            attempt.failure =
                Some(Failure { node, kind: FailureKind::Lost, error: String::new(), message: message.into() });
        }
    }

    fn is_straggler(&self, now: Duration, finished: Option<&Vec<Duration>>) -> bool {
        let Some(mut times) = finished.cloned() else { return false };
        let [only] = &self.attempts[..] else { return false };
        let Some(started) = only.started else { return false };
        times.sort_unstable();
        let median = times[times.len() / 2];
        now.saturating_sub(started) > (median * STRAGGLER).max(STRAGGLER_FLOOR)
    }

    /// The least loaded fit node that has not tried yet; after too little memory the one with the most. A node that
    /// failed may try again when there is no other, but never beside an attempt of its own that still runs.
    fn choose(
        &self,
        nodes: &[Candidate],
        load: &BTreeMap<NodeId, usize>,
        last: Option<FailureKind>,
        beside: bool,
    ) -> Option<NodeId> {
        let tried: HashSet<&NodeId> = self.attempts.iter().map(|a| &a.node).collect();
        let fit = || nodes.iter().filter(|n| n.fit && n.bees > 0);
        let by_load = |n: &&Candidate| (load.get(&n.id).copied().unwrap_or(0) * 1000 / n.bees.max(1), n.id.clone());
        let fresh = || fit().filter(|n| !tried.contains(&n.id));
        let chosen = match last {
            Some(FailureKind::Memory) => fit().max_by_key(|n| (n.bee_memory, !tried.contains(&n.id))),
            _ => fresh().min_by_key(by_load),
        };
        let again = || fit().filter(|_| !beside).min_by_key(by_load);
        chosen.or_else(again).map(|n| n.id.clone())
    }

    fn history(&self, id: TaskId) -> String {
        let tries: Vec<String> = self.failures().iter().map(|f| format!("{}: {}", f.node, f.message)).collect();
        let advice = match self.failures().last().map(|f| f.kind) {
            Some(FailureKind::Memory) => "give the bees more memory, or use fewer bees on a node",
            Some(FailureKind::Lost) => "look at the nodes' own logs, or ask again",
            _ => "look at the first error",
        };
        format!("task {id} was given up after {} tries ({}): {advice}", tries.len(), tries.join("; "))
    }
}

#[cfg(test)]
mod tests;
