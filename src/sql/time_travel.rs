//! `f VERSION AS OF 3`, `f TIMESTAMP AS OF '2026-01-31 12:00'` and `f CHANGES SINCE VERSION 3` in queries.
//!
//! DataFusion's dialect does not know them, and its catalogs know names only. So the words are taken out of the tokens, and
//! the version becomes a part of the name, behind an `@`, which no frame's name has.

use std::ops::ControlFlow;

use arrow::compute::kernels::cast_utils::string_to_datetime;
use chrono::{NaiveDateTime, Utc};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{Ident, ObjectNamePart, TableAlias, TableFactor, VisitMut, VisitorMut};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::statement::{folded, places, word_of};
use crate::storage::AsOf;
use crate::{Error, Result};

/// Stands between a frame's name and its version.
const AT: char = '@';
/// What may stand before the name of a frame.
const BEFORE: [&str; 4] = ["FROM", "JOIN", "USING", "INTO"];

/// What of a frame is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Sight {
    /// The rows of a version.
    At(AsOf),
    /// The rows that the versions above `since` added and removed, up to `until` or the newest.
    Changes { since: u64, until: Option<u64> },
}

impl Sight {
    /// What a bare name means.
    pub(super) const LATEST: Self = Self::At(AsOf::Latest);
}

/// Takes `VERSION AS OF …`, `TIMESTAMP AS OF …` and `CHANGES SINCE VERSION …` out, and puts them into the name before.
///
/// # Errors
/// [`crate::ErrorKind::InvalidInput`] where no frame's name stands before it, or what follows is no version and no moment.
pub(super) fn take_versions(tokens: &mut Vec<TokenWithSpan>) -> Result<()> {
    let mut from = 0;
    while let Some(found) = find(tokens, from)? {
        let Found { name, first, last, sight } = found;
        if let Token::Word(word) = &mut tokens[name].token {
            let base = folded(&word.value, word.quote_style);
            *word = Word { value: seen(&base, sight), quote_style: Some('"'), keyword: word.keyword };
        }
        tokens.drain(first..=last);
        from = name + 1;
    }
    Ok(())
}

/// Where something is said about a version.
struct Found {
    /// The last word of the frame's name.
    name: usize,
    /// The first word after it, and the version itself.
    first: usize,
    last: usize,
    sight: Sight,
}

fn find(tokens: &[TokenWithSpan], from: usize) -> Result<Option<Found>> {
    let words = places(tokens);
    let token = |at: usize| words.get(at).map(|index| &tokens[*index].token);
    let is = |at: usize, text: &str| token(at).and_then(word_of).as_deref() == Some(text);
    let changes = |at: usize| is(at, "CHANGES") && is(at + 1, "SINCE") && is(at + 2, "VERSION");
    let begins = |at: &usize| {
        let follows = is(at + 1, "AS") && is(at + 2, "OF");
        words[*at] >= from && (follows && (is(*at, "VERSION") || is(*at, "TIMESTAMP")) || changes(*at))
    };
    let Some(at) = (0..words.len()).find(begins) else { return Ok(None) };
    let (sight, length) = if changes(at) {
        let ends = is(at + 4, "TO") && is(at + 5, "VERSION");
        let until = if ends { Some(number(token(at + 6))?) } else { None };
        (Sight::Changes { since: number(token(at + 3))?, until }, if ends { 7 } else { 4 })
    } else {
        let Some(as_of) = moment(&tokens[words[at]].token, token(at + 3))? else { return Ok(None) };
        (Sight::At(as_of), 4)
    };
    let first = if at > 0 && is(at - 1, "FOR") { at - 1 } else { at };
    let mut start = first.checked_sub(1).ok_or_else(misplaced)?;
    if !matches!(token(start), Some(Token::Word(_))) {
        return Err(misplaced());
    }
    while start >= 2 && token(start - 1) == Some(&Token::Period) {
        start -= 2;
    }
    let before = start.checked_sub(1).and_then(token).ok_or_else(misplaced)?;
    let is_source = match before {
        Token::Comma | Token::LParen => true,
        word => word_of(word).is_some_and(|word| BEFORE.contains(&word.as_str())),
    };
    if !is_source {
        return Err(misplaced());
    }
    Ok(Some(Found { name: words[first - 1], first: words[first], last: words[at + length - 1], sight }))
}

fn number(token: Option<&Token>) -> Result<u64> {
    let wanted = || Error::invalid("CHANGES SINCE VERSION wants the number of a version, like CHANGES SINCE VERSION 3");
    match token {
        Some(Token::Number(number, _)) => number.parse().map_err(|_| wanted()),
        _ => Err(wanted()),
    }
}

/// What `VERSION` or `TIMESTAMP` and what follows AS OF mean; `None` where it is something else.
pub(super) fn moment(kind: &Token, value: Option<&Token>) -> Result<Option<AsOf>> {
    let is_version = word_of(kind).as_deref() == Some("VERSION");
    match (is_version, value) {
        (true, Some(Token::Number(number, _))) => {
            let version = number.parse().map_err(|_| Error::invalid(format!("{number} is no version of a frame")))?;
            Ok(Some(AsOf::Version(version)))
        }
        (false, Some(Token::SingleQuotedString(text))) => {
            let moment = string_to_datetime(&Utc, text).or_else(|error| {
                // Arrow wants seconds, too.
                let minutes = NaiveDateTime::parse_from_str(&text.replace('T', " "), "%Y-%m-%d %H:%M");
                minutes.map(|moment| moment.and_utc()).map_err(|_| error)
            });
            let moment = moment.map_err(|_| {
                Error::invalid(format!(
                    "'{text}' is no moment: write '2026-01-31', '2026-01-31 12:00' (UTC) or '2026-01-31T12:00:00+01:00'"
                ))
            })?;
            Ok(Some(AsOf::Timestamp(moment.timestamp_millis())))
        }
        (false, _) => Err(Error::invalid("TIMESTAMP AS OF wants a text, like TIMESTAMP AS OF '2026-01-31 12:00:00'")),
        (true, Some(Token::SingleQuotedString(_) | Token::Minus)) => {
            Err(Error::invalid("VERSION AS OF wants the number of a version, like VERSION AS OF 3"))
        }
        (true, _) => Ok(None),
    }
}

fn misplaced() -> Error {
    Error::invalid(
        "VERSION AS OF, TIMESTAMP AS OF and CHANGES SINCE stand right after a frame's name, before its alias",
    )
}

/// A name with what of it is meant, as [`split`] takes it apart.
pub(super) fn seen(name: &str, sight: Sight) -> String {
    match sight {
        Sight::At(AsOf::Latest) => name.to_string(),
        Sight::At(AsOf::Version(version)) => format!("{name}{AT}v{version}"),
        Sight::At(AsOf::Timestamp(time)) => format!("{name}{AT}t{time}"),
        Sight::Changes { since, until: None } => format!("{name}{AT}c{since}"),
        Sight::Changes { since, until: Some(until) } => format!("{name}{AT}c{since}-{until}"),
    }
}

/// A name and what of it is meant.
pub(super) fn split(name: &str) -> (&str, Sight) {
    let parsed = name.rsplit_once(AT).and_then(|(base, version)| {
        let sight = match version.split_at_checked(1)? {
            ("v", number) => Sight::At(AsOf::Version(number.parse().ok()?)),
            ("t", time) => Sight::At(AsOf::Timestamp(time.parse().ok()?)),
            ("c", range) => match range.split_once('-') {
                Some((since, until)) => Sight::Changes { since: since.parse().ok()?, until: Some(until.parse().ok()?) },
                None => Sight::Changes { since: range.parse().ok()?, until: None },
            },
            _ => return None,
        };
        Some((base, sight))
    });
    parsed.unwrap_or((name, Sight::LATEST))
}

/// Lets versions of frames be called by the frames' names.
pub(super) fn name_versions(statement: &mut DfStatement) {
    if let DfStatement::Statement(ast) = statement {
        // It never breaks off.
        let _ = ast.visit(&mut Alias);
    }
    if let DfStatement::Explain(explain) = statement {
        name_versions(&mut explain.statement);
    }
}

struct Alias;

impl VisitorMut for Alias {
    type Break = ();

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, alias: alias @ None, .. } = factor
            && let Some(ObjectNamePart::Identifier(last)) = name.0.last()
            && let (base, sight) = split(&last.value)
            && sight != Sight::LATEST
        {
            let name = Ident::with_quote('"', base);
            *alias = Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None });
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_version() {
        let versions = [AsOf::Latest, AsOf::Version(0), AsOf::Version(u64::MAX), AsOf::Timestamp(-5)].map(Sight::At);
        let changes = [None, Some(7)].map(|until| Sight::Changes { since: 3, until });
        for sight in versions.into_iter().chain(changes) {
            assert_eq!(split(&seen("f", sight)), ("f", sight));
        }
        assert_eq!(split("odd@name"), ("odd@name", Sight::LATEST));
    }
}
