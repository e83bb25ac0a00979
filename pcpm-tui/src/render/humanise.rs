//! Numbers as people say them. Every result is one word, so that columns stay columns.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// A short time: `<1µs`, `14µs`, `1.2ms`, `3.4s`; longer ones like [`long`].
pub(crate) fn micros(us: u64) -> String {
    if us == 0 {
        return "<1µs".to_owned();
    }
    if us < 60_000_000 {
        return scaled(us, 1000, &["µs", "ms", "s"]);
    }
    long(Duration::from_micros(us))
}

/// The same of a time that is known to the millisecond: `0s`, `4.0ms`, `3.4s`.
pub(crate) fn millis(ms: u64) -> String {
    if ms == 0 {
        return "0s".to_owned();
    }
    micros(ms.saturating_mul(1000))
}

/// A long time by its two largest units: `45s`, `2m5s`, `3h`, `12d4h`.
pub(crate) fn long(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let first = parts
        .iter()
        .position(|(number, _)| *number > 0)
        .unwrap_or(3);
    let shown = parts
        .iter()
        .enumerate()
        .filter(|(i, (number, _))| *i == first || (*i == first + 1 && *number > 0));
    shown.fold(String::new(), |text, (_, (number, unit))| {
        text + &format!("{number}{unit}")
    })
}

/// How long ago `then_ms` was; nothing is ever in the future.
pub(crate) fn age(then_ms: u64, now_ms: u64) -> String {
    long(Duration::from_millis(now_ms.saturating_sub(then_ms)))
}

/// A size: `512B`, `1.5KiB`, `20.0MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    scaled(
        bytes,
        1024,
        &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"],
    )
}

/// A number of things: `9999` as it is, then `12.3k`, `4.5M`.
pub(crate) fn count(count: u64) -> String {
    if count < 10_000 {
        return count.to_string();
    }
    scaled(count, 1000, &["", "k", "M", "G", "T", "P", "E"])
}

/// A moment, as RFC 3339 in UTC.
pub(crate) fn moment(ms: u64) -> String {
    let (seconds, ms) = (ms / 1000, ms % 1000);
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// `number` in the first of `units` in which it shows as less than `base`.
fn scaled(number: u64, base: u64, units: &[&str]) -> String {
    let (mut step, mut divisor) = (0, 1);
    while step + 1 < units.len() && tenths(number, divisor) >= u128::from(base) * 10 {
        step += 1;
        divisor *= base;
    }
    if step == 0 {
        return format!("{number}{}", units[0]);
    }
    let tenths = tenths(number, divisor);
    format!("{}.{}{}", tenths / 10, tenths % 10, units[step])
}

/// `number / divisor` in tenths, rounded.
fn tenths(number: u64, divisor: u64) -> u128 {
    (u128::from(number) * 10 + u128::from(divisor) / 2) / u128::from(divisor)
}

/// Year, month and day of a number of days since 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    // Every 400 years repeat.
    let mut year = 1970 + days / 146_097 * 400;
    let mut days = days % 146_097;
    while days >= year_days(year) {
        days -= year_days(year);
        year += 1;
    }
    let mut month = 1;
    while days >= month_days(year, month) {
        days -= month_days(year, month);
        month += 1;
    }
    (year, month, days + 1)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn year_days(year: u64) -> u64 {
    365 + u64::from(is_leap(year))
}

fn month_days(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_times_have_one_decimal_at_most() {
        for (us, text) in [
            (0, "<1µs"),
            (1, "1µs"),
            (999, "999µs"),
            (1_000, "1.0ms"),
            (1_250, "1.3ms"),
            (999_999, "1.0s"),
            (2_500_000, "2.5s"),
            (90_000_000, "1m30s"),
        ] {
            assert_eq!(micros(us), text);
        }
    }

    #[test]
    fn long_times_have_two_units_at_most() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (125, "2m5s"),
            (3_600, "1h"),
            (3_605, "1h"),
            (273_661, "3d4h"),
        ] {
            assert_eq!(long(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_clock_that_went_back_makes_no_age() {
        assert_eq!(age(5_000, 65_000), "1m");
        assert_eq!(age(65_000, 5_000), "0s");
    }

    #[test]
    fn sizes_and_counts_are_scaled() {
        for (number, size) in [
            (0, "0B"),
            (1023, "1023B"),
            (1536, "1.5KiB"),
            (1_048_575, "1.0MiB"),
            (12 << 20, "12.0MiB"),
            (u64::MAX, "16.0EiB"),
        ] {
            assert_eq!(bytes(number), size);
        }
        for (number, text) in [(9_999, "9999"), (12_345, "12.3k"), (999_999, "1.0M")] {
            assert_eq!(count(number), text);
        }
    }

    #[test]
    fn moments_are_those_of_the_calendar() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_767_225_599_999, "2025-12-31T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_800_000, "10000-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(moment(ms), text);
        }
        assert!(moment(u64::MAX).ends_with('Z'));
    }
}
