//! Waiting for the kernel to finish destroying what was measured before, which it does in the background
//! and at the cost of whoever measures next.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::message::{Link, Message};
use super::namespace::Netns;
use super::socket::RouteSocket;

const NEAR: Link<'_> = Link {
    name: "near",
    index: 0,
    mac: None,
};
const FAR: Link<'_> = Link {
    name: "far",
    index: 0,
    mac: None,
};

/// How long the processors are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How often, at most: engines may have something to do all the time.
const LOOKS: u32 = 50;

/// Returns when all network namespaces that had no user before the call are gone, and the processors have
/// nothing to do any more: control groups, mounts and maps of programs have no end that could be seen.
///
/// # Errors
/// When the kernel refuses to make a namespace.
pub(crate) fn settle() -> Result<()> {
    // The kernel destroys namespaces in batches, one batch after the other (`cleanup_net`). Links
    // go early in a batch, so only the next batch's links tell that one is through.
    for _ in 0..2 {
        thread::spawn(outlive_a_namespace)
            .join()
            .map_err(|_| anyhow!("waiting for namespaces to go panicked"))??;
    }
    let mut last = Ticks::read()?;
    for _ in 0..LOOKS {
        thread::sleep(LOOK);
        let now = Ticks::read()?;
        if now.is_idle_since(&last) {
            break;
        }
        last = now;
    }
    Ok(())
}

/// What the processors did since the machine started, in clock ticks.
struct Ticks {
    all: u64,
    idle: u64,
}

impl Ticks {
    /// Field 4 of `cpu` in `/proc/stat` is time spent idle, 5 is idle with input under way, which may become less;
    /// what follows the eighth was counted before (`proc_stat(5)`).
    fn read() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        let line = stat.lines().next().context("no processors")?;
        let fields = line.split_whitespace().skip(1).take(8).map(str::parse);
        let fields = fields.collect::<Result<Vec<u64>, _>>()?;
        Ok(Self {
            all: fields.iter().sum(),
            idle: fields.iter().skip(3).take(2).sum(),
        })
    }

    /// Nine tenths are as idle as it gets: a tick is a large part of a look.
    fn is_idle_since(&self, earlier: &Self) -> bool {
        let idle = self.idle.saturating_sub(earlier.idle);
        idle * 10 >= self.all.saturating_sub(earlier.all) * 9
    }
}

/// Makes a link into a namespace that is then left alone, and waits until the link is gone.
fn outlive_a_namespace() -> Result<()> {
    let doomed = Netns::create()?;
    let _own = Netns::create()?;
    let mut events = RouteSocket::listening_to_links()?;
    let veth = Message::new_veth(NEAR, FAR, doomed.raw(), 1500);
    RouteSocket::open()?.request("make a link to a doomed namespace", vec![veth])?;
    drop(doomed);
    events.wait_for(libc::RTM_DELLINK)
}
