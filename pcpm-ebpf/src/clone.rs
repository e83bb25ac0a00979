//! Slots that all have the same inner address, as restored processes and virtual machines want it: each is
//! told apart by its link, and known to everybody else by its identity, its own address of the pool.
//!
//! The one is put in the place of the other where packets leave the slot and where they are delivered to it,
//! without any state. Whatever stands between knows of identities only.

use crate::address::Address;
use crate::drop_reason::DropReason;
use crate::icmp_error::QuotedAddresses;
use crate::packet::Frame;
use crate::rewrite::{self, PacketEditor};

/// Makes what a slot sends come from its `identity`. An error by the slot, which has a `quoted` packet, quotes
/// what was delivered to its inner address.
///
/// # Errors
/// [`DropReason::InnerAddress`] for what goes to the inner address, which means the slot itself;
/// [`DropReason::Rewrite`] where the packet ends before its checksum.
#[inline(always)]
pub fn leave(
    packet: &impl PacketEditor,
    frame: &Frame,
    quoted: Option<&QuotedAddresses>,
    identity: &Address,
) -> Result<(), DropReason> {
    if frame.destination == frame.source {
        return Err(DropReason::InnerAddress);
    }
    if let Some(quoted) = quoted
        && quoted.destination == frame.source
    {
        rewrite::quoted_destination_address(packet, frame, quoted, identity)?;
    }
    rewrite::source_address(packet, frame, identity)
}

/// Makes what is for the slot with this `identity` go to its `inner` address. An error for the slot, which
/// has a `quoted` packet, quotes what its identity sent. `frame` may be older than the packet's destination.
///
/// # Errors
/// [`DropReason::Rewrite`] where the packet ends before its checksum.
#[inline(always)]
pub fn enter(
    packet: &impl PacketEditor,
    frame: &Frame,
    quoted: Option<&QuotedAddresses>,
    identity: &Address,
    inner: &Address,
) -> Result<(), DropReason> {
    if let Some(quoted) = quoted
        && quoted.source == *identity
    {
        rewrite::quoted_source_address(packet, frame, quoted, inner)?;
    }
    rewrite::destination_address(packet, frame, identity, inner)
}
