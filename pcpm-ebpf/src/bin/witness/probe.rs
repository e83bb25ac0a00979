//! Witnesses for slots that are to be used again: what the kernel knows of a network namespace and
//! tells nobody otherwise. Nothing is changed or refused here.
#![expect(
    unsafe_code,
    reason = "reads the kernel's memory, by addresses it gave"
)]

use aya_ebpf::{
    helpers::{bpf_get_current_task, bpf_probe_read_kernel},
    programs::SysctlContext,
};
use pcpm_ebpf::witness::{KernelLayout, References};

use crate::maps;

/// What a sysctl program returns to let the access happen.
const GO_ON: i32 = 1;

/// Who holds the network namespace of the task that has the program run.
#[inline(always)]
pub(crate) fn references() -> u32 {
    try_references().map_or(0, References::to_bits)
}

/// Counts what is written to sysctls of the namespaces that are watched, whoever writes, wherever
/// from: an open file of a sysctl can be written to from another namespace.
#[inline(always)]
pub(crate) fn sysctl_accessed(context: &SysctlContext) -> i32 {
    // SAFETY: the context is valid.
    let write = unsafe { (&raw const (*context.sysctl).write).read_volatile() };
    if write != 0 {
        let _not_watched = note_write(context);
    }
    GO_ON
}

#[inline(always)]
fn try_references() -> Option<References> {
    let layout = maps::kernel_layout()?;
    let net = own_namespace(layout)?;
    let namespace = read(net, layout.net_references)?;
    let passive = read(net, layout.net_passive)?;
    let stashed: u64 = read(net, layout.net_stashed)?;
    let files = match stashed {
        0 => 0,
        entry => read(entry, layout.dentry_references)?,
    };
    Some(References {
        namespace,
        files,
        passive,
    })
}

/// The `struct net` that the task is in.
#[inline(always)]
pub(crate) fn own_namespace(layout: &KernelLayout) -> Option<u64> {
    // SAFETY: takes nothing.
    let task = unsafe { bpf_get_current_task() };
    let namespaces: u64 = read(task, layout.task_nsproxy)?;
    read(namespaces, layout.nsproxy_net)
}

#[inline(always)]
fn note_write(context: &SysctlContext) -> Option<()> {
    let layout = maps::kernel_layout()?;
    let header: u64 = read(context.sysctl as u64, layout.access_header)?;
    let set: u64 = read(header, layout.header_set)?;
    // For a sysctl that is not of a namespace this is some other memory: no namespace's cookie, or
    // at worst one write too many is counted.
    let net = set.wrapping_sub(u64::from(layout.net_sysctls));
    let cookie: u64 = read(net, layout.net_cookie)?;
    maps::count_sysctl_write(cookie)
}

/// Reads what is `offset` bytes behind an address of the kernel's.
#[inline(always)]
pub(crate) fn read<T>(address: u64, offset: u32) -> Option<T> {
    let address = address.wrapping_add(u64::from(offset));
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}
