//! The recycler: a thread that takes the golden copies of new slots and judges used ones. The engine
//! never waits for it; a slot that it does not find clean is destroyed like any other.

use std::{
    collections::VecDeque,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::mpsc::UnboundedSender;

use super::{
    job_queue::{JobQueue, Next},
    workers::Report,
};
use crate::{
    host_world::Recycling,
    locks::operation::{self, Teller},
    net::{FreshSlot, SlotRecycler, TamperWatch, UsedSlot},
};

/// Slots judged in one go.
const BATCH: usize = 64;

/// How long a new slot is left alone: the kernel sets up links and IPv6 in its own time.
const SETTLE: Duration = Duration::from_millis(200);

/// The thread.
#[derive(Debug)]
pub(crate) struct Recycler {
    queue: Arc<JobQueue<Jobs>>,
    thread: JoinHandle<()>,
}

/// The engine's end of the queue.
#[derive(Clone, Debug)]
pub(crate) struct RecycleSender(Arc<JobQueue<Jobs>>);

impl Recycler {
    pub(crate) fn start(
        Recycling { kernel, watch }: Recycling,
        reports: &UnboundedSender<Report>,
        teller: Teller,
    ) -> std::io::Result<(Self, RecycleSender)> {
        let queue = Arc::new(JobQueue::default());
        let told = reports.clone();
        thread::Builder::new()
            .name("pcpm-tamper".to_owned())
            .spawn(move || tell_of_changes(&watch, &told))?;
        let (jobs, reports) = (queue.clone(), reports.clone());
        let thread = thread::Builder::new()
            .name("pcpm-recycle".to_owned())
            .spawn(move || {
                teller.adopt();
                run(kernel, &jobs, &reports);
            })?;
        let sender = RecycleSender(queue.clone());
        Ok((Self { queue, thread }, sender))
    }

    /// Forgets what was not begun and waits for what was.
    pub(crate) fn stop(self) {
        self.queue.close();
        if self.thread.join().is_err() {
            tracing::error!("the recycler panicked");
        }
    }
}

impl RecycleSender {
    /// One that nobody takes work from.
    #[cfg(test)]
    pub(super) fn unattended() -> Self {
        Self(Arc::default())
    }

    /// The slots to be looked at and those to be judged.
    #[cfg(test)]
    pub(super) fn take(&self) -> (Vec<FreshSlot>, Vec<UsedSlot>) {
        let mut jobs = Jobs::default();
        self.0.change(|all| jobs = std::mem::take(all));
        let fresh = jobs.fresh.into_iter().map(|(_, slot)| slot).collect();
        (fresh, jobs.used.into())
    }

    pub(super) fn portray(&self, slot: FreshSlot) {
        let due = Instant::now() + SETTLE;
        self.0.change(|jobs| jobs.fresh.push_back((due, slot)));
    }

    pub(super) fn judge(&self, slot: UsedSlot) {
        self.0.change(|jobs| jobs.used.push_back(slot));
    }
}

/// Work not begun.
#[derive(Debug, Default)]
struct Jobs {
    /// With the time from which on they have settled.
    fresh: VecDeque<(Instant, FreshSlot)>,
    used: VecDeque<UsedSlot>,
}

#[derive(Debug)]
enum Job {
    Portray(FreshSlot),
    Judge(Vec<UsedSlot>),
}

impl Jobs {
    /// Used slots come first: somebody may wait for one.
    fn next(&mut self, now: Instant) -> Next<Job> {
        if !self.used.is_empty() {
            let batch = self.used.len().min(BATCH);
            return Next::Job(Job::Judge(self.used.drain(..batch).collect()));
        }
        match self.fresh.pop_front() {
            None => Next::Wait(None),
            Some((due, slot)) if due <= now => Next::Job(Job::Portray(slot)),
            Some((due, slot)) => {
                self.fresh.push_front((due, slot));
                Next::Wait(Some(due - now))
            }
        }
    }
}

fn run(
    mut kernel: Box<dyn SlotRecycler>,
    queue: &JobQueue<Jobs>,
    reports: &UnboundedSender<Report>,
) {
    while let Some(job) = queue.next(|jobs| jobs.next(Instant::now())) {
        match job {
            Job::Portray(slot) => report(reports, portray(kernel.as_mut(), slot)),
            Job::Judge(slots) => judge(kernel.as_mut(), slots, reports),
        }
        operation::end();
    }
}

/// Ends with the daemon.
fn tell_of_changes(watch: &TamperWatch, reports: &UnboundedSender<Report>) {
    loop {
        match watch.wait() {
            Ok(changes) => {
                for tampered in changes {
                    report(reports, Report::Tampered(tampered));
                }
            }
            Err(error) => return tracing::error!("changes of slots are found late: {error}"),
        }
    }
}

fn portray(kernel: &mut dyn SlotRecycler, slot: FreshSlot) -> Report {
    let golden = kernel
        .portray(&slot)
        .inspect_err(|error| tracing::warn!("no golden copy: {error}"))
        .ok();
    Report::Portrayed { slot, golden }
}

fn judge(kernel: &mut dyn SlotRecycler, slots: Vec<UsedSlot>, reports: &UnboundedSender<Report>) {
    let begun = Instant::now();
    let count = u32::try_from(slots.len()).unwrap_or(u32::MAX);
    let judged = kernel.recycle(slots);
    let took = begun.elapsed() / count.max(1);
    for recycled in judged {
        report(reports, Report::Judged { recycled, took });
    }
}

fn report(reports: &UnboundedSender<Report>, report: Report) {
    // Nobody listens any more when the daemon shuts down.
    let _unheard = reports.send(report);
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn fresh(index: u32) -> FreshSlot {
        FreshSlot {
            index,
            epoch: 0,
            netns: File::open("/dev/null").unwrap().into(),
        }
    }

    fn used(index: u32) -> UsedSlot {
        UsedSlot {
            index,
            netns: File::open("/dev/null").unwrap().into(),
            golden: crate::net::Golden::of_nothing(),
            scrutiny: crate::net::Scrutiny::Everything,
        }
    }

    #[test]
    fn used_slots_are_judged_together_and_before_new_ones_are_looked_at() {
        let now = Instant::now();
        let mut jobs = Jobs::default();
        jobs.fresh.push_back((now, fresh(1)));
        jobs.used.extend((0..70).map(used));
        let batches = [64, 6].map(|expected| match jobs.next(now) {
            Next::Job(Job::Judge(slots)) => slots.len() == expected,
            _ => false,
        });
        assert_eq!(batches, [true, true]);
        assert!(matches!(jobs.next(now), Next::Job(Job::Portray(slot)) if slot.index == 1));
        assert!(matches!(jobs.next(now), Next::Wait(None)));
    }

    #[test]
    fn a_new_slot_is_left_alone_until_it_has_settled() {
        let now = Instant::now();
        let mut jobs = Jobs::default();
        jobs.fresh.push_back((now + SETTLE, fresh(1)));
        assert!(matches!(jobs.next(now), Next::Wait(Some(pause)) if pause == SETTLE));
        assert!(matches!(
            jobs.next(now + SETTLE),
            Next::Job(Job::Portray(_))
        ));
    }
}
