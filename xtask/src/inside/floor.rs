//! Fills a pool with plain netlink, by as many threads as the daemon has refill workers.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow};

use crate::plain::{HUB_SLOTS, Hub, SlotMaker};

const DIRECTORY: &str = "/run/floor";

/// When each slot was ready, in microseconds after the start, in order.
pub(super) fn run(slots: u32, threads: u32) -> Result<Vec<u64>> {
    fs::create_dir_all(DIRECTORY)?;
    let hubs = (0..slots.div_ceil(HUB_SLOTS)).map(|_| Hub::create());
    let hubs = hubs.collect::<Result<Vec<_>>>()?;
    let next = AtomicU32::new(0);
    let start = Instant::now();
    let mut times = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|number| {
                let (hubs, next) = (&hubs, &next);
                scope.spawn(move || {
                    let maker = SlotMaker::new(hubs, Path::new(DIRECTORY), number)?;
                    work(maker, next, slots, start)
                })
            })
            .collect();
        let mut times = Vec::new();
        for worker in workers {
            times.extend(worker.join().map_err(|_| anyhow!("a worker panicked"))??);
        }
        anyhow::Ok(times)
    })?;
    times.sort_unstable();
    Ok(times)
}

fn work(mut maker: SlotMaker, next: &AtomicU32, slots: u32, start: Instant) -> Result<Vec<u64>> {
    let mut times = Vec::new();
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= slots {
            return Ok(times);
        }
        maker.make(index)?;
        times.push(micros(start));
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
