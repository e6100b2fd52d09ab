//! The leader's decisions about the tasks of one query: who gets which attempt, when another one starts, and when the
//! query is given up. No I/O and no clock of its own, so that a simulation can drive it through any history.
//!
//! A stage has more tasks than bees when there is enough to do. Each is given to a node at once, so that nobody waits for
//! the leader, and those that a node has not begun move to nodes that are done: a slow node ends up with few.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::names::{NodeId, TaskId};
use super::record::{Failure, FailureKind};

/// Attempts of a task that may fail before the query is given up.
const TRIES: usize = 3;
/// How much longer than the median of its finished siblings a task may run before somebody else tries too.
const STRAGGLER: u32 = 2;
/// Added to it: the looks until a node knows of its task and the leader of its end.
const STRAGGLER_SLACK: Duration = Duration::from_secs(1);
/// Added to a node's own promise to look for news: a request each way, and a busy processor.
const PICKUP_SLACK: Duration = Duration::from_secs(3);
/// Time that a node has to begin what it was given before others may take it over: a stage is given task by task.
const UNTOUCHED: Duration = Duration::from_secs(1);
/// Attempts of a task that may be alive at the same time.
const RIVALS: usize = 3;

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
    /// How long the finished tasks of each stage ran, the shortest first.
    finished: BTreeMap<u32, Vec<Duration>>,
    /// When each node was last seen to have finished a task.
    last_done: BTreeMap<NodeId, Duration>,
    extra: Extra,
}

/// Attempts beyond the first of each task, by their reason.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Extra {
    /// Another one failed.
    pub retries: usize,
    /// Another one was slow.
    pub speculations: usize,
    /// Another one had not begun when this node had nothing to do.
    pub moves: usize,
}

#[derive(Debug, Default)]
struct Task {
    attempts: Vec<Attempt>,
    /// When its inputs were first seen to be there.
    runnable: Option<Duration>,
    done: bool,
}

#[derive(Debug)]
struct Attempt {
    node: NodeId,
    given: Duration,
    /// The earliest that the node can have begun it, once it was seen to work on it.
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
        let Some(attempt) = self.tasks.get_mut(&task).and_then(|t| t.attempts.get_mut(attempt as usize)) else {
            return;
        };
        // The news may be old: all that is sure is that its node was done with another before.
        let before = self.last_done.get(&attempt.node).copied().unwrap_or_default();
        attempt.started.get_or_insert(before.max(attempt.given));
    }

    /// An attempt of `node` counts; it ran for `took`.
    pub fn done(&mut self, task: TaskId, node: &NodeId, took: Duration, now: Duration) {
        let Some(entry) = self.tasks.get_mut(&task).filter(|t| !t.done) else { return };
        entry.done = true;
        self.last_done.insert(node.clone(), now);
        let times = self.finished.entry(task.stage).or_default();
        times.insert(times.partition_point(|time| *time < took), took);
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

    /// Attempts beyond the first.
    pub fn extra_attempts(&self) -> Extra {
        self.extra
    }

    /// Looks at everything at `now`. `runnable` says whether a task's inputs are there: one that waits for them is not late.
    pub fn decide(&mut self, now: Duration, nodes: &[Candidate], runnable: impl Fn(TaskId) -> bool) -> Vec<Action> {
        let mut load = self.load();
        let mut actions = Vec::new();
        for (id, task) in self.tasks.iter_mut().filter(|(_, t)| !t.done) {
            if task.runnable.is_none() && runnable(*id) {
                task.runnable = Some(now);
            }
            task.notice_lost(now, nodes);
            let failures = task.failures();
            let last = failures.last().map(|f| (*f).clone());
            let alive = task.alive().next().is_some();
            let wrong = failures.iter().any(|f| f.kind == FailureKind::Final);
            let fatal = wrong || (failures.len() >= TRIES && !alive);
            if let Some(failure) = last.clone().filter(|_| fatal) {
                actions.push(Action::Abandon { failure, history: task.history(*id) });
                return actions;
            }
            if alive {
                continue;
            }
            let Some(node) = task.another(nodes, &load, last.map(|f| f.kind)) else { continue };
            self.extra.retries += 1;
            *load.entry(node.clone()).or_default() += 1;
            actions.push(task.assign(*id, node, now));
        }
        let mut busy = self.busy();
        actions.extend(std::iter::from_fn(|| self.relieve(now, nodes, &mut busy)));
        actions.extend(std::iter::from_fn(|| self.speculate(now, nodes, &mut busy)));
        actions
    }

    /// Gives one task that is late to a node that has a bee to spare, too.
    fn speculate(&mut self, now: Duration, nodes: &[Candidate], busy: &mut BTreeMap<NodeId, usize>) -> Option<Action> {
        let (finished, last_done) = (&self.finished, &self.last_done);
        let open = self.tasks.iter_mut().filter(|(_, t)| !t.done && t.alive().next().is_some());
        let is_late = |id: &TaskId, task: &Task| {
            finished.get(&id.stage).is_some_and(|siblings| task.is_late(now, siblings, last_done))
        };
        let mut late = open.filter(|(id, task)| is_late(id, task));
        let (node, id, task) = late.find_map(|(id, task)| Some((task.rival(nodes, busy)?, id, task)))?;
        self.extra.speculations += 1;
        *busy.entry(node.clone()).or_default() += 1;
        Some(task.assign(*id, node, now))
    }

    /// Moves one task that waits behind others on its node to one that has less to do.
    fn relieve(&mut self, now: Duration, nodes: &[Candidate], busy: &mut BTreeMap<NodeId, usize>) -> Option<Action> {
        let mut fit: Vec<_> = nodes.iter().filter(|n| n.fit && n.bees > 0).collect();
        fit.sort_by_key(|n| (per_bee(tasks_of(busy, n), n), &n.id));
        fit.into_iter().find_map(|idle| self.relieve_for(idle, now, nodes, busy))
    }

    fn relieve_for(
        &mut self,
        idle: &Candidate,
        now: Duration,
        nodes: &[Candidate],
        busy: &mut BTreeMap<NodeId, usize>,
    ) -> Option<Action> {
        let has = |node: &Candidate| tasks_of(busy, node);
        // Ahead of its last task, so that it comes before that runs out; a small lead may be gone before the move is known.
        let is_ahead = |owner: &Candidate| {
            has(idle) < idle.bees || per_bee(has(owner), owner) >= per_bee(has(idle) + 2 * idle.bees, idle)
        };
        let rank = |id: TaskId, task: &Task| {
            let owner = nodes.iter().find(|n| Some(&n.id) == task.owner())?;
            let behind = owner.id != idle.id && has(owner) > owner.bees && is_ahead(owner);
            // A node begins with its first task: the last is the one that it comes to latest.
            (behind && task.is_untouched(now, &idle.id)).then(|| (per_bee(has(owner), owner), id))
        };
        let open = self.tasks.iter_mut().filter(|(_, t)| !t.done);
        let ranked = open.filter_map(|(id, task)| Some((rank(*id, task)?, task)));
        let ((_, id), task) = ranked.max_by_key(|(rank, _)| *rank)?;
        if let Some(count) = task.owner().and_then(|owner| busy.get_mut(owner)) {
            *count -= 1;
        }
        *busy.entry(idle.id.clone()).or_default() += 1;
        self.extra.moves += 1;
        Some(task.assign(id, idle.id.clone(), now))
    }

    fn attempt(&mut self, task: TaskId, attempt: u32) -> Option<&mut Attempt> {
        self.tasks.get_mut(&task)?.attempts.get_mut(attempt as usize)
    }

    /// Tasks of each node that could run now: those of which it got the latest attempt.
    fn busy(&self) -> BTreeMap<NodeId, usize> {
        let mut busy = BTreeMap::new();
        let open = self.tasks.values().filter(|task| !task.done && task.runnable.is_some());
        for owner in open.filter_map(Task::owner) {
            *busy.entry(owner.clone()).or_default() += 1;
        }
        busy
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

fn tasks_of(counts: &BTreeMap<NodeId, usize>, node: &Candidate) -> usize {
    counts.get(&node.id).copied().unwrap_or(0)
}

/// Tasks of `node` for each of its bees, in thousandths.
fn per_bee(tasks: usize, node: &Candidate) -> usize {
    tasks * 1000 / node.bees.max(1)
}

impl Task {
    fn assign(&mut self, id: TaskId, node: NodeId, now: Duration) -> Action {
        let attempt = self.attempts.len() as u32;
        self.attempts.push(Attempt::new(node.clone(), now));
        Action::Assign { task: id, attempt, node }
    }

    fn alive(&self) -> impl DoubleEndedIterator<Item = &Attempt> {
        self.attempts.iter().filter(|a| a.failure.is_none())
    }

    /// The node that was given it last.
    fn owner(&self) -> Option<&NodeId> {
        self.alive().next_back().map(|a| &a.node)
    }

    /// Whether nobody is known to have begun it, although there was time to, and `node` never had it.
    fn is_untouched(&self, now: Duration, node: &NodeId) -> bool {
        let Some(runnable) = self.runnable else { return false };
        let waits = |a: &Attempt| a.started.is_none() && now.saturating_sub(a.given.max(runnable)) > UNTOUCHED;
        self.alive().all(waits) && self.alive().count() < RIVALS && self.attempts.iter().all(|a| a.node != *node)
    }

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

    /// Whether all its attempts take much longer than its finished siblings did.
    fn is_late(&self, now: Duration, siblings: &[Duration], last_done: &BTreeMap<NodeId, Duration>) -> bool {
        let (Some(runnable), Some(median)) = (self.runnable, siblings.get(siblings.len() / 2)) else { return false };
        // A beat may not have told it yet.
        let earliest = |a: &Attempt| last_done.get(&a.node).copied().unwrap_or_default().max(a.given);
        let begun = |a: &Attempt| a.started.unwrap_or_else(|| earliest(a)).max(runnable);
        let limit = *median * STRAGGLER + STRAGGLER_SLACK;
        self.alive().count() < RIVALS && self.alive().all(|a| now.saturating_sub(begun(a)) > limit)
    }

    /// Who tries again after a failure: the least loaded fit node that has not tried yet; after too little memory the one
    /// with the most. A node that failed may try again when there is no other.
    fn another(
        &self,
        nodes: &[Candidate],
        load: &BTreeMap<NodeId, usize>,
        last: Option<FailureKind>,
    ) -> Option<NodeId> {
        let tried: HashSet<&NodeId> = self.attempts.iter().map(|a| &a.node).collect();
        let fit = || nodes.iter().filter(|n| n.fit && n.bees > 0);
        let by_load = |n: &&Candidate| (per_bee(tasks_of(load, n), n), n.id.clone());
        let fresh = || fit().filter(|n| !tried.contains(&n.id));
        let chosen = match last {
            Some(FailureKind::Memory) => fit().max_by_key(|n| (n.bee_memory, !tried.contains(&n.id))),
            _ => fresh().min_by_key(by_load),
        };
        chosen.or_else(|| fit().min_by_key(by_load)).map(|n| n.id.clone())
    }

    /// Who tries beside an attempt that is slow: a fit node that has a bee to spare and has not tried yet.
    fn rival(&self, nodes: &[Candidate], busy: &BTreeMap<NodeId, usize>) -> Option<NodeId> {
        let has = |n: &Candidate| tasks_of(busy, n);
        let fresh = |n: &&Candidate| n.fit && has(n) < n.bees && self.attempts.iter().all(|a| a.node != n.id);
        nodes.iter().filter(fresh).min_by_key(|n| (per_bee(has(n), n), &n.id)).map(|n| n.id.clone())
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
