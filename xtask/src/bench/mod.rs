//! Benchmarks: release builds, in private worlds, always beside a floor measured in the same run.

mod attach;
mod burst;
mod chart;
mod contention;
mod crowd;
mod datapath;
mod fill;
mod insight;
mod pacing;
mod recycle;
mod restart;
mod spread;
mod top;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use pcpm_api::types::ListReply;
use pcpm_tests::Daemon;
use serde_json::{Value, json};

use self::datapath::DatapathArguments;

/// What can be measured.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchPart {
    /// How fast the pool fills, beside plain netlink doing the same kernel work.
    Fill(FillArguments),
    /// How long an attach takes, beside a socket echo and networks made on demand.
    Attach(AttachArguments),
    /// What packets cost, beside a veth pair, a bridge, and bridges with firewalls.
    Datapath(DatapathArguments),
    /// What watching the kernel's locks costs: a load that waits for the rtnl lock, with and without; and each event.
    Locks(LocksArguments),
    /// Networks made on demand, more and more at once, and which locks they wait for; beside pooled ones.
    Contention(ContentionArguments),
    /// What others wait for the rtnl lock while the pool fills, with and without a bound on that.
    Pacing(PacingArguments),
    /// What the dashboard costs, itself and the daemon, with many slots and updates.
    Top(TopArguments),
    /// How soon a daemon that was killed serves again, beside an empty start.
    Restart(RestartArguments),
    /// What a used slot costs until it can be had again, used again or destroyed and made anew.
    Recycle(RecycleArguments),
    /// What becomes of twice as many attaches at once as slots are ready, and of the pool behind them.
    Burst(BurstArguments),
}

#[derive(Debug, Args)]
pub(crate) struct RestartArguments {
    /// In half a minute: few slots, two rounds.
    #[arg(long)]
    quick: bool,
    /// Slots that the daemon is killed with [default: 4000; quick: 200].
    #[arg(long, value_parser = clap::value_parser!(u32).range(8..=10_000))]
    slots: Option<u32>,
    /// How often each start is measured, one after the other [default: 5; quick: 2].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl RestartArguments {
    fn slots(&self) -> u32 {
        self.slots.unwrap_or(if self.quick { 200 } else { 4000 })
    }

    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 2 } else { 5 })
    }
}

#[derive(Debug, Args)]
pub(crate) struct RecycleArguments {
    /// In half a minute: few slots, two rounds.
    #[arg(long)]
    quick: bool,
    /// Slots that are given back at once [default: 200; quick: 32].
    #[arg(long, value_parser = clap::value_parser!(u32).range(8..=2_000))]
    slots: Option<u32>,
    /// How often both ways are measured, one after the other [default: 7; quick: 2].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl RecycleArguments {
    fn slots(&self) -> u32 {
        self.slots.unwrap_or(if self.quick { 32 } else { 200 })
    }

    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 2 } else { 7 })
    }
}

#[derive(Debug, Args)]
pub(crate) struct BurstArguments {
    /// In half a minute: a shallow pool, two rounds.
    #[arg(long)]
    quick: bool,
    /// Slots kept ready; twice as many are asked for [default: 100; quick: 20].
    #[arg(long, value_parser = clap::value_parser!(u32).range(4..=1_000))]
    ready: Option<u32>,
    /// How often each way is measured, one after the other [default: 7; quick: 2].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl BurstArguments {
    fn ready(&self) -> u32 {
        self.ready.unwrap_or(if self.quick { 20 } else { 100 })
    }

    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 2 } else { 7 })
    }
}

#[derive(Debug, Args)]
pub(crate) struct LocksArguments {
    /// A few seconds in all, for a first impression.
    #[arg(long)]
    quick: bool,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ContentionArguments {
    /// One round of each, for a first impression.
    #[arg(long)]
    quick: bool,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PacingArguments {
    /// Slots to fill.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(50..=10_000))]
    slots: u32,
    /// 200 slots, once, for a first impression.
    #[arg(long)]
    quick: bool,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct FillArguments {
    /// Slots to fill.
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u32).range(8..=10_000))]
    slots: u32,
    /// How often the pool and the floor are filled, one after the other.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct AttachArguments {
    /// Slots of the pool; every client holds at least one.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1000..=10_000))]
    slots: u32,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct TopArguments {
    /// Slots of the pool.
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u32).range(16..=10_000))]
    slots: u32,
    /// How long each part is measured, in seconds.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(2..=600))]
    seconds: u64,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn run(part: BenchPart) -> Result<()> {
    crate::release::enter()?;
    match part {
        BenchPart::Fill(arguments) => fill::run(&arguments),
        BenchPart::Attach(arguments) => attach::run(&arguments),
        BenchPart::Datapath(arguments) => datapath::run(&arguments),
        BenchPart::Locks(arguments) => insight::run(&arguments),
        BenchPart::Contention(arguments) => contention::run(&arguments),
        BenchPart::Pacing(arguments) => pacing::run(&arguments),
        BenchPart::Top(arguments) => top::run(&arguments),
        BenchPart::Restart(arguments) => restart::run(&arguments),
        BenchPart::Recycle(arguments) => recycle::run(&arguments),
        BenchPart::Burst(arguments) => burst::run(&arguments),
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
