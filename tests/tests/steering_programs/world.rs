//! Conversations of slots with the world, as the programs should translate them: what the tests of the
//! translation have in common.

use anyhow::{Context, Result, bail};
use pcpm_ebpf::abi::{AttachmentWord, flow_kind};

use crate::families::Net;
use crate::lab::{Fate, Hook, Lab, UPLINK_MAC};
use crate::packet::{Content, Packet};

pub(crate) const EPOCH: u32 = 6;
pub(crate) const MARKED: Hook = Hook::FromHub { mark: EPOCH };
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const UDP: Content = Content::Udp { from: 1000, to: 53 };
/// One of everything that is translated.
pub(crate) const CONTENTS: [Content; 4] = [
    tcp(SYN),
    UDP,
    Content::UdpUnchecked { from: 1001, to: 53 },
    Content::Echo { identifier: 77 },
];

/// A segment of a connection to a web server.
pub(crate) const fn tcp(flags: u8) -> Content {
    Content::Tcp {
        from: 40_000,
        to: 443,
        flags,
    }
}

/// Slots 1 and 2 are held in the same epoch.
pub(crate) fn lab() -> Result<Lab> {
    let mut lab = Lab::new()?;
    for slot in [1, 2] {
        lab.publish(slot, AttachmentWord::attached(EPOCH, slot))?;
    }
    Ok(lab)
}

/// Few ports, so that it is known which ones are taken.
pub(crate) fn lab_with_ports(first: u16, last: u16) -> Result<Lab> {
    let mut lab = lab()?;
    lab.configure(|config| {
        config.nat_port_first = first;
        config.nat_port_last = last;
    })?;
    Ok(lab)
}

/// The content with `port` in the place of the slot's.
pub(crate) fn shown_as(content: Content, port: u16) -> Content {
    let from = port;
    match content {
        Content::Tcp { to, flags, .. } => Content::Tcp { from, to, flags },
        Content::Udp { to, .. } => Content::Udp { from, to },
        Content::UdpUnchecked { to, .. } => Content::UdpUnchecked { from, to },
        Content::Echo { .. } => Content::Echo { identifier: port },
        other => other,
    }
}

/// What the peer answers to the content when the slot's port is `port`.
pub(crate) fn answered(content: Content, port: u16) -> Content {
    match content {
        Content::Tcp { to, .. } => Content::Tcp {
            from: to,
            to: port,
            flags: SYN | ACK,
        },
        Content::Udp { to, .. } => Content::Udp { from: to, to: port },
        Content::UdpUnchecked { to, .. } => Content::UdpUnchecked { from: to, to: port },
        Content::Echo { .. } => Content::EchoReply { identifier: port },
        other => other,
    }
}

/// The port, or identifier, of the slot.
pub(crate) fn own_port(content: Content) -> u16 {
    match content {
        Content::Tcp { from, .. }
        | Content::Udp { from, .. }
        | Content::UdpUnchecked { from, .. } => from,
        Content::Echo { identifier } | Content::EchoReply { identifier } => identifier,
        Content::Icmp { .. } | Content::Other { .. } => 0,
    }
}

/// The port that stands for the only connection of slot `slot` with this port.
pub(crate) fn translated_port(lab: &Lab, slot: u32, content: Content) -> Result<u16> {
    let owners = lab.flows(flow_kind::INGRESS)?;
    let mut ports = owners
        .values()
        .filter(|(_, flow)| (flow.slot, flow.translated_port) == (slot, own_port(content)));
    let (key, _) = ports.next().context("the connection has no port")?;
    if ports.next().is_some() {
        bail!("the connection has several ports");
    }
    Ok(key.local_port)
}

/// Sends `packet` and says which port stands for it.
pub(crate) fn translate(lab: &mut Lab, net: &Net, slot: u32, packet: &Packet) -> Result<u16> {
    let fate = lab.send(MARKED, packet)?;
    let Fate::Redirected { bytes, mark } = fate else {
        bail!("{packet:?}: {fate:?}");
    };
    let port = translated_port(lab, slot, packet.content)?;
    let expected = Packet {
        source: net.uplink,
        ttl: packet.ttl - 1,
        content: shown_as(packet.content, port),
        ..packet.clone()
    };
    assert_eq!(bytes, expected.bytes(), "{packet:?}");
    assert_eq!(mark, 0, "the mark is ours, not the host's");
    Ok(port)
}

/// What the peer answers, to the port that stands for the slot's.
pub(crate) fn answer_to(net: &Net, content: Content, port: u16) -> Packet {
    Packet::arriving(UPLINK_MAC, net.peer, net.uplink, answered(content, port))
}

/// The answer as `slot` gets it.
pub(crate) fn restored(net: &Net, answer: &Packet, slot: u32, content: Content) -> Packet {
    Packet {
        destination: net.slot(slot),
        content: answered(content, own_port(content)),
        ..answer.clone()
    }
}

/// On its way to a slot of the world's.
pub(crate) fn to_slot(packet: &Packet) -> Fate {
    Fate::Redirected {
        bytes: packet.bytes(),
        mark: EPOCH,
    }
}

/// On its way to the world.
pub(crate) fn to_world(packet: &Packet) -> Fate {
    Fate::Redirected {
        bytes: packet.bytes(),
        mark: 0,
    }
}
