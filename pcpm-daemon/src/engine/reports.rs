//! Takes what the workers did.

use std::rc::Rc;

use pcpm_ebpf::abi::SlotCounters;

use super::{
    Engine, Record, attachment::SlotText, events::Happening, unix_time_ms, workers::Report,
};
use crate::pool::{Event, SlotIndex};

impl Engine {
    /// Takes what the workers did; says whether a request waits for what they do next.
    pub(crate) fn reports(&mut self, reports: impl Iterator<Item = Report>) -> bool {
        reports.for_each(|report| self.report(report));
        self.pool.counts().waiting > 0
    }

    /// Takes what a worker did.
    pub(super) fn report(&mut self, report: Report) {
        let event = match report {
            Report::Created {
                slot,
                netns,
                timings,
            } => {
                self.totals.created += 1;
                self.create_latency.record(timings);
                let baseline = self.baseline(slot);
                self.datapath.begin_flows(slot);
                let class = self.pool.class_of(slot);
                let (mtu, share) = (self.mtu(class), self.classes[class].share);
                self.note_ready(slot, mtu, baseline);
                self.records[slot as usize] = Record {
                    netns: Some(netns),
                    ready_at_ms: unix_time_ms(),
                    baseline,
                    text: Some(Rc::new(SlotText::new(&self.world, slot, mtu, share))),
                    is_noted_ready: true,
                    shown: self.records[slot as usize].shown.in_another_slot(),
                    ..Record::default()
                };
                self.show_ready();
                self.portray(slot);
                self.tell_of_slot(Happening::Ready, slot);
                Event::Created(slot)
            }
            Report::CreateFailed { slot, reason } => {
                self.note_failure(slot, &reason);
                Event::CreateFailed(slot, reason)
            }
            Report::Retired { slot, took } => {
                self.totals.retired += 1;
                self.retire_latency.record(took);
                self.tell_of_slot(Happening::Retired, slot);
                Event::Retired(slot)
            }
            Report::RetireFailed { slot, reason } => {
                self.note_failure(slot, &reason);
                Event::RetireFailed(slot, reason)
            }
            Report::Portrayed { slot, golden } => return self.portrayed(&slot, golden),
            Report::Tampered(tampered) => return self.tampered(tampered),
            Report::Judged { recycled, took } => return self.judged(recycled, took),
            Report::Mended { slot, outcome } => return self.mended(slot, outcome),
        };
        self.feed(event, None);
    }

    /// The counters of a slot that was just made; an index that was never used has counted nothing.
    fn baseline(&self, slot: SlotIndex) -> SlotCounters {
        match self.pool.epoch(slot) {
            0 => SlotCounters::default(),
            _ => self.datapath.slot_counters(slot).unwrap_or_default(),
        }
    }

    fn note_failure(&mut self, slot: SlotIndex, reason: &str) {
        self.totals.failed += 1;
        let failed = Happening::Failed {
            reason: reason.to_owned(),
        };
        self.tell_of_slot(failed, slot);
    }
}
