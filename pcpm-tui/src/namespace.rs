//! Starting programs in another network namespace. The only unsafe code of the command line.
#![expect(
    unsafe_code,
    reason = "steps between fork and exec are unsafe to register: the child may only make system calls"
)]

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getpid, getppid, pipe2, write};
use pcpm_api::types::Attachment;

use crate::failure::CannotExecute;

const JOIN_FAILED: &str = "join the slot's network namespace (it takes root: CAP_SYS_ADMIN)";

/// The command with the variables that tell it where it runs.
pub(crate) fn command(words: &[OsString], attachment: &Attachment) -> Command {
    let (program, arguments) = words
        .split_first()
        .expect("clap asks for at least one word");
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("PCPM_OWNER", &attachment.owner)
        .env("PCPM_SLOT", &attachment.slot)
        .env("PCPM_NETNS", &attachment.netns);
    for (variable, addresses) in [
        ("PCPM_ADDRESS", &attachment.addresses),
        ("PCPM_INNER_ADDRESS", &attachment.inner_addresses),
    ] {
        if let Some(address) = addresses.first() {
            command.env(variable, address);
        }
    }
    command
}

/// Becomes `command`, inside `netns`. Returns only to say why not.
pub(crate) fn become_inside(mut command: Command, netns: OwnedFd) -> anyhow::Error {
    if let Err(errno) = setns(&netns, CloneFlags::CLONE_NEWNET) {
        return anyhow::Error::new(errno).context(JOIN_FAILED);
    }
    drop(netns);
    let error = command.exec();
    cannot_execute(command.get_program().to_owned(), error)
}

/// Starts `command` inside `netns` with the signals of `blocked` blocked. It dies with this process,
/// however this one dies.
pub(crate) fn spawn_inside(mut command: Command, netns: OwnedFd, blocked: SigSet) -> Result<Child> {
    // The child says on this pipe that it has joined: its errors carry a number only.
    let (joined, tell) = pipe2(OFlag::O_CLOEXEC).context("make a pipe")?;
    let parent = getpid();
    let enter = move || {
        die_with(parent)?;
        blocked.thread_set_mask()?;
        setns(&netns, CloneFlags::CLONE_NEWNET)?;
        write(tell.as_fd(), b"j")?;
        Ok(())
    };
    // SAFETY: `enter` makes system calls only: no allocation, no lock, nothing that another thread of
    // the parent could have left half done.
    unsafe { command.pre_exec(enter) };
    let spawned = command.spawn();
    let program = command.get_program().to_owned();
    // With it go our copies of the namespace, and of the pipe's writing end, or it would never end.
    drop(command);
    spawned.map_err(|error| {
        if has_spoken(joined) {
            cannot_execute(program, error)
        } else {
            anyhow::Error::new(error).context(JOIN_FAILED)
        }
    })
}

fn die_with(parent: Pid) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    // It may have died before the line above.
    if getppid() == parent {
        return Ok(());
    }
    Err(Errno::ESRCH.into())
}

fn has_spoken(joined: OwnedFd) -> bool {
    let mut byte = [0];
    File::from(joined).read(&mut byte).is_ok_and(|n| n == 1)
}

fn cannot_execute(command: OsString, error: io::Error) -> anyhow::Error {
    let kind = error.kind();
    anyhow::Error::new(error).context(CannotExecute { command, kind })
}
