//! `bench cold-start`: function containers that are started at once, from request to first reply, as in "Agile Cold Starts for
//! Scalable Serverless": with networks made on demand, kept by pause containers, out of the pool, and with none.

mod figures;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use pcpm_api::types::{LockWaiter, LocksReply};
use pcpm_tests::{Daemon, World};
use serde::Serialize;
use serde_json::json;

use self::figures::Figures;
use super::Part;
use super::findings::Findings;
use super::insight::seconds_pass;
use crate::inside::{Method, Phases};
use crate::plain;

const AT_ONCE: [u32; 6] = [1, 10, 20, 50, 80, 100];
const AT_ONCE_QUICK: [u32; 1] = [10];
const ROUNDS: u32 = 3;
/// Rounds of the most at once, of what is aimed at and its floor: a start may be early or late among the others, so that
/// medians of two rounds of the same differ by a fifth.
const ROUNDS_OF_MOST: u32 = 9;
const RTNL: &str = "rtnl_mutex";

#[derive(Debug, Args)]
pub(super) struct ColdStartArguments {
    /// Numbers of containers started at once [default: 1,10,20,50,80,100; quick: 10].
    #[arg(long, value_name = "N,N,..", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=500))]
    at_once: Vec<u32>,
    /// How often all of it is measured, one method after the other [default: 3, of the most at once 9 with a pool and
    /// without a network; quick: 1, the most only while waits for locks are counted].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: Option<u32>,
    /// Ways to a network [default: all of them].
    #[arg(long, value_name = "METHOD,METHOD,..", value_delimiter = ',')]
    methods: Vec<Method>,
}

/// Starts by one method, so many at once.
#[derive(Debug, Serialize)]
struct Series {
    method: Method,
    at_once: u32,
    rounds: Vec<Round>,
}

/// Means of one round's containers, in microseconds, but for the median.
#[derive(Debug, Serialize)]
struct Round {
    containers: usize,
    /// From request to first reply.
    median_us: f64,
    /// Until the last has replied.
    last_us: f64,
    network_us: f64,
    /// Of that, what the daemon took to hand out a slot, by its own account.
    daemon_us: f64,
    create_us: f64,
    start_us: f64,
    reply_us: f64,
}

/// What was waited for while the most were started at once.
#[derive(Debug, Serialize)]
struct Locks {
    method: Method,
    /// Shares of all the time that starts took.
    rtnl_share: f64,
    all_share: f64,
}

impl Part for ColdStartArguments {
    fn name(&self) -> &'static str {
        "cold-start"
    }

    fn measure(&self, quick: bool) -> Result<Findings> {
        let at_once = match (self.at_once.as_slice(), quick) {
            ([], true) => AT_ONCE_QUICK.to_vec(),
            ([], false) => AT_ONCE.to_vec(),
            (at_once, _) => at_once.to_vec(),
        };
        let rounds = self.rounds.unwrap_or(if quick { 1 } else { ROUNDS });
        let most = at_once.iter().copied().max().context("nothing to start")?;
        let is_watched_only = |count| quick && self.rounds.is_none() && count == most;
        let methods = Method::ALL.into_iter();
        let methods: Vec<_> = methods.filter(|method| self.measures(*method)).collect();
        let mut series = Vec::new();
        for count in &at_once {
            series.extend(methods.iter().map(|method| Series {
                method: *method,
                at_once: *count,
                rounds: Vec::new(),
            }));
        }
        let rounds_of = |series: &Series| match self.rounds {
            _ if is_watched_only(series.at_once) => 0,
            None if !quick && series.at_once == most && series.has_aim() => ROUNDS_OF_MOST,
            _ => rounds,
        };
        let last = series.iter().map(rounds_of).max().unwrap_or_default();
        for round in 1..=last {
            let these = series.iter_mut();
            let mut these: Vec<_> = these.filter(|series| round <= rounds_of(series)).collect();
            // Forth and back: nobody always measures behind the same one.
            if round.is_multiple_of(2) {
                these.reverse();
            }
            for series in these {
                let (method, count, rounds) = (series.method, series.at_once, rounds_of(series));
                let name = method.name();
                eprintln!("round {round} of {rounds}: {count} at once, {name}");
                series.rounds.push(start(method, count)?);
            }
        }
        let watched = Locks::watch_all(&methods, most)?;
        let (locks, watched): (Vec<_>, Vec<_>) = watched.into_iter().unzip();
        if is_watched_only(most) {
            // Both are in the order of the methods.
            let of_most = series.iter_mut().filter(|series| series.at_once == most);
            for (series, round) in of_most.zip(watched) {
                series.rounds.push(round);
            }
        }
        let figures = Figures {
            methods,
            at_once,
            series,
            locks,
        };
        figures.findings(most)
    }
}

impl ColdStartArguments {
    fn measures(&self, method: Method) -> bool {
        self.methods.is_empty() || self.methods.contains(&method)
    }
}

/// In a world of its own, which nothing was started in before.
fn start(method: Method, count: u32) -> Result<Round> {
    plain::settle()?;
    let world = World::new()?;
    let daemon = pool(&world, method, count)?;
    let count = count.to_string();
    let tool = world.host().command(
        std::env::current_exe()?,
        [
            "inside",
            "cold-start",
            "--method",
            method.word(),
            "--count",
            &count,
        ],
    );
    let starts = tool.json().with_context(|| method.name())?;
    let starts: Vec<Phases> = serde_json::from_value(starts).context("the times of starts")?;
    let mut round = Round::of(&starts);
    let Some(daemon) = daemon else {
        return Ok(round);
    };
    let status = daemon.status()?;
    round.daemon_us = in_float(status.attach_latency.p50_us);
    if method == Method::PooledRuntime {
        // The runtime tells its daemon how long it waited for a slot.
        round.network_us = in_float(status.starts.attach.p50_us);
        round.create_us -= round.network_us;
    }
    Ok(round)
}

/// A pool that is full, of a daemon that is through with starting.
fn pool(world: &World, method: Method, count: u32) -> Result<Option<Daemon>> {
    if !method.is_pooled() {
        return Ok(None);
    }
    let daemon = world.pool_of(count.max(8))?;
    seconds_pass(&daemon)?;
    Ok(Some(daemon))
}

impl Method {
    const ALL: [Self; 6] = [
        Self::Cni,
        Self::OnDemand,
        Self::Pause,
        Self::Pooled,
        Self::PooledRuntime,
        Self::None,
    ];

    pub(in crate::bench) const fn word(self) -> &'static str {
        match self {
            Self::Cni => "cni",
            Self::OnDemand => "on-demand",
            Self::Pause => "pause",
            Self::Pooled => "pooled",
            Self::PooledRuntime => "pooled-runtime",
            Self::None => "none",
        }
    }

    const fn is_pooled(self) -> bool {
        matches!(self, Self::Pooled | Self::PooledRuntime)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Cni => "CNI bridge, portmap",
            Self::OnDemand => "plain netlink",
            Self::Pause => "pause containers",
            Self::Pooled => "PCPM",
            Self::PooledRuntime => "PCPM, pcpm-runtime",
            Self::None => "no network (floor)",
        }
    }
}

impl Series {
    fn has_aim(&self) -> bool {
        self.method.is_pooled() || self.method == Method::None
    }
}

impl Round {
    fn of(starts: &[Phases]) -> Self {
        let totals = starts.iter().map(|start| in_micros(start.total()));
        let mean = |of: fn(&Phases) -> Duration| {
            let all: f64 = starts.iter().map(|start| in_micros(of(start))).sum();
            all / in_float(starts.len() as u64)
        };
        Self {
            containers: starts.len(),
            median_us: crate::report::median(totals.clone()),
            last_us: totals.fold(0.0, f64::max),
            network_us: mean(|start| start.network),
            daemon_us: 0.0,
            create_us: mean(|start| start.create),
            start_us: mean(|start| start.start),
            reply_us: mean(|start| start.reply),
        }
    }

    fn total_us(&self) -> f64 {
        self.phases().iter().sum()
    }

    fn phases(&self) -> [f64; 4] {
        [
            self.network_us,
            self.create_us,
            self.start_us,
            self.reply_us,
        ]
    }

    fn network_share(&self) -> f64 {
        self.network_us / self.total_us()
    }
}

impl Phases {
    pub(in crate::bench) fn total(&self) -> Duration {
        self.network + self.create + self.start + self.reply
    }
}

impl Locks {
    /// A daemon in a world of its own watches the kernel while containers are started beside it.
    fn watch_all(methods: &[Method], count: u32) -> Result<Vec<(Self, Round)>> {
        let world = World::new()?;
        let daemon = world.pool_of(1)?;
        seconds_pass(&daemon)?;
        let watch = |method: &Method| Self::watch(&daemon, *method, count);
        methods.iter().map(watch).collect()
    }

    /// What was waited for by then was counted.
    fn watch(daemon: &Daemon, method: Method, count: u32) -> Result<(Self, Round)> {
        eprintln!("locks: {count} at once, {}", method.name());
        let begun = Instant::now();
        let round = start(method, count)?;
        seconds_pass(daemon)?;
        let last_ms = u64::try_from(begun.elapsed().as_millis())?;
        let request = json!({"last_ms": last_ms, "top": 1000});
        let seen: LocksReply = daemon.connect()?.call("Locks", &request)?;
        let total_us = round.total_us() * f64::from(count);
        let waited = |of: fn(&LockWaiter) -> bool| {
            let waiters = seen.waiters.iter();
            let these = waiters.filter(|waiter| starts_something(waiter) && of(waiter));
            in_float(these.map(|waiter| waiter.total_us).sum()) / total_us
        };
        let waits = Self {
            method,
            rtnl_share: waited(|waiter| waiter.lock == RTNL),
            all_share: waited(|_| true),
        };
        Ok((waits, round))
    }
}

/// Whether a container may wait for it: it is neither the kernel's, which removes what was, nor a daemon's or a world's.
fn starts_something(waiter: &LockWaiter) -> bool {
    let thread = waiter.thread.as_str();
    !["ip", "ping"].contains(&thread)
        && !["kworker", "pcpm"]
            .iter()
            .any(|other| thread.starts_with(other))
}

fn in_micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of minutes fit")]
fn in_float(number: u64) -> f64 {
    number as f64
}
