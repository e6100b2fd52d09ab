//! Names of hives, boxes and frames: the only way a user's text becomes part of a path in the meadow.
//!
//! A name is 1 to 64 characters: lower-case ASCII letters, digits and `_`, and it starts with a letter. That is a
//! subset of what every object store, file system and Delta reader takes, it never collides with the meadow's own
//! folders (which start with `_`), and two names never differ only in case. Upper case is folded, as SQL does.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Longest name: object keys are capped at 1,024 bytes by S3, and three names plus a cell's path must fit.
pub const MAX_NAME: usize = 64;

/// Characters that are shown of what is longer.
const SHOWN: usize = 16;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and folds `text`.
            ///
            /// # Errors
            /// [`crate::ErrorKind::InvalidInput`] when it is not a name.
            pub fn new(text: &str) -> Result<Self> {
                validate($what, text).map(Self)
            }

            /// The name as it stands in paths and SQL.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

name!(
    /// Name of a hive (SQL: catalog).
    HiveName, "hive"
);
name!(
    /// Name of a box (SQL: schema).
    BoxName, "box"
);
name!(
    /// Name of a frame (SQL: table) within its box.
    FrameName, "frame"
);

/// `hive.box.frame`: one frame of the meadow.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrameRef {
    /// The hive it is in.
    pub hive: HiveName,
    /// The box it is in.
    pub box_: BoxName,
    /// Its own name.
    pub frame: FrameName,
}

impl FrameRef {
    /// A frame by its three names.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidInput`] when one of them is not a name.
    pub fn new(hive: &str, box_: &str, frame: &str) -> Result<Self> {
        Ok(Self { hive: HiveName::new(hive)?, box_: BoxName::new(box_)?, frame: FrameName::new(frame)? })
    }

    /// Parses `frame`, `box.frame` or `hive.box.frame`, filling in what is missing.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidInput`] when it has more than three parts or a part is not a name.
    pub fn parse_in(text: &str, hive: &HiveName, box_: &BoxName) -> Result<Self> {
        let parts: Vec<_> = text.split('.').collect();
        match parts[..] {
            _ if parts.len() > 1 && parts.contains(&"") => Err(no_frame(text)),
            [f] => Self::new(hive.as_str(), box_.as_str(), f),
            [b, f] => Self::new(hive.as_str(), b, f),
            [h, b, f] => Self::new(h, b, f),
            _ => Err(no_frame(text)),
        }
    }

    /// The frame's folder, relative to the meadow's root, without slashes at its ends.
    pub fn folder(&self) -> String {
        format!("{}/{}/{}", self.hive, self.box_, self.frame)
    }
}

impl fmt::Display for FrameRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.hive, self.box_, self.frame)
    }
}

impl FromStr for FrameRef {
    type Err = Error;
    /// As [`FrameRef::parse_in`] within `default.default`.
    fn from_str(text: &str) -> Result<Self> {
        Self::parse_in(text, &HiveName("default".into()), &BoxName("default".into()))
    }
}

fn no_frame(text: &str) -> Error {
    Error::invalid(format!("'{text}' is not a frame: write hive.box.frame, box.frame or frame"))
}

fn validate(what: &str, text: &str) -> Result<String> {
    let folded = text.to_ascii_lowercase();
    let letter_first = folded.starts_with(|c: char| c.is_ascii_lowercase());
    let allowed = folded.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if letter_first && allowed && folded.len() <= MAX_NAME {
        return Ok(folded);
    }
    let (length, mut shown) = (text.chars().count(), format!("{text:?}"));
    if length > MAX_NAME {
        shown = format!("\"{}…\" of {length} characters", text.chars().take(SHOWN).collect::<String>().escape_debug());
    }
    Err(Error::invalid(format!(
        "{shown} is not a {what} name: use 1 to {MAX_NAME} letters, digits and underscores, starting with a letter"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parse_and_print_are_inverse(h in "[a-z][a-z0-9_]{0,20}", b in "[a-z][a-z0-9_]{0,20}", f in "[a-z][a-z0-9_]{0,20}") {
            let frame = FrameRef::new(&h, &b, &f).unwrap();
            prop_assert_eq!(frame.to_string().parse::<FrameRef>().unwrap(), frame);
        }

        #[test]
        fn no_text_escapes_its_folder(text in ".{0,80}") {
            if let Ok(name) = FrameName::new(&text) {
                prop_assert!(name.as_str().chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
                prop_assert!(!name.as_str().starts_with('_'));
            }
        }
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        for text in ["", "_x", "1a", "a-b", "a/b", "..", "a b", "é", &"a".repeat(65)] {
            assert!(FrameName::new(text).is_err(), "{text:?}");
        }
        assert_eq!(FrameName::new("LineItem").unwrap().as_str(), "lineitem");
    }
}
