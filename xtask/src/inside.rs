//! The parts of demo and benchmarks that run as processes of their own, most of them inside a
//! private world. Each prints its result as one JSON value on standard output.

mod burst;
mod channel_pool;
mod cold;
mod echo;
mod floor;
mod on_demand;
mod page;

use std::fs::File;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow};
use clap::Subcommand;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::close;

pub(crate) use burst::{BurstResult, Mode};
pub(crate) use cold::{Kept, Method, Phases};
pub(crate) use on_demand::THREAD as ON_DEMAND_THREAD;

/// More than any of them opens.
const FILES: i32 = 16_384;

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
    /// Starts function containers, all at once, and prints how long each phase of each took.
    ColdStart {
        #[arg(long)]
        method: Method,
        #[arg(long)]
        count: u32,
    },
    /// Keeps networks ready in a queue, has threads take them all at once, and prints how long each waited.
    ChannelPool {
        #[arg(long)]
        size: u32,
        #[arg(long)]
        count: u32,
    },
    /// Keeps something ready and prints what memory it takes.
    Keep {
        #[arg(long)]
        kept: Kept,
        #[arg(long)]
        count: u32,
    },
    /// A function that can be invoked.
    Action {
        /// Where, instead of port 8080.
        #[arg(long)]
        unix: Option<PathBuf>,
    },
    /// Does nothing until it is killed.
    Pause,
}

pub(crate) fn run(verb: InsideVerb) -> Result<()> {
    make_room_for_files()?;
    match verb {
        InsideVerb::Floor { slots, threads } => print(&floor::run(slots, threads)?),
        InsideVerb::OnDemand { count } => print(&on_demand::run(count)?),
        InsideVerb::Echo {
            socket,
            reply_bytes,
        } => echo::run(&socket, reply_bytes),
        InsideVerb::Burst { mode, count } => print(&burst::run(mode, count)?),
        InsideVerb::Serve => page::serve(),
        InsideVerb::ColdStart { method, count } => print(&cold::run(method, count)?),
        InsideVerb::ChannelPool { size, count } => print(&channel_pool::run(size, count)?),
        InsideVerb::Keep { kept, count } => print(&cold::keep(kept, count)?),
        InsideVerb::Action { unix } => cold::serve(unix.as_deref()),
        InsideVerb::Pause => loop {
            thread::park();
        },
    }
}

/// Gives the table of descriptors its size before there are threads: each time that it grows beside others, they wait for an RCU
/// grace period, and what is compared here is not how a process opens files.
fn make_room_for_files() -> Result<()> {
    let file = File::open("/dev/null")?;
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let highest = FILES.min(i32::try_from(limit).unwrap_or(i32::MAX)) - 1;
    close(fcntl(&file, FcntlArg::F_DUPFD_CLOEXEC(highest))?)?;
    Ok(())
}

fn print(result: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(result)?);
    Ok(())
}

/// Calls `work` with every one of `items` at the same time; results in order.
fn in_threads<I: Send, T: Send>(
    items: impl IntoIterator<Item = I>,
    work: impl Fn(I) -> Result<T> + Sync,
) -> Vec<Result<T>> {
    thread::scope(|scope| {
        let work = &work;
        let threads = items
            .into_iter()
            .map(|item| scope.spawn(move || work(item)));
        let threads: Vec<_> = threads.collect();
        let results = threads.into_iter();
        results
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
            .collect()
    })
}

fn micros(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.duration_since(from).as_micros()).unwrap_or(u64::MAX)
}
