//! `watch`.

use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pcpm_api::client::ClientError;
use pcpm_api::types::{WatchFrame, WatchRequest};

use super::{Session, print_text};
use crate::cli::{WatchArgs, milliseconds};
use crate::render::{events, json};

/// Prints until the reader or the daemon goes away; only the latter is an error.
pub(super) fn watch(session: &Session, args: &WatchArgs) -> Result<ExitCode> {
    let request = WatchRequest {
        interval_ms: args.interval.map(milliseconds),
        locks: args.locks.then_some(true),
        ..WatchRequest::default()
    };
    for frame in session.connect()?.watch(&request)? {
        if nobody_reads() {
            return Ok(ExitCode::SUCCESS);
        }
        print_text(&lines(session, &frame?)?)?;
    }
    Err(ended(session, "Watch").into())
}

fn lines(session: &Session, frame: &WatchFrame) -> Result<String> {
    if session.json {
        return Ok(json::line(frame)?);
    }
    Ok(events::lines(frame, session.look))
}

/// Most frames print nothing: without this, `pcpm watch | head -1` would stay until the next event.
pub(super) fn nobody_reads() -> bool {
    let stdout = io::stdout();
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let polled = poll(&mut fds, PollTimeout::ZERO);
    polled.is_ok_and(|ready| ready > 0)
        && fds[0]
            .revents()
            .is_some_and(|e| e.contains(PollFlags::POLLERR))
}

/// The daemon went away while it was listened to.
pub(super) fn ended(session: &Session, method: &str) -> ClientError {
    ClientError::Lost {
        method: method.into(),
        socket: session.socket.clone(),
        source: io::Error::other("the daemon ended it"),
    }
}
