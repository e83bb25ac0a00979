//! The lab's addresses in both versions of IP, and what else differs between them: what holds for one
//! is tried with both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use pcpm_ebpf::packet::Family;

use crate::packet::Packet;

/// Addresses of one version of IP.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Net {
    /// The version.
    pub(crate) family: Family,
    /// The slots' gateway.
    pub(crate) gateway: IpAddr,
    /// The host, on its uplink.
    pub(crate) uplink: IpAddr,
    /// Another address of the host that the programs know.
    pub(crate) second: IpAddr,
    /// An address of the host on another link, which only its routing table knows.
    pub(crate) elsewhere: IpAddr,
    /// Somebody on that other link.
    pub(crate) neighbour: IpAddr,
    /// Somebody in the world.
    pub(crate) peer: IpAddr,
    /// Somebody else there.
    pub(crate) stranger: IpAddr,
    /// On the way to them.
    pub(crate) router: IpAddr,
    /// Where the host's routing table sends nothing.
    pub(crate) blackhole: IpAddr,
    /// Nobody's, on the uplink's network.
    pub(crate) nobody: IpAddr,
    /// Where clouds serve credentials.
    pub(crate) metadata: IpAddr,
    /// A group that all nodes of a link belong to.
    pub(crate) multicast: IpAddr,
    /// The address of whoever uses it.
    pub(crate) loopback: IpAddr,
    /// Types of ICMP errors that are carried: unreachable, time exceeded, parameter problem.
    pub(crate) errors: [u8; 3],
    /// Type of an ICMP message that looks like an error and is not carried.
    pub(crate) redirect: u8,
    /// Bytes of an IP header and the 8 behind it, which every error quotes.
    pub(crate) least_quote: usize,
}

/// IPv4.
pub(crate) const V4: Net = Net {
    family: Family::V4,
    gateway: v4([169, 254, 1, 1]),
    uplink: v4([192, 0, 2, 1]),
    second: v4([192, 0, 2, 9]),
    elsewhere: v4([203, 0, 113, 1]),
    neighbour: v4([203, 0, 113, 9]),
    peer: v4([198, 51, 100, 1]),
    stranger: v4([198, 51, 100, 2]),
    router: v4([203, 0, 113, 77]),
    blackhole: v4([198, 18, 0, 1]),
    nobody: v4([192, 0, 2, 77]),
    metadata: v4([169, 254, 169, 254]),
    multicast: v4([224, 0, 0, 251]),
    loopback: v4([127, 0, 0, 1]),
    errors: [3, 11, 12],
    redirect: 5,
    least_quote: 28,
};

/// IPv6.
pub(crate) const V6: Net = Net {
    family: Family::V6,
    gateway: v6([0xfe80, 0, 0, 0, 0, 0, 0, 1]),
    uplink: v6([0x2001, 0xdb8, 1, 0, 0, 0, 0, 1]),
    second: v6([0x2001, 0xdb8, 1, 0, 0, 0, 0, 9]),
    elsewhere: v6([0x2001, 0xdb8, 3, 0, 0, 0, 0, 1]),
    neighbour: v6([0x2001, 0xdb8, 3, 0, 0, 0, 0, 9]),
    peer: v6([0x2001, 0xdb8, 2, 0, 0, 0, 0, 1]),
    stranger: v6([0x2001, 0xdb8, 2, 0, 0, 0, 0, 2]),
    router: v6([0x2001, 0xdb8, 2, 0xff, 0, 0, 0, 1]),
    blackhole: v6([0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 1]),
    nobody: v6([0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x77]),
    metadata: v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]),
    multicast: v6([0xff02, 0, 0, 0, 0, 0, 0, 1]),
    loopback: v6([0, 0, 0, 0, 0, 0, 0, 1]),
    errors: [1, 3, 4],
    redirect: 137,
    least_quote: 48,
};

const fn v4(octets: [u8; 4]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_octets(octets))
}

const fn v6(segments: [u16; 8]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_segments(segments))
}

impl Net {
    /// The address of slot `slot`.
    pub(crate) fn slot(&self, slot: u32) -> IpAddr {
        Packet::address_in(self.family, slot)
    }
}

/// Runs `test` with each version of IP.
///
/// # Errors
/// The test's.
pub(crate) fn in_both(test: impl Fn(&Net) -> Result<()>) -> Result<()> {
    for net in [V4, V6] {
        // Whatever fails, the output says where.
        eprintln!("{:?}:", net.family);
        test(&net).with_context(|| format!("{:?}", net.family))?;
    }
    Ok(())
}
