//! `drain`, `resize` and `reload`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use pcpm_api::client::ClientError;
use pcpm_api::types::{DrainReply, ReloadReply, ResizeReply, WatchRequest};

use super::Session;
use super::watch::ended;
use crate::cli::{DrainArgs, ResizeArgs};
use crate::render::status;

/// Has the daemon take no new attachments, or again, and waits for the last one to end if told to.
pub(super) fn drain(session: &Session, args: &DrainArgs) -> Result<ExitCode> {
    let mut reply = session.connect()?.drain(args.undo)?;
    if args.wait {
        wait_for_the_last(session, args.timeout)?;
        reply.attached = 0;
    }
    session.print(&reply, drained)?;
    Ok(ExitCode::SUCCESS)
}

fn drained(reply: &DrainReply) -> String {
    match reply {
        DrainReply {
            draining: false, ..
        } => "takes new attachments again\n".to_owned(),
        DrainReply { attached: 0, .. } => "drained: nothing is attached\n".to_owned(),
        DrainReply { attached, .. } => {
            format!("draining: takes no new attachments, {attached} are left\n")
        }
    }
}

fn wait_for_the_last(session: &Session, timeout: Option<Duration>) -> Result<()> {
    let mut frames = session.connect()?.watch(&WatchRequest::default())?;
    if let Some(timeout) = timeout {
        frames = frames.within(timeout);
    }
    let mut attached = 0;
    for frame in frames {
        match frame {
            Ok(frame) if frame.counts.attached == 0 => return Ok(()),
            Ok(frame) => attached = frame.counts.attached,
            Err(ClientError::Timeout { .. }) if timeout.is_some() => {
                bail!("{attached} are still attached; pcpmd goes on draining")
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(ended(session, "Watch").into())
}

/// Changes how large the pool is and how much of it is kept ready.
pub(super) fn resize(session: &Session, args: &ResizeArgs) -> Result<ExitCode> {
    let reply = session.connect()?.resize(&args.request())?;
    session.print(&reply, |ResizeReply { slots, target }| {
        status::sizes(slots, target, session.look)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Has the daemon read its configuration again.
pub(super) fn reload(session: &Session) -> Result<ExitCode> {
    let reply = session.connect()?.reload()?;
    session.print(&reply, reloaded)?;
    Ok(ExitCode::SUCCESS)
}

fn reloaded(reply: &ReloadReply) -> String {
    let line = |name: &str, keys: &[String]| match keys {
        [] => String::new(),
        keys => format!("{name}: {}\n", keys.join(", ")),
    };
    let changed = match reply.changed.as_slice() {
        [] => "nothing changed\n".to_owned(),
        changed => line("changed", changed),
    };
    changed + &line("restart needed for", &reply.restart_needed)
}
