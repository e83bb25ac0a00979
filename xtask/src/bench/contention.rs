//! `bench contention`: networks made on demand, more and more at once: how long each takes, and how much of that it waits
//! for which lock; beside attaches to pooled ones. The claim that a pool is built on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use pcpm_api::types::{LockWaiter, LocksReply};
use pcpm_tests::World;
use serde::Serialize;
use serde_json::json;

use super::ContentionArguments;
use super::attach::{attach_request, refuses};
use super::chart::{Chart, Column};
use super::crowd::Crowd;
use super::insight::seconds_pass;
use crate::inside::ON_DEMAND_THREAD;
use crate::plain;
use crate::report::{Spread, table, time, write_json};

const AT_ONCE: [usize; 5] = [1, 10, 20, 50, 100];
/// Locks told by name, the others together.
const NAMED: usize = 4;
const OTHERS: &str = "other locks";

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
}

pub(super) fn run(arguments: &ContentionArguments) -> Result<()> {
    let rounds = if arguments.quick { 1 } else { 5 };
    let at_once = AT_ONCE.map(|networks| measure(networks, rounds));
    let figures = Figures {
        at_once: at_once.into_iter().collect::<Result<_>>()?,
    };
    figures.show();
    let drawing = draw(&figures)?;
    println!("\ndrawn in {}", drawing.display());
    write_json(arguments.json.as_deref(), &figures)
}

fn measure(networks: usize, rounds: usize) -> Result<AtOnce> {
    // Single ones are quick, and there is little to be seen of one.
    let rounds = rounds * (20 / networks).clamp(1, 4);
    let (mut times, mut waits) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        eprintln!("{networks} at once, round {round} of {rounds}");
        let (more, seen) = make_on_demand(networks)?;
        times.extend(more);
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
        pooled: attach_pooled(networks, rounds)?,
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

fn attach_pooled(networks: usize, rounds: usize) -> Result<Spread> {
    let world = World::new()?;
    let capacity = u32::try_from(networks)?.max(8);
    let daemon = world.spawn_daemon(&["--capacity", &capacity.to_string()])?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        daemon.wait_until_ready(capacity)?;
        let mut crowd = Crowd::connect(daemon.socket(), networks)?;
        let owners: Vec<_> = (0..networks).map(|n| format!("bench-{n}")).collect();
        let requests: Vec<_> = owners.iter().map(|owner| attach_request(owner)).collect();
        times.extend(crowd.ask(&requests, refuses)?);
        owners.iter().try_for_each(|owner| daemon.detach(owner))?;
    }
    Spread::of_nanos(times)
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

    fn show(&self) {
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
            row.extend(shares.map(|share| format!("{:.1}%", share * 100.0)));
            row.extend([time(at_once.pooled.p50_us), time(at_once.pooled.p99_us)]);
            rows.push(row);
        }
        println!(
            "networks made on demand, all starting in the same moment, and the share of that time spent waiting for locks:\n"
        );
        table(&rows);
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

fn draw(figures: &Figures) -> Result<PathBuf> {
    let locks = figures.locks();
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
    let chart = Chart {
        title: "Time to a network made on demand, and what it waits for".to_owned(),
        x_title: "networks at once".to_owned(),
        y_title: "ms, mean".to_owned(),
        parts: locks
            .iter()
            .cloned()
            .chain(["not waiting".to_owned()])
            .collect(),
        columns: figures.at_once.iter().map(column).collect(),
    };
    let directory = Path::new("target/bench");
    fs::create_dir_all(directory).context("make target/bench")?;
    let path = directory.join("contention.svg");
    fs::write(&path, chart.svg()).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
