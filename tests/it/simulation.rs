//! The swarm's protocol under a faulty store and failing nodes, as a simulation: one thread, one seeded source of chance,
//! time that jumps. The leader's board, the view of the swarm and the records are the real ones; nodes are models that
//! do one store operation a step, so that a crash, a pause or a lost answer can fall between any two.
//!
//! What must hold, whatever happens: a completion never changes, an answer is right or there is none, and in the end
//! nothing is left in the meadow. `make simulate` runs ten thousand seeds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use apiary::storage::swarm::beat::{Beat, PROTOCOL, Running};
use apiary::storage::swarm::board::{Action, Board, Candidate};
use apiary::storage::swarm::names::{Entry, NodeId, QueryId, TaskId};
use apiary::storage::swarm::record::{Cost, DoneHeader, DoneRecord, Failure, FailureKind};
use apiary::storage::swarm::view::{Life, Sighting, SwarmView};
use bytes::Bytes;
use object_store::path::Path;
use uuid::Uuid;

/// Seeds of a test run; `APIARY_SEEDS` asks for more.
const SEEDS: u64 = 400;
/// Tasks of the two stages.
const TASKS: [u32; 2] = [4, 3];
/// Milliseconds between two steps of a node, at most.
const STEP: u64 = 60;
/// Milliseconds between a node's beats.
const BEAT: u64 = 500;
/// Milliseconds between two looks of a sweep: longer than a beat takes to be seen.
const SWEEP: u64 = 10_000;
/// Longest simulated time: an hour.
const END: u64 = 3_600_000;

/// What is broken on purpose, to see that it is found.
#[derive(Clone, Copy, PartialEq)]
enum Plant {
    Nothing,
    /// Completions are put, not created.
    NoConditionalCreate,
    /// Nobody removes what a query left.
    NoCleaning,
}

#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    Answer(u64),
    Abandoned,
    LeaderDied,
}

struct Sim {
    random: fastrand::Rng,
    now: u64,
    store: BTreeMap<String, (Bytes, u64)>,
    writes: u64,
    query: QueryId,
    nodes: Vec<Node>,
    leader: Leader,
    late: Vec<(u64, String, Bytes)>,
    plant: Plant,
    done_ever: HashMap<String, Bytes>,
    trace: DefaultHasher,
}

struct Node {
    id: NodeId,
    wakes: u64,
    dead: bool,
    beaten: u64,
    beats: u64,
    done: BTreeMap<TaskId, DoneRecord>,
    work: BTreeMap<(TaskId, u32), Work>,
    view: SwarmView,
    /// Since when it has seen objects that nobody leads.
    orphaned: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
enum Work {
    Waiting,
    Until(u64),
    Output,
    Done,
    Failed,
    Ended,
}

struct Leader {
    board: Board,
    published: BTreeSet<TaskId>,
    manifest: bool,
    outcome: Option<Outcome>,
    failed: BTreeSet<(TaskId, u32)>,
    to_give: Vec<(TaskId, u32, NodeId)>,
    cleaned: bool,
}

fn at(ms: u64) -> Duration {
    Duration::from_secs(1_000_000) + Duration::from_millis(ms)
}

fn all_tasks() -> impl Iterator<Item = TaskId> {
    (1u32..).zip(TASKS).flat_map(|(stage, tasks)| (0..tasks).map(move |task| TaskId { stage, task }))
}

/// What a task gives: a number for its first stage, a sum over that stage for the second.
fn value(task: TaskId, inputs: u64) -> u64 {
    match task.stage {
        1 => u64::from(task.task) * 7 + 1,
        _ => inputs * (u64::from(task.task) + 1),
    }
}

fn right_answer() -> u64 {
    let first: u64 = (0..TASKS[0]).map(|task| value(TaskId { stage: 1, task }, 0)).sum();
    (0..TASKS[1]).map(|task| value(TaskId { stage: 2, task }, first)).sum()
}

impl Sim {
    fn new(seed: u64, plant: Plant) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let nodes = (0..random.usize(2..6)).map(|i| Node::new(i, random.u64(0..STEP))).collect();
        let leader = Leader {
            board: Board::default(),
            published: BTreeSet::new(),
            manifest: false,
            outcome: None,
            failed: BTreeSet::new(),
            to_give: Vec::new(),
            cleaned: false,
        };
        let query = QueryId::from(Uuid::from_u128(u128::from(seed) + 1));
        let (done_ever, trace) = (HashMap::new(), DefaultHasher::new());
        Self {
            random,
            now: 0,
            store: BTreeMap::new(),
            writes: 0,
            query,
            nodes,
            leader,
            late: vec![],
            plant,
            done_ever,
            trace,
        }
    }

    /// Runs until everything has come to rest.
    fn run(mut self) -> (Outcome, u64) {
        while !self.is_at_rest() {
            assert!(self.now < END, "it never comes to rest: {:?}, {:?}", self.leader.outcome, self.left_over());
            let next =
                (0..self.nodes.len()).filter(|i| !self.nodes[*i].dead).min_by_key(|i| (self.nodes[*i].wakes, *i));
            let index = next.expect("one node is never killed");
            self.now = self.now.max(self.nodes[index].wakes);
            self.apply_late();
            self.mishap(index);
            if !self.nodes[index].dead && self.nodes[index].wakes <= self.now {
                self.step(index);
                self.nodes[index].wakes = self.now + self.random.u64(1..STEP);
            }
        }
        let outcome = self.leader.outcome.clone().unwrap_or(Outcome::LeaderDied);
        (outcome, self.trace.finish())
    }

    fn is_at_rest(&self) -> bool {
        let over = self.nodes[0].dead || self.leader.cleaned;
        over && self.late.is_empty() && self.left_over().is_empty() && self.nodes.iter().all(|n| n.dead || n.is_idle())
    }

    fn left_over(&self) -> Vec<&String> {
        self.store.keys().filter(|key| key.starts_with("_queries/")).collect()
    }

    /// Now and then a node dies or stops for a while; node 1 never dies, so that somebody can clear up.
    fn mishap(&mut self, index: usize) {
        if self.now > 120_000 {
            return;
        }
        match self.random.u32(0..2000) {
            0 if index != 1 => {
                self.nodes[index].dead = true;
                self.note(("dies", index));
            }
            1..=2 => {
                self.nodes[index].wakes = self.now + self.random.u64(1_000..20_000);
                self.note(("stops", index));
            }
            _ => {}
        }
    }

    fn note(&mut self, what: impl Hash) {
        (self.now, what).hash(&mut self.trace);
    }

    // The store: every operation may fail before it is carried out, or after; a put may come a second time, late.

    fn fails(&mut self) -> bool {
        self.random.u32(0..40) == 0
    }

    /// `true` when the put is known to have been carried out.
    fn put(&mut self, key: String, bytes: Bytes) -> bool {
        if self.fails() {
            return false;
        }
        if self.random.u32(0..60) == 0 && !key.ends_with(".done") {
            self.late.push((self.now + self.random.u64(100..30_000), key.clone(), bytes.clone()));
        }
        self.write(key, bytes);
        !self.fails()
    }

    fn write(&mut self, key: String, bytes: Bytes) {
        self.writes += 1;
        if key.ends_with(".done") {
            let first = self.done_ever.entry(key.clone()).or_insert_with(|| bytes.clone());
            assert!(*first == bytes, "the completion {key} changed");
        }
        self.store.insert(key, (bytes, self.now));
    }

    /// Creates an object: what is known of the outcome, if the answer came.
    fn create(&mut self, key: String, bytes: Bytes) -> Option<bool> {
        if self.plant == Plant::NoConditionalCreate {
            return self.put(key, bytes).then_some(true);
        }
        if self.fails() {
            return None;
        }
        let there = self.store.get(&key).map(|(bytes, _)| bytes.clone());
        if there.is_none() {
            self.write(key, bytes.clone());
        }
        // A lost answer is settled by reading back: our own bytes mean that we were first.
        if self.fails() { None } else { Some(there.is_none_or(|there| there == bytes)) }
    }

    fn apply_late(&mut self) {
        let now = self.now;
        let (due, later) = std::mem::take(&mut self.late).into_iter().partition(|(when, ..)| *when <= now);
        self.late = later;
        let due: Vec<(u64, String, Bytes)> = due;
        for (_, key, bytes) in due {
            self.write(key, bytes);
        }
    }

    fn listed(&self) -> Vec<Entry> {
        let prefix = format!("_queries/{}/", self.query);
        let keys = self.store.keys().filter(|key| key.starts_with(&prefix));
        keys.map(|key| Entry::parse(&Path::from(key.as_str())).expect("only entries are written").1).collect()
    }

    fn key(&self, entry: &Entry) -> String {
        entry.path(self.query).to_string()
    }

    // Nodes.

    fn step(&mut self, index: usize) {
        if self.now >= self.nodes[index].beaten + BEAT || self.nodes[index].beats == 0 {
            return self.beat(index);
        }
        match self.random.u32(0..4) {
            0 => self.look_at_nodes(index),
            1 | 2 if index == 0 && !self.leader.cleaned => self.lead(),
            _ => self.follow(index),
        }
    }

    fn beat(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        (node.beats, node.beaten) = (node.beats + 1, self.now);
        let is_running = |w: &Work| matches!(w, Work::Until(_) | Work::Output | Work::Done | Work::Failed);
        let of = |((task, attempt), _): (&(TaskId, u32), &Work)| Running {
            query: self.query,
            task: *task,
            attempt: *attempt,
        };
        let beat = Beat {
            protocol: PROTOCOL,
            engine: "sim".into(),
            id: node.id.clone(),
            name: node.id.to_string(),
            version: String::new(),
            sequence: node.beats,
            interval_ms: BEAT,
            look_ms: 100,
            dozes: false,
            bees: 1,
            bee_memory: 1,
            temperature: 0.0,
            requests: 0,
            cached: 0,
            running: node.work.iter().filter(|(_, w)| is_running(w)).map(of).collect(),
            waiting: node.work.iter().filter(|(_, w)| **w == Work::Waiting).map(of).collect(),
            leading: if index == 0 && !self.leader.cleaned { vec![self.query] } else { Vec::new() },
        };
        let key = format!("_heartbeats/{}.json", node.id);
        self.put(key, beat.to_bytes().unwrap());
    }

    fn look_at_nodes(&mut self, index: usize) {
        if self.fails() {
            return;
        }
        let beats: Vec<(NodeId, Bytes, u64)> = self
            .store
            .iter()
            .filter_map(|(key, (bytes, at))| {
                let id = key.strip_prefix("_heartbeats/")?.strip_suffix(".json")?.parse().ok()?;
                Some((id, bytes.clone(), *at))
            })
            .collect();
        let newest = beats.iter().map(|(.., at)| *at).max().unwrap_or(0);
        let sighting = |(node, bytes, at): &(NodeId, Bytes, u64)| {
            let mut tag = DefaultHasher::new();
            bytes.hash(&mut tag);
            Sighting { node: node.clone(), tag: tag.finish().to_string(), age: Duration::from_millis(newest - at) }
        };
        let sightings = beats.iter().map(sighting).collect();
        let view = &mut self.nodes[index].view;
        for news in view.observe(at(self.now), sightings) {
            let (_, bytes, _) = beats.iter().find(|(id, ..)| *id == news).unwrap();
            view.learned(Beat::parse(&news, bytes).unwrap());
        }
    }

    fn follow(&mut self, index: usize) {
        let entries = self.listed();
        let leader = self.nodes[0].id.clone();
        let alive = entries.contains(&Entry::Manifest);
        if index != 0 {
            let view = &self.nodes[index].view;
            let (dead, leads) = (view.life(&leader) == Life::Dead, view.may_lead(&leader, self.query));
            if alive && dead && view.beat(&leader).is_some() {
                self.note(("clears away", index));
                return self.clear_away();
            }
            let led = alive && leads;
            self.sweep(index, !led && !entries.is_empty());
        }
        if !alive {
            // Its record is gone: so is the query, for this node.
            return self.nodes[index].work.clear();
        }
        self.learn(index, &entries);
        let open = self.nodes[index].work.iter().filter(|(_, w)| **w != Work::Ended);
        let open: Vec<((TaskId, u32), Work)> = open.map(|(k, w)| (*k, w.clone())).collect();
        if let Some(((task, attempt), work)) = open.get(self.random.usize(0..open.len().max(1))).cloned() {
            let next = self.work(index, task, attempt, work);
            self.note((index, task, attempt, format!("{next:?}")));
            self.nodes[index].work.insert((task, attempt), next);
        }
    }

    /// What nobody leads at two looks, some time apart, is cleared away.
    fn sweep(&mut self, index: usize, orphaned: bool) {
        match (orphaned, self.nodes[index].orphaned) {
            (false, _) => self.nodes[index].orphaned = None,
            (true, None) => self.nodes[index].orphaned = Some(self.now),
            (true, Some(since)) if self.now > since + SWEEP => {
                self.note(("sweeps", index));
                self.nodes[index].orphaned = None;
                self.clear_away();
            }
            (true, Some(_)) => {}
        }
    }

    fn learn(&mut self, index: usize, entries: &[Entry]) {
        let me = self.nodes[index].id.clone();
        for entry in entries {
            match entry {
                Entry::Task(task, attempt, node) if *node == me => {
                    self.nodes[index].work.entry((*task, *attempt)).or_insert(Work::Waiting);
                }
                Entry::Done(task) if !self.nodes[index].done.contains_key(task) => {
                    let (bytes, _) = &self.store[&self.key(entry)];
                    let record = DoneRecord::parse(bytes).unwrap();
                    self.nodes[index].done.insert(*task, record);
                    let beaten = |work: &Work| matches!(work, Work::Waiting | Work::Until(_) | Work::Output);
                    let mine = self.nodes[index].work.iter_mut().filter(|((t, _), work)| t == task && beaten(work));
                    mine.for_each(|(_, work)| *work = Work::Ended);
                }
                _ => {}
            }
        }
    }

    fn work(&mut self, index: usize, task: TaskId, attempt: u32, work: Work) -> Work {
        let has_inputs = task.stage == 1
            || (0..TASKS[0]).all(|t| self.nodes[index].done.contains_key(&TaskId { stage: 1, task: t }));
        match work {
            Work::Waiting if !has_inputs => Work::Waiting,
            Work::Waiting if self.nodes[index].done.contains_key(&task) => Work::Ended,
            Work::Waiting => Work::Until(self.now + self.random.u64(10..3_000)),
            Work::Until(end) if self.now < end => Work::Until(end),
            Work::Until(_) if self.random.u32(0..30) == 0 => Work::Failed,
            Work::Until(_) => Work::Output,
            Work::Output => {
                let output = self.output_of(index, task);
                let key = self.key(&Entry::Output(task, attempt, 0));
                match output.map(|output| self.put(key, output)) {
                    None => Work::Failed,
                    Some(true) => Work::Done,
                    Some(false) => Work::Output,
                }
            }
            Work::Done => {
                match self.create(self.key(&Entry::Done(task)), done_record(&self.nodes[index].id, attempt)) {
                    Some(_) => Work::Ended,
                    None => Work::Done,
                }
            }
            Work::Failed => {
                let failure = Failure {
                    node: self.nodes[index].id.clone(),
                    kind: FailureKind::Passing,
                    error: String::new(),
                    message: "no".into(),
                };
                let bytes = failure.to_bytes().unwrap();
                let told = self.put(self.key(&Entry::Failed(task, attempt)), bytes);
                if told { Work::Ended } else { Work::Failed }
            }
            Work::Ended => Work::Ended,
        }
    }

    fn output_of(&mut self, index: usize, task: TaskId) -> Option<Bytes> {
        let mut sum = 0;
        if task.stage == 2 {
            for input in (0..TASKS[0]).map(|t| TaskId { stage: 1, task: t }) {
                sum += self.read(input, &self.nodes[index].done[&input].clone())?;
            }
        }
        Some(Bytes::from(value(task, sum).to_string()))
    }

    /// The output of the attempt that counts; `None` when it is cleared away already.
    fn read(&self, task: TaskId, done: &DoneRecord) -> Option<u64> {
        let (bytes, _) = self.store.get(&self.key(&Entry::Output(task, done.header.attempt, 0)))?;
        Some(std::str::from_utf8(bytes).unwrap().parse().unwrap())
    }

    // The leader: node 0.

    fn lead(&mut self) {
        if !self.leader.manifest {
            let manifest = self.key(&Entry::Manifest);
            self.leader.manifest = self.put(manifest, Bytes::from_static(b"{}"));
            return;
        }
        if self.leader.outcome.is_some() {
            self.leader.cleaned = self.clear_away_all();
            return;
        }
        if let Some((task, attempt, node)) = self.leader.to_give.pop() {
            let key = self.key(&Entry::Task(task, attempt, node.clone()));
            if !self.put(key, Bytes::new()) {
                self.leader.to_give.push((task, attempt, node));
            }
            return;
        }
        if let Some(task) = all_tasks().find(|task| !self.leader.published.contains(task)) {
            let node = self.nodes[self.random.usize(0..self.nodes.len())].id.clone();
            self.leader.published.insert(task);
            self.leader.board.add(task, node.clone(), at(self.now));
            self.leader.to_give.push((task, 0, node));
            return;
        }
        self.watch();
    }

    fn watch(&mut self) {
        let entries = self.listed();
        if !entries.contains(&Entry::Manifest) {
            // Somebody took this node for dead: the query is gone, and its caller is told.
            self.leader.outcome = Some(Outcome::Abandoned);
            return;
        }
        self.learn(0, &entries);
        let now = at(self.now);
        for (task, record) in &self.nodes[0].done {
            let took = Duration::from_millis(record.header.cost.elapsed_ms);
            self.leader.board.done(*task, &record.header.node, took, now);
        }
        for entry in &entries {
            if let Entry::Failed(task, attempt) = entry
                && self.leader.failed.insert((*task, *attempt))
            {
                let (bytes, _) = &self.store[&self.key(entry)];
                self.leader.board.failed(*task, *attempt, Failure::parse(bytes).unwrap());
            }
        }
        self.note_running(now);
        if all_tasks().all(|task| self.nodes[0].done.contains_key(&task)) {
            return self.answer();
        }
        let done = self.nodes[0].done.clone();
        let ready =
            |task: TaskId| task.stage == 1 || (0..TASKS[0]).all(|t| done.contains_key(&TaskId { stage: 1, task: t }));
        for action in self.leader.board.decide(now, &self.candidates(), ready) {
            match action {
                Action::Assign { task, attempt, node } => self.leader.to_give.push((task, attempt, node)),
                Action::Abandon { .. } => self.leader.outcome = Some(Outcome::Abandoned),
            }
        }
    }

    fn note_running(&mut self, now: Duration) {
        let view = &self.nodes[0].view;
        let running: Vec<Running> =
            view.nodes().filter_map(|(_, seen, _)| seen.beat.as_ref()).flat_map(|b| b.running.clone()).collect();
        for running in running {
            self.leader.board.started(running.task, running.attempt, now);
        }
    }

    fn candidates(&self) -> Vec<Candidate> {
        let me = &self.nodes[0].id;
        let candidate = |node: &Node| {
            let life = if node.id == *me { Life::Alive } else { self.nodes[0].view.life(&node.id) };
            let (fit, dead) = (life == Life::Alive, life == Life::Dead);
            Candidate { id: node.id.clone(), bees: 1, bee_memory: 1, look: Duration::from_millis(100), fit, dead }
        };
        self.nodes.iter().map(candidate).collect()
    }

    fn answer(&mut self) {
        let last = (0..TASKS[1]).map(|task| TaskId { stage: 2, task });
        let parts: Option<Vec<u64>> = last.map(|task| self.read(task, &self.nodes[0].done[&task])).collect();
        let parts = parts.expect("what a completion names is there as long as the query lives");
        self.leader.outcome = Some(Outcome::Answer(parts.into_iter().sum()));
    }

    fn clear_away_all(&mut self) -> bool {
        if self.fails() {
            return false;
        }
        self.clear_away();
        true
    }

    fn clear_away(&mut self) {
        if self.plant == Plant::NoCleaning {
            return;
        }
        let prefix = format!("_queries/{}/", self.query);
        self.store.retain(|key, _| !key.starts_with(&prefix));
        self.done_ever.clear();
    }
}

impl Node {
    fn new(index: usize, wakes: u64) -> Self {
        Self {
            id: format!("n-{index}").parse().unwrap(),
            wakes,
            dead: false,
            beaten: 0,
            beats: 0,
            done: BTreeMap::new(),
            work: BTreeMap::new(),
            view: SwarmView::default(),
            orphaned: None,
        }
    }

    fn is_idle(&self) -> bool {
        self.work.values().all(|work| *work == Work::Ended)
    }
}

fn done_record(node: &NodeId, attempt: u32) -> Bytes {
    let header = DoneHeader {
        attempt,
        salt: 0,
        node: node.clone(),
        inline: false,
        pieces: vec![],
        rows: 1,
        cost: Cost::default(),
    };
    DoneRecord { header, rows: Bytes::new() }.to_bytes().unwrap()
}

fn seeds() -> u64 {
    std::env::var("APIARY_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS)
}

#[test]
fn every_seed_ends_with_the_right_answer_or_none_and_an_empty_meadow() {
    let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..seeds() {
        let end = match Sim::new(seed, Plant::Nothing).run().0 {
            Outcome::Answer(answer) => {
                assert_eq!(answer, right_answer(), "seed {seed}");
                "answered"
            }
            Outcome::Abandoned => "given up",
            Outcome::LeaderDied => "without a leader",
        };
        *ends.entry(end).or_default() += 1;
    }
    println!("{ends:?}");
    assert!(ends["answered"] * 2 > seeds(), "{ends:?}");
    assert!(ends.contains_key("without a leader"), "no leader died: {ends:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..20 {
        assert_eq!(Sim::new(seed, Plant::Nothing).run(), Sim::new(seed, Plant::Nothing).run(), "seed {seed}");
    }
}

fn is_found(plant: Plant) -> bool {
    (0..seeds()).any(|seed| std::panic::catch_unwind(|| Sim::new(seed, plant).run()).is_err())
}

#[test]
fn completions_that_are_not_created_but_put_are_found() {
    assert!(is_found(Plant::NoConditionalCreate));
}

#[test]
fn objects_that_are_left_behind_are_found() {
    assert!(is_found(Plant::NoCleaning));
}
