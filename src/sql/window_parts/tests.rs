use arrow::array::{ArrayRef, AsArray, Int64Array, StringViewArray};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::DataType;
use datafusion::catalog::MemTable;
use datafusion::common::tree_node::{TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool, UnboundedMemoryPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::prelude::{SessionConfig, SessionContext, col};
use futures::TryStreamExt;

use datafusion::physical_plan::windows::WindowExpr;

use super::*;

/// Rows of the partition that does not fit.
const LARGE: usize = 12_000;
/// Bytes that are less than its rows are, and more than a column of it.
const LITTLE: usize = 700_000;

/// Rows of each partition: of one to hundreds, and a large one among them.
fn sizes() -> impl Iterator<Item = usize> {
    (0..300).map(|g| if g == 150 { LARGE } else { 1 + g * 7 % 50 })
}

fn batches() -> Vec<RecordBatch> {
    let groups: Vec<i64> = sizes().zip(0..).flat_map(|(size, g)| std::iter::repeat_n(g, size)).collect();
    let rows = groups.len() as i64;
    let texts = (0..rows).map(|i| (i % 11 != 0).then(|| format!("{:>60} is what row {i} says", i * 7919 % rows)));
    let columns: [(&str, ArrayRef); 4] = [
        ("g", Arc::new(Int64Array::from_iter(groups.iter().map(|g| (*g < 299).then_some(*g))))),
        ("i", Arc::new(Int64Array::from_iter_values(0..rows))),
        ("v", Arc::new(Int64Array::from_iter((0..rows).map(|i| (i % 5 != 0).then_some(i * 31 % 97))))),
        ("t", Arc::new(StringViewArray::from_iter(texts))),
    ];
    let all = RecordBatch::try_from_iter(columns).unwrap();
    let piece = |at: usize| copied_rows(&all.slice(at, 500.min(all.num_rows() - at))).unwrap();
    (0..all.num_rows()).step_by(500).map(piece).collect()
}

fn session() -> SessionContext {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1).with_batch_size(500));
    let batches = batches();
    let order = vec![col("g").sort(true, false), col("i").sort(true, false)];
    let table = MemTable::try_new(batches[0].schema(), vec![batches]).unwrap().with_sort_order(vec![order]);
    context.register_table("r", Arc::new(table)).unwrap();
    context
}

async fn planned(context: &SessionContext, window: &str) -> Arc<dyn ExecutionPlan> {
    let plan = context.sql(&format!("SELECT *, {window} FROM r")).await.unwrap();
    let plan = plan.create_physical_plan().await.unwrap();
    assert!(!engine_windows(&plan).is_empty(), "{window} is another step of the engine's");
    plan
}

fn engine_windows(plan: &Arc<dyn ExecutionPlan>) -> Vec<Arc<dyn WindowExpr>> {
    let mut found = Vec::new();
    let visit = |node: &Arc<dyn ExecutionPlan>| {
        found.extend(node.downcast_ref::<WindowAggExec>().into_iter().flat_map(|w| w.window_expr().to_vec()));
        Ok(TreeNodeRecursion::Continue)
    };
    plan.apply(visit).unwrap();
    found
}

async fn all(plan: &Arc<dyn ExecutionPlan>, runtime: RuntimeEnv) -> Result<RecordBatch> {
    let config = SessionConfig::new().with_batch_size(500);
    let context = TaskContext::default().with_session_config(config).with_runtime(Arc::new(runtime));
    let batches: Vec<RecordBatch> = plan.execute(0, Arc::new(context))?.try_collect().await?;
    Ok(concat_batches(&plan.schema(), &batches)?)
}

/// Whether `window` is as the engine's own step has it, in much memory and, where it `fits`, in little.
async fn is_the_engines(window: &str, fits: bool) {
    let context = session();
    let plan = planned(&context, window).await;
    let in_parts = Arc::clone(&plan).transform_up(window_parts).data().unwrap();
    let wanted = all(&plan, RuntimeEnv::default()).await.unwrap();
    for (room, fits) in [(usize::MAX, true), (LITTLE, fits)] {
        let pool: Arc<dyn MemoryPool> = match room {
            usize::MAX => Arc::new(UnboundedMemoryPool::default()),
            room => Arc::new(GreedyMemoryPool::new(room)),
        };
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::clone(&pool)).build().unwrap();
        match all(&in_parts, runtime).await {
            Ok(rows) => assert!(fits && rows == wanted, "{window} in {room} bytes is another"),
            Err(error) => {
                let is_full = matches!(error.find_root(), DataFusionError::ResourcesExhausted(_));
                assert!(!fits && is_full, "{window} in {room} bytes: {error}");
            }
        }
        assert_eq!(pool.reserved(), 0, "{window} keeps memory");
    }
}

#[tokio::test]
async fn windows_that_are_the_same_in_a_partition_need_no_more_memory_than_a_batch() {
    is_the_engines("max(t) OVER (PARTITION BY g)", true).await;
    is_the_engines("max(t) OVER ()", true).await;
    is_the_engines("count(*) OVER (PARTITION BY g), sum(v) OVER (PARTITION BY g)", true).await;
}

#[tokio::test]
async fn other_windows_need_memory_for_what_they_look_at() {
    is_the_engines("ntile(3) OVER (PARTITION BY g ORDER BY i)", true).await;
    is_the_engines("percent_rank() OVER (PARTITION BY g ORDER BY i)", true).await;
    is_the_engines("cume_dist() OVER (ORDER BY g)", true).await;
    is_the_engines("max(t) OVER (PARTITION BY g ORDER BY i ROWS BETWEEN 1 PRECEDING AND UNBOUNDED FOLLOWING)", false)
        .await;
    let first =
        "first_value(t) OVER (PARTITION BY g ORDER BY i ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)";
    is_the_engines(first, false).await;
}

#[tokio::test]
async fn long_values_are_repeated_in_small_batches() {
    let context = session();
    let plan = planned(&context, "string_agg(i::varchar, ',') OVER (PARTITION BY g) AS s").await;
    let plan = plan.transform_up(window_parts).data().unwrap();
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(20_000_000));
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::clone(&pool)).build().unwrap();
    let task = TaskContext::default().with_runtime(Arc::new(runtime));
    let mut batches = plan.execute(0, Arc::new(task)).unwrap();
    let first: usize = sizes().take(150).sum();
    let all_rows: usize = sizes().sum();
    let numbers = (first..first + LARGE).map(|i| i.to_string()).collect::<Vec<_>>();
    let large = numbers.join(",");
    let (mut rows, mut of_large) = (0, 0);
    while let Some(batch) = batches.try_next().await.unwrap() {
        rows += batch.num_rows();
        let texts = cast(batch.column_by_name("s").unwrap(), &DataType::LargeUtf8).unwrap();
        let texts = texts.as_string::<i64>();
        assert!(texts.value_data().len() <= 5_000_000, "a batch repeats {} bytes", texts.value_data().len());
        of_large += texts.iter().flatten().filter(|text| *text == large).count();
    }
    assert_eq!((rows, of_large), (all_rows, LARGE));
    drop(batches);
    assert_eq!(pool.reserved(), 0);
}

#[tokio::test]
async fn lists_of_whole_frames_are_refused_before_they_are_made() {
    let context = session();
    let frame = "PARTITION BY g ORDER BY i ROWS BETWEEN 1 PRECEDING AND UNBOUNDED FOLLOWING";
    let plan = planned(&context, &format!("array_agg(i) OVER ({frame})")).await;
    let plan = plan.transform_up(window_parts).data().unwrap();
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(100_000_000));
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build().unwrap();
    let error = all(&plan, runtime).await.unwrap_err();
    assert!(matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)), "{error}");
}

#[tokio::test]
async fn a_filter_may_look_at_any_column() {
    is_the_engines("sum(v) FILTER (WHERE length(t) % 2 = 0) OVER (PARTITION BY g)", false).await;
    let context = session();
    let filters = [("count(*)", true), ("sum(v) FILTER (WHERE i > 7)", false), ("max(t)", true)];
    for (window, has_none) in filters {
        let plan = planned(&context, &format!("{window} OVER (PARTITION BY g)")).await;
        assert!(engine_windows(&plan).iter().all(|window| windows::has_no_filter(window) == has_none), "{window}");
    }
}
