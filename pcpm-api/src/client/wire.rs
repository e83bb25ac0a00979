//! The connection: whole messages in and out, each ended by a NUL, each before a deadline. What a
//! message means is not known here.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, socket,
};

use super::fds::receive;

/// Longest reply. A list of 10,000 attachments is about 5 MB.
const REPLY_BYTES: usize = 64 * 1024 * 1024;
const CHUNK_BYTES: usize = 16 * 1024;

/// When to give up; `None` is never.
pub(super) type Deadline = Option<Instant>;

pub(super) struct Wire {
    stream: UnixStream,
    /// Received, not yet taken.
    buffer: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Wire {
    /// Connects to `path`. A listener that accepts nobody is given up after `timeout`.
    pub(super) fn connect(path: &Path, timeout: Duration) -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        let stream = UnixStream::from(socket);
        // The kernel applies the send timeout to the wait for a place in the listener's queue.
        stream.set_write_timeout(Some(timeout.max(Duration::from_millis(1))))?;
        connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self::over(stream))
    }

    pub(super) fn over(stream: UnixStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            fds: Vec::new(),
        }
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Ends the connection: after an error nobody can tell which reply belongs to which call.
    pub(super) fn abandon(&mut self) {
        // It may be closed already, which is as good.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.buffer.clear();
        self.fds.clear();
    }

    /// Sends one message, to which the NUL is added.
    pub(super) fn send(&mut self, mut message: Vec<u8>, deadline: Deadline) -> io::Result<()> {
        message.push(0);
        let mut rest = message.as_slice();
        while !rest.is_empty() {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(self.stream.as_raw_fd(), rest, flags) {
                Ok(sent) => rest = &rest[sent..],
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLOUT, deadline)?,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Receives one message without its NUL, and the descriptors that came since the one before.
    pub(super) fn receive(&mut self, deadline: Deadline) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|&byte| byte == 0) {
                return Ok(self.take(searched + at));
            }
            searched = self.buffer.len();
            if searched > REPLY_BYTES {
                let reason = format!("a reply of more than {REPLY_BYTES} bytes");
                return Err(io::Error::new(ErrorKind::InvalidData, reason));
            }
            self.read_some(deadline)?;
        }
    }

    fn take(&mut self, length: usize) -> (Vec<u8>, Vec<OwnedFd>) {
        let rest = self.buffer.split_off(length + 1);
        let mut message = std::mem::replace(&mut self.buffer, rest);
        message.truncate(length);
        (message, std::mem::take(&mut self.fds))
    }

    fn read_some(&mut self, deadline: Deadline) -> io::Result<()> {
        let mut chunk = [0; CHUNK_BYTES];
        loop {
            match receive(&self.stream, &mut chunk, &mut self.fds) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    self.buffer.extend_from_slice(&chunk[..length]);
                    return Ok(());
                }
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLIN, deadline)?,
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => {
                    let reason = "more file descriptors than were asked for";
                    return Err(io::Error::new(ErrorKind::InvalidData, reason));
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn wait(&self, events: PollFlags, deadline: Deadline) -> io::Result<()> {
        loop {
            let mut fds = [PollFd::new(self.stream.as_fd(), events)];
            match poll(&mut fds, remaining(deadline)?) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// What is left until `deadline`, rounded up so that the last wait does not spin.
fn remaining(deadline: Deadline) -> io::Result<PollTimeout> {
    let Some(deadline) = deadline else {
        return Ok(PollTimeout::NONE);
    };
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    let rounded = left.saturating_add(Duration::from_micros(999));
    Ok(PollTimeout::try_from(rounded).unwrap_or(PollTimeout::MAX))
}
