//! The transport under a client's connection: a Unix stream with a bound on what a client may send
//! without ending the message. File descriptors travel to clients, never from them: what a client
//! sends along is closed by the kernel, because nobody makes room for it.
//!
//! The runtime is told to wait for input only. Its own streams wait for room to write as well, and
//! since every reply that a client takes makes room, that is a second wake-up for each call.
#![expect(unsafe_code, reason = "registers file descriptors with the runtime")]

use std::{
    io::{self, IoSlice, Read as _},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    rc::Rc,
};

use nix::{
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags},
    sys::socket::{ControlMessage, MsgFlags, send, sendmsg},
};
use pcpm_api::limits::MESSAGE_BYTES;
use tokio::io::{Interest, unix::AsyncFd};
use zlink::{
    Error, Result,
    connection::{
        PassedCredentials,
        socket::{ReadHalf, ReadResult, Socket, WriteHalf},
    },
};

/// A client's stream; clones are handles on the same one.
#[derive(Clone, Debug)]
pub(super) struct ClientStream(Rc<AsyncFd<UnixStream>>);

/// Its reading half.
#[derive(Debug)]
pub(super) struct BoundedRead {
    stream: ClientStream,
    /// Bytes read since the last end of a message.
    unfinished: usize,
}

impl ClientStream {
    /// Takes over an accepted stream.
    pub(super) fn new(stream: tokio::net::UnixStream) -> io::Result<Self> {
        let stream = stream.into_std()?;
        // SAFETY: the stream owns its descriptor and keeps it as long as it is registered.
        let stream = unsafe { AsyncFd::register_with_interest(stream, Interest::READABLE) }?;
        Ok(Self(Rc::new(stream)))
    }

    /// Returns when the client closed its socket. One that only ended its side of the stream still
    /// listens, and is not gone.
    pub(super) async fn hangup(&self) {
        if self.wait_for_hangup().await.is_err() {
            // It cannot be watched: the next write will tell.
            std::future::pending::<()>().await;
        }
    }

    /// An epoll instance that was asked for no event reports a hangup and nothing else, and becomes
    /// readable with it; the stream itself is readable at the end of one side too, for ever.
    async fn wait_for_hangup(&self) -> io::Result<()> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(self, EpollEvent::new(EpollFlags::empty(), 0))?;
        // SAFETY: the descriptor is owned by what is registered and stays the same while it lives.
        let watched = unsafe { AsyncFd::register_with_interest(epoll.0, Interest::READABLE) }?;
        watched.readable().await.map(drop)
    }

    /// Returns when there may be room to write.
    async fn wait_for_room(&self) -> io::Result<()> {
        let handle: OwnedFd = self.as_fd().try_clone_to_owned()?;
        // SAFETY: as in `wait_for_hangup`.
        let watched = unsafe { AsyncFd::register_with_interest(handle, Interest::WRITABLE) }?;
        watched.writable().await.map(drop)
    }
}

impl AsFd for ClientStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

impl Socket for ClientStream {
    type ReadHalf = BoundedRead;
    type WriteHalf = Self;

    const CAN_TRANSFER_FDS: bool = true;

    fn split(self) -> (BoundedRead, Self) {
        (
            BoundedRead {
                stream: self.clone(),
                unfinished: 0,
            },
            self,
        )
    }
}

impl ReadHalf for BoundedRead {
    async fn read(&mut self, buf: &mut [u8]) -> Result<ReadResult> {
        let length = self.read_some(buf).await?;
        for part in buf[..length].split_inclusive(|&byte| byte == 0) {
            self.unfinished += part.len();
            if self.unfinished > MESSAGE_BYTES {
                return Err(Error::BufferOverflow);
            }
            if part.ends_with(&[0]) {
                self.unfinished = 0;
            }
        }
        Ok(ReadResult::new(length))
    }
}

impl BoundedRead {
    async fn read_some(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.stream.0.readable().await?;
            let Ok(read) = ready.try_io(|stream| stream.get_ref().read(buf)) else {
                continue;
            };
            // A short read took all there was: no need to try again to find that out.
            if read.as_ref().is_ok_and(|&length| length < buf.len()) {
                ready.clear_ready();
            }
            return read;
        }
    }
}

impl WriteHalf for ClientStream {
    async fn write(
        &mut self,
        buf: &[u8],
        fds: &[impl AsFd],
        _credentials: Option<&PassedCredentials>,
    ) -> Result<()> {
        let mut sent = 0;
        while sent < buf.len() {
            // File descriptors travel with the first byte.
            let fds = if sent == 0 { fds } else { &[] };
            match send_some(self.as_fd(), &buf[sent..], fds) {
                Ok(length) => sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_for_room().await?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Sends what there is room for.
fn send_some(socket: BorrowedFd<'_>, buf: &[u8], fds: &[impl AsFd]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let socket = socket.as_raw_fd();
    let sent = if fds.is_empty() {
        send(socket, buf, flags)
    } else {
        let raw: Vec<_> = fds.iter().map(|fd| fd.as_fd().as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        sendmsg::<()>(socket, &[IoSlice::new(buf)], &rights, flags, None)
    };
    Ok(sent?)
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, net::Shutdown};

    use tokio::time::{Duration, timeout};

    use super::*;

    fn connected() -> (ClientStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ours = tokio::net::UnixStream::from_std(ours).unwrap();
        (ClientStream::new(ours).unwrap(), theirs)
    }

    #[tokio::test]
    async fn a_client_that_closes_its_socket_hangs_up() {
        let (ours, theirs) = connected();
        let closing = async { drop(theirs) };
        let (happened, ()) = tokio::join!(timeout(Duration::from_secs(10), ours.hangup()), closing);
        happened.expect("noticed");
    }

    #[tokio::test]
    async fn a_client_that_sends_or_ends_its_side_does_not_hang_up() {
        let (ours, mut theirs) = connected();
        theirs.write_all(b"the next call").unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        let waiting = timeout(Duration::from_millis(50), ours.hangup());
        assert!(waiting.await.is_err());
    }

    #[tokio::test]
    async fn a_reply_larger_than_the_buffers_arrives_whole() {
        let (mut ours, mut theirs) = connected();
        let reply = vec![7; 4 << 20];
        let reader = tokio::task::spawn_blocking(move || {
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).map(|_| got)
        });
        let no_fds: &[OwnedFd] = &[];
        ours.write(&reply, no_fds, None).await.unwrap();
        drop(ours);
        assert_eq!(reader.await.unwrap().unwrap(), reply);
    }

    #[tokio::test]
    async fn a_message_that_does_not_end_is_refused() {
        let (ours, mut theirs) = connected();
        let (mut read, _write) = ours.split();
        theirs.write_all(&vec![b'x'; MESSAGE_BYTES + 1]).unwrap();
        let mut buf = vec![0; 4096];
        let refused = loop {
            match read.read(&mut buf).await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, Error::BufferOverflow), "{refused:?}");
    }
}
