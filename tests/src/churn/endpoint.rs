//! One attachment and its sockets.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};
use serde_json::json;

use super::stamp::Stamp;
use super::{PATIENCE_FOR_TCP, PORT, published_port};
use crate::daemon::Daemon;

/// Sockets for connections that an endpoint opens in its life.
const CLIENTS: usize = 6;

/// An attachment. Its sockets belong to its namespace, wherever they are used.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) serial: u64,
    pub(super) tenant: u64,
    pub(super) address: Ipv4Addr,
    pub(super) udp: UdpSocket,
    pub(super) listener: TcpListener,
    clients: RwLock<Vec<OwnedFd>>,
    owner: String,
    detached: AtomicBool,
}

impl Endpoint {
    /// Attaches the holder at `place` anew.
    pub(super) fn attach(daemon: &Daemon, place: usize, serial: u64, tenant: u64) -> Result<Self> {
        let owner = format!("holder-{serial}");
        let port = published_port(place);
        let request = json!({
            "owner": owner,
            "tenant": format!("tenant-{tenant}"),
            "publish": [format!("udp:{port}:{PORT}"), format!("tcp:{port}:{PORT}")],
        });
        let reply = daemon.attach_with(&request)?;
        let address = reply.attachment.addresses.first().context("no address")?;
        let address = address.parse()?;
        let (udp, listener, clients) = daemon.place(&reply).within(open_sockets)?;
        Ok(Self {
            serial,
            tenant,
            address,
            udp,
            listener,
            clients: RwLock::new(clients),
            owner,
            detached: AtomicBool::new(false),
        })
    }

    /// When this returns nothing that it sends may arrive any more.
    pub(super) fn detach(&self, daemon: &Daemon) -> Result<()> {
        daemon.detach(&self.owner)?;
        self.detached.store(true, Ordering::Release);
        Ok(())
    }

    pub(super) fn stamp(&self, to: u64) -> Stamp {
        Stamp {
            from: self.serial,
            to,
            tenant: self.tenant,
            too_late: self.detached.load(Ordering::Acquire).into(),
        }
    }

    /// Connects to `server`, as long as there are sockets left.
    pub(super) fn connect(&self, server: SocketAddr) -> Option<TcpStream> {
        let SocketAddr::V4(server) = server else {
            return None;
        };
        let socket = self.clients.write().ok()?.pop()?;
        let stream = TcpStream::from(socket);
        // The time limit for sending is one for connecting, too.
        stream.set_write_timeout(Some(PATIENCE_FOR_TCP)).ok()?;
        stream.set_read_timeout(Some(PATIENCE_FOR_TCP)).ok()?;
        connect(stream.as_raw_fd(), &SockaddrIn::from(server)).ok()?;
        Some(stream)
    }
}

type Sockets = (UdpSocket, TcpListener, Vec<OwnedFd>);

fn open_sockets() -> Result<Sockets> {
    let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    udp.set_nonblocking(true)?;
    listener.set_nonblocking(true)?;
    let clients = (0..CLIENTS).map(|_| {
        socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
    });
    Ok((udp, listener, clients.collect::<Result<_, Errno>>()?))
}
