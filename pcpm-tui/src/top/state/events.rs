//! What happened, as lines of a log: the daemon's events, dropped packets, long waits, and the dashboard's own
//! connection.

use std::collections::VecDeque;

use pcpm_api::types::{DroppedPackets, Event, LongWait};

use crate::render::humanise;

/// Lines remembered.
pub(crate) const REMEMBERED: usize = 4096;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    Routine,
    Notice,
    Warning,
    Bad,
}

impl Weight {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Routine => "routine",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Bad => "bad",
        }
    }

    fn of(kind: &str) -> Self {
        match kind {
            "failed" | "broken" | "lost" | "tampered" | "journal" => Self::Bad,
            "refused" | "exhausted" | "waiting" | "flows" | "unclean" | "unreserved" | "drop"
            | "long-wait" | "disconnected" => Self::Warning,
            "repaired" | "draining" | "resumed" | "resized" | "reloaded" | "uplink"
            | "cancelled" | "connected" => Self::Notice,
            _ => Self::Routine,
        }
    }
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) time_ms: u64,
    pub(crate) kind: String,
    pub(crate) weight: Weight,
    pub(crate) slot: Option<String>,
    pub(crate) owner: Option<String>,
    pub(crate) tenant: Option<String>,
    pub(crate) message: String,
}

impl Line {
    /// One about the dashboard itself.
    pub(crate) fn own(time_ms: u64, kind: &str, message: String) -> Self {
        Self {
            time_ms,
            kind: kind.to_owned(),
            weight: Weight::of(kind),
            slot: None,
            owner: None,
            tenant: None,
            message,
        }
    }
}

impl From<Event> for Line {
    fn from(event: Event) -> Self {
        Self {
            time_ms: event.time_ms,
            weight: Weight::of(&event.kind),
            kind: event.kind,
            slot: event.slot,
            owner: event.owner,
            tenant: event.tenant,
            message: event.message,
        }
    }
}

impl From<&DroppedPackets> for Line {
    fn from(record: &DroppedPackets) -> Self {
        let end = |address: &Option<String>, port: Option<u16>| {
            let address = address.as_deref().unwrap_or("?");
            port.map_or_else(
                || address.to_owned(),
                |port| format!("{address} port {port}"),
            )
        };
        let packets = match record.packets {
            1 => "1 packet".to_owned(),
            packets => format!("{packets} packets"),
        };
        let protocol = record.protocol.as_deref().unwrap_or("?");
        let from = end(&record.source, record.source_port);
        let to = end(&record.destination, record.destination_port);
        Self {
            slot: record.slot.clone(),
            owner: record.owner.clone(),
            tenant: record.tenant.clone(),
            ..Self::own(
                record.time_ms,
                "drop",
                format!("{}: {packets}, {protocol} {from} to {to}", record.reason),
            )
        }
    }
}

impl From<&LongWait> for Line {
    fn from(wait: &LongWait) -> Self {
        let who = wait.operation.as_deref().unwrap_or(&wait.thread);
        let holder = match (&wait.holder, &wait.holder_caller) {
            (Some(holder), Some(caller)) => format!(", held by {holder} in {caller}"),
            (Some(holder), None) => format!(", held by {holder}"),
            _ => String::new(),
        };
        let waited = humanise::micros(wait.waited_us);
        let message = format!(
            "{who} waited {waited} for {} in {}{holder}",
            wait.lock, wait.caller
        );
        Self::own(wait.time_ms, "long-wait", message)
    }
}

/// The log, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    lines: VecDeque<Line>,
    /// Of the daemon's life that is watched: the number that its next event has.
    next: u64,
    /// Events that came too fast to be told.
    pub(crate) lost: u64,
}

impl Log {
    pub(crate) fn push(&mut self, line: Line) {
        if self.lines.len() == REMEMBERED {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// The daemon's events; those that were told already, before a connection was lost, are known.
    pub(crate) fn take(&mut self, events: Vec<Event>) {
        for event in events {
            if event.sequence >= self.next {
                self.next = event.sequence + 1;
                self.push(event.into());
            }
        }
    }

    /// Another life of the daemon counts its events from the beginning.
    pub(crate) fn another_life(&mut self) {
        self.next = 0;
    }

    pub(crate) fn lines(&self) -> impl DoubleEndedIterator<Item = &Line> {
        self.lines.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(sequence: u64) -> Event {
        Event {
            sequence,
            time_ms: sequence,
            kind: "ready".into(),
            slot: None,
            owner: None,
            tenant: None,
            class: None,
            message: String::new(),
        }
    }

    #[test]
    fn events_told_twice_are_one_line() {
        let mut log = Log::default();
        log.take(vec![event(1), event(2)]);
        log.take(vec![event(1), event(2), event(3)]);
        assert_eq!(log.lines().count(), 3);
        log.another_life();
        log.take(vec![event(0)]);
        assert_eq!(log.lines().count(), 4);
    }

    #[test]
    fn the_log_forgets_the_oldest() {
        let mut log = Log::default();
        log.take((0..REMEMBERED as u64 + 5).map(event).collect());
        assert_eq!(log.lines().count(), REMEMBERED);
        assert_eq!(log.lines().next().unwrap().time_ms, 5);
    }

    #[test]
    fn a_drop_says_what_was_dropped() {
        let record = DroppedPackets {
            sequence: 0,
            time_ms: 1,
            reason: "other-tenant".into(),
            hop: "from-slot".into(),
            packets: 3,
            slot: Some("s0001".into()),
            owner: None,
            tenant: None,
            protocol: Some("tcp".into()),
            source: Some("10.0.0.1".into()),
            source_port: Some(5),
            destination: None,
            destination_port: None,
        };
        let line = Line::from(&record);
        assert_eq!(
            line.message,
            "other-tenant: 3 packets, tcp 10.0.0.1 port 5 to ?"
        );
        assert_eq!(line.weight, Weight::Warning);
    }
}
