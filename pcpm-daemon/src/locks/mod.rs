//! Lock insight: who waits for the kernel's locks, for how long, and who holds them meanwhile.
//!
//! A thread of its own asks the tracer once a second what was counted, gives names to it, and keeps the
//! last ten minutes. Where the kernel does not let the daemon trace, everything else works and the reason
//! is shown.

mod calibration;
mod history;
mod interval;
mod names;
pub(crate) mod operation;
mod sum;
mod symbols;

use std::{
    collections::HashMap,
    fs,
    sync::{
        Arc, OnceLock,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use pcpm_api::types;
use pcpm_ebpf::locks::{COMM_BYTES, LongWait, STACK_FRAMES, TextRange, Tracing, WRAPPERS};

use crate::bpf::{BpfError, Btf, Counted, LockTracer, WorkerMarks};
use crate::memory;
use interval::{Blocker, Group, Interval, figures};
use operation::Operation;
use symbols::{Resolver, Symbols};

pub(crate) use history::{LockFollower, LockHistory};

/// How often the tracer is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long programs that began in a generation may still count in it.
const GRACE: Duration = Duration::from_millis(5);
/// Functions that do nothing but ask for the rtnl lock.
const RTNL_WRAPPERS: [&str; 6] = [
    "rtnl_lock",
    "rtnl_lock_killable",
    "rtnl_lock_interruptible",
    "rtnl_net_lock",
    "rtnl_net_lock_killable",
    "netdev_lock",
];
/// Names of locks that are remembered by their addresses.
const LOCKS_KNOWN: usize = 4096;

/// The running insight.
pub(crate) struct Insight {
    /// What was seen, also while it runs.
    pub(crate) history: Arc<LockHistory>,
    /// Where workers say what they are doing, as soon as the tracer is attached.
    pub(crate) marks: Arc<OnceLock<WorkerMarks>>,
    running: Option<Running>,
}

struct Running {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Insight {
    /// Begins to trace, in a thread of its own: reading what the kernel says of itself takes a while. Waits at
    /// least as long as `long_wait` are told one by one. If it is not possible the history says why.
    pub(crate) fn start(long_wait: Duration) -> Self {
        let mut insight = Self::none();
        let (history, marks) = (insight.history.clone(), insight.marks.clone());
        let (stop, stopped) = mpsc::channel();
        let tracing = move || {
            if let Err(error) = trace(long_wait, &history, &marks, &stopped) {
                tracing::warn!("no lock insight: {error}");
                history.end(error.to_string());
            }
        };
        let thread = thread::Builder::new().name("pcpm-locks".into());
        match thread.spawn(tracing) {
            Ok(thread) => insight.running = Some(Running { stop, thread }),
            Err(error) => insight.history.end(format!("start its thread: {error}")),
        }
        insight
    }

    /// No insight, for this reason.
    pub(crate) fn off(reason: String) -> Self {
        let insight = Self::none();
        insight.history.end(reason);
        insight
    }

    fn none() -> Self {
        Self {
            history: Arc::new(LockHistory::new()),
            marks: Arc::default(),
            running: None,
        }
    }

    /// Detaches the tracer.
    pub(crate) fn stop(self) {
        if let Some(Running { stop, thread }) = self.running {
            drop(stop);
            if thread.join().is_err() {
                tracing::error!("the thread of the lock tracer panicked");
            }
        }
    }
}

/// Traces until it is told to stop.
fn trace(
    long_wait: Duration,
    history: &Arc<LockHistory>,
    marks: &OnceLock<WorkerMarks>,
    stop: &mpsc::Receiver<()>,
) -> Result<(), BpfError> {
    let symbols = Symbols::read();
    let shown_rtnl = symbols.address(names::RTNL);
    let (tracer, places) = LockTracer::attach(settings(&symbols, long_wait)?)?;
    marks.get_or_init(|| places);
    memory::give_back();
    let mut watcher = Watcher {
        tracer,
        resolver: Resolver::new(symbols),
        lock_names: HashMap::new(),
        history: history.clone(),
        missed: 0,
    };
    watcher.watch(shown_rtnl, stop)
}

/// What the programs need to know of this kernel. What it does not show is missing in what they tell.
fn settings(symbols: &Symbols, long_wait: Duration) -> Result<Tracing, BpfError> {
    let path = "/sys/kernel/btf/vmlinux";
    let bytes = fs::read(path).map_err(|e| BpfError::new(format!("read {path}"), &e))?;
    let btf = Btf::parse(&bytes).map_err(|e| BpfError::new(format!("read {path}"), &e))?;
    let mut wrappers = [TextRange::default(); WRAPPERS];
    let found = RTNL_WRAPPERS
        .iter()
        .filter_map(|name| symbols.range(name, None));
    wrappers
        .iter_mut()
        .zip(found)
        .for_each(|(to, range)| *to = range);
    let lock_text = symbols.range("__sched_text_start", Some("__sched_text_end"));
    Ok(Tracing {
        generation: 0,
        task_pid: btf.offset_of("task_struct", "pid").unwrap_or(0),
        task_comm: btf.offset_of("task_struct", "comm").unwrap_or(0),
        padding: 0,
        long_wait_ns: u64::try_from(long_wait.as_nanos()).unwrap_or(u64::MAX),
        lock_text: lock_text.unwrap_or_default(),
        wrappers,
    })
}

/// The thread that asks the tracer.
struct Watcher {
    tracer: LockTracer,
    resolver: Resolver,
    /// By address; only those that are sure.
    lock_names: HashMap<u64, &'static str>,
    history: Arc<LockHistory>,
    /// What had been missed before this interval.
    missed: u64,
}

impl Watcher {
    fn watch(
        &mut self,
        shown_rtnl: Option<u64>,
        stop: &mpsc::Receiver<()>,
    ) -> Result<(), BpfError> {
        self.tracer.next_generation()?;
        let found = match shown_rtnl {
            Some(address) => Some(address),
            None => calibration::find_rtnl(&mut self.tracer)?,
        };
        if let Some(address) = found {
            self.lock_names.insert(address, names::RTNL);
        } else {
            tracing::info!("the rtnl lock was not found; it is known by who asks for it");
        }
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

/// The name of a thread, as the kernel keeps it. It may hold any bytes.
struct Comm(String);

impl From<[u8; COMM_BYTES]> for Comm {
    fn from(bytes: [u8; COMM_BYTES]) -> Self {
        let name = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        Self(String::from_utf8_lossy(name).into_owned())
    }
}

impl Comm {
    fn as_str(&self) -> &str {
        &self.0
    }
}

/// Milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The time of day of a moment by the kernel's monotonic clock.
fn wall_clock_ms(monotonic_ns: u64) -> u64 {
    let clock = nix::time::ClockId::CLOCK_MONOTONIC;
    let now = nix::time::clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
    let ago = now.saturating_sub(Duration::from_nanos(monotonic_ns));
    now_ms().saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX))
}
