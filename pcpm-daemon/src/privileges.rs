//! What the daemon may do that other processes may not. It gives up the rest before its first thread begins, so
//! that a mistake in it is worth less to whoever finds one.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

/// What it keeps, and what for.
const NEEDED: [(CapabilitySet, &str); 10] = [
    // Namespaces, mounts, control group programs.
    (CapabilitySet::SYS_ADMIN, "sys_admin"),
    // Entering the mount namespace that slots are mounted in.
    (CapabilitySet::SYS_CHROOT, "sys_chroot"),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_unit_leaves_it_what_it_keeps_and_nothing_else() {
        let unit = include_str!("../../contrib/systemd/pcpmd.service");
        let mut lines = unit.lines();
        let bounds = lines.find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
        let bounds: BTreeSet<_> = bounds.unwrap().split(' ').map(str::to_owned).collect();
        let kept = NEEDED.iter();
        let kept: BTreeSet<_> = kept
            .map(|(_, name)| format!("CAP_{}", name.to_uppercase()))
            .collect();
        assert_eq!(bounds, kept);
        assert!(lines.any(|line| line == "NoNewPrivileges=yes"));
    }
}
