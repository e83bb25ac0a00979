//! The kernel programs that watch who waits for locks: two raw tracepoints.
//!
//! Nothing runs while nobody waits. What an event costs does not depend on how many locks, tasks or
//! waits there are.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod caller;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod task;
#[cfg(target_arch = "bpf")]
mod wait;

#[cfg(target_arch = "bpf")]
mod entry {
    //! Entry points; their names are `pcpm_ebpf::locks::names`.

    use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

    use crate::{maps, task, wait};

    #[raw_tracepoint]
    fn contention_begin(ctx: RawTracePointContext) -> i32 {
        wait::begins(&ctx, ctx.arg(0), ctx.arg(1));
        0
    }

    #[raw_tracepoint]
    fn contention_end(ctx: RawTracePointContext) -> i32 {
        wait::ends(&ctx, ctx.arg(0), ctx.arg(1));
        0
    }

    /// Attached to nothing: the daemon's workers run it themselves.
    #[raw_tracepoint]
    fn worker_joins(ctx: RawTracePointContext) -> i32 {
        i32::from(maps::worker_joins(task::current().tid, ctx.arg(0)))
    }

    /// As above, when they end.
    #[raw_tracepoint]
    fn worker_leaves(_: RawTracePointContext) -> i32 {
        maps::worker_leaves(task::current().tid);
        0
    }

    /// As above, run by the daemon. The macro would return 0, whatever this says.
    #[expect(
        unsafe_code,
        reason = "the kernel's loader finds programs by section and name"
    )]
    #[unsafe(no_mangle)]
    #[unsafe(link_section = "raw_tp")]
    extern "C" fn who_am_i(_: *mut core::ffi::c_void) -> u32 {
        task::current().pid
    }
}

pcpm_ebpf::kernel_object!("locks");
