//! Several statements in one text.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use super::alter::byte_at;

/// Splits a text into its statements, each with the `;` that ends it, and what comes after the last `;`. A `;` within quotes
/// or a comment ends nothing; a text with a quote that is not closed is one that goes on.
pub fn split_statements(text: &str) -> (Vec<&str>, &str) {
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location() else {
        return (Vec::new(), text);
    };
    let (mut statements, mut from) = (Vec::new(), 0);
    for token in tokens.iter().filter(|token| token.token == Token::SemiColon) {
        let end = byte_at(text, token.span.start) + 1;
        if let Some(statement) = text.get(from..end) {
            // A `;` alone is no statement.
            if !is_blank(&statement[..statement.len() - 1]) {
                statements.push(statement);
            }
            from = end;
        }
    }
    (statements, text.get(from..).unwrap_or_default())
}

/// Whether a text has nothing but blanks and comments.
pub fn is_blank(text: &str) -> bool {
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize();
    tokens.is_ok_and(|tokens| tokens.iter().all(|token| matches!(token, Token::Whitespace(_))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_end_statements_unless_they_are_quoted() {
        let text = "SELECT 1;\n-- no; end\nSELECT ';', \"a;b\", /* ; */ 'it''s;';; SELECT 2";
        let (statements, rest) = split_statements(text);
        assert_eq!(statements, ["SELECT 1;", "\n-- no; end\nSELECT ';', \"a;b\", /* ; */ 'it''s;';"]);
        assert_eq!(rest, " SELECT 2");
        assert_eq!(split_statements("SELECT 'ü;'; x"), (vec!["SELECT 'ü;';"], " x"));
        assert_eq!(split_statements("SELECT 'a; b"), (vec![], "SELECT 'a; b"));
    }

    #[test]
    fn comments_are_blank() {
        for blank in ["", " \n", "-- nothing\n", "/* a */"] {
            assert!(is_blank(blank), "{blank:?}");
        }
        assert!(!is_blank("x"));
        assert!(!is_blank("'"));
    }
}
