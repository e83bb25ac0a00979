//! Rate limits: the generic cell rate algorithm, which is a token bucket whose whole state is one
//! number, the time at which the bucket will be full again. One atomic exchange takes from it.
//!
//! A packet passes while the bucket is not empty, and takes what it needs even if that is more than
//! there is: packets of up to a megabyte come with segmentation offload, and must neither pass freely
//! nor never. So in any time t no more passes than `rate * t + burst`, and one packet.
//!
//! Times are in ticks of 1/256 of a nanosecond: at 400 Gbit/s the smallest packet takes 215 of them.
//! They go round after more than two years; differences are what counts.

/// Ticks of a nanosecond, as a power of two.
const TICK_BITS: u32 = 8;
const TICKS_PER_SECOND: u64 = 1_000_000_000 << TICK_BITS;
/// No packet is longer on the wire, with headers for each of its segments.
const LONGEST_BITS: u64 = 1 << 26;
/// No packet takes longer, however slow the rate.
const LONGEST_TICKS: u64 = 1 << 61;

/// How long a bucket takes to fill: the burst.
///
/// When it is empty, TCP loses much at once, stops, and begins again after its retransmission timeout,
/// at least 200 ms in Linux. It gets what the limit promises only if the bucket does not overflow
/// meanwhile: half of it at 100 ms, 97 to 100 % of 10 Mbit/s, 100 Mbit/s and 1 Gbit/s at 250 ms.
pub const BURST_NS: u64 = 250_000_000;
/// Packets that a bucket holds at least: the initial window of TCP (RFC 6928).
pub const LEAST_BURST_PACKETS: u64 = 10;
/// Bits that a bucket holds at least: that many Ethernet frames.
pub const LEAST_BURST_BITS: u64 = LEAST_BURST_PACKETS * 1514 * 8;

/// The present as buckets know it.
#[inline(always)]
pub const fn now_ticks(now_ns: u64) -> u64 {
    now_ns << TICK_BITS
}

/// A limit and what one packet takes of it, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// Time in which the limit lets as much pass as the packet is.
    packet: u64,
    /// Time in which an empty bucket becomes full.
    burst: u64,
}

impl Price {
    /// Of a packet of `bits` under a limit of `per_second`, which is not 0.
    #[inline(always)]
    pub const fn of_bits(bits: u64, per_second: u64) -> Self {
        let bits = if bits < LONGEST_BITS {
            bits
        } else {
            LONGEST_BITS
        };
        Self::new(bits, per_second, LEAST_BURST_BITS)
    }

    /// Of `packets` under a limit of `per_second`, which is not 0.
    #[inline(always)]
    pub const fn of_packets(packets: u64, per_second: u64) -> Self {
        let packets = if packets < LONGEST_BITS {
            packets
        } else {
            LONGEST_BITS
        };
        Self::new(packets, per_second, LEAST_BURST_PACKETS)
    }

    #[inline(always)]
    const fn new(amount: u64, per_second: u64, least_burst: u64) -> Self {
        let least = ticks(least_burst, per_second);
        let burst = BURST_NS << TICK_BITS;
        Self {
            packet: ticks(amount, per_second),
            burst: if burst > least { burst } else { least },
        }
    }

    /// When the bucket that would be full at `full_at` will be full if the packet passes now; `None`
    /// if it is empty, so that the packet must not pass.
    #[inline(always)]
    pub const fn take(&self, full_at: u64, now: u64) -> Option<u64> {
        let missing = self.missing(full_at, now);
        if missing < self.burst {
            Some(now.wrapping_add(missing).wrapping_add(self.packet))
        } else {
            None
        }
    }

    /// The time it takes until the bucket is full. Nothing leaves more missing than a burst and the
    /// longest packet; what seems to be further ahead is so long ago that time went round.
    #[inline(always)]
    const fn missing(&self, full_at: u64, now: u64) -> u64 {
        let ahead = full_at.wrapping_sub(now);
        if ahead <= self.burst + LONGEST_TICKS {
            ahead
        } else {
            0
        }
    }
}

/// The time in which `amount` passes, rounded up: a limit may be missed by a tick a packet, never
/// exceeded.
#[inline(always)]
const fn ticks(amount: u64, per_second: u64) -> u64 {
    let ticks = (amount * TICKS_PER_SECOND).div_ceil(per_second);
    if ticks < LONGEST_TICKS {
        ticks
    } else {
        LONGEST_TICKS
    }
}

/// Bits on the wire of a packet that is sent as `segments` packets, each with the `headers` bytes that
/// the packet of `length` bytes has once.
#[inline(always)]
pub const fn wire_bits(length: u32, segments: u64, headers: u32) -> u64 {
    (length as u64 + (segments - 1) * headers as u64) * 8
}
