//! Which nodes live. A node is alive while its beat is seen to change, by the observer's own monotonic clock.
//!
//! Silence is measured between looks: a node is not late because nobody looked. No clock of another machine is read. A node that is seen for the first time has changed for nobody yet; the ages that
//! the store gives its objects, by the store's one clock, tell a fresh beat from one that was left behind. An error there
//! costs nothing but time: a task given to a dead node is given to another.

use std::collections::BTreeMap;
use std::time::Duration;

use super::beat::Beat;
use super::names::{NodeId, QueryId};

/// Intervals without a change after which a node is suspected: it gets no new tasks.
const SUSPECT_AFTER: u32 = 2;
/// Intervals without a change after which a node is dead: its tasks go elsewhere and its beat is swept.
const DEAD_AFTER: u32 = 4;
/// Added to both: the delay of a request, and of a process that is scheduled late.
const SLACK: Duration = Duration::from_secs(1);

/// Taken for the interval of a beat that could not be read: the longest that a living node has.
const UNREAD: Duration = Duration::from_secs(30);

/// How a node looks from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Life {
    /// Its beat changes.
    Alive,
    /// It said that it stops beating while it is alone.
    Dozing,
    /// Its beat is late.
    Suspect,
    /// Its beat has not changed for several intervals.
    Dead,
}

impl Life {
    /// One lower-case word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Dozing => "dozing",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
        }
    }
}

/// One beat object in a listing.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// Whose it is.
    pub node: NodeId,
    /// Differs whenever the object does: its ETag, or its time and size.
    pub tag: String,
    /// How much older it is than the newest beat, by the store's clock.
    pub age: Duration,
}

/// What is known of one node.
#[derive(Debug, Clone)]
pub struct Seen {
    tag: String,
    changed_at: Duration,
    /// When this observer first saw it, or saw it change.
    watched_from: Duration,
    /// Its last beat that could be read.
    pub beat: Option<Beat>,
}

/// Every node whose beat is there.
#[derive(Debug, Clone, Default)]
pub struct SwarmView {
    nodes: BTreeMap<NodeId, Seen>,
    /// When the beats were last listed.
    looked: Duration,
}

impl SwarmView {
    /// Takes in a listing made at `now`; returns the nodes whose beats are to be read.
    pub fn observe(&mut self, now: Duration, listing: Vec<Sighting>) -> Vec<NodeId> {
        self.looked = now;
        self.nodes.retain(|node, _| listing.iter().any(|s| s.node == *node));
        let mut news = Vec::new();
        for Sighting { node, tag, age } in listing {
            match self.nodes.get_mut(&node) {
                Some(seen) if seen.tag == tag => {
                    // Whoever saw it first may still be reading it.
                    if seen.beat.is_none() {
                        news.push(node);
                    }
                }
                Some(seen) => {
                    (seen.tag, seen.changed_at, seen.watched_from) = (tag, now, now);
                    news.push(node);
                }
                None => {
                    // As if it had been seen when it was written; before this observer's time is simply long ago.
                    let seen = Seen { tag, changed_at: now.saturating_sub(age), watched_from: now, beat: None };
                    self.nodes.insert(node.clone(), seen);
                    news.push(node);
                }
            }
        }
        news
    }

    /// Takes in a beat that was read.
    pub fn learned(&mut self, beat: Beat) {
        if let Some(seen) = self.nodes.get_mut(&beat.id) {
            seen.beat = Some(beat);
        }
    }

    /// Every node with its last beat and how it looked at the last look.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeId, &Seen, Life)> {
        self.nodes.iter().map(|(id, seen)| (id, seen, seen.life(self.looked)))
    }

    /// How `node` looked at the last look; a beat that is gone is a node that left.
    pub fn life(&self, node: &NodeId) -> Life {
        self.nodes.get(node).map_or(Life::Dead, |seen| seen.life(self.looked))
    }

    /// Whether `node` may lead `query`: its last beat does not say otherwise.
    pub fn may_lead(&self, node: &NodeId, query: QueryId) -> bool {
        self.beat(node).is_none_or(|beat| beat.leading.contains(&query))
    }

    /// How long this observer has watched `node` not change.
    pub fn watched(&self, node: &NodeId) -> Duration {
        self.nodes.get(node).map_or(Duration::ZERO, |seen| self.looked.saturating_sub(seen.watched_from))
    }

    /// The last beat of `node`.
    pub fn beat(&self, node: &NodeId) -> Option<&Beat> {
        self.nodes.get(node)?.beat.as_ref()
    }
}

impl Seen {
    /// Time since it was seen to change.
    pub fn silent(&self, now: Duration) -> Duration {
        now.saturating_sub(self.changed_at)
    }

    fn life(&self, now: Duration) -> Life {
        if self.beat.as_ref().is_some_and(|beat| beat.dozes) {
            return Life::Dozing;
        }
        let interval = self.beat.as_ref().map_or(UNREAD, Beat::interval);
        match self.silent(now) {
            silent if silent > interval * DEAD_AFTER + SLACK => Life::Dead,
            silent if silent > interval * SUSPECT_AFTER + SLACK => Life::Suspect,
            _ => Life::Alive,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::beat::PROTOCOL;
    use super::*;

    const START: Duration = Duration::from_secs(1000);

    fn id(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    fn sighting(name: &str, tag: &str, age: u64) -> Sighting {
        Sighting { node: id(name), tag: tag.into(), age: Duration::from_secs(age) }
    }

    fn beat(name: &str, interval: u64) -> Beat {
        let text = serde_json::json!({
            "protocol": PROTOCOL, "engine": "", "id": name, "name": name, "version": "", "sequence": 1,
            "interval_ms": interval * 1000, "look_ms": 100, "bees": 1, "bee_memory": 1, "temperature": 0.0,
            "requests": 0, "cached": 0, "running": [], "leading": []
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_beat_that_changes_lives_and_one_that_stops_dies() {
        let mut view = SwarmView::default();
        assert_eq!(view.observe(START, vec![sighting("a", "1", 0)]), [id("a")]);
        view.learned(beat("a", 2));
        let later = |s| START + Duration::from_secs(s);
        for (seconds, life) in [(4, Life::Alive), (6, Life::Suspect), (10, Life::Dead)] {
            assert!(view.observe(later(seconds), vec![sighting("a", "1", 0)]).is_empty());
            assert_eq!(view.life(&id("a")), life, "{seconds} seconds");
        }
        assert_eq!(view.observe(later(11), vec![sighting("a", "2", 0)]), [id("a")]);
        assert_eq!(view.life(&id("a")), Life::Alive);
        assert_eq!(view.watched(&id("a")), Duration::ZERO);
    }

    #[test]
    fn a_node_that_nobody_looked_at_is_not_late() {
        let mut view = SwarmView::default();
        view.observe(START, vec![sighting("a", "1", 0)]);
        view.learned(beat("a", 1));
        view.observe(START + Duration::from_secs(100), vec![sighting("a", "2", 0)]);
        assert_eq!(view.life(&id("a")), Life::Alive);
    }

    #[test]
    fn a_beat_left_behind_is_not_taken_for_a_living_node() {
        let mut view = SwarmView::default();
        view.observe(START, vec![sighting("old", "1", 500), sighting("new", "1", 0)]);
        view.learned(beat("old", 10));
        view.learned(beat("new", 10));
        assert_eq!(view.life(&id("old")), Life::Dead);
        assert_eq!(view.life(&id("new")), Life::Alive);
    }

    #[test]
    fn a_lone_node_that_said_so_is_not_taken_for_dead() {
        let mut view = SwarmView::default();
        view.observe(START, vec![sighting("a", "1", 0)]);
        view.learned(Beat { dozes: true, ..beat("a", 60) });
        view.observe(START + Duration::from_secs(10_000), vec![sighting("a", "1", 0)]);
        assert_eq!(view.life(&id("a")), Life::Dozing);
    }

    #[test]
    fn a_node_that_took_its_beat_away_is_gone_at_once() {
        let mut view = SwarmView::default();
        view.observe(START, vec![sighting("a", "1", 0)]);
        view.observe(START, vec![]);
        assert_eq!(view.life(&id("a")), Life::Dead);
        assert_eq!(view.nodes().count(), 0);
    }
}
