//! Why a command did not succeed, and the exit code that follows from it.

use std::fmt;

use apiary::ErrorKind;

use crate::exit_codes::ExitCode;

/// Result of a command or of a part of one.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line or a setting is wrong.
    Usage(String),
    /// Apiary refused or failed.
    Apiary(apiary::Error),
    /// Something on this side of Apiary failed: a local file, the output.
    Local(String),
    /// A signal asked us to stop.
    Cancelled,
    /// The reader of our output closed it, as `head` does: nothing is wrong.
    PipeClosed,
}

impl Failure {
    /// A local failure: what was being done, and what came of it.
    pub(crate) fn local(doing: impl fmt::Display, error: impl fmt::Display) -> Self {
        Self::Local(format!("{doing}: {error}"))
    }

    /// An error of a step that only takes what the user set: what is invalid there is a usage error.
    pub(crate) fn of_settings(error: apiary::Error) -> Self {
        match error.kind() {
            ErrorKind::InvalidInput => Self::Usage(error.message().to_owned()),
            _ => Self::Apiary(error),
        }
    }

    /// The code to end the process with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::Usage,
            Self::Apiary(error) => error.kind().into(),
            Self::Local(_) => ExitCode::Failed,
            Self::Cancelled => ExitCode::Cancelled,
            Self::PipeClosed => ExitCode::Success,
        }
    }

    /// Whether the user should read about it.
    pub(crate) fn is_worth_saying(&self) -> bool {
        !matches!(self, Self::PipeClosed)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Local(message) => f.write_str(message),
            Self::Apiary(error) => error.fmt(f),
            Self::Cancelled => f.write_str("cancelled"),
            Self::PipeClosed => f.write_str("the output was closed"),
        }
    }
}

impl From<apiary::Error> for Failure {
    fn from(error: apiary::Error) -> Self {
        Self::Apiary(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_settings_are_usage_errors_and_the_rest_keeps_its_kind() {
        let invalid = Failure::of_settings(apiary::Error::invalid("bees is 0"));
        assert_eq!((invalid.exit_code(), invalid.to_string().as_str()), (ExitCode::Usage, "bees is 0"));
        assert_eq!(Failure::of_settings(apiary::Error::storage("no disk")).exit_code(), ExitCode::Storage);
        assert_eq!(Failure::from(apiary::Error::invalid("no such column")).exit_code(), ExitCode::Failed);
    }

    #[test]
    fn a_closed_pipe_is_success_without_words() {
        assert_eq!(Failure::PipeClosed.exit_code(), ExitCode::Success);
        assert!(!Failure::PipeClosed.is_worth_saying());
    }
}
