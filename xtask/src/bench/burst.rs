//! `bench burst`: twice as many attaches at once as slots are ready, in each way to go on when the pool is empty.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use pcpm_api::types::OnEmpty;
use pcpm_tests::{Daemon, World};
use serde::Serialize;
use serde_json::{Value, json};

use super::chart::{Column, Columns};
use super::findings::{Findings, Ratio, Rows};
use super::{Part, attach::refuses, crowd::Crowd, detach_everybody, spread::Spread};
use crate::plain;
use crate::report::{Spread as Times, time};

/// How much larger the pool is than what is kept ready.
const CAPACITY: u32 = 4;

#[derive(Debug, Args)]
pub(super) struct BurstArguments {
    /// Slots kept ready; twice as many are asked for [default: 100; quick: 20].
    #[arg(long, value_parser = clap::value_parser!(u32).range(4..=1_000))]
    ready: Option<u32>,
    /// How often each way is measured, one after the other [default: 7; quick: 3].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
}

/// What came of all bursts of one kind.
#[derive(Debug, Serialize)]
struct Outcome {
    on_empty: OnEmpty,
    warm: Option<Times>,
    cold: Option<Times>,
    refused: Option<Times>,
    /// From the burst until as many slots are ready as before, in milliseconds.
    recovered_ms: Spread,
    /// The median warm attach of each burst beside one client alone in the same round.
    warm_over_alone: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Figures {
    ready: u32,
    burst: u32,
    rounds: u32,
    /// One client alone out of a full pool: what a warm attach takes without a burst.
    alone: Times,
    outcomes: Vec<Outcome>,
}

/// Times in nanoseconds of what came of bursts of one kind.
#[derive(Default)]
struct Samples {
    warm: Vec<u64>,
    cold: Vec<u64>,
    refused: Vec<u64>,
    recovered_ms: Vec<f64>,
    warm_over_alone: Vec<f64>,
}

impl Part for BurstArguments {
    fn name(&self) -> &'static str {
        "burst"
    }

    fn measure(&self, quick: bool) -> Result<Findings> {
        let ready = self.ready.unwrap_or(if quick { 20 } else { 100 });
        let rounds = self.rounds.unwrap_or(if quick { 3 } else { 7 });
        let world = World::new()?;
        let capacity = (ready * CAPACITY).to_string();
        let daemon =
            world.spawn_daemon(&["--capacity", &capacity, "--ready", &ready.to_string()])?;
        daemon.wait_until_ready(ready)?;
        let mut alone = Vec::new();
        let mut samples: Vec<_> = OnEmpty::ALL.iter().map(|_| Samples::default()).collect();
        for round in 1..=rounds {
            eprintln!("round {round} of {rounds}");
            let one = one_by_one(&daemon, ready)?;
            let one_us = Times::of_nanos(one.iter().copied())?.p50_us;
            alone.extend(one);
            for (on_empty, samples) in OnEmpty::ALL.iter().zip(&mut samples) {
                let warm = burst(&daemon, *on_empty, ready, samples)?;
                samples.warm_over_alone.push(warm.p50_us / one_us);
                rest(&daemon, ready)?;
            }
        }
        let outcomes = OnEmpty::ALL.iter().zip(samples);
        let outcomes = outcomes.map(|(on_empty, samples)| samples.outcome(*on_empty));
        let figures = Figures {
            ready,
            burst: 2 * ready,
            rounds,
            alone: Times::of_nanos(alone)?,
            outcomes: outcomes.collect::<Result<_>>()?,
        };
        figures.findings()
    }
}

fn one_by_one(daemon: &Daemon, ready: u32) -> Result<Vec<u64>> {
    let mut one = Crowd::connect(daemon.socket(), 1)?;
    let mut times = Vec::new();
    for number in 0..ready / 2 {
        let request = [attach(number, OnEmpty::Fail)];
        times.extend(one.ask(&request, refuses)?);
    }
    rest(daemon, ready)?;
    Ok(times)
}

/// How long those waited that were served out of the pool.
fn burst(daemon: &Daemon, on_empty: OnEmpty, ready: u32, samples: &mut Samples) -> Result<Times> {
    let before = samples.warm.len();
    let count = 2 * ready;
    let mut crowd = Crowd::connect(daemon.socket(), count as usize)?;
    let requests: Vec<_> = (0..count).map(|number| attach(number, on_empty)).collect();
    let begun = Instant::now();
    for answer in crowd.ask_all(&requests)? {
        let text = answer.text.strip_suffix(&[0]).unwrap_or(&answer.text);
        let told: Value = serde_json::from_slice(text).context("an answer")?;
        let kind = match told["parameters"]["source"].as_str() {
            Some("warm") => &mut samples.warm,
            Some("cold") => &mut samples.cold,
            _ => {
                let refusal = "io.pcpm.Pool.PoolExhausted";
                ensure!(told["error"] == refusal, "a client was answered {told}");
                &mut samples.refused
            }
        };
        kind.push(answer.nanos);
    }
    daemon.wait_until("as many are ready as before", |counts| {
        counts.ready >= ready
    })?;
    samples
        .recovered_ms
        .push(begun.elapsed().as_secs_f64() * 1e3);
    Times::of_nanos(samples.warm[before..].iter().copied())
}

/// All is given back, and the pool as it was.
fn rest(daemon: &Daemon, ready: u32) -> Result<()> {
    detach_everybody(daemon)?;
    daemon.wait_until("the pool is as it was", |counts| {
        counts.ready == ready && counts.retiring + counts.creating == 0
    })?;
    plain::settle()
}

fn attach(number: u32, on_empty: OnEmpty) -> Vec<u8> {
    let owner = format!("burst-{number:04}");
    let call = json!({
        "method": "io.pcpm.Pool.Attach",
        "parameters": {"owner": owner, "tenant": "bench", "on_empty": on_empty, "timeout_ms": 60_000},
    });
    [call.to_string().as_bytes(), b"\0"].concat()
}

impl Samples {
    fn outcome(self, on_empty: OnEmpty) -> Result<Outcome> {
        let times = |nanos: Vec<u64>| {
            let some = !nanos.is_empty();
            some.then(|| Times::of_nanos(nanos)).transpose()
        };
        Ok(Outcome {
            on_empty,
            warm: times(self.warm)?,
            cold: times(self.cold)?,
            refused: times(self.refused)?,
            recovered_ms: Spread::of(self.recovered_ms)?,
            warm_over_alone: self.warm_over_alone,
        })
    }
}

impl Figures {
    fn findings(&self) -> Result<Findings> {
        let ratios = self.outcomes.iter().map(|outcome| {
            let name = format!("warm-{}-over-alone", outcome.on_empty);
            let what = format!(
                "on empty {}: median warm attach of the burst / one client alone",
                outcome.on_empty
            );
            let rounds = outcome.warm_over_alone.iter().copied();
            Ratio::lower(&name, &what, rounds)
        });
        let ratios = ratios.collect::<Result<Vec<_>>>()?;
        Ok(Findings::new("Burst: more at once than are ready", self)?
            .text(format!(
                "{} attaches in the same moment while {} slots are ready, in each way to go on when the pool is empty, and one client \
                 alone out of a full pool (the floor); {} rounds; from request to answer.",
                self.burst, self.ready, self.rounds
            ))
            .table(self.rows())
            .chart("burst-recovery", self.chart())
            .ratios(ratios))
    }

    fn rows(&self) -> Rows {
        let heading = ["on empty", "what", "a round", "p50", "p99", "max"];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        let alone = self.alone.cells();
        rows.push(row("one client alone", "warm", String::new(), alone));
        for outcome in &self.outcomes {
            let kinds = [
                ("warm", &outcome.warm),
                ("cold", &outcome.cold),
                ("refused", &outcome.refused),
            ];
            for (what, times) in kinds {
                if let Some(times) = times {
                    let count = times.samples / u64::from(self.rounds);
                    let on_empty = outcome.on_empty.as_str();
                    rows.push(row(on_empty, what, count.to_string(), times.cells()));
                }
            }
        }
        rows
    }

    fn chart(&self) -> Columns {
        let column = |outcome: &Outcome| {
            let ms = outcome.recovered_ms.median;
            Column {
                label: outcome.on_empty.to_string(),
                parts: vec![ms],
                note: time(ms * 1e3),
            }
        };
        Columns {
            title: format!(
                "Until {} slots are ready again after {} attaches",
                self.ready, self.burst
            ),
            x_title: "when the pool is empty".to_owned(),
            y_title: "ms, median".to_owned(),
            bars: self.outcomes.iter().map(column).collect(),
            ..Columns::default()
        }
    }
}

fn row(on_empty: &str, what: &str, count: String, times: [String; 3]) -> Vec<String> {
    let first = [on_empty.to_owned(), what.to_owned(), count];
    first.into_iter().chain(times).collect()
}
