//! `run` and `exec`: commands inside a slot.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{self, Child, ExitCode, ExitStatus};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getpgid};
use pcpm_api::client::{Client, ClientError};
use pcpm_api::error::PoolError;
use pcpm_api::types::{AttachRequest, Attachment};

use super::Session;
use crate::cli::RunArgs;
use crate::failure;
use crate::namespace::{self, Namespaces};
use crate::parse::LeaseOption;
use crate::signals::{Arrived, Signals, stop_myself};

/// Signals that are handed on to the command.
const FORWARDED: [Signal; 9] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCONT,
    Signal::SIGTSTP,
];

/// Attaches for as long as this process lives, so that the slot is given back even if it is killed, and
/// runs the command.
pub(super) fn run(session: &Session, args: &RunArgs) -> Result<ExitCode> {
    let owner = args.name.clone().unwrap_or_else(made_up_owner);
    let mut client = session.connect()?;
    let (attachment, netns) = attach(&mut client, args, &owner)?;
    // Not before: a wait for a slot can be interrupted.
    let signals = catch_signals()?;
    let command = namespace::command(&args.command, &attachment);
    let child = Namespaces::of(&attachment, netns)
        .and_then(|inside| namespace::spawn_inside(command, inside, signals.before()));
    let ended = child.and_then(|child| follow(child, &signals));
    give_back(&mut client, &attachment);
    Ok(code_of(ended?).into())
}

/// By the process, which outlives a restart of the daemon; by the connection where the daemon is in a process
/// namespace that this one is not seen from.
fn attach(
    client: &mut Client,
    args: &RunArgs,
    owner: &str,
) -> Result<(Attachment, OwnedFd), ClientError> {
    let leased = |lease| AttachRequest {
        exclusive: Some(true),
        ..args.options.request(owner, lease)
    };
    match client.attach_with_netns(&leased(LeaseOption::this_process())) {
        Err(ClientError::Pool(PoolError::InvalidArgument { field, .. }))
            if field == "lease_pid" =>
        {
            client.attach_with_netns(&leased(LeaseOption::connection()))
        }
        attached => attached,
    }
}

pub(super) fn exec(session: &Session, owner: &str, words: &[OsString]) -> Result<ExitCode> {
    let (reply, netns) = session.connect()?.get_with_netns(owner)?;
    let command = namespace::command(words, &reply.attachment);
    let inside = Namespaces::of(&reply.attachment, netns)?;
    Err(namespace::become_inside(command, inside))
}

fn made_up_owner() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanoseconds = now.unwrap_or_default().subsec_nanos();
    format!("run-{}-{nanoseconds:08x}", process::id())
}

fn catch_signals() -> Result<Signals> {
    let mut caught = FORWARDED.to_vec();
    caught.push(Signal::SIGCHLD);
    Signals::catch(&caught)
}

/// The command's own status matters more than a slot that the daemon takes back by itself.
/// One that somebody has detached, and perhaps attached anew, meanwhile is not ours to give back.
fn give_back(client: &mut Client, Attachment { owner, id, .. }: &Attachment) {
    match client.detach_only(owner, id) {
        Ok(()) | Err(ClientError::Pool(PoolError::NoSuchAttachment { .. })) => {}
        Err(error) => failure::complain(&format!("detach {owner}: {error}")),
    }
}

/// Hands signals on until the command ends.
fn follow(mut child: Child, signals: &Signals) -> Result<ExitStatus> {
    let pid = Pid::from_raw(child.id().cast_signed());
    loop {
        let arrived = signals.next()?;
        if arrived.signal != Signal::SIGCHLD {
            hand_on(&arrived, pid);
            continue;
        }
        if let Some(status) = child.try_wait().context("wait for the command")? {
            return Ok(status);
        }
        if is_stopped_by_job_control(pid)? {
            stop_myself()?;
        }
    }
}

/// What the terminal sent to the foreground group has reached a command in this group already.
fn hand_on(arrived: &Arrived, child: Pid) {
    if arrived.by_terminal && getpgid(Some(child)) == getpgid(None) {
        return;
    }
    // It may have ended in the meantime, which its status will tell.
    let _ = kill(child, arrived.signal);
}

/// Ctrl-Z stops the command; the shell waits until this process stops too.
fn is_stopped_by_job_control(child: Pid) -> Result<bool> {
    let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG;
    let status = waitid(Id::Pid(child), flags).context("wait for the command")?;
    let by = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];
    Ok(matches!(status, WaitStatus::Stopped(_, signal) if by.contains(&signal)))
}

fn code_of(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(u8::MAX)
}
