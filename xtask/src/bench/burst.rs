//! `bench burst`: twice as many attaches at once as slots are ready, in each way to go on when the pool is empty.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use pcpm_api::types::OnEmpty;
use pcpm_tests::{Daemon, World};
use serde::Serialize;
use serde_json::{Value, json};

use super::{BurstArguments, crowd::Crowd, detach_everybody, spread::Spread};
use crate::machine::Machine;
use crate::plain;
use crate::report::{Spread as Times, table, time, write_json};

/// How much larger the pool is than what is kept ready.
const CAPACITY: u32 = 4;

/// What came of all bursts of one kind.
#[derive(Debug, Serialize)]
struct Outcome {
    on_empty: OnEmpty,
    warm: Option<Times>,
    cold: Option<Times>,
    refused: Option<Times>,
    /// From the burst until as many slots are ready as before, in milliseconds.
    recovered_ms: Spread,
}

#[derive(Debug, Serialize)]
struct Figures {
    machine: Machine,
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
}

pub(super) fn run(arguments: &BurstArguments) -> Result<()> {
    let (ready, rounds) = (arguments.ready(), arguments.rounds());
    let machine = Machine::read()?;
    let world = World::new()?;
    let capacity = (ready * CAPACITY).to_string();
    let daemon = world.spawn_daemon(&["--capacity", &capacity, "--ready", &ready.to_string()])?;
    daemon.wait_until_ready(ready)?;
    let mut alone = Vec::new();
    let mut samples: Vec<_> = OnEmpty::ALL.iter().map(|_| Samples::default()).collect();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        alone.extend(one_by_one(&daemon, ready)?);
        for (on_empty, samples) in OnEmpty::ALL.iter().zip(&mut samples) {
            burst(&daemon, *on_empty, ready, samples)?;
            rest(&daemon, ready)?;
        }
    }
    let outcomes = OnEmpty::ALL.iter().zip(samples);
    let outcomes = outcomes.map(|(on_empty, samples)| samples.outcome(*on_empty));
    let figures = Figures {
        machine,
        ready,
        burst: 2 * ready,
        rounds,
        alone: Times::of_nanos(alone)?,
        outcomes: outcomes.collect::<Result<_>>()?,
    };
    figures.show();
    write_json(arguments.json.as_deref(), &figures)
}

fn one_by_one(daemon: &Daemon, ready: u32) -> Result<Vec<u64>> {
    let mut one = Crowd::connect(daemon.socket(), 1)?;
    let mut times = Vec::new();
    for number in 0..ready / 2 {
        let request = [attach(number, OnEmpty::Fail)];
        times.extend(one.ask(&request, is_refused)?);
    }
    rest(daemon, ready)?;
    Ok(times)
}

fn burst(daemon: &Daemon, on_empty: OnEmpty, ready: u32, samples: &mut Samples) -> Result<()> {
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
    Ok(())
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

fn is_refused(answer: &[u8]) -> bool {
    answer.starts_with(b"{\"error\"")
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
        })
    }
}

impl Figures {
    fn show(&self) {
        println!("{}\n", self.machine);
        println!(
            "{} attaches at once, {} slots ready, {} rounds; from request to answer:\n",
            self.burst, self.ready, self.rounds
        );
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
        table(&rows);
        println!();
        for outcome in &self.outcomes {
            let Spread {
                median,
                first_quartile,
                third_quartile,
            } = outcome.recovered_ms;
            println!(
                "{}: {} slots are ready again after {} (quartiles {} to {})",
                outcome.on_empty,
                self.ready,
                time(median * 1e3),
                time(first_quartile * 1e3),
                time(third_quartile * 1e3)
            );
        }
    }
}

fn row(on_empty: &str, what: &str, count: String, times: [String; 3]) -> Vec<String> {
    let first = [on_empty.to_owned(), what.to_owned(), count];
    first.into_iter().chain(times).collect()
}
