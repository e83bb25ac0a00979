//! Numbers for the screen: the few conversions between counts and lengths, in one place.

/// A count as a number to compute with.
#[expect(clippy::cast_precision_loss, reason = "for a screen")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

/// The nearest count; 0 for what is none.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "such a cast saturates"
)]
pub(crate) fn whole(number: f64) -> u64 {
    number.round() as u64
}

/// The nearest index.
pub(crate) fn index(number: f64) -> usize {
    usize::try_from(whole(number)).unwrap_or(usize::MAX)
}

/// A length on the screen.
pub(crate) fn cells(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// How much of `whole` is `part`, at most 1; nothing of nothing.
pub(crate) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    (float(part) / float(whole)).min(1.0)
}
