//! `apiary-node demo`: TPC-H data, its 22 queries, and what they took.

use apiary::size::format_size;
use apiary::{Colony, ColonyStatus, QueryStats, Session};
use futures::StreamExt;

use crate::cli::{BoxRef, DemoArgs};
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::progress::{Progress, Unit, say};
use crate::stopwatch::Stopwatch;
use crate::tpch::queries;
use crate::{generate, table};

/// Characters of a query's first row that are shown: the line then fits a wide terminal.
const SHOWN: usize = 60;

/// Generates what is missing, asks the queries, and sums up.
pub(crate) async fn run(colony: &Colony, args: &DemoArgs) -> Outcome {
    let target = BoxRef::for_tpch(args.scale)?;
    say(format_args!("TPC-H at scale {} in {target}", args.scale));
    generate::into_meadow(colony, args.scale, &target).await?;
    let session = session_in(colony, &target).await?;
    let answers = ask_all(&session, args.scale).await?;
    let status = colony.status().await?;
    for line in summary(&answers).into_iter().chain(farewell(&status, &target)) {
        output::print_line(&line)?;
    }
    Ok(())
}

async fn session_in(colony: &Colony, target: &BoxRef) -> Outcome<Session> {
    let session = colony.session();
    for statement in [format!("USE HIVE {}", target.hive), format!("USE BOX {}", target.box_)] {
        session.sql(&statement).await?.collect().await?;
    }
    Ok(session)
}

/// What a query gave and took.
struct Answer {
    number: u8,
    rows: u64,
    first: String,
    millis: f64,
    stats: QueryStats,
}

async fn ask_all(session: &Session, scale: f64) -> Outcome<Vec<Answer>> {
    let progress = Progress::start("TPC-H", Some(queries::NUMBERS.count() as u64), Unit::Queries);
    progress.suspend(|| output::print_line(&heading()))?;
    let mut answers = Vec::new();
    for number in queries::NUMBERS {
        progress.note(format!("Q{number} runs"));
        let answer = ask(session, number, scale).await?;
        progress.suspend(|| output::print_line(&line(&answer)))?;
        progress.add(1);
        answers.push(answer);
    }
    progress.clear();
    Ok(answers)
}

async fn ask(session: &Session, number: u8, scale: f64) -> Outcome<Answer> {
    let text = queries::text_for(number, scale);
    let watch = Stopwatch::start();
    let mut stream = session.sql(&text).await.map_err(|e| e.context(format_args!("Q{number}")))?;
    let (mut rows, mut first) = (0, String::new());
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(|e| e.context(format_args!("Q{number}")))?;
        if rows == 0 && batch.num_rows() > 0 {
            first = table::first_row(&batch).map_err(|e| Failure::local("cannot show a row", e))?;
        }
        rows += batch.num_rows() as u64;
    }
    Ok(Answer { number, rows, first, millis: watch.millis(), stats: stream.stats() })
}

fn heading() -> String {
    format!("{:<4} {:>6} {:>9} {:>5} {:>9}  first row", "", "rows", "ms", "bees", "memory")
}

fn line(answer: &Answer) -> String {
    format!(
        "{:<4} {:>6} {:>9.1} {:>5} {:>9}  {}",
        format!("Q{}", answer.number),
        answer.rows,
        answer.millis,
        answer.stats.bees,
        format_size(answer.stats.memory_peak),
        brief(&answer.first)
    )
}

fn brief(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn summary(answers: &[Answer]) -> Vec<String> {
    let millis: Vec<f64> = answers.iter().map(|answer| answer.millis).collect();
    let hottest = answers.iter().map(|answer| answer.stats.temperature).fold(0.0, f64::max);
    let memory = answers.iter().map(|answer| answer.stats.memory_peak).max().unwrap_or(0);
    let spilled: u64 = answers.iter().map(|answer| answer.stats.spilled).sum();
    vec![
        String::new(),
        format!("total           {:.2} s for {} queries", millis.iter().sum::<f64>() / 1000.0, millis.len()),
        format!("geometric mean  {:.1} ms", geometric_mean(&millis)),
        format!("temperature     {hottest:.2} at most (0 is idle, 1 is full)"),
        format!("memory peak     {} on one bee, spilled {}", format_size(memory), format_size(spilled)),
    ]
}

fn geometric_mean(millis: &[f64]) -> f64 {
    if millis.is_empty() {
        return 0.0;
    }
    // A query of no measurable time must not make the mean zero.
    let logarithms: f64 = millis.iter().map(|ms| ms.max(0.001).ln()).sum();
    (logarithms / millis.len() as f64).exp()
}

fn farewell(status: &ColonyStatus, target: &BoxRef) -> Vec<String> {
    let node = format!("apiary-node --storage '{}'", status.storage);
    vec![
        format!("bees            {} with {} of memory together", status.bees, format_size(status.memory)),
        format!("data            {}, in {target}", status.storage),
        String::new(),
        "Try next:".to_owned(),
        format!("  {node} frames"),
        format!("  {node} describe {target}.lineitem"),
        format!("  {node} sql 'SELECT l_shipmode, count(*) FROM {target}.lineitem GROUP BY l_shipmode'"),
        format!("  {node} sql 'EXPLAIN ANALYZE SELECT max(o_totalprice) FROM {target}.orders'"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(millis: f64, temperature: f64, memory_peak: u64) -> Answer {
        let stats = QueryStats { bees: 2, temperature, memory_peak, ..QueryStats::default() };
        Answer { number: 7, rows: 4, first: "FRANCE | GERMANY".into(), millis, stats }
    }

    #[test]
    fn a_line_tells_rows_time_and_bees() {
        assert_eq!(line(&answer(12.34, 0.0, 1 << 20)), "Q7        4      12.3     2    1.0 MB  FRANCE | GERMANY");
        assert_eq!(heading().find("first row"), line(&answer(12.34, 0.0, 1 << 20)).find("FRANCE"));
    }

    #[test]
    fn long_rows_are_cut_at_a_character() {
        assert_eq!(brief("é"), "é");
        assert_eq!(brief(&"é".repeat(SHOWN + 1)), format!("{}…", "é".repeat(SHOWN)));
    }

    #[test]
    fn the_summary_takes_peaks_and_means() {
        let text = summary(&[answer(10.0, 0.2, 1 << 20), answer(1000.0, 0.6, 3 << 20)]).join("\n");
        for part in ["1.01 s for 2 queries", "100.0 ms", "0.60 at most", "3.0 MB"] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
    }

    #[test]
    fn the_mean_of_nothing_is_zero() {
        assert_eq!(geometric_mean(&[]), 0.0);
    }
}
