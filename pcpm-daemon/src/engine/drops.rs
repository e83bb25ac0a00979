//! What was dropped lately, and for whom: a bounded log of the programs' samples, for those who ask
//! afterwards and those who follow.

use std::{cell::Cell, collections::VecDeque, net::IpAddr, rc::Rc, time::Duration};

use nix::time::{ClockId, clock_gettime};
use pcpm_api::{
    error::PoolError,
    types::{DroppedPackets, DropsReply, DropsRequest},
};
use pcpm_ebpf::{
    abi::{DropRecord, Hop, known},
    drop_reason::DropReason,
    packet::protocol,
};
use tokio::sync::Notify;

use super::{Engine, Shared, unix_time_ms};
use crate::{net::slot_name, pool::Holder};

/// Records remembered.
const REMEMBERED: usize = 1024;

#[derive(Debug)]
struct Entry {
    time_ms: u64,
    record: DropRecord,
    reason: DropReason,
    /// Who held the slot then.
    holder: Option<Rc<Holder>>,
}

/// The log. Sequence numbers start at 0 and have no gaps.
#[derive(Debug, Default)]
pub(super) struct DropLog {
    entries: VecDeque<Entry>,
    forgotten: u64,
    /// Records that found the ring full.
    missed: u64,
    /// Those who follow.
    followers: Vec<Rc<Notify>>,
}

impl DropLog {
    fn push(&mut self, entry: Entry) {
        if self.entries.len() == REMEMBERED {
            self.entries.pop_front();
            self.forgotten += 1;
        }
        self.missed += u64::from(entry.record.missed);
        self.entries.push_back(entry);
    }

    pub(super) fn next_sequence(&self) -> u64 {
        self.forgotten + self.entries.len() as u64
    }

    /// At most the last `count` records from `sequence` on.
    pub(super) fn last(&self, count: u64, sequence: u64) -> Vec<DroppedPackets> {
        let first = self.next_sequence().saturating_sub(count);
        self.since(first.max(sequence), &Wanted::default())
    }

    fn since(&self, sequence: u64, wanted: &Wanted) -> Vec<DroppedPackets> {
        let skip = usize::try_from(sequence.saturating_sub(self.forgotten)).unwrap_or(usize::MAX);
        let entries = (self.forgotten..).zip(&self.entries).skip(skip);
        entries
            .filter(|(_, entry)| wanted.includes(entry))
            .map(|(sequence, entry)| entry.shown(sequence))
            .collect()
    }
}

/// Whose drops somebody asks for, and which.
#[derive(Debug, Default)]
struct Wanted {
    owner: Option<String>,
    reason: Option<DropReason>,
}

impl Wanted {
    fn new(request: DropsRequest) -> Result<Self, PoolError> {
        let reason = request.reason.map(|name| {
            let known = DropReason::ALL.iter().find(|reason| reason.name() == name);
            known.copied().ok_or_else(|| {
                PoolError::invalid("reason", format!("no reason is called '{name}'"))
            })
        });
        Ok(Self {
            owner: request.owner,
            reason: reason.transpose()?,
        })
    }

    fn includes(&self, entry: &Entry) -> bool {
        let holder = entry.holder.as_deref();
        let owner = holder.map(|holder| holder.owner.as_str());
        (self.owner.is_none() || self.owner.as_deref() == owner)
            && self.reason.is_none_or(|reason| reason == entry.reason)
    }
}

impl Entry {
    fn shown(&self, sequence: u64) -> DroppedPackets {
        let record = &self.record;
        let holder = self.holder.as_deref();
        let address = record.known & known::ADDRESSES != 0;
        let port = record.known & known::PORTS != 0;
        DroppedPackets {
            sequence,
            time_ms: self.time_ms,
            reason: self.reason.name().to_owned(),
            hop: hop_name(record.hop).to_owned(),
            packets: record.packets.into(),
            slot: (record.slot != pcpm_ebpf::abi::NO_SLOT).then(|| slot_name(record.slot)),
            owner: holder.map(|holder| holder.owner.clone()),
            tenant: holder.map(|holder| holder.tenant.clone()),
            protocol: address.then(|| protocol_name(record.protocol)),
            source: address.then(|| IpAddr::from(record.source).to_string()),
            source_port: port.then_some(record.source_port),
            destination: address.then(|| IpAddr::from(record.destination).to_string()),
            destination_port: port.then_some(record.destination_port),
        }
    }
}

fn hop_name(number: u8) -> &'static str {
    Hop::ALL
        .get(usize::from(number))
        .map_or("", |hop| hop.name())
}

/// The names of `/etc/protocols`, for the protocols that slots speak.
fn protocol_name(number: u8) -> String {
    const ICMP_V6: u8 = 58;
    match number {
        protocol::ICMP => "icmp".to_owned(),
        ICMP_V6 => "ipv6-icmp".to_owned(),
        protocol::TCP => "tcp".to_owned(),
        protocol::UDP => "udp".to_owned(),
        other => other.to_string(),
    }
}

impl Engine {
    /// Takes what the programs tell of dropped packets.
    pub(crate) fn dropped(&mut self, records: impl Iterator<Item = DropRecord>) {
        let clock = Clock::now();
        for record in records {
            let Some(&reason) = DropReason::ALL.get(record.reason as usize) else {
                continue;
            };
            let entry = Entry {
                time_ms: clock.unix_ms(record.time_ns),
                holder: self.holder_then(&record),
                record,
                reason,
            };
            self.drops.push(entry);
        }
        self.drops
            .followers
            .iter()
            .for_each(|follower| follower.notify_one());
    }

    /// Whoever held the record's slot, if nobody else does by now.
    fn holder_then(&self, record: &DropRecord) -> Option<Rc<Holder>> {
        if record.slot as usize >= self.records.len()
            || self.pool.epoch(record.slot) != record.epoch
        {
            return None;
        }
        self.pool.holder(record.slot).cloned()
    }

    /// The records that are remembered, and how many were lost since start.
    pub(crate) fn recent_drops(&self, request: DropsRequest) -> Result<DropsReply, PoolError> {
        let wanted = Wanted::new(request)?;
        Ok(DropsReply {
            records: self.drops.since(0, &wanted),
            records_lost: self.drops.missed,
        })
    }
}

/// A place among those who follow; dropping it gives the place up.
pub(crate) struct DropFollower {
    engine: Shared,
    wanted: Wanted,
    came: Rc<Notify>,
    next: Cell<u64>,
    missed: Cell<u64>,
}

impl DropFollower {
    /// Follows what is remembered, and what comes.
    pub(crate) fn new(engine: &Shared, request: DropsRequest) -> Result<Self, PoolError> {
        let wanted = Wanted::new(request)?;
        let came: Rc<Notify> = Rc::default();
        let mut borrowed = engine.borrow_mut();
        borrowed.drops.followers.push(came.clone());
        Ok(Self {
            engine: engine.clone(),
            wanted,
            came,
            next: Cell::new(borrowed.drops.forgotten),
            missed: Cell::new(borrowed.drops.missed),
        })
    }

    /// Returns when records came since the last time.
    pub(crate) async fn came(&self) {
        self.came.notified().await;
    }

    /// The records since the last call, and how many came too fast.
    pub(crate) fn records(&self) -> DropsReply {
        let engine = self.engine.borrow();
        let log = &engine.drops;
        let next = self.next.replace(log.next_sequence());
        let missed = self.missed.replace(log.missed);
        DropsReply {
            records: log.since(next, &self.wanted),
            records_lost: log.forgotten.saturating_sub(next) + (log.missed - missed),
        }
    }
}

impl Drop for DropFollower {
    fn drop(&mut self) {
        let followers = &mut self.engine.borrow_mut().drops.followers;
        followers.retain(|follower| !Rc::ptr_eq(follower, &self.came));
    }
}

/// The clock of records beside that of the interface.
struct Clock {
    unix_ms: u64,
    monotonic: Duration,
}

impl Clock {
    fn now() -> Self {
        let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Into::into);
        Self {
            unix_ms: unix_time_ms(),
            monotonic,
        }
    }

    fn unix_ms(&self, monotonic_ns: u64) -> u64 {
        let ago = self
            .monotonic
            .saturating_sub(Duration::from_nanos(monotonic_ns));
        let ago_ms = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        self.unix_ms.saturating_sub(ago_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(missed: u16) -> Entry {
        Entry {
            time_ms: 1,
            record: DropRecord {
                missed,
                ..DropRecord::default()
            },
            reason: DropReason::Multicast,
            holder: None,
        }
    }

    const EVERYTHING: Wanted = Wanted {
        owner: None,
        reason: None,
    };

    #[test]
    fn the_log_forgets_the_oldest_and_counts_what_found_no_room() {
        let mut log = DropLog::default();
        for _ in 0..REMEMBERED + 10 {
            log.push(entry(2));
        }
        let all = log.since(0, &EVERYTHING);
        assert_eq!((all.len(), all[0].sequence), (REMEMBERED, 10));
        assert_eq!(log.missed, 2 * (REMEMBERED as u64 + 10));
        assert_eq!(log.since(log.next_sequence() - 1, &EVERYTHING).len(), 1);
    }

    #[test]
    fn only_what_is_asked_for_is_shown() {
        let mut log = DropLog::default();
        log.push(entry(0));
        log.push(Entry {
            reason: DropReason::OtherTenant,
            holder: Some(Rc::new(Holder {
                owner: "web".into(),
                tenant: "shop".into(),
                class: crate::pool::default_class(),
                labels: std::collections::BTreeMap::new(),
                lease: pcpm_api::types::Lease::Explicit,
                process: None,
                options: pcpm_api::options::Options::default(),
                terms: None,
                uid: 0,
                by_administrator: true,
            })),
            ..entry(0)
        });
        let shown = |owner: Option<&str>, reason: Option<&str>| -> Vec<u64> {
            let wanted = Wanted::new(DropsRequest {
                owner: owner.map(Into::into),
                reason: reason.map(Into::into),
            });
            let shown = log.since(0, &wanted.unwrap());
            shown.iter().map(|record| record.sequence).collect()
        };
        assert_eq!(shown(None, None), [0, 1]);
        assert_eq!(shown(Some("web"), None), [1]);
        assert_eq!(shown(None, Some("multicast")), [0]);
        assert!(shown(Some("web"), Some("multicast")).is_empty());
        let unknown = Wanted::new(DropsRequest {
            owner: None,
            reason: Some("bad-luck".into()),
        });
        let error = unknown.unwrap_err().to_string();
        assert_eq!(error, "reason: no reason is called 'bad-luck'");
    }

    #[test]
    fn a_packet_that_could_not_be_read_has_no_addresses() {
        let mut unread = entry(0);
        unread.record.slot = 7;
        let shown = unread.shown(0);
        assert_eq!(shown.slot.as_deref(), Some("s0007"));
        assert_eq!(
            (shown.source, shown.source_port, shown.protocol),
            (None, None, None)
        );
    }
}
