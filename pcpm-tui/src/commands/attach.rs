//! `attach`, `update` and `detach`.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use pcpm_api::client::{Client, ClientError};
use pcpm_api::types::Lease;
use serde_json::json;

use super::Session;
use crate::cli::{AttachArgs, UpdateArgs};
use crate::failure;
use crate::render::{attachments, escape};
use crate::signals::Signals;

pub(super) fn attach(session: &Session, args: &AttachArgs) -> Result<ExitCode> {
    let mut client = session.connect()?;
    let request = args.options.request(&args.owner, args.lease);
    let attachment = client.attach(&request)?;
    session.print(&attachment, |a| attachments::attached(a, session.look))?;
    if args.lease.lease == Lease::Connection {
        hold(session, &client)?;
        client.detach(&attachment.owner)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn update(session: &Session, args: &UpdateArgs) -> Result<ExitCode> {
    let attachment = session.connect()?.update(&args.request())?;
    session.print(&attachment, |a| attachments::attached(a, session.look))?;
    Ok(ExitCode::SUCCESS)
}

/// Returns when standard input ends or a signal asks to end; fails when the daemon goes away.
fn hold(session: &Session, client: &Client) -> Result<()> {
    let signals = Signals::catch(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])?;
    let stdin = io::stdin();
    loop {
        let mut fds = [client.as_fd(), signals.as_fd(), stdin.as_fd()]
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result.context("wait for the end of standard input")?,
        };
        let [daemon, signal, input] = fds.map(|fd| fd.any().unwrap_or(true));
        if daemon {
            return Err(lost(session).into());
        }
        if signal || (input && has_ended(&stdin)) {
            return Ok(());
        }
    }
}

/// The daemon says nothing unasked: that there is something to read is its end.
fn lost(session: &Session) -> ClientError {
    ClientError::Lost {
        method: "hold the attachment".into(),
        socket: session.socket.clone(),
        source: io::ErrorKind::UnexpectedEof.into(),
    }
}

/// A standard input that cannot be read, such as a terminal that is gone, has ended too.
fn has_ended(stdin: &io::Stdin) -> bool {
    let ignored = stdin.lock().read(&mut [0; 4096]);
    ignored.unwrap_or(0) == 0
}

/// Detaches every owner, also after one of them failed; the exit code is that of the worst failure.
pub(super) fn detach(session: &Session, owners: &[String]) -> Result<ExitCode> {
    let mut client = session.connect()?;
    let mut done = Vec::new();
    let mut worst = 0;
    for owner in owners {
        match client.detach(owner) {
            Ok(()) => done.push(owner),
            Err(error @ ClientError::Pool(_)) => {
                failure::complain(&format!("detach {owner}: {error}"));
                worst = worst.max(failure::exit_code(&error.into()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    session.print(&json!({ "detached": done }), |_| lines(&done))?;
    Ok(worst.into())
}

fn lines(owners: &[&String]) -> String {
    let lines = owners
        .iter()
        .map(|owner| format!("detached {}\n", escape::text(owner)));
    lines.collect()
}
