//! Benchmarks: release builds, in private worlds, always beside a floor measured in the same run.

mod attach;
mod crowd;
mod datapath;
mod fill;
mod top;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

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
    /// What the dashboard costs, itself and the daemon, with many slots and updates.
    Top(TopArguments),
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
        BenchPart::Top(arguments) => top::run(&arguments),
    }
}
