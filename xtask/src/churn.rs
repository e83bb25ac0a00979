//! `cargo xtask churn`: attachments come and go under load, for as long as one likes.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;

use crate::release;

#[derive(Debug, Args)]
pub(crate) struct ChurnArguments {
    /// How long.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1440))]
    minutes: u64,
}

pub(crate) fn run(arguments: &ChurnArguments) -> Result<()> {
    release::enter()?;
    let churn = pcpm_tests::churn(Duration::from_mins(arguments.minutes), |_| true)?;
    println!("{churn}");
    ensure!(churn.violations == 0, "payloads reached the wrong one");
    Ok(())
}
