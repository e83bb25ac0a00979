//! Looks through a table that is a list, in which programs do something between two steps.

use std::collections::{BTreeMap, BTreeSet};

use pcpm_ebpf::{
    abi::{Flow, flow_kind},
    nat::state,
    packet::protocol,
    quota,
};

use super::*;

const NOW: u64 = 100_000_000_000_000;
const EPOCH: u32 = 7;
const CPUS: u32 = 2;
/// What the counts may be wrong by.
const IN_BETWEEN: u32 = CPUS * quota::ENTRIES_PER_CONNECTION;

#[derive(Default)]
struct Table {
    /// By port.
    entries: BTreeMap<u16, (FlowKey, SealedFlow)>,
    read_to: u16,
    slots: Vec<SlotFlows>,
    counts: FlowTable,
    /// Entries that are used again after they were read.
    revived: BTreeSet<u16>,
    /// Entries that are made behind the place that is read.
    made_behind: u32,
}

impl Table {
    fn new() -> Self {
        Self {
            slots: vec![SlotFlows::default(); 2],
            counts: FlowTable {
                usable: 1000,
                per_slot: 250,
                ..FlowTable::default()
            },
            ..Self::default()
        }
    }

    /// Adds and counts an INGRESS entry of slot 1.
    fn add(&mut self, epoch: u32, state: u8, idle_s: u64) {
        let port = u16::try_from(self.entries.len()).unwrap();
        let key = FlowKey {
            local_port: port,
            kind: flow_kind::INGRESS,
            protocol: protocol::TCP,
            ..FlowKey::default()
        };
        let flow = Flow {
            slot: 1,
            epoch,
            state,
            last_seen_ns: NOW - idle_s * 1_000_000_000,
            ..Flow::default()
        };
        let seal = flow.seal(&key);
        self.entries.insert(port, (key, SealedFlow { flow, seal }));
        self.count(epoch, 1);
    }

    fn count(&mut self, epoch: u32, entries: u32) {
        self.counts.made += u64::from(entries);
        let slot = &mut self.slots[1];
        slot.made += u64::from(entries);
        slot.in_use = quota::with(slot.in_use, epoch, entries);
    }

    fn in_use(&self) -> (u32, u32) {
        (
            quota::tallied(self.slots[1].in_use, EPOCH),
            self.counts.in_use(),
        )
    }

    fn look_through(&mut self) -> u64 {
        let mut pass = Pass::begin(self, CPUS);
        while pass.step(NOW).unwrap() {}
        pass.collected()
    }
}

impl FlowStore for Table {
    fn begin(&mut self) {
        self.read_to = 0;
    }

    /// Three at a time.
    fn read(&mut self, batch: &mut Batch) -> Result<bool, BpfError> {
        let some: Vec<_> = self.entries.range(self.read_to..).take(3).collect();
        batch.filled = some.len();
        let mut next = None;
        for (index, (port, (key, entry))) in some.into_iter().enumerate() {
            (batch.keys[index], batch.entries[index]) = (*key, *entry);
            next = Some(port + 1);
        }
        let behind = std::mem::take(&mut self.made_behind);
        self.count(EPOCH, behind);
        self.read_to = next.unwrap_or(u16::MAX);
        Ok(next.is_some())
    }

    fn collect(&mut self, dead: &[DeadFlow]) -> Result<u32, BpfError> {
        let mut bits = 0;
        for (bit, dead) in dead.iter().enumerate() {
            let port = dead.key.local_port;
            let (_, entry) = self.entries[&port];
            assert_eq!(dead.seal, entry.seal[0]);
            assert_eq!(dead.last_seen_ns, entry.flow.last_seen_ns);
            if self.revived.contains(&port) {
                continue;
            }
            bits |= 1 << bit;
            self.entries.remove(&port);
            self.counts.gone += 1;
            let slot = &mut self.slots[1];
            slot.in_use = quota::without(slot.in_use, entry.flow.epoch, 1);
        }
        Ok(bits)
    }

    fn holder(&self, slot: u32) -> Option<AttachmentWord> {
        (slot == 1).then_some(AttachmentWord::attached(EPOCH, 1))
    }

    fn slots(&self) -> u32 {
        2
    }

    fn slot(&self, slot: u32) -> SlotFlows {
        self.slots[slot as usize]
    }

    fn table(&self) -> FlowTable {
        self.counts
    }

    fn kept(&mut self, now_ns: u64) {
        self.counts.kept_at_ns = now_ns;
    }

    fn forget_of_slot(&mut self, slot: u32, epoch: u32, entries: u32) {
        let slot = &mut self.slots[slot as usize];
        slot.in_use = quota::without(slot.in_use, epoch, entries);
    }

    fn forget(&mut self, entries: u32) {
        self.counts.gone += u64::from(entries);
    }
}

#[test]
fn what_is_dead_goes_and_what_lives_stays() {
    let mut table = Table::new();
    for _ in 0..50 {
        table.add(EPOCH, state::ESTABLISHED, 7000);
        table.add(EPOCH, state::ESTABLISHED, 8000);
        table.add(EPOCH - 1, state::ESTABLISHED, 1);
    }
    // An attachment's tally begins with its first flow.
    table.slots[1].in_use = quota::with(0, EPOCH, 100);
    assert_eq!(table.look_through(), 100);
    assert_eq!(table.in_use(), (50, 50));
    let lives =
        |(_, entry): &(FlowKey, SealedFlow)| entry.flow.last_seen_ns == NOW - 7_000_000_000_000;
    assert!(table.entries.values().all(lives));
}

#[test]
fn only_a_slot_that_has_much_loses_closed_connections_early() {
    let mut table = Table::new();
    for _ in 0..125 {
        table.add(EPOCH, state::CLOSED, 5);
    }
    assert_eq!(table.look_through(), 0);
    table.add(EPOCH, state::ESTABLISHED, 5);
    assert_eq!(table.look_through(), 125);
    assert_eq!(table.in_use(), (1, 1));
}

#[test]
fn what_is_used_again_stays_and_is_counted() {
    let mut table = Table::new();
    (0..40).for_each(|_| table.add(EPOCH, state::ESTABLISHED, 8000));
    table.revived = (0..10).collect();
    assert_eq!(table.look_through(), 30);
    assert_eq!(table.in_use(), (10, 10));
}

#[test]
fn entries_that_the_kernel_evicted_are_counted_no_longer() {
    let mut table = Table::new();
    (0..20).for_each(|_| table.add(EPOCH, state::ESTABLISHED, 1));
    table.entries.retain(|port, _| *port < 5);
    table.look_through();
    assert_eq!(table.in_use(), (5 + IN_BETWEEN, 5 + IN_BETWEEN));
}

#[test]
fn entries_made_while_the_table_is_read_stay_counted() {
    let mut table = Table::new();
    (0..20).for_each(|_| table.add(EPOCH, state::ESTABLISHED, 1));
    table.made_behind = 30;
    table.look_through();
    assert_eq!(table.in_use(), (50, 50));
}

fn counts(in_use: u32, made: u64) -> FlowTable {
    FlowTable {
        made,
        gone: made - u64::from(in_use),
        usable: 6400,
        per_slot: 1600,
        ..FlowTable::default()
    }
}

#[test]
fn a_pass_comes_when_there_is_something_to_find() {
    let ended = Instant::now();
    let last = |in_use, made| LastPass {
        ended: Some(ended),
        took: Duration::from_millis(500),
        left: counts(in_use, made),
    };
    let after = |ms| ended + Duration::from_millis(ms);
    let calm = || false;
    assert!(!LastPass::default().is_due(&counts(0, 0), ended, calm));
    assert!(LastPass::default().is_due(&counts(1, 1), ended, calm));
    let last = last(100, 1000);
    assert!(!last.is_due(&counts(0, 1000), after(60_000), calm), "empty");
    assert!(!last.is_due(&counts(100, 1000), after(9999), calm), "calm");
    assert!(last.is_due(&counts(100, 1000), after(10_000), calm));
    assert!(
        last.is_due(&counts(201, 1101), after(2000), calm),
        "growing"
    );
    assert!(
        last.is_due(&counts(110, 1010), after(2000), || true),
        "pressed"
    );
    assert!(
        !last.is_due(&counts(110, 1010), after(1999), || true),
        "a pause"
    );
}

#[test]
fn a_table_is_nearly_full_until_it_is_clearly_not() {
    let mut fill = Fill::default();
    let mut told = |used| {
        fill.change(&counts(used, 6400))
            .map(|change| change.is_high)
    };
    assert_eq!(told(5759), None);
    assert_eq!(told(5760), Some(true));
    assert_eq!(told(6000), None);
    assert_eq!(told(5120), None);
    assert_eq!(told(5119), Some(false));
    assert_eq!(told(5759), None);
}
