//! What may pass, and where to: pure functions that the kernel programs call for every packet.
//!
//! No map and no helper is touched here. Flows and translation are in [`crate::nat`].

use crate::abi::{AttachmentWord, Config, GATEWAY_MAC, GATEWAY_V4, SLOTS_PER_HUB, slot_mac};
use crate::address::Address;
use crate::drop_reason::DropReason;
use crate::packet::{Frame, Mac, Transport, TransportKind};

const GATEWAY: Address = Address::v4(GATEWAY_V4);

/// Where a slot's packet is to go, as far as its destination address tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Another slot (or the same).
    Slot(u32),
    /// The host, or the world through the host: the host's routing table knows.
    Host,
}

impl Config {
    /// The address of slot `index`.
    #[inline(always)]
    pub const fn slot_address(&self, index: u32) -> Address {
        Address::v4(self.pool_base.wrapping_add(index))
    }

    /// Whether `address` lies in the pool's range.
    #[inline(always)]
    pub const fn in_pool(&self, address: &Address) -> bool {
        address.is_v4() && (address.low() ^ self.pool_base) & self.pool_mask == 0
    }

    /// The slot that has `address`, if there is one.
    #[inline(always)]
    pub const fn slot_of(&self, address: &Address) -> Option<u32> {
        let index = address.low().wrapping_sub(self.pool_base);
        if address.is_v4() && index < self.capacity {
            Some(index)
        } else {
            None
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
    if frame.source_mac != Mac::new(slot_mac(slot)) {
        return Err(DropReason::SpoofedMac);
    }
    if frame.source != config.slot_address(slot) {
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
    if *address == GATEWAY {
        return Ok(Destination::Host);
    }
    match address.low().to_be_bytes() {
        [169, 254, ..] => Err(DropReason::Metadata),
        [224..=239, ..] => Err(DropReason::Multicast),
        [255, 255, 255, 255] => Err(DropReason::Broadcast),
        [0 | 127 | 240.., ..] => Err(DropReason::Reserved),
        _ => Ok(Destination::Host),
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
    frame.destination == GATEWAY && transport.kind == TransportKind::EchoRequest
}
