//! Receiving bytes together with the file descriptors that travel beside them. The only unsafe code
//! of the client; framing and meaning live in `wire`.
#![expect(
    unsafe_code,
    reason = "a received descriptor is a number until somebody owns it"
)]

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Most descriptors taken from one message; the daemon sends one.
const MOST: usize = 4;

/// Reads what is there into `chunk`, adds the descriptors that came along to `fds` and returns the
/// number of bytes; 0 is the end of the stream.
///
/// # Errors
/// `EAGAIN` when nothing is there; `ENOBUFS` when more than [`MOST`] descriptors came along.
pub(super) fn receive(
    stream: &UnixStream,
    chunk: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> nix::Result<usize> {
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; MOST]);
    let mut slices = [IoSliceMut::new(chunk)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel has just installed these descriptors for this message, and nobody
            // else knows their numbers.
            fds.extend(
                received
                    .into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    Ok(message.bytes)
}
