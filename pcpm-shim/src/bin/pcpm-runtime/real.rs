//! The runtime that does the work.
#![expect(
    unsafe_code,
    reason = "between fork and exec only the kernel can be asked for a signal"
)]

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context, Result, anyhow};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use crate::command_line::CommandLine;
use crate::settings::Settings;

/// The real runtime, and what was asked of it.
pub(crate) struct Runtime {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Runtime {
    pub(crate) fn new(settings: &Settings, arguments: Vec<OsString>) -> Self {
        Self {
            path: settings.runtime.clone(),
            arguments,
        }
    }

    /// Is this process from now on. Returns only if that fails.
    pub(crate) fn become_it(&self) -> anyhow::Error {
        let error = self.command().exec();
        anyhow!(error).context(format!("start {}", self.path.display()))
    }

    /// Waits until it has done what was asked. Whoever kills this process means the runtime.
    pub(crate) fn wait_for_it(&self) -> Result<ExitStatus> {
        let mut command = self.command();
        let die_together = || Ok(set_pdeathsig(Signal::SIGKILL)?);
        // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
        unsafe { command.pre_exec(die_together) };
        let status = command.status();
        status.with_context(|| format!("start {}", self.path.display()))
    }

    /// Whether the runtime knows a container `id`.
    pub(crate) fn knows(&self, line: &CommandLine, id: &str) -> Result<bool> {
        let mut state = Command::new(&self.path);
        state.args(&line.globals).args(["state", id]);
        state.stdin(Stdio::null());
        state.stdout(Stdio::null()).stderr(Stdio::null());
        let status = state.status();
        let status = status.with_context(|| format!("start {}", self.path.display()))?;
        Ok(status.success())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments);
        command
    }
}

/// The exit code that a shell would see.
pub(crate) fn code_of(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    let code = code.and_then(|code| u8::try_from(code).ok());
    code.unwrap_or(u8::MAX).into()
}
