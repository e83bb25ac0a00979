//! Tenants: what their attachments use together, and what of theirs was dropped.

use std::collections::BTreeMap;

use pcpm_api::types::{DroppedPackets, TenantQuota};

use super::slots::{Row, TRAFFIC_SECONDS};

/// Tenants whose drops are remembered by reason.
const REMEMBERED: usize = 1024;

/// What the attachments of one tenant use together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tenant {
    pub(crate) name: String,
    pub(crate) attachments: u64,
    pub(crate) limit: Option<u32>,
    /// Bytes a second.
    pub(crate) sends: u64,
    pub(crate) receives: u64,
    /// Of all attachments since they began.
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    pub(crate) flows: u64,
    pub(crate) opened: u64,
    pub(crate) dropped: u64,
    /// Packets dropped a second.
    pub(crate) drops: u64,
    /// Bytes a second in both directions, the last seconds.
    pub(crate) traffic: Vec<u64>,
    /// Packets dropped since the dashboard looks, by reason, most first.
    pub(crate) reasons: Vec<(String, u64)>,
}

impl Tenant {
    fn add(&mut self, row: &Row) {
        let traffic = &row.traffic;
        self.attachments += 1;
        let sums = [
            (&mut self.sends, row.sends),
            (&mut self.receives, row.receives),
            (
                &mut self.bytes,
                traffic.sent_bytes.saturating_add(traffic.received_bytes),
            ),
            (
                &mut self.packets,
                traffic
                    .sent_packets
                    .saturating_add(traffic.received_packets),
            ),
            (&mut self.flows, row.flows.used.into()),
            (&mut self.opened, row.flows.opened),
            (&mut self.dropped, traffic.dropped_packets),
            (&mut self.drops, row.drops),
        ];
        for (sum, more) in sums {
            *sum = sum.saturating_add(more);
        }
        self.traffic.resize(TRAFFIC_SECONDS, 0);
        for past in [&row.sent, &row.received] {
            let newest_first = self.traffic.iter_mut().rev().zip(past.iter().rev());
            newest_first.for_each(|(sum, rate)| *sum = sum.saturating_add(u64::from(*rate)));
        }
    }
}

/// What was dropped, by tenant and reason.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dropped(BTreeMap<String, BTreeMap<String, u64>>);

impl Dropped {
    pub(crate) fn add(&mut self, records: &[DroppedPackets]) {
        for record in records {
            let Some(tenant) = &record.tenant else {
                continue;
            };
            if self.0.len() >= REMEMBERED && !self.0.contains_key(tenant) {
                continue;
            }
            let reasons = self.0.entry(tenant.clone()).or_default();
            let packets = reasons.entry(record.reason.clone()).or_default();
            *packets = packets.saturating_add(record.packets);
        }
    }

    fn of(&self, tenant: &str) -> Vec<(String, u64)> {
        let reasons = self.0.get(tenant).into_iter().flatten();
        let mut reasons: Vec<_> = reasons
            .map(|(reason, packets)| (reason.clone(), *packets))
            .collect();
        reasons.sort_by_key(|(_, packets)| std::cmp::Reverse(*packets));
        reasons
    }
}

/// All tenants that hold something or have a quota, by name.
pub(crate) fn tenants<'a>(
    rows: impl Iterator<Item = &'a Row>,
    quotas: &[TenantQuota],
    dropped: &Dropped,
) -> Vec<Tenant> {
    let mut tenants: BTreeMap<&str, Tenant> = BTreeMap::new();
    for row in rows.filter(|row| row.is_attached()) {
        tenants.entry(row.tenant()).or_default().add(row);
    }
    for quota in quotas {
        let tenant = tenants.entry(&quota.tenant).or_default();
        tenant.limit = quota.limit;
    }
    tenants
        .into_iter()
        .map(|(name, tenant)| Tenant {
            name: name.to_owned(),
            reasons: dropped.of(name),
            ..tenant
        })
        .collect()
}
