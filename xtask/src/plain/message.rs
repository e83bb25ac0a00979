//! Route netlink messages, byte by byte (rtnetlink(7)).

use std::net::Ipv4Addr;

/// `VETH_INFO_PEER` of linux/veth.h.
const VETH_INFO_PEER: u16 = 1;
/// `TCA_INGRESS_BLOCK` of linux/rtnetlink.h: the filter block that an ingress qdisc joins.
const TCA_INGRESS_BLOCK: u16 = 13;
/// `RTNH_F_ONLINK` of linux/rtnetlink.h: the gateway is on the link whatever the addresses say.
const RTNH_F_ONLINK: u32 = 4;
/// The only parent and handle that an ingress qdisc can have.
const INGRESS_PARENT: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;

const ETHERNET_ADDRESS: usize = 6;
const MESSAGE_HEADER: usize = 16;

/// One request. Its sequence number is set when it is sent.
#[derive(Clone, Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

/// A link to be made, or the peer of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link<'a> {
    pub(super) name: &'a str,
    /// 0 lets the kernel choose.
    pub(super) index: i32,
    pub(super) mac: Option<[u8; ETHERNET_ADDRESS]>,
}

impl Message {
    fn new(kind: u16, flags: i32, header: &[u8]) -> Self {
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK);
        let mut bytes = vec![0; MESSAGE_HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.unwrap_or_default().to_ne_bytes());
        bytes.extend_from_slice(header);
        Self { bytes }
    }

    /// Makes a veth whose peer is born in the namespace `netns_fd`.
    pub(super) fn new_veth(link: Link<'_>, peer: Link<'_>, netns_fd: i32, mtu: u32) -> Self {
        let mut message = Self::new(
            libc::RTM_NEWLINK,
            libc::NLM_F_CREATE | libc::NLM_F_EXCL,
            &link_header(link.index, 0),
        );
        message.describe(link, mtu);
        message.nest(libc::IFLA_LINKINFO, |info| {
            info.attribute(libc::IFLA_INFO_KIND, b"veth");
            info.nest(libc::IFLA_INFO_DATA, |veth| {
                veth.nest(VETH_INFO_PEER, |body| {
                    body.bytes.extend_from_slice(&link_header(peer.index, 0));
                    body.describe(peer, mtu);
                    body.attribute(libc::IFLA_NET_NS_FD, &netns_fd.to_ne_bytes());
                });
            });
        });
        message
    }

    /// Puts the link that this makes into a group.
    pub(super) fn in_group(mut self, group: u32) -> Self {
        self.attribute(libc::IFLA_GROUP, &group.to_ne_bytes());
        self
    }

    /// Removes the link of that name.
    pub(super) fn remove_link(name: &str) -> Self {
        let mut message = Self::new(libc::RTM_DELLINK, 0, &link_header(0, 0));
        message.attribute(libc::IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
        message
    }

    /// Removes all links of a group at once.
    pub(super) fn remove_group(group: u32) -> Self {
        Self::new(libc::RTM_DELLINK, 0, &link_header(0, 0)).in_group(group)
    }

    /// Lists all links.
    pub(super) fn list_links() -> Self {
        Self::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &link_header(0, 0))
    }

    /// Sets a link up.
    pub(super) fn up(index: i32) -> Self {
        Self::new(libc::RTM_NEWLINK, 0, &link_header(index, libc::IFF_UP))
    }

    /// Adds an ingress qdisc that joins `block`.
    pub(super) fn ingress_qdisc(index: i32, block: u32) -> Self {
        // struct tcmsg: family, padding, ifindex, handle, parent, info.
        let mut header = vec![0; 4];
        header.extend_from_slice(&index.to_ne_bytes());
        for word in [INGRESS_HANDLE, INGRESS_PARENT, 0] {
            header.extend_from_slice(&word.to_ne_bytes());
        }
        let mut message = Self::new(
            libc::RTM_NEWQDISC,
            libc::NLM_F_CREATE | libc::NLM_F_EXCL,
            &header,
        );
        message.attribute(libc::TCA_KIND, b"ingress\0");
        message.attribute(TCA_INGRESS_BLOCK, &block.to_ne_bytes());
        message
    }

    /// Adds `address` to a link.
    pub(super) fn address(index: i32, address: Ipv4Addr, prefix: u8) -> Self {
        // struct ifaddrmsg: family, prefix length, flags, scope, index.
        let mut header = vec![inet(), prefix, 0, 0];
        header.extend_from_slice(&index.to_ne_bytes());
        let mut message = Self::new(
            libc::RTM_NEWADDR,
            libc::NLM_F_CREATE | libc::NLM_F_EXCL,
            &header,
        );
        message.attribute(libc::IFA_LOCAL, &address.octets());
        message.attribute(libc::IFA_ADDRESS, &address.octets());
        message
    }

    /// Adds a permanent neighbour.
    pub(super) fn neighbour(index: i32, address: Ipv4Addr, mac: [u8; ETHERNET_ADDRESS]) -> Self {
        // struct ndmsg: family, padding, ifindex, state, flags, type.
        let mut header = vec![inet(), 0, 0, 0];
        header.extend_from_slice(&index.to_ne_bytes());
        header.extend_from_slice(&libc::NUD_PERMANENT.to_ne_bytes());
        header.extend_from_slice(&[0, 0]);
        let mut message = Self::new(
            libc::RTM_NEWNEIGH,
            libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
            &header,
        );
        message.attribute(libc::NDA_DST, &address.octets());
        message.attribute(libc::NDA_LLADDR, &mac);
        message
    }

    /// Routes everything through `gateway`, which need not be on the link's network.
    pub(super) fn default_route(index: i32, gateway: Ipv4Addr) -> Self {
        let mut message = route(0, libc::RT_SCOPE_UNIVERSE, RTNH_F_ONLINK);
        message.attribute(libc::RTA_OIF, &index.to_ne_bytes());
        message.attribute(libc::RTA_GATEWAY, &gateway.octets());
        message
    }

    /// Routes one address to a link.
    pub(super) fn host_route(index: i32, address: Ipv4Addr) -> Self {
        let mut message = route(32, libc::RT_SCOPE_LINK, 0);
        message.attribute(libc::RTA_DST, &address.octets());
        message.attribute(libc::RTA_OIF, &index.to_ne_bytes());
        message
    }

    /// The message as sent, with its length and `sequence` filled in.
    pub(super) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or_default();
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }

    fn describe(&mut self, link: Link<'_>, mtu: u32) {
        self.attribute(libc::IFLA_IFNAME, &[link.name.as_bytes(), b"\0"].concat());
        self.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
        if let Some(mac) = link.mac {
            self.attribute(libc::IFLA_ADDRESS, &mac);
        }
    }

    fn attribute(&mut self, kind: u16, payload: &[u8]) {
        self.nest(kind, |message| message.bytes.extend_from_slice(payload));
    }

    /// An attribute whose payload `fill` writes.
    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or_default();
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// struct ifinfomsg: family, padding, type, index, flags, change mask.
fn link_header(index: i32, flags: i32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// struct rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type, flags.
fn route(destination_length: u8, scope: u8, flags: u32) -> Message {
    let mut header = vec![inet(), destination_length, 0, 0];
    header.extend_from_slice(&[
        libc::RT_TABLE_MAIN,
        libc::RTPROT_STATIC,
        scope,
        libc::RTN_UNICAST,
    ]);
    header.extend_from_slice(&flags.to_ne_bytes());
    Message::new(
        libc::RTM_NEWROUTE,
        libc::NLM_F_CREATE | libc::NLM_F_EXCL,
        &header,
    )
}

fn inet() -> u8 {
    u8::try_from(libc::AF_INET).unwrap_or_default()
}
