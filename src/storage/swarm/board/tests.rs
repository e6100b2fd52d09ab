use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn node(name: &str, memory: u64) -> Candidate {
    Candidate { id: id(name), bees: 2, bee_memory: memory, look: SECOND, fit: true, dead: false }
}

fn task(stage: u32, task: u32) -> TaskId {
    TaskId { stage, task }
}

fn failure(node: &str, kind: FailureKind) -> Failure {
    Failure { node: id(node), kind, error: String::new(), message: "no".into() }
}

fn decide(board: &mut Board, seconds: u32, nodes: &[Candidate]) -> Vec<Action> {
    board.decide(SECOND * seconds, nodes, |_| true)
}

fn assigned(actions: &[Action]) -> Vec<(TaskId, u32, String)> {
    let one = |a: &Action| match a {
        Action::Assign { task, attempt, node } => Some((*task, *attempt, node.to_string())),
        Action::Abandon { .. } => None,
    };
    actions.iter().filter_map(one).collect()
}

#[test]
fn a_dead_nodes_task_goes_to_another() {
    let mut board = Board::default();
    board.add(task(1, 0), id("a"), SECOND);
    board.started(task(1, 0), 0, SECOND * 2);
    let (mut a, b) = (node("a", 1), node("b", 1));
    assert_eq!(decide(&mut board, 20, &[a.clone(), b.clone()]), []);
    a.dead = true;
    assert_eq!(assigned(&decide(&mut board, 21, &[a, b])), [(task(1, 0), 1, "b".into())]);
}

#[test]
fn a_task_that_nobody_takes_is_given_away_after_the_nodes_own_promise() {
    let mut board = Board::default();
    board.add(task(1, 0), id("a"), SECOND);
    let nodes = [node("a", 1), node("b", 1)];
    assert_eq!(decide(&mut board, 6, &nodes), []);
    assert_eq!(assigned(&decide(&mut board, 7, &nodes)), [(task(1, 0), 1, "b".into())]);
    assert_eq!(decide(&mut board, 8, &nodes), [], "one attempt at a time");
}

#[test]
fn a_task_that_waits_on_its_node_stays_there_and_one_that_is_dropped_does_not() {
    let mut board = Board::default();
    board.add(task(2, 0), id("a"), SECOND);
    let nodes = [node("a", 1), node("b", 1)];
    for second in 2..100 {
        board.held(task(2, 0), 0, SECOND * second);
        assert_eq!(decide(&mut board, second, &nodes), []);
    }
    assert_eq!(decide(&mut board, 115, &nodes), []);
    assert_eq!(assigned(&decide(&mut board, 130, &nodes)), [(task(2, 0), 1, "b".into())]);
}

#[test]
fn too_little_memory_is_tried_where_there_is_most() {
    let mut board = Board::default();
    board.add(task(1, 0), id("a"), SECOND);
    board.failed(task(1, 0), 0, failure("a", FailureKind::Memory));
    let nodes = [node("a", 1), node("b", 2), node("c", 9)];
    assert_eq!(assigned(&decide(&mut board, 2, &nodes)), [(task(1, 0), 1, "c".into())]);
}

#[test]
fn three_failures_give_the_query_up_with_all_of_them() {
    let mut board = Board::default();
    board.add(task(1, 0), id("a"), SECOND);
    let nodes = [node("a", 1), node("b", 1)];
    board.failed(task(1, 0), 0, failure("a", FailureKind::Passing));
    assert_eq!(assigned(&decide(&mut board, 2, &nodes)), [(task(1, 0), 1, "b".into())]);
    board.failed(task(1, 0), 1, failure("b", FailureKind::Passing));
    assert_eq!(assigned(&decide(&mut board, 3, &nodes)), [(task(1, 0), 2, "a".into())]);
    board.failed(task(1, 0), 2, failure("a", FailureKind::Passing));
    let [Action::Abandon { history, .. }] = &decide(&mut board, 4, &nodes)[..] else { panic!("given up") };
    assert!(history.contains("after 3 tries (a: no; b: no; a: no)"), "{history}");
}

#[test]
fn wrong_data_is_never_tried_again() {
    let mut board = Board::default();
    board.add(task(1, 0), id("a"), SECOND);
    board.failed(task(1, 0), 0, failure("a", FailureKind::Final));
    assert!(matches!(decide(&mut board, 2, &[node("b", 1)])[..], [Action::Abandon { .. }]));
}

#[test]
fn a_straggler_gets_one_rival_and_a_task_without_input_none() {
    let mut board = Board::default();
    for (i, name) in ["a", "b", "c"].into_iter().enumerate() {
        board.add(task(1, i as u32), id(name), SECOND);
        board.started(task(1, i as u32), 0, SECOND);
    }
    board.done(task(1, 0), &id("b"), SECOND * 3, SECOND * 4);
    board.done(task(1, 1), &id("b"), SECOND * 3, SECOND * 4);
    let nodes = [node("a", 1), node("b", 1), node("c", 1)];
    assert_eq!(board.decide(SECOND * 9, &nodes, |_| false), []);
    assert_eq!(decide(&mut board, 10, &nodes), [], "it could not begin before its inputs were there");
    assert_eq!(decide(&mut board, 17, &nodes), []);
    assert_eq!(assigned(&decide(&mut board, 18, &nodes)), [(task(1, 2), 1, "a".into())]);
    assert_eq!(decide(&mut board, 19, &nodes), []);
    board.done(task(1, 2), &id("a"), SECOND, SECOND * 20);
    assert!(board.is_done());
    assert_eq!(board.extra_attempts(), Extra { speculations: 1, ..Extra::default() });
}

#[test]
fn work_goes_where_there_is_least() {
    let mut board = Board::default();
    for i in 0..4 {
        board.add(task(1, i), id("gone"), SECOND);
    }
    let nodes = [node("a", 1), node("b", 1)];
    let given = assigned(&decide(&mut board, 2, &nodes));
    assert_eq!(given.iter().filter(|g| g.2 == "a").count(), 2);
}

/// Two nodes of one bee; `a` has four tasks of a stage, `b` has finished its own.
fn backlog() -> (Board, [Candidate; 2]) {
    let mut board = Board::default();
    for i in 0..4 {
        board.add(task(1, i), id("a"), SECOND);
    }
    board.started(task(1, 0), 0, SECOND * 2);
    (board, ["a", "b"].map(|name| Candidate { bees: 1, ..node(name, 1) }))
}

#[test]
fn what_a_node_has_not_begun_moves_to_one_that_has_nothing_to_do() {
    let (mut board, nodes) = backlog();
    assert_eq!(decide(&mut board, 2, &nodes), [], "it has just been given");
    for i in 1..4 {
        board.held(task(1, i), 0, SECOND * 3);
    }
    let moved = assigned(&decide(&mut board, 4, &nodes));
    assert_eq!(moved, [(task(1, 3), 1, "b".into()), (task(1, 2), 1, "b".into())], "the last first, and each its half");
    assert_eq!(decide(&mut board, 5, &nodes), []);
    board.done(task(1, 3), &id("b"), SECOND * 3, SECOND * 4);
    board.done(task(1, 2), &id("b"), SECOND * 3, SECOND * 4);
    assert_eq!(assigned(&decide(&mut board, 6, &nodes)), [(task(1, 1), 1, "b".into())]);
    assert_eq!(decide(&mut board, 7, &nodes), [], "what runs does not move");
    assert_eq!(board.extra_attempts(), Extra { moves: 3, ..Extra::default() });
}

#[test]
fn a_node_that_never_says_that_it_began_is_late_all_the_same() {
    let mut board = Board::default();
    let nodes = ["a", "b"].map(|name| Candidate { bees: 1, ..node(name, 1) });
    board.add(task(1, 0), id("a"), SECOND);
    board.add(task(1, 1), id("b"), SECOND);
    assert_eq!(decide(&mut board, 2, &nodes), []);
    board.done(task(1, 1), &id("b"), SECOND, SECOND * 2);
    assert_eq!(decide(&mut board, 4, &nodes), []);
    assert_eq!(assigned(&decide(&mut board, 6, &nodes)), [(task(1, 0), 1, "b".into())]);
}

#[test]
fn what_waits_for_its_inputs_does_not_move() {
    let (mut board, nodes) = backlog();
    assert_eq!(board.decide(SECOND * 3, &nodes, |_| false), []);
}

#[test]
fn nothing_moves_to_a_node_that_is_not_fit() {
    let (mut board, mut nodes) = backlog();
    nodes[1].fit = false;
    assert_eq!(decide(&mut board, 3, &nodes), []);
}

/// Three nodes of one bee with eight tasks each, of which `slow` takes five times as long: it has done one and begun the
/// next, the others have done four.
fn uneven() -> (Board, [Candidate; 3]) {
    let mut board = Board::default();
    let names = ["a", "b", "slow"];
    for (i, name) in (0..24).zip(names.into_iter().cycle()) {
        board.add(task(1, i), id(name), SECOND);
    }
    let nodes = names.map(|name| Candidate { bees: 1, ..node(name, 1) });
    assert_eq!(decide(&mut board, 1, &nodes), []);
    do_all(&mut board, 0..12, 11, |i| i % 3 != 2 || i == 2);
    board.started(task(1, 5), 0, SECOND * 11);
    hold(&mut board, 11);
    (board, nodes)
}

/// Those of `tasks` that are `wanted` are done, by the nodes that got them.
fn do_all(board: &mut Board, tasks: std::ops::Range<u32>, seconds: u32, wanted: impl Fn(u32) -> bool) {
    for i in tasks.filter(|i| wanted(*i)) {
        let (name, took) = [("a", 2), ("b", 2), ("slow", 10)][i as usize % 3];
        board.done(task(1, i), &id(name), SECOND * took, SECOND * seconds);
    }
}

/// The nodes say that they have what they were given.
fn hold(board: &mut Board, seconds: u32) {
    (0..24).for_each(|i| board.held(task(1, i), 0, SECOND * seconds));
}

#[test]
fn tasks_go_by_how_long_a_node_works_on_its_own_not_by_how_many_it_has() {
    let (mut board, nodes) = uneven();
    let moved = assigned(&decide(&mut board, 11, &nodes));
    let to = |name: &str| moved.iter().filter(|m| m.2 == name).count();
    assert_eq!((to("a"), to("b"), moved.len()), (3, 3, 6), "{moved:?}");
    assert_eq!(moved[0].0, task(1, 23), "the last that the slow node got");
    assert!(moved.iter().all(|m| m.0 != task(1, 5)), "what runs does not move");
}

#[test]
fn a_slow_node_with_nothing_to_do_takes_only_what_it_will_be_done_with_first() {
    let (mut board, nodes) = uneven();
    do_all(&mut board, 0..24, 13, |i| i % 3 == 2);
    assert_eq!(decide(&mut board, 13, &nodes), [], "four tasks of two seconds are done before one of ten");
}

#[test]
fn what_a_slow_node_has_begun_is_also_done_by_one_that_will_be_done_first() {
    let (mut board, nodes) = uneven();
    do_all(&mut board, 0..24, 12, |i| i != 5);
    let rivals = assigned(&decide(&mut board, 13, &nodes));
    assert_eq!(rivals, [(task(1, 5), 1, "a".into())], "it needs ten seconds and began at 11");
    assert_eq!(board.extra_attempts().speculations, 1);
}

#[test]
fn who_was_beaten_is_known_to_be_slow_when_the_next_stage_begins() {
    let mut board = Board::default();
    for (stage, i) in [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (2, 3)] {
        board.add(task(stage, i), id(["a", "slow"][i as usize % 2]), SECOND);
    }
    let nodes = ["a", "slow"].map(|name| Candidate { bees: 1, ..node(name, 1) });
    assert_eq!(board.decide(SECOND, &nodes, |id| id.stage == 1), []);
    board.started(task(1, 1), 0, SECOND * 2);
    board.done(task(1, 0), &id("a"), SECOND, SECOND * 2);
    (0..4).for_each(|i| board.held(task(2, i), 0, SECOND * 8));
    board.done(task(1, 1), &id("a"), SECOND, SECOND * 9);
    assert_eq!(assigned(&decide(&mut board, 9, &nodes)), [(task(2, 3), 1, "a".into())]);
    for i in [0, 2, 3] {
        board.done(task(2, i), &id("a"), SECOND, SECOND * 10);
    }
    assert_eq!(assigned(&decide(&mut board, 10, &nodes)), [(task(2, 1), 1, "a".into())], "nobody has begun it");
}

#[test]
fn what_a_node_works_on_shows_how_slow_it_is_before_it_is_done() {
    let mut board = Board::default();
    for i in 0..6 {
        board.add(task(1, i), id(["a", "b"][i as usize % 2]), SECOND);
    }
    let nodes = ["a", "b"].map(|name| Candidate { bees: 1, ..node(name, 1) });
    board.started(task(1, 0), 0, SECOND * 2);
    assert_eq!(decide(&mut board, 2, &nodes), []);
    hold(&mut board, 3);
    board.done(task(1, 1), &id("b"), SECOND, SECOND * 3);
    assert_eq!(decide(&mut board, 3, &nodes), [], "three to two is no reason");
    let moved = assigned(&decide(&mut board, 10, &nodes));
    assert_eq!(moved, [(task(1, 4), 1, "b".into()), (task(1, 2), 1, "b".into())]);
}
