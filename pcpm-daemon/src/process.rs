//! Processes that attachments live with. A process is named by its id and the time at which it began, so
//! that another one that gets the id later is not taken for it; a file descriptor tells of its end.
#![expect(unsafe_code, reason = "registers a descriptor with the runtime")]

use std::{
    collections::HashMap,
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::{Interest, unix::AsyncFd};

use crate::pool::{Process, SlotIndex};

/// Why a process cannot be lived with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProcessError {
    #[error("there is no process {0}")]
    Gone(u32),
    #[error("{0} is a thread, not a process")]
    Thread(u32),
    #[error("open process {0}: {1}")]
    Open(u32, Errno),
}

/// The process that has the id now, and what tells of its end.
pub(crate) fn open(pid: u32) -> Result<(Process, OwnedFd), ProcessError> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let raw = raw.ok_or(ProcessError::Gone(pid))?;
    let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(|error| {
        match Errno::from_raw(error.raw_os_error()) {
            Errno::ESRCH => ProcessError::Gone(pid),
            Errno::EINVAL | Errno::ENOENT => ProcessError::Thread(pid),
            errno => ProcessError::Open(pid, errno),
        }
    })?;
    let started = start_time(pid).ok_or(ProcessError::Gone(pid))?;
    // If it has not ended yet, the time is its own and not that of another one with its id.
    if has_ended(&pidfd).map_err(|errno| ProcessError::Open(pid, errno))? {
        return Err(ProcessError::Gone(pid));
    }
    Ok((Process { pid, started }, pidfd))
}

/// What tells of the end of this very process.
pub(crate) fn reopen(process: Process) -> Result<OwnedFd, ProcessError> {
    let (now, pidfd) = open(process.pid)?;
    if now != process {
        return Err(ProcessError::Gone(process.pid));
    }
    Ok(pidfd)
}

/// Which slot lives with which process.
#[derive(Debug)]
pub(crate) struct ProcessLeases {
    epoll: Epoll,
    pidfds: HashMap<SlotIndex, OwnedFd>,
}

impl ProcessLeases {
    /// None yet.
    pub(crate) fn new() -> nix::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            pidfds: HashMap::new(),
        })
    }

    /// Tells when [`ended`](Self::ended) has something to say. Belongs to a runtime.
    pub(crate) fn ends(&self) -> io::Result<Ends> {
        let epoll = self.epoll.0.try_clone()?;
        // SAFETY: the descriptor is owned by what watches it and stays what it is.
        let watched = unsafe { AsyncFd::register_with_interest(epoll, Interest::READABLE) }?;
        Ok(Ends(watched))
    }

    /// The slot lives with the process of `pidfd` from now on.
    pub(crate) fn grant(&mut self, slot: SlotIndex, pidfd: OwnedFd) -> nix::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, slot.into());
        self.epoll.add(&pidfd, event)?;
        self.pidfds.insert(slot, pidfd);
        Ok(())
    }

    /// The attachment ended, or never began.
    pub(crate) fn end(&mut self, slot: SlotIndex) {
        if let Some(pidfd) = self.pidfds.remove(&slot) {
            // It would end with the descriptor anyway, unless a child has that.
            let _not_there = self.epoll.delete(&pidfd);
        }
    }

    /// Some slots whose processes have ended, until their leases end too.
    pub(crate) fn ended(&self) -> Vec<SlotIndex> {
        let mut events = [EpollEvent::empty(); 64];
        let count = self
            .epoll
            .wait(&mut events, EpollTimeout::ZERO)
            .unwrap_or(0);
        let slots = events[..count].iter();
        slots
            .filter_map(|event| SlotIndex::try_from(event.data()).ok())
            .collect()
    }
}

/// See [`ProcessLeases::ends`].
pub(crate) struct Ends(AsyncFd<OwnedFd>);

impl Ends {
    /// Returns when a process has ended since it was asked last.
    pub(crate) async fn next(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}

fn has_ended(pidfd: &OwnedFd) -> nix::Result<bool> {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut fds, PollTimeout::ZERO)? > 0)
}

/// When the process started, in clock ticks since boot: field 22 of `/proc/PID/stat`, counted from
/// behind the command name, which may contain anything.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn sleeper() -> Child {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null());
        command.spawn().unwrap()
    }

    fn end(mut child: Child) -> u32 {
        child.kill().unwrap();
        child.wait().unwrap();
        child.id()
    }

    #[test]
    fn the_end_of_a_process_is_told_until_its_lease_ends() {
        let mut leases = ProcessLeases::new().unwrap();
        let (short, long) = (sleeper(), sleeper());
        for (slot, child) in [(4, &short), (5, &long)] {
            let (_, pidfd) = open(child.id()).unwrap();
            leases.grant(slot, pidfd).unwrap();
        }
        assert!(leases.ended().is_empty());
        end(short);
        assert_eq!(leases.ended(), [4]);
        leases.end(4);
        assert!(leases.ended().is_empty());
        end(long);
    }

    #[test]
    fn a_process_is_not_one_that_had_its_id_before() {
        let child = sleeper();
        let (process, _) = open(child.id()).unwrap();
        reopen(process).unwrap();
        let earlier = Process {
            started: process.started - 1,
            ..process
        };
        let gone = ProcessError::Gone(process.pid);
        assert_eq!(reopen(earlier).unwrap_err(), gone);
        end(child);
        assert_eq!(reopen(process).unwrap_err(), gone);
    }

    #[test]
    fn what_is_no_process_is_named() {
        let ended = end(sleeper());
        for (pid, text) in [
            (ended, format!("there is no process {ended}")),
            (0, "there is no process 0".into()),
            (u32::MAX, "there is no process 4294967295".into()),
        ] {
            assert_eq!(open(pid).unwrap_err().to_string(), text);
        }
    }
}
