//! `status`.

use std::process::ExitCode;

use anyhow::Result;

use super::Session;
use crate::render::status as screen;

pub(super) fn status(session: &Session) -> Result<ExitCode> {
    let status = session.connect()?.status()?;
    session.print(&status, |status| screen::screen(status, session.look))?;
    Ok(ExitCode::SUCCESS)
}
