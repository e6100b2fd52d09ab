//! How loaded a node is: 0 is idle, 1 is at every limit at once.

use serde::Serialize;

/// What a temperature is made of, each as a share of its limit in 0..=1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Load {
    /// Bees that have work.
    pub bees: f64,
    /// Memory in use.
    pub memory: f64,
    /// Queries that wait.
    pub queue: f64,
}

impl Load {
    /// `0.4·bees + 0.4·memory + 0.2·queue`, in 0..=1.
    ///
    /// ```
    /// use apiary::actors::temperature::Load;
    /// assert_eq!(Load { bees: 1.0, memory: 1.0, queue: 1.0 }.temperature(), 1.0);
    /// assert_eq!(Load { bees: 0.5, memory: 0.0, queue: 0.0 }.temperature(), 0.2);
    /// ```
    pub fn temperature(&self) -> f64 {
        let share = |value: f64| value.clamp(0.0, 1.0);
        0.4 * share(self.bees) + 0.4 * share(self.memory) + 0.2 * share(self.queue)
    }
}
