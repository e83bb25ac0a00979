//! `bench fill`: slots per second at the beginning and at the end of a fill, product and floor.

use std::cell::RefCell;

use anyhow::{Context, Result, ensure};
use clap::Args;
use pcpm_api::types::Memory;
use pcpm_tests::{Daemon, World};
use serde::Serialize;

use super::Part;
use super::chart::{Line, Lines, Point};
use super::findings::{Findings, Ratio, Rows};
use super::spread::Spread;
use crate::plain;

/// The share of slots that the first and the last rate are taken over, at most a thousand.
const ENDS: u32 = 4;
const WINDOW: u32 = 1000;

/// Pieces of a fill that rates are drawn of.
const PIECES: u32 = 8;

#[derive(Debug, Args)]
pub(super) struct FillArguments {
    /// Slots to fill [default: 4000; quick: 512].
    #[arg(long, value_parser = clap::value_parser!(u32).range(16..=10_000))]
    slots: Option<u32>,
    /// How often the pool and the floor are filled, one after the other [default: 5; quick: 2].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: Option<u32>,
}

/// How many slots were ready at a time, in seconds.
type Progress = Vec<(f64, u32)>;

/// Slots per second of one fill.
#[derive(Clone, Debug, Serialize)]
struct Rates {
    first: f64,
    last: f64,
    all: f64,
    /// In each piece of the fill, from the first to the last.
    pieces: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Figures {
    slots: u32,
    window: u32,
    product: Vec<Rates>,
    floor: Vec<Rates>,
    memory: Memory,
    shutdown_s: Vec<f64>,
}

impl Part for FillArguments {
    fn name(&self) -> &'static str {
        "fill"
    }

    fn measure(&self, quick: bool) -> Result<Findings> {
        let slots = self.slots.unwrap_or(if quick { 512 } else { 4000 });
        let rounds = self.rounds.unwrap_or(if quick { 2 } else { 5 });
        let mut figures = Figures {
            slots,
            window: window(slots),
            product: Vec::new(),
            floor: Vec::new(),
            memory: Memory::default(),
            shutdown_s: Vec::new(),
        };
        for round in 1..=rounds {
            eprintln!("round {round} of {rounds}");
            figures.floor.push(Rates::of(&fill_floor(slots)?, slots)?);
            plain::settle()?;
            let filled = fill_product(slots)?;
            figures.product.push(Rates::of(&filled.progress, slots)?);
            figures.memory = filled.memory;
            figures.shutdown_s.push(filled.shutdown_s);
            plain::settle()?;
        }
        figures.findings()
    }
}

struct Filled {
    progress: Progress,
    memory: Memory,
    shutdown_s: f64,
}

fn fill_product(slots: u32) -> Result<Filled> {
    let world = World::new()?;
    let mut daemon = world.spawn_daemon(&["--capacity", &slots.to_string()])?;
    let progress = follow(&daemon, slots)?;
    let memory = daemon.status()?.memory;
    let shutdown_s = daemon.stop(pcpm_tests::PATIENCE)?.as_secs_f64();
    Ok(Filled {
        progress,
        memory,
        shutdown_s,
    })
}

/// The daemon's own clock in its frames tells when how many slots were ready.
#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit")]
fn follow(daemon: &Daemon, slots: u32) -> Result<Progress> {
    let progress = RefCell::new(Vec::new());
    daemon.watch(&format!("{slots} slots are ready"), |frame| {
        let ready = frame.counts.ready;
        progress
            .borrow_mut()
            .push((frame.time_ms as f64 / 1000.0, ready));
        (ready >= slots).then_some(())
    })?;
    Ok(progress.into_inner())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "microseconds since the start fit"
)]
fn fill_floor(slots: u32) -> Result<Progress> {
    let world = World::new()?;
    let count = slots.to_string();
    let tool = world.host().command(
        std::env::current_exe()?,
        ["inside", "floor", "--slots", &count],
    );
    let times: Vec<u64> = serde_json::from_value(tool.json()?).context("the floor's times")?;
    let seconds = times.into_iter().map(|us| us as f64 / 1e6);
    Ok(seconds.zip(1..).collect())
}

/// The first moment at which at least `count` slots were ready, and how many.
fn when(progress: &[(f64, u32)], count: u32) -> Result<(f64, u32)> {
    let mut moments = progress.iter();
    moments
        .find(|(_, ready)| *ready >= count)
        .copied()
        .context("the pool never filled")
}

fn window(slots: u32) -> u32 {
    WINDOW.min(slots / ENDS)
}

impl Figures {
    fn findings(&self) -> Result<Findings> {
        let of = |rounds: &[Rates], field: fn(&Rates) -> f64| -> Vec<f64> {
            rounds.iter().map(field).collect()
        };
        let last_over_first = |rounds| of(rounds, |rates| rates.last / rates.first);
        let pairs = self.product.iter().zip(&self.floor);
        let over_floor = pairs.map(|(product, floor)| product.all / floor.all);
        let findings = Findings::new("Fill: slots a second", self)?
            .text(format!(
                "{} slots are made: by `pcpmd` out of nothing, and by as many threads with plain netlink, which do the same kernel \
                 work and none of the product's (the floor). Medians of {} rounds.",
                self.slots,
                self.product.len()
            ))
            .table(self.rows()?)
            .chart("fill", self.chart()?)
            .text(memory_line(&self.memory))
            .text(format!(
                "Everything is removed at shutdown within {:.1} s.",
                self.shutdown_s.iter().copied().fold(0.0, f64::max)
            ))
            .ratio(
                Ratio::higher(
                    "last-over-first",
                    "rate of the last slots / of the first",
                    last_over_first(&self.product),
                )?
                .aim(0.9),
            )
            .ratio(Ratio::higher(
                "floor-last-over-first",
                "the same of plain netlink",
                last_over_first(&self.floor),
            )?)
            .ratio(Ratio::higher(
                "rate-over-floor",
                "rate of pcpmd / of plain netlink",
                over_floor,
            )?);
        Ok(findings)
    }

    fn rows(&self) -> Result<Rows> {
        let window = self.window;
        let heading =
            format!("slots/s|first {window}|quartiles|last {window}|quartiles|all|quartiles");
        let mut rows = vec![heading.split('|').map(str::to_owned).collect()];
        for (name, rounds) in [
            ("pcpmd", &self.product),
            ("plain netlink (floor)", &self.floor),
        ] {
            let mut row = vec![name.to_owned()];
            let fields: [fn(&Rates) -> f64; 3] =
                [|rates| rates.first, |rates| rates.last, |rates| rates.all];
            for field in fields {
                row.extend(Spread::of(rounds.iter().map(field))?.whole_cells());
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn chart(&self) -> Result<Lines> {
        let line = |name: &str, rounds: &[Rates]| -> Result<Line> {
            let pieces = (0..PIECES).zip(0..);
            let points = pieces.map(|(piece, index): (u32, usize)| {
                let made = self.slots * (2 * piece + 1) / (2 * PIECES);
                let y = Spread::of(rounds.iter().map(|rates| rates.pieces[index]))?;
                Ok(Point {
                    x: f64::from(made),
                    y,
                })
            });
            Ok(Line {
                name: name.to_owned(),
                points: points.collect::<Result<_>>()?,
            })
        };
        Ok(Lines {
            title: "Filling a pool".to_owned(),
            x_title: "slots that exist".to_owned(),
            y_title: "slots/s".to_owned(),
            series: vec![
                line("pcpmd", &self.product)?,
                line("plain netlink (floor)", &self.floor)?,
            ],
            ..Lines::default()
        })
    }
}

impl Rates {
    fn of(progress: &[(f64, u32)], slots: u32) -> Result<Self> {
        let window = window(slots);
        let rate = |from, to| -> Result<f64> {
            let (start, at_start) = when(progress, from)?;
            let (end, at_end) = when(progress, to)?;
            ensure!(end > start, "slots {from} to {to} came at the same moment");
            Ok(f64::from(at_end - at_start) / (end - start))
        };
        let piece = |piece: u32| {
            let from = (slots * piece / PIECES).max(1);
            rate(from, slots * (piece + 1) / PIECES)
        };
        Ok(Self {
            first: rate(1, window)?,
            last: rate(slots - window, slots)?,
            all: rate(1, slots)?,
            pieces: (0..PIECES).map(piece).collect::<Result<_>>()?,
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn memory_line(memory: &Memory) -> String {
    let daemon = memory.daemon_rss_bytes as f64 / 1e6;
    let kib = |bytes: Option<u64>| match bytes {
        Some(bytes) => format!("{:.1} KiB", bytes as f64 / 1024.0),
        None => "not measured".to_owned(),
    };
    format!(
        "Memory: pcpmd {daemon:.1} MB; kernel, per slot: slab {}, percpu {}.",
        kib(memory.kernel_slab_bytes_per_slot),
        kib(memory.kernel_percpu_bytes_per_slot)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fill_that_slows_down_has_a_lower_last_rate() {
        let mut seconds = 0.0;
        let progress: Progress = (1..=400)
            .map(|count| {
                seconds += if count <= 300 { 0.01 } else { 0.02 };
                (seconds, count)
            })
            .collect();
        let rates = Rates::of(&progress, 400).unwrap();
        assert!((rates.first - 100.0).abs() < 0.1, "{rates:?}");
        assert!((rates.last - 50.0).abs() < 0.1, "{rates:?}");
    }

    #[test]
    fn a_pool_that_never_filled_has_no_rates() {
        assert!(Rates::of(&[(0.0, 1), (1.0, 3)], 16).is_err());
    }
}
