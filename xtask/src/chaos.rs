//! `cargo xtask chaos`: a daemon is killed and restarted under load, as often as one likes.

use std::time::SystemTime;

use anyhow::{Result, ensure};
use clap::Args;
use pcpm_tests::ChaosPlan;

use crate::release;

#[derive(Debug, Args)]
pub(crate) struct ChaosArguments {
    /// How often the daemon is killed.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    cycles: u32,
    /// Clients that attach and detach.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: u32,
    /// Makes the times at which the daemon is killed those of an earlier run.
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn run(arguments: &ChaosArguments) -> Result<()> {
    release::enter()?;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let seed = arguments.seed.unwrap_or(since.as_secs());
    println!("seed {seed}");
    let chaos = pcpm_tests::chaos(ChaosPlan {
        cycles: arguments.cycles,
        clients: arguments.clients,
        seed,
    })?;
    println!("{chaos}");
    ensure!(chaos.is_clean(), "a promise was broken");
    Ok(())
}
