//! The 22 queries with their validation parameters, in words that DataFusion and DuckDB both take.
//!
//! Table names are unqualified: `USE HIVE` and `USE BOX` say which data they mean.

use crate::failure::Outcome;
use crate::output;

/// Numbers of the queries.
pub(crate) const NUMBERS: std::ops::RangeInclusive<u8> = 1..=22;

const TEXTS: [&str; 22] = [
    include_str!("q1.sql"),
    include_str!("q2.sql"),
    include_str!("q3.sql"),
    include_str!("q4.sql"),
    include_str!("q5.sql"),
    include_str!("q6.sql"),
    include_str!("q7.sql"),
    include_str!("q8.sql"),
    include_str!("q9.sql"),
    include_str!("q10.sql"),
    include_str!("q11.sql"),
    include_str!("q12.sql"),
    include_str!("q13.sql"),
    include_str!("q14.sql"),
    include_str!("q15.sql"),
    include_str!("q16.sql"),
    include_str!("q17.sql"),
    include_str!("q18.sql"),
    include_str!("q19.sql"),
    include_str!("q20.sql"),
    include_str!("q21.sql"),
    include_str!("q22.sql"),
];

/// Query `number` of [`NUMBERS`], for data of scale 1.
pub(crate) fn text(number: u8) -> &'static str {
    TEXTS[usize::from(number) - 1]
}

/// Query `number` for data of `scale`: the fraction of query 11 depends on it.
pub(crate) fn text_for(number: u8, scale: f64) -> String {
    const FRACTION: &str = "* 0.0001";
    match number {
        11 => text(number).replace(FRACTION, &format!("* {:.10}", 0.0001 / scale)),
        _ => text(number).to_owned(),
    }
}

/// Prints query `number`.
///
/// # Errors
/// When stdout cannot be written to.
pub(crate) fn print(number: u8) -> Outcome {
    output::print_line(text(number).trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_its_own_query_of_one_statement() {
        let mut texts: Vec<&str> = NUMBERS.map(text).collect();
        assert!(texts.iter().all(|text| text.contains("select") && !text.contains(';')));
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), 22);
    }

    #[test]
    fn the_fraction_of_query_11_follows_the_scale() {
        assert!(text_for(11, 1.0).contains("* 0.0001000000\n"));
        assert!(text_for(11, 0.1).contains("* 0.0010000000\n"));
        assert!(text_for(11, 100.0).contains("* 0.0000010000\n"));
        assert_eq!(text_for(6, 100.0), text(6));
    }
}
