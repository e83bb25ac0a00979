//! `doctor`: the daemon's checks, made by the daemon, or by `pcpmd --check` where none runs.

use std::env;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use pcpm_api::client::ClientError;
use pcpm_api::types::{CheckStatus, DoctorReply};

use super::Session;
use crate::failure::{self, FAILED};
use crate::render::checks;

pub(super) fn doctor(session: &Session) -> Result<ExitCode> {
    let mut client = match session.connect() {
        Ok(client) => client,
        Err(error) if nobody_listens(&error) => return check_without_daemon(session, error),
        Err(error) => return Err(error.into()),
    };
    let reply = DoctorReply {
        checks: client.doctor()?,
    };
    session.print(&reply, |reply| checks::lines(&reply.checks, session.look))?;
    let failed = reply
        .checks
        .iter()
        .any(|check| check.status == CheckStatus::Failed);
    Ok(if failed {
        FAILED.into()
    } else {
        ExitCode::SUCCESS
    })
}

/// A daemon that is there and refuses us is not replaced: its own answer is the one that matters.
fn nobody_listens(error: &ClientError) -> bool {
    let kinds = [ErrorKind::NotFound, ErrorKind::ConnectionRefused];
    matches!(error, ClientError::Unreachable { source, .. } if kinds.contains(&source.kind()))
}

fn check_without_daemon(session: &Session, unreachable: ClientError) -> Result<ExitCode> {
    let Some(pcpmd) = find_pcpmd() else {
        return Err(anyhow::Error::new(unreachable)
            .context("pcpmd is neither beside pcpm nor in PATH: the host was not checked"));
    };
    let check = format!("{} --check", pcpmd.display());
    failure::complain(&format!("{unreachable}; {check} says:"));
    let json = session.json.then_some("--json");
    let mut command = Command::new(&pcpmd);
    let status = command.arg("--check").args(json).status();
    let passed = status.with_context(|| format!("run {check}"))?.success();
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        FAILED.into()
    })
}

/// The daemon that belongs to this program, or else the first one in `PATH`.
fn find_pcpmd() -> Option<PathBuf> {
    let beside_me = env::current_exe().ok().map(|me| me.with_file_name("pcpmd"));
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).map(|directory| directory.join("pcpmd"));
    beside_me
        .into_iter()
        .chain(in_path)
        .find(|candidate| candidate.is_file())
}
