//! The slots as they are, with what their attachments use a second.

use std::collections::{BTreeMap, VecDeque};

use pcpm_api::types::{Flows, Slot, SlotState, SlotUsage, Source, Traffic};

use crate::top::num::{float, whole};

/// Seconds of traffic remembered for each slot.
pub(crate) const TRAFFIC_SECONDS: usize = 20;

/// One slot that is not vacant.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) slot: Slot,
    /// Since when it is in this state; of an attached one the daemon says it, of others it was seen.
    pub(crate) since_ms: u64,
    pub(crate) traffic: Traffic,
    pub(crate) flows: Flows,
    /// Bytes a second that it sends and receives.
    pub(crate) sends: u64,
    pub(crate) receives: u64,
    /// Packets dropped a second.
    pub(crate) drops: u64,
    pub(crate) sent: VecDeque<u32>,
    pub(crate) received: VecDeque<u32>,
}

impl Row {
    fn new(slot: Slot, now_ms: u64) -> Self {
        Self {
            since_ms: slot.attached_at_ms.unwrap_or(now_ms),
            slot,
            traffic: Traffic::default(),
            flows: Flows::default(),
            sends: 0,
            receives: 0,
            drops: 0,
            sent: VecDeque::new(),
            received: VecDeque::new(),
        }
    }

    fn changed(&mut self, slot: Slot, now_ms: u64) {
        let same_holder = self.slot.epoch == slot.epoch && self.slot.owner == slot.owner;
        if same_holder {
            if self.slot.state != slot.state {
                self.since_ms = slot.attached_at_ms.unwrap_or(now_ms);
            }
            self.slot = slot;
        } else {
            *self = Self::new(slot, now_ms);
        }
    }

    /// Notes what it used in the last `seconds`.
    fn used(&mut self, usage: Option<&SlotUsage>, seconds: f64) {
        let before = std::mem::take(&mut self.traffic);
        let known = usage.filter(|usage| usage.epoch == self.slot.epoch);
        self.traffic = known.map_or(before, |usage| usage.traffic);
        if let Some(usage) = known {
            self.flows = usage.flows;
        }
        let rate =
            |now: u64, before: u64| whole(float(now.saturating_sub(before)) / seconds.max(0.001));
        self.sends = rate(self.traffic.sent_bytes, before.sent_bytes);
        self.receives = rate(self.traffic.received_bytes, before.received_bytes);
        self.drops = rate(self.traffic.dropped_packets, before.dropped_packets);
        remember(&mut self.sent, self.sends);
        remember(&mut self.received, self.receives);
    }

    pub(crate) fn owner(&self) -> &str {
        self.slot.owner.as_deref().unwrap_or_default()
    }

    pub(crate) fn tenant(&self) -> &str {
        self.slot.tenant.as_deref().unwrap_or_default()
    }

    pub(crate) fn is_attached(&self) -> bool {
        self.slot.state == SlotState::Attached
    }

    pub(crate) fn source(&self) -> &'static str {
        self.slot.source.map_or("", Source::as_str)
    }
}

fn remember(past: &mut VecDeque<u32>, rate: u64) {
    if past.len() == TRAFFIC_SECONDS {
        past.pop_front();
    }
    past.push_back(u32::try_from(rate).unwrap_or(u32::MAX));
}

/// All slots that are not vacant, by the number in their name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots {
    rows: BTreeMap<(usize, String), Row>,
    /// When use was told last.
    used_ms: Option<u64>,
}

/// Names grow longer with their numbers.
fn place(name: &str) -> (usize, String) {
    (name.len(), name.to_owned())
}

impl Slots {
    /// Takes a frame's slots: all there are if it is `full`.
    pub(crate) fn update(&mut self, slots: Vec<Slot>, full: bool, now_ms: u64) {
        if full {
            let told: std::collections::BTreeSet<_> =
                slots.iter().map(|slot| place(&slot.slot)).collect();
            self.rows.retain(|key, _| told.contains(key));
            self.used_ms = None;
        }
        for slot in slots {
            let key = place(&slot.slot);
            if slot.state == SlotState::Vacant {
                self.rows.remove(&key);
            } else if let Some(row) = self.rows.get_mut(&key) {
                row.changed(slot, now_ms);
            } else {
                self.rows.insert(key, Row::new(slot, now_ms));
            }
        }
    }

    /// Takes what was used: of attachments that are not named, nothing changed.
    pub(crate) fn used(&mut self, usage: &[SlotUsage], now_ms: u64) {
        let told: BTreeMap<&str, &SlotUsage> = usage
            .iter()
            .map(|usage| (usage.slot.as_str(), usage))
            .collect();
        let before = self.used_ms.replace(now_ms);
        for row in self.rows.values_mut().filter(|row| row.is_attached()) {
            let usage = told.get(row.slot.slot.as_str()).copied();
            // What was used before anybody looked is no rate, nor is what a new attachment used at once.
            match (before, usage) {
                (Some(before_ms), usage) => {
                    let since_ms = before_ms.max(row.since_ms.min(now_ms));
                    let seconds = float(now_ms.saturating_sub(since_ms)) / 1000.0;
                    row.used(usage, seconds.max(0.1));
                }
                (None, Some(usage)) if usage.epoch == row.slot.epoch => {
                    (row.traffic, row.flows) = (usage.traffic, usage.flows);
                }
                (None, _) => {}
            }
        }
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Row> {
        self.rows.get(&place(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str, state: SlotState, owner: Option<&str>, epoch: u32) -> Slot {
        Slot {
            slot: name.to_owned(),
            state,
            epoch,
            class: None,
            owner: owner.map(str::to_owned),
            tenant: owner.map(|_| "t".to_owned()),
            addresses: Vec::new(),
            attached_at_ms: owner.map(|_| 500),
            took_us: None,
            source: None,
            reason: None,
        }
    }

    fn usage(name: &str, epoch: u32, sent_bytes: u64) -> SlotUsage {
        SlotUsage {
            slot: name.to_owned(),
            epoch,
            traffic: Traffic {
                sent_bytes,
                ..Traffic::default()
            },
            flows: Flows::default(),
        }
    }

    fn attached() -> Slots {
        let mut slots = Slots::default();
        slots.update(
            vec![slot("s0001", SlotState::Attached, Some("a"), 1)],
            true,
            1000,
        );
        slots.used(&[usage("s0001", 1, 100)], 1000);
        slots
    }

    #[test]
    fn rates_are_what_was_used_since_the_last_time() {
        let mut slots = attached();
        assert_eq!(slots.get("s0001").unwrap().sends, 0);
        slots.used(&[usage("s0001", 1, 3100)], 3000);
        assert_eq!(slots.get("s0001").unwrap().sends, 1500);
        slots.used(&[], 4000);
        let row = slots.get("s0001").unwrap();
        assert_eq!((row.sends, row.traffic.sent_bytes), (0, 3100));
    }

    #[test]
    fn the_next_holder_begins_with_nothing() {
        let mut slots = attached();
        slots.update(
            vec![slot("s0001", SlotState::Attached, Some("b"), 2)],
            false,
            2000,
        );
        let row = slots.get("s0001").unwrap();
        assert_eq!((row.traffic.sent_bytes, row.sent.len()), (0, 0));
        slots.used(&[usage("s0001", 1, 9999)], 3000);
        assert_eq!(slots.get("s0001").unwrap().traffic.sent_bytes, 0);
    }

    #[test]
    fn a_snapshot_forgets_what_it_does_not_name_and_vacant_slots_are_none() {
        let mut slots = attached();
        let two = ["s0002", "s0003"].map(|name| slot(name, SlotState::Ready, None, 0));
        slots.update(two.to_vec(), true, 2000);
        let names =
            |slots: &Slots| -> Vec<_> { slots.rows().map(|r| r.slot.slot.clone()).collect() };
        assert_eq!(names(&slots), ["s0002", "s0003"]);
        slots.update(vec![slot("s0003", SlotState::Vacant, None, 0)], false, 3000);
        assert_eq!(names(&slots), ["s0002"]);
    }

    #[test]
    fn slots_stand_in_the_order_of_their_numbers() {
        let mut slots = Slots::default();
        let names = ["s10000", "s9999", "s0002"];
        let all = names.map(|name| slot(name, SlotState::Ready, None, 0));
        slots.update(all.to_vec(), true, 1);
        let shown: Vec<_> = slots.rows().map(|row| row.slot.slot.as_str()).collect();
        assert_eq!(shown, ["s0002", "s9999", "s10000"]);
    }
}
