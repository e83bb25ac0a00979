//! Makes networks on demand, one thread each, all starting at once.

use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow};

use crate::plain::{Netns, OnDemand, prepare_host};

/// What its threads are called.
pub(crate) const THREAD: &str = "on-demand";

pub(super) const DIRECTORY: &str = "/run/on-demand";

/// How long each network took, in microseconds.
pub(super) fn run(count: u32) -> Result<Vec<u64>> {
    prepare()?;
    let host = Netns::current()?;
    let together = Barrier::new(count as usize);
    thread::scope(|scope| {
        let makers: Vec<_> = (0..count)
            .map(|index| {
                let (host, together) = (&host, &together);
                let thread = thread::Builder::new().name(THREAD.to_owned());
                thread.spawn_scoped(scope, move || make(host, index, together))
            })
            .collect::<Result<_, _>>()?;
        let times = makers.into_iter().map(|maker| {
            maker
                .join()
                .map_err(|_| anyhow!("making a network panicked"))?
        });
        times.collect()
    })
}

/// What is done once per host.
pub(super) fn prepare() -> Result<()> {
    fs::create_dir_all(DIRECTORY)?;
    prepare_host()
}

fn make(host: &Netns, index: u32, together: &Barrier) -> Result<u64> {
    together.wait();
    let start = Instant::now();
    OnDemand::create(host, index, Path::new(DIRECTORY))?;
    Ok(u64::try_from(start.elapsed().as_micros())?)
}
