//! Ready slots that are held back for tenants with a reservation, so that a burst of others leaves some.
//!
//! A ready slot is anybody's or held back for one reservation. Tenants take what is anybody's first, then
//! what is held back for them. What they took of that is restocked as slots become ready, one for a
//! reservation and one for whoever waits in turn: neither a crowd that waits nor tenants that take all that
//! is held back for them can keep the other from getting any.

use std::{fmt, str::FromStr};

use pcpm_api::limits;

/// A tenant's name, or the beginning of names with a `*` behind it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TenantPattern {
    text: String,
    is_prefix: bool,
}

impl TenantPattern {
    /// How exactly it names the tenant, if it does.
    fn exactness(&self, tenant: &str) -> Option<usize> {
        if self.is_prefix {
            tenant.starts_with(&self.text).then_some(self.text.len())
        } else {
            (self.text == tenant).then_some(usize::MAX)
        }
    }
}

impl FromStr for TenantPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, is_prefix) = match text.strip_suffix('*') {
            Some(prefix) => (prefix, true),
            None => (text, false),
        };
        // All names begin with nothing.
        if !(is_prefix && name.is_empty()) {
            limits::check_tenant(name).map_err(|error| error.to_string())?;
        }
        Ok(Self {
            text: name.to_owned(),
            is_prefix,
        })
    }
}

impl fmt::Display for TenantPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.is_prefix { "*" } else { "" };
        write!(f, "{}{star}", self.text)
    }
}

/// Ready slots held back for some tenants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReserveSettings {
    /// Whom they are for.
    pub tenants: Vec<TenantPattern>,
    /// How many.
    pub warm: u32,
}

/// The reservations of one class.
#[derive(Debug)]
pub(super) struct Reserves {
    all: Vec<Reserve>,
    /// Whether the last slot for which both came was a reservation's.
    restocked_last: bool,
}

#[derive(Debug)]
struct Reserve {
    settings: ReserveSettings,
    held: u32,
}

/// Place of a reservation among those of its class.
pub(super) type ReserveIndex = usize;

impl Reserves {
    pub(super) fn new(settings: Vec<ReserveSettings>) -> Self {
        let all = settings.into_iter();
        Self {
            all: all.map(|settings| Reserve { settings, held: 0 }).collect(),
            restocked_last: false,
        }
    }

    /// The reservation that the tenant has: that which names it most exactly.
    pub(super) fn of(&self, tenant: &str) -> Option<ReserveIndex> {
        let exactness = |reserve: &Reserve| {
            let matching = reserve.settings.tenants.iter();
            matching
                .filter_map(|pattern| pattern.exactness(tenant))
                .max()
        };
        let having = self.all.iter().enumerate();
        let having = having.filter_map(|(index, reserve)| Some((exactness(reserve)?, index)));
        having.max().map(|(_, index)| index)
    }

    /// How many slots are held back, and how many are to be, by reservation.
    pub(super) fn figures(&self) -> impl Iterator<Item = (u32, u32)> {
        let all = self.all.iter();
        all.map(|reserve| (reserve.held, reserve.settings.warm))
    }

    /// Slots held back for all of them.
    pub(super) fn held(&self) -> u32 {
        self.all.iter().map(|reserve| reserve.held).sum()
    }

    /// Slots that are to be.
    pub(super) fn wanted(&self) -> u32 {
        self.all.iter().map(|reserve| reserve.settings.warm).sum()
    }

    pub(super) fn has(&self, reserve: ReserveIndex) -> bool {
        self.all[reserve].held > 0
    }

    /// One of those held back for the reservation is given to one of its tenants.
    pub(super) fn take(&mut self, reserve: ReserveIndex) {
        self.all[reserve].held -= 1;
    }

    /// One more is held back, for the reservation that lacks the largest part of what it is to have; says
    /// for which. None if it is somebody's turn who waits, or nothing is lacking.
    pub(super) fn restock(&mut self, somebody_waits: bool) -> Option<ReserveIndex> {
        let lacking = |reserve: &Reserve| reserve.held < reserve.settings.warm;
        let share = |reserve: &Reserve| {
            u64::from(reserve.held) * 1_000_000 / u64::from(reserve.settings.warm)
        };
        let candidates = self.all.iter().enumerate();
        let candidates = candidates.filter(|(_, reserve)| lacking(reserve));
        let (index, _) = candidates.min_by_key(|(_, reserve)| share(reserve))?;
        if somebody_waits {
            self.restocked_last = !self.restocked_last;
            if !self.restocked_last {
                return None;
            }
        }
        self.all[index].held += 1;
        Some(index)
    }

    /// No more are held back than `most`.
    pub(super) fn limit(&mut self, most: u32) {
        while self.held() > most {
            let largest = self.all.iter_mut().max_by_key(|reserve| reserve.held);
            largest.expect("something is held back").held -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserves(all: &[(&[&str], u32)]) -> Reserves {
        let settings = all.iter().map(|(tenants, warm)| ReserveSettings {
            tenants: tenants
                .iter()
                .map(|&tenant| tenant.parse().unwrap())
                .collect(),
            warm: *warm,
        });
        Reserves::new(settings.collect())
    }

    #[test]
    fn the_most_exact_pattern_counts() {
        let reserves = reserves(&[
            (&["shop-*"], 1),
            (&["shop-eu-*", "b"], 1),
            (&["shop-eu-1"], 1),
        ]);
        let of = ["shop-1", "shop-eu-7", "shop-eu-1", "b", "bb", "shop"];
        let expected = [Some(0), Some(1), Some(2), Some(1), None, None];
        assert_eq!(of.map(|tenant| reserves.of(tenant)), expected);
    }

    #[test]
    fn what_lacks_most_is_restocked_first() {
        let mut reserves = reserves(&[(&["a"], 4), (&["b"], 2)]);
        let order = std::iter::from_fn(|| reserves.restock(false)).collect::<Vec<_>>();
        assert_eq!(order.len(), 6);
        assert_eq!(reserves.figures().collect::<Vec<_>>(), [(4, 4), (2, 2)]);
        reserves.take(1);
        assert_eq!(reserves.restock(false), Some(1));
    }

    #[test]
    fn those_who_wait_and_the_reservations_get_slots_in_turn() {
        let mut reserves = reserves(&[(&["a"], 9)]);
        let turns = [(); 4].map(|()| reserves.restock(true).is_some());
        assert_eq!(turns, [true, false, true, false]);
    }

    #[test]
    fn no_more_is_held_back_than_there_is() {
        let mut reserves = reserves(&[(&["a"], 3), (&["b"], 1)]);
        while reserves.restock(false).is_some() {}
        reserves.limit(2);
        assert_eq!(reserves.held(), 2);
    }
}
