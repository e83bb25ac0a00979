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
    end_with_the_reader();
    for frame in session.connect()?.watch(&request)? {
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

/// Ends the process as soon as nobody reads what it prints any more: `pcpm watch | head -1` would stay until the
/// next event otherwise.
pub(super) fn end_with_the_reader() {
    std::thread::spawn(|| {
        let stdout = io::stdout();
        let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
        let polled = poll(&mut fds, PollTimeout::NONE);
        let revents = fds[0].revents().unwrap_or(PollFlags::empty());
        if polled.is_ok() && revents.contains(PollFlags::POLLERR) {
            std::process::exit(0);
        }
    });
}

/// The daemon went away while it was listened to.
pub(super) fn ended(session: &Session, method: &str) -> ClientError {
    ClientError::Lost {
        method: method.into(),
        socket: session.socket.clone(),
        source: io::Error::other("the daemon ended it"),
    }
}
