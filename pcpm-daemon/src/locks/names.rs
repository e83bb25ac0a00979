//! What a lock is called. Most locks are known to nobody by their address, but some functions ask for one
//! certain lock only (Linux 6.6 to 6.18); all others are named by the function that asks.

use pcpm_ebpf::locks::flag;

/// The lock that everything is about.
pub(crate) const RTNL: &str = "rtnl_mutex";

/// Kinds of locks, as `perf lock contention` calls them.
pub(crate) const fn kind(flags: u32) -> &'static str {
    if flags & flag::MUTEX != 0 {
        return "mutex";
    }
    let writes = flags & flag::WRITE != 0;
    match (flags & flag::PERCPU != 0, flags & flag::RT != 0, writes) {
        (true, _, true) => "pcpu-sem:W",
        (true, _, false) => "pcpu-sem:R",
        (_, true, _) => "rt-mutex",
        (_, _, true) => "rwsem:W",
        (_, _, false) => "rwsem:R",
    }
}

/// Functions that ask for one certain lock of a kind; a name that ends in `*` stands for all that begin so.
const KNOWN: [(&str, &str, &[&str]); 12] = [
    (
        "mutex",
        RTNL,
        &[
            "rtnl*",
            "rtnetlink_rcv_msg",
            "register_netdev*",
            "unregister_netdev*",
            "netdev_run_todo",
            "default_device_exit_batch",
            "dev_ioctl",
            "inet_rtm_*",
            "inet6_rtm_*",
            "addrconf_*",
            "devinet_ioctl",
            "linkwatch_event",
            "tc_ctl_*",
            "tc_modify_qdisc",
            "tc_get_qdisc",
            "tc_new_tfilter",
            "tc_del_tfilter",
            "tcx_*",
            "cls_bpf_delete_prog_work",
            "register_nexthop_notifier",
            "ops_undo_list",
            "fib_net_exit_batch",
            "fib6_rules_net_exit_batch",
            "ipmr_net_exit_batch",
            "ip6mr_net_exit_batch",
            "fib_new*",
            "ip_rt_ioctl",
        ],
    ),
    (
        "rwsem",
        "pernet_ops_rwsem",
        &[
            "copy_net_ns",
            "setup_net",
            "cleanup_net",
            "register_pernet_*",
            "unregister_pernet_*",
        ],
    ),
    (
        "mutex",
        "pcpu_alloc_mutex",
        &["pcpu_alloc*", "pcpu_balance_workfn"],
    ),
    (
        "rwsem",
        "namespace_sem",
        &[
            "namespace_lock",
            "namespace_unlock",
            "do_lock_mount",
            "lock_mount*",
            "path_umount",
            "do_umount",
            "copy_mnt_ns",
            "attach_recursive_mnt",
            "do_add_mount",
            "__do_loopback",
            "do_loopback",
        ],
    ),
    (
        "mutex",
        "cgroup_mutex",
        &["cgroup_*", "css_killed_work_fn", "css_release_work_fn"],
    ),
    (
        "pcpu-sem",
        "cgroup_threadgroup_rwsem",
        &[
            "cgroup_*",
            "copy_process",
            "exit_signals",
            "do_exit",
            "begin_new_exec",
        ],
    ),
    ("rwsem", "kernfs_rwsem", &["kernfs_*"]),
    // Waits for readers of RCU, which links that go away, unmounting and the like have in common.
    ("mutex", "rcu_exp_mutex", &["exp_funnel_lock"]),
    ("mutex", "rcu_barrier_mutex", &["rcu_barrier"]),
    ("mutex", "pipe_mutex", &["pipe_*", "anon_pipe_*"]),
    (
        "rwsem",
        "mmap_lock",
        &[
            "do_user_addr_fault",
            "lock_mm_and_find_vma",
            "vm_mmap_pgoff",
            "__vm_munmap",
            "vm_munmap",
            "do_mprotect_pkey",
            "exit_mmap",
            "dup_mmap",
            "do_madvise",
            "__x64_sys_brk",
        ],
    ),
    (
        "rwsem",
        "i_rwsem",
        &[
            "lookup_slow",
            "walk_component",
            "open_last_lookups",
            "path_openat",
            "do_unlinkat",
            "do_rmdir",
            "filename_create",
            "iterate_dir",
        ],
    ),
];

/// The name of the lock of this kind that `caller` asks for, if it asks for one certain lock only.
pub(crate) fn known(kind: &str, caller: &str) -> Option<&'static str> {
    let matches = |pattern: &&str| match pattern.strip_suffix('*') {
        Some(start) => caller.starts_with(start),
        None => caller == *pattern,
    };
    let kind = kind.split(':').next()?;
    KNOWN
        .iter()
        .find(|(of_kind, _, callers)| *of_kind == kind && callers.iter().any(matches))
        .map(|&(_, name, _)| name)
}

/// What a lock is called that nobody knows: by who asks for it.
pub(crate) fn by_caller(caller: &str) -> String {
    format!("({caller})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_known_by_their_kind_and_who_asks() {
        for (kind, caller, name) in [
            ("mutex", "rtnetlink_rcv_msg", Some(RTNL)),
            ("mutex", "rtnl_newlink", Some(RTNL)),
            ("rwsem:W", "copy_net_ns", Some("pernet_ops_rwsem")),
            ("rwsem:R", "rtnl_newlink", None),
            ("mutex", "pcpu_alloc_noprof", Some("pcpu_alloc_mutex")),
            ("mutex", "cgroup_mkdir", Some("cgroup_mutex")),
            (
                "pcpu-sem:W",
                "cgroup_attach_lock",
                Some("cgroup_threadgroup_rwsem"),
            ),
            ("mutex", "cgroup_kn_lock_live", Some("cgroup_mutex")),
            (
                "pcpu-sem:R",
                "exit_signals",
                Some("cgroup_threadgroup_rwsem"),
            ),
            ("mutex", "exp_funnel_lock", Some("rcu_exp_mutex")),
            ("mutex", "ext4_readdir", None),
        ] {
            assert_eq!(known(kind, caller), name, "{kind} {caller}");
        }
    }

    #[test]
    fn kinds_are_told_by_flags() {
        for (flags, name) in [
            (flag::MUTEX, "mutex"),
            (flag::READ, "rwsem:R"),
            (flag::WRITE, "rwsem:W"),
            (flag::PERCPU | flag::WRITE, "pcpu-sem:W"),
            (flag::PERCPU | flag::READ, "pcpu-sem:R"),
            (flag::RT, "rt-mutex"),
        ] {
            assert_eq!(kind(flags), name);
        }
    }
}
