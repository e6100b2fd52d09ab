//! The engine's rules for plans, and ours between them.

use std::sync::Arc;

use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::optimizer::OptimizerRule;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;

use super::compact::CompactSorts;
use super::filter_names::WhereNamesDiffer;
use super::group_reduction::GroupReduction;
use super::join_order::JoinOrder;
use super::open_quotes::OpenQuotes;
use super::selectivity::FilterEstimates;
use super::stop_points::StopPoints;
use super::windows::SortedPartitions;

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
    // The sides of joins are chosen by it.
    rules.insert(0, Arc::new(FilterEstimates));
    rules.push(Arc::new(SortedPartitions));
    rules.push(Arc::new(StopPoints));
    rules.push(Arc::new(OpenQuotes));
    rules.push(Arc::new(CompactSorts));
    rules
}
