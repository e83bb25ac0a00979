//! `bench cold-start`: function containers that are started at once, from request to first reply, as in "Agile Cold Starts for
//! Scalable Serverless": with networks made on demand, kept by pause containers, out of the pool, and with none.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use pcpm_api::types::{LockWaiter, LocksReply};
use pcpm_tests::{Daemon, World};
use serde::Serialize;
use serde_json::json;

use super::Part;
use super::chart::{Column, Columns, Line, Lines, Point};
use super::findings::{Findings, Ratio, Rows};
use super::insight::seconds_pass;
use super::spread::Spread;
use crate::inside::{Method, Phases};
use crate::plain;
use crate::report::time;

const AT_ONCE: [u32; 6] = [1, 10, 20, 50, 80, 100];
const AT_ONCE_QUICK: [u32; 3] = [1, 10, 100];
const RTNL: &str = "rtnl_mutex";

/// Of start-up at the most at once.
const LARGEST_NETWORK_SHARE: f64 = 0.05;
const LARGEST_OVER_FLOOR: f64 = 1.3;

#[derive(Debug, Args)]
pub(super) struct ColdStartArguments {
    /// Numbers of containers started at once [default: 1,10,20,50,80,100; quick: 1,10,100].
    #[arg(long, value_name = "N,N,..", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=500))]
    at_once: Vec<u32>,
    /// How often all of it is measured, one method after the other [default: 5; quick: 2].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: Option<u32>,
}

#[derive(Debug, Serialize)]
struct Figures {
    at_once: Vec<u32>,
    series: Vec<Series>,
    locks: Vec<Locks>,
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
    network_us: f64,
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
        let rounds = self.rounds.unwrap_or(if quick { 2 } else { 5 });
        let mut series = Vec::new();
        for count in &at_once {
            series.extend(Method::ALL.map(|method| Series {
                method,
                at_once: *count,
                rounds: Vec::new(),
            }));
        }
        for round in 1..=rounds {
            for series in &mut series {
                let (method, count) = (series.method, series.at_once);
                eprintln!(
                    "round {round} of {rounds}: {count} at once, {}",
                    method.name()
                );
                series.rounds.push(start(method, count)?);
            }
        }
        let most = at_once.iter().copied().max().context("nothing to start")?;
        let locks = Method::ALL.map(|method| Locks::watch(method, most));
        let figures = Figures {
            at_once,
            series,
            locks: locks.into_iter().collect::<Result<_>>()?,
        };
        figures.findings(most)
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
    if let (Method::PooledRuntime, Some(daemon)) = (method, daemon) {
        // The runtime tells its daemon what it waited for a slot.
        round.network_us = in_float(daemon.status()?.starts.attach.p50_us);
        round.create_us -= round.network_us;
    }
    Ok(round)
}

fn pool(world: &World, method: Method, count: u32) -> Result<Option<Daemon>> {
    let pooled = matches!(method, Method::Pooled | Method::PooledRuntime);
    pooled.then(|| world.pool_of(count.max(8))).transpose()
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

    const fn word(self) -> &'static str {
        match self {
            Self::Cni => "cni",
            Self::OnDemand => "on-demand",
            Self::Pause => "pause",
            Self::Pooled => "pooled",
            Self::PooledRuntime => "pooled-runtime",
            Self::None => "none",
        }
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
            network_us: mean(|start| start.network),
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
    fn total(&self) -> Duration {
        self.network + self.create + self.start + self.reply
    }
}

impl Locks {
    /// A daemon in a world of its own watches the kernel while containers are started beside it.
    fn watch(method: Method, count: u32) -> Result<Self> {
        eprintln!("locks: {count} at once, {}", method.name());
        let world = World::new()?;
        let daemon = world.pool_of(1)?;
        seconds_pass(&daemon)?;
        let begun = Instant::now();
        let round = start(method, count)?;
        seconds_pass(&daemon)?;
        let last_ms = u64::try_from(begun.elapsed().as_millis())?;
        let request = json!({"last_ms": last_ms, "top": 1000});
        let seen: LocksReply = daemon.connect()?.call("Locks", &request)?;
        let total_us = round.total_us() * f64::from(count);
        let waited = |of: fn(&LockWaiter) -> bool| {
            let waiters = seen.waiters.iter();
            let these = waiters.filter(|waiter| starts_something(waiter) && of(waiter));
            in_float(these.map(|waiter| waiter.total_us).sum()) / total_us
        };
        Ok(Self {
            method,
            rtnl_share: waited(|waiter| waiter.lock == RTNL),
            all_share: waited(|_| true),
        })
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

impl Figures {
    fn findings(&self, most: u32) -> Result<Findings> {
        Ok(Findings::new("Cold start: from request to first reply", self)?
            .text(
                "Containers of runc with a function in them that speaks OpenWhisk's action protocol, all requested in the same moment; the time \
                 ends with the first answer to `POST /run`. Images are there before, pools are full and are not refilled meanwhile. Networks: \
                 by the CNI plugins bridge (masquerading), host-local and portmap; by plain netlink, the least a network made on demand can \
                 take, without a firewall rule; kept by pause containers that were started before, and joined by path; out of the pool of \
                 `pcpmd` with a published port, asked for on its socket or by `pcpm-runtime`, whose median wait for a slot is given as its \
                 network. The floor has no network namespace and is \
                 invoked through a Unix socket.",
            )
            .table(self.totals()?)
            .chart("cold-start", self.chart()?)
            .text(format!("The phases at {most} at once, means; and the share of all that time that was spent waiting for locks, seen in one more \
                           round (waits of several threads for one container add up):"))
            .table(self.phases(most)?)
            .chart("cold-start-phases", self.columns(most)?)
            .ratios(self.ratios(most)?))
    }

    fn series(&self, method: Method, at_once: u32) -> Result<&Series> {
        let mut series = self.series.iter();
        let found = series.find(|series| series.method == method && series.at_once == at_once);
        found.context("a series is missing")
    }

    fn median(&self, method: Method, at_once: u32, of: fn(&Round) -> f64) -> Result<Spread> {
        Spread::of(self.series(method, at_once)?.rounds.iter().map(of))
    }

    fn totals(&self) -> Result<Rows> {
        let counts = self.at_once.iter();
        let heading = counts.flat_map(|count| [format!("{count} at once"), "quartiles".to_owned()]);
        let mut rows = vec![["median".to_owned()].into_iter().chain(heading).collect()];
        for method in Method::ALL {
            let mut row = vec![method.name().to_owned()];
            for count in &self.at_once {
                row.extend(
                    self.median(method, *count, |round| round.median_us)?
                        .time_cells(),
                );
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn phases(&self, most: u32) -> Result<Rows> {
        let heading =
            "|network|create|start|first reply|all|network's share|waiting for rtnl|for any lock";
        let mut rows: Rows = vec![heading.split('|').map(str::to_owned).collect()];
        for locks in &self.locks {
            let mut row = vec![locks.method.name().to_owned()];
            for of in [
                (|round| round.network_us) as fn(&Round) -> f64,
                |round| round.create_us,
                |round| round.start_us,
                |round| round.reply_us,
                Round::total_us,
            ] {
                row.push(time(self.median(locks.method, most, of)?.median));
            }
            let share = self
                .median(locks.method, most, Round::network_share)?
                .median;
            let shares = [share, locks.rtnl_share, locks.all_share];
            row.extend(shares.map(|share| format!("{:.1} %", share * 100.0)));
            rows.push(row);
        }
        Ok(rows)
    }

    fn chart(&self) -> Result<Lines> {
        let line = |method: Method| {
            let points = self.at_once.iter().map(|count| {
                let us = self.median(method, *count, |round| round.median_us / 1e3)?;
                Ok(Point {
                    x: f64::from(*count),
                    y: us,
                })
            });
            Ok(Line {
                name: method.name().to_owned(),
                points: points.collect::<Result<_>>()?,
            })
        };
        Ok(Lines {
            title: "From request to first reply".to_owned(),
            x_title: "containers started at once".to_owned(),
            y_title: "ms, median".to_owned(),
            series: Method::ALL.into_iter().map(line).collect::<Result<_>>()?,
            ..Lines::default()
        })
    }

    fn columns(&self, most: u32) -> Result<Columns> {
        let bar = |method: Method| {
            let rounds = &self.series(method, most)?.rounds;
            let phase = |index: usize| {
                let values = rounds.iter().map(|round| round.phases()[index] / 1e3);
                Ok(Spread::of(values)?.median)
            };
            let parts = (0..4).map(phase).collect::<Result<Vec<f64>>>()?;
            Ok(Column {
                label: method.word().to_owned(),
                note: time(parts.iter().sum::<f64>() * 1e3),
                parts,
            })
        };
        Ok(Columns {
            title: format!("What a start consists of, {most} at once"),
            y_title: "ms, mean".to_owned(),
            parts: ["network", "create", "start", "first reply"]
                .map(str::to_owned)
                .to_vec(),
            bars: Method::ALL.into_iter().map(bar).collect::<Result<_>>()?,
            ..Columns::default()
        })
    }

    fn ratios(&self, most: u32) -> Result<Vec<Ratio>> {
        let over = |method: Method, other: Method| -> Result<Vec<f64>> {
            let rounds = self.series(method, most)?.rounds.iter();
            let others = &self.series(other, most)?.rounds;
            let pairs = rounds.zip(others);
            Ok(pairs
                .map(|(one, other)| one.median_us / other.median_us)
                .collect())
        };
        let mut ratios = Vec::new();
        for method in [Method::Pooled, Method::PooledRuntime] {
            ratios.push(
                Ratio::lower(
                    &format!("{}-over-floor", method.word()),
                    &format!("{most} at once: {} / no network", method.name()),
                    over(method, Method::None)?,
                )?
                .aim(LARGEST_OVER_FLOOR),
            );
        }
        let shares = self.series(Method::Pooled, most)?.rounds.iter();
        ratios.push(
            Ratio::lower(
                "pooled-network-share",
                &format!("{most} at once: the network's share of a start with PCPM"),
                shares.map(Round::network_share),
            )?
            .aim(LARGEST_NETWORK_SHARE),
        );
        for method in [Method::Cni, Method::OnDemand, Method::Pause] {
            ratios.push(Ratio::higher(
                &format!("{}-over-pooled", method.word()),
                &format!("{most} at once: {} / PCPM", method.name()),
                over(method, Method::Pooled)?,
            )?);
        }
        Ok(ratios)
    }
}
