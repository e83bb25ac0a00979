//! What the engine writes into the journal, and what it does about one that cannot be written.

use std::rc::Rc;

use pcpm_api::{
    error::PoolError,
    types::{Check, CheckStatus},
};
use pcpm_ebpf::abi::SlotCounters;
use tokio::sync::Notify;

use super::{Engine, attachment::Origin, events::Happening};
use crate::{
    journal::{
        Compacted, Compaction, JournalError,
        record::{self, Attached, Kept, Ready, Record, Started, Updated},
    },
    policy::PolicyId,
    pool::{Holder, SlotIndex},
};

impl Engine {
    /// Writes down an attachment before any packet passes it.
    pub(super) fn write_attached(
        &mut self,
        slot: SlotIndex,
        tenant: u32,
        policy: PolicyId,
        origin: Origin,
        holder: &Rc<Holder>,
    ) -> Result<(), PoolError> {
        let Origin {
            source,
            took_us,
            attached_at_ms,
            life,
        } = origin;
        let record = Record::Attached(Attached {
            slot,
            epoch: self.pool.epoch(slot),
            life,
            tenant,
            policy,
            last_name: self.last_name(holder),
            source,
            took_us,
            attached_at_ms,
            holder: holder.clone(),
        });
        self.journal.write(&record).map_err(|e| not_recorded(&e))
    }

    /// Writes down other options before they count.
    pub(super) fn write_updated(
        &mut self,
        slot: SlotIndex,
        policy: PolicyId,
        holder: &Rc<Holder>,
    ) -> Result<(), PoolError> {
        let record = Record::Updated(Updated {
            slot,
            epoch: self.pool.epoch(slot),
            policy,
            last_name: self.last_name(holder),
            holder: holder.clone(),
        });
        self.journal.write(&record).map_err(|e| not_recorded(&e))
    }

    /// The slot may be handed out.
    pub(super) fn note_ready(&mut self, slot: SlotIndex, mtu: u32, baseline: SlotCounters) {
        self.note_reusable(slot, mtu, baseline, None);
    }

    /// The slot may be handed out, to this tenant or to anybody.
    pub(super) fn note_reusable(
        &mut self,
        slot: SlotIndex,
        mtu: u32,
        baseline: SlotCounters,
        tenant: Option<&str>,
    ) {
        let slot = Ready {
            slot,
            epoch: self.pool.epoch(slot),
            class: self.class_name(slot).clone(),
            mtu,
            share: self.classes[self.pool.class_of(slot)].share,
            counters: record::counters(baseline),
        };
        self.journal.note(match tenant {
            None => Record::Ready(slot),
            Some(tenant) => Record::Kept(Kept {
                slot,
                tenant: tenant.to_owned(),
            }),
        });
    }

    /// The slot's traffic is cut.
    pub(super) fn note_detached(&mut self, slot: SlotIndex) {
        let epoch = self.pool.epoch(slot);
        self.records[slot as usize].is_noted_ready = false;
        self.journal.note(Record::Detached { slot, epoch });
    }

    /// The slot is about to be destroyed: it must not be handed out, however much of it is left.
    pub(super) fn note_retiring(&mut self, slot: SlotIndex) {
        if std::mem::take(&mut self.records[slot as usize].is_noted_ready) {
            let epoch = self.pool.epoch(slot);
            self.journal.note(Record::Retiring { slot, epoch });
        }
    }

    /// This life has begun.
    pub(super) fn note_started(&mut self) {
        let (last_policy, last_name) = self.policies.last();
        self.journal.note(Record::Started(Started {
            life: self.life,
            last_policy,
            last_tenant: self.tenants.last(),
            last_name,
        }));
    }

    /// Told when there is something to do for [`begin_compaction`](Self::begin_compaction) or
    /// [`try_again`](Self::try_again).
    pub(crate) fn upkeep_wanted(&self) -> Rc<Notify> {
        self.upkeep_wanted.clone()
    }

    /// A compaction of the journal, if it wants one. What comes of it goes to
    /// [`end_compaction`](Self::end_compaction).
    pub(crate) fn begin_compaction(&mut self) -> Option<Compaction> {
        let wanted = self.journal.wants_compaction();
        wanted.then(|| self.journal.begin_compaction())
    }

    /// Takes what a compaction came to.
    pub(crate) fn end_compaction(&mut self, outcome: Result<Compacted, JournalError>) {
        if let Err(error) = self.journal.finish_compaction(outcome) {
            tracing::warn!("{error}");
        }
    }

    /// Whether something failed that may succeed later.
    pub(crate) fn has_failed(&self) -> bool {
        self.journal.trouble().is_some()
            || !self.unreserved.is_empty()
            || !self.not_withdrawn.is_empty()
    }

    /// Tries again what failed.
    pub(crate) fn try_again(&mut self) {
        if self.journal.trouble().is_some() {
            self.journal.try_again();
        }
        self.reserve_missing();
        self.withdraw_rest();
        self.after_change();
    }

    /// Sees to it that failures are told, and that what has to be done about them is.
    pub(super) fn watch_journal(&mut self) {
        let trouble = self.journal.trouble();
        let fails = trouble.is_some();
        if fails != self.journal_fails {
            let message = match trouble {
                Some(error) => format!("attachments are refused: {error}"),
                None => "is written again".to_owned(),
            };
            let happening = Happening::Journal {
                message,
                is_trouble: fails,
            };
            self.events.push(happening, None, None);
            self.journal_fails = fails;
        }
        if self.has_failed() || self.journal.wants_compaction() {
            self.upkeep_wanted.notify_one();
        }
    }

    /// What is wrong with the journal.
    pub(super) fn journal_warnings(&self) -> impl Iterator<Item = String> {
        let trouble = self.journal.trouble().map(ToString::to_string);
        let findings = self.findings.iter().map(ToString::to_string);
        trouble.into_iter().chain(findings)
    }

    /// The check of the journal.
    pub(crate) fn journal_check(&self) -> Check {
        let warnings: Vec<_> = self.journal_warnings().collect();
        let (status, advice) = match self.journal.trouble() {
            Some(_) => (
                CheckStatus::Failed,
                Some(
                    "attachments are refused until the state directory can be written: make room there",
                ),
            ),
            None if warnings.is_empty() => (CheckStatus::Ok, None),
            None => (
                CheckStatus::Warning,
                Some("see the events and the log of the start"),
            ),
        };
        Check {
            name: "journal".to_owned(),
            status,
            detail: if warnings.is_empty() {
                "attachments survive the daemon".to_owned()
            } else {
                warnings.join("; ")
            },
            advice: advice.map(str::to_owned),
        }
    }

    fn last_name(&self, holder: &Holder) -> u32 {
        if holder.in_force().rules.has_names() {
            self.policies.last().1
        } else {
            0
        }
    }
}

fn not_recorded(error: &JournalError) -> PoolError {
    PoolError::NotRecorded {
        reason: error.to_string(),
    }
}
