//! The maps of the witness programs, and typed access to them. The loader sets the real sizes.
#![expect(unsafe_code, reason = "map values are reached through raw pointers")]

use aya_ebpf::{
    btf_maps::{Array, LruHashMap},
    macros::btf_map,
};
use pcpm_ebpf::witness::{KernelLayout, LINKS, LinkState};

const DEFAULT_SLOTS: usize = 1024;

#[btf_map]
static KERNEL_LAYOUT: Array<KernelLayout, 1> = Array::new();

#[btf_map]
static LINK_STATES: Array<LinkState, LINKS> = Array::new();

/// Entries are the daemon's: a namespace that has none is not watched. Those of destroyed slots give
/// way.
#[btf_map]
static SYSCTL_WRITES: LruHashMap<u64, u64, DEFAULT_SLOTS> = LruHashMap::new();

/// Where the kernel has what is read of it; `None` before the daemon said so.
#[inline(always)]
pub(crate) fn kernel_layout() -> Option<&'static KernelLayout> {
    KERNEL_LAYOUT
        .get(0)
        .filter(|layout| layout.net_sysctls != 0)
}

/// Room for what is seen of a link.
#[inline(always)]
pub(crate) fn link_state(number: u32) -> Option<*mut LinkState> {
    LINK_STATES.get_ptr_mut(number)
}

/// Counts a write to a sysctl of the namespace with this cookie, if it is watched.
#[inline(always)]
pub(crate) fn count_sysctl_write(cookie: u64) -> Option<()> {
    let writes = SYSCTL_WRITES.get_ptr_mut(cookie)?;
    // SAFETY: the element is valid until the program ends. Of two writes at the same time one may get
    // lost: that the number grows is all that matters.
    unsafe { writes.write_volatile(writes.read_volatile() + 1) };
    Some(())
}
