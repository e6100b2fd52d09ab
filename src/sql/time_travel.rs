//! `f VERSION AS OF 3` and `f TIMESTAMP AS OF '2026-01-31 12:00'` in queries.
//!
//! DataFusion's dialect does not know them, and its catalogs know names only. So the words are taken out of the tokens, and
//! the version becomes a part of the name, behind an `@`, which no frame's name has.

use std::ops::ControlFlow;

use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{Ident, ObjectNamePart, TableAlias, TableFactor, VisitMut, VisitorMut};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::statement::word_of;
use crate::storage::AsOf;
use crate::{Error, Result};

/// Stands between a frame's name and its version.
const AT: char = '@';
/// What may stand before the name of a frame.
const BEFORE: [&str; 4] = ["FROM", "JOIN", "USING", "INTO"];

/// Takes `VERSION AS OF …` and `TIMESTAMP AS OF …` out, and puts the version into the name before it.
///
/// # Errors
/// [`crate::ErrorKind::InvalidInput`] where no frame's name stands before it, or what follows is no version and no moment.
pub(super) fn take_versions(tokens: &mut Vec<TokenWithSpan>) -> Result<()> {
    let mut from = 0;
    while let Some(found) = find(tokens, from)? {
        let Found { name, first, last, as_of } = found;
        if let Token::Word(word) = &mut tokens[name].token {
            let base = if word.quote_style.is_some() { word.value.clone() } else { word.value.to_lowercase() };
            *word = Word { value: versioned(&base, as_of), quote_style: Some('"'), keyword: word.keyword };
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
    as_of: AsOf,
}

fn find(tokens: &[TokenWithSpan], from: usize) -> Result<Option<Found>> {
    let words: Vec<usize> = (0..tokens.len()).filter(|at| !matches!(tokens[*at].token, Token::Whitespace(_))).collect();
    let token = |at: usize| words.get(at).map(|index| &tokens[*index].token);
    let is = |at: usize, text: &str| token(at).and_then(word_of).as_deref() == Some(text);
    let begins = |at: &usize| {
        let follows = is(at + 1, "AS") && is(at + 2, "OF");
        words[*at] >= from && follows && (is(*at, "VERSION") || is(*at, "TIMESTAMP"))
    };
    let Some(at) = (0..words.len()).find(begins) else { return Ok(None) };
    let Some(as_of) = moment(&tokens[words[at]].token, token(at + 3))? else { return Ok(None) };
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
    Ok(Some(Found { name: words[first - 1], first: words[first], last: words[at + 3], as_of }))
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
            let nanos = string_to_timestamp_nanos(text).map_err(|_| {
                Error::invalid(format!(
                    "'{text}' is no moment: write '2026-01-31', '2026-01-31 12:00:00' (UTC) or '2026-01-31T12:00:00+01:00'"
                ))
            })?;
            Ok(Some(AsOf::Timestamp(nanos.div_euclid(1_000_000))))
        }
        (false, _) => Err(Error::invalid("TIMESTAMP AS OF wants a text, like TIMESTAMP AS OF '2026-01-31 12:00:00'")),
        (true, _) => Ok(None),
    }
}

fn misplaced() -> Error {
    Error::invalid("VERSION AS OF and TIMESTAMP AS OF stand right after a frame's name, before its alias")
}

/// A name with a version in it, as [`split`] takes it apart.
pub(super) fn versioned(name: &str, as_of: AsOf) -> String {
    match as_of {
        AsOf::Latest => name.to_string(),
        AsOf::Version(version) => format!("{name}{AT}v{version}"),
        AsOf::Timestamp(time) => format!("{name}{AT}t{time}"),
    }
}

/// A name and the version that is in it.
pub(super) fn split(name: &str) -> (&str, AsOf) {
    let parsed = name.rsplit_once(AT).and_then(|(base, version)| {
        let as_of = match version.split_at_checked(1)? {
            ("v", number) => AsOf::Version(number.parse().ok()?),
            ("t", time) => AsOf::Timestamp(time.parse().ok()?),
            _ => return None,
        };
        Some((base, as_of))
    });
    parsed.unwrap_or((name, AsOf::Latest))
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
            && let (base, AsOf::Version(_) | AsOf::Timestamp(_)) = split(&last.value)
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
        for as_of in [AsOf::Latest, AsOf::Version(0), AsOf::Version(u64::MAX), AsOf::Timestamp(-5)] {
            assert_eq!(split(&versioned("f", as_of)), ("f", as_of));
        }
        assert_eq!(split("odd@name"), ("odd@name", AsOf::Latest));
    }
}
