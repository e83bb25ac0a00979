//! `bench trace`: days of arrivals shaped like published traces, against ways to size the pool: how many starts find nothing
//! ready, and how much is held for those that do. The pool is the daemon's own, in simulated time.

mod arrivals;
mod live;
mod simulation;

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use pcpm_api::types::OnEmpty;
use pcpm_pool::{Adaptive, Target};
use serde::Serialize;

use self::arrivals::{Shape, Start};
use self::live::Compared;
use self::simulation::{Host, Outcome, Sample};
use super::Part;
use super::chart::{Line, Lines, Point};
use super::findings::{Findings, Ratio, Rows};
use super::spread::Spread;
use crate::report::time;

const FIXED: [u32; 6] = [0, 8, 64, 256, 512, 1024];
const CEILING: u32 = 1024;
const WINDOWS: [Duration; 3] = [
    Duration::from_mins(10),
    Duration::from_mins(75),
    Duration::from_hours(6),
];
/// One for fifteen minutes of a day.
const SAMPLES: u32 = 96;
/// More than anybody holds at once.
const CAPACITY: u32 = 10_000;
/// Ready slots of the daemon that the busiest time is played to.
const LIVE: [u32; 2] = [16, 64];
const INTRODUCTION: &str = "The pool of the daemon in simulated time, with a kernel that makes and destroys slots one after the \
    other. A start is cold if it finds no slot ready. What is held are ready slots, on average. `bench/trace/arrivals.rs` says which \
    of the arrivals' parameters are published, and where, and which are assumed.";

#[derive(Debug, Args)]
pub(super) struct TraceArguments {
    /// What the arrivals are like; all if not given.
    #[arg(long)]
    shape: Option<Shape>,
    /// Hours to simulate [default: 24; quick: 3].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=168))]
    hours: Option<u32>,
    /// Another seed makes other arrivals of the same shape.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Slots that the host makes a second; `bench fill` measures it.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    slots_per_s: u32,
    /// Memory of a ready slot, in KiB; `bench memory` measures it.
    #[arg(long, default_value_t = 325, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    slot_kib: u32,
    /// Seconds of the busiest time to play to pcpmd as well, in real time [default: 30; quick: 3].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3600))]
    live_s: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Figures {
    hours: u32,
    seed: u64,
    slots_per_s: u32,
    slot_kib: u32,
    live_s: u64,
    shapes: Vec<OfShape>,
}

#[derive(Debug, Serialize)]
struct OfShape {
    shape: Shape,
    starts: usize,
    /// The most within one second.
    most_in_a_second: usize,
    policies: Vec<Policy>,
    /// The last policy's day.
    history: Vec<Sample>,
    /// The busiest time, in reality and simulated.
    live: Vec<Compared>,
}

/// A way to size the pool, and what came of it.
#[derive(Debug, Serialize)]
struct Policy {
    name: String,
    cold: u64,
    cold_share: f64,
    refused: u64,
    waited_p50_us: u64,
    waited_p99_us: u64,
    ready_mean: f64,
    ready_most: u32,
    held_mib: f64,
}

impl Part for TraceArguments {
    fn name(&self) -> &'static str {
        "trace"
    }

    fn measure(&self, quick: bool) -> Result<Findings> {
        let hours = self.hours.unwrap_or(if quick { 3 } else { 24 });
        let live_s = self.live_s.unwrap_or(if quick { 3 } else { 30 });
        let live = if quick { &LIVE[..1] } else { &LIVE[..] };
        let shapes = self.shape.map_or(Shape::ALL.to_vec(), |one| vec![one]);
        let shapes = shapes
            .into_iter()
            .map(|shape| self.play(shape, hours, live_s, live));
        let figures = Figures {
            hours,
            seed: self.seed,
            slots_per_s: self.slots_per_s,
            slot_kib: self.slot_kib,
            live_s,
            shapes: shapes.collect::<Result<_>>()?,
        };
        figures.findings()
    }
}

impl TraceArguments {
    fn play(&self, shape: Shape, hours: u32, live_s: u64, live: &[u32]) -> Result<OfShape> {
        let length = Duration::from_hours(hours.into());
        let starts = shape.starts(length, self.seed)?;
        let host = Host {
            slots_per_s: self.slots_per_s.into(),
            capacity: CAPACITY,
            // As the daemon has it with two workers.
            creating: 32,
            on_empty: OnEmpty::Wait,
            patience: Duration::from_secs(5),
        };
        let (mut policies, mut history) = (Vec::new(), Vec::new());
        for (name, target) in targets(&starts, length, host)? {
            eprintln!("{}: {name}", shape.name());
            let outcome = simulation::play(&starts, length, target, host, SAMPLES)?;
            policies.push(Policy::of(name, &outcome, self.slot_kib));
            history = outcome.history;
        }
        let live_length = Duration::from_secs(live_s);
        let busiest = live::busiest(&starts, live_length);
        let live = live.iter().map(|&ready| {
            eprintln!("{}: {live_s} s in real time, {ready} ready", shape.name());
            live::compare(&busiest, live_length, ready, host)
        });
        Ok(OfShape {
            shape,
            starts: starts.len(),
            most_in_a_second: most_in_a_second(&starts),
            policies,
            history,
            live: live.collect::<Result<_>>()?,
        })
    }
}

/// Fixed ones; the smallest fixed one that would have been enough, which nobody knows beforehand; and adaptive ones.
fn targets(starts: &[Start], length: Duration, host: Host) -> Result<Vec<(String, Target)>> {
    let ample = Host {
        capacity: 2 * CAPACITY,
        ..host
    };
    let all = simulation::play(starts, length, Target::Fixed(CAPACITY), ample, 1)?;
    let enough = CAPACITY - all.ready_least;
    let mut targets: Vec<_> = FIXED
        .into_iter()
        .map(|ready| (format!("fixed {ready}"), Target::Fixed(ready)))
        .collect();
    targets.push((
        format!("fixed {enough}, in hindsight"),
        Target::Fixed(enough),
    ));
    targets.extend(WINDOWS.map(|window| {
        let adaptive = Adaptive {
            ceiling: CEILING,
            window,
            ..Adaptive::default()
        };
        let name = format!("adaptive, window {} min", window.as_secs() / 60);
        (name, Target::Adaptive(adaptive))
    }));
    Ok(targets)
}

fn most_in_a_second(starts: &[Start]) -> usize {
    let seconds = starts.chunk_by(|a, b| a.at.as_secs() == b.at.as_secs());
    seconds.map(<[Start]>::len).max().unwrap_or_default()
}

impl Policy {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    fn of(name: String, outcome: &Outcome, slot_kib: u32) -> Self {
        let cold = outcome.starts - outcome.at_once;
        let waited = |quantile| outcome.waited_us.value_at_quantile(quantile);
        Self {
            name,
            cold,
            cold_share: cold as f64 / outcome.starts.max(1) as f64,
            refused: outcome.refused,
            waited_p50_us: waited(0.5),
            waited_p99_us: waited(0.99),
            ready_mean: outcome.ready_mean,
            ready_most: outcome.ready_most,
            held_mib: outcome.ready_mean * f64::from(slot_kib) / 1024.0,
        }
    }
}

impl Figures {
    fn findings(&self) -> Result<Findings> {
        let mut findings =
            Findings::new("Arrivals like published traces", self)?.text(INTRODUCTION);
        for of in &self.shapes {
            findings = findings
                .text(format!(
                    "`{}`: {} starts in {} hours, at most {} within a second.",
                    of.shape.name(),
                    of.starts,
                    self.hours,
                    of.most_in_a_second
                ))
                .table(of.rows())
                .chart(of.shape.file(), of.chart(self.hours));
        }
        for of in &self.shapes {
            findings = findings.ratio(of.broken_promise()?);
        }
        Ok(findings
            .text(format!(
                "The {} busiest seconds of each, in real time: who finds nothing ready is refused. What pcpmd did, and what \
                 the simulation did with the refill that pcpmd had measured.",
                self.live_s
            ))
            .table(self.live_rows()))
    }

    fn live_rows(&self) -> Rows {
        let titles = ["arrivals", "ready", "starts", "refill", "cold", "simulated"];
        let mut rows = vec![titles.map(str::to_owned).to_vec()];
        for of in &self.shapes {
            rows.extend(of.live.iter().map(|live| {
                vec![
                    of.shape.name().to_owned(),
                    live.ready.to_string(),
                    live.starts.to_string(),
                    format!("{}/s", live.slots_per_s),
                    live.cold.to_string(),
                    live.cold_simulated.to_string(),
                ]
            }));
        }
        rows
    }
}

impl OfShape {
    fn rows(&self) -> Rows {
        let titles = [
            "ready slots",
            "cold",
            "of all",
            "waited p50",
            "p99",
            "refused",
            "held, mean",
            "memory",
        ];
        let mut rows = vec![titles.map(str::to_owned).to_vec()];
        rows.extend(self.policies.iter().map(Policy::row));
        rows
    }

    /// How many more starts were cold than the target allows.
    fn broken_promise(&self) -> Result<Ratio> {
        let adaptive = self.policies.last().context("no policy")?;
        let allowed = 1.0 / f64::from(Adaptive::default().one_in);
        let name = format!("cold-{}", self.shape.name());
        let what = format!(
            "cold starts of \"{}\" against what it allows, {}",
            adaptive.name,
            self.shape.name()
        );
        Ok(Ratio::lower(&name, &what, [adaptive.cold_share / allowed])?.aim(1.0))
    }

    /// The last policy's day.
    fn chart(&self, hours: u32) -> Lines {
        let line = |name: &str, value: fn(&Sample) -> u32| Line {
            name: name.to_owned(),
            points: (1..)
                .zip(&self.history)
                .map(|(number, sample)| Point {
                    x: f64::from(hours) * f64::from(number) / f64::from(SAMPLES),
                    y: Spread::exactly(value(sample).into()),
                })
                .collect(),
        };
        Lines {
            title: format!(
                "Starts of {}, and the target ({})",
                self.shape.name(),
                self.policies.last().map_or("", |policy| &policy.name)
            ),
            x_title: "hours".to_owned(),
            y_title: "slots, and starts since the last point".to_owned(),
            series: vec![
                line("target", |sample| sample.target),
                line("starts", |sample| sample.starts),
            ],
            course_until: Some(hours.into()),
            ..Lines::default()
        }
    }
}

impl Policy {
    #[expect(clippy::cast_precision_loss, reason = "microseconds of seconds")]
    fn row(&self) -> Vec<String> {
        let waited = |us| match us {
            0 => "-".to_owned(),
            us => time(us as f64),
        };
        vec![
            self.name.clone(),
            self.cold.to_string(),
            format!("{:.3} %", self.cold_share * 100.0),
            waited(self.waited_p50_us),
            waited(self.waited_p99_us),
            self.refused.to_string(),
            format!("{:.0}", self.ready_mean),
            format!("{:.1} MiB", self.held_mib),
        ]
    }
}
