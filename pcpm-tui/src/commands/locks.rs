//! `locks`.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use pcpm_api::types::{LocksReply, LocksRequest};

use super::watch::{ended, nobody_reads};
use super::{Session, print_text};
use crate::cli::{LocksArgs, milliseconds};
use crate::render::{json, locks as screen};

/// The daemon tells of whole seconds: the last one may not be over yet.
const LAST_SECOND: Duration = Duration::from_secs(1);

pub(super) fn locks(session: &Session, args: &LocksArgs) -> Result<ExitCode> {
    let mut request = LocksRequest {
        last_ms: Some(milliseconds(args.last)),
        top: args.top,
    };
    if args.follow {
        return follow(session, &request, args);
    }
    let mut client = session.connect()?;
    if let Some(duration) = args.duration {
        // Why nothing will be seen is better said at once.
        watched(client.locks(&request)?)?;
        thread::sleep(duration + LAST_SECOND);
        request.last_ms = Some(milliseconds(duration));
        client = session.connect()?;
    }
    let seen = watched(client.locks(&request)?)?;
    if args.folded {
        print_text(&screen::folded(&seen))?;
    } else {
        session.print(&seen, |seen| {
            screen::screen(seen, args.stacks, session.look)
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

fn follow(session: &Session, request: &LocksRequest, args: &LocksArgs) -> Result<ExitCode> {
    for frame in session.connect()?.follow_locks(request)? {
        if nobody_reads() {
            return Ok(ExitCode::SUCCESS);
        }
        let frame = frame?;
        print_text(&if session.json {
            json::line(&frame)?
        } else if args.folded {
            screen::folded(&frame)
        } else {
            screen::second(&frame, args.stacks, session.look)
        })?;
    }
    Err(ended(session, "Locks").into())
}

fn watched(seen: LocksReply) -> Result<LocksReply> {
    if let Some(reason) = &seen.unavailable {
        bail!("lock insight: {reason}");
    }
    Ok(seen)
}
