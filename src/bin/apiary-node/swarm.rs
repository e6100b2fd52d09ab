//! `apiary-node swarm`: the nodes that share the meadow.

use std::sync::Arc;

use apiary::Colony;
use apiary::actors::NodeInfo;
use apiary::size::format_size;
use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow::error::ArrowError;

use crate::cli::SwarmArgs;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Format};
use crate::progress;

/// Lists every node.
pub(crate) async fn run(colony: &Colony, args: &SwarmArgs) -> Outcome {
    let nodes = colony.swarm().await?;
    let batch = rows(&nodes, args.format).map_err(|e| Failure::local("cannot show the nodes", e))?;
    output::print_batch(&batch, args.format)?;
    if nodes.is_empty() {
        progress::say("no node runs on this meadow: start one with `apiary-node run`");
    }
    Ok(())
}

fn rows(nodes: &[NodeInfo], format: Format) -> Result<RecordBatch, ArrowError> {
    let text = |f: fn(&NodeInfo) -> &str| Arc::new(StringArray::from_iter_values(nodes.iter().map(f))) as ArrayRef;
    let number = |f: fn(&NodeInfo) -> u64| Arc::new(UInt64Array::from_iter_values(nodes.iter().map(f))) as ArrayRef;
    let memory: ArrayRef = match format {
        Format::Table | Format::Markdown => {
            Arc::new(StringArray::from_iter_values(nodes.iter().map(|n| format_size(n.bee_memory))))
        }
        Format::Csv | Format::Json => number(|n| n.bee_memory),
    };
    RecordBatch::try_from_iter([
        ("name", text(|n| &n.name)),
        ("state", text(|n| &n.state)),
        ("bees", number(|n| n.bees as u64)),
        ("bee_memory", memory),
        ("temperature", Arc::new(Float64Array::from_iter_values(nodes.iter().map(|n| n.temperature))) as ArrayRef),
        ("tasks", number(|n| n.tasks as u64)),
        ("leading", number(|n| n.leading as u64)),
        ("requests", number(|n| n.requests)),
        ("silent_ms", number(|n| n.silent_ms)),
        ("node", text(|n| &n.id)),
    ])
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;

    use super::*;

    #[test]
    fn memory_is_a_size_for_people_and_a_number_for_programs() {
        let node = NodeInfo {
            id: "attic-1".into(),
            name: "attic".into(),
            state: "alive".into(),
            here: false,
            bees: 2,
            bee_memory: 1 << 30,
            temperature: 0.0,
            tasks: 0,
            leading: 0,
            requests: 1,
            cached: 0,
            version: "0".into(),
            silent_ms: 5,
        };
        let table = rows(std::slice::from_ref(&node), Format::Table).unwrap();
        assert_eq!(table.column(3).as_string::<i32>().value(0), "1.0 GB");
        let json = rows(&[node], Format::Json).unwrap();
        assert_eq!(json.column(3).as_primitive::<arrow::datatypes::UInt64Type>().value(0), 1 << 30);
    }
}
