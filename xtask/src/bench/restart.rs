//! `bench restart`: how soon a daemon that was killed serves again, beside a start where there is nothing yet.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use pcpm_tests::{Daemon, PATIENCE, World};
use serde::Serialize;

use super::{RestartArguments, detach_everybody, spread::Spread};
use crate::machine::Machine;
use crate::report::{table, write_json};
use crate::{plain, progress};

/// Attachments that the other half of the restarts find.
const ATTACHED: u32 = 100;

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
    machine: Machine,
    slots: u32,
    attached: u32,
    starts: Vec<Start>,
    summary: Vec<Summary>,
}

#[derive(Debug, Serialize)]
struct Summary {
    found: Found,
    status_ms: Spread,
    attach_ms: Spread,
}

pub(super) fn run(arguments: &RestartArguments) -> Result<()> {
    let (slots, rounds) = (arguments.slots(), arguments.rounds());
    let attached = ATTACHED.min(slots / 2);
    let machine = Machine::read()?;
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
    let figures = Figures::new(machine, slots, attached, starts)?;
    figures.show();
    write_json(arguments.json.as_deref(), &figures)
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
    fn new(machine: Machine, slots: u32, attached: u32, starts: Vec<Start>) -> Result<Self> {
        let all = [Found::Nothing, Found::Ready, Found::Attached];
        let summary = all.into_iter().map(|found| {
            let of = |field: fn(&Start) -> f64| {
                let starts = starts.iter().filter(|start| start.found == found);
                Spread::of(starts.map(field))
            };
            Ok(Summary {
                found,
                status_ms: of(|start| start.status_ms)?,
                attach_ms: of(|start| start.attach_ms)?,
            })
        });
        Ok(Self {
            summary: summary.collect::<Result<_>>()?,
            machine,
            slots,
            attached,
            starts,
        })
    }

    fn show(&self) {
        println!("{}\n", self.machine);
        println!(
            "From exec to an answer, milliseconds: medians of {} starts each, and the quartiles:\n",
            self.starts.len() / self.summary.len()
        );
        let heading = [
            "",
            "Status answered",
            "quartiles",
            "first attach",
            "quartiles",
        ];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        rows.extend(self.summary.iter().map(|row| self.row(row)));
        table(&rows);
    }

    fn row(&self, row: &Summary) -> Vec<String> {
        let name = match row.found {
            Found::Nothing => "an empty start (floor)".to_owned(),
            Found::Ready => format!("killed with {} slots ready", self.slots),
            Found::Attached => format!("killed with {} of them attached", self.attached),
        };
        let [status, status_spread] = row.status_ms.cells();
        let [attach, attach_spread] = row.attach_ms.cells();
        vec![name, status, status_spread, attach, attach_spread]
    }
}
