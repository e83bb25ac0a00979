//! `drain`, `resize` and `reload`.

use std::collections::HashSet;
use std::process::ExitCode;

use anyhow::{Result, bail};
use pcpm_api::client::ClientError;
use pcpm_api::types::{DrainReply, ReloadReply, ResizeReply, SlotState, WatchFrame, WatchRequest};

use super::Session;
use super::watch::ended;
use crate::cli::{DrainArgs, ResizeArgs};
use crate::render::status;

/// Has the daemon take no new attachments, or again, and waits for the last one to end if told to.
pub(super) fn drain(session: &Session, args: &DrainArgs) -> Result<ExitCode> {
    let mut reply = session.connect()?.drain(&args.request())?;
    if args.wait {
        wait_for_the_last(session, args, reply.attached)?;
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

fn wait_for_the_last(session: &Session, args: &DrainArgs, mut left: u32) -> Result<()> {
    let mut frames = session.connect()?.watch(&WatchRequest::default())?;
    if let Some(timeout) = args.timeout {
        frames = frames.within(timeout);
    }
    let mut attached = HashSet::new();
    for frame in frames {
        match frame {
            Ok(frame) => {
                follow(&mut attached, &frame, args.class.as_deref());
                if attached.is_empty() {
                    return Ok(());
                }
                left = u32::try_from(attached.len()).unwrap_or(u32::MAX);
            }
            Err(ClientError::Timeout { .. }) if args.timeout.is_some() => {
                bail!("{left} are still attached; pcpmd goes on draining")
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(ended(session, "Watch").into())
}

/// Follows which slots of a class, or of any, are attached.
fn follow(attached: &mut HashSet<String>, frame: &WatchFrame, class: Option<&str>) {
    for slot in &frame.slots {
        let is_meant = class.is_none() || slot.class.as_deref() == class;
        if slot.state == SlotState::Attached && is_meant {
            attached.insert(slot.slot.clone());
        } else {
            attached.remove(&slot.slot);
        }
    }
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
    let updated = match reply.updated {
        0 => String::new(),
        1 => "1 attachment has other rules or limits\n".to_owned(),
        several => format!("{several} attachments have other rules or limits\n"),
    };
    changed + &updated + &line("restart needed for", &reply.restart_needed)
}
