//! Changing headers for translation: addresses, ports, and whatever checksums cover them.
//!
//! Checksums are never computed anew. Here stands which of them a change is told to; how one takes it in
//! is the business of a [`PacketEditor`]: in the kernel that of its helpers, which know the states a
//! packet's checksum can be in (computed, left to the device, GSO).

use crate::address::Address;
use crate::drop_reason::DropReason;
use crate::icmp_error::{Quote, QuotedAddresses};
use crate::nat::Endpoint;
use crate::packet::{
    CHECKSUM_IN_ICMP, CHECKSUM_IN_IP, CHECKSUM_IN_TCP, CHECKSUM_IN_UDP, DESTINATION_IN_IP,
    DESTINATION_IN_IPV6, DO_NOT_FRAGMENT, ETHERNET_LENGTH, FRAGMENT_FLAGS_OFFSET, Family, Frame,
    HOP_LIMIT_OFFSET, IP_CHECKSUM_OFFSET, PacketFields, SOURCE_IN_IP, SOURCE_IN_IPV6, TTL_OFFSET,
    Transport, TransportKind, covering_checksum, protocol,
};

/// Flag of [`PacketEditor::replace_transport_checksum`]: the change is one of the pseudo header, so it
/// also counts where the rest of the checksum is left to the device (`BPF_F_PSEUDO_HDR`).
pub const PSEUDO_HEADER: u64 = 0x10;
/// Flag of [`PacketEditor::replace_transport_checksum`]: a checksum of 0 means that there is none, and
/// one that comes out as 0 is sent as 0xffff (`BPF_F_MARK_MANGLED_0`).
pub const KEEP_NONE: u64 = 0x20;

/// A packet whose bytes can be changed. Values for checksums are as they stand in memory.
pub trait PacketEditor: PacketFields {
    /// Overwrites bytes; checksums are the caller's business.
    ///
    /// # Errors
    /// [`DropReason::Rewrite`] where the packet ends before; so do the others.
    fn store<T: Field>(&self, offset: u32, value: &T) -> Result<(), DropReason>;

    /// Overwrites bytes that no checksum in the packet covers, only what the device may have computed.
    ///
    /// # Errors
    /// As [`store`](Self::store).
    fn store_summed<T: Field>(&self, offset: u32, value: &T) -> Result<(), DropReason>;

    /// What a change of an address does to a checksum that covers it.
    fn difference(&self, from: &Address, to: &Address) -> u64;

    /// Leaves what the device computed over the whole packet as it was before a transport checksum was
    /// changed by `difference`.
    fn keep_received_sum(&self, difference: u64);

    /// Updates the checksum at `offset` for a change of a field of `size` bytes, or by the difference
    /// `to` if `size` is 0. What the device computed is left alone.
    ///
    /// # Errors
    /// As [`store`](Self::store).
    fn replace_ip_checksum(
        &self,
        offset: u32,
        from: u64,
        to: u64,
        size: u64,
    ) -> Result<(), DropReason>;

    /// Updates a transport checksum likewise; `flags` are the size, [`PSEUDO_HEADER`] and [`KEEP_NONE`].
    ///
    /// # Errors
    /// As [`store`](Self::store).
    fn replace_transport_checksum(
        &self,
        offset: u32,
        from: u64,
        to: u64,
        flags: u64,
    ) -> Result<(), DropReason>;
}

/// A value as it stands in a header.
pub trait Field {
    /// Writes it into the first bytes of `place`.
    fn put(&self, place: &mut [u8]);
}

macro_rules! fields {
    ($($number:ty)*) => {$(
        impl Field for $number {
            fn put(&self, place: &mut [u8]) {
                place[..size_of::<Self>()].copy_from_slice(&self.to_ne_bytes());
            }
        }
    )*};
}

fields!(u8 u16 u32);

impl Field for Address {
    fn put(&self, place: &mut [u8]) {
        place[..size_of::<Self>()].copy_from_slice(&self.octets());
    }
}

impl Field for [u32; 3] {
    fn put(&self, place: &mut [u8]) {
        for (word, place) in self.iter().zip(place.chunks_exact_mut(4)) {
            word.put(place);
        }
    }
}

/// Says that no router may take the packet apart.
///
/// # Errors
/// [`DropReason::Rewrite`] where the packet ends before.
#[inline(always)]
pub fn forbid_fragments(packet: &impl PacketEditor) -> Result<(), DropReason> {
    let [flags] = packet
        .fields(FRAGMENT_FLAGS_OFFSET)
        .ok_or(DropReason::Malformed)?;
    let forbidden: u16 = flags | DO_NOT_FRAGMENT;
    let (old, new) = (in_memory(flags), in_memory(forbidden));
    packet.replace_ip_checksum(IP_CHECKSUM_OFFSET, old, new, 2)?;
    packet.store(FRAGMENT_FLAGS_OFFSET, &forbidden.to_be())
}

/// Makes the packet come from `to`, with `ttl` for its time to live, or hop limit.
///
/// # Errors
/// [`DropReason::Rewrite`] where the packet ends before.
#[inline(always)]
pub fn source(
    packet: &impl PacketEditor,
    frame: &Frame,
    transport: &Transport,
    to: &Endpoint,
    ttl: u8,
) -> Result<(), DropReason> {
    let checksum = Checksum::of(frame, transport.kind);
    cover_address(packet, &checksum, &frame.source, &to.address)?;
    ip_source(packet, frame, &to.address, ttl)?;
    let offset = frame.transport_offset + source_port_offset(transport.kind);
    change_port(packet, &checksum, offset, transport.source_port, to.port)
}

/// Makes the packet go to `to`.
///
/// # Errors
/// [`DropReason::Rewrite`] where the packet ends before.
#[inline(always)]
pub fn destination(
    packet: &impl PacketEditor,
    frame: &Frame,
    transport: &Transport,
    to: &Endpoint,
) -> Result<(), DropReason> {
    let checksum = Checksum::of(frame, transport.kind);
    cover_address(packet, &checksum, &frame.destination, &to.address)?;
    ip_destination(packet, frame, &to.address)?;
    let offset = frame.transport_offset + destination_port_offset(transport.kind);
    change_port(
        packet,
        &checksum,
        offset,
        transport.destination_port,
        to.port,
    )
}

/// Makes a packet without a transport header come from `to`, with `ttl` for its time to live, or hop limit.
///
/// # Errors
/// [`DropReason::Rewrite`] where the packet ends before.
#[inline(always)]
pub fn ip_source(
    packet: &impl PacketEditor,
    frame: &Frame,
    to: &Address,
    ttl: u8,
) -> Result<(), DropReason> {
    if !frame.is_v4() {
        packet.store(ETHERNET_LENGTH + SOURCE_IN_IPV6, to)?;
        return packet.store_summed(HOP_LIMIT_OFFSET, &ttl);
    }
    let lives = |ttl| u16::from_ne_bytes([ttl, frame.protocol]).into();
    let sum = replaced(!frame.ip_checksum, lives(frame.ttl), lives(ttl));
    let sum = replaced(sum, frame.source.0[3], to.0[3]);
    store_ipv4(packet, [ttl, frame.protocol], sum, to, &frame.destination)
}

/// Makes a packet without a transport header go to `to`.
///
/// # Errors
/// [`DropReason::Rewrite`] where the packet ends before.
#[inline(always)]
pub fn ip_destination(
    packet: &impl PacketEditor,
    frame: &Frame,
    to: &Address,
) -> Result<(), DropReason> {
    if !frame.is_v4() {
        return packet.store(ETHERNET_LENGTH + DESTINATION_IN_IPV6, to);
    }
    let sum = replaced(!frame.ip_checksum, frame.destination.0[3], to.0[3]);
    store_ipv4(packet, [frame.ttl, frame.protocol], sum, &frame.source, to)
}

/// Makes an error come from `to`, with `ttl` for its time to live, or hop limit.
///
/// # Errors
/// [`DropReason::Rewrite`] where the packet ends before.
#[inline(always)]
pub fn error_source(
    packet: &impl PacketEditor,
    frame: &Frame,
    to: &Address,
    ttl: u8,
) -> Result<(), DropReason> {
    cover_address(packet, &Checksum::of_error(frame), &frame.source, to)?;
    ip_source(packet, frame, to, ttl)
}

/// Makes an error go to `to`.
///
/// # Errors
/// [`DropReason::Rewrite`] where the packet ends before.
#[inline(always)]
pub fn error_destination(
    packet: &impl PacketEditor,
    frame: &Frame,
    to: &Address,
) -> Result<(), DropReason> {
    cover_address(packet, &Checksum::of_error(frame), &frame.destination, to)?;
    ip_destination(packet, frame, to)
}

/// Makes any packet come from `to`, whatever it carries.
///
/// # Errors
/// [`DropReason::Rewrite`] where the packet ends before its checksum.
#[inline(always)]
pub fn source_address(
    packet: &impl PacketEditor,
    frame: &Frame,
    to: &Address,
) -> Result<(), DropReason> {
    cover_any_address(packet, frame, &frame.source, to)?;
    ip_source(packet, frame, to, frame.ttl)
}

/// Makes any packet, which goes to `from` now, go to `to`, whatever it carries. `frame` may be older than its
/// destination.
///
/// # Errors
/// [`DropReason::Rewrite`] where the packet ends before its checksum.
#[inline(always)]
pub fn destination_address(
    packet: &impl PacketEditor,
    frame: &Frame,
    from: &Address,
    to: &Address,
) -> Result<(), DropReason> {
    cover_any_address(packet, frame, from, to)?;
    let place = destination_at(frame.family, ETHERNET_LENGTH);
    change_address(packet, place, from, to)
}

/// Makes the packet that an error quotes come from `to`.
///
/// # Errors
/// [`DropReason::Rewrite`] where the packet ends before.
#[inline(always)]
pub fn quoted_source(
    packet: &impl PacketEditor,
    frame: &Frame,
    quote: &Quote,
    to: &Endpoint,
) -> Result<(), DropReason> {
    quoted_source_address(packet, frame, &quote.addresses(), &to.address)?;
    quoted_port_sums(packet, frame, quote, quote.transport.source_port, to.port)?;
    let offset = quote.transport_offset + source_port_offset(quote.transport.kind);
    packet.store(offset, &to.port.to_be())
}

/// Makes the packet that an error quotes go to `to`.
///
/// # Errors
/// [`DropReason::Rewrite`] where the packet ends before.
#[inline(always)]
pub fn quoted_destination(
    packet: &impl PacketEditor,
    frame: &Frame,
    quote: &Quote,
    to: &Endpoint,
) -> Result<(), DropReason> {
    quoted_destination_address(packet, frame, &quote.addresses(), &to.address)?;
    let from = quote.transport.destination_port;
    quoted_port_sums(packet, frame, quote, from, to.port)?;
    let offset = quote.transport_offset + destination_port_offset(quote.transport.kind);
    packet.store(offset, &to.port.to_be())
}

/// Makes the packet that an error quotes come from `to`, by the port that it came from.
///
/// # Errors
/// [`DropReason::Rewrite`] where the packet ends before.
#[inline(always)]
pub fn quoted_source_address(
    packet: &impl PacketEditor,
    frame: &Frame,
    quoted: &QuotedAddresses,
    to: &Address,
) -> Result<(), DropReason> {
    let place = source_at(quoted.family, quoted.ip_offset);
    change_address(packet, place, &quoted.source, to)?;
    quoted_address_sums(packet, frame, quoted, &quoted.source, to)
}

/// Makes the packet that an error quotes go to `to`, to the port that it went to.
///
/// # Errors
/// [`DropReason::Rewrite`] where the packet ends before.
#[inline(always)]
pub fn quoted_destination_address(
    packet: &impl PacketEditor,
    frame: &Frame,
    quoted: &QuotedAddresses,
    to: &Address,
) -> Result<(), DropReason> {
    let place = destination_at(quoted.family, quoted.ip_offset);
    change_address(packet, place, &quoted.destination, to)?;
    quoted_address_sums(packet, frame, quoted, &quoted.destination, to)
}

/// Updates the quoted checksum, if the quote holds one that covers the addresses, and that of the error around
/// it, for a change of a quoted address.
///
/// The latter covers all of the quote. Where a field and a checksum that covers it change within the
/// quote, the sum over both stays; only what is not made up for in the quote counts:
///
/// - IPv4: the address when there is such a checksum, which carries its change as well as the IP header's
///   checksum does;
/// - IPv6, whose header has no checksum: the address when there is none.
#[inline(always)]
fn quoted_address_sums(
    packet: &impl PacketEditor,
    frame: &Frame,
    quoted: &QuotedAddresses,
    from: &Address,
    to: &Address,
) -> Result<(), DropReason> {
    let outer = frame.transport_offset + CHECKSUM_IN_ICMP;
    let difference = packet.difference(from, to);
    let is_v4 = matches!(quoted.family, Family::V4);
    if quoted.checksum_offset == 0 {
        return if is_v4 {
            Ok(())
        } else {
            packet.replace_transport_checksum(outer, 0, difference, 0)
        };
    }
    // The helper for IP headers adds up, without regard to what the device may still have to do.
    packet.replace_ip_checksum(quoted.checksum_offset, 0, difference, 0)?;
    if is_v4 {
        packet.replace_transport_checksum(outer, ipv4(to), ipv4(from), 4)
    } else {
        Ok(())
    }
}

/// Updates the quoted transport checksum, if it is in the quote, or else that of the error around it, for a
/// change of a quoted port.
#[inline(always)]
fn quoted_port_sums(
    packet: &impl PacketEditor,
    frame: &Frame,
    quote: &Quote,
    from: u16,
    to: u16,
) -> Result<(), DropReason> {
    let (old, new) = (in_memory(from), in_memory(to));
    if quote.checksum_offset == 0 {
        let outer = frame.transport_offset + CHECKSUM_IN_ICMP;
        return packet.replace_transport_checksum(outer, old, new, 2);
    }
    packet.replace_ip_checksum(quote.checksum_offset, old, new, 2)
}

/// Where the transport checksum is, and what it covers.
struct Checksum {
    offset: u32,
    covers_addresses: bool,
    flags: u64,
}

impl Checksum {
    #[inline(always)]
    fn of(frame: &Frame, kind: TransportKind) -> Self {
        let (offset, covers_addresses, flags) = match kind {
            TransportKind::Tcp => (CHECKSUM_IN_TCP, true, 0),
            // A UDP checksum of 0 means none, and one that comes out as 0 is sent as 0xffff.
            TransportKind::Udp => (CHECKSUM_IN_UDP, true, KEEP_NONE),
            TransportKind::EchoRequest | TransportKind::EchoReply => {
                (CHECKSUM_IN_ICMP, !frame.is_v4(), 0)
            }
        };
        Self {
            offset: frame.transport_offset + offset,
            covers_addresses,
            flags,
        }
    }

    #[inline(always)]
    fn of_error(frame: &Frame) -> Self {
        Self {
            offset: frame.transport_offset + CHECKSUM_IN_ICMP,
            covers_addresses: !frame.is_v4(),
            flags: 0,
        }
    }
}

/// Updates whatever checksum covers the addresses besides that of the header for a change of one of them.
#[inline(always)]
fn cover_any_address(
    packet: &impl PacketEditor,
    frame: &Frame,
    from: &Address,
    to: &Address,
) -> Result<(), DropReason> {
    match covering_checksum(frame.family, frame.protocol) {
        Some(offset) if !frame.fragment.is_later() => {
            let checksum = Checksum {
                offset: frame.transport_offset + offset,
                covers_addresses: true,
                flags: match frame.protocol {
                    protocol::UDP => KEEP_NONE,
                    _ => 0,
                },
            };
            cover_address(packet, &checksum, from, to)
        }
        _ => Ok(()),
    }
}

/// Updates the transport checksum for a change of one of the addresses.
#[inline(always)]
fn cover_address(
    packet: &impl PacketEditor,
    checksum: &Checksum,
    from: &Address,
    to: &Address,
) -> Result<(), DropReason> {
    if !checksum.covers_addresses {
        return Ok(());
    }
    let flags = checksum.flags | PSEUDO_HEADER;
    if from.is_v4() {
        return packet.replace_transport_checksum(checksum.offset, ipv4(from), ipv4(to), flags | 4);
    }
    let difference = packet.difference(from, to);
    packet.replace_transport_checksum(checksum.offset, 0, difference, flags)?;
    packet.keep_received_sum(difference);
    Ok(())
}

/// Where the source address is of an IP header at `offset`.
#[inline(always)]
const fn source_at(family: Family, offset: u32) -> (u32, u32) {
    match family {
        Family::V4 => (offset, offset + SOURCE_IN_IP),
        Family::V6 => (offset, offset + SOURCE_IN_IPV6),
    }
}

/// Where the destination address is of an IP header at `offset`.
#[inline(always)]
const fn destination_at(family: Family, offset: u32) -> (u32, u32) {
    match family {
        Family::V4 => (offset, offset + DESTINATION_IN_IP),
        Family::V6 => (offset, offset + DESTINATION_IN_IPV6),
    }
}

/// Changes an address in an IP header, and its checksum if it has one. `place` is where the header
/// and the address begin.
#[inline(always)]
fn change_address(
    packet: &impl PacketEditor,
    place: (u32, u32),
    from: &Address,
    to: &Address,
) -> Result<(), DropReason> {
    let (header, field) = place;
    if !from.is_v4() {
        return packet.store(field, to);
    }
    packet.replace_ip_checksum(header + CHECKSUM_IN_IP, ipv4(from), ipv4(to), 4)?;
    packet.store(field, &to.0[3])
}

/// Writes an IPv4 header from the time to live to the addresses: one call of a helper, where each field and
/// what it does to the checksum are two. `sum` is what the checksum is the complement of.
#[inline(always)]
fn store_ipv4(
    packet: &impl PacketEditor,
    [ttl, protocol]: [u8; 2],
    sum: u16,
    source: &Address,
    destination: &Address,
) -> Result<(), DropReason> {
    let [first, second] = (!sum).to_ne_bytes();
    let words = [
        u32::from_ne_bytes([ttl, protocol, first, second]),
        source.0[3],
        destination.0[3],
    ];
    packet.store(TTL_OFFSET, &words)
}

/// A sum of 16-bit fields with `new` in the place of `old` (RFC 1624, equation 3; a field of 32 bits is two). In ones'
/// complement the order of bytes does not matter, as long as it is the same for all (RFC 1071).
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the last fold leaves 16 bits"
)]
const fn replaced(sum: u16, old: u32, new: u32) -> u16 {
    let sum = sum as u64 + !old as u64 + new as u64;
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// An IPv4 address as the checksum helpers want it.
#[inline(always)]
fn ipv4(address: &Address) -> u64 {
    u64::from(address.0[3])
}

#[inline(always)]
fn change_port(
    packet: &impl PacketEditor,
    checksum: &Checksum,
    offset: u32,
    from: u16,
    to: u16,
) -> Result<(), DropReason> {
    let (old, new) = (in_memory(from), in_memory(to));
    packet.replace_transport_checksum(checksum.offset, old, new, checksum.flags | 2)?;
    packet.store(offset, &to.to_be())
}

/// A field as the checksum helpers want it.
#[inline(always)]
fn in_memory(field: u16) -> u64 {
    u64::from(field.to_be())
}

/// An echo's identifier stands at the same place in request and reply.
#[inline(always)]
const fn source_port_offset(kind: TransportKind) -> u32 {
    match kind {
        TransportKind::Tcp | TransportKind::Udp => 0,
        TransportKind::EchoRequest | TransportKind::EchoReply => 4,
    }
}

#[inline(always)]
const fn destination_port_offset(kind: TransportKind) -> u32 {
    match kind {
        TransportKind::Tcp | TransportKind::Udp => 2,
        TransportKind::EchoRequest | TransportKind::EchoReply => 4,
    }
}
