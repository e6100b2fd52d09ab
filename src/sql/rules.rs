//! The engine's rules for plans, and ours between them.

use std::sync::Arc;

use datafusion::common::DataFusionError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::optimizer::OptimizerRule;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;

use super::broadcast::BroadcastsBesideMany;
use super::compact::compact_sorts;
use super::filter_names::WhereNamesDiffer;
use super::group_reduction::GroupReduction;
use super::join_order::JoinOrder;
use super::selectivity::filter_estimates;
use super::stop_points::stop_points;
use super::watched_files::watched_files;
use super::window_parts::window_parts;
use super::windows::sorted_partitions;

/// A session that plans by all of them.
pub(super) fn with_rules(builder: SessionStateBuilder) -> SessionStateBuilder {
    builder
        .with_optimizer_rule(Arc::new(GroupReduction))
        .with_optimizer_rule(Arc::new(JoinOrder))
        .with_physical_optimizer_rules(physical_rules())
}

/// A session that leaves joins as they are written.
pub(super) fn in_own_order(state: &SessionState) -> SessionState {
    let rules = state.optimizers().iter().filter(|rule| rule.name() != JoinOrder.name()).cloned();
    SessionStateBuilder::new_from_existing(state.clone()).with_optimizer_rules(rules.collect()).build()
}

/// The engine's rules between those of ours.
fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let sinks = |rule: &Arc<dyn PhysicalOptimizerRule + Send + Sync>| rule.name().starts_with("FilterPushdown");
    let rules = PhysicalOptimizer::new().rules.into_iter();
    let rules = rules.map(|rule| if sinks(&rule) { Arc::new(WhereNamesDiffer(rule)) as _ } else { rule });
    let mut rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> = rules.collect();
    if let Some(chosen) = rules.iter().position(|rule| rule.name() == "join_selection") {
        rules.insert(chosen + 1, Arc::new(BroadcastsBesideMany));
    }
    // The sides of joins are chosen by it.
    rules.insert(0, Arc::new(EachStep { name: "filter_estimates", change: filter_estimates }));
    rules.push(Arc::new(EachStep { name: "sorted_partitions", change: sorted_partitions }));
    rules.push(Arc::new(EachStep { name: "stop_points", change: stop_points }));
    rules.push(Arc::new(EachStep { name: "watched_files", change: watched_files }));
    rules.push(Arc::new(EachStep { name: "compact_sorts", change: compact_sorts }));
    rules.push(Arc::new(EachStep { name: "window_parts", change: window_parts }));
    rules
}

type Step = Arc<dyn ExecutionPlan>;

/// A rule that looks at each step of a plan by itself, from the lowest up, and leaves its columns as they are.
#[derive(Debug)]
struct EachStep {
    name: &'static str,
    change: fn(Step) -> Result<Transformed<Step>, DataFusionError>,
}

impl PhysicalOptimizerRule for EachStep {
    fn optimize(&self, plan: Step, _: &ConfigOptions) -> Result<Step, DataFusionError> {
        plan.transform_up(self.change).data()
    }

    fn name(&self) -> &str {
        self.name
    }

    fn schema_check(&self) -> bool {
        true
    }
}
