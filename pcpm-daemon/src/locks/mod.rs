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
mod pacer;
mod pacing;
mod state;
mod sum;
mod symbols;
mod totals;
mod watcher;

use std::{
    sync::{Arc, OnceLock, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use pcpm_api::types::Check;
use pcpm_ebpf::locks::{COMM_BYTES, TextRange, Tracing, WRAPPERS};

use crate::bpf::{self, BpfError, Counted, LockTracer, TaskLayout, WorkerMarks};
use crate::memory;
use calibration::Forced;
use state::{Known, Rtnl};
use symbols::{Resolver, Symbols};
use watcher::Watcher;

pub(crate) use history::{LockFollower, LockHistory};
pub(crate) use pacer::{Pacer, Pacing};
pub(crate) use pacing::Pace;
pub(crate) use state::Unavailable;
pub(crate) use totals::LockTotals;

/// Functions that do nothing but ask for the rtnl lock.
const RTNL_WRAPPERS: [&str; 6] = [
    "rtnl_lock",
    "rtnl_lock_killable",
    "rtnl_lock_interruptible",
    "rtnl_net_lock",
    "rtnl_net_lock_killable",
    "netdev_lock",
];

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
                history.end(Unavailable::refused(error.to_string()));
            }
        };
        let thread = thread::Builder::new().name("pcpm-locks".into());
        match thread.spawn(tracing) {
            Ok(thread) => insight.running = Some(Running { stop, thread }),
            Err(error) => {
                let reason = format!("start its thread: {error}");
                insight.history.end(Unavailable::refused(reason));
            }
        }
        insight
    }

    /// No insight, since it is not wanted.
    pub(crate) fn off() -> Self {
        let insight = Self::none();
        insight.history.end(Unavailable::off());
        insight
    }

    fn none() -> Self {
        Self {
            history: Arc::new(LockHistory::new()),
            marks: Arc::default(),
            running: None,
        }
    }

    /// Has workers keep what others wait for the rtnl lock because of them within `bound`.
    pub(crate) fn pacer(&self, bound: Option<Duration>) -> Option<Arc<Pacer>> {
        let pacer = |bound| Pacer::new(bound, self.marks.clone(), self.history.clone());
        bound.map(pacer).map(Arc::new)
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

/// Traces for a moment, to see what can be seen; for where no daemon runs that could tell.
pub(crate) fn probe(wanted: bool) -> Check {
    if !wanted {
        return state::check(None, Some(&Unavailable::off()));
    }
    let known = Traced::attach(Duration::MAX).and_then(|(mut traced, _)| traced.find_rtnl());
    match known {
        Ok((_, known)) => state::check(Some(&known), None),
        Err(error) => state::check(None, Some(&Unavailable::refused(error.to_string()))),
    }
}

/// Traces until it is told to stop.
fn trace(
    long_wait: Duration,
    history: &Arc<LockHistory>,
    marks: &OnceLock<WorkerMarks>,
    stop: &mpsc::Receiver<()>,
) -> Result<(), BpfError> {
    let (mut traced, places) = Traced::attach(long_wait)?;
    marks.get_or_init(|| places);
    memory::give_back();
    let (rtnl, known) = traced.find_rtnl()?;
    history.knows(known);
    Watcher::new(traced, rtnl, history.clone()).watch(stop)
}

/// A kernel that is traced.
struct Traced {
    tracer: LockTracer,
    resolver: Resolver,
    /// The rtnl lock, where the kernel shows it.
    symbol: Option<u64>,
    /// The functions that sleep for locks, empty if that is not known.
    lock_text: TextRange,
    no_holders: Option<String>,
    /// What was counted so far.
    counted: Counted,
    begun: Instant,
}

impl Traced {
    /// Attaches the tracer.
    fn attach(long_wait: Duration) -> Result<(Self, WorkerMarks), BpfError> {
        let symbols = Symbols::read();
        let (tasks, no_holders) = match bpf::task_layout() {
            Ok(tasks) => (tasks, None),
            Err(error) => (TaskLayout::default(), Some(error.to_string())),
        };
        let settings = settings(&symbols, tasks, long_wait);
        let (tracer, marks) = LockTracer::attach(settings)?;
        let kernel = Self {
            tracer,
            symbol: symbols.address(names::RTNL),
            resolver: Resolver::new(symbols),
            lock_text: settings.lock_text,
            no_holders,
            counted: Counted::default(),
            begun: Instant::now(),
        };
        Ok((kernel, marks))
    }

    /// The address of the rtnl lock, if it can be found, and what is known of this kernel then.
    fn find_rtnl(&mut self) -> Result<(Option<u64>, Known), BpfError> {
        let forced = calibration::find_rtnl(&mut self.tracer, &mut self.counted)?;
        let (rtnl, how) = recognise(self.symbol, forced, &mut self.resolver);
        self.tracer.set_rtnl(rtnl.unwrap_or(0));
        let known = Known {
            rtnl: how,
            callers: self.lock_text != TextRange::default(),
            no_holders: self.no_holders.clone(),
        };
        Ok((rtnl, known))
    }
}

/// Which lock is the rtnl lock, and how that is known.
fn recognise(
    symbol: Option<u64>,
    forced: Option<Forced>,
    resolver: &mut Resolver,
) -> (Option<u64>, Rtnl) {
    let Some(forced) = forced else {
        let how = symbol.map_or(Rtnl::Callers, |_| Rtnl::Symbol);
        return (symbol, how);
    };
    let waits = state::ForcedWaits {
        waits: forced.waits,
        caller: resolver.name(forced.caller).to_string(),
    };
    match symbol {
        None => (Some(forced.lock), Rtnl::Forced(waits)),
        Some(lock) if lock == forced.lock => (symbol, Rtnl::Confirmed(waits)),
        Some(_) => (symbol, Rtnl::Doubtful(waits)),
    }
}

/// What the programs need to know of this kernel. What it does not show is missing in what they tell.
fn settings(symbols: &Symbols, tasks: TaskLayout, long_wait: Duration) -> Tracing {
    let mut wrappers = [TextRange::default(); WRAPPERS];
    let found = RTNL_WRAPPERS
        .iter()
        .filter_map(|name| symbols.range(name, None));
    wrappers
        .iter_mut()
        .zip(found)
        .for_each(|(to, range)| *to = range);
    let lock_text = symbols.range("__sched_text_start", Some("__sched_text_end"));
    Tracing {
        task_pid: tasks.pid,
        task_tgid: tasks.tgid,
        task_comm: tasks.comm,
        task_flags: tasks.flags,
        long_wait_ns: u64::try_from(long_wait.as_nanos()).unwrap_or(u64::MAX),
        lock_text: lock_text.unwrap_or_default(),
        wrappers,
        ..Tracing::default()
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
