//! What the daemon may do that other processes may not. It gives up the rest before its first thread begins, so
//! that a mistake in it is worth less to whoever finds one.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

/// What it keeps, and what for.
const NEEDED: [(CapabilitySet, &str); 9] = [
    // Namespaces, mounts, control group programs.
    (CapabilitySet::SYS_ADMIN, "sys_admin"),
    // Links, addresses, routes, filters; in slots, too.
    (CapabilitySet::NET_ADMIN, "net_admin"),
    // Hearing what changes in all slots through one socket (NETLINK_LISTEN_ALL_NSID).
    (CapabilitySet::NET_BROADCAST, "net_broadcast"),
    // Published ports below 1024.
    (CapabilitySet::NET_BIND_SERVICE, "net_bind_service"),
    // Programs and maps; those that read the kernel's memory.
    (CapabilitySet::BPF, "bpf"),
    (CapabilitySet::PERFMON, "perfmon"),
    // Addresses in /proc/kallsyms, for the names of locks.
    (CapabilitySet::SYSLOG, "syslog"),
    // The socket's group.
    (CapabilitySet::CHOWN, "chown"),
    // More open files than the limit that it was started with.
    (CapabilitySet::SYS_RESOURCE, "sys_resource"),
];

/// Gives up everything else, for good, and returns the names of what is left.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn drop_unneeded() -> io::Result<Vec<&'static str>> {
    let needed = NEEDED
        .iter()
        .fold(CapabilitySet::empty(), |all, (one, _)| all | *one);
    let before = capabilities(None)?;
    // To take them from the bounding set is a privilege, too.
    if before.effective.contains(CapabilitySet::SETPCAP) {
        for unneeded in CapabilitySet::all().difference(needed).iter() {
            match remove_capability_from_bounding_set(unneeded) {
                // The kernel is older than this one.
                Err(rustix::io::Errno::INVAL) => {}
                removed => removed?,
            }
        }
    }
    let kept = before.permitted & needed;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    set_no_new_privs(true)?;
    let names = NEEDED.iter().filter(|(one, _)| kept.contains(*one));
    Ok(names.map(|(_, name)| *name).collect())
}
