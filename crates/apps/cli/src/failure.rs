//! What goes wrong, as an exit code for scripts and a sentence for people.

use std::fmt;
use std::io;
use std::process::ExitCode;

use muster_peer::ConnectError;
use muster_rt::files::FileError;
use tonic::{Code, Status};

/// The exit codes that scripts may rely upon; 2 is clap's, for a command line that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Whoever read our output has heard enough, as `head` has: no fault of anyone.
    ReaderGone = 0,
    /// The command could not do what it was asked.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The server or node cannot be reached, is not ready, or took too long.
    Unavailable = 3,
    /// What was named does not exist.
    NotFound = 4,
    /// The caller may not, or has no identity.
    Denied = 5,
}

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    message: String,
    /// Nothing is left to say: it was said where it happened.
    silent: bool,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            silent: false,
        }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// For a failure that the command has already told item by item.
    pub(crate) fn told(exit: Exit) -> Self {
        Self {
            exit,
            message: String::new(),
            silent: true,
        }
    }

    /// A call that was answered with an error; `what` completes "cannot ...".
    pub(crate) fn of_call(what: &str, status: &Status) -> Self {
        let exit = exit_of(status.code());
        let remedy = match status.code() {
            Code::Unavailable => "; it is not ready or has gone away, try again",
            Code::DeadlineExceeded => "; it took too long, try again or pass a longer --timeout",
            Code::Unimplemented => "; the program at the other end does not offer this",
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Internal
            | Code::DataLoss
            | Code::Unauthenticated => "",
        };
        Self::new(
            exit,
            format!("cannot {what}: {}{remedy}", described(status)),
        )
    }

    /// A socket that could not be connected to. `program` should be listening there; `flag` names
    /// another place.
    pub(crate) fn of_connect(error: &ConnectError, program: &str, flag: &str) -> Self {
        let exit = match error {
            ConnectError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Exit::Denied
            }
            ConnectError::PathTooLong { .. } => Exit::Usage,
            ConnectError::Io { .. } | ConnectError::Transport { .. } => Exit::Unavailable,
        };
        let remedy = if exit == Exit::Denied {
            format!("run as the user of {program}, or as one of its group")
        } else {
            format!("start {program}, or pass its socket with {flag}")
        };
        Self::new(exit, format!("{error}; {remedy}"))
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit as u8)
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::failed(error.to_string())
    }
}

/// Which exit code an answer's status code means.
pub(crate) fn exit_of(code: Code) -> Exit {
    match code {
        Code::NotFound => Exit::NotFound,
        Code::PermissionDenied | Code::Unauthenticated => Exit::Denied,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Exit::Unavailable,
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => Exit::Failed,
    }
}

/// What a status says, in words, without tonic's wrapping.
pub(crate) fn described(status: &Status) -> String {
    if status.message().is_empty() {
        status.code().description().to_owned()
    } else {
        status.message().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_their_exit_codes() {
        let check = |code: Code, exit: Exit| {
            let failure = Failure::of_call("list entries", &Status::new(code, "why"));
            assert_eq!(failure.exit, exit, "{code}");
            assert!(failure.to_string().starts_with("cannot list entries: why"));
        };
        check(Code::Unavailable, Exit::Unavailable);
        check(Code::DeadlineExceeded, Exit::Unavailable);
        check(Code::NotFound, Exit::NotFound);
        check(Code::PermissionDenied, Exit::Denied);
        check(Code::InvalidArgument, Exit::Failed);
        check(Code::AlreadyExists, Exit::Failed);
    }
}
