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
use super::spread::Spread;
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
    /// How long each part is measured, in seconds [default: 30; quick: 2].
    #[arg(long, value_parser = clap::value_parser!(u64).range(2..=600))]
    seconds: Option<u64>,
}

/// Rounds that each part is measured in.
const ROUNDS: u32 = 5;

/// Of one core: what the dashboard may take, and what watching may add to the daemon.
const LARGEST_SHARE: f64 = 0.05;
const LARGEST_DAEMON_SHARE: f64 = 0.02;
const LONGEST_FRAME_MS: f64 = 5.0;
/// Memory after all of the past, over that after half of it.
const LARGEST_GROWTH: f64 = 1.1;

#[derive(Debug, Serialize)]
struct Figures {
    slots: u32,
    seconds: u64,
    /// How long the past is that is replayed.
    past_minutes: u64,
    /// Processor time a second, of one core, round by round.
    daemon_unwatched: Vec<f64>,
    daemon_watched: Vec<f64>,
    dashboard: Vec<f64>,
    /// Updates that the dashboard got in all, and the processor time that it took for each: to read it, to keep it, to
    /// record it and to draw it.
    frames: u32,
    frame_ms: f64,
    rss_after_half_mib: f64,
    rss_after_all_mib: f64,
}

impl Part for TopArguments {
    fn name(&self) -> &'static str {
        "top"
    }

    fn measure(&self, quick: bool) -> Result<Findings> {
        let slots = self.slots.unwrap_or(if quick { 400 } else { 4000 });
        let seconds = self.seconds.unwrap_or(if quick { 2 } else { 30 });
        let past_minutes = if quick { 4 } else { 60 };
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
    let mut daemon_unwatched = unwatched(pid, &mut load, lasts)?;
    let terminal = Terminal::open(&world)?;
    start_top(
        &world,
        &terminal,
        &format!("--interval 100ms --view slots --record {RECORDING}"),
    )?;
    let top = noted(&world)?;
    let (mut daemon_watched, mut dashboard) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let [watched, watching] = during([pid, top], || churn(&mut load, lasts / ROUNDS))?;
        daemon_watched.push(watched);
        dashboard.push(watching);
    }
    let took = processor_time(top)?;
    terminal.press("q")?;
    terminal.until("the dashboard ends", |screen| !screen.contains("live"))?;
    // Before and behind, so that what changes meanwhile counts for both.
    daemon_unwatched.extend(unwatched(pid, &mut load, lasts)?);
    // The first line says what the file is.
    let recording = File::open(world.path(RECORDING))?;
    let frames = u32::try_from(BufReader::new(recording).lines().skip(1).count())?;
    let [half, all] = replay(&world, &terminal, past_minutes)?;
    Ok(Figures {
        slots,
        seconds,
        past_minutes,
        daemon_unwatched,
        daemon_watched,
        dashboard,
        frames,
        frame_ms: took * 1000.0 / f64::from(frames.max(1)),
        rss_after_half_mib: half,
        rss_after_all_mib: all,
    })
}

/// What the daemon takes while nobody watches, round by round.
fn unwatched(daemon: i32, load: &mut Load<'_>, lasts: Duration) -> Result<Vec<f64>> {
    let round = |_| {
        let [unwatched] = during([daemon], || churn(load, lasts / ROUNDS))?;
        Ok(unwatched)
    };
    (0..ROUNDS).map(round).collect()
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

/// The share of a core that each of some processes took while `work` was done.
fn during<const N: usize>(pids: [i32; N], work: impl FnOnce() -> Result<()>) -> Result<[f64; N]> {
    let all = || -> Result<Vec<_>> { pids.iter().map(|pid| processor_time(*pid)).collect() };
    let (begun, before) = (Instant::now(), all()?);
    work()?;
    let (lasted, after) = (begun.elapsed().as_secs_f64(), all()?);
    Ok(std::array::from_fn(|at| (after[at] - before[at]) / lasted))
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
            .table(self.rows()?)
            .text(format!(
                "Each of {} updates took {:.2} ms of processor time, from reading to drawing. Memory after half of {} minutes \
                 of replay and after all: {:.1} MiB and {:.1} MiB.",
                self.frames,
                self.frame_ms,
                self.past_minutes,
                self.rss_after_half_mib,
                self.rss_after_all_mib
            ))
            .ratios(self.ratios()?))
    }

    /// What watching adds to the daemon, round by round.
    fn daemon_shares(&self) -> Result<impl Iterator<Item = f64>> {
        let floor = Spread::of(self.daemon_unwatched.iter().copied())?.median;
        let watched = self.daemon_watched.iter();
        Ok(watched.map(move |watched| (watched - floor).max(0.0)))
    }

    fn ratios(&self) -> Result<[Ratio; 4]> {
        let lower = |name, what: &str, rounds: Vec<f64>| Ratio::lower(name, what, rounds);
        Ok([
            lower(
                "dashboard-share",
                "processor time of the dashboard / of one core",
                self.dashboard.clone(),
            )?
            .aim(LARGEST_SHARE),
            lower(
                "daemon-share",
                "what watching adds to pcpmd's processor time / of one core",
                self.daemon_shares()?.collect(),
            )?
            .aim(LARGEST_DAEMON_SHARE),
            lower(
                "frame-over-5ms",
                "processor time of an update / 5 ms",
                vec![self.frame_ms / LONGEST_FRAME_MS],
            )?
            .aim(1.0),
            lower(
                "memory-all-over-half",
                "memory after all of the replay / after half of it",
                vec![self.rss_after_all_mib / self.rss_after_half_mib],
            )?
            .aim(LARGEST_GROWTH),
        ])
    }

    fn rows(&self) -> Result<Rows> {
        let row = |name: &str, rounds: Vec<f64>| {
            let spread = Spread::of(rounds)?;
            let percent = |share: f64| format!("{:.2} %", share * 100.0);
            let quartiles = format!(
                "{} to {}",
                percent(spread.first_quartile),
                percent(spread.third_quartile)
            );
            Ok::<_, anyhow::Error>(vec![name.to_owned(), percent(spread.median), quartiles])
        };
        let titles = ["", "of one core", "quartiles"].map(str::to_owned).to_vec();
        Ok(vec![
            titles,
            row(
                "pcpmd, nobody watches (floor)",
                self.daemon_unwatched.clone(),
            )?,
            row("pcpmd, one dashboard", self.daemon_watched.clone())?,
            row(
                "the dashboard's share of it",
                self.daemon_shares()?.collect(),
            )?,
            row("pcpm top", self.dashboard.clone())?,
        ])
    }
}
