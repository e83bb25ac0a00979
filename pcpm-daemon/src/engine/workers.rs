//! Refill workers: threads that make and destroy slots, the only ones that wait for `rtnl_mutex`.
//! The engine never waits for them; they report what they did.

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::mpsc::UnboundedSender;

use super::job_queue::{JobQueue, Next};
use crate::locks::{
    Pace,
    operation::{self, Operation, Teller},
};
use crate::net::{
    CreateTimings, FreshSlot, Golden, Recycled, RetiredSlot, SlotKernel, SlotSpec, Tampered,
};

/// Takes the work that the engine hands out; never blocks.
pub(crate) trait Work {
    /// Have a slot made.
    fn create(&mut self, spec: SlotSpec);
    /// Have a slot destroyed.
    fn retire(&mut self, slot: RetiredSlot);
    /// Have a slot repaired that somebody holds.
    fn mend(&mut self, spec: SlotSpec, netns: OwnedFd);
}

/// What a worker did.
#[derive(Debug)]
pub(crate) enum Report {
    Created {
        slot: u32,
        netns: OwnedFd,
        timings: CreateTimings,
    },
    CreateFailed {
        slot: u32,
        reason: String,
    },
    /// Destroyed, together with others, in that time.
    Retired {
        slot: u32,
        took: Duration,
    },
    RetireFailed {
        slot: u32,
        reason: String,
    },
    /// A slot was repaired, or could not be.
    Mended {
        slot: u32,
        outcome: Result<(), String>,
    },
    /// A golden copy was taken, or could not be.
    Portrayed {
        slot: FreshSlot,
        golden: Option<Golden>,
    },
    /// A tenant changes its slot.
    Tampered(Tampered),
    /// A used slot was judged, in that time.
    Judged {
        recycled: Recycled,
        took: Duration,
    },
}

/// The threads. Dropping it without [`stop`](Self::stop) leaves them to end by themselves.
#[derive(Debug)]
pub(crate) struct Workers {
    queue: Arc<JobQueue<Jobs>>,
    threads: Vec<JoinHandle<()>>,
}

/// The engine's end of the queue.
#[derive(Debug)]
pub(crate) struct WorkSender(Arc<JobQueue<Jobs>>);

impl Workers {
    /// Starts one thread for each of `kernels`, which say by `teller` what they are doing and ask before it.
    pub(crate) fn start(
        kernels: Vec<Box<dyn SlotKernel>>,
        reports: &UnboundedSender<Report>,
        teller: &Teller,
    ) -> std::io::Result<(Self, WorkSender)> {
        let queue = Arc::new(JobQueue::default());
        let threads = kernels.into_iter().enumerate().map(|(number, kernel)| {
            let worker = Worker {
                kernel,
                queue: queue.clone(),
                reports: reports.clone(),
                teller: teller.clone(),
            };
            let name = format!("pcpm-refill-{number}");
            thread::Builder::new()
                .name(name)
                .spawn(move || worker.run())
        });
        let threads = threads.collect::<Result<_, _>>()?;
        Ok((
            Self {
                queue: queue.clone(),
                threads,
            },
            WorkSender(queue),
        ))
    }

    /// Forgets what was not begun and waits for what was.
    pub(crate) fn stop(self) {
        self.queue.close();
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a refill worker panicked");
            }
        }
    }
}

impl Work for WorkSender {
    fn create(&mut self, spec: SlotSpec) {
        self.0.change(|jobs| jobs.create.push_back(spec));
    }

    fn retire(&mut self, slot: RetiredSlot) {
        self.0.change(|jobs| jobs.retire.push_back(slot));
    }

    fn mend(&mut self, spec: SlotSpec, netns: OwnedFd) {
        self.0.change(|jobs| jobs.mend.push_back((spec, netns)));
    }
}

/// Work not begun.
#[derive(Debug, Default)]
struct Jobs {
    create: VecDeque<SlotSpec>,
    retire: VecDeque<RetiredSlot>,
    /// Before all others: somebody's traffic does not pass.
    mend: VecDeque<(SlotSpec, OwnedFd)>,
}

#[derive(Debug)]
enum Job {
    Create(SlotSpec),
    Retire(Vec<RetiredSlot>),
    Mend(SlotSpec, OwnedFd),
}

impl Jobs {
    /// Where there is both kinds of work, a worker alternates, so that neither a burst of detaches nor a long fill
    /// starves the other. Slots are destroyed `batch` in one go: the kernel waits for its readers once for all of
    /// them, but holds `rtnl_mutex` meanwhile.
    fn next(&mut self, retired_last: bool, batch: impl Fn() -> usize) -> Next<Job> {
        if let Some((spec, netns)) = self.mend.pop_front() {
            return Next::Job(Job::Mend(spec, netns));
        }
        if self.retire.is_empty() || (retired_last && !self.create.is_empty()) {
            let spec = self.create.pop_front();
            return spec.map_or(Next::Wait(None), |spec| Next::Job(Job::Create(spec)));
        }
        let batch = self.retire.len().min(batch());
        Next::Job(Job::Retire(self.retire.drain(..batch).collect()))
    }
}

struct Worker {
    kernel: Box<dyn SlotKernel>,
    queue: Arc<JobQueue<Jobs>>,
    reports: UnboundedSender<Report>,
    teller: Teller,
}

impl Worker {
    fn next(&self, retired_last: bool) -> Option<Job> {
        self.queue
            .next(|jobs| jobs.next(retired_last, || self.batch()))
    }

    fn run(mut self) {
        /// Slots made between two batches destroyed.
        const CREATES_A_TURN: u32 = 64;
        let mut creates_left = 0_u32;
        self.teller.clone().adopt();
        while let Some(job) = self.next(creates_left > 0) {
            match job {
                Job::Create(spec) => {
                    creates_left = creates_left.saturating_sub(1);
                    self.create(&spec);
                }
                Job::Retire(slots) => {
                    creates_left = CREATES_A_TURN;
                    operation::begin(Operation::Retire);
                    self.retire(slots);
                }
                Job::Mend(spec, netns) => {
                    operation::begin(Operation::Mend);
                    self.mend(&spec, &netns);
                }
            }
            operation::end();
        }
    }

    fn batch(&self) -> usize {
        let pacing = self.teller.pacing.as_ref();
        pacing.map_or(Pace::FULL.batch, |pacing| pacing.batch())
    }

    fn create(&mut self, spec: &SlotSpec) {
        let slot = spec.index;
        let report = match self.kernel.create_slot(spec) {
            Ok(new) => Report::Created {
                slot,
                netns: new.netns,
                timings: new.timings,
            },
            Err(error) => Report::CreateFailed {
                slot,
                reason: error.to_string(),
            },
        };
        self.report(report);
    }

    fn mend(&mut self, spec: &SlotSpec, netns: &OwnedFd) {
        let mended = self.kernel.mend_slot(spec, netns);
        self.report(Report::Mended {
            slot: spec.index,
            outcome: mended.map_err(|error| error.to_string()),
        });
    }

    fn retire(&mut self, slots: Vec<RetiredSlot>) {
        let begun = Instant::now();
        let destroyed = self.kernel.destroy_slots(slots);
        let took = begun.elapsed();
        for (slot, result) in destroyed {
            self.report(match result {
                Ok(()) => Report::Retired { slot, took },
                Err(error) => Report::RetireFailed {
                    slot,
                    reason: error.to_string(),
                },
            });
        }
    }

    fn report(&self, report: Report) {
        // Nobody listens any more when the daemon shuts down.
        let _unheard = self.reports.send(report);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{self, UnboundedReceiver};

    use super::*;
    use crate::net::fake::{Call, FakeKernel};

    fn workers(kernel: &FakeKernel) -> (Workers, WorkSender, UnboundedReceiver<Report>) {
        let (reports, inbox) = mpsc::unbounded_channel();
        let kernels: Vec<Box<dyn SlotKernel>> = vec![Box::new(kernel.clone())];
        let (workers, work) = Workers::start(kernels, &reports, &Teller::default()).unwrap();
        (workers, work, inbox)
    }

    fn spec(index: u32) -> SlotSpec {
        SlotSpec {
            index,
            address: [10, 0, 0, 1].into(),
            address6: None,
            mac: pcpm_ebpf::abi::slot_mac(index),
            mtu: 1500,
            share: crate::net::Share::default(),
        }
    }

    #[test]
    fn a_failed_creation_is_reported_with_its_reason() {
        let kernel = FakeKernel::default();
        kernel.fail_creations(3, 1);
        let (workers, mut work, mut inbox) = workers(&kernel);
        work.create(spec(3));
        work.create(spec(3));
        match inbox.blocking_recv() {
            Some(Report::CreateFailed { slot: 3, reason }) => assert!(reason.contains("slot 3")),
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            inbox.blocking_recv(),
            Some(Report::Created { slot: 3, .. })
        ));
        workers.stop();
    }

    #[test]
    fn retired_slots_are_destroyed_many_at_a_time_between_slots_that_are_made() {
        let mut jobs = Jobs::default();
        jobs.create.extend([spec(1), spec(2)]);
        let slots = 100..200;
        jobs.retire
            .extend(slots.map(|index| RetiredSlot { index, netns: None }));
        let mut order = Vec::new();
        let mut retired_last = false;
        for _ in 0..4 {
            match jobs.next(retired_last, || Pace::FULL.batch) {
                Next::Job(Job::Create(spec)) => order.push(format!("create {}", spec.index)),
                Next::Job(Job::Retire(slots)) => order.push(format!("retire {}", slots.len())),
                Next::Job(Job::Mend(..)) => unreachable!("nothing is broken"),
                Next::Wait(_) => unreachable!("there is something to do"),
            }
            retired_last = !retired_last;
        }
        assert_eq!(order, ["retire 64", "create 1", "retire 36", "create 2"]);
    }

    #[test]
    fn stopping_forgets_what_was_not_begun() {
        let kernel = FakeKernel::default();
        let (workers, mut work, _inbox) = workers(&kernel);
        workers.stop();
        work.create(spec(1));
        assert!(!kernel.calls().contains(&Call::CreateSlot(spec(1))));
    }
}
