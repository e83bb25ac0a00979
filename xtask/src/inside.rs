//! The parts of demo and benchmarks that run as processes of their own, most of them inside a
//! private world. Each prints its result as one JSON value on standard output.

mod burst;
mod echo;
mod floor;
mod on_demand;
mod page;

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

pub(crate) use burst::{BurstResult, Mode};
pub(crate) use on_demand::THREAD as ON_DEMAND_THREAD;

/// Hidden verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum InsideVerb {
    /// Makes slots with plain netlink and prints when each was done.
    Floor {
        #[arg(long)]
        slots: u32,
        #[arg(long, default_value_t = 2)]
        threads: u32,
    },
    /// Makes networks on demand, all at once, and prints how long each took.
    OnDemand {
        #[arg(long)]
        count: u32,
    },
    /// Answers every message on a Unix socket with one of a fixed size.
    Echo {
        #[arg(long)]
        socket: PathBuf,
        #[arg(long)]
        reply_bytes: usize,
    },
    /// Starts web servers in networks of their own, all at once, and fetches a page from each.
    Burst {
        #[arg(long)]
        mode: Mode,
        #[arg(long)]
        count: u32,
    },
    /// A web server with one page.
    Serve,
}

pub(crate) fn run(verb: InsideVerb) -> Result<()> {
    match verb {
        InsideVerb::Floor { slots, threads } => print(&floor::run(slots, threads)?),
        InsideVerb::OnDemand { count } => print(&on_demand::run(count)?),
        InsideVerb::Echo {
            socket,
            reply_bytes,
        } => echo::run(&socket, reply_bytes),
        InsideVerb::Burst { mode, count } => print(&burst::run(mode, count)?),
        InsideVerb::Serve => page::serve(),
    }
}

fn print(result: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(result)?);
    Ok(())
}
