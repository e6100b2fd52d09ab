//! How long chains of operators may be.
//!
//! A chain like `a OR b OR …` becomes one call within the other when it is worked on, as deep as it is long, and the parser's
//! own limit does not count it as nested.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::{Error, Result};

/// Operators of one kind in a row that are taken, as many as DuckDB takes.
const MAX_CHAIN: usize = 1000;

/// How operators bind, loosest first; what binds more loosely ends the chains of those that bind more closely.
const UNION: usize = 0;
const OR: usize = 1;
const AND: usize = 2;
const COMPARISON: usize = 3;
const SUM: usize = 4;
const PRODUCT: usize = 5;

/// Refuses chains like `a OR b OR …` so long that working on them, one call within the other, could exhaust a thread's
/// stack: the parser's own limit does not count them as nested. Counted are the operators of a kind in a row, on each level
/// of parentheses, and how deep all of them are together.
pub(super) fn check_chains(tokens: &[TokenWithSpan]) -> Result<()> {
    #[derive(Default)]
    struct Level {
        chains: [usize; 6],
        /// Of what stood in parentheses.
        below: usize,
        deepest: usize,
    }
    impl Level {
        fn depth(&mut self) -> usize {
            self.deepest = self.deepest.max(self.below + self.chains.iter().sum::<usize>());
            self.deepest
        }
    }
    let too_long = |token: &Token| {
        Err(Error::invalid(format!(
            "the SQL has more than {MAX_CHAIN} operators like {token} in a row: use IN (…), a join with a frame, or several \
             statements"
        )))
    };
    let mut levels = vec![Level::default()];
    for TokenWithSpan { token, .. } in tokens {
        match token {
            Token::LParen | Token::LBracket => levels.push(Level::default()),
            Token::RParen | Token::RBracket if levels.len() > 1 => {
                let below = levels.pop().map_or(0, |mut level| level.depth());
                if let Some(level) = levels.last_mut() {
                    level.below = level.below.max(below + 1);
                }
            }
            token => {
                let Some(level) = levels.last_mut() else { continue };
                match binding(token) {
                    Some(kind) => {
                        level.depth();
                        level.chains[kind + 1..].fill(0);
                        level.chains[kind] += 1;
                        if level.chains[kind] > MAX_CHAIN || level.depth() > 2 * MAX_CHAIN {
                            return too_long(token);
                        }
                    }
                    // Something new begins.
                    None if ends_chains(token) => {
                        level.depth();
                        level.chains[OR..].fill(0);
                        level.below = 0;
                    }
                    None => {}
                }
            }
        }
    }
    Ok(())
}

/// The kind of an operator.
fn binding(token: &Token) -> Option<usize> {
    match token {
        Token::Word(word) if word.quote_style.is_none() => match word.value.to_ascii_uppercase().as_str() {
            "UNION" | "EXCEPT" | "INTERSECT" | "JOIN" => Some(UNION),
            "OR" => Some(OR),
            "AND" | "XOR" => Some(AND),
            "IS" | "LIKE" | "ILIKE" | "SIMILAR" | "RLIKE" | "REGEXP" | "BETWEEN" | "COLLATE" | "AT" => Some(COMPARISON),
            "DIV" => Some(PRODUCT),
            _ => None,
        },
        Token::Plus | Token::Minus | Token::StringConcat => Some(SUM),
        Token::Mul | Token::Div | Token::Mod => Some(PRODUCT),
        Token::Word(_) | Token::Number(..) | Token::Char(_) | Token::Whitespace(_) | Token::EOF => None,
        Token::Comma | Token::SemiColon | Token::Period | Token::Colon | Token::Placeholder(_) => None,
        Token::LBrace | Token::RBrace | Token::LParen | Token::RParen | Token::LBracket | Token::RBracket => None,
        token if is_text(token) => None,
        // Comparisons, bits, arrows, casts.
        _ => Some(COMPARISON),
    }
}

fn is_text(token: &Token) -> bool {
    matches!(
        token,
        Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::TripleSingleQuotedString(_)
            | Token::TripleDoubleQuotedString(_)
            | Token::DollarQuotedString(_)
            | Token::NationalStringLiteral(_)
            | Token::EscapedStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::SingleQuotedByteStringLiteral(_)
            | Token::DoubleQuotedByteStringLiteral(_)
    )
}

fn ends_chains(token: &Token) -> bool {
    match token {
        Token::Comma => true,
        Token::Word(word) if word.quote_style.is_none() => matches!(
            word.value.to_ascii_uppercase().as_str(),
            "WHEN"
                | "THEN"
                | "ELSE"
                | "SELECT"
                | "FROM"
                | "WHERE"
                | "ON"
                | "HAVING"
                | "GROUP"
                | "ORDER"
                | "VALUES"
                | "SET"
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::MAX_CHAIN;
    use crate::sql::statement::{check_expression, parse};

    #[test]
    fn chains_have_an_end() {
        let chain = |operator: &str, length: usize| format!("SELECT {}", vec!["1"; length + 1].join(operator));
        for operator in ["+", " - ", " OR ", " and ", "||", "*", " = ", " UNION SELECT ", " | ", " << ", " LIKE "] {
            assert!(parse(&chain(operator, MAX_CHAIN)).is_ok(), "{operator}");
            let error = parse(&chain(operator, MAX_CHAIN + 1)).unwrap_err();
            assert!(error.message().contains("in a row"), "{operator}: {error}");
        }
        let list = vec!["1 + 1 - 1"; 5000].join(", ");
        assert!(parse(&format!("SELECT {list} FROM (VALUES ({list}))")).is_ok());
        for flat in ["(a = 1 AND b = 2)", "a = 1 AND b = 2"] {
            let flat = vec![flat; MAX_CHAIN].join(" OR ");
            assert!(parse(&format!("SELECT * FROM f WHERE {flat}")).is_ok());
        }
        let branches = "WHEN a = 1 THEN b + 1 ".repeat(5 * MAX_CHAIN);
        assert!(parse(&format!("SELECT CASE {branches} ELSE 0 END FROM f")).is_ok());
        // Deep together, though no chain is long.
        let sum = vec!["1"; MAX_CHAIN].join(" + ");
        let deep = (0..10).fold("1".to_string(), |inner, _| format!("({inner} + {sum})"));
        assert!(parse(&format!("SELECT {deep}")).is_err());
        assert!(check_expression(&vec!["1"; 2 * MAX_CHAIN].join("|")).is_err());
    }
}
