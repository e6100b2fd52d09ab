//! The leader's decisions about the tasks of one query: who gets which attempt, when another one starts, and when the
//! query is given up. No I/O and no clock of its own, so that a simulation can drive it through any history.
//!
//! A stage has more tasks than bees when there is enough to do. Each is given to a node at once, so that nobody waits for
//! the leader, and those that a node has not begun move to nodes that will be done with theirs earlier. How long that is
//! follows from how many tasks a node has and from its pace, by what it did of this query: a slow node ends up with few,
//! and one that it has begun is also done by a node with nothing to do, which is expected to be done earlier.

mod times;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use self::times::Times;
use super::names::{NodeId, TaskId};
use super::record::{Failure, FailureKind};

/// Attempts of a task that may fail before the query is given up.
const TRIES: usize = 3;
/// Added to what a second attempt is expected to take: the looks until a node knows of its task and the leader of its end.
const STRAGGLER_SLACK: Duration = Duration::from_secs(1);
/// Added to a node's own promise to look for news: a request each way, and a busy processor.
const PICKUP_SLACK: Duration = Duration::from_secs(3);
/// Time that a node has to begin what it was given before others may take it over: a stage is given task by task.
const UNTOUCHED: Duration = Duration::from_secs(1);
/// Which part of an expected time it may be off by at least: a pace differs from task to task, and a rival costs little where
/// there is nothing else to do.
const DOUBT: u32 = 3;
/// Pace from which on a node has none: it can have begun little, and stages of short tasks are over in that time.
const SLOW: f64 = 2.0;
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
    /// How long finished tasks ran.
    times: Times,
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
        let others = entry.alive().filter(|a| a.node != *node).map(|a| &a.node);
        let beaten: Vec<_> = others.filter_map(|other| Some((other.clone(), entry.ran(now, other)?))).collect();
        self.last_done.insert(node.clone(), now);
        self.times.add(task.stage, node, took);
        beaten.iter().for_each(|(other, ran)| self.times.beaten(task.stage, other, *ran));
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
        let mut work = self.work(now, nodes);
        actions.extend(std::iter::from_fn(|| self.relieve(now, nodes, &mut work)));
        actions.extend(std::iter::from_fn(|| self.speculate(now, nodes, &mut work)));
        actions
    }

    /// Gives one task to a node that has a bee to spare, too, if that is expected to be done with it earlier than all that
    /// work on it; of several the one that would be done last.
    fn speculate(&mut self, now: Duration, nodes: &[Candidate], work: &mut Work) -> Option<Action> {
        let (times, last_done) = (&self.times, &self.last_done);
        let late = |id: TaskId, task: &Task| {
            let (left, usual) = (task.left(now, id.stage, times, last_done)?, times.usual(id.stage)?);
            let rival = task.rival(nodes, work)?;
            let needs = usual.mul_f64(work.pace(rival)) + STRAGGLER_SLACK;
            (left > needs).then(|| (left, rival.id.clone()))
        };
        let open = self.tasks.iter_mut().filter(|(_, t)| !t.done && t.alive().next().is_some());
        let late = open.filter_map(|(id, task)| Some((late(*id, task)?, id, task)));
        let ((_, node), id, task) = late.max_by_key(|((left, _), id, _)| (*left, std::cmp::Reverse(**id)))?;
        self.extra.speculations += 1;
        work.gets(&node);
        Some(task.assign(*id, node, now))
    }

    /// Moves one task that waits behind others on its node to one that will be done with its own earlier.
    fn relieve(&mut self, now: Duration, nodes: &[Candidate], work: &mut Work) -> Option<Action> {
        let mut fit: Vec<_> = nodes.iter().filter(|n| n.fit && n.bees > 0).collect();
        fit.sort_by(|a, b| work.ahead(a, 0).total_cmp(&work.ahead(b, 0)).then_with(|| a.id.cmp(&b.id)));
        fit.into_iter().find_map(|idle| self.relieve_for(idle, now, nodes, work))
    }

    fn relieve_for(&mut self, idle: &Candidate, now: Duration, nodes: &[Candidate], work: &mut Work) -> Option<Action> {
        // Ahead of its last task, so that it comes before that runs out; a small lead may be gone before the move is known.
        let is_ahead = |owner: &Candidate| match work.tasks(idle) < idle.bees {
            true => work.ahead(owner, 0) > work.ahead(idle, 1),
            false => work.ahead(owner, 0) >= work.ahead(idle, 2 * idle.bees),
        };
        let rank = |id: TaskId, task: &Task| {
            let owner = nodes.iter().find(|n| Some(&n.id) == task.owner())?;
            let is_slow = work.pace(owner) >= SLOW;
            // Its last is as good as begun, but for a slow node beside one with nothing to do.
            let waits = work.tasks(owner) > owner.bees || (is_slow && work.tasks(idle) < idle.bees);
            let behind = owner.id != idle.id && waits && is_ahead(owner);
            let patience = if is_slow { Duration::ZERO } else { UNTOUCHED };
            // A node begins with what it got first: it comes to the last latest.
            (behind && task.is_untouched(now, &idle.id, patience)).then(|| (work.ahead(owner, 0), task.given(), id))
        };
        let open = self.tasks.iter_mut().filter(|(_, t)| !t.done);
        let ranked = open.filter_map(|(id, task)| Some((rank(*id, task)?, task)));
        let later = |(a, given, id): &(f64, Duration, TaskId), (b, other, than): &(f64, Duration, TaskId)| {
            a.total_cmp(b).then_with(|| (given, id).cmp(&(other, than)))
        };
        let ((.., id), task) = ranked.max_by(|(a, _), (b, _)| later(a, b))?;
        if let Some(owner) = task.owner() {
            work.loses(owner);
        }
        work.gets(&idle.id);
        self.extra.moves += 1;
        Some(task.assign(id, idle.id.clone(), now))
    }

    fn attempt(&mut self, task: TaskId, attempt: u32) -> Option<&mut Attempt> {
        self.tasks.get_mut(&task)?.attempts.get_mut(attempt as usize)
    }

    /// What each node has to do now, and how fast it is.
    fn work(&self, now: Duration, nodes: &[Candidate]) -> Work {
        let mut work = Work::default();
        let open = || self.tasks.iter().filter(|(_, task)| !task.done && task.runnable.is_some());
        for holder in open().flat_map(|(_, task)| task.holders()) {
            work.gets(holder);
        }
        for node in nodes {
            let running = open().flat_map(|(id, task)| task.ran(now, &node.id).map(|ran| (id.stage, ran)));
            work.paces.insert(node.id.clone(), self.times.pace_with(&node.id, running));
        }
        work
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

/// What the nodes have to do, while it is decided who does more.
#[derive(Default)]
struct Work {
    /// Tasks of each node that could run now: those of which it got the latest attempt, and those that it works on.
    tasks: BTreeMap<NodeId, usize>,
    /// See [`Times::pace_with`].
    paces: BTreeMap<NodeId, f64>,
}

impl Work {
    fn gets(&mut self, node: &NodeId) {
        *self.tasks.entry(node.clone()).or_default() += 1;
    }

    fn loses(&mut self, node: &NodeId) {
        if let Some(count) = self.tasks.get_mut(node) {
            *count = count.saturating_sub(1);
        }
    }

    fn tasks(&self, node: &Candidate) -> usize {
        tasks_of(&self.tasks, node)
    }

    fn pace(&self, node: &Candidate) -> f64 {
        self.paces.get(&node.id).copied().unwrap_or(1.0)
    }

    /// How long `node` works on its tasks and so many more, in usual times of one.
    fn ahead(&self, node: &Candidate, more: usize) -> f64 {
        (self.tasks(node) + more) as f64 * self.pace(node) / node.bees.max(1) as f64
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

    /// When its owner got it.
    fn given(&self) -> Duration {
        self.alive().next_back().map(|a| a.given).unwrap_or_default()
    }

    /// The nodes that work on it, and the one that was given it last.
    fn holders(&self) -> impl Iterator<Item = &NodeId> {
        let last = self.alive().next_back().map(|a| &a.node);
        let started = self.alive().filter(move |a| a.started.is_some() && Some(&a.node) != last);
        started.map(|a| &a.node).chain(last)
    }

    /// How long `node` has worked on it, if it is known to.
    fn ran(&self, now: Duration, node: &NodeId) -> Option<Duration> {
        let runnable = self.runnable?;
        let started = self.alive().find(|a| a.node == *node)?.started?;
        Some(now.saturating_sub(started.max(runnable)))
    }

    /// Whether nobody is known to have begun it, although there was time to, and `node` never had it.
    fn is_untouched(&self, now: Duration, node: &NodeId, patience: Duration) -> bool {
        let Some(runnable) = self.runnable else { return false };
        let in_time = |a: &Attempt| !patience.is_zero() && now.saturating_sub(a.given.max(runnable)) <= patience;
        let waits = |a: &Attempt| a.started.is_none() && !in_time(a);
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

    /// How much longer its attempts are to be expected to take, the first of them to end. One that is overdue is expected to
    /// be so for as long again.
    fn left(
        &self,
        now: Duration,
        stage: u32,
        times: &Times,
        last_done: &BTreeMap<NodeId, Duration>,
    ) -> Option<Duration> {
        let (runnable, usual) = (self.runnable?, times.usual(stage)?);
        // A beat may not have told it yet.
        let earliest = |a: &Attempt| last_done.get(&a.node).copied().unwrap_or_default().max(a.given);
        let begun = |a: &Attempt| a.started.unwrap_or_else(|| earliest(a)).max(runnable);
        let left = |a: &Attempt| {
            let expected = usual.mul_f64(times.pace(&a.node).max(1.0));
            expected.abs_diff(now.saturating_sub(begun(a))).max(expected / DOUBT)
        };
        self.alive().map(left).min().filter(|_| self.alive().count() < RIVALS)
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

    /// Who may try beside an attempt that is slow: a fit node that has a bee to spare and has not tried yet; the fastest.
    fn rival<'a>(&self, nodes: &'a [Candidate], work: &Work) -> Option<&'a Candidate> {
        let fresh = |n: &&Candidate| n.fit && work.tasks(n) < n.bees && self.attempts.iter().all(|a| a.node != n.id);
        let order = |a: &&Candidate, b: &&Candidate| {
            let faster = work.ahead(a, 1).total_cmp(&work.ahead(b, 1));
            faster.then_with(|| a.id.cmp(&b.id))
        };
        nodes.iter().filter(fresh).min_by(order)
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
