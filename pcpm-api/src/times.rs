//! Buckets for times, so that many of them are told as a few numbers that can be added and compared: every
//! power of two of microseconds in four equal parts, so a bucket is at most a quarter wider than its beginning.

/// Buckets that there are. The last one takes whatever is longer.
pub const BUCKETS: usize = 104;

/// The bucket of a time.
///
/// ```
/// use pcpm_api::times::{bucket, from_us};
/// assert_eq!(bucket(3), 3);
/// assert_eq!(from_us(bucket(1000)), 896);
/// ```
#[expect(
    clippy::cast_possible_truncation,
    reason = "a quarter is less than four"
)]
pub const fn bucket(us: u64) -> usize {
    let octave = if us < 4 { 1 } else { us.ilog2() };
    let quarter = if us < 4 { us } else { (us >> (octave - 2)) & 3 };
    let bucket = 4 * (octave as usize - 1) + quarter as u8 as usize;
    if bucket < BUCKETS {
        bucket
    } else {
        BUCKETS - 1
    }
}

/// The shortest time of a bucket.
pub const fn from_us(bucket: usize) -> u64 {
    if bucket < 4 {
        return bucket as u64;
    }
    let octave = bucket / 4 + 1;
    let quarter = (bucket % 4) as u64;
    (4 + quarter) << (octave - 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_in_its_bucket_and_below_the_next() {
        for us in (0..100_000).chain((0..60_000_000).step_by(99_991)) {
            let bucket = bucket(us);
            assert!(from_us(bucket) <= us && us < from_us(bucket + 1), "{us}");
        }
    }

    #[test]
    fn buckets_are_at_most_a_quarter_wide() {
        for bucket in 4..BUCKETS {
            let (from, next) = (from_us(bucket), from_us(bucket + 1));
            assert!(next > from && (next - from) * 4 <= from, "{from} {next}");
        }
    }

    #[test]
    fn the_last_bucket_takes_what_is_longer_than_a_minute() {
        assert!(from_us(BUCKETS - 1) >= 50_000_000);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }
}
