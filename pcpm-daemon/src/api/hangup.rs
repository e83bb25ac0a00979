//! Notices that a client hung up while the daemon has nothing to read from it: it waits for a slot
//! or watches.

use std::{
    io::{self, ErrorKind},
    os::{fd::AsFd, unix::net::UnixStream as StdUnixStream},
};

use tokio::{io::Interest, net::UnixStream};

/// A second handle on a client's socket.
#[derive(Debug)]
pub(super) struct Hangup(StdUnixStream);

impl Hangup {
    pub(super) fn of(stream: &UnixStream) -> io::Result<Self> {
        stream.as_fd().try_clone_to_owned().map(|fd| Self(fd.into()))
    }

    /// Returns when the client closed its socket. One that only ended its side of the stream still
    /// listens, and is not gone.
    pub(super) async fn happened(&self) {
        if self.wait().await.is_err() {
            // It cannot be watched: the next write will tell.
            std::future::pending::<()>().await;
        }
    }

    async fn wait(&self) -> io::Result<()> {
        let stream = UnixStream::from_std(self.0.try_clone()?)?;
        while !stream.ready(Interest::READABLE).await?.is_write_closed() {
            // It is readable because of the next call, or the end of the client's side. That is
            // left where it is; reporting that nothing was read makes the runtime wait for news.
            let unread = stream.try_io(Interest::READABLE, || -> io::Result<()> {
                Err(ErrorKind::WouldBlock.into())
            });
            debug_assert!(unread.is_err());
        }
        Ok(())
    }
}
