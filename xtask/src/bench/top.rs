//! `bench top`: what the dashboard costs, itself and the daemon, with many slots and many updates a second; and
//! whether its memory stays within bounds over time.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use pcpm_tests::{Terminal, World, binary};
use serde::Serialize;
use serde_json::Value;

use super::Part;
use super::findings::{Findings, Ratio, Rows};
use crate::load::Load;

/// Attachments that end and begin, five times a second.
const TURNOVER: usize = 4;
const RECORDING: &str = "/run/recording";
const NOTED: &str = "/run/top.pid";

#[derive(Debug, Args)]
pub(super) struct TopArguments {
    /// Slots of the pool [default: 4000; quick: 400].
    #[arg(long, value_parser = clap::value_parser!(u32).range(16..=10_000))]
    slots: Option<u32>,
    /// How long each part is measured, in seconds [default: 30; quick: 4].
    #[arg(long, value_parser = clap::value_parser!(u64).range(2..=600))]
    seconds: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Figures {
    slots: u32,
    seconds: u64,
    /// How long the past is that is replayed.
    past_minutes: u64,
    /// Processor time a second, in percent of one core.
    daemon_unwatched_percent: f64,
    daemon_watched_percent: f64,
    daemon_share_percent: f64,
    dashboard_percent: f64,
    /// At most ten frames are drawn a second: this much processor time each, if so many were.
    frame_ms_at_most: f64,
    rss_after_half_mib: f64,
    rss_after_all_mib: f64,
}

impl Part for TopArguments {
    fn name(&self) -> &'static str {
        "top"
    }

    fn measure(&self, quick: bool) -> Result<Findings> {
        let slots = self.slots.unwrap_or(if quick { 400 } else { 4000 });
        let seconds = self.seconds.unwrap_or(if quick { 4 } else { 30 });
        let past_minutes = if quick { 8 } else { 60 };
        measure(slots, seconds, past_minutes)?.findings()
    }
}

fn measure(slots: u32, seconds: u64, past_minutes: u64) -> Result<Figures> {
    let lasts = Duration::from_secs(seconds);
    let world = World::new()?;
    let daemon = world.spawn_daemon(&["--capacity", &slots.to_string()])?;
    crate::progress::fill(&daemon, slots)?;
    let mut load = Load::new(&world, &daemon);
    load.hold(usize::try_from(slots / 2)?)?;
    let pid = daemon.main_thread().as_raw();
    let unwatched = during(pid, || churn(&mut load, lasts))?;
    let terminal = Terminal::open(&world)?;
    start_top(
        &world,
        &terminal,
        &format!("--interval 100ms --view slots --record {RECORDING}"),
    )?;
    let top = noted(&world)?;
    let before = processor_time(top)?;
    let watched = during(pid, || churn(&mut load, lasts))?;
    let dashboard = (processor_time(top)? - before) / lasts.as_secs_f64();
    terminal.press("q")?;
    terminal.until("the dashboard ends", |screen| !screen.contains("live"))?;
    let [half, all] = replay(&world, &terminal, past_minutes)?;
    Ok(Figures {
        slots,
        seconds,
        past_minutes,
        daemon_unwatched_percent: unwatched * 100.0,
        daemon_watched_percent: watched * 100.0,
        daemon_share_percent: (watched - unwatched).max(0.0) * 100.0,
        dashboard_percent: dashboard * 100.0,
        frame_ms_at_most: dashboard * 100.0,
        rss_after_half_mib: half,
        rss_after_all_mib: all,
    })
}

/// Attachments come and go five times a second; every state of a slot that changes is told.
fn churn(load: &mut Load<'_>, lasts: Duration) -> Result<()> {
    const STEP: Duration = Duration::from_millis(200);
    let mut next = Instant::now();
    let end = next + lasts;
    while next < end {
        load.turn_over(TURNOVER)?;
        next += STEP;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

fn start_top(world: &World, terminal: &Terminal<'_>, words: &str) -> Result<()> {
    fs::remove_file(world.path(NOTED)).ok();
    let pcpm = binary("pcpm")?;
    let line = format!(
        "sh -c 'echo $$ > {NOTED}; exec {} top {words}'",
        pcpm.display()
    );
    terminal.run(&format!("clear; {line}"))?;
    terminal.shows(&["SLOT"])?;
    Ok(())
}

/// The process that noted its number in the world, by its number outside: the world has numbers of its own.
fn noted(world: &World) -> Result<i32> {
    let inside: i32 = fs::read_to_string(world.path(NOTED))?.trim().parse()?;
    let is_it = |status: &str| {
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let mut ids = ids.into_iter().flat_map(str::split_whitespace);
        status.starts_with("Name:\tpcpm\n") && ids.next_back() == Some(&inside.to_string())
    };
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let status = fs::read_to_string(path.join("status")).unwrap_or_default();
        if is_it(&status) {
            let name = path.file_name().and_then(|name| name.to_str());
            return name
                .context("a process without a number")?
                .parse()
                .context("a process");
        }
    }
    anyhow::bail!("the dashboard is not running")
}

/// The share of a core that a process took while `work` was done.
fn during(pid: i32, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let (begun, before) = (Instant::now(), processor_time(pid)?);
    work()?;
    Ok((processor_time(pid)? - before) / begun.elapsed().as_secs_f64())
}

/// What a process used so far, in seconds.
fn processor_time(pid: i32) -> Result<f64> {
    let path = format!("/proc/{pid}/schedstat");
    let mut total = 0.0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| path.clone())? {
        let path = task?.path().join("schedstat");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let nanos = text
            .split_whitespace()
            .next()
            .context("an empty schedstat")?;
        total += nanos.parse::<f64>()? / 1e9;
    }
    Ok(total)
}

/// Replays so long a past, 64 times as fast; the memory that the dashboard has in the middle and at the end, in MiB.
fn replay(world: &World, terminal: &Terminal<'_>, minutes: u64) -> Result<[f64; 2]> {
    let past = Duration::from_mins(minutes);
    prolong(&world.path(RECORDING), &world.path("/run/past"), past)?;
    start_top(
        world,
        terminal,
        "--replay /run/past --speed 64 --view slots",
    )?;
    let top = noted(world)?;
    terminal.until("half of it was replayed", |screen| {
        (minutes / 2..minutes).any(|minute| screen.contains(&format!(" {minute}m")))
    })?;
    let half = resident_mib(top)?;
    terminal.shows(&["replay ended"])?;
    let all = resident_mib(top)?;
    terminal.press("q")?;
    Ok([half, all])
}

/// Writes the recording again and again, later each time, until it lasts so long.
fn prolong(from: &Path, to: &Path, past: Duration) -> Result<()> {
    let lines: Vec<Value> = BufReader::new(File::open(from)?)
        .lines()
        .map(|line| Ok(serde_json::from_str(&line?)?))
        .collect::<Result<_>>()?;
    let (header, frames) = lines.split_first().context("an empty recording")?;
    let mut file = BufWriter::new(File::create(to)?);
    writeln!(file, "{header}")?;
    let length = frames
        .last()
        .and_then(|frame| frame["at_ms"].as_u64())
        .context("no frames")?
        + 1000;
    let past = u64::try_from(past.as_millis())?;
    for shift in (0..)
        .map(|round| round * length)
        .take_while(|shift| *shift < past)
    {
        for frame in frames {
            let mut later = frame.clone();
            add(&mut later["at_ms"], shift);
            add(&mut later["frame"]["time_ms"], shift);
            if shift > 0 {
                later["frame"]["full"] = false.into();
            }
            writeln!(file, "{later}")?;
        }
    }
    Ok(file.flush()?)
}

fn add(number: &mut Value, more: u64) {
    if let Some(before) = number.as_u64() {
        *number = (before + more).into();
    }
}

fn resident_mib(pid: i32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = kib
        .and_then(|kib| kib.split_whitespace().next())
        .context("no VmRSS")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}

impl Figures {
    fn findings(&self) -> Result<Findings> {
        Ok(Findings::new("Dashboard: what `pcpm top` costs", self)?
            .text(format!(
                "{} slots, half of them attached, attachments come and go, 10 updates a second, {} s.",
                self.slots, self.seconds
            ))
            .table(self.rows())
            .text(format!(
                "A frame takes {:.2} ms of processor time at most. Memory after half of {} minutes of replay and after all: \
                 {:.1} MiB and {:.1} MiB.",
                self.frame_ms_at_most, self.past_minutes, self.rss_after_half_mib, self.rss_after_all_mib
            ))
            .ratio(Ratio::lower(
                "memory-all-over-half",
                "memory after all of the replay / after half of it",
                [self.rss_after_all_mib / self.rss_after_half_mib],
            )?))
    }

    fn rows(&self) -> Rows {
        let percent = |share: f64| format!("{share:.2} %");
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        vec![
            row("", "of one core".to_owned()),
            row(
                "pcpmd, nobody watches (floor)",
                percent(self.daemon_unwatched_percent),
            ),
            row("pcpmd, one dashboard", percent(self.daemon_watched_percent)),
            row(
                "the dashboard's share of it",
                percent(self.daemon_share_percent),
            ),
            row("pcpm top", percent(self.dashboard_percent)),
        ]
    }
}
