//! How failures leave the program: one line per cause on standard error, and the exit code that
//! scripts rely on.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind};
use std::process::ExitCode;

use pcpm_api::client::ClientError;
use pcpm_api::error::PoolError;

use crate::render::escape;

/// Refused or failed.
pub(crate) const FAILED: u8 = 1;
const UNREACHABLE: u8 = 3;
const EXHAUSTED: u8 = 4;
const CANNOT_EXECUTE: u8 = 126;
const COMMAND_NOT_FOUND: u8 = 127;

/// The command of `run` or `exec` could not be executed; the cause is an [`io::Error`].
#[derive(Debug)]
pub(crate) struct CannotExecute {
    pub(crate) command: OsString,
    pub(crate) kind: ErrorKind,
}

impl fmt::Display for CannotExecute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot execute {}", self.command.display())
    }
}

/// Prints `error`, unless it is only that nobody reads the output, and returns its exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    for cause in error.chain() {
        complain(&cause.to_string());
    }
    exit_code(error).into()
}

/// One line on standard error.
pub(crate) fn complain(text: &str) {
    eprintln!("pcpm: {}", escape::text(text));
}

/// The exit code of a failure.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(CannotExecute { kind, .. }) = error.downcast_ref() {
        let missing = *kind == ErrorKind::NotFound;
        return if missing {
            COMMAND_NOT_FOUND
        } else {
            CANNOT_EXECUTE
        };
    }
    match error.downcast_ref() {
        Some(ClientError::Pool(PoolError::PoolExhausted { .. })) => EXHAUSTED,
        Some(error) if error.is_unreachable() => UNREACHABLE,
        _ => FAILED,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io_error = error.downcast_ref::<io::Error>();
    io_error.is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_command_that_is_missing_is_told_from_one_that_may_not_run() {
        for (kind, code) in [
            (ErrorKind::NotFound, 127),
            (ErrorKind::PermissionDenied, 126),
        ] {
            let command = "x".into();
            let result: io::Result<()> = Err(kind.into());
            let error = result.context(CannotExecute { command, kind }).unwrap_err();
            assert_eq!(exit_code(&error), code);
        }
    }

    #[test]
    fn an_exhausted_pool_is_recognised_below_other_words() {
        let exhausted = PoolError::PoolExhausted {
            depth: 0,
            capacity: 1,
            waiting: 0,
            retry_after_ms: 1,
        };
        let result: Result<(), _> = Err(ClientError::Pool(exhausted));
        assert_eq!(exit_code(&result.context("run").unwrap_err()), 4);
    }

    #[test]
    fn a_lost_connection_is_an_unreachable_daemon_and_a_lost_reader_is_none() {
        let lost = ClientError::Lost {
            method: "Status".into(),
            socket: "/x".into(),
            source: ErrorKind::BrokenPipe.into(),
        };
        let error = lost.into();
        assert_eq!(exit_code(&error), 3);
        assert!(!is_broken_pipe(&error));
    }
}
