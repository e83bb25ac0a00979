//! A child process that is waited for with a deadline and never outlives its owner.
#![expect(unsafe_code, reason = "pidfd_open has no safe wrapper in std or nix")]

use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running child; dropping it kills and reaps it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pidfd: OwnedFd,
}

impl Process {
    /// Takes charge of `child`, called `name` in errors.
    ///
    /// # Errors
    /// When the process cannot be watched.
    pub fn new(name: impl Into<String>, child: Child) -> Result<Self> {
        let name = name.into();
        let pidfd = pidfd_open(child.id()).with_context(|| format!("watch {name}"))?;
        Ok(Self { name, child, pidfd })
    }

    /// Its process id, as the caller sees it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its first thread.
    pub fn main_thread(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// The child, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends `signal`.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.main_thread(), signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// When it still runs after `patience`.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        if !becomes_readable(&self.pidfd, patience)? {
            bail!("{} still runs after {patience:?}", self.name);
        }
        self.child
            .wait()
            .with_context(|| format!("wait for {}", self.name))
    }

    /// How it ended; `None` while it runs.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("look at {}", self.name))
    }

    /// Readable when the process has ended.
    pub(crate) fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for `fd`; false when `patience` ran out.
pub(crate) fn becomes_readable(fd: &impl AsFd, patience: Duration) -> Result<bool> {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, timeout) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
    }
}

/// The exit code a shell would show: 128 + N for a process killed by signal N.
pub(crate) fn shell_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

fn pidfd_open(pid: u32) -> Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = Errno::result(fd).context("pidfd_open")?;
    let fd = i32::try_from(fd).context("pidfd_open returned no descriptor")?;
    // SAFETY: the kernel just made this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
