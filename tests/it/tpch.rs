//! TPC-H at a small scale: its tables in a meadow, its queries, and what plain DataFusion answers to them.

use std::sync::Arc;

use apiary::{Colony, Settings, WriteMode};
use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::util::display::array_value_to_string;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use tokio::runtime::Runtime;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RecordBatchIterator, RegionArrow,
    SupplierArrow,
};

use crate::support::{folder, name, rows, run, settings, start};

fn scale() -> f64 {
    std::env::var("APIARY_SCALE").map_or(0.01, |scale| scale.parse().unwrap())
}

/// Commits per large table, so that it has more cells than there are bees.
const PARTS: i32 = 6;
const TABLES: [&str; 8] = ["region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem"];
/// Relative difference that the order of a floating point sum may make.
const TOLERANCE: f64 = 1e-9;

pub(crate) const QUERIES: [&str; 22] = [
    include_str!("../../src/bin/apiary-node/tpch/q1.sql"),
    include_str!("../../src/bin/apiary-node/tpch/q2.sql"),
    include_str!("../../src/bin/apiary-node/tpch/q3.sql"),
    include_str!("../../src/bin/apiary-node/tpch/q4.sql"),
    include_str!("../../src/bin/apiary-node/tpch/q5.sql"),
    include_str!("../../src/bin/apiary-node/tpch/q6.sql"),
    include_str!("../../src/bin/apiary-node/tpch/q7.sql"),
    include_str!("../../src/bin/apiary-node/tpch/q8.sql"),
    include_str!("../../src/bin/apiary-node/tpch/q9.sql"),
    include_str!("../../src/bin/apiary-node/tpch/q10.sql"),
    include_str!("../../src/bin/apiary-node/tpch/q11.sql"),
    include_str!("../../src/bin/apiary-node/tpch/q12.sql"),
    include_str!("../../src/bin/apiary-node/tpch/q13.sql"),
    include_str!("../../src/bin/apiary-node/tpch/q14.sql"),
    include_str!("../../src/bin/apiary-node/tpch/q15.sql"),
    include_str!("../../src/bin/apiary-node/tpch/q16.sql"),
    include_str!("../../src/bin/apiary-node/tpch/q17.sql"),
    include_str!("../../src/bin/apiary-node/tpch/q18.sql"),
    include_str!("../../src/bin/apiary-node/tpch/q19.sql"),
    include_str!("../../src/bin/apiary-node/tpch/q20.sql"),
    include_str!("../../src/bin/apiary-node/tpch/q21.sql"),
    include_str!("../../src/bin/apiary-node/tpch/q22.sql"),
];

/// The batches of each part of a table.
type Parts = Vec<Vec<RecordBatch>>;

/// Writes the tables into `settings`' meadow and answers what plain DataFusion makes of the queries.
pub(crate) fn load(settings: Settings) -> Vec<Vec<Row>> {
    let tables: Vec<(&str, Parts)> = TABLES.into_iter().map(|table| (table, parts_of(table))).collect();
    write_all(settings, &tables);
    let wanted = Runtime::new().unwrap().block_on(plain_answers(&tables));
    assert!(wanted.iter().filter(|answer| !answer.is_empty()).count() > 15, "there is too little to compare");
    wanted
}

fn write_all(settings: Settings, tables: &[(&str, Parts)]) {
    let colony = start(settings);
    for (table, parts) in tables {
        let frame = name(table);
        let schema = parts[0][0].schema();
        colony.block_on(colony.create_frame(&frame, schema, Vec::new(), false)).unwrap();
        for part in parts {
            colony.block_on(colony.write(&frame, rows(part.clone()), WriteMode::Append)).unwrap();
        }
    }
}

async fn plain_answers(tables: &[(&str, Parts)]) -> Vec<Vec<Row>> {
    let context = SessionContext::new();
    for (table, parts) in tables {
        let rows = MemTable::try_new(parts[0][0].schema(), parts.clone()).unwrap();
        context.register_table(*table, Arc::new(rows)).unwrap();
    }
    let mut answers = Vec::new();
    for query in QUERIES {
        let batches = context.sql(query).await.unwrap().collect().await.unwrap();
        answers.push(sorted_rows(&batches));
    }
    answers
}

fn parts_of(table: &str) -> Parts {
    let parts = if matches!(table, "region" | "nation") { 1 } else { PARTS };
    (1..=parts).map(|part| generate(table, part, parts).collect()).collect()
}

fn generate(table: &str, part: i32, parts: i32) -> Box<dyn RecordBatchIterator> {
    match table {
        "region" => Box::new(RegionArrow::new(RegionGenerator::new(scale(), part, parts))),
        "nation" => Box::new(NationArrow::new(NationGenerator::new(scale(), part, parts))),
        "supplier" => Box::new(SupplierArrow::new(SupplierGenerator::new(scale(), part, parts))),
        "customer" => Box::new(CustomerArrow::new(CustomerGenerator::new(scale(), part, parts))),
        "part" => Box::new(PartArrow::new(PartGenerator::new(scale(), part, parts))),
        "partsupp" => Box::new(PartSuppArrow::new(PartSuppGenerator::new(scale(), part, parts))),
        "orders" => Box::new(OrderArrow::new(OrderGenerator::new(scale(), part, parts))),
        "lineitem" => Box::new(LineItemArrow::new(LineItemGenerator::new(scale(), part, parts))),
        other => panic!("{other} is no table of TPC-H"),
    }
}

/// A row of an answer: what must be equal, and what may differ by [`TOLERANCE`].
#[derive(Debug)]
pub(crate) struct Row {
    exact: Vec<String>,
    inexact: Vec<f64>,
}

/// Rows in an order of their own: the queries' orders leave ties open.
pub(crate) fn sorted_rows(batches: &[RecordBatch]) -> Vec<Row> {
    let mut rows: Vec<Row> = batches.iter().flat_map(rows_of).collect();
    rows.sort_by(|a, b| {
        let inexact = a.inexact.iter().zip(&b.inexact).map(|(a, b)| a.total_cmp(b));
        a.exact.cmp(&b.exact).then(inexact.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then))
    });
    rows
}

fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let is_inexact = |column: &ArrayRef| column.data_type().is_floating() || column.data_type().is_decimal();
    let columns = batch.columns().iter().cloned();
    let (inexact, exact): (Vec<ArrayRef>, Vec<ArrayRef>) = columns.partition(is_inexact);
    let inexact: Vec<Float64Array> = inexact.iter().map(floats).collect();
    let row = |index: usize| Row {
        exact: exact.iter().map(|column| array_value_to_string(column, index).unwrap()).collect(),
        inexact: inexact.iter().map(|column| float(column, index)).collect(),
    };
    (0..batch.num_rows()).map(row).collect()
}

fn floats(column: &ArrayRef) -> Float64Array {
    cast(column, &DataType::Float64).unwrap().as_primitive::<Float64Type>().clone()
}

fn float(column: &Float64Array, index: usize) -> f64 {
    if column.is_null(index) { f64::NAN } else { column.value(index) }
}

pub(crate) fn same(answer: &[Row], wanted: &[Row]) -> bool {
    let alike = |a: &Row, b: &Row| {
        a.exact == b.exact && a.inexact.len() == b.inexact.len() && a.inexact.iter().zip(&b.inexact).all(is_close)
    };
    answer.len() == wanted.len() && answer.iter().zip(wanted).all(|(a, b)| alike(a, b))
}

fn is_close((a, b): (&f64, &f64)) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs())
}

#[test]
fn the_comparison_sees_a_wrong_answer() {
    let row = |text: &str, number: f64| Row { exact: vec![text.to_string()], inexact: vec![number] };
    assert!(same(&[row("a", 1.0)], &[row("a", 1.0 + 1e-12)]));
    assert!(!same(&[row("a", 1.0)], &[row("a", 1.0 + 1e-6)]));
    assert!(!same(&[row("a", 1.0)], &[row("b", 1.0)]));
    assert!(!same(&[row("a", f64::NAN)], &[row("a", 0.0)]));
    assert!(!same(&[row("a", 1.0)], &[row("a", 1.0), row("a", 1.0)]));
}

/// The logical plan of a query, a step a line.
fn plan_of(colony: &Colony, sql: &str) -> String {
    let plan = run(colony, &format!("EXPLAIN {sql}"));
    array_value_to_string(plan[0].column(1), 0).unwrap()
}

#[test]
fn groups_that_no_row_asks_for_are_not_made() {
    let folder = folder();
    load(settings(&folder));
    let colony = start(settings(&folder));
    let is_reduced = |number: &usize| plan_of(&colony, QUERIES[number - 1]).contains("__wanted");
    let reduced: Vec<usize> = (1..=22).filter(is_reduced).collect();
    // Their parts are filtered; the groups of 18 are of orders, all of which are asked for.
    assert_eq!(reduced, [2, 17, 20]);
}

#[test]
fn joins_are_ordered_by_the_rows_they_give_and_not_by_how_they_are_written() {
    let folder = folder();
    load(settings(&folder));
    let colony = start(settings(&folder));
    let tables = ["lineitem", "orders", "customer", "nation"];
    let query = |order: [usize; 4]| {
        let from = order.map(|index| tables[index]).join(", ");
        format!(
            "SELECT count(*), sum(l_quantity) FROM {from} WHERE l_orderkey = o_orderkey AND o_custkey = c_custkey \
             AND c_nationkey = n_nationkey AND n_name = 'PERU'"
        )
    };
    let scans = |plan: &str| {
        let scanned = plan.lines().filter_map(|line| line.split_once("TableScan: ")?.1.split(' ').next());
        scanned.map(str::to_string).collect::<Vec<_>>()
    };
    let answer = sorted_rows(&run(&colony, &query([0, 1, 2, 3])));
    for order in [[0, 1, 2, 3], [3, 1, 0, 2], [1, 0, 3, 2], [2, 3, 1, 0]] {
        let plan = plan_of(&colony, &query(order));
        let mut scanned = scans(&plan);
        // Which of the first two is named first does not matter.
        scanned[..2].sort();
        assert_eq!(scanned, ["customer", "nation", "orders", "lineitem"], "{plan}");
        assert!(same(&sorted_rows(&run(&colony, &query(order))), &answer), "{order:?}");
    }
    // What few rows pass is asked before many are looked up.
    let plan = plan_of(&colony, QUERIES[17]);
    let tested = plan.lines().skip_while(|line| !line.contains("LeftSemi Join")).nth(1).unwrap();
    assert!(tested.contains("TableScan: orders"), "{plan}");
}
