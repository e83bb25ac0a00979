//! Quotas: how many attachments a tenant, or a user, may hold, and how many it may make a second.
//!
//! A request is counted when the pool takes it, also while it waits, so that a crowd of waiting requests
//! cannot exceed a quota together. What was counted is given back when the request comes to nothing or
//! the attachment ends.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    time::Duration,
};

use super::{Holder, Now};

/// How far attaches may run ahead of their rate: what the rate allows in this time may come at once.
const BURST: Duration = Duration::from_secs(1);

/// Accounts looked at together when there may be some to forget.
const FEW: usize = 64;

/// What one tenant or one user may have; `None` where there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Attachments at once, at least 1.
    pub attachments: Option<u32>,
    /// Attaches a second, at least 1.
    pub attach_rate: Option<u32>,
}

/// The quotas of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Of a tenant that is not named in `tenants`.
    pub tenant: Quota,
    /// Of tenants with quotas of their own.
    pub tenants: BTreeMap<String, Quota>,
    /// Of a user that is no administrator.
    pub user: Quota,
}

/// Whose quota is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The tenant's.
    Tenant,
    /// That of the user who asks.
    User,
}

/// A quota that a request would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// This many attachments are held or waited for.
    Attachments {
        /// By whom.
        scope: Scope,
        /// The quota.
        limit: u32,
    },
    /// This many attaches a second came.
    Rate {
        /// From whom.
        scope: Scope,
        /// The quota.
        limit: u32,
        /// When the next one would not be one too many.
        retry_after: Duration,
    },
}

/// What is held, against the quotas.
#[derive(Debug, Default)]
pub(super) struct Usage {
    quotas: Quotas,
    tenants: Accounts<String>,
    users: Accounts<u32>,
}

impl Usage {
    pub(super) fn new(quotas: Quotas) -> Self {
        Self {
            quotas,
            ..Self::default()
        }
    }

    /// Other quotas; what is counted stays.
    pub(super) fn set_quotas(&mut self, quotas: Quotas) {
        self.quotas = quotas;
    }

    /// Counts one more attachment of the holder, or says which quota does not allow it.
    pub(super) fn admit(&mut self, holder: &Holder, now: Now) -> Result<(), Exceeded> {
        let tenant = self.tenant_quota(&holder.tenant);
        let user = self.user_quota(holder);
        self.tenants
            .may_take(&holder.tenant, tenant, Scope::Tenant, now)?;
        self.users.may_take(&holder.uid, user, Scope::User, now)?;
        self.tenants.take(&holder.tenant, tenant, now);
        self.users.take(&holder.uid, user, now);
        Ok(())
    }

    /// Counts an attachment of an earlier life, whatever the quotas are today.
    pub(super) fn restore(&mut self, holder: &Holder) {
        let unlimited = Quota::default();
        self.tenants.take(&holder.tenant, unlimited, Now::ZERO);
        self.users.take(&holder.uid, unlimited, Now::ZERO);
    }

    /// Gives back what was counted for the holder.
    pub(super) fn release(&mut self, holder: &Holder, now: Now) {
        self.tenants.give_back(&holder.tenant, now);
        self.users.give_back(&holder.uid, now);
    }

    /// Tenants that hold or wait for something under a limit: how much, and the limit.
    pub(super) fn limited_tenants(&self) -> impl Iterator<Item = (&str, u32, u32)> {
        let held = self.tenants.0.iter();
        held.filter_map(|(tenant, account)| {
            let limit = self.tenant_quota(tenant).attachments?;
            Some((tenant.as_str(), account.attachments, limit))
        })
    }

    /// What is counted for a tenant.
    #[cfg(test)]
    pub(super) fn of_tenant(&self, tenant: &str) -> u32 {
        let account = self.tenants.0.get(tenant);
        account.map_or(0, |account| account.attachments)
    }

    fn tenant_quota(&self, tenant: &str) -> Quota {
        *self
            .quotas
            .tenants
            .get(tenant)
            .unwrap_or(&self.quotas.tenant)
    }

    fn user_quota(&self, holder: &Holder) -> Quota {
        if holder.by_administrator {
            Quota::default()
        } else {
            self.quotas.user
        }
    }
}

/// What tenants, or users, hold.
#[derive(Debug)]
struct Accounts<K>(HashMap<K, Account>);

/// What one of them holds.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    attachments: u32,
    /// When all of [`BURST`] may come at once again.
    rested: Now,
}

impl<K> Default for Accounts<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Clone + Eq + Hash> Accounts<K> {
    fn may_take(&self, key: &K, quota: Quota, scope: Scope, now: Now) -> Result<(), Exceeded> {
        let account = self.0.get(key).copied().unwrap_or_default();
        if let Some(limit) = quota.attachments.filter(|&n| account.attachments >= n) {
            return Err(Exceeded::Attachments { scope, limit });
        }
        let Some(limit) = quota.attach_rate else {
            return Ok(());
        };
        // One more is due `interval` later; it must not be further ahead than the burst.
        let ahead = account.rested.saturating_sub(now) + interval(limit);
        match ahead.checked_sub(BURST) {
            None | Some(Duration::ZERO) => Ok(()),
            Some(retry_after) => Err(Exceeded::Rate {
                scope,
                limit,
                retry_after,
            }),
        }
    }

    fn take(&mut self, key: &K, quota: Quota, now: Now) {
        let account = match self.0.get_mut(key) {
            Some(account) => account,
            None => self.0.entry(key.clone()).or_default(),
        };
        account.attachments += 1;
        if let Some(rate) = quota.attach_rate {
            account.rested = account.rested.max(now) + interval(rate);
        }
    }

    fn give_back(&mut self, key: &K, now: Now) {
        let Some(account) = self.0.get_mut(key) else {
            return;
        };
        account.attachments = account.attachments.saturating_sub(1);
        if account.is_forgettable(now) {
            self.0.remove(key);
        } else if self.0.len() >= FEW && self.0.len() == self.0.capacity() {
            // Those that rest are forgotten before the table grows: names cost nothing to invent.
            self.0.retain(|_, account| !account.is_forgettable(now));
        }
    }
}

impl Account {
    fn is_forgettable(&self, now: Now) -> bool {
        self.attachments == 0 && self.rested <= now
    }
}

fn interval(rate: u32) -> Duration {
    BURST / rate.max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tests::holder;

    const MS: Duration = Duration::from_millis(1);

    fn quota(attachments: u32, attach_rate: u32) -> Quota {
        let limit = |n| (n > 0).then_some(n);
        Quota {
            attachments: limit(attachments),
            attach_rate: limit(attach_rate),
        }
    }

    fn of_tenants(attachments: u32, attach_rate: u32) -> Usage {
        Usage::new(Quotas {
            tenant: quota(attachments, attach_rate),
            ..Quotas::default()
        })
    }

    #[test]
    fn a_tenant_holds_no_more_than_its_quota_and_others_do_not_notice() {
        let mut usage = of_tenants(2, 0);
        let greedy = holder("a", "greedy");
        for _ in 0..2 {
            usage.admit(&greedy, Now::ZERO).unwrap();
        }
        let scope = Scope::Tenant;
        let refused = Err(Exceeded::Attachments { scope, limit: 2 });
        assert_eq!(usage.admit(&greedy, Now::ZERO), refused);
        usage.admit(&holder("b", "modest"), Now::ZERO).unwrap();
        usage.release(&greedy, Now::ZERO);
        usage.admit(&greedy, Now::ZERO).unwrap();
    }

    #[test]
    fn a_named_tenant_has_a_quota_of_its_own() {
        let mut usage = of_tenants(1, 0);
        usage.quotas.tenants.insert("big".into(), quota(3, 0));
        let big = holder("a", "big");
        for _ in 0..3 {
            usage.admit(&big, Now::ZERO).unwrap();
        }
        assert!(usage.admit(&big, Now::ZERO).is_err());
    }

    #[test]
    fn a_rate_allows_a_second_s_worth_at_once_and_says_when_to_come_again() {
        let mut usage = of_tenants(0, 10);
        let tenant = holder("a", "t");
        for _ in 0..10 {
            usage.admit(&tenant, Now::ZERO).unwrap();
        }
        let refused = Exceeded::Rate {
            scope: Scope::Tenant,
            limit: 10,
            retry_after: 70 * MS,
        };
        assert_eq!(usage.admit(&tenant, 30 * MS), Err(refused));
        usage.admit(&tenant, 100 * MS).unwrap();
    }

    #[test]
    fn administrators_have_no_quota_as_users() {
        let mut usage = Usage::new(Quotas {
            user: quota(1, 0),
            ..Quotas::default()
        });
        let user = holder("a", "t");
        usage.admit(&user, Now::ZERO).unwrap();
        let scope = Scope::User;
        let refused = Err(Exceeded::Attachments { scope, limit: 1 });
        assert_eq!(usage.admit(&user, Now::ZERO), refused);
        let administrator = Holder {
            by_administrator: true,
            ..user
        };
        usage.admit(&administrator, Now::ZERO).unwrap();
    }

    #[test]
    fn restored_attachments_count() {
        let mut usage = of_tenants(1, 0);
        usage.restore(&holder("a", "t"));
        assert!(usage.admit(&holder("b", "t"), Now::ZERO).is_err());
    }

    #[test]
    fn tenants_that_come_and_go_are_forgotten() {
        let mut usage = of_tenants(0, 1000);
        for number in 0..10_000 {
            let passing = holder("a", &format!("t{number}"));
            let now = number * MS;
            usage.admit(&passing, now).unwrap();
            usage.release(&passing, now);
        }
        assert!(usage.tenants.0.len() < 1000, "{}", usage.tenants.0.len());
    }

    proptest! {
        #[test]
        fn no_second_sees_more_than_twice_the_rate(
            rate in 1..50_u32,
            pauses in prop::collection::vec(0..200_u64, 1..300),
        ) {
            let mut usage = of_tenants(0, rate);
            let tenant = holder("a", "t");
            let mut now = Now::ZERO;
            let mut admitted = Vec::new();
            for pause in pauses {
                now += Duration::from_millis(pause);
                if usage.admit(&tenant, now).is_ok() {
                    admitted.push(now);
                }
                let recent = admitted.iter().filter(|&&at| at + BURST > now).count();
                prop_assert!(recent <= 2 * rate as usize, "{recent} in a second");
            }
        }
    }
}
