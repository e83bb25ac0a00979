//! The kernel programs that bear witness of slots: one counts writes to their sysctls, the others tell who
//! holds the network namespace that they are run in, and what its links are like. Loaded where slots are
//! recycled only.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod links;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod probe;

#[cfg(target_arch = "bpf")]
mod entry {
    //! Entry points; their names are `pcpm_ebpf::witness::names`.

    use aya_ebpf::{macros::cgroup_sysctl, programs::SysctlContext};

    use crate::{links, probe};

    #[cgroup_sysctl]
    fn sysctl_accessed(ctx: SysctlContext) -> i32 {
        probe::sysctl_accessed(&ctx)
    }

    /// Attached to nothing: the daemon has it run, for what it returns. Aya's macro would return 0.
    #[expect(unsafe_code, reason = "the loader finds a program by its section")]
    #[unsafe(no_mangle)]
    #[unsafe(link_section = "raw_tp/references")]
    extern "C" fn references(_context: *mut core::ffi::c_void) -> u32 {
        probe::references()
    }

    /// The same.
    #[expect(unsafe_code, reason = "the loader finds a program by its section")]
    #[unsafe(no_mangle)]
    #[unsafe(link_section = "raw_tp/seen_links")]
    extern "C" fn seen_links(_context: *mut core::ffi::c_void) -> u32 {
        links::see_all()
    }
}

pcpm_ebpf::kernel_object!("witness");
