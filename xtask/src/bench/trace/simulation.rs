//! The pool itself, `pcpm-pool`, in simulated time: arrivals go in, and a model of the kernel does what it commands.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use pcpm_api::types::{Lease, OnEmpty};
use pcpm_pool::{
    AttachRequest, ClassSettings, Command, Event, Holder, Pool, PoolSettings, Quotas, Recycle,
    RequestId, SlotIndex, Target, default_class,
};
use serde::Serialize;

use super::arrivals::Start;

/// What the model needs to know of the kernel and of the daemon's settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host {
    /// Slots that are made a second, all the time; they are destroyed as fast, at the cost of each other.
    pub(super) slots_per_s: f64,
    /// Slots there may be.
    pub(super) capacity: u32,
    /// Slots in creation at once.
    pub(super) creating: u32,
    /// What happens to who finds nothing ready, and how long it waits if it does.
    pub(super) on_empty: OnEmpty,
    pub(super) patience: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) starts: u64,
    /// Those that found a slot ready.
    pub(super) at_once: u64,
    /// Those that got none in time.
    pub(super) refused: u64,
    /// How long the others waited, in microseconds.
    pub(super) waited_us: Histogram<u64>,
    /// Ready slots, on average and at most.
    pub(super) ready_mean: f64,
    pub(super) ready_most: u32,
    /// The fewest ready slots once the pool was full.
    pub(super) ready_least: u32,
    /// One for each part of the time.
    pub(super) history: Vec<Sample>,
}

/// The end of a part of the time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Sample {
    pub(super) starts: u32,
    pub(super) ready: u32,
    pub(super) target: u32,
    pub(super) attached: u32,
}

/// Plays `starts` to a pool with this target; the history has `samples` parts.
///
/// # Errors
/// When a slot does what no slot does.
pub(super) fn play(
    starts: &[Start],
    length: Duration,
    target: Target,
    host: Host,
    samples: u32,
) -> Result<Outcome> {
    let mut run = Run::new(starts, target, host, length / samples)?;
    run.fill()?;
    run.play(length)?;
    Ok(run.outcome)
}

/// What happens to a slot later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Later {
    Left(SlotIndex),
    Made(SlotIndex),
    Gone(SlotIndex),
}

struct Run<'a> {
    pool: Pool,
    host: Host,
    /// How long after the first event the trace begins.
    begin: Duration,
    now: Duration,
    starts: &'a [Start],
    next_start: usize,
    later: BinaryHeap<Reverse<(Duration, u64, Later)>>,
    /// Orders what happens at the same time.
    sequence: u64,
    /// When the kernel has done all that it was told to do.
    kernel_free: Duration,
    waiting: HashMap<RequestId, usize>,
    commands: Vec<Command>,
    /// Ready slots times seconds.
    ready_seconds: f64,
    part: Duration,
    since_sample: u32,
    outcome: Outcome,
}

impl<'a> Run<'a> {
    fn new(starts: &'a [Start], target: Target, host: Host, part: Duration) -> Result<Self> {
        let class = ClassSettings {
            capacity: host.capacity,
            target,
            reserves: Vec::new(),
            indexes: None,
            recycle: Recycle::Never,
        };
        let pool = Pool::new(PoolSettings {
            classes: vec![class],
            shared: host.capacity,
            creating: host.creating,
            quotas: Quotas::default(),
        });
        Ok(Self {
            pool,
            host,
            begin: Duration::ZERO,
            now: Duration::ZERO,
            starts,
            next_start: 0,
            later: BinaryHeap::new(),
            sequence: 0,
            kernel_free: Duration::ZERO,
            waiting: HashMap::new(),
            commands: Vec::new(),
            ready_seconds: 0.0,
            part,
            since_sample: 0,
            outcome: Outcome {
                starts: 0,
                at_once: 0,
                refused: 0,
                waited_us: Histogram::new(3)?,
                ready_mean: 0.0,
                ready_most: 0,
                ready_least: u32::MAX,
                history: Vec::new(),
            },
        })
    }

    /// Until the first target is reached: the trace finds a daemon that has started.
    fn fill(&mut self) -> Result<()> {
        self.tell(Event::Tick)?;
        while let Some(Reverse((at, _, later))) = self.later.pop() {
            self.now = at;
            self.happens(later)?;
        }
        self.begin = self.now;
        Ok(())
    }

    fn play(&mut self, length: Duration) -> Result<()> {
        let end = self.begin + length;
        let mut next_sample = self.begin + self.part;
        while let Some(at) = self.next_time().filter(|at| *at <= end) {
            while next_sample <= at {
                self.pass_until(next_sample);
                self.sample();
                next_sample += self.part;
            }
            self.pass_until(at);
            self.step()?;
        }
        while next_sample <= end {
            self.pass_until(next_sample);
            self.sample();
            next_sample += self.part;
        }
        self.pass_until(end);
        self.outcome.ready_mean = self.ready_seconds / length.as_secs_f64();
        Ok(())
    }

    fn next_time(&self) -> Option<Duration> {
        let start = self.starts.get(self.next_start);
        let start = start.map(|start| self.begin + start.at);
        let later = self.later.peek().map(|Reverse((at, ..))| *at);
        [start, later, self.pool.next_deadline()]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.max(self.now))
    }

    fn pass_until(&mut self, at: Duration) {
        let ready = self.pool.counts().ready;
        self.ready_seconds += f64::from(ready) * at.saturating_sub(self.now).as_secs_f64();
        self.outcome.ready_most = self.outcome.ready_most.max(ready);
        self.outcome.ready_least = self.outcome.ready_least.min(ready);
        self.now = at;
    }

    fn step(&mut self) -> Result<()> {
        if let Some(Reverse((at, _, later))) = self.later.peek().copied()
            && at <= self.now
        {
            self.later.pop();
            return self.happens(later);
        }
        let start = self.starts.get(self.next_start);
        if start.is_some_and(|start| self.begin + start.at <= self.now) {
            self.next_start += 1;
            return self.ask(self.next_start - 1);
        }
        self.tell(Event::Tick)
    }

    fn happens(&mut self, later: Later) -> Result<()> {
        self.tell(match later {
            Later::Left(slot) => Event::Detach(slot),
            Later::Made(slot) => Event::Created(slot),
            Later::Gone(slot) => Event::Retired(slot),
        })
    }

    fn ask(&mut self, start: usize) -> Result<()> {
        self.outcome.starts += 1;
        self.since_sample += 1;
        let id = RequestId::try_from(start)?;
        self.waiting.insert(id, start);
        self.tell(Event::Attach(AttachRequest {
            id,
            class: 0,
            holder: Rc::new(holder(id)),
            exclusive: false,
            on_empty: self.host.on_empty,
            asked_at: self.now,
            deadline: self.now + self.host.patience,
        }))
    }

    fn tell(&mut self, event: Event) -> Result<()> {
        let mut commands = std::mem::take(&mut self.commands);
        self.pool.handle(event, self.now, &mut commands);
        self.pool.take_touched().for_each(drop);
        for command in commands.drain(..) {
            self.obey(&command)?;
        }
        self.commands = commands;
        Ok(())
    }

    fn obey(&mut self, command: &Command) -> Result<()> {
        match *command {
            Command::Create(slot) => self.kernel_does(Later::Made(slot)),
            Command::Retire(slot) => self.kernel_does(Later::Gone(slot)),
            Command::Grant { request, slot, .. } => return self.granted(request, slot),
            Command::Refuse { request, .. } => {
                self.waiting.remove(&request);
                self.outcome.refused += 1;
            }
            Command::Revoke { .. } => {}
            Command::Recycle(_) | Command::Existing { .. } => {
                anyhow::bail!("not in this simulation: {command:?}")
            }
        }
        Ok(())
    }

    /// One after the other: the lock under which it is done is the kernel's.
    fn kernel_does(&mut self, later: Later) {
        let takes = Duration::from_secs_f64(1.0 / self.host.slots_per_s);
        self.kernel_free = self.kernel_free.max(self.now) + takes;
        self.at(self.kernel_free, later);
    }

    fn granted(&mut self, request: RequestId, slot: SlotIndex) -> Result<()> {
        let start = self.waiting.remove(&request).context("nobody asked")?;
        let start = self.starts[start];
        let waited = self.now.saturating_sub(self.begin + start.at);
        if waited.is_zero() {
            self.outcome.at_once += 1;
        } else {
            let waited = u64::try_from(waited.as_micros())?.max(1);
            self.outcome.waited_us.record(waited)?;
        }
        self.at(self.now + start.held, Later::Left(slot));
        Ok(())
    }

    fn at(&mut self, time: Duration, later: Later) {
        self.sequence += 1;
        self.later.push(Reverse((time, self.sequence, later)));
    }

    fn sample(&mut self) {
        let counts = self.pool.counts();
        self.outcome.history.push(Sample {
            starts: std::mem::take(&mut self.since_sample),
            ready: counts.ready,
            target: counts.target,
            attached: counts.attached,
        });
    }
}

fn holder(id: RequestId) -> Holder {
    Holder {
        owner: id.to_string(),
        tenant: String::new(),
        class: default_class(),
        labels: BTreeMap::new(),
        lease: Lease::Explicit,
        process: None,
        options: pcpm_api::options::Options::default(),
        terms: None,
        uid: 0,
        by_administrator: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Host = Host {
        slots_per_s: 1_000.0,
        capacity: 200,
        creating: 32,
        on_empty: OnEmpty::Wait,
        patience: Duration::from_secs(5),
    };
    const MINUTE: Duration = Duration::from_mins(1);

    fn together(count: usize) -> Vec<Start> {
        let start = Start {
            at: Duration::from_secs(10),
            held: Duration::from_secs(20),
        };
        vec![start; count]
    }

    fn outcome(starts: &[Start], target: u32) -> Outcome {
        play(starts, MINUTE, Target::Fixed(target), HOST, 6).unwrap()
    }

    #[test]
    fn a_burst_within_the_target_waits_for_nothing() {
        let outcome = outcome(&together(50), 50);
        assert_eq!((outcome.starts, outcome.at_once), (50, 50));
        assert_eq!(outcome.ready_least, 0);
    }

    #[test]
    fn what_is_beyond_the_target_waits_for_the_kernel() {
        let outcome = outcome(&together(50), 20);
        assert_eq!((outcome.starts, outcome.at_once), (50, 20));
        // Thirty slots at a thousand a second.
        let longest = outcome.waited_us.max();
        assert!((29_000..33_000).contains(&longest), "{longest}");
    }

    #[test]
    fn who_finds_no_slot_in_time_is_refused() {
        let outcome = outcome(&together(250), 200);
        assert_eq!((outcome.at_once, outcome.refused), (200, 50));
    }

    #[test]
    fn ready_slots_are_counted_for_as_long_as_they_are_ready() {
        let idle = outcome(&[], 30);
        assert!((idle.ready_mean - 30.0).abs() < 0.1, "{}", idle.ready_mean);
        assert_eq!(idle.history.len(), 6);
        assert_eq!(idle.history[5].ready, 30);
    }

    #[test]
    fn a_target_that_follows_demand_is_deep_enough_for_the_second_burst() {
        let mut starts = together(50);
        starts.extend(together(50).into_iter().map(|start| Start {
            at: start.at + Duration::from_secs(30),
            ..start
        }));
        let adaptive = Target::Adaptive(pcpm_pool::Adaptive {
            ceiling: 200,
            ..Default::default()
        });
        let outcome = play(&starts, MINUTE, adaptive, HOST, 6).unwrap();
        // All but the first burst's, less the eight that were ready from the beginning.
        assert_eq!(outcome.at_once, 58);
    }
}
