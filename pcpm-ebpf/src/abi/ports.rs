//! Published ports: ports of the host that lead to ports of slots.

use crate::address::Address;

/// Where a published port is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PortKey {
    /// The host's address; [`Address::ANY`] for every address of the host.
    pub address: Address,
    /// The host's port.
    pub port: u16,
    /// IP protocol number: TCP or UDP.
    pub protocol: u8,
    /// Zero.
    pub padding: u8,
}

/// A socket of the host, and an address and port of a slot that it speaks to in a published port's
/// place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct HostPeerKey {
    /// `bpf_get_socket_cookie` of the socket.
    pub cookie: u64,
    /// The slot's address.
    pub address: Address,
    /// Port in the slot.
    pub port: u16,
    /// Zero.
    pub padding: [u8; 6],
}

/// What the socket asked for, and what it got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HostPeer {
    /// Address and port that the program gave; the address is never "any".
    pub asked: PortKey,
    /// Where that led to.
    pub target: PortTarget,
}

/// Where a published port leads to. It counts while the slot is attached in `epoch`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PortTarget {
    /// The slot.
    pub slot: u32,
    /// The attachment that published it.
    pub epoch: u32,
    /// Port in the slot.
    pub port: u16,
    /// Zero.
    pub padding: [u8; 6],
}

const _: () = {
    assert!(size_of::<HostPeerKey>() == 32);
    assert!(size_of::<HostPeer>() == 36);
    assert!(size_of::<PortKey>() == 20);
    assert!(size_of::<PortTarget>() == 16);
};
