//! Slots that wait for the tenant that had them before.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    rc::Rc,
};

use super::SlotIndex;

/// By tenant and by age. All that is asked of it takes no longer the more there are.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Each tenant's, the one it had first coming first.
    of_tenants: HashMap<Rc<str>, VecDeque<(u64, SlotIndex)>>,
    /// All, the oldest first.
    by_age: BTreeMap<u64, Rc<str>>,
    next: u64,
}

impl Kept {
    pub(super) fn slots(&self) -> impl Iterator<Item = SlotIndex> {
        let slots = self.of_tenants.values().flatten();
        slots.map(|&(_, slot)| slot)
    }

    pub(super) fn push(&mut self, tenant: Rc<str>, slot: SlotIndex) {
        let age = self.next;
        self.next += 1;
        self.by_age.insert(age, tenant.clone());
        let slots = self.of_tenants.entry(tenant).or_default();
        slots.push_back((age, slot));
    }

    /// Whether there is one for the tenant.
    pub(super) fn has(&self, tenant: &str) -> bool {
        self.of_tenants.contains_key(tenant)
    }

    /// Takes the tenant's oldest.
    pub(super) fn take(&mut self, tenant: &str) -> Option<SlotIndex> {
        let slots = self.of_tenants.get_mut(tenant)?;
        let (age, slot) = slots.pop_front()?;
        if slots.is_empty() {
            self.of_tenants.remove(tenant);
        }
        self.by_age.remove(&age);
        Some(slot)
    }

    /// Takes the oldest of all.
    pub(super) fn take_oldest(&mut self) -> Option<SlotIndex> {
        let tenant = self.by_age.first_key_value()?.1.clone();
        self.take(&tenant)
    }

    /// Takes all slots that `unwanted` says yes to.
    pub(super) fn extract(&mut self, unwanted: impl Fn(SlotIndex) -> bool) -> Vec<SlotIndex> {
        let mut taken = Vec::new();
        self.of_tenants.retain(|_, slots| {
            slots.retain(|&(age, slot)| {
                let is_unwanted = unwanted(slot);
                if is_unwanted {
                    self.by_age.remove(&age);
                    taken.push(slot);
                }
                !is_unwanted
            });
            !slots.is_empty()
        });
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        let mut kept = Kept::default();
        for (tenant, slot) in [("a", 3), ("b", 1), ("a", 2)] {
            kept.push(tenant.into(), slot);
        }
        kept
    }

    #[test]
    fn a_tenant_gets_its_own_in_the_order_in_which_it_gave_them_back() {
        let mut kept = kept();
        let got = ["a", "a", "a", "c"].map(|tenant| kept.take(tenant));
        assert_eq!(got, [Some(3), Some(2), None, None]);
        assert!(kept.has("b"));
    }

    #[test]
    fn the_oldest_of_all_goes_first() {
        let mut kept = kept();
        let order = std::iter::from_fn(|| kept.take_oldest());
        assert_eq!(order.collect::<Vec<_>>(), [3, 1, 2]);
        assert!(!kept.has("a") && kept.slots().next().is_none());
    }

    #[test]
    fn what_is_extracted_is_nobodys() {
        let mut kept = kept();
        assert_eq!(kept.extract(|slot| slot > 2), [3]);
        assert_eq!((kept.take("a"), kept.take("a")), (Some(2), None));
    }
}
