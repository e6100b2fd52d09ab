//! The order of joins: by what the ledgers say of the frames, not by how the query is written.
//!
//! Inner joins that hang together, and the semi- and anti-joins over them, are taken apart into inputs and conditions. Of
//! all ways to put them together again without cross products the cheapest is taken, found by dynamic programming over
//! sets of inputs (Moerkotte and Neumann, VLDB 2006); where there are too many, the cheapest next join is taken again and
//! again. An order that is not clearly better than the query's own is left.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DataFusionError, JoinConstraint, JoinType, NullEquality};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, Filter, Join, LogicalPlan, Projection};
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use super::cardinality::Cardinality;
use super::group_reduction::lasts;
use super::selectivity::OTHER;

/// Most inputs of which all orders are looked at; `3^n` steps.
const MAX_SEARCHED: usize = 10;
/// Most inputs that are put in another order at all: each is a bit of a set.
const MAX_INPUTS: usize = 32;
/// A row that goes into a hash table costs so many that are looked up in it.
const BUILD: f64 = 2.0;
/// An order must be cheaper than the query's own by this factor.
const CLEARLY: f64 = 0.9;

/// The rule; see the module.
#[derive(Debug)]
pub(super) struct JoinOrder;

impl OptimizerRule for JoinOrder {
    fn name(&self) -> &str {
        "join_order"
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>, DataFusionError> {
        ordered(plan)
    }
}

/// `plan` with all joins in it in a better order.
fn ordered(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>, DataFusionError> {
    if let LogicalPlan::Join(join) = &plan
        && is_movable(join)
        && let Some((cluster, own)) = Cluster::of(&plan)
        && let Some(order) = cluster.better_than(&own)
    {
        let better = cluster.joined(&order)?;
        let better = match better.schema().columns() == plan.schema().columns() {
            true => better,
            false => {
                let columns = plan.schema().columns().into_iter().map(Expr::Column).collect();
                LogicalPlan::Projection(Projection::try_new(columns, Arc::new(better))?)
            }
        };
        return Ok(Transformed::yes(better));
    }
    plan.map_children(ordered)?.transform_data(|plan| plan.map_subqueries(ordered))
}

/// Whether a join may be taken apart.
fn is_movable(join: &Join) -> bool {
    let kind = matches!(join.join_type, JoinType::Inner | JoinType::LeftSemi | JoinType::LeftAnti);
    let plain = join.null_equality == NullEquality::NullEqualsNothing && !join.null_aware;
    let keeps = |expression: &Expr| lasts(expression);
    let lasting = join.on.iter().all(|(l, r)| keeps(l) && keeps(r)) && join.filter.iter().all(keeps);
    kind && plain && lasting && !join.on.is_empty()
}

/// A set of inputs, a bit for each.
type Set = u32;

/// An input of a cluster of joins.
struct Input {
    plan: Arc<LogicalPlan>,
    /// Of the right side of a semi- or anti-join.
    test: Option<Test>,
    /// Rows that it gives.
    rows: f64,
}

/// A join that only decides which rows of its left side are kept.
struct Test {
    join: Join,
    /// Inputs that its left side must have.
    needs: Set,
    /// The share of rows that it keeps.
    keeps: f64,
}

/// Joins that may be done in any order.
#[derive(Default)]
struct Cluster {
    inputs: Vec<Input>,
    /// Expressions of two inputs that are equal.
    equal: Vec<(usize, Expr, usize, Expr)>,
    /// Other conditions, with the inputs that they are on.
    filters: Vec<(Set, Expr)>,
    /// Pairs of inputs that have equal expressions, and by what the product of their rows is divided when they are joined.
    divisors: Vec<(Set, f64)>,
    known: Cardinality,
}

/// An order of joins.
#[derive(Debug)]
enum Order {
    Input(usize),
    Join(Arc<Order>, Arc<Order>),
}

impl Order {
    fn set(&self) -> Set {
        match self {
            Self::Input(index) => 1 << index,
            Self::Join(left, right) => left.set() | right.set(),
        }
    }
}

impl Cluster {
    /// Takes `plan` apart; `None` when that is not possible, or when nothing is known of an input.
    fn of(plan: &LogicalPlan) -> Option<(Self, Order)> {
        let mut cluster = Self::default();
        let mut conditions = Conditions::default();
        let order = cluster.take(plan, &mut conditions)?;
        if cluster.inputs.len() < 3 {
            return None;
        }
        for input in &mut cluster.inputs {
            input.rows = cluster.known.rows(&input.plan)?;
        }
        cluster.place(conditions)?;
        Some((cluster, order))
    }

    fn take(&mut self, plan: &LogicalPlan, conditions: &mut Conditions) -> Option<Order> {
        match plan {
            LogicalPlan::Join(join) if is_movable(join) => {
                let left = self.take(&join.left, conditions)?;
                let right = match join.join_type {
                    JoinType::Inner => {
                        conditions.equal.extend(join.on.iter().cloned());
                        conditions.others.extend(join.filter.iter().cloned().flat_map(split_conjunction_owned));
                        self.take(&join.right, conditions)?
                    }
                    _ => {
                        let test = Test { join: join.clone(), needs: 0, keeps: 1.0 };
                        self.input(&join.right, Some(test))?
                    }
                };
                Some(Order::Join(Arc::new(left), Arc::new(right)))
            }
            // Columns that nobody above wants.
            LogicalPlan::Projection(Projection { expr, input, .. })
                if matches!(input.as_ref(), LogicalPlan::Join(_))
                    && expr.iter().all(|e| matches!(e, Expr::Column(_))) =>
            {
                self.take(input, conditions)
            }
            LogicalPlan::Filter(Filter { predicate, input, .. })
                if matches!(input.as_ref(), LogicalPlan::Join(_)) && lasts(predicate) =>
            {
                conditions.others.extend(split_conjunction_owned(predicate.clone()));
                self.take(input, conditions)
            }
            plan => self.input(plan, None),
        }
    }

    fn input(&mut self, plan: &LogicalPlan, test: Option<Test>) -> Option<Order> {
        if self.inputs.len() == MAX_INPUTS {
            return None;
        }
        self.inputs.push(Input { plan: Arc::new(plan.clone()), test, rows: 0.0 });
        Some(Order::Input(self.inputs.len() - 1))
    }

    /// Finds out which inputs the conditions are on; `None` when that is not clear.
    fn place(&mut self, conditions: Conditions) -> Option<()> {
        let mut names = HashSet::new();
        let joined = || self.inputs.iter().filter(|input| input.test.is_none());
        if !joined().flat_map(|input| input.plan.schema().columns()).all(|column| names.insert(column)) {
            return None;
        }
        let mut pairs: BTreeMap<(usize, usize), Vec<(Expr, Expr)>> = BTreeMap::new();
        for (left, right) in conditions.equal {
            let (l, r) = (self.one_of(&left)?, self.one_of(&right)?);
            match l.cmp(&r) {
                Ordering::Less => pairs.entry((l, r)).or_default().push((left.clone(), right.clone())),
                Ordering::Greater => pairs.entry((r, l)).or_default().push((right.clone(), left.clone())),
                Ordering::Equal => return None,
            }
            self.equal.push((l, left, r, right));
        }
        for ((l, r), pairs) in pairs {
            let divisor = self.known.shared_domain(&self.inputs[l].plan, &self.inputs[r].plan, &pairs)?;
            self.divisors.push((1 << l | 1 << r, divisor));
        }
        for condition in conditions.others {
            match self.set_of(condition.column_refs())? {
                0 => return None,
                set if set.count_ones() == 1 => {
                    let input = &mut self.inputs[set.trailing_zeros() as usize];
                    input.plan =
                        Arc::new(LogicalPlan::Filter(Filter::try_new(condition, Arc::clone(&input.plan)).ok()?));
                    input.rows *= OTHER;
                }
                set => self.filters.push((set, condition)),
            }
        }
        for index in 0..self.inputs.len() {
            let Some(Test { join, .. }) = &self.inputs[index].test else { continue };
            let right = join.right.schema();
            let mut columns: HashSet<&Column> = join.on.iter().flat_map(|(left, _)| left.column_refs()).collect();
            for column in join.filter.iter().flat_map(|filter| filter.column_refs()) {
                match (right.has_column(column), self.set_of([column].into())) {
                    (true, None) => {}
                    (false, Some(_)) => drop(columns.insert(column)),
                    _ => return None,
                }
            }
            let (needs, keeps) = (self.set_of(columns)?, self.known.keeps(join)?);
            self.inputs[index].test.as_mut().map(|test| (test.needs, test.keeps) = (needs, keeps))?;
        }
        Some(())
    }

    /// The one input that all columns of an expression are of.
    fn one_of(&self, expression: &Expr) -> Option<usize> {
        let set = self.set_of(expression.column_refs())?;
        (set.count_ones() == 1).then(|| set.trailing_zeros() as usize)
    }

    /// The inputs that columns are of.
    fn set_of(&self, columns: HashSet<&Column>) -> Option<Set> {
        columns.into_iter().try_fold(0, |set, column| {
            let has = |input: &Input| input.test.is_none() && input.plan.schema().has_column(column);
            let mut of = self.inputs.iter().enumerate().filter(|(_, input)| has(input));
            match (of.next(), of.next()) {
                (Some((index, _)), None) => Some(set | 1 << index),
                _ => None,
            }
        })
    }

    /// The rows that a set of inputs gives when it is joined.
    fn rows(&self, set: Set) -> f64 {
        let inputs = self.inputs.iter().enumerate().filter(|(index, _)| set & 1 << index != 0);
        let all: f64 = inputs.map(|(_, input)| input.test.as_ref().map_or(input.rows, |test| test.keeps)).product();
        let divisors = self.divisors.iter().filter(|(pair, _)| pair & !set == 0).map(|(_, divisor)| divisor);
        let filters = self.filters.iter().filter(|(of, _)| of & !set == 0).count();
        (all / divisors.product::<f64>() * OTHER.powi(filters as i32)).max(1.0)
    }

    /// The rows of one side of a join.
    fn side(&self, set: Set) -> f64 {
        match set.count_ones() {
            1 => self.inputs[set.trailing_zeros() as usize].rows,
            _ => self.rows(set),
        }
    }

    /// Whether two sets can be joined without a cross product; a test is on the right.
    fn is_join(&self, left: Set, right: Set) -> bool {
        let test = |set: Set| (set.count_ones() == 1).then(|| self.inputs[set.trailing_zeros() as usize].test.as_ref());
        match (test(left).flatten(), test(right).flatten()) {
            (None, Some(test)) => test.needs & !left == 0,
            (Some(_), _) => false,
            (None, None) => self.divisors.iter().any(|(pair, _)| pair & left != 0 && pair & right != 0),
        }
    }

    /// What joining two sets costs, in rows that are looked up.
    fn cost(&self, left: Set, right: Set) -> f64 {
        let (l, r) = (self.side(left), self.side(right));
        BUILD * l.min(r) + l.max(r) + self.rows(left | right)
    }

    fn cost_of(&self, order: &Order) -> f64 {
        match order {
            Order::Input(_) => 0.0,
            Order::Join(left, right) => self.cost_of(left) + self.cost_of(right) + self.cost(left.set(), right.set()),
        }
    }

    /// An order that is clearly better than the query's own.
    fn better_than(&self, own: &Order) -> Option<Arc<Order>> {
        let best = if self.inputs.len() > MAX_SEARCHED { self.greedy() } else { self.searched() }?;
        (self.cost_of(&best) < CLEARLY * self.cost_of(own)).then_some(best)
    }

    /// The cheapest of all orders.
    fn searched(&self) -> Option<Arc<Order>> {
        let all: Set = (1 << self.inputs.len()) - 1;
        let mut best: Vec<Option<(f64, Arc<Order>)>> = vec![None; all as usize + 1];
        for index in 0..self.inputs.len() {
            best[1 << index] = Some((0.0, Arc::new(Order::Input(index))));
        }
        for set in 1..=all {
            // Its parts are smaller numbers.
            let mut left = (set - 1) & set;
            while left != 0 {
                let right = set & !left;
                let parts = (&best[left as usize], &best[right as usize]);
                if let (Some((l, left_order)), Some((r, right_order))) = parts
                    && self.is_join(left, right)
                {
                    let cost = l + r + self.cost(left, right);
                    if best[set as usize].as_ref().is_none_or(|(known, _)| cost < *known) {
                        let order = Order::Join(Arc::clone(left_order), Arc::clone(right_order));
                        best[set as usize] = Some((cost, Arc::new(order)));
                    }
                }
                left = (left - 1) & set;
            }
        }
        best.pop()?.map(|(_, order)| order)
    }

    /// The join that gives the fewest rows first, and so on.
    fn greedy(&self) -> Option<Arc<Order>> {
        let mut parts: Vec<Arc<Order>> = (0..self.inputs.len()).map(|index| Arc::new(Order::Input(index))).collect();
        while parts.len() > 1 {
            let sets: Vec<Set> = parts.iter().map(|part| part.set()).collect();
            let pairs = (0..parts.len()).flat_map(|l| (0..parts.len()).map(move |r| (l, r)));
            let pairs = pairs.filter(|(l, r)| l != r && self.is_join(sets[*l], sets[*r]));
            let costs = pairs.map(|(l, r)| (l, r, self.rows(sets[l] | sets[r]), self.cost(sets[l], sets[r])));
            let (l, r, ..) = costs.min_by(|a, b| a.2.total_cmp(&b.2).then(a.3.total_cmp(&b.3)))?;
            let joined = Arc::new(Order::Join(Arc::clone(&parts[l]), Arc::clone(&parts[r])));
            parts.remove(l.max(r));
            parts[l.min(r)] = joined;
        }
        parts.pop()
    }

    /// The joins in an order, the smaller side on the left: there the engine builds its hash table.
    fn joined(&self, order: &Order) -> Result<LogicalPlan, DataFusionError> {
        let (left, right) = match order {
            Order::Input(index) => return ordered(self.inputs[*index].plan.as_ref().clone()).map(|plan| plan.data),
            Order::Join(left, right) => (left, right),
        };
        let plain = NullEquality::NullEqualsNothing;
        let join = |left: &Order, right: &Order, on, filter, kind| {
            let (left, right) = (Arc::new(self.joined(left)?), Arc::new(self.joined(right)?));
            Join::try_new(left, right, on, filter, kind, JoinConstraint::On, plain, false).map(LogicalPlan::Join)
        };
        if let Order::Input(index) = right.as_ref()
            && let Some(Test { join: test, .. }) = &self.inputs[*index].test
        {
            return join(left, right, test.on.clone(), test.filter.clone(), test.join_type);
        }
        let smaller = self.side(left.set()) <= self.side(right.set());
        let (left, right) = if smaller { (left, right) } else { (right, left) };
        let (l, r) = (left.set(), right.set());
        let on = self.equal.iter().filter_map(|(of, one, other_of, other)| {
            let (of, other_of): (Set, Set) = (1 << of, 1 << other_of);
            match (of & l != 0 && other_of & r != 0, of & r != 0 && other_of & l != 0) {
                (true, _) => Some((one.clone(), other.clone())),
                (_, true) => Some((other.clone(), one.clone())),
                _ => None,
            }
        });
        let filters = self.filters.iter().filter(|(of, _)| of & !(l | r) == 0 && of & !l != 0 && of & !r != 0);
        let filter = conjunction(filters.map(|(_, filter)| filter.clone()));
        join(left, right, on.collect(), filter, JoinType::Inner)
    }
}

/// What joins that were taken apart ask for.
#[derive(Default)]
struct Conditions {
    /// Expressions that are equal.
    equal: Vec<(Expr, Expr)>,
    others: Vec<Expr>,
}
