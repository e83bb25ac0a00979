//! What becomes of used slots where they may be used again.

use std::collections::BTreeMap;

use nix::sys::stat::fstat;
use pcpm_api::types::{RecycleTotals, UncleanCount};
use pcpm_ebpf::abi::SlotCounters;

use super::{Engine, events::Happening, latency::LatencyHistogram, unix_time_ms};
use crate::{
    net::{FreshSlot, Golden, Recycled, RetiredSlot, Scrutiny, Tampered, Unclean, UsedSlot},
    pool::{Event, SlotIndex},
};

/// What is counted of used slots.
#[derive(Debug, Default)]
pub(super) struct RecycleFigures {
    /// Slots that were as good as new.
    recycled: u64,
    /// Those that were not, by what was wrong.
    unclean: BTreeMap<&'static str, u64>,
    pub(super) took: LatencyHistogram,
}

impl RecycleFigures {
    pub(super) fn totals(&self, enabled: bool, portrayed: usize) -> RecycleTotals {
        let unclean = self.unclean.iter().map(|(what, slots)| UncleanCount {
            what: (*what).to_owned(),
            slots: *slots,
        });
        RecycleTotals {
            enabled,
            portrayed: u32::try_from(portrayed).unwrap_or(u32::MAX),
            recycled: self.recycled,
            unclean: unclean.collect(),
            took: self.took.summary(),
        }
    }
}

impl Engine {
    pub(super) fn recycle_totals(&self) -> RecycleTotals {
        let portrayed = self.records.iter().filter(|record| record.golden.is_some());
        self.recycling
            .totals(self.recycler.is_some(), portrayed.count())
    }

    /// Has the golden copy of a slot taken that is ready and that nobody has been in.
    pub(super) fn portray(&mut self, slot: SlotIndex) {
        let Some(recycler) = &self.recycler else {
            return;
        };
        let netns = self.records[slot as usize].netns.as_ref();
        // Without a file descriptor to spare the slot is used once.
        if let Some(Ok(netns)) = netns.map(std::os::fd::OwnedFd::try_clone) {
            recycler.portray(FreshSlot {
                index: slot,
                epoch: self.pool.epoch(slot),
                netns,
            });
        }
    }

    /// A golden copy counts if nobody got the slot meanwhile.
    pub(super) fn portrayed(&mut self, fresh: &FreshSlot, golden: Option<Golden>) {
        let slot = fresh.index;
        let is_idle = self.pool.is_idle(slot) && self.pool.epoch(slot) == fresh.epoch;
        let record = &mut self.records[slot as usize];
        let is_same = match (&record.netns, fstat(&fresh.netns)) {
            (Some(netns), Ok(portrayed)) => {
                fstat(netns).is_ok_and(|kept| kept.st_ino == portrayed.st_ino)
            }
            _ => false,
        };
        if is_idle && is_same {
            record.golden = golden;
        }
    }

    /// A slot that its tenant changes is not used again.
    pub(super) fn tampered(&mut self, tampered: Tampered) {
        let Tampered { slot, how } = tampered;
        if let Some(holder) = self.pool.holder(slot) {
            let happening = Happening::Tampered { how: how.clone() };
            self.events.push(happening, Some(slot), Some(holder));
            self.records[slot as usize].tampered = Some(how);
            self.after_change();
        }
    }

    /// Has a slot judged that was given back, or destroys it where it cannot be used again.
    pub(super) fn recycle(&mut self, slot: SlotIndex) {
        let mtu = self.mtu(self.pool.class_of(slot));
        let record = &mut self.records[slot as usize];
        // Its class may not have been one whose slots are used again when it was made.
        let shares = record
            .text
            .as_ref()
            .is_some_and(|text| !text.share().is_nothing());
        let is_as_others = record.text.as_ref().is_some_and(|text| text.mtu() == mtu);
        let tampered = record.tampered.take();
        let scrutiny = match self.pool.to_be_kept_for(slot) {
            Some(_) => Scrutiny::Holders,
            None => Scrutiny::Everything,
        };
        let golden = record.golden.take();
        let unclean = match (&self.recycler, golden) {
            (None, _) => return self.retire(slot),
            (Some(_), _) if shares => return self.retire(slot),
            (Some(_), _) if tampered.is_some() => {
                Unclean::found("tampered", tampered.unwrap_or_default())
            }
            (Some(_), None) => {
                Unclean::found("no golden copy", "it was attached too early".to_owned())
            }
            (Some(_), Some(_)) if !is_as_others => {
                Unclean::found("mtu", format!("new slots have an MTU of {mtu}"))
            }
            (Some(recycler), Some(golden)) => match record.netns.take() {
                Some(netns) => {
                    return recycler.judge(UsedSlot {
                        index: slot,
                        netns,
                        golden,
                        scrutiny,
                    });
                }
                None => return self.retire(slot),
            },
        };
        self.note_unclean(slot, &unclean);
        self.retire(slot);
    }

    /// A used slot is ready again, or is destroyed.
    pub(super) fn judged(&mut self, recycled: Recycled, took: std::time::Duration) {
        let Recycled {
            slot: used,
            outcome,
        } = recycled;
        let slot = used.index;
        self.records[slot as usize].netns = Some(used.netns);
        if let Err(unclean) = outcome {
            self.note_unclean(slot, &unclean);
            return self.retire(slot);
        }
        let Ok(baseline) = self.datapath.slot_counters(slot) else {
            return self.retire(slot);
        };
        self.recycling.recycled += 1;
        self.recycling.took.record(took);
        self.ready_again(slot, used.golden, baseline);
    }

    fn ready_again(&mut self, slot: SlotIndex, golden: Golden, baseline: SlotCounters) {
        let kept_for = self.pool.to_be_kept_for(slot).cloned();
        let mtu = self.mtu(self.pool.class_of(slot));
        self.note_reusable(slot, mtu, baseline, kept_for.as_deref());
        let record = &mut self.records[slot as usize];
        record.golden = Some(golden);
        record.baseline = baseline;
        record.origin = None;
        record.ready_at_ms = unix_time_ms();
        record.is_noted_ready = true;
        record.shown = record.shown.in_another_slot();
        let recycled = Happening::Recycled { kept_for };
        self.tell_of_slot(recycled, slot);
        self.show_ready();
        self.feed(Event::Recycled(slot), None);
    }

    fn note_unclean(&mut self, slot: SlotIndex, unclean: &Unclean) {
        *self.recycling.unclean.entry(unclean.what).or_default() += 1;
        let happening = Happening::Unclean {
            reason: unclean.why.clone(),
        };
        self.tell_of_slot(happening, slot);
    }

    /// Has a slot destroyed.
    pub(super) fn retire(&mut self, slot: SlotIndex) {
        self.note_retiring(slot);
        let record = &mut self.records[slot as usize];
        record.golden = None;
        if record.is_mending {
            record.is_spent = true;
            return;
        }
        let netns = record.netns.take();
        self.work.retire(RetiredSlot { index: slot, netns });
    }
}
