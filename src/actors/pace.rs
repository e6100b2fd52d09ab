//! How often a node asks the meadow what is new.
//!
//! Requests to a local folder cost nothing, those to a bucket cost money; work must be noticed soon all the same.

use std::time::Duration;

/// Longer than anything waits.
pub(super) const NEVER: Duration = Duration::from_secs(3600);
/// Time after its last work in which a node stays quick: the next question often comes soon.
pub(super) const STAYS_QUICK: Duration = Duration::from_secs(20);

/// What a node's intervals follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// There is work, or was a moment ago.
    Quick,
    /// Other nodes are there.
    Company,
    /// Nobody else is.
    Alone,
}

/// The intervals of one kind of storage.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Between beats with company but without work.
    pub(super) idle_beat: Duration,
    /// Between beats while there is work.
    pub(super) busy_beat: Duration,
    /// Between looks at the doorbell with company.
    pub(super) idle_look: Duration,
    /// Between looks while there is work.
    pub(super) busy_look: Duration,
    /// Between beats while alone: a bucket's lone node dozes until the doorbell rings.
    pub(super) alone_beat: Duration,
    /// Between looks while alone.
    pub(super) alone_look: Duration,
    /// Between listings of all beats.
    pub(super) list: Duration,
    /// Between sweeps of what dead queries left.
    pub(super) sweep: Duration,
}

pub(super) const LOCAL: Pace = Pace {
    idle_beat: Duration::from_secs(2),
    busy_beat: Duration::from_millis(500),
    idle_look: Duration::from_millis(250),
    busy_look: Duration::from_millis(100),
    alone_beat: Duration::from_secs(2),
    alone_look: Duration::from_secs(1),
    list: Duration::from_secs(5),
    sweep: Duration::from_secs(10),
};
/// At S3's list price a node with idle company costs about 0.80 $ a month: 86,400 beats 0.43 $, 518,400
/// looks 0.21 $, 25,920 listings 0.13 $, and reading the beats that changed.
pub(super) const REMOTE: Pace = Pace {
    idle_beat: Duration::from_secs(30),
    busy_beat: Duration::from_secs(2),
    idle_look: Duration::from_secs(5),
    busy_look: Duration::from_millis(250),
    alone_beat: NEVER,
    alone_look: Duration::from_secs(60),
    list: Duration::from_secs(120),
    sweep: Duration::from_secs(600),
};

impl Pace {
    /// Between beats and between looks at the doorbell.
    pub(super) fn intervals(&self, mood: Mood) -> (Duration, Duration) {
        match mood {
            Mood::Quick => (self.busy_beat, self.busy_look),
            Mood::Company => (self.idle_beat, self.idle_look),
            Mood::Alone => (self.alone_beat, self.alone_look),
        }
    }
}
