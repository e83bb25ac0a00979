//! Limits of what a slot may send and receive.

use crate::error::PoolError;

/// The lowest limit in bits a second: below, a single packet would take seconds.
pub const LOWEST_BITS: u64 = 8_000;
/// The highest limit, in bits or packets a second.
pub const HIGHEST: u64 = 1_000_000_000_000;

/// Limits of one direction; `None` for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Bits a second.
    pub bits: Option<u64>,
    /// Packets a second.
    pub packets: Option<u64>,
}

impl Rate {
    /// These limits, and those of `template` where there is none.
    #[must_use]
    pub fn over(self, template: Self) -> Self {
        Self {
            bits: self.bits.or(template.bits),
            packets: self.packets.or(template.packets),
        }
    }
}

/// Checks a limit in bits a second. 0 is no limit.
///
/// # Errors
/// [`PoolError::InvalidArgument`] naming `field`.
pub fn check_bits(field: &str, rate: Option<u64>) -> Result<Option<u64>, PoolError> {
    check(field, rate, LOWEST_BITS, "bits")
}

/// Checks a limit in packets a second. 0 is no limit.
///
/// # Errors
/// [`PoolError::InvalidArgument`] naming `field`.
pub fn check_packets(field: &str, rate: Option<u64>) -> Result<Option<u64>, PoolError> {
    check(field, rate, 1, "packets")
}

fn check(
    field: &str,
    rate: Option<u64>,
    lowest: u64,
    unit: &str,
) -> Result<Option<u64>, PoolError> {
    match rate {
        None | Some(0) => Ok(None),
        Some(rate) if (lowest..=HIGHEST).contains(&rate) => Ok(Some(rate)),
        Some(rate) => Err(PoolError::invalid(
            field,
            format!("{rate} is not between {lowest} and {HIGHEST} {unit} a second"),
        )),
    }
}

/// Reads a number with the suffix k, M or G, which are powers of 1000: `500k`, `10M`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix(['k', 'M', 'G']) {
        Some(number) => (number, &text[number.len()..]),
        None => (text, ""),
    };
    let factor = match unit {
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => 1,
    };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("not a rate: write 500k, 10M or 1G, without a fraction".into());
    }
    let number: Option<u64> = number.parse().ok();
    number
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| "too high".into())
}

/// The shortest exact way of writing a rate that [`parse`] reads.
pub fn show(rate: u64) -> String {
    let units = [(1_000_000_000, 'G'), (1_000_000, 'M'), (1_000, 'k')];
    let unit = units
        .into_iter()
        .find(|(factor, _)| rate != 0 && rate.is_multiple_of(*factor));
    match unit {
        Some((factor, unit)) => format!("{}{unit}", rate / factor),
        None => rate.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates_have_decimal_suffixes() {
        for (text, rate) in [
            ("1000000", 1_000_000),
            ("500k", 500_000),
            ("10M", 10_000_000),
            ("1G", 1_000_000_000),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Ok(rate));
        }
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in [
            "", "M", "1.5M", "-1", "10m", "10 M", "10MM", "10Mbit", "0x10",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("99999999999999999999"), Err("too high".into()));
        assert_eq!(parse("18446744073709551615k"), Err("too high".into()));
    }

    #[test]
    fn limits_that_make_no_sense_are_refused_with_the_field() {
        assert_eq!(check_bits("rate_up", Some(0)), Ok(None));
        assert_eq!(check_bits("rate_up", Some(8_000)), Ok(Some(8_000)));
        for refused in [
            check_bits("rate_up", Some(7_999)),
            check_bits("rate_up", Some(u64::MAX)),
            check_packets("rate_up", Some(HIGHEST + 1)),
        ] {
            let error = refused.unwrap_err().to_string();
            assert!(error.starts_with("rate_up: "), "{error}");
        }
        assert_eq!(check_packets("rate_up", Some(1)), Ok(Some(1)));
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(rate in any::<u64>(), zeros in 0_u32..10) {
            let rate = rate / 10_u64.pow(zeros) * 10_u64.pow(zeros);
            prop_assert_eq!(parse(&show(rate)), Ok(rate));
        }
    }
}
