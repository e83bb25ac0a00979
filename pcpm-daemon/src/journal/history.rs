//! What the records come to: the state of every slot after the last of them.

use std::collections::BTreeMap;

use super::record::{Attached, Kept, Ready, Record, Started, Updated};
use crate::pool::SlotIndex;

/// The records put together. A record that cannot be is ignored: a detach of what is not attached,
/// say. What is kept is enough to write the same state again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct History {
    /// Numbers used so far.
    pub(crate) used: Started,
    /// All slots that anything is known of.
    pub(crate) slots: BTreeMap<SlotIndex, SlotHistory>,
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlotHistory {
    /// Its last attachment.
    pub(crate) epoch: u32,
    /// How it was made, if it was.
    pub(crate) made: Option<Ready>,
    pub(crate) state: Known,
}

/// What is known of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It was made and nobody had it since.
    Ready,
    /// It may be handed to this tenant, which had it before.
    Kept(String),
    /// Somebody has it.
    Attached(Box<Attached>),
    /// Somebody had it, or it was about to be destroyed.
    Spent,
}

impl History {
    /// Takes the next record.
    pub(crate) fn apply(&mut self, record: Record) {
        match record {
            Record::Started(started) => self.note_used(started),
            Record::Ready(ready) => self.made(&ready, Known::Ready),
            Record::Kept(Kept { slot, tenant }) => self.made(&slot, Known::Kept(tenant)),
            Record::Attached(attached) => self.attached(attached),
            Record::Updated(updated) => self.updated(updated),
            Record::Detached { slot, epoch } | Record::Retiring { slot, epoch } => {
                self.spent(slot, epoch);
            }
        }
    }

    /// The fewest records that come to the same.
    pub(crate) fn records(&self) -> impl Iterator<Item = Record> {
        let slots = self.slots.iter().flat_map(|(&slot, known)| {
            let made = known.made.clone().map(|made| match &known.state {
                Known::Kept(tenant) => Record::Kept(Kept {
                    slot: made,
                    tenant: tenant.clone(),
                }),
                _ => Record::Ready(made),
            });
            let last = match &known.state {
                Known::Ready | Known::Kept(_) => None,
                Known::Attached(attached) => Some(Record::Attached(attached.as_ref().clone())),
                Known::Spent => Some(Record::Retiring {
                    slot,
                    epoch: known.epoch,
                }),
            };
            [made, last].into_iter().flatten()
        });
        std::iter::once(Record::Started(self.used)).chain(slots)
    }

    fn note_used(&mut self, used: Started) {
        let Started {
            life,
            last_policy,
            last_tenant,
            last_name,
        } = &mut self.used;
        *life = used.life.max(*life);
        *last_policy = used.last_policy.max(*last_policy);
        *last_tenant = used.last_tenant.max(*last_tenant);
        *last_name = used.last_name.max(*last_name);
    }

    fn made(&mut self, made: &Ready, state: Known) {
        let known = SlotHistory {
            epoch: self.epoch(made.slot).max(made.epoch),
            made: Some(made.clone()),
            state,
        };
        self.slots.insert(made.slot, known);
    }

    fn attached(&mut self, attached: Attached) {
        self.note_used(Started {
            life: attached.life,
            last_policy: attached.policy,
            last_tenant: attached.tenant,
            last_name: attached.last_name,
        });
        let slot = self.slots.entry(attached.slot).or_insert(SlotHistory {
            epoch: 0,
            made: None,
            state: Known::Spent,
        });
        if attached.epoch > slot.epoch {
            slot.epoch = attached.epoch;
            slot.state = Known::Attached(Box::new(attached));
        }
    }

    fn updated(&mut self, updated: Updated) {
        self.note_used(Started {
            last_policy: updated.policy,
            last_name: updated.last_name,
            ..Started::default()
        });
        let state = self
            .slots
            .get_mut(&updated.slot)
            .map(|slot| &mut slot.state);
        if let Some(Known::Attached(attached)) = state
            && attached.epoch == updated.epoch
        {
            attached.policy = updated.policy;
            attached.last_name = updated.last_name;
            attached.holder = updated.holder;
        }
    }

    /// What it was made like does not matter any more.
    fn spent(&mut self, slot: SlotIndex, epoch: u32) {
        let before = self.epoch(slot);
        if epoch >= before {
            let spent = SlotHistory {
                epoch,
                made: None,
                state: Known::Spent,
            };
            self.slots.insert(slot, spent);
        }
    }

    fn epoch(&self, slot: SlotIndex) -> u32 {
        self.slots.get(&slot).map_or(0, |known| known.epoch)
    }
}
