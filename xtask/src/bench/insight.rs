//! `bench locks`: what lock insight costs. A load that does nothing but wait for the rtnl lock, with insight on and off
//! in turn; and what one event costs, by the kernel's own account.
#![expect(unsafe_code, reason = "a system call without a wrapper")]

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pcpm_api::types::LocksReply;
use pcpm_tests::{Daemon, RtnlLoad, World};
use serde::Serialize;
use serde_json::{Value, json};

use super::LocksArguments;
use crate::report::{median, table, write_json};

const CONFIG: &str = "/run/pcpmd.toml";

#[derive(Debug, Serialize)]
struct Figures {
    threads: u32,
    seconds: u32,
    /// Calls a second that take the lock, in each round.
    calls_per_s_on: Vec<f64>,
    calls_per_s_off: Vec<f64>,
    /// How much fewer with insight on, in the median round.
    change_percent: f64,
    events: Vec<EventCost>,
}

/// What the kernel counted of one program.
#[derive(Debug, Serialize)]
struct EventCost {
    program: String,
    events: u64,
    ns_per_event: f64,
}

pub(super) fn run(arguments: &LocksArguments) -> Result<()> {
    let (threads, seconds, rounds) = if arguments.quick {
        (4, 1, 2)
    } else {
        (4, 5, 7)
    };
    let (mut on, mut off) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        on.push(calls_per_s(true, threads, seconds)?);
        off.push(calls_per_s(false, threads, seconds)?);
    }
    let pairs = on.iter().zip(&off);
    let changes = pairs.map(|(on, off)| (off - on) / off * 100.0);
    let figures = Figures {
        threads,
        seconds,
        change_percent: median(changes),
        events: events(threads, seconds)?,
        calls_per_s_on: on,
        calls_per_s_off: off,
    };
    figures.show();
    write_json(arguments.json.as_deref(), &figures)
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

fn load(threads: u32, seconds: u32) -> Result<u64> {
    let load = RtnlLoad::start("bench-locks", threads, |_| ())?;
    thread::sleep(Duration::from_secs(seconds.into()));
    Ok(load.stop()?.calls)
}

#[expect(clippy::cast_precision_loss, reason = "calls are far below 2^53")]
fn calls_per_s(insight: bool, threads: u32, seconds: u32) -> Result<f64> {
    let world = World::new()?;
    let _daemon = observer(&world, insight)?;
    Ok(load(threads, seconds)? as f64 / f64::from(seconds))
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of seconds fit")]
fn events(threads: u32, seconds: u32) -> Result<Vec<EventCost>> {
    let world = World::new()?;
    let daemon = observer(&world, true)?;
    let _counted = count_run_time().context("have the kernel count what programs cost")?;
    load(threads, seconds)?;
    let programs = daemon.tracing_programs()?;
    ensure!(!programs.is_empty(), "lock insight is not available here");
    let cost = |id: &String| -> Result<EventCost> {
        let tool = world
            .host()
            .command("bpftool", ["--json", "prog", "show", "id", id]);
        let seen: Value = tool.json()?;
        let number = |name: &str| {
            seen[name]
                .as_u64()
                .with_context(|| format!("no {name}: {seen}"))
        };
        let events = number("run_cnt")?;
        Ok(EventCost {
            program: seen["name"].as_str().unwrap_or_default().to_owned(),
            events,
            ns_per_event: number("run_time_ns")? as f64 / events.max(1) as f64,
        })
    };
    programs.iter().map(cost).collect()
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

impl Figures {
    fn show(&self) {
        let row = |name: &str, rounds: &[f64]| {
            let median = median(rounds.iter().copied());
            vec![name.to_owned(), format!("{median:.0}")]
        };
        println!(
            "{} threads that take the rtnl lock over and over, {} s each:\n",
            self.threads, self.seconds
        );
        table(&[
            vec!["insight".into(), "calls/s".into()],
            row("on", &self.calls_per_s_on),
            row("off", &self.calls_per_s_off),
        ]);
        println!(
            "\nmedian of the pairs: {:.2} % fewer with insight\n",
            self.change_percent
        );
        let mut rows = vec![vec!["event".to_owned(), "events".into(), "ns each".into()]];
        let events = self.events.iter();
        rows.extend(events.map(|e| {
            vec![
                e.program.clone(),
                e.events.to_string(),
                format!("{:.0}", e.ns_per_event),
            ]
        }));
        table(&rows);
    }
}
