//! Benchmarks: release builds, in private worlds, always beside a floor measured in the same run. Each part measures and says
//! what it found; here is what all have in common.

mod attach;
mod baseline;
mod beside;
mod burst;
mod chart;
mod cold_start;
mod contention;
mod crowd;
mod datapath;
mod engines;
mod evaluation;
mod fill;
mod findings;
mod insight;
mod markdown;
mod memory;
mod pacing;
mod recycle;
mod restart;
mod shims;
mod spread;
mod top;
mod trace;

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use clap::{Args, Command, Parser, Subcommand};
use pcpm_api::types::ListReply;
use pcpm_tests::Daemon;
use serde_json::{Value, json};

use self::baseline::{Baseline, Change};
use self::evaluation::{Evaluation, Outcome, write_json};
use self::findings::Findings;

/// Where the report goes, unless it is told.
const REPORT: &str = "target/bench/report";

#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    #[command(flatten)]
    options: Options,
    /// All of them, unless some are named, each with its options behind it.
    #[command(subcommand)]
    part: Option<BenchPart>,
}

/// What may be said of all parts, before the first or behind any.
#[derive(Debug, Default, Args)]
struct Options {
    /// As short as it can be, for a first impression: all parts in less than ten minutes.
    #[arg(long)]
    quick: bool,
    /// Fail if a ratio is a fifth worse than in this file, an earlier report.json or a piece of one.
    #[arg(long, value_name = "BASELINE")]
    check: Option<PathBuf>,
    /// Write the report to this directory [default: target/bench/report].
    #[arg(long, value_name = "DIRECTORY")]
    report: Option<PathBuf>,
    /// Write all figures to this file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
enum BenchPart {
    /// Function containers started at once, from request to first reply, with networks of five kinds and with none.
    ColdStart(Named<cold_start::ColdStartArguments>),
    /// What ready slots cost containers that have nothing to do with them.
    Beside(Named<beside::BesideArguments>),
    /// How fast the pool fills, beside plain netlink doing the same kernel work.
    Fill(Named<fill::FillArguments>),
    /// How long an attach takes, beside a socket echo and networks made on demand.
    Attach(Named<attach::AttachArguments>),
    /// What memory a slot takes, beside namespaces, links and containers that are kept ready.
    Memory(Named<memory::MemoryArguments>),
    /// What packets cost, beside a veth pair, a bridge, and bridges with firewalls.
    Datapath(Named<datapath::DatapathArguments>),
    /// What watching the kernel's locks costs: a load that waits for the rtnl lock, with and without; and each event.
    Locks(Named<insight::LocksArguments>),
    /// Networks made on demand, more and more at once, and which locks they wait for; beside pooled ones.
    Contention(Named<contention::ContentionArguments>),
    /// What others wait for the rtnl lock while the pool fills, with and without a bound on that.
    Pacing(Named<pacing::PacingArguments>),
    /// What the dashboard costs, itself and the daemon, with many slots and updates.
    Top(Named<top::TopArguments>),
    /// How soon a daemon that was killed serves again, beside an empty start.
    Restart(Named<restart::RestartArguments>),
    /// What a used slot costs until it can be had again, used again or destroyed and made anew.
    Recycle(Named<recycle::RecycleArguments>),
    /// What becomes of twice as many attaches at once as slots are ready, and of the pool behind them.
    Burst(Named<burst::BurstArguments>),
    /// Days of arrivals like published traces in simulated time, against ways to size the pool.
    Trace(Named<trace::TraceArguments>),
    /// How long containers of podman and docker and pods of containerd take to start, beside the engines' own bridges.
    Engines(Named<engines::EnginesArguments>),
    /// What pcpm-cni and pcpm-runtime add to a container's start, beside programs that do nothing, and runc.
    Shims(Named<shims::ShimsArguments>),
}

/// A part of the evaluation.
trait Part: Debug + Send + Sync {
    /// What it is called on the command line.
    fn name(&self) -> &'static str;

    /// Measures, on a thread of its own.
    fn measure(&self, quick: bool) -> Result<Findings>;
}

/// A part that was named, and what stands behind it.
#[derive(Debug, Args)]
struct Named<A: Args> {
    #[command(flatten)]
    own: A,
    #[command(flatten)]
    options: Options,
    /// More parts, each with its options behind it.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PART"
    )]
    more: Vec<String>,
}

/// What stands behind a part, by itself.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask bench", no_binary_name = true)]
struct More {
    #[command(subcommand)]
    part: BenchPart,
}

/// A part, and the words that chose it.
#[derive(Debug)]
struct Chosen {
    part: Box<dyn Part>,
    words: Vec<String>,
}

pub(crate) fn run(arguments: BenchArguments) -> Result<()> {
    let words = std::env::args().skip(2).collect();
    let (parts, options) = arguments.chosen(words);
    crate::release::enter()?;
    let baseline = options.check.as_deref().map(Baseline::read).transpose()?;
    let directory = options.report.as_deref().unwrap_or(Path::new(REPORT));
    let mut evaluation = Evaluation::new(directory)?;
    let mut changes = Vec::new();
    for (number, chosen) in (1..).zip(&parts) {
        eprintln!("== {} ({number} of {})", chosen.part.name(), parts.len());
        let mut outcome = chosen.measure(options.quick);
        if let Some(baseline) = &baseline {
            changes.extend(chosen.check(baseline, options.quick, &mut outcome));
        }
        println!("{}", outcome.markdown());
        evaluation.add(outcome)?;
    }
    if let Some(path) = &options.json {
        let names: Vec<_> = parts.iter().map(|chosen| chosen.part.name()).collect();
        write_json(path, &evaluation.figures(&names))?;
    }
    eprintln!("the report is in {}", evaluation.page().display());
    conclude(&evaluation, &changes)
}

impl Chosen {
    /// On a thread of its own: whatever a part does to its thread is gone with it.
    fn measure(&self, quick: bool) -> Outcome {
        let begun = Instant::now();
        let found = thread::scope(|scope| {
            let measuring = scope.spawn(|| self.part.measure(quick));
            let ended = measuring.join();
            ended.unwrap_or_else(|_| Err(anyhow!("it panicked")))
        });
        let part = self.part.name();
        if let Err(error) = &found {
            eprintln!("{part} failed: {error:#}");
        }
        Outcome {
            part,
            command: self.command(quick),
            took: begun.elapsed(),
            found,
        }
    }

    fn command(&self, quick: bool) -> String {
        let quick = quick && !self.words.iter().any(|word| word == "--quick");
        let before = ["cargo", "xtask", "bench"].into_iter();
        let words = before.chain(self.words.iter().map(String::as_str));
        let words = words.chain(quick.then_some("--quick"));
        words.collect::<Vec<_>>().join(" ")
    }

    /// Compares what was found with the baseline. What is worse is measured again before it is believed.
    fn check(&self, baseline: &Baseline, quick: bool, outcome: &mut Outcome) -> Vec<Change> {
        let compare = |outcome: &Outcome| match &outcome.found {
            Ok(findings) => baseline.compare(self.part.name(), findings),
            Err(_) => Vec::new(),
        };
        let changes = compare(outcome);
        if !changes.iter().any(Change::is_bad) {
            return changes;
        }
        for change in changes.iter().filter(|change| change.is_bad()) {
            eprintln!("{}; measuring again", change.line());
        }
        *outcome = self.measure(quick);
        match compare(outcome) {
            again if again.is_empty() => again,
            again => Change::better_of(changes, again),
        }
    }
}

fn conclude(evaluation: &Evaluation, changes: &[Change]) -> Result<()> {
    for change in changes {
        println!("{}", change.line());
    }
    let outcomes = evaluation.outcomes().iter();
    let failed: Vec<_> = outcomes
        .filter(|outcome| outcome.found.is_err())
        .map(|outcome| outcome.part)
        .collect();
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join(", "));
    }
    let worse: Vec<_> = changes.iter().filter(|change| change.is_bad()).collect();
    if !worse.is_empty() {
        let lines: Vec<_> = worse.into_iter().map(Change::line).collect();
        bail!("worse than the baseline: {}", lines.join("; "));
    }
    Ok(())
}

impl BenchArguments {
    /// The parts that are named, in that order, or all. `words` are what this was parsed of.
    fn chosen(self, words: Vec<String>) -> (Vec<Chosen>, Options) {
        let Some(part) = self.part else {
            return (all(), self.options);
        };
        let (parts, options) = part.chosen(words);
        (parts, self.options.and(options))
    }
}

/// All parts as they are without options.
fn all() -> Vec<Chosen> {
    let parts = BenchPart::augment_subcommands(Command::new("bench"));
    let names = parts.get_subcommands().map(Command::get_name);
    names
        .flat_map(|name| parse(vec![name.to_owned()]).0)
        .collect()
}

/// Parts with their options, given by themselves.
fn parse(words: Vec<String>) -> (Vec<Chosen>, Options) {
    More::parse_from(&words).part.chosen(words)
}

impl BenchPart {
    fn chosen(self, words: Vec<String>) -> (Vec<Chosen>, Options) {
        match self {
            Self::ColdStart(named) => named.chosen(words),
            Self::Beside(named) => named.chosen(words),
            Self::Fill(named) => named.chosen(words),
            Self::Attach(named) => named.chosen(words),
            Self::Memory(named) => named.chosen(words),
            Self::Datapath(named) => named.chosen(words),
            Self::Locks(named) => named.chosen(words),
            Self::Contention(named) => named.chosen(words),
            Self::Pacing(named) => named.chosen(words),
            Self::Top(named) => named.chosen(words),
            Self::Restart(named) => named.chosen(words),
            Self::Recycle(named) => named.chosen(words),
            Self::Burst(named) => named.chosen(words),
            Self::Trace(named) => named.chosen(words),
            Self::Engines(named) => named.chosen(words),
            Self::Shims(named) => named.chosen(words),
        }
    }
}

impl<A: Args + Part + 'static> Named<A> {
    /// This part and those behind it.
    fn chosen(self, mut words: Vec<String>) -> (Vec<Chosen>, Options) {
        words.truncate(words.len().saturating_sub(self.more.len()));
        let mut parts = vec![Chosen {
            part: Box::new(self.own),
            words,
        }];
        if self.more.is_empty() {
            return (parts, self.options);
        }
        let (more, options) = parse(self.more);
        parts.extend(more);
        (parts, self.options.and(options))
    }
}

impl Options {
    /// What was said here or there, here first.
    fn and(self, other: Self) -> Self {
        Self {
            quick: self.quick || other.quick,
            check: self.check.or(other.check),
            report: self.report.or(other.report),
            json: self.json.or(other.json),
        }
    }
}

/// Ends all attachments.
fn detach_everybody(daemon: &Daemon) -> Result<()> {
    let mut wire = daemon.connect()?;
    let list: ListReply = wire.call("List", &json!({}))?;
    for held in list.attachments {
        wire.call::<Value>("Detach", &json!({"owner": held.owner}))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    #[command(no_binary_name = true)]
    struct Line {
        #[command(flatten)]
        bench: BenchArguments,
    }

    fn chosen(line: &str) -> (Vec<(&'static str, String)>, Options) {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let (parts, options) = Line::parse_from(&words).bench.chosen(words);
        let named = parts
            .into_iter()
            .map(|chosen| (chosen.part.name(), chosen.command(options.quick)));
        (named.collect(), options)
    }

    #[test]
    fn without_a_part_all_are_measured() {
        let (parts, options) = chosen("--quick");
        let all = ("fill", "cargo xtask bench fill --quick".to_owned());
        assert!(parts.len() >= 10 && parts.contains(&all), "{parts:?}");
        assert!(options.quick);
    }

    #[test]
    fn several_parts_are_measured_in_their_order_each_with_its_options() {
        let (parts, options) = chosen("burst --ready 8 fill --slots 64 --quick locks --json x");
        let commands: Vec<_> = parts.iter().map(|(_, command)| &command[18..]).collect();
        assert_eq!(
            commands,
            [
                "burst --ready 8 --quick",
                "fill --slots 64 --quick",
                "locks --json x --quick"
            ]
        );
        assert!(options.quick);
        assert_eq!(options.json, Some("x".into()));
    }
}
