//! `ls` and `show`.

use std::process::ExitCode;

use anyhow::Result;

use super::Session;
use crate::render::{attachments, humanise};

pub(super) fn ls(session: &Session) -> Result<ExitCode> {
    let all = session.connect()?.list()?;
    let now_ms = humanise::now_ms();
    session.print(&all, |all| attachments::list(all, now_ms, session.look))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn show(session: &Session, owner: &str) -> Result<ExitCode> {
    let reply = session.connect()?.get(owner)?;
    let now_ms = humanise::now_ms();
    session.print(&reply, |reply| {
        attachments::details(reply, now_ms, session.look)
    })?;
    Ok(ExitCode::SUCCESS)
}
