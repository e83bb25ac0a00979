//! Collects what is dead in the flow table, so that it never becomes full: a thread of its own looks
//! through the table piece by piece, and has the kernel's program remove what is dead. It delays neither
//! packets nor clients: the table is read a few hundred entries at a time, each bucket is locked for as
//! long as it is copied, and the program looks at each entry again before it removes it.
//!
//! It also says that it is there: the programs refuse no flow while nobody collects.

mod pass;
#[cfg(test)]
mod tests;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError, TryRecvError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};
use pcpm_ebpf::abi::{AttachmentWord, DeadFlow, FlowKey, FlowTable, SealedFlow, SlotFlows};
use tokio::sync::mpsc::UnboundedSender;

use crate::bpf::{self, BpfError};
use pass::{Pass, Tally};

/// How often the counts are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often the table is looked through where there is no hurry.
const CALM: Duration = Duration::from_secs(10);
/// A pass is followed by a pause of this many times its length: a fifth of one processor at most.
const PAUSES: u32 = 4;
/// Entries read at a time. A bucket of the table has to fit in; it has a handful.
const BATCH: usize = 512;
/// There is a hurry if this part of the table was filled since the last pass.
const GROWTH: u32 = 64;

/// The table, as the collector sees and changes it.
pub(crate) trait FlowStore: Send {
    /// Begins to read from the beginning.
    fn begin(&mut self);

    /// Reads the next entries, and says whether there may be more. What is in the table all the time is
    /// read once.
    fn read(&mut self, batch: &mut Batch) -> Result<bool, BpfError>;

    /// Removes the entries that are as they were when they were read, and are as dead as they seemed.
    /// The bits say which of them.
    fn collect(&mut self, dead: &[DeadFlow]) -> Result<u32, BpfError>;

    /// Who holds a slot, if there is such a slot.
    fn holder(&self, slot: u32) -> Option<AttachmentWord>;

    /// How many slots there are.
    fn slots(&self) -> u32;

    /// What a slot's flows take.
    fn slot(&self, slot: u32) -> SlotFlows;

    /// What all flows take.
    fn table(&self) -> FlowTable;

    /// Says that the table is looked after.
    fn kept(&mut self, now_ns: u64);

    /// `entries` of the slot's tally for `epoch` do not exist.
    fn forget_of_slot(&mut self, slot: u32, epoch: u32, entries: u32);

    /// `entries` of the table's count do not exist.
    fn forget(&mut self, entries: u32);
}

/// Entries as they were read.
pub(crate) struct Batch {
    pub(crate) keys: Vec<FlowKey>,
    pub(crate) entries: Vec<SealedFlow>,
    /// How many there are.
    pub(crate) filled: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            keys: vec![FlowKey::default(); BATCH],
            entries: vec![SealedFlow::default(); BATCH],
            filled: 0,
        }
    }
}

impl Batch {
    fn len(&self) -> usize {
        self.filled
    }

    fn get(&self, index: usize) -> (FlowKey, SealedFlow) {
        (self.keys[index], self.entries[index])
    }
}

/// The fill of the table crossed a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FillChange {
    /// Entries in use.
    pub(crate) used: u32,
    /// Entries that may be.
    pub(crate) usable: u32,
    /// Whether it is nearly full now.
    pub(crate) is_high: bool,
}

/// What was done so far, for whoever asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Collected(Arc<Totals>);

#[derive(Debug, Default)]
struct Totals {
    entries: AtomicU64,
    pass_us: AtomicU64,
}

impl Collected {
    /// Entries removed since the daemon started.
    pub(crate) fn entries(&self) -> u64 {
        self.0.entries.load(Ordering::Relaxed)
    }

    /// How long the last look through the table took.
    pub(crate) fn pass_us(&self) -> u64 {
        self.0.pass_us.load(Ordering::Relaxed)
    }
}

/// The running thread.
#[derive(Debug)]
pub(crate) struct Collector {
    thread: JoinHandle<()>,
    /// The thread ends when this is dropped.
    running: mpsc::Sender<()>,
}

impl Collector {
    /// Starts the thread. It tells when the table becomes nearly full, and when it is not any more.
    pub(crate) fn start(
        store: Box<dyn FlowStore>,
        collected: Collected,
        changes: UnboundedSender<FillChange>,
    ) -> io::Result<Self> {
        let (running, stop) = mpsc::channel();
        let worker = Worker {
            store,
            collected,
            changes,
            stop,
            fill: Fill::default(),
            cpus: bpf::possible_cpus(),
        };
        let thread = thread::Builder::new()
            .name("pcpm-flows".to_owned())
            .spawn(move || worker.run())?;
        Ok(Self { thread, running })
    }

    /// Ends the thread.
    pub(crate) fn stop(self) {
        drop(self.running);
        if self.thread.join().is_err() {
            tracing::error!("the thread that collects dead flows panicked");
        }
    }
}

struct Worker {
    store: Box<dyn FlowStore>,
    collected: Collected,
    changes: UnboundedSender<FillChange>,
    stop: mpsc::Receiver<()>,
    fill: Fill,
    cpus: u32,
}

impl Worker {
    fn run(mut self) {
        let mut last = LastPass::default();
        loop {
            let now_ns = now_ns();
            self.store.kept(now_ns);
            let table = self.store.table();
            self.tell_fill(&table);
            if last.is_due(&table, Instant::now(), || is_pressed(&*self.store, &table)) {
                last = self.pass();
            }
            match self.stop.recv_timeout(LOOK) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn pass(&mut self) -> LastPass {
        let begun = Instant::now();
        let mut pass = Pass::begin(&mut *self.store, self.cpus);
        if let Err(error) = run(&mut pass, &self.stop) {
            tracing::error!("the flow table: {error}");
        }
        let totals = &self.collected.0;
        totals
            .entries
            .fetch_add(pass.collected(), Ordering::Relaxed);
        let took = begun.elapsed();
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        totals.pass_us.store(took_us, Ordering::Relaxed);
        LastPass {
            ended: Some(Instant::now()),
            took,
            left: self.store.table(),
        }
    }

    fn tell_fill(&mut self, table: &FlowTable) {
        if let Some(change) = self.fill.change(table) {
            // Nobody listens while the daemon ends.
            let _nobody_listens = self.changes.send(change);
        }
    }
}

/// Looks at everything, until the daemon ends.
fn run(pass: &mut Pass<'_>, stop: &mpsc::Receiver<()>) -> Result<(), BpfError> {
    while pass.step(now_ns())? {
        if stop.try_recv() == Err(TryRecvError::Disconnected) {
            break;
        }
    }
    Ok(())
}

/// Whether a slot has half of what it may have.
fn is_pressed(store: &dyn FlowStore, table: &FlowTable) -> bool {
    (0..store.slots()).any(|slot| table.is_pressed(Tally::of(&store.slot(slot)).number))
}

/// The last look through the table.
#[derive(Debug, Default)]
struct LastPass {
    ended: Option<Instant>,
    took: Duration,
    /// What the table had afterwards.
    left: FlowTable,
}

impl LastPass {
    /// Whether it is time for another one.
    fn is_due(&self, table: &FlowTable, now: Instant, hurry: impl FnOnce() -> bool) -> bool {
        let Some(ended) = self.ended else {
            return table.in_use() > 0;
        };
        let idle = table.in_use() == 0;
        let unchanged = (table.made, table.gone) == (self.left.made, self.left.gone);
        let passed = now.saturating_duration_since(ended);
        if idle || passed < self.took * PAUSES {
            return false;
        }
        if passed >= CALM {
            return true;
        }
        let grown = table.in_use().saturating_sub(self.left.in_use());
        !unchanged && grown > table.usable / GROWTH || hurry()
    }
}

/// Whether the table was nearly full when somebody last looked.
#[derive(Debug, Default)]
struct Fill {
    is_high: bool,
}

impl Fill {
    /// Nearly full from nine tenths on, not any more below eight.
    fn change(&mut self, table: &FlowTable) -> Option<FillChange> {
        let used = table.in_use();
        let tenths = u64::from(used) * 10;
        let usable = u64::from(table.usable);
        let is_high = if self.is_high {
            tenths >= usable * 8
        } else {
            tenths >= usable * 9
        };
        if table.usable == 0 || is_high == self.is_high {
            return None;
        }
        self.is_high = is_high;
        Some(FillChange {
            used,
            usable: table.usable,
            is_high,
        })
    }
}

/// The clock of `Flow::last_seen_ns`.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
