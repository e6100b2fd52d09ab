//! `FROM 'x.csv' OPTIONS (delimiter ';', header false)`: how a file is to be read.
//!
//! DataFusion's dialect does not know it, and its catalogs know names only. So the words are taken out of the tokens and become
//! a part of the file's name, as versions become one of a frame's.

use std::collections::{BTreeMap, HashMap};

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::files::is_path;
use super::statement::{places, word_of};
use crate::{Error, Result};

/// Stands between a path and its options; no file is called so.
const MARK: &str = "\u{1}";
/// What may stand before the name of a file.
const BEFORE: [&str; 3] = ["FROM", "JOIN", "USING"];
/// What can be said of a CSV file.
const KNOWN: [&str; 5] = ["delimiter", "escape", "header", "null", "quote"];

/// How a file is to be read: options by their names.
pub(super) type FileOptions = BTreeMap<String, String>;

/// Takes `OPTIONS (…)` behind the names of files out, and puts it into the names.
///
/// # Errors
/// [`crate::ErrorKind::InvalidInput`] for options that there are not.
pub(super) fn take_options(tokens: &mut Vec<TokenWithSpan>) -> Result<()> {
    let mut from = 0;
    while let Some((name, path, first)) = find(tokens, from) {
        let (options, last) = options(tokens, first)?;
        let value = serde_json::to_string(&options).map_err(|error| Error::internal(error.to_string()))?;
        if let Some(token) = tokens.get_mut(name) {
            let keyword = datafusion::sql::sqlparser::keywords::Keyword::NoKeyword;
            token.token = Token::Word(Word { value: format!("{path}{MARK}{value}"), quote_style: Some('"'), keyword });
        }
        tokens.drain(first..=last);
        from = name + 1;
    }
    Ok(())
}

/// A path and the options in it.
pub(super) fn split(name: &str) -> (&str, FileOptions) {
    let Some((path, options)) = name.split_once(MARK) else { return (name, FileOptions::new()) };
    (path, serde_json::from_str(options).unwrap_or_default())
}

/// Where the name of a file stands, the name, and where the word OPTIONS stands behind it.
fn find(tokens: &[TokenWithSpan], from: usize) -> Option<(usize, String, usize)> {
    let words = places(tokens);
    words.windows(4).find_map(|at| {
        let [before, name, word, open] =
            [&tokens[at[0]], &tokens[at[1]], &tokens[at[2]], &tokens[at[3]]].map(|t| &t.token);
        let is_source = *before == Token::Comma || word_of(before).is_some_and(|word| BEFORE.contains(&word.as_str()));
        let path = match name {
            Token::SingleQuotedString(path) => path,
            Token::Word(path) if path.quote_style.is_some() => &path.value,
            _ => return None,
        };
        let says = word_of(word).as_deref() == Some("OPTIONS") && *open == Token::LParen;
        (at[1] >= from && is_source && says && is_path(path)).then(|| (at[1], path.clone(), at[2]))
    })
}

/// What stands in the parentheses behind the token at `first`, and where they close.
fn options(tokens: &[TokenWithSpan], first: usize) -> Result<(FileOptions, usize)> {
    let wanted = || {
        Error::invalid(
            "OPTIONS of a file wants names and values, like OPTIONS (delimiter ';', header false, null 'NA')",
        )
    };
    let mut rest = tokens.iter().enumerate().skip(first + 1).filter(|(_, t)| !matches!(t.token, Token::Whitespace(_)));
    rest.next();
    let mut found = FileOptions::new();
    loop {
        let key = match rest.next().map(|(_, token)| &token.token) {
            Some(Token::Word(word)) => word.value.to_ascii_lowercase(),
            Some(Token::SingleQuotedString(text)) => text.to_ascii_lowercase(),
            _ => return Err(wanted()),
        };
        if !KNOWN.contains(&key.as_str()) {
            return Err(Error::invalid(format!("a file has no option '{key}': there are {}", KNOWN.join(", "))));
        }
        let value = match rest.next().map(|(_, token)| &token.token) {
            Some(Token::SingleQuotedString(text)) => text.clone(),
            Some(Token::Word(word)) => word.value.to_ascii_lowercase(),
            _ => return Err(wanted()),
        };
        add(&mut found, key, &value)?;
        match rest.next().map(|(at, token)| (at, &token.token)) {
            Some((_, Token::Comma)) => {}
            Some((at, Token::RParen)) => return Ok((found, at)),
            _ => return Err(wanted()),
        }
    }
}

/// The options of a COPY as the engine's readers and writers have them. That text which stands for null has its own name for
/// each: it stays `format.null`.
///
/// # Errors
/// [`crate::ErrorKind::InvalidInput`] for one that is given twice, or has a value that it cannot have.
pub(super) fn of_format(options: impl IntoIterator<Item = (String, String)>) -> Result<HashMap<String, String>> {
    let mut found = FileOptions::new();
    for (key, value) in options {
        // What is said of one column has its name behind it.
        let key = if key.contains("::") { key } else { key.to_ascii_lowercase() };
        let key = match key.strip_prefix("format.").unwrap_or(&key) {
            "has_header" => "header",
            "delim" | "sep" => "delimiter",
            "nullstr" | "null_value" => "null",
            other => other,
        };
        add(&mut found, key.to_string(), &value)?;
    }
    let named = |key: String| match key.as_str() {
        "header" => "format.has_header".to_string(),
        other if other.contains('.') => key,
        other => format!("format.{other}"),
    };
    Ok(found.into_iter().map(|(key, value)| (named(key), value)).collect())
}

fn add(options: &mut FileOptions, key: String, value: &str) -> Result<()> {
    let value = match key.as_str() {
        "header" => value.to_ascii_lowercase(),
        "delimiter" if matches!(value.to_ascii_lowercase().as_str(), "tab" | "\\t") => "\t".into(),
        _ => value.to_string(),
    };
    check(&key, &value)?;
    match options.insert(key.clone(), value) {
        None => Ok(()),
        Some(_) => Err(Error::invalid(format!("{key} is given twice: leave one of them out"))),
    }
}

fn check(key: &str, value: &str) -> Result<()> {
    let fits = match key {
        "header" => matches!(value, "true" | "false"),
        "delimiter" | "quote" | "escape" => value.len() == 1,
        _ => true,
    };
    match fits {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "{key} cannot be '{value}': use {}",
            if key == "header" { "true or false" } else { "one character of ASCII, or 'tab'" }
        ))),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;

    use super::*;

    fn taken(sql: &str) -> Result<String> {
        let mut tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().unwrap();
        take_options(&mut tokens)?;
        Ok(tokens.iter().map(|token| token.token.to_string()).collect())
    }

    #[test]
    fn options_become_a_part_of_the_name() {
        let sql = taken(
            "SELECT * FROM 'a/x.csv' OPTIONS (delimiter ';', HEADER false) AS f, \"y.csv\" options(null '') WHERE 1=1",
        )
        .unwrap();
        let names: Vec<_> = sql.split('"').filter(|part| part.contains(MARK)).collect();
        assert_eq!(names.len(), 2, "{sql}");
        assert!(sql.ends_with("WHERE 1=1") && !sql.to_lowercase().contains("options"), "{sql}");
        let mut tokens =
            Tokenizer::new(&GenericDialect {}, "FROM 'x.csv' OPTIONS (quote '''')").tokenize_with_location().unwrap();
        take_options(&mut tokens).unwrap();
        let Some(Token::Word(name)) = tokens.get(2).map(|token| &token.token) else { unreachable!("a name") };
        assert_eq!(split(&name.value), ("x.csv", FileOptions::from([("quote".into(), "'".into())])));
        assert_eq!(split("plain.csv"), ("plain.csv", FileOptions::new()));
    }

    #[test]
    fn options_of_copy_have_one_name_each() {
        let of = |options: &[(&str, &str)]| of_format(options.iter().map(|(k, v)| (k.to_string(), v.to_string())));
        let wanted = [("format.delimiter", "\t"), ("format.has_header", "false"), ("format.null", "NA")];
        let wanted: HashMap<_, _> = wanted.map(|(k, v)| (k.to_string(), v.to_string())).into();
        assert_eq!(of(&[("DELIM", "tab"), ("header", "FALSE"), ("nullstr", "NA")]).unwrap(), wanted);
        assert_eq!(of(&[("format.delimiter", "\\t"), ("has_header", "false"), ("null", "NA")]).unwrap(), wanted);
        let other =
            of(&[("format.compression::Mixed", "snappy"), ("execution.keep_partition_by_columns", "true")]).unwrap();
        assert!(other.contains_key("format.compression::Mixed"), "{other:?}");
        assert!(other.contains_key("execution.keep_partition_by_columns"), "{other:?}");
        for bad in [&[("sep", ";"), ("delimiter", ",")][..], &[("delimiter", "||")], &[("header", "1")]] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_option_is_refused_and_others_are_left_alone() {
        for bad in
            ["(delimiter)", "(delimiter ';;')", "(header 1)", "(nope 'x')", "(quote 'x'", "()", "(null 'x', NULL 'y')"]
        {
            assert!(taken(&format!("SELECT * FROM 'x.csv' OPTIONS {bad}")).is_err(), "{bad}");
        }
        for sql in ["COPY f TO 'x.csv' OPTIONS (delimiter ';')", "SELECT options(1) FROM f", "SELECT 'x.csv' OPTIONS"] {
            assert_eq!(taken(sql).unwrap(), sql);
        }
    }
}
