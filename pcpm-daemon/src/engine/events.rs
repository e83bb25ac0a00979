//! What happened lately: a bounded log that watchers read from.

use std::{collections::VecDeque, rc::Rc};

use pcpm_api::{
    error::PoolError,
    types::{self, Source},
};
use tracing::Level;

use super::{log_lines::LogLines, unix_time_ms};
use crate::{collector::FillChange, net::slot_name, pool::Holder, pool::SlotIndex, pool::Target};

/// Events remembered. A watcher that falls behind by more is told how many it lost.
const REMEMBERED: usize = 4096;

/// What can happen, with what is said about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Happening {
    Ready,
    Attached {
        source: Source,
        took_us: u64,
    },
    Detached,
    Updated,
    /// An attachment could not have what its class gives now, and keeps what it had.
    NotUpdated {
        reason: String,
    },
    Retired,
    /// A used slot may be used again, by this tenant alone or by anybody.
    Recycled {
        kept_for: Option<Rc<str>>,
    },
    /// A used slot is not, and is destroyed.
    Unclean {
        reason: String,
    },
    /// A slot's tenant changes it: it will not be used again.
    Tampered {
        how: String,
    },
    Failed {
        reason: String,
    },
    Waiting {
        ahead: u32,
    },
    Cancelled,
    Exhausted {
        waiting: u32,
    },
    Refused {
        error: PoolError,
    },
    Reloaded {
        message: String,
    },
    NotReloaded {
        reason: String,
    },
    Draining {
        on: bool,
    },
    Resized {
        capacity: u32,
        target: Target,
    },
    Uplinks {
        now: Vec<types::Uplink>,
    },
    /// An attachment of an earlier life could not be kept.
    Lost {
        reason: String,
    },
    /// A port is led to the slot but could not be taken on the host.
    Unreserved {
        reason: String,
    },
    /// A hub lacked something and has it again.
    Repaired {
        what: String,
    },
    /// A hub, or a slot that somebody holds, does not work any more and cannot be repaired.
    Broken {
        reason: String,
    },
    /// The journal could not be used as it should, or can again.
    Journal {
        message: String,
        is_trouble: bool,
    },
    /// Clients cannot be accepted, or can again.
    Clients {
        message: String,
        is_trouble: bool,
    },
    Flows(FillChange),
}

impl Happening {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Attached { .. } => "attached",
            Self::Detached => "detached",
            Self::Updated | Self::NotUpdated { .. } => "updated",
            Self::Retired => "retired",
            Self::Recycled { .. } => "recycled",
            Self::Unclean { .. } => "unclean",
            Self::Tampered { .. } => "tampered",
            Self::Failed { .. } => "failed",
            Self::Waiting { .. } => "waiting",
            Self::Cancelled => "cancelled",
            Self::Exhausted { .. } => "exhausted",
            Self::Refused { .. } => "refused",
            Self::Draining { on: true } => "draining",
            Self::Draining { on: false } => "resumed",
            Self::Resized { .. } => "resized",
            Self::Reloaded { .. } | Self::NotReloaded { .. } => "reloaded",
            Self::Uplinks { .. } => "uplink",
            Self::Lost { .. } => "lost",
            Self::Unreserved { .. } => "unreserved",
            Self::Repaired { .. } => "repaired",
            Self::Broken { .. } => "broken",
            Self::Journal { .. } => "journal",
            Self::Clients { .. } => "clients",
            Self::Flows(_) => "flows",
        }
    }

    /// How much it matters to whoever reads the log: what clients and tenants cause by the thousand is for
    /// those who look for it.
    pub(super) fn level(&self) -> Level {
        match self {
            Self::Lost { .. } | Self::Broken { .. } | Self::NotReloaded { .. } => Level::ERROR,
            Self::Journal { is_trouble, .. } | Self::Clients { is_trouble, .. } if *is_trouble => {
                Level::ERROR
            }
            Self::Flows(change) if change.is_high => Level::WARN,
            Self::Failed { .. }
            | Self::NotUpdated { .. }
            | Self::Unreserved { .. }
            | Self::Repaired { .. }
            | Self::Exhausted { .. } => Level::WARN,
            Self::Draining { .. }
            | Self::Resized { .. }
            | Self::Reloaded { .. }
            | Self::Uplinks { .. }
            | Self::Journal { .. }
            | Self::Clients { .. }
            | Self::Flows(_) => Level::INFO,
            Self::Ready
            | Self::Attached { .. }
            | Self::Detached
            | Self::Updated
            | Self::Retired
            | Self::Recycled { .. }
            | Self::Unclean { .. }
            | Self::Tampered { .. }
            | Self::Waiting { .. }
            | Self::Cancelled
            | Self::Refused { .. } => Level::DEBUG,
        }
    }

    pub(super) fn message(&self) -> String {
        match self {
            Self::Attached { source, took_us } => format!("{source}, {took_us} µs"),
            Self::Unclean { reason }
            | Self::Failed { reason }
            | Self::Lost { reason }
            | Self::Broken { reason }
            | Self::Unreserved { reason } => reason.clone(),
            Self::Repaired { what } => what.clone(),
            Self::Journal { message, .. }
            | Self::Clients { message, .. }
            | Self::Reloaded { message } => message.clone(),
            Self::NotUpdated { reason } => format!("not updated, it keeps what it had: {reason}"),
            Self::NotReloaded { reason } => format!("not reloaded: {reason}"),
            Self::Tampered { how } => how.clone(),
            Self::Waiting { ahead: 0 } => "next in line for a slot".to_owned(),
            Self::Waiting { ahead } => format!("for a slot, behind {ahead}"),
            Self::Exhausted { waiting } => format!("{waiting} requests wait"),
            Self::Refused { error } => error.to_string(),
            Self::Draining { on: true } => "takes no new attachments".to_owned(),
            Self::Draining { on: false } => "takes attachments again".to_owned(),
            Self::Resized {
                capacity,
                target: Target::Fixed(ready),
            } => format!("capacity {capacity}, ready {ready}"),
            Self::Resized {
                capacity,
                target: Target::Adaptive(bounds),
            } => format!(
                "capacity {capacity}, {} to {} ready",
                bounds.floor, bounds.ceiling
            ),
            Self::Cancelled => "no longer wanted".to_owned(),
            Self::Uplinks { now } if now.is_empty() => "none".to_owned(),
            Self::Uplinks { now } => {
                let each = now
                    .iter()
                    .map(|uplink| format!("{} {}", uplink.interface, uplink.address));
                each.collect::<Vec<_>>().join(", ")
            }
            Self::Flows(FillChange { used, usable, .. }) => {
                format!("{used} of {usable} entries in use")
            }
            Self::Recycled {
                kept_for: Some(tenant),
            } => format!("kept for tenant {tenant}"),
            Self::Ready
            | Self::Detached
            | Self::Updated
            | Self::Retired
            | Self::Recycled { kept_for: None } => String::new(),
        }
    }
}

#[derive(Debug)]
struct Entry {
    time_ms: u64,
    happening: Happening,
    class: Option<Rc<str>>,
    slot: Option<SlotIndex>,
    holder: Option<Rc<Holder>>,
}

/// The log. Sequence numbers start at 0 and have no gaps.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    entries: VecDeque<Entry>,
    forgotten: u64,
    lines: LogLines,
}

impl EventLog {
    /// Remembers what happened, and logs it.
    pub(super) fn push(
        &mut self,
        happening: Happening,
        slot: Option<SlotIndex>,
        holder: Option<&Rc<Holder>>,
    ) {
        let class = holder.map(|holder| holder.class.clone());
        self.push_in(happening, class, slot, holder);
    }

    /// The same about a class.
    pub(super) fn push_in(
        &mut self,
        happening: Happening,
        class: Option<Rc<str>>,
        slot: Option<SlotIndex>,
        holder: Option<&Rc<Holder>>,
    ) {
        self.lines.log(&happening, slot, holder.map(Rc::as_ref));
        if self.entries.len() == REMEMBERED {
            self.entries.pop_front();
            self.forgotten += 1;
        }
        self.entries.push_back(Entry {
            time_ms: unix_time_ms(),
            happening,
            class,
            slot,
            holder: holder.cloned(),
        });
    }

    /// The number that the next event will have.
    pub(super) fn next_sequence(&self) -> u64 {
        self.forgotten + self.entries.len() as u64
    }

    /// The number of the first of the last `count` events, or of those that are remembered.
    pub(super) fn last(&self, count: u64) -> u64 {
        let first = self.next_sequence().saturating_sub(count);
        first.max(self.forgotten)
    }

    /// The events from `sequence` on, and how many of them are forgotten.
    pub(super) fn since(&self, sequence: u64) -> (Vec<types::Event>, u64) {
        let lost = self.forgotten.saturating_sub(sequence);
        let skip = usize::try_from(sequence.saturating_sub(self.forgotten)).unwrap_or(usize::MAX);
        let events = (self.forgotten..).zip(&self.entries).skip(skip);
        (
            events
                .map(|(sequence, entry)| entry.event(sequence))
                .collect(),
            lost,
        )
    }
}

impl Entry {
    fn event(&self, sequence: u64) -> types::Event {
        let holder = self.holder.as_deref();
        types::Event {
            sequence,
            time_ms: self.time_ms,
            kind: self.happening.kind().to_owned(),
            slot: self.slot.map(slot_name),
            owner: holder.map(|holder| holder.owner.clone()),
            tenant: holder.map(|holder| holder.tenant.clone()),
            class: self.class.as_ref().map(ToString::to_string),
            message: self.happening.message(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(events: usize) -> EventLog {
        let mut log = EventLog::default();
        for _ in 0..events {
            log.push(Happening::Ready, Some(1), None);
        }
        log
    }

    #[test]
    fn a_reader_gets_what_came_since_it_last_read() {
        let log = log(5);
        let (events, lost) = log.since(3);
        assert_eq!(
            events
                .iter()
                .map(|event| event.sequence)
                .collect::<Vec<_>>(),
            [3, 4]
        );
        assert_eq!(lost, 0);
        assert!(log.since(5).0.is_empty());
    }

    #[test]
    fn a_reader_that_fell_behind_is_told_how_many_events_it_lost() {
        let log = log(REMEMBERED + 10);
        let (events, lost) = log.since(4);
        assert_eq!((events.len(), lost), (REMEMBERED, 6));
        assert_eq!(events[0].sequence, 10);
    }
}
