//! Sockets that hold ports of the host. They are bound and nothing else: none goes on listening, and
//! one for UDP keeps next to nothing of what it is sent.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrStorage, bind, listen,
        setsockopt, shutdown, socket, sockopt,
    },
};
use pcpm_api::publish::{Port, Transport};

use super::PortKernel;

/// The ports of the network namespace that the calling thread is in.
#[derive(Debug)]
pub(crate) struct HostSockets;

impl PortKernel for HostSockets {
    /// A port without an address is bound for both families by one socket, or for IPv4 alone on a host
    /// without IPv6.
    fn bind(&self, port: &Port, beside: &[BorrowedFd<'_>]) -> Result<OwnedFd, Errno> {
        let everywhere = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        match bind_at(port, port.host_address.unwrap_or(everywhere), beside) {
            Err(Errno::EAFNOSUPPORT) if port.host_address.is_none() => {
                bind_at(port, Ipv4Addr::UNSPECIFIED.into(), beside)
            }
            outcome => outcome,
        }
    }
}

fn bind_at(port: &Port, address: IpAddr, beside: &[BorrowedFd<'_>]) -> Result<OwnedFd, Errno> {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let kind = match port.transport {
        Transport::Tcp => SockType::Stream,
        Transport::Udp => SockType::Datagram,
    };
    let bound = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if address.is_ipv6() {
        setsockopt(&bound, sockopt::Ipv6V6Only, &port.host_address.is_some())?;
    }
    if port.transport == Transport::Udp {
        // The kernel makes the least of it that a socket can have.
        setsockopt(&bound, sockopt::RcvBuf, &0)?;
    }
    let address = SockaddrStorage::from(SocketAddr::new(address, port.host_port));
    let is_tcp = port.transport == Transport::Tcp;
    let shared = (is_tcp || !beside.is_empty()).then(|| Shared::new(bound.as_fd(), beside));
    bind(bound.as_raw_fd(), &address)?;
    if is_tcp {
        refuse_to_share(&bound)?;
    }
    drop(shared);
    Ok(bound)
}

/// Makes the port of a socket that was bound while sharing one that nobody else can have, which the
/// kernel remembers of the first socket otherwise (`fastreuse` in `inet_csk_get_port`): who listens
/// shares with nobody. A listener that is shut down keeps its port (`SOCK_BINDPORT_LOCK`).
fn refuse_to_share(socket: &OwnedFd) -> Result<(), Errno> {
    listen(socket, Backlog::new(0)?)?;
    shutdown(socket.as_raw_fd(), Shutdown::Read)
}

/// Sockets that may have the same port while this lives: for TCP also as connections that an earlier
/// program closed and the kernel has not forgotten (`TIME_WAIT`). A socket lets others have its port
/// only if it says so itself (`inet_csk_bind_conflict`, `udp_lib_lport_inuse`), and whether it does is
/// looked at when the other is bound; so afterwards the port is taken.
struct Shared<'a>(Vec<BorrowedFd<'a>>);

impl<'a> Shared<'a> {
    fn new(new: BorrowedFd<'a>, beside: &[BorrowedFd<'a>]) -> Self {
        let shared = Self([&[new], beside].concat());
        shared.set(true);
        shared
    }

    fn set(&self, on: bool) {
        for socket in &self.0 {
            // Cannot fail for a socket; if it did, the bind would, and say so.
            let _ = setsockopt(socket, sockopt::ReuseAddr, &on);
        }
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}
