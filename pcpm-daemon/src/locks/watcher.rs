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
use pcpm_ebpf::locks::{LongWait, STACK_FRAMES};

use super::{
    Comm, LockHistory,
    interval::{Blocker, Group, Interval, figures},
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
    /// By address; only those that are sure.
    lock_names: HashMap<u64, &'static str>,
    history: Arc<LockHistory>,
    /// What had been missed before this interval.
    missed: u64,
}

impl Watcher {
    pub(super) fn new(
        tracer: LockTracer,
        resolver: Resolver,
        rtnl: Option<u64>,
        history: Arc<LockHistory>,
    ) -> Self {
        Self {
            tracer,
            resolver,
            lock_names: rtnl.map(|lock| (lock, names::RTNL)).into_iter().collect(),
            history,
            missed: 0,
        }
    }

    /// Watches until it is told to stop.
    pub(super) fn watch(&mut self, stop: &mpsc::Receiver<()>) -> Result<(), BpfError> {
        let mut begun = Instant::now();
        loop {
            match stop.recv_timeout(INTERVAL.saturating_sub(begun.elapsed())) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return Ok(()),
            }
            let over = self.tracer.next_generation()?;
            let length = begun.elapsed();
            begun = Instant::now();
            thread::sleep(GRACE);
            let counted = self.tracer.take(over)?;
            self.keep(&counted, length)?;
            self.resolver.rest();
        }
    }

    fn keep(&mut self, counted: &Counted, length: Duration) -> Result<(), BpfError> {
        let missed = self.tracer.missed()?;
        let missed = missed.waiters + missed.blockers + missed.long_waits;
        let mut interval = Interval {
            ended_ms: now_ms(),
            length,
            missed: missed - std::mem::replace(&mut self.missed, missed),
            ..Interval::default()
        };
        for (key, waiters) in &counted.waiters {
            if waiters.count == 0 {
                continue;
            }
            let kind = names::kind(key.kind);
            let caller = self.resolver.name(key.caller);
            let group = Group {
                lock: self.lock_name(key.lock, kind, &caller),
                kind,
                caller,
                thread: Comm::from(key.comm).as_str().into(),
                operation: Operation::from_number(key.operation),
            };
            let figures = figures(
                waiters.count,
                waiters.total_ns,
                waiters.max_ns,
                &waiters.histogram,
            );
            interval.waits.push((group, figures));
        }
        for (key, blocked) in &counted.blockers {
            let blocker = Blocker {
                lock: self.lock_of_blocker(key.lock, counted),
                thread: Comm::from(key.comm).as_str().into(),
                tid: key.holder,
                caller: (key.caller != 0).then(|| self.resolver.name(key.caller)),
            };
            interval
                .blockers
                .push((blocker, (blocked.count, blocked.total_ns)));
        }
        let long_waits = counted.long_waits.iter().map(|wait| self.long_wait(wait));
        let long_waits = long_waits.collect();
        self.history.push(interval, long_waits);
        Ok(())
    }

    /// What a lock is called: by its address if that is known, or by who asks for it.
    fn lock_name(&mut self, lock: u64, kind: &str, caller: &str) -> Arc<str> {
        if lock == 0 {
            return "(others)".into();
        }
        if let Some(name) = self.lock_names.get(&lock) {
            return (*name).into();
        }
        let Some(name) = names::known(kind, caller) else {
            return names::by_caller(caller).into();
        };
        // Locks come and go; those of an address that was freed are named anew some time.
        if self.lock_names.len() >= LOCKS_KNOWN {
            self.lock_names.retain(|_, name| *name == names::RTNL);
        }
        self.lock_names.insert(lock, name);
        name.into()
    }

    /// The same for a lock that is known by those who waited for it only.
    fn lock_of_blocker(&mut self, lock: u64, counted: &Counted) -> Arc<str> {
        let waiter = counted.waiters.iter().find(|(key, _)| key.lock == lock);
        let Some((key, _)) = waiter else {
            return self.lock_name(lock, "", "?");
        };
        let caller = self.resolver.name(key.caller);
        self.lock_name(lock, names::kind(key.kind), &caller)
    }

    fn long_wait(&mut self, wait: &LongWait) -> types::LongWait {
        let caller = self.resolver.name(wait.caller);
        let frames = usize::try_from(wait.stack_bytes).unwrap_or(0) / size_of::<u64>();
        let stack = wait.stack[..frames.min(STACK_FRAMES)].iter();
        types::LongWait {
            time_ms: wall_clock_ms(wait.begun_ns),
            lock: self
                .lock_name(wait.lock, names::kind(wait.kind), &caller)
                .to_string(),
            waited_us: wait.waited_ns / 1000,
            thread: Comm::from(wait.comm).as_str().to_owned(),
            pid: wait.pid,
            tid: wait.tid,
            operation: Operation::from_number(wait.operation).map(|op| op.name().to_owned()),
            caller: caller.to_string(),
            holder: (wait.holder != 0).then(|| Comm::from(wait.holder_comm).as_str().to_owned()),
            holder_tid: (wait.holder != 0).then_some(wait.holder),
            holder_caller: (wait.holder_caller != 0)
                .then(|| self.resolver.name(wait.holder_caller).to_string()),
            stack: stack
                .map(|&frame| self.resolver.name(frame).to_string())
                .collect(),
        }
    }
}
