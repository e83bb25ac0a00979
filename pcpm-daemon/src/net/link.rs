//! Link messages: pairs, names, groups, deletion.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};

/// Flags for requests that must not touch what exists.
pub(super) const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// Why the kernel may answer EBUSY to a wanted interface index.
pub(super) const INDEX_TAKEN: &str = "the interface index is taken; if tunnel modules make \
     interfaces in every namespace, set net.core.fb_tunnels_only_for_init_net to 1";

/// The group of all slot links in a hub: one request deletes them.
pub(super) const SLOT_GROUP: u32 = 0x5043_0000;

/// The group that a worker moves links into before it deletes them together.
pub(super) fn doomed_group(worker: u32) -> u32 {
    SLOT_GROUP + 1 + worker
}

/// One end of a link pair as it is to be.
#[derive(Debug, Default)]
pub(super) struct End<'a> {
    pub(super) name: &'a str,
    /// 0: the kernel chooses.
    pub(super) index: u32,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
    pub(super) group: Option<u32>,
    /// One queue each way: a slot's traffic is not worth a queue for every processor.
    pub(super) single_queue: bool,
}

impl End<'_> {
    fn message(&self) -> LinkMessage {
        let mut message = with_index(self.index);
        message.attributes = vec![
            LinkAttribute::IfName(self.name.to_owned()),
            LinkAttribute::Address(self.mac.to_vec()),
            LinkAttribute::Mtu(self.mtu),
        ];
        if self.single_queue {
            message.attributes.push(LinkAttribute::NumTxQueues(1));
            message.attributes.push(LinkAttribute::NumRxQueues(1));
        }
        message
            .attributes
            .extend(self.group.map(LinkAttribute::Group));
        message
    }
}

/// Creates a pair with `near` in the socket's namespace and `far` in `netns` at once: moving an end
/// later costs a hundred times more. Links cannot be made up in the same request.
pub(super) fn create_pair(
    near: &End<'_>,
    far: &End<'_>,
    netns: BorrowedFd<'_>,
) -> RouteNetlinkMessage {
    let mut peer = far.message();
    peer.attributes
        .push(LinkAttribute::NetNsFd(netns.as_raw_fd()));
    let mut message = near.message();
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    RouteNetlinkMessage::NewLink(message)
}

/// Sets a link up.
pub(super) fn set_up(index: u32) -> RouteNetlinkMessage {
    let mut message = with_index(index);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(message)
}

/// Keeps a link from making link-local IPv6 addresses.
pub(super) fn without_link_local(index: u32) -> RouteNetlinkMessage {
    let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    set(
        index,
        LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])]),
    )
}

/// Gives a link an alias.
pub(super) fn set_alias(index: u32, alias: &str) -> RouteNetlinkMessage {
    set(index, LinkAttribute::IfAlias(alias.to_owned()))
}

/// Gives a link another name.
pub(super) fn set_name(index: u32, name: &str) -> RouteNetlinkMessage {
    set(index, LinkAttribute::IfName(name.to_owned()))
}

/// Gives a link another hardware address.
pub(super) fn set_mac(index: u32, mac: [u8; 6]) -> RouteNetlinkMessage {
    set(index, LinkAttribute::Address(mac.to_vec()))
}

/// Gives a link another MTU.
pub(super) fn set_mtu(index: u32, mtu: u32) -> RouteNetlinkMessage {
    set(index, LinkAttribute::Mtu(mtu))
}

/// Moves a link into a group.
pub(super) fn set_group(index: u32, group: u32) -> RouteNetlinkMessage {
    set(index, LinkAttribute::Group(group))
}

/// Deletes a link, and with it the other end of its pair.
pub(super) fn delete(index: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelLink(with_index(index))
}

/// Deletes all links of a group; the kernel waits for their last users once for all of them.
pub(super) fn delete_group(group: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::Group(group));
    RouteNetlinkMessage::DelLink(message)
}

fn set(index: u32, attribute: LinkAttribute) -> RouteNetlinkMessage {
    let mut message = with_index(index);
    message.attributes.push(attribute);
    RouteNetlinkMessage::SetLink(message)
}

fn with_index(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}
