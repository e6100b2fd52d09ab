//! What the process tells the shell when it ends.
//!
//! A script decides by the code whether to fix its input (1, 2), look at the storage (3) or simply try again (4).

use apiary::ErrorKind;

/// The code the process ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitCode {
    /// All went well, or the reader of our output had seen enough.
    Success,
    /// The query or its data are wrong: the same call will fail again.
    Failed,
    /// The command line or a setting is wrong.
    Usage,
    /// The storage failed or refused us.
    Storage,
    /// There was no room or no time: the same call may succeed later, or with more memory.
    Busy,
    /// Ctrl-C or a termination signal ended the work.
    Cancelled,
}

impl ExitCode {
    /// The number the shell sees.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Storage => 3,
            Self::Busy => 4,
            // As shells report a process that died of SIGINT: 128 + 2.
            Self::Cancelled => 130,
        }
    }
}

impl From<ErrorKind> for ExitCode {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Storage | ErrorKind::PermissionDenied => Self::Storage,
            ErrorKind::Busy | ErrorKind::TimedOut | ErrorKind::MemoryExceeded => Self::Busy,
            ErrorKind::Cancelled => Self::Cancelled,
            _ => Self::Failed,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_map_to_what_a_script_can_do() {
        for (kind, number) in [
            (ErrorKind::InvalidInput, 1),
            (ErrorKind::Schema, 1),
            (ErrorKind::Corrupt, 1),
            (ErrorKind::Storage, 3),
            (ErrorKind::PermissionDenied, 3),
            (ErrorKind::Busy, 4),
            (ErrorKind::TimedOut, 4),
            (ErrorKind::MemoryExceeded, 4),
            (ErrorKind::Cancelled, 130),
        ] {
            assert_eq!(ExitCode::from(kind).number(), number, "{kind:?}");
        }
    }
}
