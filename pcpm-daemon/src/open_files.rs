//! The limit on open files: a slot holds one, and one more while it is leased to a process, a client up to
//! three, a published port one.

use std::fs::File;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::close;

use crate::config::Config;

/// File descriptors of a client: its socket, and handles that tell a waiting client's hang-up.
pub(crate) const PER_CLIENT: u64 = 3;
/// File descriptors that are neither a slot's, a client's nor a port's: hubs, maps, programs, netlink,
/// logs.
pub(crate) const OTHERS: u64 = 256;

/// What the daemon cannot do without. Published ports come on top, as many as there is room for.
pub(crate) fn needed(config: &Config) -> u64 {
    u64::from(config.slots()) + PER_CLIENT * u64::from(config.api.max_clients) + OTHERS
}

/// What it holds when every slot is leased to a process and all ports are published.
pub(crate) fn at_most(config: &Config) -> u64 {
    needed(config) + u64::from(config.slots()) + u64::from(config.publish.max_ports)
}

/// How many slots there can be when `limit` files can be open.
pub(crate) fn room_for_slots(config: &Config, limit: u64) -> u32 {
    let others = needed(config) - u64::from(config.slots());
    u32::try_from(limit.saturating_sub(others)).unwrap_or(u32::MAX)
}

/// How many ports can be published when `limit` files can be open.
pub(crate) fn room_for_ports(config: &Config, limit: u64) -> u32 {
    let room = limit.saturating_sub(needed(config));
    u32::try_from(room).map_or(config.publish.max_ports, |room| {
        room.min(config.publish.max_ports)
    })
}

/// Raises the soft limit to the hard one, which needs no privilege, and returns it: whether that is enough is for the checks of the
/// host to say. The table of descriptors gets its final size, as far as it can be foreseen: each time that it grows in a process with
/// several threads, whoever opens a file waits for an RCU grace period (`expand_fdtable`, fs/file.c of Linux 6.18), and the first hundred
/// clients waited 10 ms. So this comes before the first thread.
pub(crate) fn prepare(config: &Config) -> u64 {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard));
    let limit = raised
        .or_else(|_| getrlimit(Resource::RLIMIT_NOFILE).map(|(soft, _)| soft))
        .unwrap_or_default();
    // Without it all works, and waits now and then.
    let _ = make_room(at_most(config).min(limit));
    limit
}

/// Makes the table of descriptors as large as `files` take: it grows to the highest number there was.
fn make_room(files: u64) -> anyhow::Result<()> {
    let highest = i32::try_from(files.saturating_sub(1))?;
    let file = File::open("/dev/null")?;
    Ok(close(fcntl(&file, FcntlArg::F_DUPFD_CLOEXEC(highest))?)?)
}
