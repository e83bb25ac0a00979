//! Rate limits: never more than promised, never less.

use pcpm_ebpf::rate::{
    BURST_NS, LEAST_BURST_BITS, LEAST_BURST_PACKETS, Price, now_ticks, wire_bits,
};
use proptest::prelude::*;

const SECOND_NS: u64 = 1_000_000_000;
const KILOBIT: u64 = 1000;
const GIGABIT: u64 = 1_000_000_000;

/// A bucket that is asked again and again, from an arbitrary moment on.
struct Bucket {
    full_at: u64,
    began_ns: u64,
    passed: u128,
}

impl Bucket {
    fn new(began_ns: u64) -> Self {
        Self {
            full_at: now_ticks(began_ns),
            began_ns,
            passed: 0,
        }
    }

    fn offer(&mut self, bits: u64, rate: u64, after_ns: u64) -> bool {
        let now = now_ticks(self.began_ns.wrapping_add(after_ns));
        let taken = Price::of_bits(bits, rate).take(self.full_at, now);
        if let Some(full_at) = taken {
            self.full_at = full_at;
            self.passed += u128::from(bits);
        }
        taken.is_some()
    }
}

fn burst_bits(rate: u64) -> u128 {
    let by_time = u128::from(rate) * u128::from(BURST_NS) / u128::from(SECOND_NS);
    by_time.max(LEAST_BURST_BITS.into())
}

fn bits_within(rate: u64, time_ns: u64) -> u128 {
    u128::from(rate) * u128::from(time_ns) / u128::from(SECOND_NS)
}

fn rates() -> impl Strategy<Value = u64> {
    // As many slow ones as fast ones.
    (0_u32..29, 0_u64..1000).prop_map(|(power, fraction)| {
        let rate = KILOBIT << power;
        (rate + rate * fraction / 1000).min(400 * GIGABIT)
    })
}

fn packets() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(60 * 8),
        Just(1514 * 8),
        Just(64 * 1024 * 8),
        480_u64..8_000_000
    ]
}

proptest! {
    #[test]
    fn no_more_passes_than_the_rate_a_burst_and_a_packet(
        rate in rates(),
        offers in prop::collection::vec((packets(), 0_u64..100_000_000), 1..300),
        began_ns: u64,
    ) {
        let mut bucket = Bucket::new(began_ns);
        let (mut now, mut longest) = (0, 0);
        for (bits, pause) in offers {
            now += pause;
            longest = longest.max(bits);
            bucket.offer(bits, rate, now);
            let most = bits_within(rate, now) + burst_bits(rate) + u128::from(longest);
            prop_assert!(bucket.passed <= most, "{} of {most} bits", bucket.passed);
        }
    }

    #[test]
    fn what_is_always_offered_passes_at_the_rate(rate in rates(), bits in packets(), began_ns: u64) {
        let mut bucket = Bucket::new(began_ns);
        // Until a thousand packets would have passed; offered twice as often.
        let interval = (SECOND_NS * bits / rate / 2).max(1);
        let mut now = 0;
        for _ in 0..2000 {
            now += interval;
            bucket.offer(bits, rate, now);
        }
        let promised = bits_within(rate, now).min(u128::from(bits) * 2000);
        prop_assert!(bucket.passed * 100 >= promised * 99, "{} of {promised} bits", bucket.passed);
    }

    #[test]
    fn the_limit_decides_as_a_bucket_of_tokens_does(
        rate in rates(),
        offers in prop::collection::vec((packets(), 0_u64..1_000_000_000), 1..200),
    ) {
        // Tokens in bits times nanoseconds a second, so that nothing is rounded.
        let scale = i128::from(SECOND_NS);
        let full = i128::try_from(burst_bits(rate)).expect("fits") * scale;
        let (mut tokens, mut now) = (full, 0);
        let mut bucket = Bucket::new(7);
        for (index, (bits, pause)) in offers.into_iter().enumerate() {
            now += pause;
            tokens = (tokens + i128::from(pause) * i128::from(rate)).min(full);
            let passes = bucket.offer(bits, rate, now);
            // A packet is rounded up by less than a tick; the burst by one.
            let rounding = i128::try_from(index + 2).expect("fits") * i128::from(rate);
            prop_assert!(passes == (tokens > 0) || tokens.abs() <= rounding, "{tokens}");
            if passes {
                tokens -= i128::from(bits) * scale;
            }
        }
    }

    #[test]
    fn packets_are_limited_like_bits(rate in 1_u64..1_000_000, segments in 1_u64..100) {
        let mut full_at = now_ticks(5);
        let mut passed = 0;
        for tick in 0..10_000_u64 {
            let price = Price::of_packets(segments, rate);
            if let Some(next) = price.take(full_at, now_ticks(5 + tick * SECOND_NS / 10_000)) {
                full_at = next;
                passed += segments;
            }
        }
        let burst = (rate * BURST_NS / SECOND_NS).max(LEAST_BURST_PACKETS);
        prop_assert!(passed <= rate + burst + segments, "{passed}");
        prop_assert!(passed * 100 >= rate.min(10_000 * segments) * 99, "{passed}");
    }

    #[test]
    fn a_bucket_is_full_after_any_pause(rate in rates(), last_ns: u64, years in 0_u64..2) {
        const YEAR_NS: u64 = 365 * 24 * 3600 * SECOND_NS;
        let price = Price::of_bits(480, rate);
        let emptied = price.take(now_ticks(last_ns), now_ticks(last_ns)).expect("full");
        let later = last_ns.wrapping_add(200 * SECOND_NS + years * YEAR_NS);
        let next = price.take(emptied, now_ticks(later));
        prop_assert_eq!(next, price.take(now_ticks(later), now_ticks(later)));
    }
}

#[test]
fn segments_are_counted_with_their_headers() {
    assert_eq!(wire_bits(1514, 1, 66), 1514 * 8);
    assert_eq!(wire_bits(66 + 3 * 1448, 3, 66), 3 * 1514 * 8);
}
