//! `locks`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use pcpm_api::types::{LocksReply, LocksRequest};

use super::watch::{end_with_the_reader, ended};
use super::{Session, print_text};
use crate::cli::{LocksArgs, milliseconds};
use crate::render::{json, locks as screen};

/// What the daemon keeps.
const MOST_MS: u64 = 600_000;

pub(super) fn locks(session: &Session, args: &LocksArgs) -> Result<ExitCode> {
    let mut request = LocksRequest {
        last_ms: Some(milliseconds(args.last)),
        top: args.top,
        history: None,
    };
    if args.follow {
        return follow(session, &request, args);
    }
    if let Some(duration) = args.duration {
        request.last_ms = Some(observe(session, milliseconds(duration))?);
    }
    let mut client = session.connect()?;
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

/// Waits until at least this much was observed from now on, and says how much it was.
fn observe(session: &Session, wanted_ms: u64) -> Result<u64> {
    let mut observed_ms = 0;
    for second in session.connect()?.follow_locks(&LocksRequest::default())? {
        observed_ms += second?.interval_ms;
        if observed_ms >= wanted_ms {
            return Ok(observed_ms.min(MOST_MS));
        }
    }
    Err(ended(session, "Locks").into())
}

fn follow(session: &Session, request: &LocksRequest, args: &LocksArgs) -> Result<ExitCode> {
    end_with_the_reader();
    for frame in session.connect()?.follow_locks(request)? {
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
