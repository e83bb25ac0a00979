//! `doctor`: the daemon's checks, made by the daemon, or by `pcpmd --check` where none runs.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};

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
    let pcpmd = beside_me().unwrap_or_else(|| "pcpmd".into());
    failure::complain(&format!("{unreachable}; {} --check says:", pcpmd.display()));
    match run_check(session, &pcpmd) {
        Ok(status) if status.success() => Ok(ExitCode::SUCCESS),
        Ok(_) => Ok(FAILED.into()),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(anyhow::Error::new(unreachable)
            .context("pcpmd is neither beside pcpm nor in PATH: the host was not checked")),
        Err(error) => Err(error).context(format!("run {} --check", pcpmd.display())),
    }
}

fn run_check(session: &Session, pcpmd: &PathBuf) -> io::Result<ExitStatus> {
    let json = session.json.then_some("--json");
    Command::new(pcpmd).arg("--check").args(json).status()
}

fn beside_me() -> Option<PathBuf> {
    let candidate = std::env::current_exe().ok()?.with_file_name("pcpmd");
    candidate.is_file().then_some(candidate)
}
