//! Rate limits: the buckets that every packet of a limited slot takes from.
#![expect(unsafe_code, reason = "buckets are shared with other CPUs")]

use core::ptr;

use pcpm_ebpf::{
    abi::{AttachmentWord, Bucket, RateLimit},
    drop_reason::DropReason,
    packet::{Frame, PacketFields as _, UDP_HEADER_LENGTH, protocol},
    rate::{Price, now_ticks, wire_bits},
};

use crate::{
    flows::{compare_exchange, now_ns},
    global, maps,
    policy::Holder,
    settings,
    skb::Skb,
};

/// Other CPUs that may come first. A packet that finds the bucket changed more often is dropped.
const TRIES: u32 = 8;
/// Offset of the header length in a TCP header: in the highest four bits, in words.
const LENGTH_IN_TCP: u32 = 12;

/// Takes from what the holder of a slot may send.
#[inline(always)]
pub(crate) fn take_up(skb: &Skb, frame: &Frame, holder: &Holder) -> Result<(), DropReason> {
    if holder.granted.is_limited_up() && !global::take(*skb, frame, holder.slot, holder.word, true)
    {
        return Err(DropReason::RateUp);
    }
    Ok(())
}

/// Takes from what may be sent to the holder of a slot.
#[inline(always)]
pub(crate) fn take_down(skb: &Skb, frame: &Frame, holder: &Holder) -> Result<(), DropReason> {
    if holder.granted.is_limited_down()
        && !global::take(*skb, frame, holder.slot, holder.word, false)
    {
        return Err(DropReason::RateDown);
    }
    Ok(())
}

/// Takes a packet from the buckets for what a slot sends (`is_up`) or receives, and says whether there
/// was enough.
#[inline(always)]
pub(crate) fn take(skb: Skb, frame: &Frame, slot: u32, word: AttachmentWord, is_up: bool) -> bool {
    let Some(buckets) = maps::buckets(slot) else {
        return false;
    };
    // SAFETY: the element of an array; a field of it.
    let (bucket, limit) = unsafe {
        if is_up {
            (&raw mut (*buckets).up, settings::up(slot, word))
        } else {
            (&raw mut (*buckets).down, settings::down(slot, word))
        }
    };
    take_both(bucket, &skb, frame, word, limit)
}

/// Takes from both buckets, or from none: packets first, of which there is seldom a lack.
#[inline(always)]
fn take_both(
    bucket: *mut Bucket,
    skb: &Skb,
    frame: &Frame,
    word: AttachmentWord,
    limit: RateLimit,
) -> bool {
    let now = now_ticks(now_ns());
    begin_anew(bucket, word, limit, now);
    let segments = skb.segments();
    // SAFETY: words of the element that `bucket` points to.
    let (bits_full_at, packets_full_at) =
        unsafe { (&mut (*bucket).bits_full_at, &mut (*bucket).packets_full_at) };
    if limit.packets_per_second != 0 {
        let price = Price::of_packets(segments, limit.packets_per_second);
        if !global::take_from(packets_full_at, &price, now) {
            return false;
        }
    }
    if limit.bits_per_second != 0 {
        let headers = if segments > 1 { headers(skb, frame) } else { 0 };
        let bits = wire_bits(skb.len(), segments, headers);
        let price = Price::of_bits(bits, limit.bits_per_second);
        return global::take_from(bits_full_at, &price, now);
    }
    true
}

/// Fills the buckets if they were those of another attachment or limit. Of several CPUs that do this
/// at a time, one may fill what another has just taken.
#[inline(always)]
fn begin_anew(bucket: *mut Bucket, word: AttachmentWord, limit: RateLimit, now: u64) {
    // SAFETY: the element of an array, aligned; whole words are read and written.
    unsafe {
        let (epoch, bound) = (&raw mut (*bucket).epoch, &raw mut (*bucket).limit);
        if epoch.read_volatile() == word.epoch() && bound.read_volatile() == limit {
            return;
        }
        (&raw mut (*bucket).bits_full_at).write_volatile(now);
        (&raw mut (*bucket).packets_full_at).write_volatile(now);
        bound.write_volatile(limit);
        epoch.write_volatile(word.epoch());
    }
}

/// Takes from one bucket, and says whether there was enough.
#[inline(always)]
pub(crate) fn take_from(full_at: &mut u64, price: &Price, now: u64) -> bool {
    let full_at = ptr::from_mut(full_at);
    for _ in 0..TRIES {
        // SAFETY: an aligned word of an array's element.
        let seen = unsafe { full_at.read_volatile() };
        let Some(next) = price.take(seen, now) else {
            return false;
        };
        // SAFETY: as above.
        if unsafe { compare_exchange(full_at, seen, next) } {
            return true;
        }
    }
    false
}

/// Length of the headers that every segment has.
#[inline(always)]
fn headers(skb: &Skb, frame: &Frame) -> u32 {
    let transport = match frame.protocol {
        protocol::TCP => match skb.fields(frame.transport_offset + LENGTH_IN_TCP) {
            Some([length]) => u32::from(length >> 12) * 4,
            None => 0,
        },
        _ => UDP_HEADER_LENGTH,
    };
    frame.transport_offset + transport
}
