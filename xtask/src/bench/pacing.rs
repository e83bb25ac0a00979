//! `bench pacing`: what others wait for the rtnl lock while the pool fills, with and without a bound, and how much longer
//! the fill takes for it.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pcpm_tests::{RtnlLoad, World};
use serde::Serialize;

use super::PacingArguments;
use crate::plain;
use crate::report::{Spread, median, table, time, write_json};

const CONFIG: &str = "/run/pcpmd.toml";
const BOUNDS: [&str; 3] = ["off", "2ms", "500us"];

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
    foreign: Spread,
    fill_s: Vec<f64>,
    /// What the daemon says of it in the end, nothing without a bound.
    said: Option<String>,
}

pub(super) fn run(arguments: &PacingArguments) -> Result<()> {
    let (slots, rounds) = if arguments.quick {
        (200, 1)
    } else {
        (arguments.slots, 3)
    };
    let alone = Spread::of_nanos(
        foreign()?
            .while_doing(|| {
                thread::sleep(Duration::from_secs(2));
                Ok(())
            })?
            .0,
    )?;
    let bounds = BOUNDS.map(|bound| fill(bound, slots, rounds));
    let figures = Figures {
        slots,
        alone,
        bounds: bounds.into_iter().collect::<Result<_>>()?,
    };
    figures.show();
    write_json(arguments.json.as_deref(), &figures)
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

fn fill(bound: &'static str, slots: u32, rounds: u32) -> Result<Bounded> {
    let (mut times, mut fill_s, mut said) = (Vec::new(), Vec::new(), None);
    for round in 1..=rounds {
        eprintln!("max_rtnl_wait {bound}, round {round} of {rounds}");
        plain::settle()?;
        let world = World::new()?;
        fs::write(
            world.path(CONFIG),
            format!("[refill]\nmax_rtnl_wait = \"{bound}\"\n"),
        )?;
        let (foreign, (seconds, reason)) = foreign()?.while_doing(|| fill_once(&world, slots))?;
        times.extend(foreign);
        fill_s.push(seconds);
        said = reason;
    }
    Ok(Bounded {
        max_rtnl_wait: bound,
        foreign: Spread::of_nanos(times)?,
        fill_s,
        said,
    })
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
    fn show(&self) {
        println!(
            "somebody else changes a link every millisecond while {} slots are made:\n",
            self.slots
        );
        let titles = ["max_rtnl_wait", "p50", "p99", "max", "fill"];
        let mut rows = vec![titles.map(str::to_owned).to_vec()];
        let row = |name: &str, spread: &Spread, fill: String| {
            let cells = std::iter::once(name.to_owned()).chain(spread.cells());
            cells.chain([fill]).collect::<Vec<_>>()
        };
        rows.push(row("(no fill)", &self.alone, "-".to_owned()));
        for bounded in &self.bounds {
            let fill = time(median(bounded.fill_s.iter().copied()) * 1e6);
            rows.push(row(bounded.max_rtnl_wait, &bounded.foreign, fill));
        }
        table(&rows);
        for bounded in &self.bounds {
            if let Some(said) = &bounded.said {
                println!("\nwith {}: {said}", bounded.max_rtnl_wait);
            }
        }
    }
}
