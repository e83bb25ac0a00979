//! How long things took: counts by buckets of `pcpm_api::times`, and what is said of them.

use pcpm_api::{times, types::TimeCount};

/// What the daemon times, in the order in which it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Warm,
    Cold,
    Create,
    Namespace,
    Mount,
    Link,
    Configure,
    Recycle,
    Retire,
    Started,
    StartAttach,
    StartBundle,
    StartCreate,
    StartEngine,
    StartStart,
    Added,
    AddMount,
}

impl Step {
    pub(crate) const ALL: [Self; 17] = [
        Self::Warm,
        Self::Cold,
        Self::Create,
        Self::Namespace,
        Self::Mount,
        Self::Link,
        Self::Configure,
        Self::Recycle,
        Self::Retire,
        Self::Started,
        Self::StartAttach,
        Self::StartBundle,
        Self::StartCreate,
        Self::StartEngine,
        Self::StartStart,
        Self::Added,
        Self::AddMount,
    ];

    /// Its name in the interface.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cold => "cold",
            Self::Create => "create",
            Self::Namespace => "namespace",
            Self::Mount => "mount",
            Self::Link => "link",
            Self::Configure => "configure",
            Self::Recycle => "recycle",
            Self::Retire => "retire",
            Self::Started => "start/total",
            Self::StartAttach => "start/attach",
            Self::StartBundle => "start/bundle",
            Self::StartCreate => "start/create",
            Self::StartEngine => "start/engine",
            Self::StartStart => "start/start",
            Self::Added => "start/add",
            Self::AddMount => "start/mount",
        }
    }

    /// What is timed, for people, with what it is a part of.
    pub(crate) fn full_title(self) -> String {
        let own = self.title();
        let Some(part) = own.strip_prefix("  ") else {
            return own.to_owned();
        };
        let before = &Self::ALL[..self as usize];
        let whole = before.iter().rfind(|step| !step.title().starts_with(' '));
        whole.map_or_else(
            || part.to_owned(),
            |whole| format!("{}: {part}", whole.title()),
        )
    }

    /// What is timed, for people; a part of what stands above is indented.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Warm => "attach, warm",
            Self::Cold => "attach, cold",
            Self::Create => "slot made",
            Self::Namespace => "  namespace",
            Self::Mount | Self::AddMount => "  mount",
            Self::Link => "  link, filter",
            Self::Configure => "  configure",
            Self::Recycle => "slot recycled",
            Self::Retire => "slot destroyed",
            Self::Started => "container start",
            Self::StartAttach => "  attach",
            Self::StartBundle => "  bundle",
            Self::StartCreate => "  create",
            Self::StartEngine => "  engine",
            Self::StartStart => "  start",
            Self::Added => "CNI ADD",
        }
    }
}

/// Times of one second, by bucket: few, so only those that occurred.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times(Vec<(u8, u32)>);

impl Times {
    /// What the daemon told. What it cannot have meant is in the nearest bucket.
    pub(crate) fn new(told: &[TimeCount]) -> Self {
        let entry = |time: &TimeCount| {
            let bucket = u8::try_from(times::bucket(time.from_us)).unwrap_or(u8::MAX);
            (bucket, u32::try_from(time.count).unwrap_or(u32::MAX))
        };
        Self(told.iter().take(times::BUCKETS).map(entry).collect())
    }
}

/// Times of any span, added up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spread {
    counts: [u64; times::BUCKETS],
    total: u64,
}

impl Default for Spread {
    fn default() -> Self {
        Self {
            counts: [0; times::BUCKETS],
            total: 0,
        }
    }
}

impl Spread {
    pub(crate) fn add(&mut self, times: &Times) {
        for &(bucket, count) in &times.0 {
            if let Some(counted) = self.counts.get_mut(usize::from(bucket)) {
                *counted = counted.saturating_add(count.into());
                self.total = self.total.saturating_add(count.into());
            }
        }
    }

    /// How many.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn counts(&self) -> &[u64; times::BUCKETS] {
        &self.counts
    }

    /// The time that `percent` of all did not exceed, in microseconds, exact within a quarter; none of none.
    pub(crate) fn percentile(&self, percent: u64) -> Option<u64> {
        let rank = (u128::from(self.total) * u128::from(percent)).div_ceil(100);
        let mut seen = 0_u128;
        let of_rank = |counted: &u64| {
            seen += u128::from(*counted);
            seen >= rank.max(1)
        };
        let bucket = self.counts.iter().position(of_rank)?;
        Some(longest_of(bucket))
    }

    /// The longest.
    pub(crate) fn max(&self) -> Option<u64> {
        let bucket = self.counts.iter().rposition(|&counted| counted > 0)?;
        Some(longest_of(bucket))
    }
}

/// The longest time of a bucket, in microseconds.
fn longest_of(bucket: usize) -> u64 {
    times::from_us(bucket + 1) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(times: &[(u64, u64)]) -> Times {
        let told: Vec<_> = times
            .iter()
            .map(|&(from_us, count)| TimeCount { from_us, count })
            .collect();
        Times::new(&told)
    }

    #[test]
    fn percentiles_are_exact_within_a_quarter() {
        let mut spread = Spread::default();
        spread.add(&told(&[(10, 90), (1000, 9), (50_000, 1)]));
        for (percent, us) in [(50, 10), (90, 10), (91, 1000), (99, 1000), (100, 50_000)] {
            let found = spread.percentile(percent).unwrap();
            assert!(found >= us && found * 4 <= us * 5, "{percent}: {found}");
        }
        assert_eq!(spread.max(), spread.percentile(100));
    }

    #[test]
    fn a_part_is_named_with_what_it_is_a_part_of() {
        for (step, title) in [
            (Step::Warm, "attach, warm"),
            (Step::Mount, "slot made: mount"),
            (Step::StartCreate, "container start: create"),
            (Step::AddMount, "CNI ADD: mount"),
        ] {
            assert_eq!(step.full_title(), title);
        }
    }

    #[test]
    fn nothing_has_no_percentiles() {
        let spread = Spread::default();
        assert_eq!((spread.percentile(50), spread.max()), (None, None));
    }

    #[test]
    fn what_no_daemon_means_is_survived() {
        let mut spread = Spread::default();
        spread.add(&told(&[(u64::MAX, u64::MAX), (0, 0)]));
        spread.add(&told(&vec![(7, u64::MAX); 500]));
        assert!(spread.percentile(100).is_some());
    }
}
