//! `bench contention`: networks made on demand, more and more at once: how long each takes, and how much of that it waits
//! for which lock; beside attaches to pooled ones. The claim that a pool is built on.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use clap::Args;
use pcpm_api::types::{LockWaiter, LocksReply};
use pcpm_tests::World;
use serde::Serialize;
use serde_json::json;

use super::Part;
use super::attach::{attach_request, refuses};
use super::chart::{Column, Columns};
use super::crowd::Crowd;
use super::findings::{Findings, Ratio, Rows};
use super::insight::seconds_pass;
use crate::inside::ON_DEMAND_THREAD;
use crate::plain;
use crate::report::{Spread, time};

const AT_ONCE: [usize; 5] = [1, 10, 20, 50, 100];
const AT_ONCE_QUICK: [usize; 2] = [10, 100];
/// Locks told by name, the others together.
const NAMED: usize = 4;
const OTHERS: &str = "other locks";

#[derive(Debug, Args)]
pub(super) struct ContentionArguments {
    /// How often each number is made at once; small ones more often [default: 5; quick: 1].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=50))]
    rounds: Option<u8>,
}

#[derive(Debug, Serialize)]
struct Figures {
    at_once: Vec<AtOnce>,
}

/// So many set-ups at once.
#[derive(Debug, Serialize)]
struct AtOnce {
    networks: usize,
    on_demand: Spread,
    mean_us: f64,
    /// The share of their time that set-ups waited for a lock, by lock.
    waiting: BTreeMap<String, f64>,
    pooled: Spread,
    /// Median on demand beside median pooled, round by round.
    on_demand_over_pooled: Vec<f64>,
    /// The share of the time that set-ups waited for any lock, round by round.
    waiting_share: Vec<f64>,
}

impl Part for ContentionArguments {
    fn name(&self) -> &'static str {
        "contention"
    }

    fn measure(&self, quick: bool) -> Result<Findings> {
        let rounds = self.rounds.unwrap_or(if quick { 1 } else { 5 });
        let (at_once, of_few) = if quick {
            (&AT_ONCE_QUICK[..], 1)
        } else {
            (&AT_ONCE[..], 4)
        };
        // Single ones are quick, and there is little to be seen of one.
        let measure = |&networks: &usize| {
            let more_often = (20 / networks).clamp(1, of_few);
            measure(networks, usize::from(rounds) * more_often)
        };
        let figures = Figures {
            at_once: at_once.iter().map(measure).collect::<Result<_>>()?,
        };
        figures.findings()
    }
}

fn measure(networks: usize, rounds: usize) -> Result<AtOnce> {
    let (mut times, mut pooled) = (Vec::new(), Vec::new());
    let (mut waits, mut waiting_share) = (Vec::new(), Vec::new());
    let mut on_demand_over_pooled = Vec::new();
    for round in 1..=rounds {
        eprintln!("{networks} at once, round {round} of {rounds}");
        let (made_us, seen) = make_on_demand(networks)?;
        let attached_ns = attach_pooled(networks)?;
        let waited_us: u64 = seen.iter().map(|waiter| waiter.total_us).sum();
        waiting_share.push(share(waited_us, made_us.iter().sum()));
        let medians = (
            Spread::of_micros(&made_us)?.p50_us,
            Spread::of_nanos(attached_ns.iter().copied())?.p50_us,
        );
        on_demand_over_pooled.push(medians.0 / medians.1);
        times.extend(made_us);
        pooled.extend(attached_ns);
        waits.extend(seen);
    }
    let total_us: u64 = times.iter().sum();
    let mut waiting = BTreeMap::<String, f64>::new();
    for waiter in waits {
        *waiting.entry(waiter.lock).or_default() += share(waiter.total_us, total_us);
    }
    Ok(AtOnce {
        networks,
        on_demand: Spread::of_micros(&times)?,
        mean_us: mean(total_us, times.len()),
        waiting,
        pooled: Spread::of_nanos(pooled)?,
        on_demand_over_pooled,
        waiting_share,
    })
}

/// Makes networks in a fresh world, whose daemon does nothing but watch. Returns how long each took, in microseconds, and
/// what they waited for.
fn make_on_demand(networks: usize) -> Result<(Vec<u64>, Vec<LockWaiter>)> {
    plain::settle()?;
    let world = World::new()?;
    let daemon = world.spawn_daemon(&["--capacity", "1"])?;
    daemon.wait_until_ready(1)?;
    seconds_pass(&daemon)?;
    let count = networks.to_string();
    let tool = world.host().command(
        std::env::current_exe()?,
        ["inside", "on-demand", "--count", &count],
    );
    let times = serde_json::from_value(tool.json()?).context("the times")?;
    seconds_pass(&daemon)?;
    let all = json!({"last_ms": 600_000, "top": 1000});
    let seen: LocksReply = daemon.connect()?.call("Locks", &all)?;
    let ours = |waiter: &LockWaiter| waiter.thread == ON_DEMAND_THREAD;
    Ok((times, seen.waiters.into_iter().filter(ours).collect()))
}

/// In a fresh world, too. Returns how long each took, in nanoseconds.
fn attach_pooled(networks: usize) -> Result<Vec<u64>> {
    plain::settle()?;
    let world = World::new()?;
    let daemon = world.pool_of(u32::try_from(networks)?.max(8))?;
    let mut crowd = Crowd::connect(daemon.socket(), networks)?;
    let requests = (0..networks).map(|n| attach_request(&format!("bench-{n}")));
    crowd.ask(&requests.collect::<Vec<_>>(), refuses)
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of seconds fit")]
fn share(us: u64, of_us: u64) -> f64 {
    us as f64 / of_us.max(1) as f64
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of seconds fit")]
fn mean(total_us: u64, count: usize) -> f64 {
    total_us as f64 / count.max(1) as f64
}

impl Figures {
    /// The locks waited for longest, and what stands for the others.
    fn locks(&self) -> Vec<String> {
        let mut sums = BTreeMap::<&str, f64>::new();
        for at_once in &self.at_once {
            for (lock, share) in &at_once.waiting {
                *sums.entry(lock).or_default() += share * at_once.mean_us;
            }
        }
        let mut locks: Vec<_> = sums.into_iter().collect();
        locks.sort_by(|a, b| b.1.total_cmp(&a.1));
        let named = locks
            .into_iter()
            .take(NAMED)
            .map(|(lock, _)| lock.to_owned());
        named.chain([OTHERS.to_owned()]).collect()
    }

    fn findings(&self) -> Result<Findings> {
        let hundred = self.at_once.last().context("nothing was measured")?;
        let findings = Findings::new("Contention: networks on demand, and the locks they wait for", self)?
            .text(
                "Networks made on demand by plain netlink, all starting in the same moment, and the share of that time spent waiting \
                 for locks, as the daemon's own tracer sees it in the same world; beside attaches to as many pooled ones.",
            )
            .table(self.rows())
            .chart("contention", self.chart())
            .ratio(Ratio::higher(
                "hundred-on-demand-over-pooled",
                "100 at once: network on demand / attach",
                hundred.on_demand_over_pooled.iter().copied(),
            )?)
            .ratio(Ratio::higher(
                "hundred-waiting-share",
                "100 on demand: time waiting for locks / all of it (what a pool takes away)",
                hundred.waiting_share.iter().copied(),
            )?);
        Ok(findings)
    }

    fn rows(&self) -> Rows {
        let locks = self.locks();
        let titles = ["at once", "p50", "p99", "max"].map(str::to_owned);
        let titles = titles.into_iter().chain(locks.iter().cloned());
        let mut rows = vec![
            titles
                .chain(["pooled p50".into(), "p99".into()])
                .collect::<Vec<_>>(),
        ];
        for at_once in &self.at_once {
            let mut row = vec![at_once.networks.to_string()];
            row.extend(at_once.on_demand.cells());
            let shares = at_once.shares(&locks).into_iter();
            row.extend(shares.map(|share| format!("{:.1} %", share * 100.0)));
            row.extend([time(at_once.pooled.p50_us), time(at_once.pooled.p99_us)]);
            rows.push(row);
        }
        rows
    }

    fn chart(&self) -> Columns {
        let locks = self.locks();
        let column = |at_once: &AtOnce| {
            let shares = at_once.shares(&locks);
            let working = (1.0 - shares.iter().sum::<f64>()).max(0.0);
            let mean_ms = at_once.mean_us / 1000.0;
            let parts = shares.iter().chain([&working]).map(|share| share * mean_ms);
            Column {
                label: at_once.networks.to_string(),
                parts: parts.collect(),
                note: format!("pooled {}", time(at_once.pooled.p50_us)),
            }
        };
        Columns {
            title: "Time to a network made on demand, and what it waits for".to_owned(),
            x_title: "networks at once".to_owned(),
            y_title: "ms, mean".to_owned(),
            parts: locks
                .iter()
                .cloned()
                .chain(["not waiting".to_owned()])
                .collect(),
            bars: self.at_once.iter().map(column).collect(),
        }
    }
}

impl AtOnce {
    /// For each of `locks`, the last of which stands for all others.
    fn shares(&self, locks: &[String]) -> Vec<f64> {
        let named = locks.iter().take(locks.len() - 1);
        let mut shares: Vec<_> = named
            .map(|lock| self.waiting.get(lock).copied().unwrap_or(0.0))
            .collect();
        let all: f64 = self.waiting.values().sum();
        shares.push(all - shares.iter().sum::<f64>());
        shares
    }
}
