//! `bench restart`: how soon a daemon that was killed serves again, beside a start where there is nothing yet.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use nix::sys::signal::Signal;
use pcpm_tests::{Daemon, PATIENCE, World};
use serde::Serialize;

use super::chart::{Column, Columns};
use super::findings::{Findings, Ratio, Rows};
use super::{Part, detach_everybody, spread::Spread};
use crate::report::time;
use crate::{plain, progress};

/// Attachments that the other half of the restarts find.
const ATTACHED: u32 = 100;

#[derive(Debug, Args)]
pub(super) struct RestartArguments {
    /// Slots that the daemon is killed with [default: 4000; quick: 200].
    #[arg(long, value_parser = clap::value_parser!(u32).range(8..=10_000))]
    slots: Option<u32>,
    /// How often each start is measured, one after the other [default: 5; quick: 3].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
}

/// What a start finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Found {
    /// Nothing: maps, programs and hubs are made. The floor.
    Nothing,
    /// Slots that are ready.
    Ready,
    /// Some of them attached.
    Attached,
}

/// Milliseconds from `exec` on.
#[derive(Clone, Copy, Debug, Serialize)]
struct Start {
    found: Found,
    /// Until `Status` is answered.
    status_ms: f64,
    /// Until an attach is, which the client asks for behind that.
    attach_ms: f64,
}

#[derive(Debug, Serialize)]
struct Figures {
    slots: u32,
    attached: u32,
    starts: Vec<Start>,
}

impl Part for RestartArguments {
    fn name(&self) -> &'static str {
        "restart"
    }

    fn measure(&self, quick: bool) -> Result<Findings> {
        let slots = self.slots.unwrap_or(if quick { 200 } else { 4000 });
        let rounds = self.rounds.unwrap_or(if quick { 3 } else { 5 });
        let attached = ATTACHED.min(slots / 2);
        let world = World::new()?;
        let mut daemon = spawn(&world, slots)?;
        progress::fill(&daemon, slots)?;
        let mut starts = Vec::new();
        for round in 1..=rounds {
            eprintln!("round {round} of {rounds}");
            starts.push(empty_start(slots)?);
            plain::settle()?;
            starts.push(restart(&world, &mut daemon, slots, Found::Ready)?);
            for number in 0..attached {
                daemon.attach(&format!("kept-{number}"), "bench")?;
            }
            starts.push(restart(&world, &mut daemon, slots, Found::Attached)?);
            detach_everybody(&daemon)?;
            daemon.wait_until_ready(slots)?;
        }
        let figures = Figures {
            slots,
            attached,
            starts,
        };
        figures.findings()
    }
}

fn spawn(world: &World, slots: u32) -> Result<Daemon> {
    world.spawn_daemon(&["--capacity", &slots.to_string()])
}

/// In a world of its own. It serves before it has filled: the attach waits for the first slot.
fn empty_start(slots: u32) -> Result<Start> {
    let world = World::new()?;
    let begun = Instant::now();
    let daemon = spawn(&world, slots)?;
    served(&daemon, begun, Found::Nothing)
}

fn restart(world: &World, daemon: &mut Daemon, slots: u32, found: Found) -> Result<Start> {
    daemon.signal(Signal::SIGKILL)?;
    daemon.wait(PATIENCE)?;
    plain::settle()?;
    let begun = Instant::now();
    *daemon = spawn(world, slots)?;
    let start = served(daemon, begun, found)?;
    daemon.detach("first")?;
    daemon
        .wait_until("all are there", |counts| {
            counts.ready + counts.attached == slots
        })
        .context("after the restart")?;
    Ok(start)
}

fn served(daemon: &Daemon, begun: Instant, found: Found) -> Result<Start> {
    daemon.status()?;
    let status_ms = milliseconds(begun.elapsed());
    daemon.attach("first", "bench")?;
    Ok(Start {
        found,
        status_ms,
        attach_ms: milliseconds(begun.elapsed()),
    })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl Figures {
    fn findings(&self) -> Result<Findings> {
        let over_empty = |found, of: fn(&Start) -> f64| {
            let pairs = self.starts(found, of).into_iter();
            let empty = self.starts(Found::Nothing, of);
            pairs.zip(empty).map(|(start, empty)| start / empty)
        };
        Ok(Findings::new("Restart: until a killed daemon serves again", self)?
            .text(format!(
                "From exec to an answer, with {} slots, beside an empty start, which makes maps, programs and hubs (the floor).",
                self.slots
            ))
            .table(self.rows()?)
            .chart("restart", self.chart()?)
            .ratio(Ratio::lower(
                "status-ready-over-empty",
                "status answered: restart with ready slots / empty start",
                over_empty(Found::Ready, |start| start.status_ms),
            )?)
            .ratio(Ratio::lower(
                "attach-attached-over-empty",
                "first attach: restart with attached slots / empty start",
                over_empty(Found::Attached, |start| start.attach_ms),
            )?))
    }

    fn starts(&self, found: Found, of: fn(&Start) -> f64) -> Vec<f64> {
        let starts = self.starts.iter();
        starts
            .filter(|start| start.found == found)
            .map(of)
            .collect()
    }

    fn rows(&self) -> Result<Rows> {
        let heading = [
            "",
            "Status answered",
            "quartiles",
            "first attach",
            "quartiles",
        ];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        for found in Found::ALL {
            let mut row = vec![self.name(found)];
            for of in [
                |start: &Start| start.status_ms * 1e3,
                |start: &Start| start.attach_ms * 1e3,
            ] {
                row.extend(Spread::of(self.starts(found, of))?.time_cells());
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn chart(&self) -> Result<Columns> {
        let column = |found| -> Result<Column> {
            let status = Spread::of(self.starts(found, |start| start.status_ms))?.median;
            let attach = Spread::of(self.starts(found, |start| start.attach_ms))?.median;
            Ok(Column {
                label: self.name(found),
                parts: vec![status, attach - status],
                note: time(attach * 1e3),
            })
        };
        Ok(Columns {
            title: format!("From exec to serving, {} slots", self.slots),
            y_title: "ms, median".to_owned(),
            parts: vec![
                "until status is answered".into(),
                "until an attach is".into(),
            ],
            bars: Found::ALL.into_iter().map(column).collect::<Result<_>>()?,
            ..Columns::default()
        })
    }

    fn name(&self, found: Found) -> String {
        match found {
            Found::Nothing => "empty start (floor)".to_owned(),
            Found::Ready => "killed, all ready".to_owned(),
            Found::Attached => format!("killed, {} attached", self.attached),
        }
    }
}

impl Found {
    const ALL: [Self; 3] = [Self::Nothing, Self::Ready, Self::Attached];
}
