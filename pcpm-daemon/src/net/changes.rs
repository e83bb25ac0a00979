//! Notices that the host's links, addresses or routes changed, whoever changed them.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::error::NetError;

/// `RTNLGRP_LINK`, and `RTNLGRP_*_IFADDR` and `RTNLGRP_*_ROUTE` of both families, of linux/rtnetlink.h.
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];

/// `RTNLGRP_IPV4_NETCONF` and `RTNLGRP_IPV6_NETCONF`: interfaces that begin or cease to forward.
const FORWARDING: [u32; 2] = [24, 25];
/// `NFNLGRP_NFTABLES` of linux/netfilter/nfnetlink.h.
const NFTABLES: [u32; 1] = [7];

/// Changes come in bursts: an interface that comes up is many. The burst is over after this long
/// without another change,
const QUIET_MS: u16 = 100;

/// or after this long: on a host that never rests the uplink is followed, too.
const LONGEST_BURST: Duration = Duration::from_secs(1);

/// The host's change notifications.
pub(crate) struct HostChanges {
    sockets: Vec<Socket>,
}

impl HostChanges {
    /// Begins to listen in the calling thread's network namespace.
    pub(crate) fn listen() -> Result<Self, NetError> {
        Ok(Self {
            sockets: vec![listen(NETLINK_ROUTE, &GROUPS)?],
        })
    }

    /// As [`listen`](Self::listen), and to what becomes of forwarding, and of tables of nftables.
    pub(crate) fn listen_with_firewall() -> Result<Self, NetError> {
        let mut changes = Self::listen()?;
        changes.sockets.push(listen(NETLINK_ROUTE, &FORWARDING)?);
        changes.sockets.push(listen(NETLINK_NETFILTER, &NFTABLES)?);
        Ok(changes)
    }

    /// Blocks until something changed and the burst is over.
    pub(crate) fn wait(&self) -> Result<(), NetError> {
        let wait = || -> io::Result<()> {
            self.readable(PollTimeout::NONE)?;
            self.discard()?;
            let begun = Instant::now();
            while begun.elapsed() < LONGEST_BURST && self.readable(PollTimeout::from(QUIET_MS))? {
                self.discard()?;
            }
            Ok(())
        };
        wait().map_err(|e| NetError::new("wait for changes of the host", e.to_string()))
    }

    /// As [`wait`](Self::wait), but no longer than `timeout` for the first change.
    pub(crate) fn wait_at_most(&self, timeout: Duration) -> Result<(), NetError> {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let is_changed = self.readable(timeout);
        let is_changed =
            is_changed.map_err(|e| NetError::new("wait for changes of the host", e.to_string()))?;
        if is_changed { self.wait() } else { Ok(()) }
    }

    fn readable(&self, timeout: PollTimeout) -> io::Result<bool> {
        let sockets = self.sockets.iter();
        let mut polled: Vec<_> = sockets
            .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
            .collect();
        match poll(&mut polled, timeout) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    fn discard(&self) -> io::Result<()> {
        self.sockets.iter().try_for_each(discard)
    }
}

fn listen(protocol: isize, groups: &[u32]) -> Result<Socket, NetError> {
    let listen = || -> io::Result<Socket> {
        let mut socket = Socket::new(protocol)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(socket)
    };
    listen().map_err(|e| NetError::new("listen for changes of the host", e.to_string()))
}

/// That something changed is all that matters; so messages lost in a full buffer do not.
fn discard(socket: &Socket) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(32 * 1024);
    loop {
        buffer.clear();
        match socket.recv(&mut buffer, 0) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) if e.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
