//! Waits since the daemon began to watch, lock by lock, for counters that only grow.

use std::{collections::BTreeMap, sync::Arc};

use super::interval::Interval;

/// The most locks that are counted by name: a label for each is a series for each.
const LOCKS: usize = 32;
/// The name of all others together.
const OTHERS: &str = "others";

/// How many waits there were, and how long they took together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waits {
    pub(crate) count: u64,
    pub(crate) total_ns: u64,
}

/// Waits by lock.
#[derive(Clone, Debug, Default)]
pub(crate) struct LockTotals(BTreeMap<Arc<str>, Waits>);

impl LockTotals {
    pub(super) fn add(&mut self, interval: &Interval) {
        for (group, figures) in &interval.waits {
            let waits = self.of(&group.lock);
            waits.count += figures.count;
            waits.total_ns += figures.total_ns;
        }
    }

    fn of(&mut self, lock: &Arc<str>) -> &mut Waits {
        let has_room = self.0.len() < LOCKS || self.0.contains_key(lock);
        let name = if has_room {
            lock.clone()
        } else {
            OTHERS.into()
        };
        self.0.entry(name).or_default()
    }

    /// Every lock that somebody waited for.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, Waits)> {
        self.0.iter().map(|(lock, waits)| (&**lock, *waits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locks::interval::{Figures, Group};

    fn interval(locks: impl IntoIterator<Item = String>) -> Interval {
        let wait = |lock: String| {
            let group = Group {
                lock: lock.into(),
                kind: "mutex",
                caller: "f".into(),
                thread: "t".into(),
                operation: None,
            };
            let figures = Figures {
                count: 2,
                total_ns: 30,
                ..Figures::default()
            };
            (group, figures)
        };
        Interval {
            waits: locks.into_iter().map(wait).collect(),
            ..Interval::default()
        }
    }

    #[test]
    fn waits_add_up() {
        let mut totals = LockTotals::default();
        for _ in 0..2 {
            totals.add(&interval(["rtnl_mutex".to_owned()]));
        }
        let expected = Waits {
            count: 4,
            total_ns: 60,
        };
        assert_eq!(
            totals.iter().collect::<Vec<_>>(),
            [("rtnl_mutex", expected)]
        );
    }

    #[test]
    fn names_are_bounded_and_nothing_is_lost() {
        let mut totals = LockTotals::default();
        totals.add(&interval((0..1000).map(|index| format!("lock-{index}"))));
        assert_eq!(totals.iter().count(), LOCKS + 1);
        let counted: u64 = totals.iter().map(|(_, waits)| waits.count).sum();
        assert_eq!(counted, 2000);
    }
}
