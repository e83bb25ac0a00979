//! The root control group: the host's own sockets on their way to published ports.
//!
//! A socket of the host that asks for a published port is sent to the slot's address and port
//! instead, and is told that it speaks to what it asked for. Its packets then take the way that all
//! packets of the host to slots take. Nothing is ever refused here.
//!
//! Control groups are the machine's, the host is one of its network namespaces: the sockets of all
//! others are left alone, first of all.

use pcpm_ebpf::{
    abi::{Config, HostPeer, HostPeerKey, PortKey, PortTarget},
    address::Address,
    packet::Family,
    published,
};

use crate::{
    maps,
    sock_addr::{SocketAddress, SocketCall},
};

/// What every one of these programs returns.
pub(crate) const GO_ON: i32 = 1;

/// `connect`: sends the socket to the slot.
#[inline(always)]
pub(crate) fn connect<A: SocketAddress>(call: &SocketCall<A>) -> i32 {
    let _ = redirect(call, call.bound_to(), A::MAY_CHANGE_FAMILY);
    GO_ON
}

/// `sendto` and `sendmsg` with an address: sends the datagram to the slot.
#[inline(always)]
pub(crate) fn send<A: SocketAddress>(call: &SocketCall<A>) -> i32 {
    // A datagram cannot change the family (`udpv6_sendmsg`).
    let _ = redirect(call, call.message_source(), false);
    GO_ON
}

/// `recvfrom`, `recvmsg` and `getpeername`: tells what was asked for.
#[inline(always)]
pub(crate) fn tell<A: SocketAddress>(call: &SocketCall<A>) -> i32 {
    let _ = restore(call);
    GO_ON
}

/// Leaves alone what is bound to a loopback address: nothing with such a source leaves the host.
#[inline(always)]
fn redirect<A: SocketAddress>(
    call: &SocketCall<A>,
    source: Address,
    may_change_family: bool,
) -> Option<()> {
    let config = of_this_host(call)?;
    if source.is_loopback() || !published::has_ports(call.protocol()) {
        return None;
    }
    let asked = PortKey::asked_for(call.address(), call.port(), call.protocol());
    if !asked.address.is_loopback() && !maps::is_host_address(&asked.address) {
        return None;
    }
    let target = maps::published(&mut { asked })?;
    let address = slot_address(config, &asked, &target, may_change_family)?;
    let key = HostPeerKey::new(call.cookie(), address, target.port);
    if !maps::remember_host_peer(&key, &HostPeer { asked, target }) {
        return None;
    }
    call.set(&address, target.port);
    Some(())
}

#[inline(always)]
fn restore<A: SocketAddress>(call: &SocketCall<A>) -> Option<()> {
    of_this_host(call)?;
    let key = HostPeerKey::new(call.cookie(), call.address(), call.port());
    let peer = maps::host_peer(&key)?;
    call.set(&peer.asked.address, peer.asked.port);
    Some(())
}

/// The slot's IPv4 address, where many servers listen only; of the family that was asked for where
/// the socket cannot change to it.
#[inline(always)]
fn slot_address(
    config: &Config,
    asked: &PortKey,
    target: &PortTarget,
    may_change_family: bool,
) -> Option<Address> {
    if asked.address.is_v4() || may_change_family {
        Some(config.slot_address(target.slot, Family::V4))
    } else if config.has_ipv6() {
        Some(config.slot_address(target.slot, Family::V6))
    } else {
        None
    }
}

/// The configuration, for a socket of the host.
#[inline(always)]
fn of_this_host<A: SocketAddress>(call: &SocketCall<A>) -> Option<&'static Config> {
    let config = maps::config().ok()?;
    (config.host_netns == call.netns()).then_some(config)
}
