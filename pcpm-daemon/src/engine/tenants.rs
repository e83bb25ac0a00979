//! Tenants' names as the numbers that packets are compared by. A number belongs to a name for as
//! long as the tenant has an attachment.

use std::collections::{HashMap, HashSet};

#[derive(Debug, Default)]
pub(super) struct Tenants {
    by_name: HashMap<String, Tenant>,
    in_use: HashSet<u32>,
    last: u32,
}

#[derive(Debug)]
struct Tenant {
    id: u32,
    attachments: u32,
}

impl Tenants {
    /// The tenant's number, never 0, for one more attachment.
    pub(super) fn acquire(&mut self, name: &str) -> u32 {
        if let Some(tenant) = self.by_name.get_mut(name) {
            tenant.attachments += 1;
            return tenant.id;
        }
        let id = self.unused();
        self.in_use.insert(id);
        self.by_name
            .insert(name.to_owned(), Tenant { id, attachments: 1 });
        id
    }

    /// Numbers up to `last` were used in an earlier life.
    pub(super) fn go_on_after(&mut self, last: u32) {
        self.last = last;
    }

    /// The tenant has the number that it had in an earlier life, for one more attachment.
    pub(super) fn restore(&mut self, name: &str, id: u32) -> u32 {
        let tenant = self.by_name.entry(name.to_owned());
        let tenant = tenant.or_insert(Tenant { id, attachments: 0 });
        tenant.attachments += 1;
        self.in_use.insert(tenant.id);
        tenant.id
    }

    /// How many attachments each tenant has.
    pub(super) fn attachments(&self) -> impl Iterator<Item = (&str, u32)> {
        let tenants = self.by_name.iter();
        tenants.map(|(name, tenant)| (name.as_str(), tenant.attachments))
    }

    /// The last number that was given.
    pub(super) fn last(&self) -> u32 {
        self.last
    }

    /// An attachment of the tenant ended.
    pub(super) fn release(&mut self, name: &str) {
        let Some(tenant) = self.by_name.get_mut(name) else {
            return;
        };
        tenant.attachments -= 1;
        if tenant.attachments == 0 {
            self.in_use.remove(&tenant.id);
            self.by_name.remove(name);
        }
    }

    /// Numbers go round, so that one rests as long as possible.
    fn unused(&mut self) -> u32 {
        loop {
            self.last = self.last.wrapping_add(1);
            if self.last != 0 && !self.in_use.contains(&self.last) {
                return self.last;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachments_of_one_tenant_share_its_number_and_others_do_not() {
        let mut tenants = Tenants::default();
        let a = tenants.acquire("a");
        assert_eq!(tenants.acquire("a"), a);
        assert_ne!(tenants.acquire("b"), a);
    }

    #[test]
    fn a_number_in_use_is_skipped_when_they_go_round() {
        let mut tenants = Tenants::default();
        let kept = tenants.acquire("kept");
        tenants.last = kept.wrapping_sub(2);
        let next = tenants.acquire("next");
        assert!(next != 0 && next != kept, "{next}");
    }

    #[test]
    fn a_tenant_has_the_same_number_in_the_next_life_and_no_other_gets_it() {
        let mut tenants = Tenants::default();
        tenants.go_on_after(4);
        tenants.restore("a", 2);
        assert_eq!(tenants.acquire("a"), 2);
        assert_eq!(tenants.acquire("b"), 5);
        tenants.release("a");
        assert_eq!(tenants.acquire("a"), 2);
    }

    #[test]
    fn a_tenant_is_forgotten_with_its_last_attachment() {
        let mut tenants = Tenants::default();
        let first = tenants.acquire("a");
        tenants.acquire("a");
        tenants.release("a");
        assert_eq!(tenants.acquire("a"), first);
        tenants.release("a");
        tenants.release("a");
        assert!(tenants.by_name.is_empty() && tenants.in_use.is_empty());
    }
}
