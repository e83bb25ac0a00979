//! A pool as sandbox services keep one inside their own process: a queue of networks that are made ahead, each with firewall
//! rules of its own, filled by one thread. A peer to measure, not to use.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::{in_threads, on_demand};
use crate::plain::{Netns, OnDemand};

const UPLINK: &str = pcpm_tests::UPLINK;

/// Keeps `size` networks ready and has `count` threads ask for one each, all at once. How long each waited, in nanoseconds.
pub(super) fn run(size: u32, count: u32) -> Result<Vec<u64>> {
    on_demand::prepare()?;
    let host = Netns::current()?;
    let (ready, queue) = sync_channel(usize::try_from(size)?);
    let maker = Maker {
        host: &host,
        most: size + count,
    };
    maker.make_until(0, size, &ready)?;
    thread::scope(|scope| {
        let making = scope.spawn(move || maker.make_until(size, maker.most, &ready));
        // Nobody takes the rest, and the maker ends.
        let times = take_all(queue, count);
        let made = making.join();
        made.map_err(|_| anyhow::anyhow!("making networks panicked"))??;
        times
    })
}

fn take_all(queue: Receiver<OnDemand>, count: u32) -> Result<Vec<u64>> {
    let queue = Mutex::new(queue);
    let together = Barrier::new(usize::try_from(count)?);
    let times = in_threads(0..count, |_| {
        together.wait();
        let asked = Instant::now();
        let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        let _network = queue.recv().context("the pool ended")?;
        Ok(u64::try_from(asked.elapsed().as_nanos())?)
    });
    times.into_iter().collect()
}

#[derive(Clone, Copy)]
struct Maker<'a> {
    host: &'a Netns,
    most: u32,
}

impl Maker<'_> {
    /// Makes networks as long as somebody takes them.
    fn make_until(self, first: u32, end: u32, ready: &SyncSender<OnDemand>) -> Result<()> {
        fs::create_dir_all(on_demand::DIRECTORY)?;
        for index in first..end {
            if ready.send(self.make(index)?).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn make(self, index: u32) -> Result<OnDemand> {
        let made = OnDemand::create(self.host, index, Path::new(on_demand::DIRECTORY))?;
        let address = made.address;
        let known = format!("10.240.{}.{}", index / 250, 1 + index % 250);
        for rule in [
            format!("-t nat -A POSTROUTING -o eth0 -s {address} -j SNAT --to-source {known}"),
            format!("-t nat -A PREROUTING -i eth0 -d {known} -j DNAT --to-destination {address}"),
        ] {
            iptables(&rule)?;
        }
        self.host.enter()?;
        for rule in [
            format!("-A FORWARD -i d{index} -o {UPLINK} -j ACCEPT"),
            format!("-A FORWARD -i {UPLINK} -o d{index} -j ACCEPT"),
            format!("-t nat -A POSTROUTING -s {address} -o {UPLINK} -j MASQUERADE"),
        ] {
            iptables(&rule)?;
        }
        Ok(made)
    }
}

/// In the calling thread's namespace.
fn iptables(rule: &str) -> Result<()> {
    let mut command = Command::new("iptables");
    command.arg("-w").args(rule.split(' ')).stdin(Stdio::null());
    let status = command.status().context("start iptables")?;
    ensure!(status.success(), "iptables {rule}: {status}");
    Ok(())
}
