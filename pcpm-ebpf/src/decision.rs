//! What may pass, and where to: pure functions that the kernel programs call for every packet.
//!
//! No map and no helper is touched here. Flows and translation are in [`crate::nat`].

use crate::abi::{
    AttachmentWord, CLONE_MAC, Config, GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, SLOTS_PER_HUB, Uplink,
    slot_mac,
};
use crate::address::Address;
use crate::drop_reason::DropReason;
use crate::packet::{Family, Frame, Mac, PacketFields, Transport, TransportKind, protocol};
use crate::policy::is_link_local;

/// Where a slot's packet is to go, as far as its destination address tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Another slot (or the same).
    Slot(u32),
    /// The host, or the world through the host: the host's routing table knows.
    Host,
}

impl Config {
    /// The address of slot `index`, of the same version of IP.
    #[inline(always)]
    pub const fn slot_address(&self, index: u32, family: Family) -> Address {
        match family {
            Family::V4 => Address::v4(self.pool_base.wrapping_add(index)),
            Family::V6 => self.pool6.plus(index),
        }
    }

    /// The address that slot `index` has inside.
    #[inline(always)]
    pub const fn inner_address(&self, index: u32, family: Family) -> Address {
        match family {
            _ if !self.is_clone() => self.slot_address(index, family),
            Family::V4 => self.inner,
            Family::V6 => self.inner6,
        }
    }

    /// The hardware address of slot `index`.
    #[inline(always)]
    pub const fn slot_mac(&self, index: u32) -> [u8; 6] {
        if self.is_clone() {
            CLONE_MAC
        } else {
            slot_mac(index)
        }
    }

    /// Whether all slots have the same addresses inside, so that packets are rewritten at their edges.
    #[inline(always)]
    pub const fn is_clone(&self) -> bool {
        self.slots_are_clones != 0
    }

    /// Whether `address` lies in the pool's range.
    #[inline(always)]
    pub fn in_pool(&self, address: &Address) -> bool {
        if address.is_v4() {
            (address.low() ^ self.pool_base) & self.pool_mask == 0
        } else {
            self.has_ipv6() && address.is_within(&self.pool6, &self.pool6_mask)
        }
    }

    /// The slot that has `address`, if there is one.
    #[inline(always)]
    pub fn slot_of(&self, address: &Address) -> Option<u32> {
        let index = if address.is_v4() {
            address.low().wrapping_sub(self.pool_base)
        } else if self.has_ipv6() && address.differs_in_last_word_only(&self.pool6) {
            address.low()
        } else {
            return None;
        };
        if index < self.capacity {
            Some(index)
        } else {
            None
        }
    }

    /// Whether slots' packets of this version of IP leave for the world as they are, and answers come
    /// to the slots' own addresses.
    #[inline(always)]
    pub fn is_routed(&self, family: Family) -> bool {
        matches!(family, Family::V6) && self.ipv6_is_routed != 0
    }

    /// Whether what slots send to the world goes through the host's own stack, and answers come back
    /// through it.
    #[inline(always)]
    pub fn host_forwards(&self) -> bool {
        self.host_forwards != 0
    }

    /// Whether slots' packets of this version of IP leave the programs with the slots' own addresses.
    #[inline(always)]
    pub fn keeps_addresses(&self, family: Family) -> bool {
        self.host_forwards() || self.is_routed(family)
    }

    /// Whether slots have IPv6 addresses.
    #[inline(always)]
    pub fn has_ipv6(&self) -> bool {
        self.pool6 != Address::ANY
    }
}

impl Uplink {
    /// Its address of this version of IP, if it has one.
    #[inline(always)]
    pub fn address(&self, family: Family) -> Option<&Address> {
        let address = match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        if *address == Address::ANY {
            None
        } else {
            Some(address)
        }
    }
}

/// The hub that slot `index` hangs on.
#[inline(always)]
pub const fn hub_of(index: u32) -> u32 {
    index / SLOTS_PER_HUB
}

/// Whether a frame out of `slot` is addressed from the slot, and to its gateway.
///
/// # Errors
/// What is wrong with it.
#[inline(always)]
pub fn check_sender(config: &Config, slot: u32, frame: &Frame) -> Result<(), DropReason> {
    if frame.destination_mac != Mac::new(GATEWAY_MAC) {
        return Err(DropReason::WrongNextHop);
    }
    if frame.source_mac != Mac::new(config.slot_mac(slot)) {
        return Err(DropReason::SpoofedMac);
    }
    if !frame.is_v4() && !config.has_ipv6() {
        return Err(DropReason::Ipv6);
    }
    if frame.source != config.inner_address(slot, frame.family) {
        return Err(DropReason::SpoofedAddress);
    }
    Ok(())
}

/// Where a slot's packet for `address` is to go.
///
/// # Errors
/// The address is one that no slot may reach.
#[inline(always)]
pub fn destination(config: &Config, address: &Address) -> Result<Destination, DropReason> {
    if config.in_pool(address) {
        let slot = config.slot_of(address).ok_or(DropReason::NoSuchSlot)?;
        return Ok(Destination::Slot(slot));
    }
    if is_gateway(address) {
        return Ok(Destination::Host);
    }
    if address.is_v4() {
        ipv4_destination(address.low())
    } else {
        ipv6_destination(address)
    }
}

#[inline(always)]
const fn ipv4_destination(address: u32) -> Result<Destination, DropReason> {
    match address.to_be_bytes() {
        [169, 254, ..] => Err(DropReason::Metadata),
        [224..=239, ..] => Err(DropReason::Multicast),
        [255, 255, 255, 255] => Err(DropReason::Broadcast),
        [0 | 127 | 240.., ..] => Err(DropReason::Reserved),
        _ => Ok(Destination::Host),
    }
}

#[inline(always)]
const fn ipv6_destination(address: &Address) -> Result<Destination, DropReason> {
    let [first, second, ..] = address.0;
    match first.to_ne_bytes() {
        _ if is_link_local(address) => Err(DropReason::Metadata),
        [0xff, ..] => Err(DropReason::Multicast),
        [0, 0, 0, 0] if second == 0 => Err(DropReason::Reserved),
        _ => Ok(Destination::Host),
    }
}

/// Why a frame that is for no slot ends here. Hosts tell groups on each of their links what they listen to.
#[inline(always)]
pub fn for_nobody(frame: &Frame) -> DropReason {
    if frame.destination_mac.is_group() {
        DropReason::Multicast
    } else {
        DropReason::NoSuchSlot
    }
}

#[inline(always)]
fn is_gateway(address: &Address) -> bool {
    *address == const { Address::v4(GATEWAY_V4) } || *address == const { Address::v6(GATEWAY_V6) }
}

/// Whether a slot's frame is none of the messages by which IPv6 nodes on one link find each other.
/// Slots are alone on theirs, and have permanent entries for their gateway.
///
/// # Errors
/// Which one it is.
#[inline(always)]
pub fn check_discovery(
    packet: &(impl PacketFields + ?Sized),
    frame: &Frame,
) -> Result<(), DropReason> {
    if frame.protocol != protocol::ICMPV6 || frame.fragment.is_later() {
        return Ok(());
    }
    let [type_and_code] = packet
        .fields(frame.transport_offset)
        .ok_or(DropReason::Malformed)?;
    match type_and_code >> 8 {
        133 | 134 => Err(DropReason::RouterDiscovery),
        135 | 136 => Err(DropReason::NeighbourDiscovery),
        137 => Err(DropReason::Redirect),
        _ => Ok(()),
    }
}

/// Whether the holder of one slot may send to the holder of another.
///
/// # Errors
/// The receiver is held by nobody, or by another tenant.
#[inline(always)]
pub const fn check_tenants(
    sender: AttachmentWord,
    receiver: AttachmentWord,
) -> Result<(), DropReason> {
    if !receiver.is_attached() {
        Err(DropReason::DestinationDetached)
    } else if receiver.tenant() == sender.tenant() {
        Ok(())
    } else {
        Err(DropReason::OtherTenant)
    }
}

/// Whether a packet that an earlier hop authorised for the attachment `mark` may still be passed.
///
/// # Errors
/// No hop authorised it, or the slot has changed hands since.
#[inline(always)]
pub const fn check_mark(mark: u32, word: AttachmentWord) -> Result<(), DropReason> {
    if mark == 0 {
        Err(DropReason::NotAuthorised)
    } else if word.is_attached() && word.epoch() == mark {
        Ok(())
    } else {
        Err(DropReason::Stale)
    }
}

/// The time to live of a packet that the host forwards, if it has any left.
#[inline(always)]
pub const fn next_ttl(ttl: u8) -> Option<u8> {
    match ttl {
        0 | 1 => None,
        _ => Some(ttl - 1),
    }
}

/// Whether a slot's packet is a ping of its gateway, which needs no flow.
#[inline(always)]
pub fn is_gateway_ping(frame: &Frame, transport: &Transport) -> bool {
    is_gateway(&frame.destination) && transport.kind == TransportKind::EchoRequest
}
