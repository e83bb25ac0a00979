//! `bench locks`: what lock insight costs. A load that needs the rtnl lock, one that does nothing but wait for it, and bursts of
//! container starts, which wait for locks of all kinds, with insight on and off in turn; and what one event costs, by the
//! kernel's own account.
#![expect(unsafe_code, reason = "a system call without a wrapper")]

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use pcpm_api::types::LocksReply;
use pcpm_tests::{Daemon, RtnlLoad, World};
use serde::Serialize;
use serde_json::{Value, json};

use super::Part;
use super::beside;
use super::findings::{Findings, Ratio, Rows};
use super::spread::Spread;
use crate::inside::Phases;
use crate::plain::{self, LinkLoad};

const CONFIG: &str = "/run/pcpmd.toml";

/// Of what is done without it, by a load that does something with the lock.
const LEAST_WITH_INSIGHT: f64 = 0.99;

/// Threads of a load.
const THREADS: u32 = 4;

#[derive(Debug, Args)]
pub(super) struct LocksArguments {
    /// Pairs of runs with insight on and off [default: 16; quick: 1].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
}

/// Something that wants the rtnl lock.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Load {
    /// Links are made, set up, listed and removed.
    Links,
    /// The lock is taken over and over with nothing to do in it: nothing could be worse.
    Nothing,
    /// Containers without a network are started together.
    Starts,
}

/// What a load got done.
struct Done {
    requests: f64,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Figures {
    loads: Vec<Compared>,
}

/// A load with insight on and off.
#[derive(Debug, Serialize)]
struct Compared {
    load: Load,
    /// For people.
    description: String,
    /// Requests a second, in each round.
    on: Vec<f64>,
    off: Vec<f64>,
    events: Vec<EventCost>,
    /// What the programs took of one processor's time.
    programs_percent: f64,
}

/// What the kernel counted of one program.
#[derive(Debug, Serialize)]
struct EventCost {
    program: String,
    events: u64,
    ns_per_event: f64,
}

impl Part for LocksArguments {
    fn name(&self) -> &'static str {
        "locks"
    }

    fn measure(&self, quick: bool) -> Result<Findings> {
        let rounds = self.rounds.unwrap_or(if quick { 1 } else { 16 });
        let mut pairs = [const { Vec::new() }; Load::ALL.len()];
        for round in 1..=rounds {
            eprintln!("round {round} of {rounds}");
            // What changes slowly on the machine is on both sides as often.
            let first = round % 2 == 0;
            let one = rates(first, quick)?;
            let other = rates(!first, quick)?;
            let (on, off) = if first { (one, other) } else { (other, one) };
            for (pairs, pair) in pairs.iter_mut().zip(on.into_iter().zip(off)) {
                pairs.push(pair);
            }
        }
        let loads = Load::ALL.into_iter().zip(pairs).zip(events(quick)?);
        let loads = loads.map(|((load, pairs), (events, programs_percent))| {
            let (on, off) = pairs.into_iter().unzip();
            Compared {
                load,
                description: load.describe(quick),
                on,
                off,
                events,
                programs_percent,
            }
        });
        let figures = Figures {
            loads: loads.collect(),
        };
        figures.findings()
    }
}

impl Load {
    const ALL: [Self; 3] = [Self::Links, Self::Nothing, Self::Starts];

    const fn name(self) -> &'static str {
        match self {
            Self::Links => "links",
            Self::Nothing => "nothing",
            Self::Starts => "starts",
        }
    }

    fn describe(self, quick: bool) -> String {
        match self {
            Self::Links => format!("{THREADS} threads make, set up, list and remove links"),
            Self::Nothing => format!(
                "{THREADS} threads take the rtnl lock with nothing to do in it (the worst case)"
            ),
            Self::Starts => {
                let at_once = beside::at_once(quick);
                format!("{at_once} containers without a network start at once")
            }
        }
    }

    /// Links wait for grace periods, which take now more and now less.
    fn run(self, world: &World, quick: bool) -> Result<Done> {
        match self {
            Self::Links => {
                let load = LinkLoad::start(THREADS)?;
                let time = Duration::from_secs(if quick { 1 } else { 5 });
                thread::sleep(time);
                Ok(Done::of(load.stop()?, time))
            }
            Self::Nothing => {
                let load = RtnlLoad::start("bench-locks", THREADS, |_| ())?;
                let time = Duration::from_secs(1);
                thread::sleep(time);
                Ok(Done::of(load.stop()?.calls, time))
            }
            Self::Starts => {
                let at_once = beside::at_once(quick);
                let started = beside::start(world, at_once)?;
                let longest = started.iter().map(Phases::total).max();
                Ok(Done::of(at_once.into(), longest.unwrap_or_default()))
            }
        }
    }
}

impl Done {
    #[expect(clippy::cast_precision_loss, reason = "requests are far below 2^53")]
    const fn of(requests: u64, time: Duration) -> Self {
        Self {
            requests: requests as f64,
            seconds: time.as_secs_f64(),
        }
    }
}

/// Requests a second of each load.
fn rates(insight: bool, quick: bool) -> Result<Vec<f64>> {
    let world = World::new()?;
    let _daemon = observer(&world, insight)?;
    let rate = |load: Load| {
        plain::settle()?;
        let done = load.run(&world, quick)?;
        Ok(done.requests / done.seconds)
    };
    Load::ALL.into_iter().map(rate).collect()
}

/// The daemon alone in a world, watching locks or not.
fn observer(world: &World, insight: bool) -> Result<Daemon> {
    fs::write(
        world.path(CONFIG),
        format!("[locks]\nenabled = {insight}\n"),
    )?;
    let daemon = world.spawn_daemon(&["--config", CONFIG, "--capacity", "1"])?;
    daemon.wait_until_ready(1)?;
    if insight {
        seconds_pass(&daemon)?;
    }
    Ok(daemon)
}

/// Waits until all that happened so far was counted, so also until insight is there at all.
pub(super) fn seconds_pass(daemon: &Daemon) -> Result<()> {
    let mut wire = daemon.connect()?;
    wire.stream("Locks", &json!({}))?;
    for _ in 0..2 {
        let _second: LocksReply = wire.next_reply()?;
    }
    Ok(())
}

/// What a program did since it was loaded, while the kernel measured it.
struct Runs {
    program: String,
    events: u64,
    took_ns: u64,
}

/// What each program cost, and what all took of one processor's time, for each load.
fn events(quick: bool) -> Result<Vec<(Vec<EventCost>, f64)>> {
    let world = World::new()?;
    let daemon = observer(&world, true)?;
    let _counted = count_run_time().context("have the kernel count what programs cost")?;
    let programs = daemon.tracing_programs()?;
    ensure!(!programs.is_empty(), "lock insight is not available here");
    let runs = || {
        let runs = programs.iter().map(|id| Runs::of(&world, id));
        runs.collect::<Result<Vec<_>>>()
    };
    let measure = |load: Load| {
        let before = runs()?;
        let done = load.run(&world, quick)?;
        let costs = runs()?.into_iter().zip(&before);
        let costs: Vec<_> = costs.map(|(after, before)| after.since(before)).collect();
        let took_ns = costs.iter().map(EventCost::took_ns).sum::<f64>();
        ensure!(took_ns > 0.0, "the kernel did not count what programs cost");
        Ok((costs, took_ns / done.seconds / 1e7))
    };
    Load::ALL.into_iter().map(measure).collect()
}

impl Runs {
    fn of(world: &World, id: &str) -> Result<Self> {
        let show = ["--json", "prog", "show", "id", id];
        let seen: Value = world.host().command("bpftool", show).json()?;
        // What is 0 is left out.
        let number = |name: &str| seen[name].as_u64().unwrap_or_default();
        Ok(Self {
            program: seen["name"].as_str().unwrap_or_default().to_owned(),
            events: number("run_cnt"),
            took_ns: number("run_time_ns"),
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of seconds fit")]
    fn since(self, before: &Self) -> EventCost {
        let events = self.events - before.events;
        let took_ns = self.took_ns - before.took_ns;
        EventCost {
            program: self.program,
            events,
            ns_per_event: took_ns as f64 / events.max(1) as f64,
        }
    }
}

/// Has the kernel measure programs as long as the descriptor is open (`BPF_ENABLE_STATS`).
fn count_run_time() -> io::Result<OwnedFd> {
    const BPF_ENABLE_STATS: i32 = 32;
    const BPF_STATS_RUN_TIME: u32 = 0;
    let attributes = BPF_STATS_RUN_TIME;
    // SAFETY: the command takes its one attribute, of the given size, and returns a descriptor of its own.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_ENABLE_STATS,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    match i32::try_from(fd) {
        // SAFETY: nobody else has it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Compared {
    fn ratio(&self) -> Result<Ratio> {
        let pairs = self.on.iter().zip(&self.off);
        let ratio = Ratio::higher(
            &format!("{}-on-over-off", self.load.name()),
            &format!("{}: requests with insight / without", self.description),
            pairs.map(|(on, off)| on / off),
        )?;
        Ok(match self.load {
            Load::Links | Load::Starts => ratio.aim(LEAST_WITH_INSIGHT),
            Load::Nothing => ratio,
        })
    }

    fn rates(&self) -> Result<Rows> {
        let row = |name: &str, rounds: &[f64]| -> Result<Vec<String>> {
            let cells = Spread::of(rounds.iter().copied())?.whole_cells();
            Ok([name.to_owned()].into_iter().chain(cells).collect())
        };
        Ok(vec![
            ["insight", "requests/s", "quartiles"]
                .map(str::to_owned)
                .to_vec(),
            row("on", &self.on)?,
            row("off", &self.off)?,
        ])
    }

    fn costs(&self) -> Rows {
        let heading = ["event", "events", "ns each"].map(str::to_owned).to_vec();
        let events = self.events.iter().map(|event| {
            let each = format!("{:.0}", event.ns_per_event);
            vec![event.program.clone(), event.events.to_string(), each]
        });
        [heading].into_iter().chain(events).collect()
    }
}

impl EventCost {
    #[expect(clippy::cast_precision_loss, reason = "events are far below 2^53")]
    fn took_ns(&self) -> f64 {
        self.events as f64 * self.ns_per_event
    }
}

impl Figures {
    fn findings(&self) -> Result<Findings> {
        let rounds = self.loads.first().map_or(0, |compared| compared.on.len());
        let mut findings = Findings::new("Lock insight: what watching costs", self)?.text(format!(
            "Loads that wait for locks, with insight on and off in turn: {rounds} pairs; and what each event costs by the kernel's own account."
        ));
        for compared in &self.loads {
            findings = findings
                .text(format!("{}:", compared.description))
                .table(compared.rates()?)
                .table(compared.costs())
                .text(format!(
                    "The programs took {:.2} % of a processor.",
                    compared.programs_percent
                ))
                .ratio(compared.ratio()?);
        }
        Ok(findings)
    }
}
