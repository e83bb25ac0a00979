//! Looking at a hub that is there: whether its link to the host is right, and which of its slots are. All
//! of a hub's links are read in one dump and all of its qdiscs in another, so looking at a slot costs no
//! system call but those for its mount. Nothing is changed here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use pcpm_api::types::SharedNamespace;
use pcpm_ebpf::abi::{
    GATEWAY_MAC, HUB_UPLINK_INDEX, LINK_INDEX_BASE, SLOT_LINK_INDEX, SLOTS_PER_HUB,
};

use super::error::NetError;
use super::host::Home;
use super::mounts::Looked;
use super::netlink::{Batch, Netlink};
use super::sweep::{self, Remains};
use super::{FoundHub, Hub, HubState, Share, link, namespace, share, slot_name, tc};
use crate::found::FoundSlot;
use crate::locks::operation;

/// How many namespaces the kernel is asked about in one go: its answers must fit into the socket's buffer.
const NAMESPACES_AT_ONCE: usize = 64;

const LOOPBACK_INDEX: u32 = 1;

/// No interface has this index: the hub's way to the host is to be made anew, see
/// [`HostKernel::mend_hub`](super::HostKernel::mend_hub).
const NO_LINK: u32 = 0;

/// Threads that look at hubs.
const THREADS: usize = 4;

/// Looks at hubs, several at a time.
pub(super) fn hubs(home: &Home, numbers: &[u32]) -> Vec<HubState> {
    let remains = sweep::find_remains(home);
    let next = AtomicUsize::new(0);
    let found = Mutex::new(BTreeMap::new());
    let told = operation::hand_on();
    thread::scope(|scope| {
        for _ in 0..THREADS.min(numbers.len()) {
            scope.spawn(|| {
                let _helper = told.take();
                while let Some(number) = numbers.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let state = hub(home, *number, remains.get(number));
                    found
                        .lock()
                        .expect("no thread panics with it")
                        .insert(*number, state);
                }
            });
        }
    });
    found
        .into_inner()
        .expect("as above")
        .into_values()
        .collect()
}

/// Looks at one hub, in a thread that may go there.
fn hub(home: &Home, number: u32, remains: Option<&Remains>) -> HubState {
    let Some(remains) = remains else {
        return HubState::Missing;
    };
    let netns = match namespace::open_mounted(&home.hub(number)) {
        Ok(Some(netns)) => netns,
        Ok(None) => return HubState::Broken("its namespace is not mounted".to_owned()),
        Err(error) => return HubState::Broken(error.to_string()),
    };
    match look(home, number, &netns, remains) {
        Ok((host_ifindex, slots)) => HubState::Sound(FoundHub {
            hub: Hub {
                number,
                host_ifindex,
                netns: Arc::new(netns),
            },
            slots,
        }),
        Err(error) => HubState::Broken(error.to_string()),
    }
}

/// From inside of the hub. Returns the interface index of its link in the host, and its slots.
fn look(
    home: &Home,
    number: u32,
    netns: &OwnedFd,
    remains: &Remains,
) -> Result<(u32, Vec<FoundSlot>), NetError> {
    namespace::enter(netns)?;
    let mut socket = Netlink::open()?;
    let picture = Picture::take(&mut socket)?;
    if !picture.steered.contains(&LOOPBACK_INDEX) {
        return Err(NetError::new(
            "look at lo",
            "it left the slots' filter block",
        ));
    }
    let slots = slots(home, number, &mut socket, &picture, remains)?;
    let host_ifindex = way_to_host(home, netns, &mut socket, &picture)?;
    Ok((host_ifindex, slots))
}

/// What a hub looks like from inside.
#[derive(Debug, Default)]
struct Picture {
    links: HashMap<u32, Link>,
    /// Links whose packets meet the filters of the slots' block.
    steered: HashSet<u32>,
}

/// What is to be known of a link.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) mac: Vec<u8>,
    pub(super) is_up: bool,
    pub(super) mtu: u32,
    is_veth: bool,
    pub(super) alias: Option<String>,
    group: u32,
    /// The other end: its interface index, and the number of its namespace in this one.
    peer: Option<u32>,
    peer_netns: Option<i32>,
}

impl Link {
    /// Whether it is one end of a pair, and `peer` the index of the other, wherever that is.
    pub(super) fn leads_to(&self, peer: u32) -> bool {
        self.is_veth && self.peer == Some(peer)
    }
}

impl Picture {
    fn take(socket: &mut Netlink) -> Result<Self, NetError> {
        let links = links(socket)?;
        let qdiscs = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        let steered = socket.dump("list qdiscs", qdiscs, |message| match message {
            RouteNetlinkMessage::NewQueueDiscipline(qdisc) => steered_link(&qdisc),
            _ => None,
        })?;
        Ok(Self {
            links,
            steered: steered.into_iter().collect(),
        })
    }
}

/// All links of the socket's namespace, by index.
pub(super) fn links(socket: &mut Netlink) -> Result<HashMap<u32, Link>, NetError> {
    let mut request = LinkMessage::default();
    let without_counters = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    request.attributes.push(without_counters);
    let request = RouteNetlinkMessage::GetLink(request);
    let links = socket.dump("list links", request, |message| match message {
        RouteNetlinkMessage::NewLink(message) => Some((message.header.index, read(message))),
        _ => None,
    })?;
    Ok(links.into_iter().collect())
}

/// One link of the socket's namespace, if there is such a link.
pub(super) fn link(socket: &mut Netlink, ifindex: u32) -> Result<Option<Link>, NetError> {
    let mut request = LinkMessage::default();
    request.header.index = ifindex;
    let mut batch = Batch::default();
    let request = RouteNetlinkMessage::GetLink(request);
    batch.add(format!("look at link {ifindex}"), 0, request);
    let answer = socket.ask(&mut batch)?.pop().flatten();
    Ok(answer.and_then(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(read(link)),
        _ => None,
    }))
}

fn read(message: LinkMessage) -> Link {
    let mut link = Link {
        is_up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Group(group) => link.group = group,
            LinkAttribute::Link(index) => link.peer = Some(index),
            LinkAttribute::LinkNetNsId(id) => link.peer_netns = Some(id),
            LinkAttribute::LinkInfo(info) => {
                link.is_veth = info.contains(&LinkInfo::Kind(InfoKind::Veth));
            }
            _ => {}
        }
    }
    link
}

/// The link of an ingress qdisc that has joined the slots' block.
fn steered_link(qdisc: &TcMessage) -> Option<u32> {
    let joined = qdisc.attributes.iter().any(
        |attribute| matches!(attribute, TcAttribute::Other(other) if tc::is_slot_block(other)),
    );
    (qdisc.header.parent == TcHandle::INGRESS && joined)
        .then_some(qdisc.header.index.cast_unsigned())
}

/// The interface index in the host of the hub's way there; [`NO_LINK`] unless both ends know each other. The
/// thread is in the host when this returns.
fn way_to_host(
    home: &Home,
    netns: &OwnedFd,
    socket: &mut Netlink,
    picture: &Picture,
) -> Result<u32, NetError> {
    let host = number_of_netns(socket, &home.netns)?;
    namespace::enter(&home.netns)?;
    let up0 = picture.links.get(&HUB_UPLINK_INDEX);
    let up0 = up0.filter(|up0| up0.is_veth && host.is_some() && up0.peer_netns == host);
    let Some(far) = up0.and_then(|up0| up0.peer) else {
        return Ok(NO_LINK);
    };
    let mut host = Netlink::open()?;
    let here = number_of_netns(&mut host, netns)?;
    let leads_here = link(&mut host, far)?
        .is_some_and(|link| link.leads_to(HUB_UPLINK_INDEX) && link.peer_netns == here);
    Ok(if leads_here { far } else { NO_LINK })
}

/// The number of a namespace in the socket's; `None` if it has none there.
fn number_of_netns(socket: &mut Netlink, netns: &OwnedFd) -> Result<Option<i32>, NetError> {
    let mut numbers = numbers_of(socket, &[netns])?;
    Ok(numbers.pop().flatten())
}

fn numbers_of(socket: &mut Netlink, namespaces: &[&OwnedFd]) -> Result<Vec<Option<i32>>, NetError> {
    let mut numbers = Vec::with_capacity(namespaces.len());
    for some in namespaces.chunks(NAMESPACES_AT_ONCE) {
        let mut batch = Batch::default();
        for netns in some {
            let mut message = NsidMessage::default();
            let fd = netns.as_fd().as_raw_fd().cast_unsigned();
            message.attributes.push(NsidAttribute::Fd(fd));
            let request = RouteNetlinkMessage::GetNsId(message);
            batch.add("ask for a namespace's number", 0, request);
        }
        let answers = socket.ask(&mut batch)?;
        numbers.extend(answers.into_iter().map(|answer| answer.and_then(number)));
    }
    Ok(numbers)
}

fn number(answer: RouteNetlinkMessage) -> Option<i32> {
    let RouteNetlinkMessage::NewNsId(message) = answer else {
        return None;
    };
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NsidAttribute::Id(id) if *id >= 0 => Some(*id),
            _ => None,
        })
}

/// Every slot of the hub of which a mount or a link is there.
fn slots(
    home: &Home,
    number: u32,
    socket: &mut Netlink,
    picture: &Picture,
    remains: &Remains,
) -> Result<Vec<FoundSlot>, NetError> {
    let look = |index: &u32| (*index, home.mounts.look(*index));
    let looked: Vec<_> = remains.slots.iter().map(look).collect();
    let first = number * SLOTS_PER_HUB;
    let shared = shared(&remains.shared);
    let share = |index| shared.get(&index).copied().unwrap_or_default();
    let nameless = (first..first + SLOTS_PER_HUB).filter(|index| !remains.slots.contains(index));
    let nameless = nameless.filter_map(|index| {
        let has_link = picture.links.contains_key(&(LINK_INDEX_BASE + index));
        let doubt = match has_link {
            true => "it has a link and no mount",
            false if shared.contains_key(&index) => "its network namespace is gone",
            false => return None,
        };
        Some(FoundSlot {
            index,
            netns: None,
            share: share(index),
            doubt: Some(doubt.to_owned()),
        })
    });
    let namespaces: Vec<&OwnedFd> = looked
        .iter()
        .filter_map(|(_, looked)| looked.as_ref().ok()?.netns.as_ref())
        .collect();
    let mut numbers = numbers_of(socket, &namespaces)?.into_iter();
    let mut found: Vec<_> = nameless.collect();
    for (index, looked) in looked {
        let (netns, doubt) = match looked {
            Ok(Looked { netns, doubt }) => {
                let here = netns.as_ref().and_then(|_| numbers.next().flatten());
                let of_link = netns
                    .as_ref()
                    .and_then(|_| self::doubt(picture, index, here));
                let doubt = doubt.map(str::to_owned);
                let doubt = doubt.or_else(|| of_link.map(|doubt| doubt.to_string()));
                (netns, doubt)
            }
            Err(error) => (None, Some(error.to_string())),
        };
        found.push(FoundSlot {
            index,
            netns,
            share: share(index),
            doubt,
        });
    }
    Ok(found)
}

/// What slots have mounted beside their network namespaces; those are named that have a mount point only.
fn shared(mounts: &[(SharedNamespace, PathBuf)]) -> HashMap<u32, Share> {
    let mut all = HashMap::<u32, Vec<SharedNamespace>>::new();
    for (kind, path) in mounts {
        if let Some(index) = sweep::number_of(path, "s") {
            let kinds = all.entry(index).or_default();
            kinds.extend(share::is_mounted(path).then_some(*kind));
        }
    }
    all.into_iter()
        .map(|(index, kinds)| (index, kinds.into()))
        .collect()
}

/// What is wrong with a slot's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkDoubt {
    Gone,
    /// It is another link.
    Elsewhere,
    /// It is the slot's, and not as it was made.
    Changed(&'static str),
    NotSteered,
}

impl fmt::Display for LinkDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "its link is gone",
            Self::Elsewhere => "its link does not lead to the namespace that is mounted",
            Self::Changed(how) => how,
            Self::NotSteered => "its link is not joined to the steering filter",
        })
    }
}

/// What is wrong with the link of the slot whose namespace is `netns`; `socket` is in its hub.
pub(super) fn link_doubt(
    socket: &mut Netlink,
    index: u32,
    netns: &OwnedFd,
) -> Result<Option<LinkDoubt>, NetError> {
    let picture = Picture::take(socket)?;
    let netns = number_of_netns(socket, netns)?;
    Ok(doubt(&picture, index, netns))
}

/// What is wrong with a slot whose namespace is mounted and has the number `netns` in the hub.
fn doubt(picture: &Picture, index: u32, netns: Option<i32>) -> Option<LinkDoubt> {
    let ifindex = LINK_INDEX_BASE + index;
    let Some(link) = picture.links.get(&ifindex) else {
        return Some(LinkDoubt::Gone);
    };
    let leads_there = link.leads_to(SLOT_LINK_INDEX) && link.peer_netns == netns;
    let changed = LinkDoubt::Changed;
    let complaints = [
        (!leads_there || netns.is_none(), LinkDoubt::Elsewhere),
        (
            link.name != slot_name(index),
            changed("its link has another name"),
        ),
        (
            link.mac != GATEWAY_MAC,
            changed("its link has another hardware address"),
        ),
        (
            link.group != link::SLOT_GROUP,
            changed("its link was about to be deleted"),
        ),
        (!link.is_up, changed("its link is down")),
        (!picture.steered.contains(&ifindex), LinkDoubt::NotSteered),
    ];
    let first = complaints.into_iter().find(|(is_wrong, _)| *is_wrong);
    first.map(|(_, complaint)| complaint)
}
