//! `bench pacing`: what others wait for the rtnl lock while the pool fills, with and without a bound, and how much longer
//! the fill takes for it.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use pcpm_tests::{RtnlLoad, World};
use serde::Serialize;

use super::Part;
use super::chart::{Column, Columns};
use super::findings::{Findings, Ratio, Rows};
use super::spread::Spread as Quartiles;
use crate::plain;
use crate::report::{Spread, time};

const CONFIG: &str = "/run/pcpmd.toml";
const BOUNDS: [&str; 3] = ["off", "2ms", "500us"];

#[derive(Debug, Args)]
pub(super) struct PacingArguments {
    /// Slots to fill [default: 2000; quick: 200].
    #[arg(long, value_parser = clap::value_parser!(u32).range(50..=10_000))]
    slots: Option<u32>,
    /// How often the pool is filled with each bound, one after the other [default: 5; quick: 2].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: Option<u32>,
}

#[derive(Debug, Serialize)]
struct Figures {
    slots: u32,
    /// Calls of others while nobody fills anything.
    alone: Spread,
    bounds: Vec<Bounded>,
}

/// Fills with one bound.
#[derive(Debug, Serialize)]
struct Bounded {
    max_rtnl_wait: &'static str,
    /// What others waited, in each round.
    foreign: Vec<Spread>,
    fill_s: Vec<f64>,
    /// What the daemon says of it in the end, nothing without a bound.
    said: Option<String>,
}

impl Part for PacingArguments {
    fn name(&self) -> &'static str {
        "pacing"
    }

    fn measure(&self, quick: bool) -> Result<Findings> {
        let slots = self.slots.unwrap_or(if quick { 200 } else { 2000 });
        let rounds = self.rounds.unwrap_or(if quick { 2 } else { 5 });
        let rest = || {
            thread::sleep(Duration::from_secs(2));
            Ok(())
        };
        let alone = Spread::of_nanos(foreign()?.while_doing(rest)?.0)?;
        let mut bounds = BOUNDS.map(Bounded::new);
        for round in 1..=rounds {
            eprintln!("round {round} of {rounds}");
            for bounded in &mut bounds {
                bounded.fill(slots)?;
            }
        }
        let figures = Figures {
            slots,
            alone,
            bounds: bounds.into(),
        };
        figures.findings()
    }
}

/// Somebody who changes a link every millisecond, as `ip link set` does, and suffers.
struct Foreign(RtnlLoad);

fn foreign() -> Result<Foreign> {
    let pause = |_| thread::sleep(Duration::from_millis(1));
    Ok(Foreign(RtnlLoad::start("bench-foreign", 1, pause)?))
}

impl Foreign {
    /// How long its calls took meanwhile, in nanoseconds.
    fn while_doing<T>(self, work: impl FnOnce() -> Result<T>) -> Result<(Vec<u64>, T)> {
        let done = work()?;
        Ok((self.0.stop()?.times_ns, done))
    }
}

impl Bounded {
    fn new(max_rtnl_wait: &'static str) -> Self {
        Self {
            max_rtnl_wait,
            foreign: Vec::new(),
            fill_s: Vec::new(),
            said: None,
        }
    }

    fn fill(&mut self, slots: u32) -> Result<()> {
        plain::settle()?;
        let world = World::new()?;
        let bound = self.max_rtnl_wait;
        fs::write(
            world.path(CONFIG),
            format!("[refill]\nmax_rtnl_wait = \"{bound}\"\n"),
        )?;
        let (times, (seconds, said)) = foreign()?.while_doing(|| fill_once(&world, slots))?;
        self.foreign.push(Spread::of_nanos(times)?);
        self.fill_s.push(seconds);
        self.said = said;
        Ok(())
    }

    fn foreign(&self, of: fn(&Spread) -> f64) -> Result<f64> {
        Ok(Quartiles::of(self.foreign.iter().map(of))?.median)
    }
}

fn fill_once(world: &World, slots: u32) -> Result<(f64, Option<String>)> {
    let begun = Instant::now();
    let daemon = world.spawn_daemon(&["--config", CONFIG, "--capacity", &slots.to_string()])?;
    daemon
        .wait_until(&format!("{slots} slots"), |counts| counts.ready >= slots)
        .context("fill the pool")?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok((seconds, daemon.status()?.pacing.map(|pacing| pacing.reason)))
}

impl Figures {
    fn findings(&self) -> Result<Findings> {
        let said = self.bounds.iter().filter_map(|bounded| {
            let said = bounded.said.as_ref()?;
            Some(format!(
                "With `{}` the daemon says: {said}.",
                bounded.max_rtnl_wait
            ))
        });
        let findings = Findings::new("Pacing: what others wait while the pool fills", self)?
            .text(format!(
                "Somebody else changes a link every millisecond while {} slots are made, without a bound on what others wait for the \
                 rtnl lock and with two; and while nothing is made (the floor).",
                self.slots
            ))
            .table(self.rows()?)
            .chart("pacing", self.chart()?)
            .text(said.collect::<Vec<_>>().join("\n"))
            .ratios(self.ratios()?);
        Ok(findings)
    }

    fn rows(&self) -> Result<Rows> {
        let titles = ["max_rtnl_wait", "p50", "p99", "max", "fill", "quartiles"];
        let mut rows = vec![titles.map(str::to_owned).to_vec()];
        let none = ["-", "-"].map(str::to_owned);
        let alone = ["nothing is made".to_owned()].into_iter();
        rows.push(alone.chain(self.alone.cells()).chain(none).collect());
        for bounded in &self.bounds {
            let mut row = vec![bounded.max_rtnl_wait.to_owned()];
            for of in [Spread::p50 as fn(&Spread) -> f64, Spread::p99, Spread::max] {
                row.push(time(bounded.foreign(of)?));
            }
            let fill_us = bounded.fill_s.iter().map(|seconds| seconds * 1e6);
            row.extend(Quartiles::of(fill_us)?.time_cells());
            rows.push(row);
        }
        Ok(rows)
    }

    /// Each bound beside none.
    fn ratios(&self) -> Result<Vec<Ratio>> {
        let Some((unbounded, bounded)) = self.bounds.split_first() else {
            return Ok(Vec::new());
        };
        let mut ratios = Vec::new();
        for bounded in bounded {
            let name = bounded.max_rtnl_wait;
            let waits = bounded.foreign.iter().zip(&unbounded.foreign);
            ratios.push(Ratio::lower(
                &format!("wait-{name}-over-off"),
                &format!("p99 of what others wait: bound of {name} / none"),
                waits.map(|(with, without)| with.p99_us / without.p99_us),
            )?);
            let fills = bounded.fill_s.iter().zip(&unbounded.fill_s);
            ratios.push(Ratio::lower(
                &format!("fill-{name}-over-off"),
                &format!("time to fill: bound of {name} / none"),
                fills.map(|(with, without)| with / without),
            )?);
        }
        Ok(ratios)
    }

    fn chart(&self) -> Result<Columns> {
        let column = |label: &str, us: f64| Column {
            label: label.to_owned(),
            parts: vec![us / 1e3],
            note: time(us),
        };
        let mut columns = vec![column("nothing is made", self.alone.p99_us)];
        for bounded in &self.bounds {
            columns.push(column(bounded.max_rtnl_wait, bounded.foreign(Spread::p99)?));
        }
        Ok(Columns {
            title: "What others wait for the rtnl lock while the pool fills".to_owned(),
            x_title: "max_rtnl_wait".to_owned(),
            y_title: "ms, p99".to_owned(),
            bars: columns,
            ..Columns::default()
        })
    }
}
