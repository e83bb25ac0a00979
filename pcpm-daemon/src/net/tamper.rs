//! Hears what tenants change in their slots, at the moment they do: the kernel tells a socket in a hub of
//! changes in all namespaces that the hub knows by a number (`NETLINK_LISTEN_ALL_NSID`, 4.2).
//!
//! A slot whose tenant changed it is marked until it is looked at anew from before anybody was in it.
#![expect(
    unsafe_code,
    reason = "recvmsg with this control message has no safe wrapper"
)]

use std::collections::{HashMap, hash_map::Entry};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_XFRM};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pcpm_ebpf::abi::{LINK_INDEX_BASE, SLOTS_PER_HUB};

use super::error::{During as _, NetError};
use super::raw::{Ask, RawNetlink, attributes, next_message};
use super::{Hub, golden, hub_of, namespace};

/// Of linux/rtnetlink.h: links, neighbours, tc, addresses, routes and rules of both families, multicast
/// routes, settings, prefixes, numbers of namespaces, next hops.
const ROUTE_GROUPS: &[u32] = &[
    1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 18, 19, 24, 25, 26, 28, 32,
];
/// `NFNLGRP_NFTABLES` of linux/netfilter/nfnetlink.h.
const NETFILTER_GROUPS: &[u32] = &[7];
/// `XFRMNLGRP_SA` and `XFRMNLGRP_POLICY` of linux/xfrm.h.
const XFRM_GROUPS: &[u32] = &[3, 4];

/// Room for notifications: a burst of new slots is thousands of them.
const ROOM_BYTES: u32 = 8 << 20;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFINFO_LEN: usize = 16;

/// A change that a tenant made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tampered {
    pub(crate) slot: u32,
    /// What was changed, in words.
    pub(crate) how: String,
}

/// The watch over the slots of all hubs.
pub(crate) struct TamperWatch {
    ears: Vec<Ear>,
    known: Mutex<Known>,
}

/// A socket in a hub.
struct Ear {
    hub: u32,
    protocol: isize,
    socket: Socket,
}

#[derive(Debug, Default)]
struct Known {
    /// By hub and the number that it knows the slot's namespace by.
    slots: HashMap<(u32, i32), u32>,
    /// How marked slots were changed first.
    marks: HashMap<u32, String>,
    /// Marks that nobody was told of.
    untold: Vec<Tampered>,
}

impl TamperWatch {
    /// Begins to listen in all hubs.
    pub(super) fn listen(hubs: &[Hub]) -> Result<Self, NetError> {
        let mut ears = Vec::new();
        let mut known = Known::default();
        for hub in hubs {
            let heard = namespace::in_thread(|| listen_in(hub));
            let (new, slots) = heard.map_err(|error| error.of(&format!("hub {}", hub.number)))?;
            ears.extend(new);
            known.slots.extend(slots);
        }
        Ok(Self {
            ears,
            known: Mutex::new(known),
        })
    }

    /// Blocks until tenants change their slots, and says which.
    pub(crate) fn wait(&self) -> Result<Vec<Tampered>, NetError> {
        let mut polled: Vec<_> = self
            .ears
            .iter()
            .map(|ear| PollFd::new(ear.socket.as_fd(), PollFlags::POLLIN))
            .collect();
        loop {
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).during(|| "wait for changes of slots".to_owned()),
            }
            let mut known = self.hear(|_| true)?;
            if !known.untold.is_empty() {
                return Ok(std::mem::take(&mut known.untold));
            }
        }
    }

    /// How the slot was changed, if it was until now.
    pub(super) fn mark(&self, slot: u32) -> Result<Option<String>, NetError> {
        let known = self.hear(|hub| hub == hub_of(slot))?;
        Ok(known.marks.get(&slot).cloned())
    }

    /// Forgets how a slot was changed that is looked at anew.
    pub(super) fn begin(&self, slot: u32) -> Result<(), NetError> {
        let mut known = self.hear(|hub| hub == hub_of(slot))?;
        known.marks.remove(&slot);
        known.untold.retain(|tampered| tampered.slot != slot);
        Ok(())
    }

    /// Takes all that the kernel has told in these hubs until now: it tells before a change is answered.
    fn hear(&self, of: impl Fn(u32) -> bool) -> Result<MutexGuard<'_, Known>, NetError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for ear in self.ears.iter().filter(|ear| of(ear.hub)) {
            ear.hear(&mut known)
                .during(|| format!("hear of changes in the slots of hub {}", ear.hub))?;
        }
        Ok(known)
    }
}

type Heard = (Vec<Ear>, Vec<((u32, i32), u32)>);

/// Opens the sockets, and then learns the slots that are there already.
fn listen_in(hub: &Hub) -> Result<Heard, NetError> {
    namespace::enter(&hub.netns)?;
    let groups = [
        (NETLINK_ROUTE, ROUTE_GROUPS),
        (NETLINK_NETFILTER, NETFILTER_GROUPS),
        (NETLINK_XFRM, XFRM_GROUPS),
    ];
    let open = |(protocol, groups): (isize, &[u32])| -> io::Result<Ear> {
        let mut socket = Socket::new(protocol)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.set_rx_buf_sz(ROOM_BYTES)?;
        socket.set_listen_all_namespaces(true)?;
        socket.set_non_blocking(true)?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        Ok(Ear {
            hub: hub.number,
            protocol,
            socket,
        })
    };
    let ears = groups.into_iter().map(open).collect::<io::Result<_>>();
    let ears = ears.during(|| "listen for changes of slots".to_owned())?;
    let slots = present_slots(hub.number).during(|| "list the slots' links".to_owned())?;
    Ok((ears, slots))
}

fn present_slots(hub: u32) -> io::Result<Vec<((u32, i32), u32)>> {
    let links = [0; IFINFO_LEN];
    let mut socket = RawNetlink::open(NETLINK_ROUTE)?;
    socket.ask(
        Ask::Table,
        RTM_GETLINK,
        &links,
        Vec::new,
        |slots, _, message| {
            slots.extend(slot_and_number(hub, message));
        },
    )
}

/// The slot behind a link of the hub, and the number of its namespace there.
fn slot_and_number(hub: u32, link: &[u8]) -> Option<((u32, i32), u32)> {
    let (header, rest) = link.split_at_checked(IFINFO_LEN)?;
    let index = u32::from_ne_bytes(*header[4..].first_chunk()?);
    let slot = index.checked_sub(LINK_INDEX_BASE)?;
    let number = attributes(rest).find_map(|(kind, value)| {
        (kind == IFLA_LINK_NETNSID).then(|| value.first_chunk().copied())?
    })?;
    (hub_of(slot) == hub).then(|| ((hub, i32::from_ne_bytes(number)), slot))
}

impl Ear {
    /// Reads until there is nothing left.
    fn hear(&self, known: &mut Known) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match receive(&self.socket, &mut buffer) {
                Ok((length, number)) => known.take(self, &buffer[..length], number),
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => known.lost(self.hub),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Known {
    fn take(&mut self, ear: &Ear, mut messages: &[u8], number: Option<i32>) {
        while let Some((header, payload, after)) = next_message(messages) {
            messages = after;
            match number {
                Some(_) if is_of_the_kernel(ear.protocol, header.kind, payload) => {}
                Some(number) => {
                    if let Some(&slot) = self.slots.get(&(ear.hub, number)) {
                        self.mark(slot, what_changed(ear.protocol, header.kind));
                    }
                }
                None if header.kind == RTM_NEWLINK && ear.protocol == NETLINK_ROUTE => {
                    self.slots.extend(slot_and_number(ear.hub, payload));
                }
                None => {}
            }
        }
    }

    /// Nobody knows whose changes were lost.
    fn lost(&mut self, hub: u32) {
        let first = hub * SLOTS_PER_HUB;
        for slot in first..first + SLOTS_PER_HUB {
            self.mark(slot, "nobody heard what it changed");
        }
    }

    fn mark(&mut self, slot: u32, how: &str) {
        if let Entry::Vacant(unmarked) = self.marks.entry(slot) {
            let how = unmarked.insert(how.to_owned()).clone();
            self.untold.push(Tampered { slot, how });
        }
    }
}

/// Whether it is about what the kernel does by itself: it collects neighbours that it has made, also long after
/// anybody used them, once there are more than 128 on the machine.
fn is_of_the_kernel(protocol: isize, kind: u16, payload: &[u8]) -> bool {
    const RTM_NEWNEIGH: u16 = 28;
    const RTM_DELNEIGH: u16 = 29;
    protocol == NETLINK_ROUTE
        && matches!(kind, RTM_NEWNEIGH | RTM_DELNEIGH)
        && golden::is_of_the_kernel(payload)
}

/// What a notification is about.
fn what_changed(protocol: isize, kind: u16) -> &'static str {
    match (protocol, kind) {
        (NETLINK_NETFILTER, _) => "it changed nftables",
        (NETLINK_XFRM, _) => "it changed xfrm states or policies",
        (_, 16..=19) => "it changed a link",
        (_, 20..=23) => "it changed an address",
        (_, 24..=27) => "it changed a route",
        (_, 28..=31) => "it changed a neighbour",
        (_, 32..=35) => "it changed a rule",
        (_, 36..=51 | 100..=103) => "it changed traffic control",
        (_, 80..=83) => "it changed a setting",
        (_, 88..=91) => "it changed the number of a namespace",
        (_, 104..=107) => "it changed a next hop",
        _ => "it changed its configuration",
    }
}

/// Receives a notification, and the number of the namespace that it comes from if that is not the
/// socket's own.
fn receive(socket: &Socket, buffer: &mut [u8]) -> nix::Result<(usize, Option<i32>)> {
    const SOL_NETLINK: libc::c_int = 270;
    const NETLINK_LISTEN_ALL_NSID: libc::c_int = 8;
    let mut control = [0_u64; 8];
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all fields of the structure may be zero.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the message names buffers that outlive the call, with their lengths.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let length = usize::try_from(Errno::result(length)?).unwrap_or_default();
    let mut number = None;
    // SAFETY: the kernel filled in the control messages and their length.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(&raw const message);
        while !next.is_null() {
            if (*next).cmsg_level == SOL_NETLINK && (*next).cmsg_type == NETLINK_LISTEN_ALL_NSID {
                number = Some(libc::CMSG_DATA(next).cast::<i32>().read_unaligned());
            }
            next = libc::CMSG_NXTHDR(&raw const message, next);
        }
    }
    Ok((length, number))
}

#[cfg(test)]
mod tests {
    use super::super::raw::push_attribute;
    use super::*;

    fn link(index: u32, number: Option<i32>) -> Vec<u8> {
        let mut message = vec![0; 4];
        message.extend(index.to_ne_bytes());
        message.resize(IFINFO_LEN, 0);
        if let Some(number) = number {
            push_attribute(&mut message, IFLA_LINK_NETNSID, &number.to_ne_bytes());
        }
        message
    }

    #[test]
    fn a_slots_number_is_learned_from_its_link_in_the_hub() {
        let slot = |index, number| slot_and_number(1, &link(index, number));
        assert_eq!(slot(LINK_INDEX_BASE + 513, Some(7)), Some(((1, 7), 513)));
        assert_eq!(slot(LINK_INDEX_BASE + 513, None), None);
        assert_eq!(slot(2, Some(7)), None);
        // A link of that index in another hub is none of ours.
        assert_eq!(slot(LINK_INDEX_BASE + 3, Some(7)), None);
    }

    #[test]
    fn a_neighbour_that_the_kernel_collects_is_no_change_of_the_tenants() {
        let neighbour = |hardware: [u8; 6]| {
            let mut message = vec![0; 4];
            message.extend(2_u32.to_ne_bytes());
            message.extend([0x40, 0, 0, 0]);
            push_attribute(&mut message, 1, &[224, 0, 0, 22]);
            push_attribute(&mut message, 2, &hardware);
            message
        };
        let collected = neighbour([1, 0, 0x5e, 0, 0, 22]);
        assert!(is_of_the_kernel(NETLINK_ROUTE, 29, &collected));
        assert!(!is_of_the_kernel(NETLINK_ROUTE, 24, &collected));
        assert!(!is_of_the_kernel(NETLINK_ROUTE, 29, &neighbour([2; 6])));
    }

    #[test]
    fn a_slot_is_told_of_once_and_lost_notifications_mark_the_hub() {
        let mut known = Known::default();
        known.mark(600, "it changed a link");
        known.mark(600, "it changed a route");
        assert_eq!(known.untold.len(), 1);
        known.lost(1);
        assert_eq!(known.untold.len(), SLOTS_PER_HUB as usize);
        assert_eq!(known.marks[&600], "it changed a link");
        assert!(!known.marks.contains_key(&3));
    }
}
