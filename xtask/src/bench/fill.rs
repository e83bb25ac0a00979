//! `bench fill`: slots per second at the beginning and at the end of a fill, product and floor.

use std::cell::RefCell;

use anyhow::{Context, Result, ensure};
use pcpm_api::types::Memory;
use pcpm_tests::{Daemon, World};
use serde::Serialize;

use super::FillArguments;
use crate::plain;
use crate::report::{median, ratio, table, write_json};

/// The share of slots that the first and the last rate are taken over, at most a thousand.
const ENDS: u32 = 4;
const WINDOW: u32 = 1000;

/// How many slots were ready at a time, in seconds.
type Progress = Vec<(f64, u32)>;

/// Slots per second.
#[derive(Clone, Copy, Debug, Serialize)]
struct Rates {
    first: f64,
    last: f64,
    all: f64,
}

#[derive(Debug, Serialize)]
struct Figures {
    slots: u32,
    window: u32,
    product: Vec<Rates>,
    floor: Vec<Rates>,
    product_median: Rates,
    floor_median: Rates,
    product_last_over_first: f64,
    floor_last_over_first: f64,
    product_over_floor: f64,
    memory: Memory,
    shutdown_s: f64,
}

pub(super) fn run(arguments: &FillArguments) -> Result<()> {
    let slots = arguments.slots;
    let (mut product, mut floor) = (Vec::new(), Vec::new());
    let mut memory = Memory::default();
    let mut shutdown_s: f64 = 0.0;
    for round in 1..=arguments.rounds {
        eprintln!("round {round} of {}", arguments.rounds);
        floor.push(rates(&fill_floor(slots)?, slots)?);
        plain::settle()?;
        let filled = fill_product(slots)?;
        product.push(rates(&filled.progress, slots)?);
        memory = filled.memory;
        shutdown_s = shutdown_s.max(filled.shutdown_s);
        plain::settle()?;
    }
    let figures = Figures::new(slots, product, floor, memory, shutdown_s);
    figures.show();
    write_json(arguments.json.as_deref(), &figures)
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

fn rates(progress: &[(f64, u32)], slots: u32) -> Result<Rates> {
    let window = window(slots);
    let rate = |from, to| -> Result<f64> {
        let (start, at_start) = when(progress, from)?;
        let (end, at_end) = when(progress, to)?;
        ensure!(end > start, "slots {from} to {to} came at the same moment");
        Ok(f64::from(at_end - at_start) / (end - start))
    };
    Ok(Rates {
        first: rate(1, window)?,
        last: rate(slots - window, slots)?,
        all: rate(1, slots)?,
    })
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
    fn new(
        slots: u32,
        product: Vec<Rates>,
        floor: Vec<Rates>,
        memory: Memory,
        shutdown_s: f64,
    ) -> Self {
        let (of_product, of_floor) = (Rates::median(&product), Rates::median(&floor));
        let pairs = product
            .iter()
            .zip(&floor)
            .map(|(product, floor)| product.all / floor.all);
        Self {
            slots,
            window: window(slots),
            product_median: of_product,
            floor_median: of_floor,
            product_last_over_first: median(product.iter().map(|rates| rates.last / rates.first)),
            floor_last_over_first: median(floor.iter().map(|rates| rates.last / rates.first)),
            product_over_floor: median(pairs),
            memory,
            shutdown_s,
            product,
            floor,
        }
    }

    fn show(&self) {
        let rounds = self.product.len();
        println!(
            "Filling {} slots, medians of {rounds} rounds, slots per second:\n",
            self.slots
        );
        let window = self.window;
        let heading = [
            "",
            &format!("first {window}"),
            &format!("last {window}"),
            "all",
            "last/first",
        ];
        table(&[
            heading.map(str::to_owned).to_vec(),
            self.product_median
                .row("pcpmd", self.product_last_over_first),
            self.floor_median
                .row("plain netlink (floor)", self.floor_last_over_first),
        ]);
        println!("\npcpmd/floor: {}", ratio(self.product_over_floor));
        println!("{}", memory_line(&self.memory));
        println!("longest shutdown: {:.1} s", self.shutdown_s);
    }
}

impl Rates {
    fn median(rounds: &[Self]) -> Self {
        let of = |field: fn(&Self) -> f64| median(rounds.iter().map(field));
        Self {
            first: of(|rates| rates.first),
            last: of(|rates| rates.last),
            all: of(|rates| rates.all),
        }
    }

    fn row(&self, name: &str, last_over_first: f64) -> Vec<String> {
        let rates = [self.first, self.last, self.all].map(|rate| format!("{rate:.0}"));
        let name = [name.to_owned()];
        name.into_iter()
            .chain(rates)
            .chain([format!("{last_over_first:.2}")])
            .collect()
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
        "memory: pcpmd {daemon:.1} MB; kernel, per slot: slab {}, percpu {}",
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
        let rates = rates(&progress, 400).unwrap();
        assert!((rates.first - 100.0).abs() < 0.1, "{rates:?}");
        assert!((rates.last - 50.0).abs() < 0.1, "{rates:?}");
    }

    #[test]
    fn a_pool_that_never_filled_has_no_rates() {
        assert!(rates(&[(0.0, 1), (1.0, 3)], 8).is_err());
    }
}
