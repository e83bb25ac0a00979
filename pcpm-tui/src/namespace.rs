//! Starting programs in the namespaces of a slot. The only unsafe code of the command line.
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
use pcpm_api::types::{Attachment, SharedNamespace};

use crate::failure::CannotExecute;

const JOIN_FAILED: &str = "join the slot's namespaces (it takes root: CAP_SYS_ADMIN)";

/// The namespaces of a slot, to be joined.
pub(crate) struct Namespaces(Vec<(OwnedFd, CloneFlags)>);

impl Namespaces {
    /// Those of `attachment`, whose network namespace is `netns`.
    pub(crate) fn of(attachment: &Attachment, netns: OwnedFd) -> Result<Self> {
        let mut all = vec![(netns, CloneFlags::CLONE_NEWNET)];
        for (kind, flag) in [
            (SharedNamespace::Ipc, CloneFlags::CLONE_NEWIPC),
            (SharedNamespace::Uts, CloneFlags::CLONE_NEWUTS),
        ] {
            if let Some(path) = attachment.shared(kind) {
                let file = File::open(path).with_context(|| format!("open {path}"))?;
                all.push((file.into(), flag));
            }
        }
        Ok(Self(all))
    }

    /// Moves the calling thread.
    fn join(&self) -> nix::Result<()> {
        self.0
            .iter()
            .try_for_each(|(namespace, kind)| setns(namespace, *kind))
    }
}

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

/// Becomes `command`, inside `namespaces`. Returns only to say why not.
pub(crate) fn become_inside(mut command: Command, namespaces: Namespaces) -> anyhow::Error {
    if let Err(errno) = namespaces.join() {
        return anyhow::Error::new(errno).context(JOIN_FAILED);
    }
    drop(namespaces);
    let error = command.exec();
    cannot_execute(command.get_program().to_owned(), error)
}

/// Starts `command` inside `namespaces` with the signals of `blocked` blocked. It dies with this process,
/// however this one dies.
pub(crate) fn spawn_inside(
    mut command: Command,
    namespaces: Namespaces,
    blocked: SigSet,
) -> Result<Child> {
    // The child says on this pipe that it has joined: its errors carry a number only.
    let (joined, tell) = pipe2(OFlag::O_CLOEXEC).context("make a pipe")?;
    let parent = getpid();
    let enter = move || {
        die_with(parent)?;
        blocked.thread_set_mask()?;
        namespaces.join()?;
        write(tell.as_fd(), b"j")?;
        Ok(())
    };
    // SAFETY: `enter` makes system calls only: no allocation, no lock, nothing that another thread of
    // the parent could have left half done.
    unsafe { command.pre_exec(enter) };
    let spawned = command.spawn();
    let program = command.get_program().to_owned();
    // With it go our copies of the namespaces, and of the pipe's writing end, or it would never end.
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
