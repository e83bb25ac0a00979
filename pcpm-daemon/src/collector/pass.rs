//! One look through the flow table: what is dead goes, and what is left is counted, to correct the counts
//! by entries that the kernel evicted.

use pcpm_ebpf::{
    abi::{DEAD_FLOWS, DeadFlow, FlowKey, FlowTable, SealedFlow, SlotFlows},
    nat::is_worth_collecting,
    quota::{self, ENTRIES_PER_CONNECTION},
};

use super::{Batch, FlowStore};
use crate::bpf::BpfError;

/// See the module's documentation.
pub(super) struct Pass<'a> {
    store: &'a mut dyn FlowStore,
    batch: Batch,
    /// What the table had when it began.
    table: FlowTable,
    slots: Vec<SlotAtStart>,
    /// Entries found that were not collected.
    seen: u32,
    dead: Vec<Dead>,
    collected: u64,
    /// Entries that may be counted and not made yet, or the other way round.
    in_between: u32,
}

struct SlotAtStart {
    counts: SlotFlows,
    is_pressed: bool,
    /// Entries found of the attachment that the counts are about, that were not collected.
    seen: u32,
}

/// An entry that seems dead, and whose it is.
#[derive(Clone, Copy)]
struct Dead {
    flow: DeadFlow,
    slot: u32,
    epoch: u32,
}

impl<'a> Pass<'a> {
    /// Begins on a machine with `cpus` processors, each of which opens one connection at a time.
    pub(super) fn begin(store: &'a mut dyn FlowStore, cpus: u32) -> Self {
        let table = store.table();
        let slots = (0..store.slots()).map(|slot| {
            let counts = store.slot(slot);
            SlotAtStart {
                counts,
                is_pressed: table.is_pressed(Tally::of(&counts).number),
                seen: 0,
            }
        });
        let slots = slots.collect();
        store.begin();
        Self {
            store,
            batch: Batch::default(),
            table,
            slots,
            seen: 0,
            dead: Vec::new(),
            collected: 0,
            in_between: cpus * ENTRIES_PER_CONNECTION,
        }
    }

    /// Looks at the next entries. Says whether there are more; after the last, the counts are right.
    pub(super) fn step(&mut self, now_ns: u64) -> Result<bool, BpfError> {
        let more = self.store.read(&mut self.batch)?;
        for index in 0..self.batch.len() {
            let (key, entry) = self.batch.get(index);
            self.look_at(&key, &entry, now_ns);
        }
        self.collect()?;
        if !more {
            self.correct();
        }
        Ok(more)
    }

    /// Entries collected so far.
    pub(super) fn collected(&self) -> u64 {
        self.collected
    }

    fn look_at(&mut self, key: &FlowKey, entry: &SealedFlow, now_ns: u64) {
        let flow = &entry.flow;
        let holder = self.store.holder(flow.slot);
        // One with a broken seal is being replaced or removed.
        let (Some(word), true) = (holder, flow.seal(key) == entry.seal) else {
            self.seen += 1;
            return;
        };
        let slot = self.slots.get(flow.slot as usize);
        let is_pressed = slot.is_some_and(|slot| slot.is_pressed);
        let dead = Dead {
            flow: DeadFlow {
                key: *key,
                seal: entry.seal[0],
                last_seen_ns: flow.last_seen_ns,
            },
            slot: flow.slot,
            epoch: flow.epoch,
        };
        if is_worth_collecting(key, flow, word, is_pressed, now_ns) {
            self.dead.push(dead);
        } else {
            self.stays(&dead);
        }
    }

    fn collect(&mut self) -> Result<(), BpfError> {
        let dead = std::mem::take(&mut self.dead);
        for some in dead.chunks(DEAD_FLOWS as usize) {
            let flows: Vec<_> = some.iter().map(|dead| dead.flow).collect();
            let gone = self.store.collect(&flows)?;
            self.collected += u64::from(gone.count_ones());
            let left = some.iter().enumerate();
            left.filter(|(bit, _)| gone & 1 << bit == 0)
                .for_each(|(_, dead)| self.stays(dead));
        }
        Ok(())
    }

    fn stays(&mut self, entry: &Dead) {
        self.seen += 1;
        if let Some(slot) = self.slots.get_mut(entry.slot as usize)
            && Tally::of(&slot.counts).epoch == entry.epoch
        {
            slot.seen += 1;
        }
    }

    /// Takes away from the counts what is wrong for sure.
    fn correct(&mut self) {
        let now = self.store.table();
        let made = now.made - self.table.made + u64::from(self.in_between);
        let wrong = quota::excess(now.in_use(), self.seen, made);
        if wrong > 0 {
            self.store.forget(wrong);
        }
        for (index, before) in (0..).zip(&self.slots) {
            let now = self.store.slot(index);
            let tally = Tally::of(&now);
            let made = now.made - before.counts.made + u64::from(self.in_between);
            let wrong = quota::excess(tally.number, before.seen, made);
            if wrong > 0 && tally.epoch == Tally::of(&before.counts).epoch {
                self.store.forget_of_slot(index, tally.epoch, wrong);
            }
        }
    }
}

/// What a slot's entries are counted for, and how many they are.
pub(super) struct Tally {
    pub(super) epoch: u32,
    pub(super) number: u32,
}

impl Tally {
    pub(super) fn of(counts: &SlotFlows) -> Self {
        let (epoch, number) = quota::age_and_number(counts.in_use);
        Self { epoch, number }
    }
}
