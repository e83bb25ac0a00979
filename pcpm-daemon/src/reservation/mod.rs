//! Ports of the host that are published are taken on the host: a socket is bound to each, so that no
//! other program gets it, and nobody is surprised by a service that stops answering. The sockets
//! receive nothing; the kernel programs take the packets before.
//!
//! Which ports overlap is decided here, what the host allows by [`PortKernel`].

#[cfg(test)]
pub(crate) mod fake;
mod sockets;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use nix::errno::Errno;
use pcpm_api::publish::{Port, Transport};

use crate::{config::PortRange, pool::SlotIndex};

pub(crate) use sockets::HostSockets;

/// The host's ports.
pub(crate) trait PortKernel {
    /// Takes the port. `beside` are sockets of ours that may have it already, wholly or in part.
    fn bind(&self, port: &Port, beside: &[BorrowedFd<'_>]) -> Result<OwnedFd, Errno>;
}

/// Who keeps a published port from other programs of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeper {
    /// The daemon, with a socket.
    Daemon,
    /// Whoever attached: a container engine that binds published ports itself. It has to be free until then.
    Client,
    /// The same, from an earlier life of the daemon: by now it is bound.
    ClientAlready,
}

/// Why a port cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReservationError {
    /// Another attachment has it.
    #[error("port {port} is published by another attachment already")]
    Published { port: Port, slot: SlotIndex },
    /// Another program has it.
    #[error(
        "port {0} is taken on the host by another program; \
         `ss -anp sport = :{number}` shows which one",
        number = .0.host_port
    )]
    Taken(Port),
    /// Answers to slots come to it.
    #[error(
        "port {0} is one of nat.ports, which the host's stack uses for what slots send (egress = \"host\"); \
         publish another, or set nat.ports to others"
    )]
    Translated(Port),
    /// There is no such address.
    #[error("port {0}: this host does not have the address")]
    NoSuchAddress(Port),
    /// All attachments together have as many as there may be.
    #[error(
        "{0} ports are published in all, which is as many as publish.max_ports \
             and the limit on open files allow"
    )]
    TooMany(u32),
    /// Something else.
    #[error("bind port {0} on the host: {1}")]
    Bind(Port, Errno),
}

/// The ports that attachments have.
pub(crate) struct Reservations {
    kernel: Box<dyn PortKernel>,
    /// By what always differs where ports do not overlap, or else is compared.
    held: HashMap<(Transport, u16), Vec<Held>>,
    count: u32,
    most: u32,
    /// UDP ports that answers to slots come to.
    translated: Option<PortRange>,
}

#[derive(Debug)]
struct Held {
    port: Port,
    slot: SlotIndex,
    /// None where the client keeps the port.
    socket: Option<OwnedFd>,
}

impl Reservations {
    /// None yet, and never more than `most`.
    pub(crate) fn new(kernel: Box<dyn PortKernel>, most: u32) -> Self {
        Self {
            kernel,
            held: HashMap::new(),
            count: 0,
            most,
            translated: None,
        }
    }

    /// None of `ports` for UDP: the host's stack chooses among them for what slots send, and does not know which are
    /// published. A datagram that answers one slot would open a connection to another. TCP tells the two apart.
    pub(crate) fn beside_translated(mut self, ports: PortRange) -> Self {
        self.translated = Some(ports);
        self
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Takes all of `ports` for the slot, or none. It may have overlapping ones itself, which it is
    /// about to [`release`](Self::release).
    pub(crate) fn reserve(
        &mut self,
        slot: SlotIndex,
        ports: &[Port],
        keeper: Keeper,
    ) -> Result<(), ReservationError> {
        for (done, port) in ports.iter().enumerate() {
            if let Err(error) = self.reserve_one(slot, *port, keeper) {
                self.release(slot, &ports[..done]);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The slot's `ports` are the host's again; where they led to does not matter.
    pub(crate) fn release(&mut self, slot: SlotIndex, ports: &[Port]) {
        for port in ports {
            let Some(held) = self.held.get_mut(&place(port)) else {
                continue;
            };
            let is_it =
                |held: &Held| held.slot == slot && held.port.host_address == port.host_address;
            if let Some(at) = held.iter().position(is_it) {
                held.swap_remove(at);
                self.count -= 1;
            }
            if held.is_empty() {
                self.held.remove(&place(port));
            }
        }
    }

    fn reserve_one(
        &mut self,
        slot: SlotIndex,
        port: Port,
        keeper: Keeper,
    ) -> Result<(), ReservationError> {
        if self.count >= self.most {
            return Err(ReservationError::TooMany(self.most));
        }
        if port.transport == Transport::Udp
            && let Some(range) = self.translated
            && (range.first..=range.last).contains(&port.host_port)
        {
            return Err(ReservationError::Translated(port));
        }
        let held = self.held.get(&place(&port)).map_or(&[][..], Vec::as_slice);
        let mut overlapping = held.iter().filter(|held| held.port.overlaps(&port));
        if let Some(other) = overlapping.clone().find(|held| held.slot != slot) {
            return Err(ReservationError::Published {
                port,
                slot: other.slot,
            });
        }
        let sockets = overlapping.by_ref().filter_map(|held| held.socket.as_ref());
        let beside: Vec<_> = sockets.map(OwnedFd::as_fd).collect();
        let socket = match keeper {
            Keeper::Daemon => Some(self.bind(port, &beside)?),
            Keeper::Client => self.bind(port, &beside).map(|_free| None)?,
            Keeper::ClientAlready => None,
        };
        let held = self.held.entry(place(&port)).or_default();
        held.push(Held { port, slot, socket });
        self.count += 1;
        Ok(())
    }

    fn bind(&self, port: Port, beside: &[BorrowedFd]) -> Result<OwnedFd, ReservationError> {
        self.kernel
            .bind(&port, beside)
            .map_err(|errno| match errno {
                Errno::EADDRINUSE => ReservationError::Taken(port),
                Errno::EADDRNOTAVAIL => ReservationError::NoSuchAddress(port),
                other => ReservationError::Bind(port, other),
            })
    }
}

fn place(port: &Port) -> (Transport, u16) {
    (port.transport, port.host_port)
}
