//! `bench beside`: what slots that are ready cost a container which has nothing to do with them. Where they are mounted in the
//! host, as names of namespaces usually are, its runtime copies all these mounts, and reads their list.

use std::fs;

use anyhow::{Context, Result};
use clap::Args;
use pcpm_tests::{Daemon, World};
use serde::Serialize;

use super::chart::{Line, Lines, Point};
use super::findings::{Findings, Ratio, Rows};
use super::insight::seconds_pass;
use super::{Part, spread::Spread};
use crate::inside::{Method, Phases};
use crate::{plain, report};

const SLOTS: [u32; 3] = [100, 1000, 4000];
const SLOTS_QUICK: [u32; 1] = [500];

/// Containers that are created one after the other.
const IN_TURN: u32 = 10;
/// Containers that are started together.
const AT_ONCE: u32 = 50;
const AT_ONCE_QUICK: u32 = 20;

const LARGEST_OVER_NONE: f64 = 1.1;

#[derive(Debug, Args)]
pub(super) struct BesideArguments {
    /// Sizes of pools [default: 100,1000,4000; quick: 500].
    #[arg(long, value_name = "N,N,..", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    slots: Vec<u32>,
    /// How often all of it is measured, one pool after the other [default: 5; quick: 1].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: Option<u32>,
}

/// What a container is created beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Beside {
    /// Ready slots.
    slots: u32,
    /// Whether all are mounted in the host.
    in_host: bool,
}

/// In microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    beside: Beside,
    /// `runc create`, the median of [`IN_TURN`].
    create_us: f64,
    /// From request to first reply, the median of those [`at_once`].
    at_once_us: f64,
}

#[derive(Debug, Serialize)]
struct Figures {
    slots: Vec<u32>,
    at_once: u32,
    rounds: Vec<Round>,
}

impl Part for BesideArguments {
    fn name(&self) -> &'static str {
        "beside"
    }

    fn measure(&self, quick: bool) -> Result<Findings> {
        let slots = match (self.slots.as_slice(), quick) {
            ([], true) => SLOTS_QUICK.to_vec(),
            ([], false) => SLOTS.to_vec(),
            (slots, _) => slots.to_vec(),
        };
        let count = self.rounds.unwrap_or(if quick { 1 } else { 5 });
        let at_once = at_once(quick);
        let mut all = Beside::all(&slots);
        let mut rounds = Vec::new();
        for round in 1..=count {
            for beside in &all {
                eprintln!("round {round} of {count}: {}", beside.name());
                rounds.push(measure(*beside, at_once)?);
            }
            // Forth and back: nobody always measures behind the same one.
            all.reverse();
        }
        Figures {
            slots,
            at_once,
            rounds,
        }
        .findings()
    }
}

/// How many containers are started together.
pub(super) const fn at_once(quick: bool) -> u32 {
    if quick { AT_ONCE_QUICK } else { AT_ONCE }
}

/// In a world of its own.
fn measure(beside: Beside, at_once: u32) -> Result<Round> {
    let world = World::new()?;
    let _daemon = pool(&world, beside)?;
    plain::settle()?;
    let creates = (0..IN_TURN).map(|_| {
        let started = start(&world, 1)?;
        let only = started.first().context("no container was started")?;
        Ok(micros(only.create))
    });
    let creates = creates.collect::<Result<Vec<_>>>()?;
    let together = start(&world, at_once)?;
    Ok(Round {
        beside,
        create_us: report::median(creates),
        at_once_us: report::median(together.iter().map(|phases| micros(phases.total()))),
    })
}

fn pool(world: &World, beside: Beside) -> Result<Option<Daemon>> {
    if beside.slots == 0 {
        return Ok(None);
    }
    let mounts = if beside.in_host { "all" } else { "attached" };
    let settings = format!("capacity = {}\nhost_mounts = \"{mounts}\"\n", beside.slots);
    fs::write(world.path("/run/beside.toml"), settings).context("write the settings")?;
    let daemon = world.spawn_daemon(&["--config", "/run/beside.toml"])?;
    daemon.wait_until_ready(beside.slots)?;
    seconds_pass(&daemon)?;
    Ok(Some(daemon))
}

/// Starts containers without a network.
pub(super) fn start(world: &World, count: u32) -> Result<Vec<Phases>> {
    let (method, count) = (Method::None.word(), count.to_string());
    let arguments = [
        "inside",
        "cold-start",
        "--method",
        method,
        "--count",
        &count,
    ];
    let tool = world.host().command(std::env::current_exe()?, arguments);
    serde_json::from_value(tool.json()?).context("the times of starts")
}

fn micros(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

impl Beside {
    const NOTHING: Self = Self {
        slots: 0,
        in_host: false,
    };

    fn all(slots: &[u32]) -> Vec<Self> {
        let pools = [false, true].into_iter().flat_map(|in_host| {
            let pools = slots.iter();
            pools.map(move |&slots| Self { slots, in_host })
        });
        std::iter::once(Self::NOTHING).chain(pools).collect()
    }

    fn name(self) -> String {
        match self {
            Self { slots: 0, .. } => "no pool (floor)".to_owned(),
            Self { slots, in_host } if in_host => format!("{slots} ready, all mounted in the host"),
            Self { slots, .. } => format!("{slots} ready"),
        }
    }
}

impl Figures {
    fn findings(&self) -> Result<Findings> {
        let most = self.slots.iter().copied().max().context("no pool")?;
        let apart = Beside {
            slots: most,
            in_host: false,
        };
        let in_host = Beside {
            in_host: true,
            ..apart
        };
        let over = |one, other, of: fn(&Round) -> f64| {
            let pairs = self.of(one, of).into_iter().zip(self.of(other, of));
            pairs.map(|(one, other)| one / other).collect::<Vec<_>>()
        };
        let create = |round: &Round| round.create_us;
        let at_once = |round: &Round| round.at_once_us;
        let nothing = Beside::NOTHING;
        let count = self.at_once;
        let created = format!("`runc create` beside {most} ready slots / beside none");
        let together = format!("{count} at once beside {most} ready slots / beside none");
        let saved = format!("`runc create` beside {most}: all mounted in the host / as they are");
        Ok(Findings::new("Beside a pool: what ready slots cost other containers", self)?
            .text(format!(
                "Containers of runc without a network, beside a pool that nobody uses: `runc create`, the median of {IN_TURN} one after the other; \
                 and from request to first reply, the median of {count} at once. Slots are mounted in a mount namespace of the daemon's own, or, with \
                 `host_mounts = \"all\"`, in the host's, as `ip netns` and CNI have them."
            ))
            .table(self.rows()?)
            .chart("beside", self.chart()?)
            .ratio(Ratio::lower("create-over-none", &created, over(apart, nothing, create))?.aim(LARGEST_OVER_NONE))
            .ratio(Ratio::lower("at-once-over-none", &together, over(apart, nothing, at_once))?.aim(LARGEST_OVER_NONE))
            .ratio(Ratio::higher("in-host-over-apart", &saved, over(in_host, apart, create))?))
    }

    fn of(&self, beside: Beside, of: fn(&Round) -> f64) -> Vec<f64> {
        let rounds = self.rounds.iter();
        let these = rounds.filter(|round| round.beside == beside);
        these.map(of).collect()
    }

    fn rows(&self) -> Result<Rows> {
        let at_once = format!("{} at once", self.at_once);
        let heading = ["", "`runc create`", "quartiles", &at_once, "quartiles"];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        for beside in Beside::all(&self.slots) {
            let mut row = vec![beside.name()];
            for of in [(|round| round.create_us) as fn(&Round) -> f64, |round| {
                round.at_once_us
            }] {
                row.extend(Spread::of(self.of(beside, of))?.time_cells());
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn chart(&self) -> Result<Lines> {
        let line = |name: &str, in_host| {
            let pools = [Beside::NOTHING].into_iter();
            let slots = self.slots.iter();
            let pools = pools.chain(slots.map(|&slots| Beside { slots, in_host }));
            let points = pools.map(|beside| {
                Ok(Point {
                    x: f64::from(beside.slots),
                    y: Spread::of(self.of(beside, |round| round.create_us / 1e3))?,
                })
            });
            Ok(Line {
                name: name.to_owned(),
                points: points.collect::<Result<_>>()?,
            })
        };
        Ok(Lines {
            title: "A container beside a pool".to_owned(),
            x_title: "ready slots".to_owned(),
            y_title: "ms for runc create, median".to_owned(),
            series: [
                line("as they are", false),
                line("all mounted in the host", true),
            ]
            .into_iter()
            .collect::<Result<_>>()?,
            ..Lines::default()
        })
    }
}
