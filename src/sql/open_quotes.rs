//! CSV files in which a quote is never closed: the reader takes all that is behind it for one value, without a word.
//!
//! What is read of such a file is looked at on its way to the reader, and its end is an error when it lies within quotes.

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, future};
use object_store::Result as StoreResult;
use object_store::path::Path;

use super::watched_files::failed;
use crate::Error;

/// `bytes`, with an error behind them where they end within quotes.
pub(super) fn closed(
    bytes: BoxStream<'static, StoreResult<Bytes>>,
    location: Path,
    quotes: Quotes,
) -> BoxStream<'static, StoreResult<Bytes>> {
    let end = bytes.map(Some).chain(stream::iter([None]));
    let watched = end.scan(quotes, move |quotes, piece| {
        let passed = match piece {
            Some(piece) => {
                piece.iter().flatten().for_each(|byte| quotes.pass(*byte));
                Some(piece)
            }
            None => quotes.open_since().map(|line| {
                Err(failed(Error::invalid(format!(
                    "line {line} of /{location} has a quote that is never closed: close it, or double it where it is text"
                ))))
            }),
        };
        future::ready(passed)
    });
    watched.boxed()
}

/// Where in a file the reader is. Quotes open where a value begins; two of them within quotes are one that is text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quotes {
    delimiter: u8,
    quote: u8,
    at: At,
    /// The line, and that in which a quote opened last.
    line: u64,
    opened: u64,
    /// What of the mark of UTF-8 is still to come, if the file begins with it.
    mark: &'static [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Beginning,
    Value,
    Quoted,
    /// Behind a quote that closes the value, unless another one follows.
    Closed,
}

impl Quotes {
    pub(super) fn new(delimiter: u8, quote: u8) -> Self {
        Self { delimiter, quote, at: At::Beginning, line: 1, opened: 1, mark: b"\xef\xbb\xbf" }
    }

    fn pass(&mut self, byte: u8) {
        let mark = self.mark.split_first().filter(|(first, _)| **first == byte).map_or(&[][..], |(_, rest)| rest);
        self.at = match self.at {
            At::Quoted if byte == self.quote => At::Closed,
            At::Quoted => At::Quoted,
            At::Closed if byte == self.quote => At::Quoted,
            At::Beginning if byte == self.quote => {
                self.opened = self.line;
                At::Quoted
            }
            // The mark of UTF-8 stands before the first value.
            At::Beginning if self.mark.first() == Some(&byte) => At::Beginning,
            _ if byte == self.delimiter || matches!(byte, b'\n' | b'\r') => At::Beginning,
            _ => At::Value,
        };
        self.mark = mark;
        self.line += u64::from(byte == b'\n');
    }

    /// The line of a quote that is open.
    fn open_since(&self) -> Option<u64> {
        (self.at == At::Quoted).then_some(self.opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_open_or_closed() {
        let open = |text: &[u8]| {
            let mut quotes = Quotes::new(b',', b'"');
            text.iter().for_each(|byte| quotes.pass(*byte));
            quotes.open_since()
        };
        for closed in [
            &b"a,b\n1,\"x\ny \"\"z\"\"\n\"\n2,w"[..],
            b"\xef\xbb\xbf\"a\n\",b\n5\" pipe,1\n2,\"\"\n",
            b"a\n\"b\"",
            // The same bytes within the file are a character's.
            b"a\n\xef\xbb\xbb\"b\n",
            b"a\r\"b\"x\"\n",
            b"",
        ] {
            assert_eq!(open(closed), None, "{}", closed.escape_ascii());
        }
        assert_eq!(open(b"a\n\"never closed\n1\n"), Some(2));
        assert_eq!(open(b"a,b\n1,\"x\"\n2,\"x\"\"\n3,y\n"), Some(3));
    }
}
