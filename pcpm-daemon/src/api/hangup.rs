//! Notices that a client hung up while the daemon has nothing to read from it: it waits for a slot
//! or watches.
#![expect(unsafe_code, reason = "registers a file descriptor with the runtime")]

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use tokio::{io::unix::AsyncFd, net::UnixStream};

/// A second handle on a client's socket.
#[derive(Debug)]
pub(super) struct Hangup(OwnedFd);

impl Hangup {
    pub(super) fn of(stream: &UnixStream) -> io::Result<Self> {
        stream.as_fd().try_clone_to_owned().map(Self)
    }

    /// Returns when the client closed its socket. One that only ended its side of the stream still
    /// listens, and is not gone.
    pub(super) async fn happened(&self) {
        if self.wait().await.is_err() {
            // It cannot be watched: the next write will tell.
            std::future::pending::<()>().await;
        }
    }

    /// An epoll instance that was asked for no event reports a hangup and nothing else, and becomes
    /// readable with it; the runtime's own wakes for every byte and for the end of one side too.
    async fn wait(&self) -> io::Result<()> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&self.0, EpollEvent::new(EpollFlags::empty(), 0))?;
        // SAFETY: the descriptor is owned by what is registered and stays the same while it lives.
        let watched = unsafe { AsyncFd::register(epoll.0) }.map_err(io::Error::from)?;
        watched.readable().await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, net::Shutdown, os::unix::net::UnixStream as StdUnixStream};

    use tokio::time::{Duration, timeout};

    use super::*;

    fn connected() -> (Hangup, UnixStream, StdUnixStream) {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ours = UnixStream::from_std(ours).unwrap();
        (Hangup::of(&ours).unwrap(), ours, theirs)
    }

    #[tokio::test]
    async fn a_client_that_closes_its_socket_hangs_up() {
        let (hangup, _ours, theirs) = connected();
        let closing = async { drop(theirs) };
        let (happened, ()) =
            tokio::join!(timeout(Duration::from_secs(10), hangup.happened()), closing);
        happened.expect("noticed");
    }

    #[tokio::test]
    async fn a_client_that_sends_or_ends_its_side_does_not_hang_up() {
        let (hangup, _ours, mut theirs) = connected();
        theirs.write_all(b"the next call").unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        let waiting = timeout(Duration::from_millis(50), hangup.happened());
        assert!(waiting.await.is_err());
    }
}
