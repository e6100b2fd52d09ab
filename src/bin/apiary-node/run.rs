//! `apiary-node run`: a colony that lives until a signal comes.

use apiary::Colony;
use apiary::size::format_size;

use crate::failure::Outcome;
use crate::interrupt::Interrupt;
use crate::progress;

/// Says what runs, and returns when it shall end; the caller shuts the colony down.
pub(crate) async fn run(colony: &Colony, interrupt: &Interrupt) -> Outcome {
    let status = colony.status().await?;
    progress::say(greeting(&status.name, &status.storage, status.bees, status.memory));
    interrupt.requested().await;
    Ok(())
}

fn greeting(name: &str, storage: &str, bees: usize, memory: u64) -> String {
    let memory = format_size(memory);
    format!("colony {name} runs on {storage}: {bees} bees with {memory} of memory together; Ctrl-C to stop")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_says_where_and_how_big() {
        let expected = "colony attic runs on file:///data: 4 bees with 2.0 GB of memory together; Ctrl-C to stop";
        assert_eq!(greeting("attic", "file:///data", 4, 2 << 30), expected);
    }
}
