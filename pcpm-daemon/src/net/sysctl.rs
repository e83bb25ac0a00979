//! Writing sysctls of the namespace that the calling thread is in.
//!
//! `/proc/sys/net` shows the namespace of whoever looks a name up, so every write is by full path: a
//! cached directory descriptor would stay in the namespace it was opened in.

use std::fs;
use std::io;
use std::path::Path;

use super::error::{During, NetError};

const ROOT: &str = "/proc/sys/net";

/// No IPv6 on any link, those to come included. Written before the first link is made: every link
/// with IPv6 adds routes to one table, and the kernel walks it for the next one.
pub(super) fn disable_ipv6() -> Result<(), NetError> {
    // "all" would be enough, but an older kernel sets "default" through it only for links that exist.
    for scope in ["default", "all"] {
        tolerant(&format!("ipv6/conf/{scope}/disable_ipv6"), "1")?;
    }
    Ok(())
}

/// No IPv6 on one link.
pub(super) fn disable_ipv6_on(link: &str) -> Result<(), NetError> {
    tolerant(&format!("ipv6/conf/{link}/disable_ipv6"), "1")
}

/// Lets everybody in the namespace ping, and bind low ports: it is theirs alone.
pub(super) fn open_to_users() -> Result<(), NetError> {
    set("ipv4/ping_group_range", "0 2147483647")?;
    set("ipv4/ip_unprivileged_port_start", "0")
}

/// Sets a sysctl below `net/`.
pub(super) fn set(name: &str, value: &str) -> Result<(), NetError> {
    write(name, value).during(|| format!("set sysctl net/{name} to {value}"))
}

/// Sets a sysctl that a kernel without IPv6 does not have.
fn tolerant(name: &str, value: &str) -> Result<(), NetError> {
    match write(name, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.during(|| format!("set sysctl net/{name} to {value}")),
    }
}

fn write(name: &str, value: &str) -> io::Result<()> {
    fs::write(Path::new(ROOT).join(name), value)
}
