//! The thread that asks the tracer once a second, and gives names to what it says.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use pcpm_api::types;
use pcpm_ebpf::locks::{BlockerKey, LongWait, Missed, STACK_FRAMES, TextRange, WaiterKey, Waiters};

use super::{
    Comm, LockHistory, Traced,
    interval::{Blocked, Blocker, Figures, Group, Interval, figures},
    names, now_ms,
    operation::Operation,
    symbols::Resolver,
    wall_clock_ms,
};
use crate::bpf::{BpfError, Counted, LockTracer};

/// How often the tracer is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long programs that began in a generation may still count in it.
const GRACE: Duration = Duration::from_millis(5);
/// Names of locks that are remembered by their addresses.
const LOCKS_KNOWN: usize = 4096;

/// The thread that asks the tracer.
pub(super) struct Watcher {
    tracer: LockTracer,
    resolver: Resolver,
    /// What was counted before the first interval, and belongs to it.
    early: Counted,
    /// When counting began.
    begun: Instant,
    lock_text: TextRange,
    knows_rtnl: bool,
    /// By address; only those that are sure.
    lock_names: HashMap<u64, &'static str>,
    history: Arc<LockHistory>,
    /// What had been missed before this interval.
    missed: Missed,
}

impl Watcher {
    pub(super) fn new(traced: Traced, rtnl: Option<u64>, history: Arc<LockHistory>) -> Self {
        Self {
            tracer: traced.tracer,
            resolver: traced.resolver,
            early: traced.counted,
            begun: traced.begun,
            lock_text: traced.lock_text,
            knows_rtnl: rtnl.is_some(),
            lock_names: rtnl.map(|lock| (lock, names::RTNL)).into_iter().collect(),
            history,
            missed: Missed::default(),
        }
    }

    /// Watches until it is told to stop.
    pub(super) fn watch(&mut self, stop: &mpsc::Receiver<()>) -> Result<(), BpfError> {
        let mut begun = self.begun;
        loop {
            match stop.recv_timeout(INTERVAL.saturating_sub(begun.elapsed())) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return Ok(()),
            }
            let over = self.tracer.next_generation()?;
            let length = begun.elapsed();
            begun = Instant::now();
            thread::sleep(GRACE);
            let mut counted = self.tracer.take(over)?;
            counted.extend(std::mem::take(&mut self.early));
            self.keep(&counted, length)?;
            self.resolver.rest();
        }
    }

    fn keep(&mut self, counted: &Counted, length: Duration) -> Result<(), BpfError> {
        let all = self.tracer.missed()?;
        let before = std::mem::replace(&mut self.missed, all);
        let groups = |missed: &Missed| missed.begins + missed.waiters + missed.blockers;
        let mut interval = Interval {
            ended_ms: now_ms(),
            length,
            missed: groups(&all) - groups(&before),
            long_waits_untold: all.long_waits - before.long_waits,
            ..Interval::default()
        };
        let waits = counted.waiters.iter().filter(|(_, w)| w.count > 0);
        interval.waits = waits.map(|(key, w)| self.waits(key, w)).collect();
        let waiters = counted.waiters.iter().map(|(key, _)| (key.lock, key));
        let waiters = waiters.collect();
        let blockers = counted.blockers.iter();
        interval.blockers = blockers
            .map(|(key, blocked)| {
                let lock = self.lock_of_blocker(key.lock, &waiters);
                let blocked = Blocked {
                    pid: Some(key.holder.pid),
                    tid: Some(key.holder.tid),
                    count: blocked.count,
                    total_ns: blocked.total_ns,
                };
                (self.blocker(lock, key), blocked)
            })
            .collect();
        let long_waits = counted.long_waits.iter().map(|wait| self.long_wait(wait));
        let long_waits = long_waits.collect();
        self.history.push(interval, long_waits);
        Ok(())
    }

    fn waits(&mut self, key: &WaiterKey, waiters: &Waiters) -> (Group, Figures) {
        let kind = names::kind(key.kind);
        let caller = self.resolver.name(key.caller);
        let group = Group {
            lock: self.lock_name(key.lock, kind, &caller),
            kind,
            caller,
            thread: Comm::from(key.comm).as_str().into(),
            operation: Operation::from_number(key.operation),
        };
        let Waiters {
            count,
            total_ns,
            max_ns,
            ..
        } = *waiters;
        (group, figures(count, total_ns, max_ns, &waiters.histogram))
    }

    fn blocker(&mut self, lock: Arc<str>, key: &BlockerKey) -> Blocker {
        let holder = &key.holder;
        Blocker {
            lock,
            thread: Comm::from(holder.comm).as_str().into(),
            operation: Operation::from_number(holder.operation),
            caller: (holder.caller != 0).then(|| self.resolver.name(holder.caller)),
        }
    }

    /// What a lock is called: by its address if that is known, or by who asks for it.
    fn lock_name(&mut self, lock: u64, kind: &str, caller: &str) -> Arc<str> {
        if lock == 0 {
            return "(others)".into();
        }
        if let Some(name) = self.lock_names.get(&lock) {
            return (*name).into();
        }
        // There is one rtnl lock: where its address is known, no other lock is it, whoever asks.
        let known =
            names::known(kind, caller).filter(|name| *name != names::RTNL || !self.knows_rtnl);
        let Some(name) = known else {
            return names::by_caller(caller).into();
        };
        // Locks come and go; those of an address that was freed are named anew some time.
        if self.lock_names.len() >= LOCKS_KNOWN {
            self.lock_names.retain(|_, name| *name == names::RTNL);
        }
        self.lock_names.insert(lock, name);
        name.into()
    }

    /// The same for a lock that is known by those who waited for it only, one of whom is in `waiters`.
    fn lock_of_blocker(&mut self, lock: u64, waiters: &HashMap<u64, &WaiterKey>) -> Arc<str> {
        let Some(key) = waiters.get(&lock) else {
            return self.lock_name(lock, "", "?");
        };
        let caller = self.resolver.name(key.caller);
        self.lock_name(lock, names::kind(key.kind), &caller)
    }

    fn long_wait(&mut self, wait: &LongWait) -> types::LongWait {
        let caller = self.resolver.name(wait.caller);
        let operation = |number| Operation::from_number(number).map(|op| op.name().to_owned());
        let holder = &wait.holder;
        let is_held = holder.tid != 0;
        types::LongWait {
            time_ms: wall_clock_ms(wait.begun_ns),
            lock: self
                .lock_name(wait.lock, names::kind(wait.kind), &caller)
                .to_string(),
            waited_us: wait.waited_ns / 1000,
            thread: Comm::from(wait.comm).as_str().to_owned(),
            pid: wait.pid,
            tid: wait.tid,
            operation: operation(wait.operation),
            caller: caller.to_string(),
            holder: is_held.then(|| Comm::from(holder.comm).as_str().to_owned()),
            holder_pid: is_held.then_some(holder.pid),
            holder_tid: is_held.then_some(holder.tid),
            holder_operation: operation(holder.operation),
            holder_caller: (holder.caller != 0)
                .then(|| self.resolver.name(holder.caller).to_string()),
            stack: self.stack(wait),
        }
    }

    /// The functions that a thread was in, from the one that sleeps for the lock on: what is before it tells of us.
    fn stack(&mut self, wait: &LongWait) -> Vec<String> {
        let frames = usize::try_from(wait.stack_bytes).unwrap_or(0) / size_of::<u64>();
        let frames = &wait.stack[..frames.min(STACK_FRAMES)];
        let first = frames.iter().position(|&f| self.lock_text.contains(f));
        let frames = frames[first.unwrap_or(0)..].iter();
        frames
            .map(|&frame| self.resolver.name(frame).to_string())
            .collect()
    }
}
