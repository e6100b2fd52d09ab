//! Escapes of JSON that Arrow's reader takes for other characters: it brings the two parts of one beyond U+FFFF together by OR
//! where they are to be added, and so loses a bit of each second plane.
//!
//! They become the characters themselves on the way to the reader. What a line loses by that it gets back as spaces at its
//! end, so that each line stays where it is: files are read in parts, by the place of their bytes.

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, future};
use object_store::Result as StoreResult;

/// `\ud842\udfb7`
const PAIR: usize = 12;

/// The same lines with characters for such escapes.
pub(super) fn mended(bytes: BoxStream<'static, StoreResult<Bytes>>) -> BoxStream<'static, StoreResult<Bytes>> {
    let end = bytes.map(Some).chain(stream::iter([None]));
    let whole = end.scan(BytesMut::new(), |open, piece| {
        let lines = match piece {
            Some(Ok(piece)) => Ok(ended(open, piece)),
            Some(Err(error)) => Err(error),
            None => Ok(open.split().freeze()),
        };
        future::ready(Some(lines.map(|lines| with_characters(&lines).map_or(lines, Bytes::from))))
    });
    whole.filter(|lines| future::ready(!matches!(lines, Ok(lines) if lines.is_empty()))).boxed()
}

/// The lines that end in `piece`, of which the first may have begun in `open`: there stays what does not end.
fn ended(open: &mut BytesMut, mut piece: Bytes) -> Bytes {
    let Some(last) = piece.iter().rposition(|byte| *byte == b'\n') else {
        open.extend_from_slice(&piece);
        return Bytes::new();
    };
    let lines = piece.split_to(last + 1);
    let lines = if open.is_empty() {
        lines
    } else {
        open.extend_from_slice(&lines);
        open.split().freeze()
    };
    open.extend_from_slice(&piece);
    lines
}

/// `None` where no escape is misread.
fn with_characters(lines: &[u8]) -> Option<Vec<u8>> {
    if !lines.contains(&b'\\') {
        return None;
    }
    let mut mended = Vec::new();
    let mut passed = 0;
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        if let Some(line) = line_with_characters(line) {
            mended.extend_from_slice(lines.get(mended.len()..passed)?);
            mended.extend_from_slice(&line);
        }
        passed += line.len();
    }
    if mended.is_empty() {
        return None;
    }
    mended.extend_from_slice(lines.get(mended.len()..)?);
    Some(mended)
}

fn line_with_characters(line: &[u8]) -> Option<Vec<u8>> {
    let (text, end) = match line.split_last() {
        Some((b'\n', text)) => (text, &b"\n"[..]),
        _ => (line, &b""[..]),
    };
    let (mut mended, mut rest) = (Vec::new(), text);
    let mut seen = 0;
    while let Some(found) = rest.get(seen..).and_then(|unseen| unseen.iter().position(|byte| *byte == b'\\')) {
        let (before, escape) = rest.split_at(seen + found);
        // An escape has one byte more, at least, and that may be a backslash.
        seen += found + 2;
        if let Some((character, behind)) = misread(escape) {
            mended.extend_from_slice(before);
            mended.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            (rest, seen) = (behind, 0);
        }
    }
    if mended.is_empty() {
        return None;
    }
    mended.extend_from_slice(rest);
    mended.resize(text.len(), b' ');
    mended.extend_from_slice(end);
    Some(mended)
}

/// The character of a misread escape, and what comes behind it.
fn misread(escape: &[u8]) -> Option<(char, &[u8])> {
    let (pair, behind) = escape.split_at_checked(PAIR)?;
    let (high, low) = std::str::from_utf8(pair).ok()?.strip_prefix("\\u")?.split_once("\\u")?;
    let units = [high, low].map(|unit| u16::from_str_radix(unit, 16).ok());
    let [Some(high), Some(low)] = units else { return None };
    let character = char::decode_utf16([high, low]).next()?.ok()?;
    // Of two escapes that are a pair, with the bit that is lost.
    (character > '\u{ffff}' && high & 0x40 != 0).then_some((character, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_that_are_misread_become_characters() {
        let mended = |line: &str| line_with_characters(line.as_bytes()).map(|line| String::from_utf8(line).unwrap());
        assert_eq!(mended("{\"a\": \"\\u0041 \\\\ud842\\\\udfb7 \\n\"}\n"), None);
        assert_eq!(mended(r#"{"a": "\ud842"}"#), None);
        assert_eq!(mended(r#"{"a": "\u0041\u0042\u4f60\u597d"}"#), None);
        assert_eq!(mended(r#"{"\u4f60\u597d": 1}"#), None);
        assert_eq!(mended(r#"{"a": "\ud7ff\ud842\udfb7""#), Some(format!(r#"{{"a": "\ud7ff𠮷"{}"#, " ".repeat(8))));
        assert_eq!(mended(r#"{"a": "\\\ud842\udfb7""#), Some(format!(r#"{{"a": "\\𠮷"{}"#, " ".repeat(8))));
        assert_eq!(
            mended("\"\\uDBFF\\uDFFF\\ud842\\udfb7\"}\r\n"),
            Some(format!("\"\u{10ffff}𠮷\"}}\r{}\n", " ".repeat(16)))
        );
    }

    #[tokio::test]
    async fn lines_are_mended_whatever_they_come_in() {
        let text = "{\"a\": \"\\ud842\\udfb7\"}\n{}\n\n{\"a\": \"\\ud842\\udfb7\", \"b\": 1}";
        let expected = with_characters(text.as_bytes()).unwrap();
        assert_eq!(expected.len(), text.len());
        for size in 1..text.len() {
            let pieces: Vec<_> = text.as_bytes().chunks(size).map(|p| Ok(Bytes::copy_from_slice(p))).collect();
            let found: Vec<Bytes> = mended(stream::iter(pieces).boxed()).map(Result::unwrap).collect().await;
            assert_eq!(found.concat(), expected, "in pieces of {size} bytes");
        }
    }
}
