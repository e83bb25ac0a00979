//! The number by which kernel programs tell one network namespace from another.
#![expect(unsafe_code, reason = "the socket option has no safe wrapper")]

use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::error::{During, NetError};

/// The cookie of the calling thread's network namespace (`SO_NETNS_COOKIE`, 5.14). Never 0.
pub(super) fn current() -> Result<u64, NetError> {
    read().during(|| "read the cookie of the host's network namespace".to_owned())
}

fn read() -> nix::Result<u64> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    let mut cookie = 0_u64;
    let mut size = libc::socklen_t::try_from(size_of_val(&cookie)).unwrap_or_default();
    // SAFETY: the kernel writes at most `size` bytes to `cookie`.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    Errno::result(status).map(|_| cookie)
}
